"""Options of the compiler under which networks with convolutions train fast on a CPU."""

from __future__ import annotations

import functools
import os

import jax

__all__ = ["compiler_options"]

# The libraries to which XLA may hand parts of a program for a CPU: products of matrices only.
_NAME = "xla_cpu_experimental_ynn_fusion_type"
_OPTIONS = {_NAME: "LIBRARY_FUSION_TYPE_DOT"}


def compiler_options() -> dict[str, str]:
    """Names the compiler's options under which convolutions are fast on the default device.

    Recent versions of jaxlib (seen: 0.10.2 and 0.12.0.1) compute convolutions on CPUs with another
    library, YNNPACK. It takes ten times as long as XLA's own code for the gradient of a 3x3
    convolution in its weights (AVX2, 64 images of 28x28x32), and somewhat longer for the
    convolution itself. The options keep to XLA's own code, as jaxlib 0.7.2 does. Whatever else a
    program computes stays the same to the last bit.

    Returns:
      The options for `jax.jit`. They are empty for other devices, for a jaxlib that does not know
      them, and where XLA_FLAGS names the same option.

    Example:
      >>> import jax, optax
      >>> import fmjax
      >>> loss = lambda params, key, batch: ((params - batch) ** 2).mean()
      >>> step = fmjax.train.make_step(loss, optax.adam(1e-3))
      >>> compiled = jax.jit(step, compiler_options=fmjax.train.compiler_options())
      >>> state = fmjax.train.init(jax.numpy.ones(3), optax.adam(1e-3))
      >>> state, info = compiled(state, jax.random.key(0), jax.numpy.zeros(3))
      >>> int(state.step)
      1
    """
    if jax.default_backend() != "cpu" or _NAME in os.environ.get("XLA_FLAGS", ""):
        return {}
    return dict(_OPTIONS) if _is_known() else {}


@functools.cache
def _is_known() -> bool:
    """Asks the compiler: its versions have no list of their options."""
    try:
        jax.jit(lambda x: x, compiler_options=_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if _NAME not in str(error):
            raise
        return False
    return True
