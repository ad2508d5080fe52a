"""Tests of `fmjax` and of the experiments, on the oldest JAX that they run on and the newest."""

import jax

from fmjax import _compat

# Tests write `jax.enable_x64`, where the newest JAX has it. fmjax and the experiments must not:
# tests/contract/test_imports.py sees to it.
if not hasattr(jax, "enable_x64"):
    jax.enable_x64 = _compat.enable_x64
