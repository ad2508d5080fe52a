"""Workshop of `cosine`: how noisy the target is, and when a data set collapses."""
