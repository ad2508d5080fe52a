"""Workshop of `head`: laws, the two outputs and their losses, measures, tables and pictures."""
