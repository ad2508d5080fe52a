"""Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869: FDM."""
