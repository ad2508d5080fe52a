"""`experiments.fdm.cifar10`: its measures by a second route, a tiny run, users' mistakes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import experiments.run
from experiments.fdm import cifar10
from experiments.fdm._cifar10 import divergences, likelihoods
from experiments.images import data, objectives
from experiments.run import arrays, cli
from experiments.run.folder import read_metrics
from fmjax import divergence, losses, times
from tests import slow
from tests.oracles import tiny

TINY = tiny.config(
    cifar10.Config,
    channels=(8,),
    batch_size=8,
    num_steps=4,
    save_every=2,
    weight=0.5,
    penalty_every=2,
    embedding_steps=0,
    ablation_steps=0,
    ablation_batch=8,
    ablation_draws=3,
    num_likelihood=4,
    num_exact=2,
    draws=3,
    likelihood_probes=1,
    tolerance=1e-2,
    error_draws=16,
    num_samples=4,
    solver_steps=2,
    num_shown=3,
)
MEAN, STD, LEFT = 0.4, 0.6, 0.04


def _exact(params, x, t):
    """The velocity of the linear path from noise to N(MEAN, STD^2)."""
    slope = (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2)
    return params * (MEAN + slope * (x - t * MEAN))


def test_without_a_jacobian_the_same_number_for_an_exact_velocity():
    x = jnp.array([[[0.5], [-0.2]], [[1.3], [0.1]]])
    many = jax.jit(likelihoods._errors(_exact, LEFT, 4096))
    found = many(1.0, jax.random.split(jax.random.key(0), 2), x)
    variance = STD**2 + LEFT**2
    # The mean of log N(x + s e; MEAN, variance) over e, by hand.
    squares = ((x - MEAN) ** 2 + LEFT**2) / variance
    truth = -0.5 * (np.log(2 * np.pi * variance) + squares).sum(axis=(1, 2))
    assert np.all(np.abs(found.mean - truth) < 5 * found.standard_error)
    assert np.all(found.standard_error < 0.1)
    # On average over the law an error of the velocity lowers it; the draws are the same.
    keys = jax.random.split(jax.random.key(1), 400)
    x = MEAN + STD * jax.random.normal(jax.random.key(2), (400, 1, 1, 1))
    few = jax.jit(likelihoods._errors(_exact, LEFT, 64))
    less = np.float64(few(1.0, keys, x).mean - few(2.0, keys, x).mean)
    assert less.mean() > 5 * less.std() / 20


def test_bits_are_those_of_numpy():
    weights = np.random.default_rng(0).normal(-100.0, 2.0, (5, 7))
    for count, groups in ((1, 7), (2, 3), (4, 1)):
        each = [
            special.logsumexp(weights[:, k * count : (k + 1) * count], axis=1) - np.log(count)
            for k in range(groups)
        ]
        wanted = -np.mean(each, axis=0) / (12 * np.log(2))
        np.testing.assert_allclose(likelihoods.bits(weights, count, 12), wanted, rtol=1e-5)
    assert likelihoods.counts(7) == [1, 2, 4]
    found = {"hutchinson": weights, "exact": weights[:2] + 1.0}
    found |= {"flow": weights[:, 0], "errors": weights[:, 0] - 12 * np.log(2)}
    made = likelihoods.summarize(found, 12)
    assert [row["num_images"] for row in made["bits_per_dim"]] == [5, 5, 5, 2, 2, 2]
    assert made["hutchinson_minus_exact"]["mean"] == pytest.approx(1 / (12 * np.log(2)), rel=1e-4)
    assert made["without_jacobian"]["gap"]["mean"] == pytest.approx(1.0)
    assert made["without_jacobian"]["gap"]["standard_error"] == pytest.approx(0.0, abs=1e-9)
    gap = likelihoods.paired(found, found | {"exact": weights[:2]}, 12)
    assert gap["draws"] == 4
    assert gap["mean"] == pytest.approx(1 / (12 * np.log(2)), rel=1e-4)


@pytest.mark.slow
def test_a_share_of_the_batch_has_the_penalty_with_as_many_times_its_weight():
    pixels = np.random.default_rng(0).integers(0, 17, (8, 2, 2, 1), dtype=np.uint8)
    apply = lambda params, x, t, key=None: params * x**2
    penalty, key = objectives.Penalty(0.7, divergences.exact), jax.random.key(3)

    def loss(**given):
        made = objectives.flow_loss(apply, 17, place=lambda _, x, n: data.centers(x, n), **given)
        return float(made(1.5, key, {"x": jnp.asarray(pixels)}))

    x0, x1, key_time, _ = objectives.pairs(
        key, jnp.asarray(pixels), 17, place=lambda _, x, n: data.centers(x, n)
    )
    t = times.stratified(key_time, (8,))
    each = []
    for one in zip(x0, x1, t, strict=True):
        target = losses.of_pair(divergences.path, *one)
        matched = losses.match_trace(lambda x: 1.5 * x**2, target, divergence=divergence.exact)
        each.append(float(matched[1]))
    base = loss()
    assert loss(penalty=penalty) - base == pytest.approx(0.7 * np.mean(each), rel=1e-4)
    assert loss(penalty=penalty, every=4) - base == pytest.approx(
        0.7 * np.mean([each[0], each[4]]), rel=1e-4
    )


def _linear(params, x, t):
    return params @ x * (1 + t)


@pytest.mark.slow
def test_the_noise_of_probes_is_that_of_hutchinson():
    matrix = jnp.array([[1.0, 0.8, 0.0], [0.2, -0.5, 0.6], [0.4, 0.0, 0.3]])
    pairs = (
        jnp.array([[0.3, -1.0, 0.5]]),
        jnp.array([[0.9, 0.2, -0.4]]),
        jnp.array([0.4]),
    )
    draws = 2000
    found = divergences.noise(_linear, matrix, pairs, jax.random.key(0), draws)
    assert found["exact"]["gradient_bias"] == found["exact"]["penalty_variance"] == 0.0
    # The mean square of K probes is larger by the variance of their mean, over d.
    symmetric = 1.4 * np.asarray(matrix + matrix.T) / 2
    variance = 2 * ((symmetric**2).sum() - (np.diag(symmetric) ** 2).sum())
    exact = found["exact"]["penalty"]
    for count in divergences.COUNTS:
        row = found[f"{count} probe{'s' * (count > 1)}"]
        error = exact * (row["penalty_variance"] / draws) ** 0.5
        wanted = exact + 0.6**2 * variance / count / 3
        assert abs(row["penalty"] - wanted) < 5 * error
    row = found["product of 2"]
    assert abs(row["penalty"] - exact) < 5 * exact * (row["penalty_variance"] / draws) ** 0.5
    assert abs(row["gradient_bias"]) < 5 * row["gradient_variance"] / draws
    variances = [found[name]["gradient_variance"] for name in ("1 probe", "4 probes", "16 probes")]
    assert variances[0] > 3 * variances[1] > 9 * variances[2]


@pytest.fixture(scope="module")
def images_file(tmp_path_factory):
    return tiny.images_file(tmp_path_factory, 40)


@pytest.mark.slow
def test_a_small_run_leaves_its_numbers(images_file, tmp_path, capsys):
    folder = tmp_path / "run"
    asked = tiny.replace(TINY, dataset=images_file, workdir=str(folder), noises=("truncated",))
    cifar10.main(asked)
    results = json.loads((folder / "results.json").read_text())
    told = capsys.readouterr().out
    assert "truncated normal / FDM" in told
    assert "Frechet" not in told
    assert results["costs"]["FM"]["time_ratio"] == 1.0
    kept = arrays.read(folder / "arrays.npz")["likelihood"]["truncated"]
    for method in cifar10.METHODS:
        rows = results["likelihood"]["networks"][f"truncated/{method}"]["bits_per_dim"]
        assert [(row["divergence"], row["draws"]) for row in rows] == [
            (way, k) for way in ("hutchinson", "exact") for k in (1, 2)
        ]
        wanted = -kept[method]["exact"].mean(axis=1) / (16 * np.log(2))
        assert rows[2]["mean"] == pytest.approx(wanted.mean(), rel=1e-5)
        assert rows[2]["standard_error"] == pytest.approx(np.std(wanted, ddof=1) / 2**0.5, rel=1e-4)
    assert not np.array_equal(kept["FM"]["exact"], kept["FDM"]["exact"])
    tiny.check_pictures(folder / "figures", {"samples", "bits"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a few steps with all that there is."""
    folder = tmp_path_factory.mktemp("cifar10") / "run"
    labels = np.arange(40) % 2
    file = tiny.images_file(tmp_path_factory, 40, labels=labels)
    flat = {"dataset": file, "workdir": str(folder), "ablation_steps": 2, "embedding_steps": 2}
    config = tiny.replace(TINY, **flat)
    cifar10.main(config)
    return config, folder


