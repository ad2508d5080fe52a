"""Divergence is Uncertainty, arXiv 2605.00941, and MeanFlow, arXiv 2505.13447."""
