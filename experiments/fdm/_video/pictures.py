"""The pictures of `experiments.fdm.video`: strips of frames, curves by horizon and in training."""

import io
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from experiments.images import prepared

STYLES = {
    "FM": {"color": "tab:blue", "linestyle": "-"},
    "FDM": {"color": "tab:orange", "linestyle": "-"},
    "FM, then FM": {"color": "tab:blue", "linestyle": "--"},
    "FM, then FDM": {"color": "tab:orange", "linestyle": "--"},
}
_OTHERS = {"color": "gray", "linestyle": ":"}
_LABELS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "position": "error of the position, pixels",
    "speed": "error of the speed, pixels a frame",
    "flow": "flow loss, held out",
    "divergence": "divergence loss, held out",
}
_SHOWN = ("FM", "FDM")  # in strips and in the animation
_CLIPS, _COLUMNS = 3, 9
_ZOOM, _MILLISECONDS = 4, 160


def figures(arrays: dict[str, Any], results: dict[str, Any]) -> dict[str, Figure]:
    """Returns the figures of a run by name."""
    return {
        "strips": strips(arrays["frames"]),
        "horizons": horizons(arrays["scores"]),
        "training": training(results["history"], results["cost"]["time_ratio"]),
    }


def strips(frames: dict[str, np.ndarray]) -> Figure:
    """Returns past, true and predicted frames of a few clips, some of the frames in a row."""
    true = frames["true"]
    past = true.shape[1] - frames[_SHOWN[0]].shape[1]
    columns = _chosen(past, true.shape[1])
    clips = min(_CLIPS, len(true))
    figure = Figure(figsize=(1.1 * len(columns) + 0.8, 3.5 * clips), layout="constrained")
    axes = figure.subplots(3 * clips, len(columns), squeeze=False)
    for clip in range(clips):
        rows = {"true": true[clip]}
        rows |= {n: np.concatenate([true[clip, :past], frames[n][clip]]) for n in _SHOWN}
        for row, (name, seen) in enumerate(rows.items()):
            for column, index in enumerate(columns):
                ax = axes[3 * clip + row, column]
                blank = row > 0 and index < past  # the past is the same for all
                _frame(ax, np.ones_like(seen[index]) if blank else seen[index])
                if row == 0:
                    ax.set_title(f"{index - past + 1:+d}" if index >= past else "past", fontsize=11)
            axes[3 * clip + row, 0].set_ylabel(name, fontsize=12)
    return figure


def _chosen(past: int, frames: int) -> list[int]:
    """Returns the last two known frames and some of the predicted ones."""
    ahead = np.unique(np.linspace(past, frames - 1, min(_COLUMNS - 2, frames - past)).round())
    return [past - 2, past - 1, *ahead.astype(int).tolist()]


def _frame(ax: Any, frame: np.ndarray) -> None:
    gray = frame.shape[-1] == 1
    ax.imshow(frame[..., 0] if gray else frame, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)


def horizons(scores: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Returns every measure by the number of frames after the last that is known."""
    keys = [key for key in _LABELS if key in scores[_SHOWN[0]]]
    figure = Figure(figsize=(5.6 * 2, 4.0 * -(-len(keys) // 2)), layout="constrained")
    for ax, key in zip(figure.subplots(-(-len(keys) // 2), 2).flat, keys, strict=True):
        for place, (name, made) in enumerate(scores.items()):
            values = made[key]
            style = STYLES.get(name, _OTHERS | {"marker": "x^"[place % 2]})
            ahead = np.arange(1, values.shape[1] + 1)
            ax.plot(ahead, values.mean(axis=0), label=name, **style)
            if name in _SHOWN:
                error = values.std(axis=0, ddof=1) / len(values) ** 0.5
                low, high = values.mean(axis=0) - error, values.mean(axis=0) + error
                ax.fill_between(ahead, low, high, color=style["color"], alpha=0.2, linewidth=0)
        ax.set(xlabel="frames after the last known one", ylabel=_LABELS[key])
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    figure.axes[0].legend(fontsize=9)
    figure.suptitle("Predictions of held-out clips: one draw, bands of one standard error")
    return figure


def training(history: dict[str, list[dict[str, float]]], ratio: float) -> Figure:
    """Returns the metrics from scratch over time, in steps of FM."""
    keys = [key for key in ("flow", "divergence", "psnr") if key in history["FM"][-1]]
    figure = Figure(figsize=(4.6 * len(keys), 4.0), layout="constrained")
    for ax, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for name in _SHOWN:
            slow = ratio if name == "FDM" else 1.0
            time = [row["step"] * slow for row in history[name]]
            ax.plot(time, [row[key] for row in history[name]], label=name, **STYLES[name])
        ax.set(
            xlabel="training time, steps of FM",
            ylabel=_LABELS[key],
        )
    figure.axes[0].legend()
    figure.suptitle(f"Training from scratch: a step of FDM takes {ratio:.2f} of FM")
    return figure


def animation(arrays: dict[str, Any]) -> bytes:
    """Returns an animated GIF: true clips and predictions, one clip below the other."""
    pillow = prepared.require("PIL.Image", "animation")
    frames = arrays["frames"]
    true, past = frames["true"], frames["true"].shape[1] - frames[_SHOWN[0]].shape[1]
    rows = [true, *(np.concatenate([true[:, :past], frames[name]], axis=1) for name in _SHOWN)]
    pages = []
    for index in range(true.shape[1]):
        gray = 0.25 if index < past else 1.0  # a frame around what is predicted
        page = _page([row[:_CLIPS, index] for row in rows], edge=gray)
        pages.append(pillow.fromarray(page))
    file = io.BytesIO()
    kept = {"save_all": True, "append_images": pages[1:], "loop": 0}
    pages[0].save(file, format="GIF", duration=_MILLISECONDS, **kept)
    return file.getvalue()


def _page(columns: list[np.ndarray], edge: float) -> np.ndarray:
    """Returns one picture, uint8 `[h, w, 3]`, of `[clips, h, w, c]` side by side."""
    wide = []
    for frames in columns:
        large = frames.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
        large = np.broadcast_to(large, (*large.shape[:3], 3))
        room = [(0, 0), (2, 2), (2, 2), (0, 0)]
        wide.append(np.concatenate(np.pad(large, room, constant_values=edge)))
    return np.uint8(np.round(255 * np.concatenate(wide, axis=1)))
