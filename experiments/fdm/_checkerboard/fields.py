"""How the perceptron becomes a velocity on the checkerboard: as it is, or conditioned."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

import fmjax
from experiments.fdm._checkerboard import law
from fmjax.models.perceptron import apply as perceptron
from fmjax.types import Array, PyTree

Apply = Callable[[PyTree, Array, Array], Array]
"""`(params, x[2], t[]) -> [2]`, a velocity with parameters."""


class Field(NamedTuple):
    """A velocity with parameters, and the scale of its errors.

    Attributes:
      velocity: of a network's parameters.
      scale: `t[] -> []`, by whose square the loss is divided.
    """

    velocity: Apply
    scale: Callable[[Array], Array]


def _conditioned(params: PyTree, x: Array, t: Array) -> Array:
    network = functools.partial(perceptron, params)
    return fmjax.predictions.conditioned(network, law.path, law.STD)(x, t)


plain = Field(perceptron, jnp.ones_like)
conditioned = Field(_conditioned, lambda t: fmjax.predictions.residual_std(law.path, law.STD, t))
