"""Workshop of `efm_images` and `efm_toy`: losses, tables and pictures."""
