"""The toy task of DNA: its law, its quick path, its measures, a tiny run, users' mistakes."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import experiments.run
from experiments.fdm import dna
from experiments.fdm._dna import law as laws
from experiments.fdm._dna import measures, quick, tables
from experiments.run import arrays, cli
from experiments.run.folder import read_metrics
from fmjax import simplex
from tests import slow
from tests.oracles import tiny

TINY = tiny.config(
    dna.Config,
    length=2,
    num_classes=4,
    num_seeds=2,
    weight=0.5,
    width=8,
    depth=1,
    batch_size=16,
    penalty_every=2,
    num_steps=4,
    save_every=2,
    num_samples=200,
    solver_steps=5,
    num_states=16,
)
LAW = np.array([[0.6, 0.25, 0.1, 0.05], [0.1, 0.2, 0.3, 0.4]])


def test_the_law_is_the_papers_and_its_samples_have_it():
    law = laws.probabilities(laws.Letters())
    assert law.shape == (4, 40)
    np.testing.assert_allclose(law.sum(axis=1), 1.0)
    ratios = law.max(axis=1) / law.min(axis=1)
    assert np.all((ratios > 2.0) & (ratios < np.e))
    letters = laws.sample(np.random.default_rng(0), LAW, 50, 400)
    assert letters.shape == (50, 400, 2)
    seen = measures.frequencies(letters.reshape(-1, 2), 4)
    assert np.all(np.abs(seen - LAW) < 5 * np.sqrt(LAW / 20_000))


@slow.but_the_first("classes", [40, 2, 500])
def test_the_quick_path_is_the_librarys(classes):
    b = jnp.concatenate([jnp.exp(-jnp.linspace(0.0, 39.0, 200)), jnp.linspace(0.01, 1.0, 100)])
    paths = quick.dirichlet(classes), simplex.dirichlet(classes)
    for name in ("coefficient", "pull"):
        ours, theirs = (
            jax.jit(jax.vmap(partial(getattr(path, name), b)))(jnp.linspace(0.01, 1.0, 23))
            for path in paths
        )
        np.testing.assert_allclose(ours, theirs, rtol=3e-5 if classes <= 40 else 3e-4)
    assert paths[0].coefficient(jnp.zeros(3), 0.5).tolist() == [0.0, 0.0, 0.0]


def test_the_exact_predictions_are_bayes_rule():
    x, t = np.array([[0.1, 0.2, 0.3, 0.4], [0.05, 0.05, 0.8, 0.1]]), 0.4
    densities = [scipy.stats.dirichlet.pdf(x.T, 1 + 7.0 * t * np.eye(4)[j]) for j in range(4)]
    expected = LAW * np.transpose(densities)
    found = jnp.exp(laws.posterior(simplex.dirichlet(4), jnp.asarray(LAW), jnp.asarray(x), t))
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
    # On the linear path a letter is possible where its coordinate is at least t; else the nearest.
    found = jnp.exp(laws.posterior(simplex.linear(4), jnp.asarray(LAW), jnp.asarray(x), 0.3))
    np.testing.assert_allclose(found, [[0, 0, 2 / 3, 1 / 3], [0, 0, 1, 0]], atol=1e-6)
    found = jnp.exp(laws.posterior(simplex.linear(4), jnp.asarray(LAW), jnp.asarray(x), 0.5))
    np.testing.assert_allclose(found, [[0, 0, 0, 1], [0, 0, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("name", dna.PATHS)
def test_the_surplus_is_what_the_cross_entropy_has_above_its_least(name):
    path, t, n = dna.PATHS[name](4), 0.4, 4000
    exact = partial(laws.posterior, path, jnp.asarray(LAW))
    other = lambda x, t: 3.0 * x + jnp.arange(8.0).reshape(2, 4) * t

    @jax.jit
    @jax.vmap
    def at(key, x1):
        x = path.sample(key, x1, t)
        losses = [simplex.cross_entropy(logits, x, x1, t) for logits in (other, exact)]
        surplus = partial(measures.surplus, path=path, law=jnp.asarray(LAW), x=x, t=t)
        return losses[0] - losses[1], surplus(other), surplus(exact)

    x1 = jnp.asarray(laws.sample(np.random.default_rng(0), LAW, n))
    above, surplus, own = at(jax.random.split(jax.random.key(1), n), x1)
    assert jnp.abs(own).max() < 1e-6
    gap = np.asarray(above - surplus)
    assert surplus.mean() > 0.05
    assert abs(gap.mean()) < 5 * gap.std() / n**0.5


def test_the_distances_by_hand():
    seen = np.array([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4]])
    found = measures.distances(seen, LAW, 8)
    # |-0.1| + 0 + 0.15 + |-0.05| over 2, and 0; the mean over positions.
    assert found["tv"] == pytest.approx(0.15 / 2)
    assert found["reverse_kl"] == pytest.approx(scipy.stats.entropy(seen[0], LAW[0]) / 2)
    smooth = (8 * seen + 0.5) / 10
    expected = np.mean([scipy.stats.entropy(p, q) for p, q in zip(LAW, smooth, strict=True)])
    assert found["kl"] == pytest.approx(expected)
    same = measures.distances(LAW, LAW, 10**9)
    np.testing.assert_allclose(list(same.values()), 0.0, atol=1e-6)


@slow.but_the_first("name", ["linear", "dirichlet"])
def test_samples_of_the_exact_field_have_the_law(name):
    keys = jax.random.split(jax.random.key(0), (2, 3000))
    found = measures.references(
        LAW, dna.PATHS[name](4), keys, num_steps=200, rng=np.random.default_rng(0)
    )
    for seen in (found["exact field"]["drawn"], found["data"]["drawn"]):
        assert seen.shape == (2, 2, 4)
        np.testing.assert_allclose(seen.sum(axis=-1), 1.0)
        # Euler's steps bend the trajectories a little: one per cent beside five standard errors.
        assert np.all(np.abs(seen - LAW) < 0.01 + 5 * np.sqrt(LAW / 3000))
    # Each row of keys gives its own samples.
    assert not np.array_equal(*found["exact field"]["drawn"])


@pytest.mark.slow
def test_every_network_is_trained_as_if_alone():
    apply = lambda params, x, t: params["a"] * x + params["b"] * t * jnp.arange(8.0).reshape(2, 4)
    params = {"a": jnp.array([3.0, -2.0]), "b": jnp.array([1.0, 0.5])}
    x1 = laws.sample(np.random.default_rng(0), LAW, 16, 2)

    @jax.jit
    @jax.value_and_grad
    def loss(params, x1, weight):
        made = dna.make_loss(apply, quick.dirichlet(4), weight, 2)
        return made(params, jax.random.key(0), {"x1": x1})

    value, before = loss(params, jnp.asarray(x1), 0.3)
    changed = x1.copy()
    changed[:, 1] = 3 - changed[:, 1]
    _, after = loss(params, jnp.asarray(changed), 0.3)
    for name in params:
        assert before[name][0] == after[name][0]
        assert before[name][1] != after[name][1]
    # The weight multiplies the penalty of the same states and probes: the loss is a line in it.
    ends = [float(loss(params, jnp.asarray(x1), weight)[0]) for weight in (0.0, 0.6)]
    assert float(value) == pytest.approx(np.mean(ends), rel=1e-5)
    assert ends[1] > ends[0] + 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("dna") / "run"
    dna.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_a_run_folder_holds_everything(run, capsys):
    tiny.check_pictures(run / "figures", {"predictions", "marginals"})
    results = tiny.results(run)
    law = laws.probabilities(TINY.letters)
    kept = arrays.read(run / "arrays.npz")["frequencies"]
    for name, place in dna.PLACES.items():
        lines = (run / place / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4]
        assert [row["t"] for row in results[name]["surplus"]] == list(measures.TIMES)
        last = np.mean([row["mean"] for row in results[name]["surplus"]])
        assert json.loads(lines[-1])["surplus"] == pytest.approx(last, rel=1e-5)
        for reading in measures.READINGS:
            by_hand = 0.5 * np.abs(kept[name][reading] - law).sum(axis=-1).mean(axis=-1)
            np.testing.assert_allclose(results[name][reading]["tv"]["seeds"], by_hand, rtol=1e-5)
    assert set(results) == {"FM", "FDM", "exact field", "data", "history"}
    dna.main(tiny.replace(TINY, workdir=str(run)))  # the same command: nothing is trained again
    told = capsys.readouterr().out
    assert told == tables.report(results, run) + "\n"
    assert tiny.results(run) == results


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    found = experiments.run.load(run, "FDM/1")
    np.testing.assert_array_equal(found.data, laws.probabilities(TINY.letters))
    x = jnp.array([[0.1, 0.2, 0.3, 0.4], [0.05, 0.05, 0.8, 0.1]])
    logits = found.apply(found.params, x, 0.5)
    theirs = simplex.velocity(simplex.dirichlet(4), jax.nn.softmax(logits), x, 0.5)
    np.testing.assert_allclose(found.velocity(x, 0.5), theirs, rtol=1e-3, atol=1e-5)
    others = [experiments.run.load(run, name).velocity(x, 0.5) for name in ("FDM/0", "FM/1")]
    for other in others:
        assert jnp.abs(other - found.velocity(x, 0.5)).max() > 1e-6


@pytest.mark.slow
def test_both_methods_start_from_the_same_networks_and_differ_by_the_weight(run):
    first = [read_metrics(place, "surplus")[0]["surplus"] for place in (run, run / "FDM")]
    assert first[0] == pytest.approx(first[1], rel=0.05)
    assert first[0] != first[1]


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_in_the_same_bits(run, tmp_path):
    again, network = tmp_path / "again", dna.networks(TINY)
    shutil.copytree(run, again)
    shutil.rmtree(again / "FDM" / "checkpoints" / "4")
    errors = lambda params: jnp.zeros((2, 5))
    ended = [
        dna.train(TINY, TINY.weight, network, errors, place / "FDM")
        for place in (again, run)  # continued from step 2, and restored
    ]
    jax.tree.map(np.testing.assert_array_equal, *ended)


@pytest.mark.slow
def test_another_configuration_is_refused(run):
    before = tiny.contents(run)
    with pytest.raises(ValueError, match=r"other options: weight .*--workdir"):
        dna.main(tiny.replace(TINY, workdir=str(run), weight=0.1))
    assert tiny.contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-seeds", "1"], "num_seeds must be between 2 and 100"),
        (["--weight", "-1"], "weight must be between 0"),
        (["--penalty-every", "0"], "penalty_every must be between 1 and 256"),
        (["--num-classes", "1"], "num_classes must be between 2 and 500"),
        (["--num-samples", "1"], "num_samples must be at least 2"),
        (["--seed", "-1"], "seed must be between 0"),
        (["--workdir", __file__ + "/run"], "run"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(dna.main, dna.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
