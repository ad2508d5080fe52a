"""The workshop of `experiments.fdm.video`."""
