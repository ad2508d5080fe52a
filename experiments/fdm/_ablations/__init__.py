"""Workshop of `ablations`: variants of the loss, measures, pictures."""
