"""How an experiment evaluates: many examples a few at a time, and uncertainty against error.

For a velocity that is exact, the squared error of the posterior mean has the scalar uncertainty
U = tr Cov[x1 | x_t] as its conditional mean, whatever the state. So at each t

    E[error] / E[U] = 1,                                                          (1)
    the regression of the error on U has slope one, and
    Pearson(U, error) = sqrt(Var U / Var error),                                  (2)

which is also the best correlation that any function of the state can have with the error. Far
from 1 in (1) the model is over- or underconfident; a correlation below (2) says that its U is
wrong from state to state; above it, that U varies too little (or that few images were used: it
is computed from the model's own U, so it is the ceiling of the exact U only as far as the model
has learned it); and (2) above 1 can only come from a U that is mostly noise.
Correlations are never pooled over t: error and U both fall with t, and pooling measures that.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941, section 5.3.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm

import fmjax
from experiments import data
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

    Raises:
      ArithmeticError: if a result is not finite, or a solver gave up.
    """
    count, options = len(arrays[0]), {"desc": label, "unit": "batch", "leave": False}
    if not sys.stderr.isatty():
        print(f"{label}: {count} examples", file=sys.stderr, flush=True)

    def parts() -> Iterator[PyTree]:
        # disable=None: no bar where stderr is no terminal.
        for start in tqdm.tqdm(range(0, count, size), disable=None, **options):
            # The last batch is filled up with earlier examples, so that one program serves all.
            index = np.arange(start, start + size) % count
            yield jax.device_get(function(*(a[index] for a in arrays)))

    try:
        results = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts())
    except RuntimeError as error:
        if "solver steps" not in str(error):
            raise
        message = (
            f"{label}: the adaptive solver used up its steps, so the learned velocity is too rough "
            "or not finite: train longer, or with a smaller learning rate, in another --workdir. "
            "The checkpoints are kept."
        )
        raise ArithmeticError(message) from error
    _check_finite(results, label)
    return results


def _check_finite(tree: PyTree, label: str) -> None:
    """Raises ArithmeticError if a number is not finite, before it gets into a table."""
    for leaf in jax.tree.leaves(tree):
        finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
        if not finite.all():
            message = (
                f"{label}: {int((~finite).sum())} of {len(finite)} results are not finite, so the "
                "learned velocity is not finite or too steep there: train longer, or with a "
                "smaller learning rate, in another --workdir; or measure at larger times. The "
                "checkpoints are kept."
            )
            raise ArithmeticError(message)


def check_times(times: tuple[float, ...]) -> None:
    """Raises ValueError unless the times of the measurements are distinct and inside (0, 1)."""
    used = np.float32(times)  # as they are used
    if not len(used) or not ((used > 0) & (used < 1)).all() or len(set(used)) < len(used):
        message = (
            f"times must be distinct numbers between 0 and 1, got {times}: at 0 the posterior is "
            "the law of the data, at 1 it is a point."
        )
        raise ValueError(message)


def check_images(images: data.Images) -> None:
    """Raises ValueError if there are too few held-out images, or pixels, for what is measured."""
    if len(images.held_out) < 2:
        message = (
            f"at least 2 held-out images are needed, got {len(images.held_out)}: raise --held-out "
            "or give more images."
        )
        raise ValueError(message)
    if min(images.train.shape[1:3]) < 2:
        message = (
            f"images must be at least 2 pixels high and wide, got {images.train.shape[1:3]}: edges "
            "are differences of neighbouring pixels."
        )
        raise ValueError(message)


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
    residual = np.std(error - ratio * uncertainty, ddof=1)
    return {
        "t": t,
        "num_images": len(error),
        "mean_error": float(error.mean()),
        "mean_uncertainty": float(uncertainty.mean()),
        "ratio": float(ratio),
        "ratio_standard_error": float(residual / uncertainty.mean() / len(error) ** 0.5),
        "pearson": float(fmjax.metrics.pearson(uncertainty, error)),
        "spearman": float(fmjax.metrics.spearman(uncertainty, error)),
        "best_pearson": float(uncertainty.std() / error.std()),
        "negative_variances": float((result["variance"] < 0).mean()),
    }


def calibrations(by_time: dict[float, dict[str, np.ndarray]]) -> list[dict[str, float]]:
    """Returns the rows of `calibration` for every time."""
    return [calibration(t, result) for t, result in by_time.items()]


def pooled(by_time: dict[float, dict[str, np.ndarray]]) -> dict[str, float]:
    """Returns the correlations of U with the error over all times at once.

    They are high whatever U knows of an image, since both fall with t: to be shown beside those at
    one t, never instead of them.
    """
    join = lambda name: np.concatenate([result[name] for result in by_time.values()])  # noqa: E731
    uncertainty, error = join("uncertainty"), join("error")
    return {
        "pearson": float(fmjax.metrics.pearson(uncertainty, error)),
        "spearman": float(fmjax.metrics.spearman(uncertainty, error)),
    }


def totals(values: np.ndarray) -> np.ndarray:
    """Returns the sum of every example, `[n]`, of `[n, *dims]`."""
    return values.reshape(len(values), -1).sum(axis=1)


def map_correlations(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the correlation over entries of every pair, `[n]`; NaN where one is constant.

    Args:
      maps: `[n, *dims]`.
      others: `[n, *dims]`.
    """
    pairs = (a.reshape(len(a), -1) for a in (maps, others))
    return np.asarray(jax.vmap(fmjax.metrics.pearson)(*pairs))


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


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run.

    Args:
      results: what `uncertainty_images.evaluate` returns.
      folder: the run folder.
    """
    count = results["uncertainty"][0]["num_images"]
    lines = [f"uncertainty U of {count} held-out images against the error of the posterior mean"]
    lines.append(table(results["uncertainty"]))
    trained = ", ".join(f"{row['ratio']:.2f}" for row in results["uncertainty_train"])
    lines.append(f"E[error]/E[U] on training images at the same times: {trained}")
    edges = ", ".join(f"{row['ratio']:.1f}" for row in results["edges"])
    lines.append(f"variance on the edges of generated images over elsewhere: {edges}")
    for part in ("train", "held_out"):
        gaps = ", ".join(f"{row['median_relative_error']:.2f}" for row in results["exact"][part])
        law = "their data set" if part == "train" else "the best kernel density"
        lines.append(f"U against the exact one of {law}, {part.replace('_', '-')} states: {gaps}")
    if "rivals" in results:
        lines += ["other measures: Pearson correlation with the error, passes, time ratio"]
        lines += [_rival(results["rivals"], row) for row in results["rivals"]["costs"][1:]]
    if "likelihood" in results:
        likelihood = results["likelihood"]
        lines.append(
            f"held-out negative log-likelihood: {likelihood['bits_per_dim']:.3f} ± "
            f"{likelihood['standard_error']:.3f} bits per dimension ({likelihood['how']})"
        )
    lines.append(f"everything is in {folder}: config.json, metrics.jsonl, results.json, figures/")
    return "\n".join(lines)


def _rival(results: dict[str, Any], cost: dict[str, Any]) -> str:
    """Returns the line of one method: its correlations in the order of the times, its cost."""
    mine = [row for row in results["rows"] if row["method"] == cost["method"]]
    correlations = " ".join(f"{row['pearson']:5.2f}" for row in sorted(mine, key=lambda r: r["t"]))
    return f" {cost['method']:30s} {correlations}  {cost['passes']:6d} F  {cost['time_ratio']:8.1f}"
