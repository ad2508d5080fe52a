"""Flow matching in the plane: the data of a seed, what is measured, a tiny run, users' mistakes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import experiments.run
import fmjax
from experiments.closed_form import efm_toy
from experiments.closed_form._efm import toy_data
from experiments.run import arrays, cli
from tests.oracles import tiny

TINY = tiny.config(
    efm_toy.Config,
    seeds=(0,),
    banks=(16,),
    num_train=40,
    width=8,
    depth=2,
    batch_size=8,
    num_steps=4,
    eval_every=2,
    num_pairs=64,
    num_points=10,
    tolerance=1e-2,
)
SIZES = (TINY.num_train, TINY.measures.num_pairs, TINY.measures.num_points)


def _distance(x, y):
    costs = ((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2).sum(axis=-1)
    return costs[linear_sum_assignment(costs)].mean() ** 0.5


@pytest.mark.slow
def test_the_exact_velocity_and_what_is_measured_of_one_that_stays():
    given, variance = efm_toy.problem(jax.random.key(3), *SIZES)
    train, t = np.float64(given.train), np.float64(given.t)[:, None]
    x = np.float64(given.x)
    logits = -((x[:, None] - t[..., None] * train) ** 2).sum(axis=-1) / (2 * (1 - t) ** 2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean = weights / weights.sum(axis=1, keepdims=True) @ train
    wanted = (mean - x) / (1 - t)
    early = t[:, 0] < 0.9  # the state itself is rounded, and the field is steep towards the data
    np.testing.assert_allclose(given.exact[early], wanted[early], rtol=2e-3, atol=2e-3)
    # The variance of x1 - x0 about its mean is (1 - t)^-2 times that of x1 given the state.
    squares = weights / weights.sum(axis=1, keepdims=True) @ (train**2) - mean**2
    each = (squares / (1 - t) ** 2).mean(axis=1)
    assert abs(float(variance) - each.mean()) < 5 * each.std() / len(each) ** 0.5

    still = jax.tree.map(
        jnp.zeros_like, fmjax.models.perceptron(jax.random.key(0), 2, width=8, depth=2)[1]
    )
    errors, points = efm_toy.measure(still, given, tolerance=1e-2)
    np.testing.assert_allclose(points, given.noise, atol=1e-6)
    assert float(errors["velocity_error"]) == pytest.approx(np.mean(np.square(given.exact)))
    for name, near in zip(("w2_train", "w2_test"), given.near, strict=True):
        assert float(errors[name]) == pytest.approx(_distance(given.noise, near), rel=1e-5)
    np.testing.assert_array_equal(given.near[0], given.train[:10])
    assert not np.array_equal(given.near[0], given.near[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "run"
    efm_toy.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    given, _ = efm_toy.problem(jax.random.fold_in(jax.random.key(0), 1000), *SIZES)
    for row in json.loads((run / "results.json").read_text())["models"]:
        name = f"seed_{row['seed']}/{row['method']}"
        found = tiny.loaded(run, name, run / name, TINY)
        gap = jax.vmap(found.velocity)(given.x, given.t) - given.exact
        np.testing.assert_allclose(jnp.mean(gap**2), row["velocity_error"], rtol=1e-5)
        np.testing.assert_array_equal(found.data, given.train)
        points = arrays.read(run / "arrays.npz")["seed_0"][row["method"]]["points"]
        distance = fmjax.metrics.wasserstein2(points, given.near[1])
        np.testing.assert_allclose(distance, row["w2_test"], rtol=1e-4)


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    results = json.loads((run / "results.json").read_text())
    models = results["models"]
    assert [(m["seed"], m["method"]) for m in models] == [(0, "CFM"), (0, "EFM-16"), (0, "EFM-n")]
    for model in models:
        assert [point["step"] for point in model["curve"]] == [2, 4]
        for name in ("velocity_error", "w2_train", "w2_test"):
            assert model[name] == pytest.approx(model["curve"][-1][name], rel=1e-5)
    starts = [model["curve"][0]["velocity_error"] for model in models]
    assert len(set(starts)) == 3
    assert max(starts) < 1.1 * min(starts)  # two steps from the same network on the same data
    assert 0 < results["data"][0]["w2_train_test"] < 5
    tiny.check_pictures(run / "figures", {"training", "points"})


@pytest.mark.slow
def test_one_more_seed_leaves_the_other_networks_alone(run, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "seed_0" / "EFM-n" / "checkpoints" / "4")  # interrupted
    efm_toy.main(tiny.replace(TINY, workdir=str(again), seeds=(0, 5)))
    before, after = (json.loads((f / "results.json").read_text())["models"] for f in (run, again))
    without = lambda m: m | {"curve": [p | {"steps_per_second": 0} for p in m["curve"]]}
    assert [without(m) for m in after if m["seed"] == 0] == [without(m) for m in before]
    out = capsys.readouterr().out
    assert "EFM-16" in out
    assert "variance of the target of CFM per dimension" in out


@pytest.mark.slow
def test_another_configuration_is_refused(run):
    with pytest.raises(ValueError, match=r"other options: learning_rate"):
        efm_toy.main(tiny.replace(TINY, workdir=str(run), learning_rate=1e-4))


def _own(path, n):
    random = np.random.default_rng(0)
    np.savetxt(path, random.gamma(2.0, 1.0, (n, 2)), delimiter=",", header="x,y")
    return str(path)


def test_a_users_own_points_are_drawn_without_repetition(tmp_path):
    file = _own(tmp_path / "mine.csv", 100)
    own = toy_data.load(file, 40)
    given, _ = efm_toy.problem(jax.random.key(3), *SIZES, own)
    assert given.train.shape == (40, 2)
    whole = {row.tobytes() for row in own}
    drawn = [row.tobytes() for row in (*np.asarray(given.train), *np.asarray(given.near[1]))]
    assert len(set(drawn)) == 50
    assert set(drawn) < whole
    other, _ = efm_toy.problem(jax.random.key(4), *SIZES, own)
    assert not np.array_equal(other.train, given.train)
    with pytest.raises(ValueError, match=r"holds 100 points, .*give --num-train 50 or less"):
        toy_data.load(file, 51)


@pytest.mark.slow
def test_a_run_on_a_users_own_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = _own(tmp_path / "mine.csv", 100)
    efm_toy.main(tiny.replace(TINY, dataset=file, banks=()))
    folder = tmp_path / "runs" / "closed_form" / "efm_toy_mine"
    tiny.check_pictures(folder / "figures", {"training", "points"})
    own = toy_data.load(file, 40)
    found = experiments.run.load(folder, "seed_0/CFM").data
    assert {row.tobytes() for row in np.asarray(found)} < {row.tobytes() for row in own}
    np.savetxt(file, own + 1.0, delimiter=",")
    with pytest.raises(ValueError, match="a run with other points"):
        experiments.run.load(folder, "seed_0/CFM")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "1", "1"], "seeds must be different integers from 0"),
        (["--seeds"], "at least one seed"),
        (["--methods", "--banks"], "one method or bank"),
        (["--banks", "64"], "banks must be from batch_size 128 to the 5000 training points"),
        (["--num-points", "6000"], "num_points must be between 1 and 5000"),
        (["--dataset", "moons"], "dataset must be eight_gaussians or a path ending in .npy or"),
        (["--dataset", "none.csv"], "no file none.csv: an .npy or .csv file of numbers [n, 2]"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (["--workdir", __file__ + "/run"], "cannot write the run folder"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(efm_toy.main, efm_toy.Config, args=arguments)
    assert stopped.value.code == 1
    assert words in capsys.readouterr().err
