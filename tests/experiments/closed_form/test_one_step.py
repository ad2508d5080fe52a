"""`experiments.closed_form.one_step`: measures and losses by a second route, and a tiny run."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmjax
from experiments.closed_form import one_step
from experiments.closed_form._one_step import measures, targets
from experiments.images import data
from experiments.run import arrays, cli, saved
from tests.oracles import tiny

TINY = tiny.config(
    one_step.Config,
    width=8,
    depth=1,
    batch_size=8,
    num_steps=4,
    save_every=2,
    num_seeds=2,
    num_samples=100,
    num_pairs=6,
)
BANK = np.random.default_rng(0).gamma(1.5, size=(7, 2)).astype(np.float32) - 0.4


def test_the_variance_of_the_gradient_is_that_of_single_ones(x64):
    rng = np.random.default_rng(1)
    params = {"a": jnp.asarray(rng.normal(size=3)), "b": jnp.asarray(rng.normal())}
    examples = (jnp.asarray(rng.gamma(2.0, size=(9, 3))), jnp.asarray(rng.normal(size=9)))
    loss = lambda params, x, y: (jnp.tanh(params["a"] @ x) + params["b"] - y) ** 2
    squared, variance = jax.jit(partial(measures.gradient_variance, loss))(params, examples)
    each = jax.vmap(jax.grad(loss), (None, 0, 0))(params, *examples)
    flat = np.concatenate([each["a"], each["b"][:, None]], axis=1)
    wanted = flat.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(variance, wanted, rtol=1e-12)
    np.testing.assert_allclose(squared, np.sum(flat.mean(0) ** 2) - wanted / 9, rtol=1e-11)


def test_where_r_is_t_only_the_target_counts_and_between_them_the_tangent_too(x64):
    x0, x1 = jnp.array([0.3, -1.2]), jnp.asarray(BANK[2], jnp.float64)
    u = lambda x, r, t: jnp.sin(x * (r + 1)) - t
    value = lambda name, r: float(targets.PLACES[name](u, jnp.asarray(BANK), x0, x1, r, 0.4))
    pair = fmjax.losses.cfm(lambda x, t: u(x, t, t), targets.path, x0, x1, 0.4)
    x = 0.6 * x0 + 0.4 * x1
    exact = fmjax.empirical.velocity(targets.path, jnp.asarray(BANK), x, 0.4)
    ours = jnp.mean((u(x, 0.4, 0.4) - exact) ** 2)
    for tangent in ("pair", "exact"):
        assert value(f"pair, {tangent}", 0.4) == pytest.approx(float(pair), rel=1e-12)
        assert value(f"exact, {tangent}", 0.4) == pytest.approx(float(ours), rel=1e-12)
    assert len({round(value(name, 0.8), 9) for name in targets.PLACES}) == 4


def test_the_divergence_adds_flow_and_divergence_matching_of_the_slice(x64):
    x0, x1, bank = jnp.array([0.3, -1.2]), jnp.asarray(BANK[2], jnp.float64), jnp.asarray(BANK)
    u = lambda x, r, t: jnp.sin(x[::-1] * (r + 1)) - t
    pair = (bank, x0, x1, 0.8, 0.4)
    key = jax.random.key(3)
    found = [float(targets.with_divergence(w, key, u, *pair)) for w in (0.0, 0.5)]
    slice_of = lambda x, t: u(x, t, t)
    flow = fmjax.losses.dm(slice_of, targets.path, *pair[:3], 0.4, weight=0.0)
    assert found[0] == pytest.approx(float(targets.exact_field(u, *pair) + flow), rel=1e-12)
    x = 0.6 * x0 + 0.4 * x1
    of_slice = partial(fmjax.divergence.hutchinson, key)(lambda x: slice_of(x, 0.4), x)[1]
    known = fmjax.losses.of_bank(targets.path, bank, x0, x1, 0.4)
    residual = fmjax.losses.scaled_residual(slice_of(x, 0.4), of_slice, known)
    assert found[1] - found[0] == pytest.approx(0.5 * float(residual) ** 2 / 2, rel=1e-10)


def test_scores_are_those_of_one_step_from_the_noise():
    rng = np.random.default_rng(2)
    train, test = (rng.integers(0, 256, (n, 3, 3, 1), np.uint8) for n in (60, 40))
    images = data.Images(train, test, 256)
    scores = measures.Scores(lambda params, x, t, h: params * h - x, images, 150, seed=0)
    params = jnp.array([0.25, -0.5])
    np.testing.assert_allclose(scores.samples(params)[1], -0.5, atol=1e-6)  # x + (0.5 h - x)
    found = scores(params)
    assert found["frechet_test"].shape == (2,)
    flat = data.centers(test, 256).reshape(40, -1)
    apart = np.sum((flat.mean(0) - 0.25) ** 2) + np.trace(np.cov(flat.T))
    np.testing.assert_allclose(found["frechet_test"][0], apart, rtol=1e-4)
    assert scores.held_out["frechet_test"] == pytest.approx(0.0, abs=1e-3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.images_file(tmp_path_factory, 50)


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("one_step") / "run"
    one_step.main(tiny.replace(TINY, workdir=str(folder), dataset=images))
    return folder


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    results = json.loads((run / "results.json").read_text())
    assert list(results["gradients"]) == list(targets.PLACES)
    assert list(results["samples"]) == list(one_step.PLACES)
    for found in results["samples"].values():
        assert len(set(found["frechet_test"]["seeds"])) == 2  # each network is another one
    starts = {arrays.read(run / "arrays.npz")[name].tobytes() for name in one_step.PLACES}
    assert len(starts) == 4  # and so is each method
    tiny.check_pictures(run / "figures", {"scores", "samples"})


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    found = saved.load(run, "exact/1")
    x, t = jnp.ones((4, 4, 1)), 0.3
    np.testing.assert_allclose(
        found.velocity(x, t), found.apply(found.params, x, t, 0.0), rtol=1e-6
    )
    with pytest.raises(ValueError, match="divergence/1"):
        saved.load(run, "exact")


@pytest.mark.slow
def test_a_run_again_gives_the_same(run, images, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    one_step.main(tiny.replace(TINY, workdir=str(again), dataset=images))
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert "copies of training images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-seeds", "1"], "num_seeds must be between 2"),
        (["--num-samples", "10"], "num_samples must be between 100"),
        (["--num-pairs", "1"], "num_pairs must be between 2"),
        (["--fraction-equal", "1.5"], "fraction_equal must be between 0 and 1"),
        (["--weight", "-1"], "weight must be between 0"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (["--dataset", "nothing"], "unknown data set 'nothing'"),
        pytest.param(
            ["--batch-size", "12"], "12 does not divide by the 8 devices", marks=pytest.mark.slow
        ),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(one_step.main, one_step.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
