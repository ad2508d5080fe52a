"""Empirical flow matching on images: what is measured, the tables, a tiny run, users' mistakes."""

import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.axes import Axes

import experiments.run
import fmjax
from experiments.closed_form import efm_images
from experiments.closed_form._efm import pictures, tables
from experiments.images import data, own, quality, training
from experiments.images.features import Embedding
from experiments.run import arrays, cli
from tests.oracles import tiny

TINY = tiny.config(
    efm_images.Config,
    embedding_steps=4,
    seeds=(0,),
    methods=("CFM", "EFM-n"),
    banks=(16,),
    channels=(8,),
    batch_size=8,
    epochs=2,
    eval_epochs=1,
    num_samples=6,
    solver_steps=2,
    eval_batch_size=6,
    num_shown=3,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A data set of 32 training and 8 held-out images of two classes."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    random = np.random.default_rng(0)
    images = random.integers(0, 17, (40, 4, 5, 1), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 2, levels=17)
    return path


def _main(file, folder, **options):
    options = {"dataset": str(file), "workdir": str(folder)} | options
    efm_images.main(tiny.replace(TINY, **options))


# What is measured.


@pytest.fixture(scope="module")
def measured():
    """The pixels as their own features."""
    random = np.random.default_rng(1)
    train, held_out = (random.integers(0, 17, (n, 2, 2, 1), dtype=np.uint8) for n in (30, 20))
    images = data.Images(train, held_out, 17)
    embed = lambda x: jnp.asarray(x).reshape(len(x), -1)
    return images, quality.reference(Embedding(embed, "pixels"), images)


@pytest.mark.slow
def test_samples_are_rounded_to_pixels():
    noise = 0.5 * np.random.default_rng(2).standard_normal((5, 2, 2, 1)).astype(np.float32)
    options = {"num_steps": 2, "size": 3}
    drift = lambda params, x, t: params * jnp.ones_like(x)
    pixels = quality.sample(drift, jnp.float32(0.25), noise, 17, **options)
    wanted = np.clip(np.floor((noise + 0.25 + 1.0) * 17 / 2), 0, 16)
    np.testing.assert_array_equal(pixels, wanted)
    assert pixels.dtype == np.uint8
    with pytest.raises(ArithmeticError, match="^5 of 5 results are not finite"):
        quality.sample(drift, jnp.float32(jnp.nan), noise, 17, **options)


@pytest.mark.slow
def test_the_distances_of_the_data_from_itself(measured):
    images, reference = measured
    held_out, train = quality.of_data(reference, images, 12)
    flat = lambda x: np.float32(x).reshape(len(x), -1) * 2 / 17
    first = flat(images.held_out[:12])
    wanted = float(fmjax.metrics.frechet(first, flat(images.train)))
    assert held_out["frechet_train"] == pytest.approx(wanted, rel=1e-4)
    gaps = np.linalg.norm(first[:, None] - flat(images.train)[None], axis=-1)
    assert held_out["nearest_distance"] == pytest.approx(gaps.min(axis=1).mean(), rel=1e-5)
    assert np.isnan(held_out["frechet_test"])
    assert np.isnan(train["frechet_train"])
    assert 0 < train["frechet_test"] < 10
    copied = quality.copies(reference, images.train[:7])
    assert copied == {"memorized": 1.0, "nearest_distance": 0.0}


def _row(method, seed, test):
    curve = [{"epoch": e, "frechet_test": test * 4 / e, "frechet_train": 1.0} for e in (1, 2, 4)]
    numbers = {"frechet_train": 3.0, "memorized": 0.25, "nearest_distance": 2.0}
    return {"method": method, "seed": seed, "frechet_test": test, "curve": curve} | numbers


ROWS = [_row("CFM", 0, 2.0), _row("EFM-n", 0, 1.8), _row("CFM", 1, 4.0), _row("EFM-n", 1, 3.2)]
OF_DATA = [
    {"method": "held-out images", "num_images": 5, **dict.fromkeys(quality.SCORES, 0.5)},
    {"method": "training images", "num_images": 6, **dict.fromkeys(quality.SCORES, math.nan)},
]


def test_the_tables_say_what_the_seeds_have_in_common():
    # 1.8 / 2 and 3.2 / 4 are 10 and 20 % below: -15 with a standard deviation of 7.1.
    head, cfm, efm, held_out, train = tables.table(ROWS, OF_DATA).splitlines()
    assert cfm.split() == (
        "CFM 2 3.000 ± 1.414 - 3.000 ± 0.000 0.250 ± 0.000 2.000 ± 0.000".split()
    )
    assert efm.split()[:9] == "EFM-n 2 2.500 ± 0.990 -15.0 ± 7.1 3.000".split()
    assert held_out.split() == "held-out images 0.500 - 0.500 0.500 0.500".split()
    assert train.split() == "training images - - - - -".split()
    assert head.split()[:4] == ["method", "seeds", "test", "Frechet"]
    epochs, cfm, _ = tables.epochs_table(ROWS).splitlines()
    assert epochs.split() == ["epoch", "1", "2", "4"]
    assert cfm.split()[1:4] == ["12.000", "±", "5.657"]
    assert tables.epochs_table(ROWS, most=2).splitlines()[0].split() == ["epoch", "1", "4"]


def test_the_figure_has_a_band_for_each_method_and_their_gaps():
    figure = pictures.curves(ROWS, OF_DATA, dataset="test", space="pixels")
    test, train, gap = (ax for ax in figure.axes if isinstance(ax, Axes))
    assert [text.get_text() for text in test.get_legend().get_texts()] == ["CFM", "EFM-n"]
    np.testing.assert_allclose(test.lines[0].get_ydata(), [12.0, 6.0, 3.0])
    np.testing.assert_allclose(gap.lines[0].get_ydata(), 0.0, atol=1e-12)
    np.testing.assert_allclose(gap.lines[1].get_ydata(), -15.0)
    assert not gap.collections
    low, high = (f(test.collections[1].get_paths()[0].vertices[:, 1]) for f in (min, max))
    np.testing.assert_allclose([low, high], [1.8, 12.8])
    assert [label.get_text() for label in train.get_xticklabels()] == ["1", "2", "4"]


# A run.


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "run"
    _main(file, folder)
    return folder


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run, file):
    with pytest.raises(ValueError, match=r"give one of 'seed_0/CFM', 'seed_0/EFM-16', 'seed_0/EFM"):
        experiments.run.load(run)
    config = tiny.replace(TINY, dataset=str(file))
    found = tiny.loaded(run, "seed_0/EFM-16", run / "seed_0" / "EFM-16", config)
    x = jnp.full(found.data.train.shape[1:], 0.3)
    shown = arrays.read(run / "arrays.npz")["seed_0"]["EFM-16"]["shown"]
    assert shown.shape == (3, *x.shape)
    apply, _ = efm_images.network(config.training.channels, found.data, 0)
    np.testing.assert_array_equal(found.velocity(x, 0.5), apply(found.params, x, 0.5))


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    results = json.loads((run / "results.json").read_text())
    assert 0 <= results["held_out_accuracy"] <= 1
    models = results["models"]
    assert [m["method"] for m in models] == ["CFM", "EFM-16", "EFM-n"]
    for model in models:
        assert [point["epoch"] for point in model["curve"]] == [1, 2]
        for name in ("frechet_test", "frechet_train"):
            assert model[name] == pytest.approx(model["curve"][-1][name], rel=1e-5)
        place = run / "seed_0" / model["method"]
        assert (place / "checkpoints" / "8").is_dir()
        assert len(json.loads((place / "evaluation.json").read_text())["shown"]) == 3
    assert [row["method"] for row in results["data"]] == ["held-out images", "training images"]
    tiny.check_pictures(run / "figures", {"frechet", "copies", "samples"})