@pytest.mark.slow
def test_a_run_folder_holds_everything(run, capsys):
    config, folder = run
    tiny.check_pictures(folder / "figures", {"samples", "bits", "probes"})
    results = tiny.results(folder)
    for name in cifar10.names(config):
        assert [row["step"] for row in read_metrics(folder / name, "held_out_loss")] == [2, 4]
    assert set(results["likelihood"]["fdm_minus_fm"]) == {"uniform", "truncated"}
    assert set(results["divergences"]["trained"]) == {"no penalty", *divergences.VARIANTS}
    assert results["divergences"]["trained"]["exact"]["penalty_above"]["mean"] == 0.0
    assert len(results["quality"]["networks"]) == 4
    assert [row["num_images"] for row in results["quality"]["data"]] == [4, 4]
    cifar10.main(config)  # the same command: nothing is trained again
    told = capsys.readouterr().out
    assert "Frechet distance in classifier features" in told
    assert "the divergence in the loss" in told
    assert tiny.results(folder) == results


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    config, folder = run
    found = tiny.loaded(folder, "truncated/FDM", folder / "truncated" / "FDM", config)
    x = jnp.ones((4, 4, 1)) / 3
    others = [
        experiments.run.load(folder, name).velocity(x, 0.5)
        for name in ("truncated/FM", "uniform/FDM")
    ]
    for other in others:
        assert jnp.abs(other - found.velocity(x, 0.5)).max() > 1e-6


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_in_the_same_bits(run, tmp_path):
    config, folder = run
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "truncated" / "FDM" / "checkpoints" / "4")
    (again / "results.json").unlink()
    cifar10.main(tiny.replace(config, workdir=str(again)))
    assert tiny.results(again) == tiny.results(folder)


