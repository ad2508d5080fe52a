"""What the numbers of an audit say, in words, and which questions they cannot answer, and why.

The identity of the posterior needs a velocity that is the conditional mean under independent pairs
of noise and data. A velocity trained on coupled pairs, or guided, is another thing, and no number
here would show it with certainty; its user says so (`Facts`). The flow itself, its likelihood and
its samples are what they are in either case.
"""

import math
from collections.abc import Callable
from typing import Any

from experiments.uncertainty._audit import measures
from experiments.uncertainty._audit.options import Facts

COUPLED = (
    "the identity needs noise drawn independently of the data, and this velocity was trained on "
    "coupled pairs"
)
GUIDED = (
    "the identity holds for the conditional velocity, and a guided one mixes two with weights that "
    "may be negative; audit the conditional velocity, or ask all classes by "
    "fmjax.posterior.total_covariance"
)
SURE = 3.0
"""Standard errors from which a difference is called one."""
CLOSE = 0.1
"""Distance of a ratio from 1 within which it is right, if no difference is sure."""
NOISE = 0.5
"""Asymmetry of the covariance from which it is mostly error."""


def why_no_posterior(facts: Facts) -> str:
    """Returns why the Jacobian is no posterior covariance, or "" if it is one.

    Args:
      facts: what the user says of the velocity.
    """
    return "; ".join(
        why for is_so, why in ((facts.coupled, COUPLED), (facts.guided, GUIDED)) if is_so
    )