@pytest.mark.long
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(file, run, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "seed_0" / "EFM-16" / "checkpoints" / "8")
    (again / "seed_0" / "EFM-16" / "evaluation.json").unlink()
    (again / "results.json").unlink()
    _main(file, again)
    assert tiny.results(again) == tiny.results(run)
    assert "test Frechet during the training" in capsys.readouterr().out


@pytest.mark.long
def test_one_more_seed_and_one_method_less_leave_the_other_networks_alone(file, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shared = {"embedding_dir": str(run / "embedding_4")}
    _main(file, again, seeds=(0, 3), methods=("CFM",), banks=(), **shared)
    before, after = (tiny.results(folder)["models"] for folder in (run, again))
    assert after[0] == before[0]
    assert [(m["seed"], m["method"]) for m in after] == [(0, "CFM"), (3, "CFM")]


@pytest.mark.slow
def test_another_embedding_or_configuration_is_refused(file, run, tmp_path):
    before = tiny.contents(run)
    with pytest.raises(ValueError, match=r"other options: learning_rate"):
        _main(file, run, learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"other options: embedding_steps"):
        _main(file, run, embedding_steps=5)
    assert tiny.contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "mist"], "unknown data set 'mist'"),
        (["--batch-size", "5000"], "batch_size must lie between 1 and the 1438"),
        (["--banks", "32"], "banks must be from batch_size 64 to the 1438 training points, got 32"),
        (["--banks", "2000"], "got 2000"),
        (["--channels", "12"], "channels must be divisible by num_groups"),
        (["--seeds", "-1"], "seeds must be different integers from 0"),
        (["--methods", "--banks"], "one method or bank"),
        (["--num-shown", "1439"], "num_shown must be between 1 and 1438"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--workdir", __file__ + "/run"], "cannot write the run folder"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(efm_images.main, efm_images.Config, args=arguments)
    assert stopped.value.code == 1
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_features_of_ones_own_need_no_labels(file, tmp_path, capsys):
    images = own.read(str(file))["images"]
    np.savez(tmp_path / "bare.npz", images=images, levels=17)
    options = {"dataset": str(tmp_path / "bare.npz"), "workdir": str(tmp_path / "run")}
    config = tiny.replace(TINY, methods=("CFM",), banks=(), **options)
    features = Embedding(lambda x: np.asarray(x).reshape(len(x), -1), "raw pixels")
    efm_images.main(config, features=features)
    assert capsys.readouterr().out.startswith("compared in raw pixels\n")
    assert not (tmp_path / "run" / "embedding_4").exists()
    held_out, _ = tiny.results(tmp_path / "run")["data"]
    _, images = training.load(config.source, config.seed)
    parts = (images.held_out[: config.samples.num_samples], images.train)
    flat = (features.embed(data.centers(part, 17)) for part in parts)
    wanted = float(fmjax.metrics.frechet(*flat))
    assert held_out["frechet_train"] == pytest.approx(wanted, rel=1e-3)
    with pytest.raises(ValueError, match=r"another embedding \(raw pixels there, others now\)"):
        efm_images.main(config, features=features._replace(fingerprint="others"))


def test_images_without_labels_leave_nothing_behind(tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.zeros((40, 4, 5), np.uint8))
    with pytest.raises(ValueError, match='"labels" is missing'):
        _main(tmp_path / "bare.npz", tmp_path / "run")
    assert not (tmp_path / "run").exists()
