"""The figures of `experiments.closed_form.dimension`: over the noise, by class, and the spectra."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.closed_form._dimension import measures, tables

_CURVES = {
    "law": ("the law itself", {"color": "black"}),
    "network": ("network, held-out images", {"color": "tab:blue", "marker": "o"}),
    "bank": ("exact field of n points, at these", {"color": "tab:orange", "marker": "s"}),
    "bank_at_new": ("exact field of n points, at new ones", {"color": "tab:orange", "ls": ":"}),
}


def figures(results: dict[str, Any], arrays: dict[str, dict]) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      results: what `dimension.main` writes.
      arrays: of each data set what `dimension.compare` returned, and the images.
    """
    return {
        "noises": noises(results),
        "classes": classes(results["images"], arrays["images"]),
        "spectra": spectra(results, arrays),
    }


def _title(found: dict[str, Any]) -> str:
    return f"{found['title']}\nin {found['ambient']} dimensions, n = {found['num_bank']:,}"


def _log_noise(ax: Axes, noise: np.ndarray) -> None:
    """Makes the x-axis the noise, falling from left to right as time goes."""
    ax.set(xscale="log", xlabel=r"noise $\sigma / \alpha$, in units of the data")
    ax.set_xlim(noise.max() * 1.1, noise.min() / 1.1)
    shown = [value for value in (3, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01) if value >= noise.min()]
    ax.set_xticks(shown, [f"{value:g}" for value in shown])
    ax.minorticks_off()


def noises(results: dict[str, Any]) -> Figure:
    """Returns the mean dimension over the noise: of a law or a network, and of n points."""
    figure = Figure(figsize=(5.6 * len(results), 5.6), layout="constrained")
    for ax, found in zip(figure.subplots(1, len(results)), results.values(), strict=True):
        rows = found["rows"]
        noise = np.array([row["noise"] for row in rows])
        drawn = [name for name in _CURVES if name in rows[0]]
        for name in drawn:
            mean, error = (
                np.array([row[name][part] for row in rows]) for part in ("mean", "standard_error")
            )
            label, style = _CURVES[name]
            ax.plot(noise, mean, **style, markersize=4, label=label)
            low, high = mean - 2 * error, mean + 2 * error
            ax.fill_between(noise, low, high, color=style["color"], alpha=0.2, linewidth=0)
        if "dimension" in found:
            ax.axhline(found["dimension"], color="0.6", linestyle="--", label="dimension")
        if (least := found["meaningful_to"]) is not None:
            words = f"below: fewer than {measures.ENOUGH} points held"
            ax.axvspan(least, noise.min() / 1.1, color="0.92", zorder=0, label=words)
        firm = [row[name]["mean"] for row in rows for name in drawn if name != "bank_at_new"]
        ax.set(title=_title(found), ylim=(0, 1.4 * max(firm)))
        _log_noise(ax, noise)
        ax.legend(loc="upper left", fontsize=10)
    figure.axes[0].set_ylabel("local dimension (band: 2 standard errors)")
    return figure


def classes(found: dict[str, Any], arrays: dict[str, np.ndarray], shown: int = 8) -> Figure:
    """Returns the dimension of each class, and the images with the least and the greatest one."""
    i, j = tables.classes_at(found)
    figure = Figure(figsize=(15.0, 5.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1.0))
    ax = left.subplots()
    for name, index, color in (("network", i, "tab:blue"), ("bank", j, "tab:orange")):
        rows = found["classes"][name]
        t = found["rows"][index]["t"]
        means, errors = (
            [row["dimensions"][index][part] for row in rows] for part in ("mean", "standard_error")
        )
        label = f"{'network' if name == 'network' else 'exact field of n points'}, t = {t:g}"
        style = {"fmt": "o", "capsize": 3, "color": color, "label": label}
        ax.errorbar([row["label"] for row in rows], means, 2 * np.array(errors), **style)
    ax.set(xlabel="class", ylabel="local dimension (bars: 2 standard errors)")
    ax.set_xticks([row["label"] for row in found["classes"]["network"]])
    ax.set_title(f"{found['title']} by class")
    ax.legend(loc="upper left", fontsize=11)
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])
    values = arrays["network"][i]
    order = np.argsort(values)
    lines = right.subplots(2, min(shown, len(order)), squeeze=False)
    for places, chosen, words in zip(
        lines, (order, order[::-1]), ("least", "greatest"), strict=True
    ):
        places[0].set_ylabel(words)
        for place, index in zip(places, chosen, strict=False):
            pixels = np.clip((arrays["images"][index] + 1) / 2, 0, 1)
            gray = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.shape[-1] == 1 else {}
            place.imshow(pixels[..., 0] if gray else pixels, **gray)
            place.set(xticks=(), yticks=(), title=f"{values[index]:.1f}")
    right.suptitle(f"Held-out images, by the network at t = {found['rows'][i]['t']:g}", fontsize=13)
    return figure


def spectra(results: dict[str, Any], arrays: dict[str, dict]) -> Figure:
    """Returns the mean eigenvalues of the gain at four times, of all fields at known points."""
    figure = Figure(figsize=(5.6 * len(results), 5.0), layout="constrained")
    for ax, (key, found) in zip(
        figure.subplots(1, len(results), sharey=True), results.items(), strict=True
    ):
        rows, smooth = found["rows"], "network" if key == "images" else "law"
        chosen = sorted({tables.at(rows, t) for t in (0.5, 0.8, 0.95, 0.99)})
        for place, i in enumerate(chosen):
            for name, style in ((smooth, "o-"), ("bank", "s:")):
                mean = arrays[key][f"spectrum_of_{name}"][i].mean(axis=0)
                label = f"t = {rows[i]['t']:g}" if name == smooth else None
                index = np.arange(1, len(mean) + 1)
                ax.plot(index, mean, style, color=f"C{place}", markersize=3, label=label)
        ax.plot([], [], "s:", color="black", markersize=3, label="exact field of n points")
        ax.axhline(0.5, color="0.7", linewidth=1)
        ax.set(xlabel="eigenvalue, in falling order", title=_title(found))
        ax.legend(loc="upper right", fontsize=11, title=smooth)
    figure.axes[0].set(ylabel=r"mean eigenvalue of the gain $\alpha \nabla m$", ylim=(-0.3, 1.75))
    figure.axes[0].set_yticks((0, 0.25, 0.5, 0.75, 1))
    return figure
