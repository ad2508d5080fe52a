"""Real DNA: the networks, the loss, samples, a tiny run, users' mistakes."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import experiments.run
import fmjax
from experiments.fdm import promoters
from experiments.fdm._promoters import (
    classifier,
    losses,
    measures,
    network,
    sequences,
    tables,
)
from experiments.run import arrays, cli
from fmjax import simplex
from tests.oracles import tiny

LENGTH = 60
TINY = tiny.config(
    promoters.Config,
    weights=(2.0,),
    channels=8,
    kernel_size=3,
    batch_size=16,
    penalty_every=2,
    num_steps=4,
    save_every=2,
    num_samples=10,
    solver_steps=3,
    start=42,
    classifier_steps=4,
)


def _text(letters):
    return ["".join(sequences.LETTERS[i] for i in row) for row in letters]


def _table(path, count=80, length=LENGTH):
    """Writes random sequences of two classes, 60 to train on and 20 held out."""
    rng = np.random.default_rng(0)
    rows = zip(
        _text(rng.choice(4, size=(count, length), p=[0.4, 0.3, 0.2, 0.1])),
        np.where(np.arange(count) % 3 == 0, "box", "none"),
        np.where(np.arange(count) % 4 == 0, "test", "train"),
        strict=True,
    )
    path.write_text("sequence,label,split\n" + "\n".join(",".join(row) for row in rows) + "\n")
    return path


def _conv(x, kernel, bias, dilation):
    """Returns the convolution with zeros beyond the ends, one output at a time."""
    half, out = len(kernel) // 2, np.tile(bias, (len(x), 1))
    for i in range(len(x)):
        for k, weights in enumerate(kernel):
            if 0 <= (j := i + (k - half) * dilation) < len(x):
                out[i] += x[j] @ weights
    return out


def test_the_trunk_by_loops():
    trunk = network.Trunk((20, 4), 8, 1, 3, rngs=nnx.Rngs(0))
    apply, params = fmjax.models.functional(trunk)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    rng = np.random.default_rng(0)
    x, context = rng.normal(size=(20, 4)), rng.normal(size=8)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    first = _conv(x, p["conv_in"]["kernel"], p["conv_in"]["bias"], 1) + p["positions"]
    hidden = np.maximum(first, 0)
    layers = ("convs", "norms", "shifts")
    for i, dilation in enumerate(network.DILATIONS):
        conv, norm, shift = (list(p[name].values())[i] for name in layers)
        moved = hidden + context @ shift["kernel"] + shift["bias"]
        normal = (moved - moved.mean()) / np.sqrt(moved.var() + 1e-6)
        normal = normal * norm["scale"] + norm["bias"]
        hidden = hidden + np.maximum(_conv(normal, conv["kernel"], conv["bias"], dilation), 0)
    found = jax.jit(apply)(params, jnp.float32(x), jnp.float32(context))
    np.testing.assert_allclose(found, hidden, rtol=1e-4, atol=1e-4)


def test_the_network_starts_at_equal_letters_and_knows_its_label():
    model = network.Logits((12, 4), 2, 8, 1, 3, rngs=nnx.Rngs(0))
    apply, params = fmjax.models.functional(model)
    x = simplex.uniform(jax.random.key(0), (12, 4))
    call = jax.jit(apply)
    assert not np.any(call(params, x, 0.3, context=0))
    params["out"]["kernel"] = jnp.ones_like(params["out"]["kernel"]).at[:, 1].set(-1.0)
    labels = [call(params, x, 0.3, context=label) for label in (0, 1)]
    assert jnp.abs(labels[0] - labels[1]).max() > 1e-3


def test_samples_follow_their_labels():
    def apply(params, x, t, context):
        return params * jax.nn.one_hot(jnp.full(5, context), 4)

    labels = np.array([0, 3, 2, 2])
    found = measures.generated(
        apply, 50.0, simplex.linear(4), (5, 4), labels, jax.random.key(0),
        num_steps=4, size=2, label="samples",
    )  # fmt: skip
    np.testing.assert_array_equal(found, np.repeat(labels[:, None], 5, axis=1))


def test_the_loss_is_the_cross_entropy_plus_the_weighted_penalty_of_a_part():
    apply = lambda params, x, t, context: params * x + context * t
    path, rng = simplex.linear(4), np.random.default_rng(0)
    batch = {"x1": jnp.asarray(rng.choice(4, (8, 6))), "label": jnp.asarray(rng.choice(2, 8))}
    loss = lambda weight: losses.of_training(apply, path, weight, 2)(3.0, jax.random.key(0), batch)
    low, middle, high = (float(jax.jit(loss)(weight)) for weight in (0.0, 0.5, 1.0))
    assert middle == pytest.approx((low + high) / 2, rel=1e-5)
    assert high > low + 1e-3
    part = sequences.Part(np.asarray(batch["x1"], np.int8), np.asarray(batch["label"]))
    found = losses.held_out(apply, path, part, size=4, seed=0)(3.0, None)["held_out_loss"]
    assert found == pytest.approx(low, rel=0.5)  # other noise and times


@pytest.mark.slow
def test_the_classifier_tells_a_letter_that_decides(tmp_path):
    rng = np.random.default_rng(0)
    letters = rng.choice(4, (240, 20)).astype(np.int8)
    labels = (rng.uniform(size=240) < 0.4).astype(np.int32)
    letters[labels == 1, 8:12], letters[labels == 0, 8::3] = 0, 2
    parts = [sequences.Part(letters[a:b], labels[a:b]) for a, b in ((0, 160), (160, 240))]
    found = classifier.fit(
        sequences.Sequences(*parts, ("no", "yes")), tmp_path,
        channels=8, num_steps=300, batch_size=32, seed=0,
    )  # fmt: skip
    assert found.accuracy > 0.95
    assert found.most == max(np.mean(labels[160:]), 1 - np.mean(labels[160:]))
    probs = found.probabilities(letters[160:])
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-5)
    assert np.mean(probs.argmax(axis=1) == labels[160:]) == found.accuracy
    assert found.features(letters[160:]).shape == (80, 8)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of sequences."""
    return _table(tmp_path_factory.mktemp("data") / "a.csv")