def answers(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns each question, whether it was answered, and the answer or the reason in words.

    Args:
      results: the numbers of an audit by their names; a string in the place of numbers is the
        reason why there are none.
    """
    questions = {
        "Is U calibrated?": ("calibration", _calibrated),
        "Does U tell one example from another?": ("calibration", _tells),
        "Is there a map of every example?": ("maps", _maps),
        "Is the Jacobian symmetric, as the exact one is?": ("jacobian", _symmetric),
        "Is the covariance positive?": ("jacobian", _positive),
        "Which times are too near to the noise?": ("near_noise", _near_noise),
        "How likely are examples that were held out?": ("likelihood", _likely),
        "Does the model repeat its training data?": ("copies", _copies),
    }
    return [_answer(question, results[name], say) for question, (name, say) in questions.items()]


def _answer(question: str, found: Any, say: Callable[[Any], str]) -> dict[str, Any]:
    if isinstance(found, str):
        return {"question": question, "answered": False, "answer": f"Not answered: {found}."}
    return {"question": question, "answered": True, "answer": say(found)}


def _times(rows: list[dict[str, float]]) -> str:
    return ", ".join(f"{row['t']:g}" for row in rows)


def _calibrated(rows: list[dict[str, float]]) -> str:
    off, unsure, right = [], [], []
    for row in rows:
        differs = not abs(row["ratio"] - 1.0) <= SURE * row["ratio_standard_error"]  # or it is NaN
        close = abs(row["ratio"] - 1.0) <= CLOSE
        (off if differs else right if close else unsure).append(row)
    parts = []
    if right:
        parts.append(
            f"At t = {_times(right)} yes, E[error] / E[U] is 1 within {SURE:g} standard errors."
        )
    for row in off:
        side = "U is too small" if row["ratio"] > 1.0 else "U is too large"
        parts.append(f"At t = {row['t']:g} it is {_ratio(row)}: {side}.")
    parts += [f"At t = {row['t']:g} it is {_ratio(row)}: too uncertain to tell." for row in unsure]
    if off:
        parts.append(
            "A ratio off 1 comes from a Jacobian that was not learned well, from a path or a "
            "convention that is not the model's, from coupled pairs or from guidance."
        )
    return " ".join(parts)


def _ratio(row: dict[str, float]) -> str:
    return f"{row['ratio']:.3f} ± {row['ratio_standard_error']:.3f}"


def _tells(rows: list[dict[str, float]]) -> str:
    constant = [row for row in rows if not math.isfinite(row["pearson"])]
    noisy = [row for row in rows if row["best_pearson"] > 1.0]
    error = 1.0 / math.sqrt(max(rows[0]["num_images"] - 1, 1))  # of a correlation of zero
    rest = [row for row in rows if row not in constant and row not in noisy]
    does = [row for row in rest if row["pearson"] > SURE * error]
    parts = [
        f"At t = {row['t']:g} yes, Pearson {row['pearson']:.2f}, of at most "
        f"{row['best_pearson']:.2f} by its own U."
        for row in does
    ]
    if others := [row for row in rest if row not in does]:
        parts.append(
            f"At t = {_times(others)} the correlation is less than {SURE:g} standard errors "
            f"({error:.2f} each) above 0."
        )
    if noisy:
        parts.append(f"At t = {_times(noisy)} no, U differs more than the errors allow.")
    if constant:
        parts.append(f"At t = {_times(constant)} U is the same for every example.")
    return " ".join(parts)


def _maps(found: dict[str, Any]) -> str:
    if found["negative"] is None:
        return (
            "Of the example in the figure; U of the others is by probes, which give no maps "
            "(--probes 0 does)."
        )
    shares = ", ".join(f"{100 * share:.0f} %" for share in found["negative"])
    return f"Yes; of their variances these shares are negative, at the times in order: {shares}."


ROUNDING = 1e-4
"""What rounding in float32 may leave of a number that is 0."""


def _span(rows: list[dict[str, float]], name: str) -> str:
    values = [row[name] for row in rows]
    if max(values) < ROUNDING:
        return "0 but for rounding"
    return f"{min(values):.2g} to {max(values):.2g}"


def _symmetric(rows: list[dict[str, float]]) -> str:
    return (
        f"|J - Jᵀ| / |J + Jᵀ| is {_span(rows, 'asymmetry')}; it is 0 for an exact velocity and "
        "about 0.1 for a small trained network."
    )


def _positive(rows: list[dict[str, float]]) -> str:
    if max(row["negative_ratio"] for row in rows) < ROUNDING:
        return "Yes, but for rounding."
    says = (
        "Not all of it, as the exact one is. The least eigenvalue is as far below 0 as "
        f"{_span(rows, 'negative_ratio')} of the greatest."
    )
    if "negative_share" not in rows[0]:
        return f"{says} How many are negative is not known from probes (--probes 0 counts them)."
    shares = [100 * row["negative_share"] for row in rows]
    return (
        f"{says} Of the eigenvalues {min(shares):.0f} to {max(shares):.0f} % are negative; they "
        f"make {_span(rows, 'negative_mass')} of the sum of all magnitudes."
    )


def _near_noise(rows: list[dict[str, float]]) -> str:
    parts = []
    for row in rows:
        reasons = []
        if row["mean_error"] > row["data_variance"]:
            reasons.append(
                f"the posterior mean errs more ({row['mean_error']:.4g}) than the mean of all data "
                f"({row['data_variance']:.4g})"
            )
        if row["best_pearson"] > 1.0:
            reasons.append(
                f"U differs more than the errors allow (best Pearson {row['best_pearson']:.2f})"
            )
        if row["asymmetry_covariance"] > NOISE:
            reasons.append(
                "the part of the covariance that cannot be right is "
                f"{row['asymmetry_covariance']:.2f} of the part that can"
            )
        if reasons:
            parts.append(f"t = {row['t']:g}: {'; '.join(reasons)}.")
    if not parts:
        return "None of these."
    return f"{' '.join(parts)} There U of a single example and maps are mostly error."


def _likely(found: dict[str, Any]) -> str:
    how = f"{found['probes']} probes of the" if found["probes"] else "the exact"
    says = f"{found['nats_mean']:.2f} ± {found['nats_standard_error']:.2f} nats on average"
    if "bits_mean" in found:
        says += (
            f", {found['bits_mean']:.3f} ± {found['bits_standard_error']:.3f} bits per dimension "
            "with pixels dequantized by uniform noise"
        )
    return f"{says} ({found['num_examples']} examples, {how} divergence)."


def _copies(found: dict[str, Any]) -> str:
    shares = {
        name: f"{100 * found[name]['share']:.1f} ± {100 * found[name]['standard_error']:.1f} %"
        for name in ("samples", "held_out")
    }
    says = (
        f"{shares['samples']} of {found['num_samples']} samples are three times as near to one "
        f"training example as to any other; of held-out examples {shares['held_out']}."
    )
    if measures.excess(found) > SURE:
        return f"Yes. {says}"
    return f"Not more than held-out examples do. {says}"
