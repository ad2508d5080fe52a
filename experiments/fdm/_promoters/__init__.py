"""The workshop of `experiments.fdm.promoters`."""
