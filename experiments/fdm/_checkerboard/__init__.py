"""Workshop of `checkerboard`: its law, measures, pictures."""
