"""The tables that `experiments.closed_form.one_step` prints at its end."""

from typing import Any

NAMES = {
    "frechet_test": "Frechet to held-out images",
    "frechet_train": "to training images",
    "memorized": "copies of training images",
}


def report(results: dict[str, Any]) -> str:
    """Returns the summary that is printed at the end of a run."""
    lines = ["gradient of one pair, at the networks trained on pairs: variance over squared mean,"]
    lines += ["by what is target and what is tangent; mean and standard deviation over seeds"]
    for places, found in results["gradients"].items():
        squared, variance = (found[name] for name in ("squared_mean", "variance"))
        cells = [f"{x['mean']:10.4g} +- {x['std']:.2g}" for x in (squared, variance)]
        lines.append(f"  {places:14}  squared mean {cells[0]}   variance {cells[1]}")
    lines += ["", "one-step samples, in pixels: " + ", ".join(NAMES.values())]
    for method, found in results["samples"].items():
        cells = [f"{found[name]['mean']:8.3f} +- {found[name]['std']:.3f}" for name in NAMES]
        lines.append(f"  {method:14}  " + "   ".join(cells))
    held_out = [f"{results['held_out'][name]:8.3f}" + " " * 9 for name in NAMES]
    return "\n".join([*lines, "  held-out images " + "   ".join(held_out)])
