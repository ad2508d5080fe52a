"""Workshop of `measurements`: laws with a known posterior, problems, methods, scores."""
