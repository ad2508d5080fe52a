"""The tables that `experiments.closed_form.dimension` prints at its end."""

from typing import Any

from experiments.closed_form._dimension import measures

_NAMES = {
    "law": "law",
    "network": "network",
    "bank": "bank",
    "bank_at_new": "at new",
    "points_held": "held",
    "directions_of_law": "law >1/2",
    "directions_of_network": "net >1/2",
    "directions_of_bank": "bank >1/2",
}
TOLD = 0.8  # the time at which classes are listed, or the nearest one


def at(rows: list[dict[str, Any]], t: float) -> int:
    """Returns the index of the row whose time is nearest to t."""
    return min(range(len(rows)), key=lambda i: abs(rows[i]["t"] - t))


def classes_at(found: dict[str, Any]) -> tuple[int, int]:
    """Returns at which times classes are told by the network and by the bank.

    The bank's is the last at which it holds `measures.ENOUGH` points, or the first of all.
    """
    rows = found["rows"]
    held = [i for i, row in enumerate(rows) if row["points_held"]["mean"] >= measures.ENOUGH]
    return at(rows, TOLD), max(held, default=0)


def report(results: dict[str, Any]) -> str:
    """Returns the summary that is printed at the end of a run."""
    lines = [
        "mean dimension at points of the data; noise: sigma / alpha; bank: the exact field of the",
        "n points, at these and at new ones; held: how many of them its posterior holds; > 1/2:",
        "eigenvalues of the gain, directions wider than the noise",
    ]
    for found in results.values():
        lines += ["", *_table(found)]
    return "\n".join([*lines, "", *_classes(results["images"])])


def _table(found: dict[str, Any]) -> list[str]:
    known = f", dimension {found['dimension']}" if "dimension" in found else ""
    names = [name for name in _NAMES if name in found["rows"][0]]
    lines = [
        f"{found['title']}{known}, in {found['ambient']} dimensions, n = {found['num_bank']:,}",
        "    t   noise" + "".join(f"{_NAMES[name]:>11s}" for name in names),
    ]
    for row in found["rows"]:
        values = "".join(f"{row[name]['mean']:11.3f}" for name in names)
        lines.append(f"{row['t']:5.2f}  {row['noise']:6.3f}{values}")
    least = found["meaningful_to"]
    where = "at none of these noises" if least is None else f"to a noise of {least:.2f}"
    lines.append(f"its bank holds {measures.ENOUGH} points {where}")
    return lines


def _classes(found: dict[str, Any]) -> list[str]:
    """Returns the classes from the most complex to the least, by the network."""
    i, j = classes_at(found)
    rows, classes = found["rows"], found["classes"]
    bank = {row["label"]: row["dimensions"][j] for row in classes["bank"]}
    lines = [
        f"{found['title']} by class: network at t = {rows[i]['t']:g} (noise "
        f"{rows[i]['noise']:.2f}), bank at t = {rows[j]['t']:g} (noise {rows[j]['noise']:.2f})",
        "class   images   network            bank",
    ]
    for row in sorted(classes["network"], key=lambda row: -row["dimensions"][i]["mean"]):
        other = bank.get(row["label"])
        told = _with_error(other) if other else "-"
        lines.append(
            f"{row['label']:5d}{row['count']:9d}   {_with_error(row['dimensions'][i]):16s}   {told}"
        )
    agreement = measures.agreement(classes["network"], classes["bank"], i, j)
    if agreement is None:
        return lines
    return [*lines, f"rank correlation of the two over classes: {agreement:.2f}"]


def _with_error(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['standard_error']:.2f}"
