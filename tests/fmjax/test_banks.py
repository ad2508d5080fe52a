"""Banks made ready: bytes, weights, flips, parts for devices, and what does not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, paths
from tests import slow

PATH = paths.linear()
OPTIMIZED = True
BYTES = np.random.default_rng(0).integers(0, 256, (13, 2, 3, 1)).astype(np.uint8)
SCALED = BYTES.astype(np.float64) / 127.5 - 1.0
FIELDS = (
    empirical.mean,
    empirical.velocity,
    empirical.divergence,
    empirical.log_density,
    empirical.entropy,
    empirical.effective_number,
)


def _all(bank, x, t, **options):
    """Returns every field of a bank at one state, flattened."""
    parts = [f(PATH, bank, x, t, **options).ravel() for f in FIELDS]
    return jnp.concatenate(parts)


@pytest.mark.slow
def test_bytes_are_scaled_by_chunks(x64):
    prepared = empirical.prepare(jnp.asarray(BYTES), scale=1 / 127.5, shift=-1.0, chunk_size=4)
    assert prepared.points.dtype == jnp.uint8
    np.testing.assert_allclose(
        prepared.half_squares, 0.5 * (SCALED**2).reshape(13, -1).sum(1), rtol=1e-12
    )
    x = jnp.asarray(0.6 * SCALED[4] + 0.1)
    plain = _all(jnp.asarray(SCALED), x, 0.6)
    for chunk_size in (None, 5):
        found = jax.jit(partial(_all, chunk_size=chunk_size))(prepared, x, 0.6)
        np.testing.assert_allclose(found, plain, rtol=1e-10)
    w = empirical.weights(PATH, prepared, x, 0.6, chunk_size=5)
    np.testing.assert_allclose(w, empirical.weights(PATH, jnp.asarray(SCALED), x, 0.6), rtol=1e-9)
    np.testing.assert_allclose(
        empirical.covariance(PATH, prepared, x, 0.6),
        empirical.covariance(PATH, jnp.asarray(SCALED), x, 0.6),
        rtol=1e-9,
    )


@pytest.mark.slow
def test_some_points_in_the_units_of_the_states():
    bank, index = empirical.prepare(BYTES, scale=1 / 127.5, shift=-1.0), np.array([[3, 0], [12, 3]])
    found = jax.jit(empirical.take)(bank, index)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, SCALED[index], rtol=1e-6, atol=1e-7)
    points = jnp.asarray(SCALED, jnp.float32)
    np.testing.assert_array_equal(empirical.take(points, index), points[index])
    assert empirical.take(points, np.zeros((0,), int)).shape == (0, 2, 3, 1)


@pytest.mark.slow
def test_weights_are_those_of_repeated_points(x64):
    points = jnp.asarray(SCALED[:4])
    counts = np.array([3, 1, 0, 2])
    repeated = jnp.repeat(points, counts, axis=0)
    x = jnp.asarray(0.4 * SCALED[0] + 0.3)
    names = (empirical.mean, empirical.velocity, empirical.divergence, empirical.log_density)
    for chunk_size in (None, 1, 3):
        bank = empirical.reweighted(empirical.prepare(points), jnp.asarray(counts))
        for f in names:
            found, wanted = f(PATH, bank, x, 0.4, chunk_size=chunk_size), f(PATH, repeated, x, 0.4)
            np.testing.assert_allclose(found, wanted, rtol=1e-11, err_msg=f.__name__)


@pytest.mark.slow
def test_a_class_of_its_own_for_every_example(x64):
    labels = jnp.asarray(np.arange(13) % 3)
    points, x = jnp.asarray(SCALED), jnp.asarray(0.5 * SCALED[:3])

    def given(x, label):
        return _all(empirical.reweighted(points, labels == label), x, 0.5, chunk_size=4)

    found = jax.jit(jax.vmap(given))(x, jnp.arange(3))
    for label in range(3):
        subset = points[np.flatnonzero(np.asarray(labels) == label)]
        np.testing.assert_allclose(found[label], _all(subset, x[label], 0.5), rtol=1e-10)


def test_a_class_without_a_point_has_no_law():
    points = jnp.asarray(SCALED, jnp.float32)
    field = lambda label: empirical.velocity(
        PATH, empirical.reweighted(points, jnp.zeros(13, int) == label), points[0], 0.5
    )
    assert np.isfinite(np.asarray(jax.jit(field)(0))).all()
    assert np.isnan(np.asarray(jax.jit(field)(1))).all()


@pytest.mark.slow
def test_mirrored_images_are_atoms_of_their_own(x64):
    points = jnp.asarray(SCALED)
    both = jnp.concatenate([points, points[:, :, ::-1]])
    x = jnp.asarray(0.3 * SCALED[2] - 0.2)
    bank = empirical.mirrored(empirical.reweighted(points, jnp.ones(13)))
    np.testing.assert_allclose(_all(bank, x, 0.3), _all(both, x, 0.3), rtol=1e-11)
    # The field of mirror-symmetric data is mirror-symmetric.
    field = partial(empirical.velocity, PATH, bank)
    np.testing.assert_allclose(field(x[:, ::-1], 0.3), field(x, 0.3)[:, ::-1], rtol=1e-10)


@pytest.mark.slow
def test_points_of_no_weight_change_nothing(x64):
    points, x = jnp.asarray(SCALED), jnp.asarray(0.7 * SCALED[1])
    bank = empirical.padded(points, 8)
    assert len(bank.points) == 16
    for chunk_size in (None, 3):
        found = _all(bank, x, 0.7, chunk_size=chunk_size)
        np.testing.assert_allclose(found, _all(points, x, 0.7), rtol=1e-11)
    truncated = empirical.truncated(PATH, bank, x, 0.7, k=13)
    np.testing.assert_allclose(truncated.velocity, empirical.velocity(PATH, points, x, 0.7))
    assert float(truncated.bound) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("narrow", ["bank", "x", "vector"])
def test_arguments_of_two_precisions_are_promoted(narrow, x64):
    wide = {"bank": SCALED, "x": 0.5 * SCALED[3] + 0.2, "vector": SCALED[5]}
    bank, x, vector = (
        jnp.asarray(value, jnp.float32 if name == narrow else jnp.float64)
        for name, value in wide.items()
    )
    exact = {name: jnp.asarray(value) for name, value in wide.items()}
    found = empirical.matvec(PATH, bank, x, 0.4, vector)
    wanted = empirical.matvec(PATH, exact["bank"], exact["x"], 0.4, exact["vector"])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    constant = partial(empirical.lipschitz, jax.random.key(0), PATH)
    np.testing.assert_allclose(
        constant(bank, x, 0.4), constant(exact["bank"], exact["x"], 0.4), rtol=1e-4
    )


@pytest.mark.slow
@slow.but_the_first("dtype", ["uint8", "float32"])
def test_a_bank_over_eight_devices_is_the_same_bank(dtype):
    mesh = jax.make_mesh((8,), ("bank",), axis_types=(jax.sharding.AxisType.Auto,))
    images = np.random.default_rng(1).integers(0, 256, (1003, 64)).astype(np.uint8)
    if dtype == "uint8":
        bank = empirical.prepare(images, scale=1 / 127.5, shift=-1.0)
    else:
        bank = empirical.prepare(jnp.asarray(images, jnp.float32) / 127.5 - 1.0)
    x = 0.4 * (jnp.asarray(images[:6], jnp.float32) / 127.5 - 1.0) + 0.5
    t, v = jnp.linspace(0.2, 0.6, 6), x[::-1]

    def fields(bank, x, t, v, **options):
        parts = [f(PATH, bank, x, t, chunk_size=50, **options).ravel() for f in FIELDS]
        product = empirical.matvec(PATH, bank, x, t, v, chunk_size=50, **options)
        return jnp.concatenate([*parts, product])

    def many(bank, *arrays, **options):
        return jax.vmap(partial(fields, bank, **options))(*arrays)

    whole = jax.jit(many)(bank, x, t, v)
    padded = empirical.padded(bank, 8)
    specs = empirical.partition(padded, "bank")
    spread = jax.device_put(padded, jax.tree.map(partial(jax.NamedSharding, mesh), specs))
    rest = (jax.P(), jax.P(), jax.P())
    one = partial(many, axis_name="bank")
    program = jax.shard_map(one, mesh=mesh, in_specs=(specs, *rest), out_specs=jax.P())
    compiled = jax.jit(program).lower(spread, x, t, v).compile()
    np.testing.assert_allclose(compiled(spread, x, t, v), whole, rtol=2e-6, atol=2e-6)
    # What a device is given: an eighth of the points, and the states.
    points = padded.points.nbytes + padded.half_squares.nbytes + padded.log_weights.nbytes
    states = x.nbytes + t.nbytes + v.nbytes + 8
    assert compiled.memory_analysis().argument_size_in_bytes <= points / 8 + states
    held = {shard.data.nbytes for shard in spread.points.addressable_shards}
    assert held == {padded.points.nbytes // 8}


@pytest.mark.slow
def test_the_target_of_a_spread_bank_is_that_of_the_whole():
    auto = {"axis_types": (jax.sharding.AxisType.Auto,), "devices": jax.devices()[:2]}
    mesh = jax.make_mesh((2,), ("bank",), **auto)
    random = np.random.default_rng(2)
    points = jnp.asarray(random.normal(size=(41, 6)) ** 3 + 0.3, jnp.float32)  # skewed
    # The second point twice, on two devices: near the data both have half of the weight.
    points = points.at[30].set(points[1])
    bank = empirical.padded(empirical.prepare(points), 2)
    x0 = jnp.asarray(random.normal(size=(7, 6)), jnp.float32)
    index, t = jnp.array([1, 1, 5, 9, 17, 30, 40]), jnp.linspace(0.05, 0.999, 7)
    many = lambda target, bank: jax.vmap(partial(target, PATH, bank))(x0, points[index], t)
    refined = partial(empirical.refined_velocity, k=2, axis_name="bank")
    spread = jax.shard_map(
        partial(many, refined),
        mesh=mesh,
        in_specs=(empirical.partition(bank, "bank"),),
        out_specs=jax.P(),
    )
    # Differences of all points, in NumPy and float64.
    wanted, p = [], np.float64(points)
    for noise, i, time in zip(np.float64(x0), index, np.float64(t), strict=True):
        gaps = p - p[i]
        rho = time / (1.0 - time)
        logits = -0.5 * rho**2 * (gaps**2).sum(axis=1) + rho * gaps @ noise
        w = np.exp(logits - logits.max())
        pull = w @ gaps / w.sum()
        wanted.append(p[i] - noise + pull / (1.0 - time))
    np.testing.assert_allclose(jax.jit(spread)(bank), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_gradients_of_a_spread_bank_are_those_of_the_whole(x64):
    mesh = jax.make_mesh((8,), ("bank",), axis_types=(jax.sharding.AxisType.Auto,))
    bank = empirical.padded(empirical.prepare(jnp.asarray(SCALED)), 8)
    specs = empirical.partition(bank, "bank")
    x = jnp.asarray(0.5 * SCALED[3] + 0.2)

    def scores(x, t, bank, **options):
        # A weighted sum of every field, so that no part of a gradient cancels by symmetry.
        fields = _all(bank, x, t, **options)
        return jnp.sum(fields * jnp.linspace(0.5, 2.0, len(fields)))

    one = partial(scores, axis_name="bank", chunk_size=1)
    spread = jax.shard_map(one, mesh=mesh, in_specs=(jax.P(), jax.P(), specs), out_specs=jax.P())
    for argnum in (0, 1):
        found = jax.jit(jax.grad(spread, argnum))(x, 0.45, bank)
        wanted = jax.grad(scores, argnum)(x, 0.45, bank)
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: empirical.prepare(jnp.zeros((0, 2))), r"n >= 1, got \(0, 2\)"),
        (lambda: empirical.prepare(BYTES), "uint8 must be scaled.*scale=1 / 127.5"),
        (
            lambda: empirical.prepare(jnp.array([[1.0], [jnp.nan], [jnp.inf]])),
            "2 of 3 points of the bank are not finite, the first at index 1",
        ),
        (lambda: empirical.prepare(BYTES, scale=0.1, chunk_size=0), "chunk_size must be at least"),
        (lambda: empirical.reweighted(SCALED, jnp.ones(3)), r"\[n\] for a bank of 13.*\(3,\)"),
        (lambda: empirical.reweighted(SCALED, -jnp.ones(13)), "not negative and not all zero"),
        (lambda: empirical.reweighted(SCALED, jnp.zeros(13)), "not negative and not all zero"),
        (lambda: empirical.reweighted(SCALED, np.r_[np.ones(12), np.inf]), "must be finite"),
        (lambda: empirical.reweighted(BYTES, jnp.ones(13)), "uint8 must be scaled"),
        (lambda: empirical.mirrored(BYTES), "uint8 must be scaled"),
        (lambda: empirical.padded(BYTES, 8), "uint8 must be scaled"),
        (lambda: empirical.padded(jnp.zeros((0, 2)), 8), r"n >= 1, got \(0, 2\)"),
        (lambda: empirical.mirrored(SCALED * np.nan), "13 of 13 points .* not finite"),
        (lambda: empirical.prepare(BYTES, scale=np.ones(3)), r"single numbers, got \(3,\), \(\)"),
        (lambda: empirical.prepare(empirical.prepare(SCALED)), "must be an array.*got a Bank"),
        (lambda: empirical.mirrored(SCALED, axis=0), r"axis of the points \(2, 3, 1\), got 0"),
        (lambda: empirical.mirrored(SCALED, axis=4), "got 4"),
        (lambda: empirical.take(SCALED, np.ones(2)), "index must be of integers.*got float"),
        (lambda: empirical.take(SCALED, [3, 13]), "index must be from 0 to 12, got 3 to 13"),
        (lambda: empirical.take(SCALED, [-1, 0]), "index must be from 0 to 12, got -1 to 0"),
        (lambda: empirical.take(BYTES, [0]), "uint8 must be scaled.*empirical.prepare"),
        (lambda: empirical.padded(SCALED, 0), "multiple must be at least 1"),
        (
            lambda: empirical.velocity(PATH, empirical.prepare(BYTES, scale=0.1), jnp.ones(2), 0.5),
            r"got bank \(13, 2, 3, 1\) and x \(2,\)",
        ),
        (
            lambda: empirical.velocity(PATH, jnp.asarray(SCALED, jnp.float32), SCALED[0], 1.0),
            r"sigma must be positive, got 0.0 at t = 1.0.*take t below 1",
        ),
        (lambda: paths.smoothed(PATH, -0.1), "bandwidth must not be negative, got -0.1"),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
def test_a_smoothed_bank_ends_as_its_kernel_density(x64):
    points, h = jnp.asarray(SCALED[..., 0, 0]), 0.4
    path, x = paths.smoothed(PATH, h), jnp.array([0.2, -0.1])
    squares = np.sum((np.asarray(points) - np.asarray(x)) ** 2, axis=1)
    density = np.mean(np.exp(-squares / (2 * h**2))) / (2 * np.pi * h**2)
    found = empirical.log_density(path, points, x, 1.0)
    assert float(found) == pytest.approx(np.log(density), rel=1e-12)
    assert bool(jnp.isfinite(empirical.velocity(path, points, x, 1.0)).all())
