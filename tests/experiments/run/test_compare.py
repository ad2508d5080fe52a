"""Two runs side by side."""

import pytest

from experiments import __main__ as command
from experiments.run import compare, folder

OPTIONS = {"workdir": "a", "seed": 0, "training": {"weight": 1.0, "num_steps": 50}}
RESULTS = {
    "kl": 0.5,
    "rows": [{"t": 0.1, "tv": 0.25}, {"t": 0.9, "tv": 0.125}],
    "per_image": list(range(9)),
    "zero": 0.0,
    "name": "digits",
    "same": True,
}


def _run(place, options, results, commit="0123456789abcdef"):
    place.mkdir()
    folder.write_json(place / "config.json", options)
    origin = {"module": "experiments.fdm.mixture", "sessions": [{"commit": commit}]}
    folder.write_json(place / "provenance.json", origin)
    if results is not None:
        folder.write_json(place / "results.json", results)
    return place


@pytest.fixture
def pair(tmp_path):
    """Two runs of other weights, with other numbers."""
    other = OPTIONS | {"workdir": "b", "training": {"weight": 0.1, "num_steps": 50}}
    rows = [{"t": 0.1, "tv": 0.25}, {"t": 0.9, "tv": 0.1}]
    changed = {"kl": 0.4, "rows": rows, "per_image": list(range(1, 10)), "zero": 0.5, "new": 3}
    first = _run(tmp_path / "first", OPTIONS, RESULTS)
    return first, _run(tmp_path / "second", other, changed, commit="fedcba98765")


def test_options_and_numbers_that_differ_are_listed_and_equal_ones_counted(pair):
    lines = [line.split() for line in compare.compare(*pair).splitlines()]
    assert ["experiment", *2 * ["experiments.fdm.mixture"]] in lines
    assert ["commit", "0123456789", "fedcba9876"] in lines
    differing = lines[lines.index(["options", "that", "differ"]) + 1 :]
    assert differing[:2] == [["weight", "1.0", "0.1"], []]  # neither the folder nor the seed
    assert ["kl", "0.5", "0.4", "-0.1", "(-20.0%)"] in lines
    assert ["rows[1].tv", "0.125", "0.1", "-0.025", "(-20.0%)"] in lines
    assert ["per_image,", "mean", "of", "9", "4", "5", "+1", "(+25.0%)"] in lines
    assert ["zero", "0", "0.5", "+0.5"] in lines  # no percentage of nothing
    assert ["new", "absent", "3"] in lines
    assert " ".join(lines[-1]) == "3 numbers are equal, 5 are not."


def test_a_run_equals_itself(pair):
    text = compare.compare(pair[0], pair[0])
    assert "differ" not in text
    assert text.endswith("\n\n7 numbers are equal, 0 are not.")


def test_a_short_list_is_listed_and_text_and_truth_values_are_no_numbers():
    tree = {"a": [1, [2.5]], "b": {"c": True, "d": None, "e": "1"}, "f": list(range(8))}
    found = dict(compare.numbers(tree))
    assert found == {"a[0]": 1.0, "a[1][0]": 2.5} | {f"f[{i}]": float(i) for i in range(8)}


def test_what_is_no_finished_run_is_said_in_one_line(pair, tmp_path, capsys):
    unfinished = _run(tmp_path / "third", OPTIONS, None)
    for place, words in ((unfinished, "has no results yet: run"), (tmp_path, "is no run folder")):
        with pytest.raises(SystemExit) as caught:
            command.main(["compare", str(pair[0]), str(place)])
        assert caught.value.code == 1
        said = capsys.readouterr()
        assert said.err.startswith(f"error: {place} {words}")
        assert (said.out, said.err.count("\n")) == ("", 1)
    (pair[1] / "results.json").write_text('{"kl": 0.3, "checksum": "crc32:00000000"}')
    with pytest.raises(ValueError, match=r"results.json is damaged .*checksum"):
        compare.compare(*pair)


@pytest.mark.parametrize(
    "arguments",
    [["compare"], ["compare", "a"], ["contrast", "a", "b"], ["report"], ["report", "a", "b"]],
)
def test_a_wrong_argument_is_said(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "takes no argument, compare RUN RUN or report RUN, got" in capsys.readouterr().err


def test_the_command_prints_the_comparison(pair, capsys):
    command.main(["compare", *map(str, pair)])
    assert capsys.readouterr().out == compare.compare(*pair) + "\n"
