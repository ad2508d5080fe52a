"""Every figure from made-up arrays: color, odd sizes, negative variances, any number of times."""

import matplotlib as mpl
import numpy as np
import pytest

from experiments.images import pictures as images_pictures
from experiments.run import pictures as run_pictures
from experiments.uncertainty import _calibration
from experiments.uncertainty._onestep import pictures as onestep
from experiments.uncertainty._onestep import tables as quality
from experiments.uncertainty._posterior import comparison_pictures, measures, pictures, tables
from tests import slow
from tests.oracles import tiny

TIMES = {1: (0.5,), 2: (0.3, 0.7), 4: (0.2, 0.4, 0.6, 0.8), 5: (0.1, 0.3, 0.5, 0.7, 0.9)}
METHODS = {"U, 1 Hutchinson probe": True, "U, exact": False, "dropout, 50 passes": False}


def _measured(rng, shape, n=6):
    result = {name: rng.normal(size=(n, *shape)) for name in ("image", "noised", "mean")}
    result["variance"] = rng.normal(0.5, 1.0, size=(n, *shape))  # a third of it negative
    assert (result["variance"] < 0).any()
    return result | {name: rng.gamma(2.0, size=n) for name in ("uncertainty", "error")}


def _posterior(shape, times):
    """What `uncertainty_images.evaluate` returns."""
    rng = np.random.default_rng(0)
    arrays = {part: {t: _measured(rng, shape) for t in times} for part in ("train", "held_out")}
    by_time = {t: _measured(rng, shape) for t in times}
    arrays["generations"] = {"by_time": by_time, "samples": rng.normal(size=(6, *shape))}
    arrays["exact"] = {
        part: {
            t: {"mean": m["mean"], "variance": np.abs(m["variance"])}
            for t, m in arrays[part].items()
        }
        for part in ("train", "held_out")
    }
    arrays["rivals"] = {
        name: {t: rng.normal(size=(4,) if scalar else (4, *shape)) for t in times}
        for name, scalar in METHODS.items()
    }
    both = [(name, t) for name in METHODS for t in times]
    results = {
        "uncertainty": _calibration.rows(arrays["held_out"]),
        "edges": [measures.edge_statistic(t, m["mean"], m["variance"]) for t, m in by_time.items()],
        "exact": {
            "widths": {"train": 0.034, "held_out": 0.2},
            **{part: [{"t": t, "exact_error": 2.0} for t in times] for part in arrays["exact"]},
        },
        "rivals": {
            "rows": [
                {"method": m, "t": t, "pearson": rng.uniform(), "num_images": 4} for m, t in both
            ],
            "costs": [{"method": m, "time_ratio": 10.0**i} for i, m in enumerate(METHODS)],
        },
    }
    return arrays, results


def _onestep(shape, times):
    """What `meanflow_images.evaluate` returns."""
    rng = np.random.default_rng(1)
    steps = {1: rng.normal(size=(5, *shape)), 50: rng.normal(size=(5, *shape))}
    arrays = {name: {t: _measured(rng, shape) for t in times} for name in ("MeanFlow", "flow")}
    arrays["samples"] = {"MeanFlow": steps, "flow": steps}
    arrays["one_step"] = {
        "sample": rng.normal(size=(3, *shape)),
        "renoised": rng.normal(0.5, 1.0, size=(3, len(times), *shape)),
        "sensitivity": rng.gamma(1.0, size=(3, *shape)),
        "prior": rng.gamma(1.0, size=shape),
    }
    distances = [("MeanFlow", 1), ("MeanFlow", 50), ("flow", 1), ("flow", 50), ("held-out", 0)]
    results = {
        "samples": [
            {"model": model, "steps": steps, "num_samples": 5, "frechet": 1.0}
            for model, steps in distances
        ],
        "MeanFlow": _calibration.rows(arrays["MeanFlow"]),
        "flow": _calibration.rows(arrays["flow"]),
        "agreement": [
            quality.agreement(t, arrays["MeanFlow"][t], arrays["flow"][t]) for t in times
        ],
        "one_step": quality.one_step(arrays["one_step"], times),
    }
    return arrays, results


@pytest.mark.slow
@slow.but_the_first(("count", "shape"), [(1, (7, 4, 1)), (4, (5, 6, 3))])
def test_figures_of_the_posterior(tmp_path, shape, count):
    arrays, results = _posterior(shape, TIMES[count])
    with run_pictures.style():
        figures = {
            "samples": images_pictures.samples(
                arrays["train"][TIMES[count][0]]["image"], dataset="noise"
            ),
            "uncertainty": pictures.uncertainty(arrays["held_out"], dataset="noise"),
            "calibration": _calibration.picture(arrays["held_out"], results["uncertainty"]),
            **comparison_pictures.figures(arrays, results, dataset="noise"),
        }
        run_pictures.save(tmp_path / "figures", figures)
    assert {"generation", "exact", "rivals"} <= set(figures)
    tiny.check_pictures(tmp_path / "figures", figures)


@pytest.mark.slow
@slow.but_the_first(("count", "shape"), [(1, (7, 4, 1)), (5, (5, 6, 3))])
def test_figures_of_one_step(tmp_path, shape, count):
    arrays, results = _onestep(shape, TIMES[count])
    with run_pictures.style():
        figures = onestep.figures(arrays, results, dataset="noise")
        run_pictures.save(tmp_path / "figures", figures)
    assert set(figures) == {"samples", "maps", "agreement", "calibration"}
    tiny.check_pictures(tmp_path / "figures", figures)


