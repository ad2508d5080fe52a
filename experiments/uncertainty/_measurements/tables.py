"""The table that `experiments.uncertainty.measurements` prints at its end."""

from typing import Any

TITLES = {
    "posterior": "the posterior itself",
    "exact": "covariance",
    "inside": "identity in the inverse",
    "identity": "identity in both places",
    "none": "no measurement",
}
LAWS = {"gaussian": "Gaussian", "images": "images, smoothed"}


def report(results: dict[str, Any], nominal: float) -> str:
    """Returns the summary that is printed at the end of a run.

    Args:
      results: from law and problem to what `measurements.measure` returned.
      nominal: the coverage that draws of the right law have.
    """
    lines = [
        f"coverage of the truth by intervals of {nominal:.0%}; squared error over spread (1); PSNR",
        "of the mean in dB; squared distance of the mean from the exact one over the variance (0)",
    ]
    for law, of_law in results.items():
        for problem, found in of_law.items():
            best = f"PSNR of the exact mean {found['best_psnr']:.2f}"
            lines += ["", f"{LAWS[law]}, {problem}: {best}"]
            lines.append(f"{'draws by':26s}coverage          error / U          PSNR   distance")
            for name, row in found["methods"].items():
                cover, ratio, off = (
                    _with_error(row[key]) for key in ("coverage", "error_over_u", "distance")
                )
                psnr = f"{row['psnr']:6.2f}"
                lines.append(f"{TITLES[name]:26s}{cover:18s}{ratio:19s}{psnr}   {off}")
    return "\n".join(lines)


def _with_error(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['standard_error']:.3f}"