@pytest.fixture(scope="module")
def config(table):
    """The options of a tiny run."""
    return tiny.replace(TINY, sequences=str(table))


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("promoters") / "run"
    promoters.main(tiny.replace(config, workdir=str(folder)))
    return folder


NAMES = ["FM", "FDM 2"]


@pytest.mark.slow
def test_a_run_folder_holds_everything(run, config, capsys):
    tiny.check_pictures(run / "figures", {"logos", "distances", "training", "motifs"})
    results, kept = tiny.results(run), arrays.read(run / "arrays.npz")
    assert list(results["sets"]) == [*NAMES, "training data"]
    for name, found in results["sets"].items():
        by_hand = measures.by_position(kept[name], kept["held out"])
        assert found["tv"] == pytest.approx(by_hand["tv"])
        assert set(found["motifs"]) == {"TATA box", "initiator"}
        assert {"frechet", "sp_mse", "words_6"} < set(found)
    data = promoters.read(config)
    rows = set(_text(data.train.letters))
    assert rows.issuperset(_text(kept["training data"]))
    assert set(_text(data.held_out.letters)).issuperset(_text(kept["held out"]))
    for name, (_, place) in promoters.methods(config).items():
        lines = (run / place / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4]
        assert results["held_out_loss"][name] == json.loads(lines[-1])["held_out_loss"]
    capsys.readouterr()
    promoters.main(tiny.replace(config, workdir=str(run)))  # nothing is trained again
    again = tiny.results(run)
    assert capsys.readouterr().out == tables.report(again, run) + "\n"
    assert again == results


def test_every_weight_has_a_network_of_its_own():
    config = tiny.replace(TINY, weights=(0.5, 1e-3))
    assert promoters.methods(config) == {
        "FM": (0.0, "."),
        "FDM 0.5": (0.5, "FDM_0.5"),
        "FDM 0.001": (0.001, "FDM_0.001"),
    }


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run, config):
    found = experiments.run.load(run, "FDM 2")
    assert sequences.fingerprint(found.data) == sequences.fingerprint(promoters.read(config))
    x = simplex.uniform(jax.random.key(0), (LENGTH, 4))
    probs = jax.nn.softmax(found.apply(found.params, x, 0.5, context=0))
    theirs = simplex.velocity(simplex.dirichlet(4), probs, x, 0.5)
    np.testing.assert_allclose(found.velocity(x, 0.5), theirs, rtol=1e-3, atol=1e-4)
    other = experiments.run.load(run, "FM").velocity(x, 0.5)
    assert jnp.abs(other - found.velocity(x, 0.5)).max() > 1e-6


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_in_the_same_bits(run, config, tmp_path):
    again, data = tmp_path / "again", promoters.read(config)
    shutil.copytree(run, again)
    shutil.rmtree(again / "FDM_2" / "checkpoints" / "4")
    train = partial(promoters.train, config, 2.0, promoters.networks(config, data), data)
    ended = [train(place / "FDM_2") for place in (again, run)]  # continued, and restored
    jax.tree.map(np.testing.assert_array_equal, *ended)


@pytest.mark.slow
def test_without_classes_and_start_site_there_is_less_to_measure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(_text(np.random.default_rng(0).choice(4, (60, 20)))))
    config = tiny.replace(TINY, sequences=str(path), condition="", start=None, num_samples=4)
    promoters.main(
        tiny.replace(config, workdir=str(tmp_path / "run")), embed=lambda letters: letters[:, 0]
    )
    results, kept = tiny.results(tmp_path / "run"), arrays.read(tmp_path / "run" / "arrays.npz")
    assert results["classifier"] is None
    assert results["motifs_held_out"] is None
    found = results["sets"]["FM"]
    assert not {"motifs", "frechet"} & set(found)
    gaps = kept["FM"][:, 0].astype(float) - kept["held out"][:, 0]
    assert found["sp_mse"] == pytest.approx(np.mean(gaps**2))
    tiny.check_pictures(tmp_path / "run" / "figures", {"logos", "distances", "training"})


@pytest.mark.slow
def test_other_data_are_refused(run, config, tmp_path):
    before = tiny.contents(run)
    other = _table(tmp_path / "a.csv", count=84)
    with pytest.raises(ValueError, match=r"other data.*--workdir|data .*--workdir"):
        promoters.main(tiny.replace(config, workdir=str(run), sequences=str(other)))
    assert tiny.contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--sequences wants a file of DNA sequences of one length"),
        (["--sequences", "nowhere.csv"], "no file nowhere.csv"),
        (["--sequences", "a.csv", "--condition", "size"], "no column 'size'"),
        (["--sequences", "a.csv", "--start", "2"], "--start 2 is no start site"),
        (["--sequences", "a.csv", "--num-samples", "50"], "more than the 20 held-out sequences"),
        (["--sequences", "a.csv", "--weights", "-1"], "weights must be different numbers"),
        (["--sequences", "a.csv", "--channels", "0"], "channels must be at least 1"),
        (["--sequences", "a.csv", "--num-bins", "1"], "num_bins must be between 2 and 100"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _table(tmp_path / "a.csv")
    with pytest.raises(SystemExit) as stopped:
        cli.run(promoters.main, promoters.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
