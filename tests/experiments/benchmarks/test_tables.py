"""What every benchmark against peers rests on: turns, ratios, tables, and the page with markers."""

import itertools
import pathlib
import types

import jax
import numpy as np
import pytest

from experiments.benchmarks import __main__, _page, _turns, scaling


def test_quartiles_are_those_of_numpy_and_the_bar_is_held_against_the_median():
    values = [1.3, 0.9, 2.1, 1.7, 1.1, 1.2]
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert _turns.spread(values) == f"{middle:.2f} ({low:.2f} to {high:.2f})"
    small = [value / 1000 for value in values]
    assert _turns.spread(small) == "0.0012 (0.0011 to 0.0016)"
    assert _turns.spread(values, bar=1.2).startswith("1.25 (")
    assert _turns.spread(values, bar=1.4).startswith("**1.25** (")
    assert _turns.spread(values, bar=1.2, least=False).startswith("**1.25** (")
    assert _turns.spread([3.0]) == "3.00 (3.00 to 3.00)"
    assert _turns.spread([1234.5, 12.34]) == "623 (318 to 929)"
    assert _turns.milliseconds([0.5, 0.01234, 0.001]) == "12.3"


def test_a_ratio_is_formed_within_its_turn():
    times = _turns.Times({"peer": [4.0, 30.0, 2.0], "ours": [2.0, 10.0, 4.0]}, {})
    assert _turns.ratios(times, "peer", "ours") == [2.0, 3.0, 0.5]


def _clock(monkeypatch, costs):
    """Lets every call of a name take the seconds of `costs`; returns the order of the calls."""
    now, order = [0.0], []
    monkeypatch.setattr(_turns.time, "perf_counter", lambda: now[0])

    def call(name, **fields):
        def run():
            order.append(name)
            now[0] += costs[name]

        return _turns.Call(run, **fields)

    return call, order


def test_calls_take_turns_and_a_call_of_several_parts_counts_them(monkeypatch):
    call, order = _clock(monkeypatch, {"ours": 0.5, "fused": 2.0, "short": 0.015625})
    calls = {"ours": call("ours"), "fused": call("fused", parts=4), "short": call("short")}
    times = _turns.in_turn(calls, 2)
    assert times.seconds["ours"] == [0.5, 0.5]
    assert times.seconds["fused"] == [0.5, 0.5]
    np.testing.assert_allclose(times.seconds["short"], [0.015625, 0.015625])
    counted = [(name, len(list(run))) for name, run in itertools.groupby(order[-8:])]
    assert counted == [("ours", 1), ("fused", 1), ("short", 2)] * 2  # 0.03 seconds a turn


def test_the_fastest_setting_of_a_peer_is_timed(monkeypatch):
    call, order = _clock(monkeypatch, {"one": 0.2, "two": 5.0, "other": 0.3})
    several = [call(name, setting=name) for name in ("two", "one", "other")]
    times = _turns.in_turn({"peer": several}, 3)
    assert times.setting == {"peer": "one"}
    assert times.seconds["peer"] == pytest.approx([0.2] * 3)
    assert order.count("two") == 2  # threads that wait for each other are not tried to the end


def test_the_settings_of_a_peer_are_its_ways_on_one_and_two_threads(monkeypatch):
    monkeypatch.setattr(_turns.os, "cpu_count", lambda: 2)
    calls = _turns.by_threads(len, sum, words=("jacfwd", ""))
    wanted = ["jacfwd, 1 thread", "jacfwd, 2 threads", "1 thread", "2 threads"]
    assert [call.setting for call in calls] == wanted
    assert [call.threads for call in calls] == [1, 2, 1, 2]
    assert [call.run for call in calls] == [len, len, sum, sum]
    monkeypatch.setattr(_turns.os, "cpu_count", lambda: 1)
    assert [call.threads for call in _turns.by_threads(len)] == [1]


