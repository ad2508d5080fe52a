"""Workshop of `audit`: what is audited and on which data, measures, words, table, pictures."""
