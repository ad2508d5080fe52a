"""The benchmarks at their smallest: every program runs, and the tables say what was timed."""

import jax
import numpy as np
import pytest

import fmjax
from experiments.benchmarks import calls, closed_form, fdm, scaling, uncertainty

CLOSED_FORM = closed_form.Config(
    num_points=48, size=4, colors=2, batch_size=5, chunk_size=10, channels=(8,), turns=1
)


def _rows(out):
    """The cells of the tables in Markdown that were printed, without heads."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    tables = "\n".join(lines)
    assert tables
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_what_the_exact_field_is_timed_as_is_the_exact_field():
    cases = closed_form.make_cases(CLOSED_FORM)
    bank, x, t = cases["velocity"].arguments
    points, path = bank.points, fmjax.paths.linear()
    exact = jax.vmap(lambda x, t: fmjax.empirical.velocity(path, points, x, t))(x, t)
    run = {name: case.call(*case.arguments) for name, case in cases.items()}
    for name in ("velocity", "velocity, bank of bytes", "velocity, bank whole"):
        np.testing.assert_allclose(run[name], exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run["velocity and divergence"][0], exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run["target of training"], exact, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(run["two bare products"], run["two products, NumPy"], rtol=1e-3)
    vector = cases["covariance times a vector"].arguments[-1]
    covariance = jax.vmap(lambda x, t: fmjax.empirical.covariance(path, points, x, t))(x, t)
    wanted = np.einsum("bij,bj->bi", np.reshape(covariance, (5, 32, 32)), vector.reshape(5, 32))
    found = run["covariance times a vector"].reshape(5, 32)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_tables_of_the_closed_form(capsys):
    closed_form.main(CLOSED_FORM)
    rows = _rows(capsys.readouterr().out)
    names = [row[0] for row in rows]
    assert names[0] == "5 states, 48 x 32"
    assert names[2:10] == [
        "two bare products",
        "velocity",
        "velocity, bank of bytes",
        "velocity, bank whole",
        "velocity and divergence",
        "covariance times a vector",
        "target of training",
        "two products, NumPy",
    ]
    assert rows[2][3] == rows[9][4] == "1.00"
    assert all(float(row[1]) >= 0 and float(row[3]) > 0 for row in rows[2:10])
    assert names[-2:] == ["flow matching", "exact target, 48 images"]
    assert rows[-2][2] == "1.000"


@pytest.mark.long
def test_the_tables_of_the_divergence_penalty(capsys):
    fdm.main(fdm.Config(networks=("perceptron",), points=4, turns=1))
    rows = {row[0]: row for row in _rows(capsys.readouterr().out)}
    assert [rows["flow matching"][column] for column in (2, 3, 6)] == ["1.00"] * 3
    assert {name: rows[name][4] for name in fdm.BARS} == fdm.BARS
    with pytest.raises(ValueError, match="networks must be"):
        fdm.main(fdm.Config(networks=("MLP",)))


@pytest.mark.parametrize(
    ("benchmark", "options", "words"),
    [
        (uncertainty, {"time": 1.0}, "times must be distinct numbers between 0 and 1"),
        (uncertainty, {"batch_size": 0}, "batch_size must be between 1"),
        (uncertainty, {"chunks": (4, 0)}, r"chunks must be positive, got \(4, 0\)"),
        (closed_form, {"batch_size": 50_001}, "batch_size must be between 1 and 50000"),
        (fdm, {"images": 3}, "images must be between 4"),
    ],
)
def test_what_cannot_be_timed_is_said_first(benchmark, options, words):
    with pytest.raises(ValueError, match=words):
        benchmark.main(benchmark.Config(**options))


@pytest.mark.long
def test_the_tables_of_the_uncertainty(capsys):
    config = uncertainty.Config(size=8, channels=(8,), repeats=1, chunks=(4,), sizes=(8,))
    uncertainty.main(config)
    rows = _rows(capsys.readouterr().out)
    passes = {row[0]: row[2] for row in rows}
    assert passes["forward pass"] == "1.0"
    assert set(uncertainty.BARS) < set(passes)
    assert rows[-1][:3] == ["8x8x1", "64", "4"]
    assert float(rows[-1][3]) > 0


def test_exponents_are_those_of_a_line_through_logarithms():
    sizes = (2, 3, 7, 20)
    values = np.array([[5.0, 2.0, 9.0, 11.0], [0.1, 3.0, 0.5, 7.0]])
    wanted = [np.polyfit(np.log(sizes), np.log(v), 1)[0] for v in values]
    np.testing.assert_allclose(scaling.exponent(sizes, values), wanted, rtol=1e-12)
    power = 3.0 * np.array(sizes) ** 1.7
    np.testing.assert_allclose(scaling.exponent(sizes, power), 1.7, rtol=1e-12)


def test_the_table_and_the_picture_of_growth(tmp_path, capsys):
    place = tmp_path / "pictures" / "growth.png"
    config = scaling.Config(only=("one_probe",), num_sizes=3, turns=2, figure=str(place))
    scaling.main(config)
    head, _, row = _rows(capsys.readouterr().out)
    assert head[2:] == ["ms", "exponent of time", "MiB", "exponent of memory"]
    assert row[:2] == ["divergence, one probe", "dimension, 8 to 128"]
    small, large = (float(value) for value in row[4].split(" to "))
    assert 0 < small < large
    assert 0 < float(row[5]) < 1.2  # proportional at most, whatever the machine
    assert place.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ("probe",)}, "only must be of training, sampling, coupling, one_probe"),
        ({"num_sizes": 2}, "num_sizes must be between 3 and 5"),
        ({"figure": "growth.pdf"}, "figure must end in .png, got 'growth.pdf'"),
    ],
)
def test_what_cannot_be_swept_is_said_first(options, words):
    with pytest.raises(ValueError, match=words):
        scaling.main(scaling.Config(**options))


@pytest.mark.slow
def test_the_table_of_calls(capsys):
    small = {"width": 8, "batch_size": 8, "images": 8, "channels": (8,)}
    calls.main(calls.Config(num_steps=100, turns=1, **small))
    head, _, *rows = _rows(capsys.readouterr().out)
    assert head[-2:] == ["ratio", "same bits"]
    assert [row[0] for row in rows] == ["perceptron", "U-Net"]
    assert all(float(row[3]) > 0 and row[4] == "yes" for row in rows)
