"""Workshop of `one_step`: what networks are trained on, what is measured, tables and pictures."""