@pytest.mark.slow
def test_another_configuration_is_refused(run):
    config, folder = run
    before = tiny.contents(folder)
    with pytest.raises(ValueError, match=r"other options: weight .*--workdir"):
        cifar10.main(tiny.replace(config, weight=0.1))
    assert tiny.contents(folder) == before


@slow.but_the_first("method", ["FDM", "FM"])
def test_the_methods_differ_by_the_penalty_alone(method):
    penalty = cifar10.penalties(cifar10.Config())[method]
    assert (penalty is None) == (method == "FM")
    if penalty is not None:
        assert penalty.weight == 0.01
    losses = cifar10.make_losses(cifar10.Config(), "uniform", 17)
    assert losses["FDM"].keywords["place"] is losses["FM"].keywords["place"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noises", "uniform", "uniform"], "noises must be one or both of"),
        (["--noises", "normal"], "normal"),
        (["--weight", "-1"], "weight must be between 0"),
        (["--penalty-every", "65"], "penalty_every must be at most the batch_size 64"),
        (["--num-exact", "200"], "num_exact must be between 0 and 64"),
        (["--num-likelihood", "1", "--num-exact", "0"], "one image has no standard error"),
        (["--draws", "0"], "draws must be at least 1"),
        (["--deviations", "0.5"], "deviations must be at least 1"),
        (["--deviations", "1"], "deviations must be more than 1.18"),
        (["--ablation-draws", "1"], "ablation_draws must be at least 2"),
        (["--ablation-batch", "12"], "12 does not divide by the 8 devices"),
        (["--num-shown", "400"], "num_shown must be between 1 and 359"),
        (["--seed", "-1"], "seed must be between 0"),
        (["--dataset", "cifar"], "unknown data set 'cifar'"),
        (["--workdir", __file__ + "/run"], "run"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(cifar10.main, cifar10.Config, args=arguments)
    assert stopped.value.code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