def test_sides_that_compute_something_else_are_not_timed():
    _turns.same("value", jax.numpy.ones(2), np.ones(2) + 1e-6, atol=1e-5)
    with pytest.raises(ValueError, match="divergence: the peer computes something else.*0.5"):
        _turns.same("divergence", np.ones(2), np.array([1.0, 1.5]), atol=0.1)
    with pytest.raises(ValueError, match="another shape"):
        _turns.same("divergence", np.ones(2), np.ones((2, 1)), atol=0.1)
    with pytest.raises(ValueError, match="differ by nan"):
        _turns.same("divergence", np.ones(1), np.array([np.nan]), atol=0.1)


PAGE = "# Page\n\nby hand\n\n<!-- a: begin -->\nold\n<!-- a: end -->\n\nby hand, too\n"


def test_what_stands_outside_of_the_markers_is_kept():
    page = PAGE + "<!-- b: begin -->\n<!-- b: end -->\n"
    once = _page.replace(page, "a", "new\n")
    assert once == page.replace("old", "new")
    assert _page.replace(once, "a", "new") == once
    assert _page.replace(once, "b", "| x |") == once.replace("b: begin -->", "b: begin -->\n| x |")


@pytest.mark.parametrize("page", ["", PAGE.replace("begin", "start"), PAGE + PAGE, PAGE[::-1]])
def test_a_page_without_both_markers_is_refused(page):
    with pytest.raises(ValueError, match="the page must have the line <!-- a: begin -->"):
        _page.replace(page, "a", "new")


def test_the_readme_has_a_place_for_every_benchmark_and_every_benchmark_is_run():
    folder = pathlib.Path(__main__.__file__).parent
    text = (folder / "README.md").read_text()
    for name in __main__.NAMES:
        _page.replace(text, name, "")
        assert f"## {name}\n" in text
    files = {path.stem for path in folder.glob("[a-z]*.py")}
    assert set(__main__.NAMES) == files


def test_a_table_says_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(_page.provenance, "commit", lambda _: "0123456789abcdef-dirty")
    text = _page.stamp("python -m x", (1.25, 3.0), _page.commit())
    assert text.startswith("`python -m x`, ")
    assert "load 1.2 before and 3.0 after" in text
    assert f"jax {jax.__version__}" in text
    assert text.endswith("commit 0123456789-dirty:")
    assert _page.missing("json", "no_such_module") == ["no_such_module"]


def test_empty_cells_stand_in_a_table():
    assert _page.table(["a", "b"], [["1", ""]]) == "| a | b |\n| --- | --- |\n| 1 | |"


def test_the_command_rewrites_the_tables_that_were_asked_for(monkeypatch, tmp_path, capsys):
    module = types.SimpleNamespace(
        Config=lambda: types.SimpleNamespace(check=lambda: None), report=lambda config: "| new |"
    )
    names = []
    fake = lambda name: names.append(name) or module
    monkeypatch.setattr(__main__.importlib, "import_module", fake)
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("a:", "steps:"))
    __main__.main(__main__.Config(only=("steps",), page=str(page)))
    assert names == ["experiments.benchmarks.steps"]
    text = page.read_text()
    assert "old" not in text
    assert "--only steps`, " in text
    assert text.endswith("| new |\n<!-- steps: end -->\n\nby hand, too\n")
    assert "| new |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="must have the line <!-- calls: begin -->"):
        __main__.main(__main__.Config(only=("steps", "calls"), page=str(page)))
    assert page.read_text() == text


def test_a_benchmark_with_a_picture_draws_it_into_the_folder_of_pictures(monkeypatch, tmp_path):
    drawn = []
    module = types.SimpleNamespace(
        Config=scaling.Config, report=lambda config: drawn.append(config.figure) or "| new |"
    )
    monkeypatch.setattr(__main__.importlib, "import_module", lambda name: module)
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("a:", "scaling:"))
    folder = str(tmp_path / "drawn")
    __main__.main(__main__.Config(only=("scaling",), page=str(page), figures=folder))
    assert drawn == [str(tmp_path / "drawn" / "benchmarks_scaling.png")]


def test_an_unknown_benchmark_is_said_first():
    with pytest.raises(ValueError, match=r"only must be of .*, got \('speed',\)"):
        __main__.main(__main__.Config(only=("speed",)))
