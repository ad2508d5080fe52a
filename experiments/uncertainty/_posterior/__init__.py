"""Workshop of `maps`: measures, exact posterior, rivals, tables, pictures."""
