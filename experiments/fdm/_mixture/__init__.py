"""Workshop of `mixture`: measures and pictures."""
