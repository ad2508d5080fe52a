"""Workshop of `trajectories`: systems, training, measures, tables, pictures."""
