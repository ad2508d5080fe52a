"""Workshop of `meanflow`: tables and pictures."""
