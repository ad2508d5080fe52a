"""The embedding of `experiments.images.classifier`: its classifier, its cache, and its refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import fmjax
from experiments.images import classifier, data, labels, training
from experiments.images.features import Embedding, pin
from experiments.images.options import Features, Source
from experiments.run import loop

RECIPE = classifier.Recipe(num_steps=60, batch_size=16, channels=(8, 8, 8), size=16, dropout=0.1)


def _easy(count):
    """Images of 5x6 pixels whose class is the third of them that is bright."""
    random = np.random.default_rng(count)
    truth = np.arange(count) % 3
    images = random.integers(0, 5, (count, 5, 6, 1), dtype=np.uint8)
    for image, label in zip(images, truth, strict=True):
        image[:, 2 * label : 2 * label + 2] += 9
    return images, np.int32(truth)


(TRAIN, OF_TRAIN), (HELD_OUT, OF_HELD_OUT) = _easy(48), _easy(21)
IMAGES, LABELS = data.Images(TRAIN, HELD_OUT, 17), labels.Labels(OF_TRAIN, OF_HELD_OUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("embedding") / "shared"


@pytest.fixture(scope="module")
def fitted(folder):
    return classifier.fit(IMAGES, LABELS, folder, RECIPE)


@pytest.mark.slow
def test_the_features_are_those_that_the_classifier_decides_by(fitted):
    x = data.centers(HELD_OUT, 17)
    features = np.asarray(fitted.embed(x))
    assert features.shape == (21, 16)
    params = fitted.embed.args[0]["classify"]
    logits = features @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    assert fitted.accuracy == pytest.approx(np.mean(logits.argmax(axis=1) == OF_HELD_OUT))
    assert fitted.accuracy == 1.0  # a third of the image is brighter: nothing is easier
    # Each image by itself, whatever the others are, and more of them than are taken at a time.
    many = np.concatenate([x] * 13)
    again = np.asarray(fitted.embed(many))
    np.testing.assert_allclose(again[-21:], features, rtol=1e-4, atol=1e-5)
    # Classes are told apart: the distance of a class from the others is that of other images.
    of_class = [features[OF_HELD_OUT == label] for label in range(3)]
    own = float(fmjax.metrics.frechet(of_class[0][:3], of_class[0][3:]))
    assert own < 0.5 * float(fmjax.metrics.frechet(of_class[0], of_class[1]))


@pytest.mark.slow
def test_it_is_trained_once(fitted, folder, monkeypatch):
    lines = (folder / "metrics.jsonl").read_text()
    assert json.loads(lines.splitlines()[-1])["held_out_accuracy"] == 1.0
    monkeypatch.setattr(classifier, "_make_loss", lambda *_: lambda *_: 1 / 0)  # cannot be trained
    again = classifier.fit(IMAGES, LABELS, folder, RECIPE)
    assert (again.fingerprint, again.accuracy) == (fitted.fingerprint, fitted.accuracy)
    assert (folder / "metrics.jsonl").read_text() == lines


@pytest.mark.slow
def test_another_classifier_in_the_same_folder_is_refused(fitted, folder):
    swapped = LABELS._replace(train=OF_TRAIN[::-1])
    with pytest.raises(ValueError, match=r"other options: labels .*3 classes"):
        classifier.fit(IMAGES, swapped, folder, RECIPE)
    with pytest.raises(ValueError, match=r"other options: num_steps \(60 there, 61 now\)"):
        classifier.fit(IMAGES, LABELS, folder, dataclasses.replace(RECIPE, num_steps=61))


def test_one_class_is_no_classification(tmp_path):
    alone = LABELS._replace(train=np.zeros_like(OF_TRAIN))
    with pytest.raises(ValueError, match="all of one class"):
        classifier.fit(IMAGES, alone, tmp_path / "run", RECIPE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (lambda x: x, "must be a features.Embedding.*got function"),
        (Embedding(lambda x: x, ""), "a name of their own as fingerprint, got ''"),
        (Embedding(lambda x: x, "pixels"), "a name of their own .*got 'pixels'"),
        (
            Embedding(lambda x: x[:1], "cut"),
            r"cut must be .* of 2 images, got .*\(1, 5, 6, 1\)",
        ),
        (Embedding(lambda x: x.astype(int), "whole"), "floating features.*got int64"),
        (Embedding(lambda x: np.nan * x, "none"), "not all finite"),
        (Embedding(lambda x: x.sum(axis=(1, 2, 3)), "sums"), r"got float32 \(2,\)"),
    ],
)
def test_features_that_are_none_are_named(features, words):
    with pytest.raises(ValueError, match=words):
        classifier.embedder(Features(embedding_steps=0), Source(), 0, IMAGES, features)


def test_labels_that_are_no_classes_are_refused(tmp_path):
    numbers = LABELS._replace(train=OF_TRAIN + 10**6)
    with pytest.raises(ValueError, match=r"counted from 0, got 1000002 as the largest of 48"):
        classifier.fit(IMAGES, numbers, tmp_path / "run", RECIPE)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_classifier_of_its_own_folder_is_restored_before_the_run_has_one(fitted, folder):
    _, images = training.load(Source(), 0)
    before = (folder / "config.json").read_bytes()
    words = "the classifier of --embedding-dir and --embedding-steps: .*other options: "
    with pytest.raises(ValueError, match=words):  # it is of other data
        classifier.embedder(Features(str(folder), 60), Source(), 0, images)
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.slow
def test_what_does_without_a_classifier_takes_no_folder_of_one(fitted, tmp_path):
    without = Features(embedding_steps=0)
    assert classifier.embedder(without, Source(), 0, IMAGES)(tmp_path) is None
    mine = fitted._replace(fingerprint="mine", accuracy=None)
    found = classifier.embedder(Features(), Source(), 0, IMAGES, mine)(tmp_path)
    assert (found.name, found.accuracy) == ("mine", None)
    x = data.centers(np.concatenate([TRAIN] * 6), 17)  # more than are taken at a time
    np.testing.assert_allclose(found.embed(x), fitted.embed(x), rtol=1e-4, atol=1e-5)
    assert not list(tmp_path.iterdir())
    both = Features("there", embedding_steps=0)
    with pytest.raises(ValueError, match="but --embedding-steps is 0: leave one of them out"):
        classifier.embedder(both, Source(), 0, IMAGES)
    with pytest.raises(ValueError, match="but features are given: leave one of them out"):
        classifier.embedder(both, Source(), 0, IMAGES, fitted)


@pytest.mark.slow
def test_the_batch_divides_by_the_devices(fitted, tmp_path):
    # Fewer images than a batch, and no multiple of the eight devices.
    few, truth = IMAGES._replace(train=TRAIN[:19]), LABELS._replace(train=OF_TRAIN[:19])
    recipe = dataclasses.replace(RECIPE, num_steps=1, batch_size=128)
    assert np.isfinite(classifier.fit(few, truth, tmp_path / "run", recipe).accuracy)


def test_a_run_keeps_to_one_embedding(fitted, tmp_path):
    run = loop.open_run(tmp_path / "run", RECIPE)
    pin(run, fitted)
    pin(run, fitted)
    moved = jax.tree.map(lambda leaf: leaf + 1e-6, fitted.embed.args[0])
    other = fitted._replace(fingerprint=classifier._fingerprint(moved))
    with pytest.raises(ValueError, match=r"measured in another embedding \(crc32 .* now\)"):
        pin(run, other)
