"""The trajectories against scipy's integration of the equations written out anew, and the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from experiments.fdm._trajectories import systems
from tests import slow


def _lorenz(_, z):
    """Returns dz/dt of the textbook's Lorenz system, not scaled."""
    return [10 * (z[1] - z[0]), z[0] * (28 - z[2]) - z[1], z[0] * z[1] - 8 / 3 * z[2]]


def _fitzhugh_nagumo(_, z):
    """Returns dz/dt of two coupled units, not scaled: x1, x2, y1, y2."""
    x1, x2, y1, y2 = z
    a, c, k = -0.025794, 0.02, 0.128
    return [
        x1 * (a - x1) * (x1 - 1) - y1 + k * (x2 - x1),
        x2 * (a - x2) * (x2 - 1) - y2 + k * (x1 - x2),
        0.0065 * x1 - c * y1,
        0.0135 * x2 - c * y2,
    ]


# The horizon over which chaos does not yet show, and how much a unit is worth in data units.
CASES = {
    "lorenz": (systems.lorenz(), _lorenz, 1 / 20),
    "fitzhugh_nagumo": (systems.fitzhugh_nagumo(), _fitzhugh_nagumo, 5.0),
}


@pytest.mark.slow
@slow.but_the_first("name", CASES)
def test_trajectories_equal_those_of_scipy_before_chaos_shows(name):
    system, field, unit = CASES[name]
    short = system._replace(num_steps=20, num_dropped=4)
    key = jax.random.key(3)
    ours = systems.simulate(short, key, 3, rtol=1e-9, atol=1e-9, batch_size=2)
    assert ours.dtype == np.float32
    assert ours.shape == (3, 16, len(system.states))
    times = system.save_every * np.arange(4, 20)
    for i in range(3):
        with jax.enable_x64(True):
            start = np.array(system.initial(jax.random.fold_in(key, i))) / unit
        exact = solve_ivp(field, (0, times[-1]), start, "DOP853", times, rtol=1e-11, atol=1e-12)
        # Measured: 7e-7; two batches of two, so the start of each is its own whatever the batch.
        np.testing.assert_allclose(ours[i], unit * exact.y.T, atol=3e-6)


@pytest.mark.slow
def test_the_systems_are_those_of_the_paper():
    lorenz, fitzhugh = systems.lorenz(), systems.fitzhugh_nagumo()
    for system, dims, end in ((lorenz, 3, 8.9), (fitzhugh, 4, 1854.0)):
        assert system.num_steps - system.num_dropped == 60
        assert len(system.states) == dims
        assert system.save_every * (system.num_steps - 1) == pytest.approx(end)
    starts = jax.vmap(fitzhugh.initial)(jax.random.split(jax.random.key(0), 4000))
    assert float(starts.std()) == pytest.approx(0.2, abs=5 * 0.2 / np.sqrt(2 * 16_000))
    starts = jax.vmap(lorenz.initial)(jax.random.split(jax.random.key(1), 4000))
    assert float(starts.std()) == pytest.approx(1.0, abs=5 / np.sqrt(2 * 12_000))


@pytest.mark.slow
def test_events():
    # A constant has no frequency but 0: C = 0.6. A wave of frequency 3 and amplitude A has
    # |rfft| = 60 A / 2 at one of the 30 frequencies: C = 0.6 - A.
    wave = np.cos(2 * np.pi * 3 * np.arange(60) / 60)
    x = np.zeros((60, 3), np.float32)
    x[:, 0] = 1.7 + 0.25 * wave
    x[:, 1:] = 9.0
    assert float(systems.lorenz().event(x)) == pytest.approx(0.6 - 0.25, abs=1e-5)
    x = np.zeros((60, 4), np.float32)
    x[7, :2], x[9, :2], x[:, 2:] = (2.0, 4.5), (6.0, -1.0), 50.0
    assert float(systems.fitzhugh_nagumo().event(x)) == pytest.approx(3.25 - 2.5)


@pytest.mark.slow
@slow.but_the_first(("name", "probability"), [("lorenz", 0.197), ("fitzhugh_nagumo", 0.034)])
def test_the_event_is_as_likely_as_it_should_be(name, probability):
    # 0.034 +- 0.001 is the paper's; 0.197 +- 0.002 is our own, from 32,000 trajectories.
    system, n = CASES[name][0], 1000
    x = systems.simulate(system, jax.random.key(5), n)
    assert x.shape == (n, 60, len(system.states))
    share = float(jnp.mean(jax.vmap(system.event)(x) > 0))
    assert share == pytest.approx(probability, abs=5 * np.sqrt(probability / n))


@pytest.fixture
def decay(monkeypatch):
    """A system that is not integrated but written down, so that no solver is compiled."""

    def trajectory(system, start, **options):
        times = jnp.asarray([0.5, 1.0, 1.5], start.dtype)
        return jnp.exp(-times)[:, None] * start[None]

    monkeypatch.setattr(systems, "_trajectory", trajectory)
    return systems.System(
        name="decay",
        field=lambda z: -z,
        initial=lambda key: jax.random.normal(key, (2,)),
        save_every=0.5,
        num_steps=4,
        num_dropped=1,
        event=lambda x: x[-1, 0],
        states=("a", "b"),
    )


@pytest.mark.slow
def test_the_cache_is_read_again_and_named_by_what_was_asked(decay, tmp_path):
    def ask(system=decay, key=0, n=2, **options):
        key = jax.random.key(key)
        return systems.simulate(system, key, n, cache=tmp_path / "made", **options)

    first = ask()
    assert len(list((tmp_path / "made").iterdir())) == 1
    np.testing.assert_array_equal(first, systems.simulate(decay, jax.random.key(0), 2))
    # A system of the same name that would give something else: so the file was read.
    other = decay._replace(initial=lambda key: jnp.ones(2))
    np.testing.assert_array_equal(ask(other), first)
    assert not np.array_equal(ask(key=1), first)
    np.testing.assert_array_equal(ask(n=3)[:2], first)
    ask(rtol=1e-5)
    ask(atol=1e-7)
    ask(decay._replace(save_every=0.25))
    names = [path.name for path in (tmp_path / "made").iterdir()]
    assert len(names) == 6
    assert all(name.startswith("decay_") and name.endswith(".npz") for name in names)


def test_a_damaged_file_and_wrong_numbers_are_refused(decay, tmp_path):
    ask = lambda **options: systems.simulate(decay, jax.random.key(0), 2, **options)
    ask(cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged .*: delete it"):
        ask(cache=tmp_path)
    np.savez(file, trajectories=np.zeros((1, 3, 2), np.float32))
    with pytest.raises(ValueError, match=r"holds shape \(1, 3, 2\), expected \(2, 3, 2\)"):
        ask(cache=tmp_path)
    with pytest.raises(ValueError, match="must be positive, got 2 and 0"):
        ask(batch_size=0)


def test_a_trajectory_that_is_not_finite_is_refused_and_leaves_no_file(decay, tmp_path):
    system = decay._replace(initial=lambda key: jnp.array([1.0, jnp.nan]))
    with pytest.raises(ArithmeticError, match="decay: a trajectory is not finite"):
        systems.simulate(system, jax.random.key(0), 2, cache=tmp_path)
    assert not list(tmp_path.iterdir())
