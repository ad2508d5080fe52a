"""Workshop of `convergence`: methods, training, measures, tables, pictures."""
