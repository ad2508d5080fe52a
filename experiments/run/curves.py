"""The numbers of trainings over their steps, as pictures within a page of HTML."""

import io
import math
import re
from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.run import page

Series = dict[str, list[dict[str, float]]]
_INK = "#010203"  # becomes the color of the text of the page
_LINES = ("solid", "dashed", "dotted")
_DECADES = 1.5  # from which an axis is logarithmic
_RC = {
    "svg.fonttype": "none",  # letters stay letters
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
}


def curves(series: Series) -> str:
    """Returns a figure for every number that some trainings have recorded, and what is whose line.

    Args:
      series: the lines of the metrics of each training, by its name.
    """
    names = dict.fromkeys(name for lines in series.values() for line in lines for name in line)
    drawn = [_drawn(name, series, place) for place, name in enumerate(names) if name != "step"]
    return _legend(series) + f'<div class="grid">{"".join(drawn)}</div>\n' if any(drawn) else ""


def _legend(series: Series) -> str:
    if len(series) == 1:
        return ""
    keys = (
        f'<span><span class="key" style="border-top-color: {_color(place)}; '
        f'border-top-style: {_line(place)}"></span>{page.text(name)}</span>'
        for place, name in enumerate(series)
    )
    return f'<p class="legend">{" ".join(keys)}</p>\n'


def _color(place: int) -> str:
    return mpl.colors.to_hex(f"C{place % 10}")


def _line(place: int) -> str:
    return _LINES[place // 10 % len(_LINES)]


def _drawn(name: str, series: Series, place: int) -> str:
    """Returns the figure of one number, "" if no training has it."""
    with mpl.rc_context({**_RC, "svg.hashsalt": str(place)}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        ax, everything = figure.add_subplot(), []
        for index, lines in enumerate(series.values()):
            found = [(line["step"], line[name]) for line in lines if _is_drawn(line.get(name))]
            if found:
                style = {"color": _color(index), "linestyle": _line(index)}
                marker = {"marker": "o", "markersize": 3} if len(found) < 30 else {}
                ax.plot(*zip(*found, strict=True), **style, **marker)
                everything += [value for _, value in found]
        if not everything:
            return ""
        if _spans(everything):
            ax.set_yscale("log")
        ax.grid(color="#808080", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("step")
        file = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return (
        f"<figure><figcaption>{page.text(name)}</figcaption>"
        f"{_inline(file.getvalue(), f'{name} over the steps')}</figure>\n"
    )


def _is_drawn(value: float | None) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _spans(values: Iterable[float]) -> bool:
    low, high = min(values), max(values)
    return low > 0 and math.log10(high / low) > _DECADES


def _inline(svg: str, label: str) -> str:
    """Returns a file of SVG as a part of a page: without head, links and names that nobody uses."""
    box = re.search(r'viewBox="([\d. -]+)"', svg).group(1)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<(style|metadata)\b.*?</\1>", "", body, flags=re.S).replace(
        "xlink:href", "href"
    )
    used = set(re.findall(r"#([\w.-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda m: m.group() if m.group(1) in used else "", body)
    body = body.replace(_INK, "currentColor")
    return f'<svg viewBox="{box}" role="img" aria-label="{page.text(label)}">{body}'