@pytest.mark.slow
def test_without_rivals_there_is_no_figure_of_them():
    arrays, results = _posterior((4, 4, 1), TIMES[2])
    del results["rivals"]
    assert "rivals" not in comparison_pictures.figures(arrays, results, dataset="noise")


@pytest.mark.parametrize("count", list(TIMES))
def test_the_panels_of_the_rivals_are_of_different_times(count):
    arrays, results = _posterior((4, 4, 1), TIMES[count])
    figure = comparison_pictures.rivals(arrays, results["rivals"], dataset="noise")
    titles = [ax.get_title() for ax in figure.axes if ax.get_title().startswith("t = ")]
    assert len(set(titles)) == len(titles) == min(3, count)
    assert titles == sorted(titles)


def test_the_panels_show_what_their_titles_say():
    arrays, results = _posterior((4, 4, 1), TIMES[5])
    figure = comparison_pictures.rivals(arrays, results["rivals"], dataset="noise")
    rows = results["rivals"]["rows"]
    for ax in (ax for ax in figure.axes if ax.get_title().startswith("t = ")):
        t = float(ax.get_title()[4:])
        drawn = {
            line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
            for line in ax.lines
            if line.get_label() in METHODS
        }
        expected = {
            name: (10.0**i, next(r["pearson"] for r in rows if (r["method"], r["t"]) == (name, t)))
            for i, name in enumerate(METHODS)
        }
        assert drawn == expected


def test_shades_and_deviations_are_in_gray_levels():
    x = np.array([[[-1.0], [0.0]], [[1.0], [3.0]]])
    np.testing.assert_allclose(images_pictures.gray(x), [[0.0, 0.5], [1.0, 1.0]])
    assert images_pictures.gray(np.zeros((2, 3, 3))).shape == (2, 3, 3)
    # Two gray levels are four units of x; a negative variance counts as none.
    squares = np.array([[[4.0, 4.0, 4.0], [-1.0, 2.0, 4.0]]])
    np.testing.assert_allclose(images_pictures.over_channels(squares), [[1.0, 2**0.5 / 2]])


def test_the_typical_image_is_that_of_the_median_uncertainty():
    by_time = {t: {"uncertainty": np.array(u)} for t, u in ((0.1, [1, 2, 3]), (0.5, [9, 1, 4]))}
    assert _calibration.typical(by_time | {0.9: by_time[0.1]}) == 2


def test_the_style_ends_with_its_context():
    before = mpl.rcParams["font.size"]
    with run_pictures.style():
        assert mpl.rcParams["font.size"] > before
    assert mpl.rcParams["font.size"] == before


# What is printed


def test_the_report_of_uncertainty_images_names_what_it_should():
    arrays, results = _posterior((4, 4, 1), TIMES[2])
    results["uncertainty_train"] = _calibration.rows(arrays["train"])
    for part in ("train", "held_out"):
        for row, gap in zip(results["exact"][part], (0.123, 4.56), strict=True):
            row["median_relative_error"] = gap
    for cost in results["rivals"]["costs"]:
        cost["passes"] = 77
    results["rivals"]["costs"].insert(0, {"method": "forward pass", "passes": 1, "time_ratio": 1})
    lines = tables.report(results, "FOLDER").splitlines()
    assert lines[0].startswith("uncertainty U of 6 held-out images")
    assert sum("E[error]/E[U]" in line for line in lines) == 2  # the table's head, and training
    assert sum("0.12, 4.56" in line for line in lines) == 2
    for name in METHODS:
        (line,) = [line for line in lines if name in line]
        rows = [row for row in results["rivals"]["rows"] if row["method"] == name]
        assert [f"{row['pearson']:.2f}" for row in rows] == line.split()[-5:-3]
        assert "77 F" in line
    assert not any("forward pass" in line or "bits per dimension" in line for line in lines)
    results["likelihood"] = {"bits_per_dim": 1.9477, "standard_error": 0.031, "how": "HOW"}
    assert "1.948 ± 0.031 bits per dimension (HOW)" in tables.report(results, "FOLDER")
    assert "FOLDER: config.json" in lines[-1]


@pytest.mark.slow
def test_the_report_of_meanflow_images_names_what_it_should():
    _, results = _onestep((4, 4, 1), TIMES[2])
    lines = quality.report(results, "FOLDER").splitlines()
    words = [line.split() for line in lines]
    assert ["MeanFlow", "1", "step", "1.000"] in words
    assert ["flow", "50", "steps", "1.000"] in words
    assert ["5", "held-out", "images", "1.000"] in words
    assert "1 steps" not in "\n".join(lines)
    distances = [line for line in lines if line.endswith("1.000")][:5]
    assert len({len(line) for line in distances}) == 1  # one column
    for name in ("MeanFlow (its h = 0 slice)", "flow (plain)"):
        assert any(line.startswith(name) for line in lines)
    low, middle, high = results["one_step"]["sensitivity_5_50_95"]
    assert any(f"{middle:.2f} (5 to 95 %: {low:.2f} to {high:.2f})" in line for line in lines)
    assert "FOLDER: config.json" in lines[-1]
