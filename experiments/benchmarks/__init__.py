"""What the methods cost, measured against one forward pass of a network."""
