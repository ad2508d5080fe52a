"""The summary that `experiments.fdm.video` prints at the end of a run."""

import os
from typing import Any

_COLUMNS = {
    "psnr": ("PSNR, dB", 2),
    "best_psnr": ("best PSNR", 2),
    "ssim": ("SSIM", 4),
    "best_ssim": ("best SSIM", 4),
    "position": ("position, px", 3),
    "speed": ("speed, px", 3),
}
_METRICS = ("flow", "divergence", "psnr", "position", "speed")


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary."""
    rows = {n: row for n, row in results.items() if isinstance(row, dict) and "frechet" in row}
    shown = [key for key in _COLUMNS if any(key in row for row in rows.values())]
    lines = ["predicted frames, means over clips and horizons (standard error over clips)"]
    lines.append(_line("", [*[_COLUMNS[key][0] for key in shown], "Frechet"]))
    for name, row in rows.items():
        cells = [_cell(row.get(key), _COLUMNS[key][1]) for key in shown]
        lines.append(_line(name, [*cells, f"{row['frechet']:.3f}"]))
    lines.append("FDM less FM, clip by clip")
    for label, row in results["differences"].items():
        cells = [_cell(row.get(key), _COLUMNS[key][1] + 1, sign="+") for key in shown]
        lines.append(_line(label, [*cells, ""]))
    cost = results["cost"]
    lines.append(
        f"a training step of FDM takes {cost['time_ratio']:.2f} of FM, "
        f"{cost['time_ratio_all_probed']:.2f} with every frame probed"
    )
    lines.append("at equal time, by the metrics of the training")
    metrics = [key for key in _METRICS if key in results["history"]["FM"][-1]]
    lines.append(_line("", ["step", *metrics]))
    for pair in results["equal_time"].values():
        for name, row in pair.items():
            lines.append(_line(name, [str(row["step"]), *[f"{row[key]:.4f}" for key in metrics]]))
    lines.append(f"everything is in {folder}: config.json, results.json, arrays.npz, figures/,")
    lines.append("clips.gif, and the networks")
    return "\n".join(lines)


def _cell(row: dict[str, float] | None, digits: int, sign: str = "") -> str:
    if row is None:
        return "-"
    return f"{row['mean']:{sign}.{digits}f} ({row['standard_error']:.{digits}f})"


def _line(label: str, cells: list[str]) -> str:
    return f" {label:20s}" + "".join(f"{cell:>20s}" for cell in cells)
