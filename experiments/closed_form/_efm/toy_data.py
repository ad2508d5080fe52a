"""The data of empirical flow matching in the plane: eight Gaussians, or a user's own points."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.closed_form._efm import training
from experiments.run import numbers, points
from fmjax.types import Array, Key

path = training.path
target = fmjax.empirical.anchored_velocity  # from differences: in the plane many points are near


class Problem(NamedTuple):
    """The data of one seed, and what a network is measured on.

    Attributes:
      train: `[n, 2]`, the training points.
      x: `[k, 2]`, states on the paths of training points.
      t: `[k]`, their times.
      exact: `[k, 2]`, the exact velocity of the training set there.
      noise: `[m, 2]`, from which points are generated.
      near: `[2, m, 2]`, training and test points.
    """

    train: Array
    x: Array
    t: Array
    exact: Array
    noise: Array
    near: Array


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def problem(
    key: Key, num_train: int, num_pairs: int, num_points: int, own: Array | None = None
) -> tuple[Problem, Array]:
    """Returns the data of one seed, and the variance of the target of CFM per dimension.

    Args:
      key: of the seed.
      num_train: training points, and as many test points.
      num_pairs: pairs on which the velocity is measured.
      num_points: points that are compared with generated ones.
      own: `[n, 2]`, points to draw from without repetition; None draws from eight Gaussians.
    """
    key_data, key_index, key_noise, key_time, key_sample = jax.random.split(key, 5)
    if own is None:
        density = fmjax.toy.eight_gaussians()
        both = jax.vmap(density.sample)(jax.random.split(key_data, 2 * num_train))
    else:
        both = jax.random.permutation(key_data, own)[: 2 * num_train]
    train, test = both[:num_train], both[num_train:]
    x1 = train[jax.random.randint(key_index, (num_pairs,), 0, num_train)]
    x0 = jax.random.normal(key_noise, x1.shape)
    t = fmjax.times.stratified(key_time, (num_pairs,))
    exact = jax.lax.map(lambda pair: target(path, train, *pair), (x0, x1, t), batch_size=64)
    x = jax.vmap(functools.partial(fmjax.paths.interpolate, path))(x0, x1, t)
    noise = jax.random.normal(key_sample, (num_points, 2))
    near = jnp.stack([train[:num_points], test[:num_points]])
    return Problem(train, x, t, exact, noise, near), jnp.mean((x1 - x0 - exact) ** 2)


def check(dataset: str) -> None:
    """Raises ValueError unless a data set is the eight Gaussians or a file of points."""
    if dataset != "eight_gaussians" and not points.is_own(dataset):
        message = (
            f"dataset must be eight_gaussians or a path ending in .npy or .csv, got {dataset!r}."
        )
        raise ValueError(message)


def load(dataset: str, num_train: int) -> np.ndarray | None:
    """Returns a user's own points, float32 `[n, 2]`, or None for the eight Gaussians.

    Args:
      dataset: eight_gaussians, or the path of a file.
      num_train: training points; as many test points are needed.

    Raises:
      ValueError: if the file holds something else, or too few points.
      OSError: if there is no such file.
    """
    if not points.is_own(dataset):
        return None
    found = points.read(dataset, "[n, 2]", trailing=2)
    if len(found) < 2 * num_train:
        message = (
            f"{dataset} holds {len(found)} points, and num_train {num_train} asks for as many test "
            f"points beside: give --num-train {len(found) // 2} or less."
        )
        raise ValueError(message)
    return found


def facts(own: np.ndarray | None) -> dict[str, str]:
    """Returns what the data are beside the options: the checksum of a user's own points."""
    return {} if own is None else {"points": numbers.crc32(own)}
