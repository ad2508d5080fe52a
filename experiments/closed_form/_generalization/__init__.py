"""Workshop of `learning` and `hybrid`: what a network copies of its training images."""
