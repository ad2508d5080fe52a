"""How an experiment evaluates: many examples a few at a time, and uncertainty against error.

For a velocity that is exact, the squared error of the posterior mean has the scalar uncertainty
U = tr Cov[x1 | x_t] as its conditional mean, whatever the state. So at each t

    E[error] / E[U] = 1,                                                          (1)
    the regression of the error on U has slope one, and
    Pearson(U, error) = sqrt(Var U / Var error),                                  (2)

which is also the best correlation that any function of the state can have with the error. Far
from 1 in (1) the model is over- or underconfident; a correlation below (2) says that its U is
wrong from state to state; and (2) above 1 can only come from a U that is mostly noise.
Correlations are never pooled over t: error and U both fall with t, and pooling measures that.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941, section 5.3.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
import tqdm

import fmjax
from fmjax.types import Array, PyTree


def batched(
    apply: Callable[..., Array], params: PyTree, function: Callable[..., PyTree], *bound: object
) -> Callable[..., PyTree]:
    """Returns a function of a velocity, compiled for batches of its other arguments.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters. They stay an argument of the compiled program: closed over, they
        would be compiled in as constants.
      function: `(velocity, *bound, *arrays) -> anything` of one example.
      *bound: what all examples have in common.

    Returns:
      `(*arrays) -> anything`, both with a batch axis in front.
    """
    one = lambda params, *rest: function(functools.partial(apply, params), *bound, *rest)  # noqa: E731
    many = lambda params, *rest: jax.vmap(functools.partial(one, params))(*rest)  # noqa: E731
    return functools.partial(jax.jit(many), params)


def in_batches(function: Callable[..., PyTree], *arrays: Array, size: int, label: str) -> PyTree:
    """Returns a batched function of every example, a few at a time, with a progress bar.

    Args:
      function: `(*arrays) -> tree`, both with a batch axis in front.
      *arrays: `[n, ...]` each.
      size: examples at a time.
      label: what the progress bar says.

    Returns:
      The tree of NumPy arrays `[n, ...]`.
    """
    count = len(arrays[0])

    def parts() -> Iterator[PyTree]:
        for start in tqdm.tqdm(range(0, count, size), desc=label, unit="batch", leave=False):
            # The last batch is filled up with earlier examples, so that one program serves all.
            index = np.arange(start, start + size) % count
            yield jax.device_get(function(*(a[index] for a in arrays)))

    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts())


def calibration(t: float, result: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the row of the table for one time.

    Args:
      t: the time, for the row.
      result: `uncertainty` `[n]` and `error` `[n]`, its squared norm, and `variance` `[n, *dims]`.

    Returns:
      Means, their ratio (1) with its standard error, the correlations of U with the error, the
      best Pearson correlation (2), and the share of entries with a negative variance.
    """
    uncertainty, error = result["uncertainty"], result["error"]
    ratio = error.mean() / uncertainty.mean()
    # Standard error of a ratio of means, by the delta method.
    spread = np.std(error - ratio * uncertainty) / uncertainty.mean() / len(error) ** 0.5
    return {
        "t": t,
        "mean_error": float(error.mean()),
        "mean_uncertainty": float(uncertainty.mean()),
        "ratio": float(ratio),
        "ratio_standard_error": float(spread),
        "pearson": float(fmjax.metrics.pearson(uncertainty, error)),
        "spearman": float(fmjax.metrics.spearman(uncertainty, error)),
        "best_pearson": float(uncertainty.std() / error.std()),
        "negative_variances": float((result["variance"] < 0).mean()),
    }


def table(rows: list[dict[str, float]]) -> str:
    """Returns the rows of `calibration` as lines of text."""
    lines = ["   t   E[error]     E[U]   E[error]/E[U]   Pearson   Spearman   best Pearson"]
    lines += [
        f" {row['t']:.2f}   {row['mean_error']:8.3f} {row['mean_uncertainty']:8.3f}"
        f"    {row['ratio']:.3f} ± {row['ratio_standard_error']:.3f}  {row['pearson']:8.2f}"
        f" {row['spearman']:10.2f} {row['best_pearson']:14.2f}"
        for row in rows
    ]
    return "\n".join(lines)
