"""The pictures of the image experiments, drawn to be shown in a talk.

Images come as x in [-1, 1] and are shown as gray levels from 0 (black) to 1 (white), so a
standard deviation or an error in x is halved before it is drawn.
"""

import numpy as np
from matplotlib.figure import Figure

from experiments.images import pictures as images_pictures
from experiments.uncertainty import _calibration


def uncertainty(by_time: dict[float, dict[str, np.ndarray]], *, dataset: str) -> Figure:
    """Returns the maps of one image: a column for each time, a row for each quantity.

    In each column the two lower maps share one scale, printed under it, so that the predicted
    deviation can be held against the error that was made; the largest twentieth of the errors may
    lie above the scale.

    Args:
      by_time: from each time to the stacked output of `maps.measure`.
      dataset: the name for the title.
    """
    times, which = list(by_time), _calibration.typical(by_time)
    rows = (
        "held-out\nimage",
        "noised\nimage",
        "posterior\nmean",
        "predicted\nstd. dev.",
        "actual\n|error|",
    )
    figure = Figure(figsize=(max(2.1 * len(times) + 1.2, 8.5), 11.0), layout="constrained")
    axes = figure.subplots(len(rows), len(times), squeeze=False)
    for column, t in enumerate(times):
        one = {name: values[which] for name, values in by_time[t].items()}
        deviation = images_pictures.over_channels(one["variance"])
        error = images_pictures.over_channels((one["image"] - one["mean"]) ** 2)
        # Single wrong pixels must not darken the rest: the scale ends at 95 % of the errors.
        top = max(float(deviation.max()), float(np.quantile(error, 0.95)))
        for row, name in enumerate(("image", "noised", "mean")):
            axes[row, column].imshow(images_pictures.gray(one[name]), **images_pictures.GRAY)
        for row, values in ((3, deviation), (4, error)):
            drawn = axes[row, column].imshow(values, cmap="magma", vmin=0.0, vmax=top)
        images_pictures.scale(figure, drawn, axes[4, column], top, location="bottom", extend="max")
        axes[0, column].set_title(f"t = {t:g}")
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(label)
    images_pictures.bare(axes)
    colors = by_time[times[0]]["image"].shape[-1]
    unit = "gray levels" if colors == 1 else "color levels, root mean square over channels"
    figure.suptitle(
        f"Uncertainty of a held-out image ({dataset}) from the velocity's Jacobian\n"
        f"noise at t = 0, data at t = 1; maps in {unit}, from 0 to 1"
    )
    return figure
