"""What the experiments on the closed form share: few images in a batch, distances, the collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial

import fmjax
from experiments.closed_form._generalization import measures
from experiments.images import data, features, objectives, quality, training
from experiments.images.options import Training

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 17, (30, 3, 2, 1), dtype=np.uint8)
IMAGES = data.Images(PIXELS, PIXELS[::-1][:7], 17)


def _flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


def test_few_images_are_repeated_in_a_batch_and_many_are_not(monkeypatch):
    seen = {}
    monkeypatch.setattr(training, "fit", lambda options, images, *_, **more: (images, more))
    for count in (2, 3, 8, 20):
        images, more = measures.train(
            Training(batch_size=8), IMAGES, count, "folder", "key", seed=5
        )
        assert more["seed"] == 5
        seen[count] = images.train
        np.testing.assert_array_equal(images.train[:count], PIXELS[:count])
        assert images.held_out is IMAGES.held_out
        assert more["place"] is training.at_centers
    assert {count: len(train) for count, train in seen.items()} == {2: 8, 3: 9, 8: 8, 20: 20}
    np.testing.assert_array_equal(seen[3], np.concatenate([PIXELS[:3]] * 3))


@pytest.mark.slow
def test_the_loss_is_taken_at_the_centers_of_the_bins():
    key, pixels = jax.random.key(3), jnp.asarray(PIXELS[:6])
    x1 = (2 * PIXELS[:6] + 1.0) / 17 - 1
    _, key_noise, key_time, _ = jax.random.split(key, 4)
    x0 = np.asarray(jax.random.normal(key_noise, x1.shape))
    t = np.asarray(fmjax.times.stratified(key_time, (6,))).reshape(-1, 1, 1, 1)
    wanted = np.mean((1.5 * (t * x1 + (1 - t) * x0) - (x1 - x0)) ** 2)
    apply = lambda params, x, t, key=None: params * x
    loss = measures._flow_loss(apply, 17)
    assert float(jax.jit(loss)(1.5, key, {"x": pixels})) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(measures.points(IMAGES, 6), x1, atol=1e-6)
    held_out = [
        objectives.held_out_loss(apply, IMAGES, key, place=place)(1.5, key)["held_out_loss"]
        for place in (training.at_centers, lambda key, pixels, levels: data.centers(pixels, levels))
    ]
    assert held_out[0] == held_out[1]
    assert held_out[0] != objectives.held_out_loss(apply, IMAGES, key)(1.5, key)["held_out_loss"]


@pytest.mark.slow
def test_distances_against_all_of_them():
    train, x = measures.points(IMAGES, 20), measures.points(IMAGES, 30)[20:]
    x[0] = train[4]
    every = np.sort(scipy.spatial.distance.cdist(_flat(x), _flat(train)), axis=1)
    ours = quality.copied(x, train)
    np.testing.assert_allclose(ours["distance"], every[:, 0], rtol=1e-5, atol=1e-6)
    assert ours["nearest"][0] == 4
    assert ours["memorized"] == pytest.approx(np.mean(every[:, 0] < every[:, 1] / 3))
    assert ours["memorized"] >= 0.1
    each_other = np.sort(scipy.spatial.distance.cdist(_flat(train), _flat(train)), axis=1)
    assert quality.within(train) == pytest.approx(each_other[:, 1].mean(), rel=1e-5)
    # Of two equal images each is the other's nearest.
    twice = np.concatenate([train[:3], train[:1]])
    others = scipy.spatial.distance.cdist(_flat(train[:3]), _flat(train[:3])) + 9 * np.eye(3)
    wanted = (others[1].min() + others[2].min()) / 4
    assert quality.within(twice) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
def test_copies_and_new_images_are_told_apart():
    images = data.load("digits")
    embed = features.principal_components(images)
    points = data.centers(images.train[:40], images.levels)
    copies = measures.compared(points[np.arange(100) % 40], points, images, embed)
    assert copies["distance"] == 0.0
    assert copies["memorized"] == 1.0
    # Every image 2.5 times is one of the ways to draw 100 copies of 40, a more even one than most.
    mean, deviation = (copies[f"frechet_held_out_of_copies{end}"] for end in ("", "_deviation"))
    assert abs(copies["frechet_held_out"] - mean) < 3 * deviation < mean
    random, held_out = np.random.default_rng(5), embed(data.centers(images.held_out[:100], 17))
    others = [
        float(fmjax.metrics.frechet(embed(points[random.integers(0, 40, 100)]), held_out))
        for _ in range(16)
    ]
    assert mean == pytest.approx(np.mean(others), abs=5 * deviation / 8**0.5)
    new = data.centers(images.train[100:200], images.levels)
    new = measures.compared(new, points, images, embed)
    assert new["num_compared"] == copies["num_compared"] == 100
    assert new["frechet_held_out"] < copies["frechet_held_out"]
    assert new["frechet_train"] > copies["frechet_train"]
    assert new["memorized"] < 0.05
    assert new["distance"] == pytest.approx(new["distance_of_held_out"], rel=0.1)
    assert new["distance_of_held_out"] == copies["distance_of_held_out"] > 1.0
    # The embedding is the caller's: features scaled by 3 are at 9 times the distance.
    scaled = measures.compared(points[np.arange(100) % 40], points, images, lambda x: 3 * embed(x))
    assert scaled["frechet_held_out"] == pytest.approx(9 * copies["frechet_held_out"], rel=1e-3)
    np.testing.assert_array_equal(copies["shown"]["nearest"], np.arange(12))
    np.testing.assert_array_equal(copies["shown"]["samples"], images.train[:12])


@pytest.mark.slow
def test_the_collapse_time_of_round_gaussians():
    # Points a e_k and -a e_k have the covariance a^2 / d in all directions.
    d, a = 6, 1.7
    points = a * np.concatenate([np.eye(d), -np.eye(d)])
    deviation = a / d**0.5
    for count in (2, 300, 10**6):
        ratio = (count ** (2 / d) - 1) ** 0.5 / deviation
        for path, exact in (
            (fmjax.paths.linear(), ratio / (1 + ratio)),
            (fmjax.paths.cosine(), 2 / np.pi * np.arctan(ratio)),
        ):
            ours = fmjax.collapse.collapse_time(path, measures.variances(points), count)
            assert ours == pytest.approx(exact, abs=1e-5)


def test_at_the_collapse_time_a_state_tells_log_n_of_its_point():
    # Information by the determinant, of points that span less than their space.
    points = RNG.normal(size=(20, 3)) @ RNG.normal(size=(3, 8)) + 4.0
    variances = measures.variances(points)
    t = float(fmjax.collapse.collapse_time(fmjax.paths.linear(), variances, 50))
    covariance = np.cov(points, rowvar=False, bias=True)
    information = 0.5 * np.linalg.slogdet(np.eye(8) + (t / (1 - t)) ** 2 * covariance)[1]
    assert information == pytest.approx(np.log(50), abs=1e-3)


@pytest.mark.slow
def test_equal_points_collapse_as_one():
    points = RNG.gamma(1.0, size=(30, 5))
    once, twice = points, np.repeat(points, 3, axis=0)
    variances = measures.variances(once)
    expected = float(fmjax.collapse.collapse_time(measures.path, variances, 30.0))
    for some in (once, twice):
        found = measures.collapse_time(measures.variances(some), some)
        assert found == pytest.approx(expected, rel=1e-4)
