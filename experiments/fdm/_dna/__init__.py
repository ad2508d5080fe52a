"""Workshop of `dna`: the law, measures, tables and pictures."""
