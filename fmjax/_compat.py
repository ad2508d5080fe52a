"""Names that moved between the oldest JAX fmjax runs on (0.7.2, Colab's) and the newest.

A name is looked for where the newest JAX has it, and else where it was before; no version
numbers are compared. The list of modules of flax is the other such name: it is
`fmjax.models.layers.List`, so that this file loads nothing but jax.
"""

import jax

if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:  # JAX 0.7
    from jax.experimental import enable_x64

__all__ = ["enable_x64"]
