"""What holds for every per-example function, over inputs that hypothesis draws.

A batch under `jit` and `vmap` is one compiled program, which many draws share: of states of any
size, of times in [0, 1] with both ends, of data sets and of keys. In float64, so that tolerances
say something about formulas and not about rounding.

1. In (0, 1) every result is finite. At an end it is finite, or the call with that number as a
   static time raises ValueError: nobody gets a number that is none without a word.
2. A plain call gives what the batch gives.
3. What is not a number in the state, in the time or in the data set is seen in the result.
4. A state without entries gives finite results, or a ValueError that says so.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fmjax import empirical, paths
from tests.contract.test_contract import (
    HEAVY,
    PATH,
    PER_EXAMPLE,
    _arguments,
    _axes,
    _numbers,
    _one,
)

BATCH = 8  # examples of one draw

# Where a result is infinite by definition, as its docstring says, at the time of an end.
INFINITE = {
    "predictions.score": {1.0},  # minus one over sigma
    "predictions.convert": {1.0},  # to the score
    "events.log_probability": {1.0},  # of an event that has not happened
}
# Constants, which no time changes.
WITHOUT_TIME = {"predictions.x1", "predictions.x0"}
# Solvers say themselves that the state is lost.
RAISES = {"samplers.adaptive"}

ENDS = (0.0, 1e-300, 1e-12, 1.0 - 1e-12, 1.0 - 2.0**-53, 1.0)
SCALES = (0.0, 1e-30, 1e-3, 1.0, 30.0)

example = st.tuples(
    st.integers(0, 2**32 - 1),
    st.one_of(
        st.sampled_from(ENDS), st.floats(0.0, 1.0, allow_subnormal=False)
    ),  # XLA flushes those
    st.sampled_from(SCALES),
    st.sampled_from(SCALES),
)
examples = st.lists(example, min_size=BATCH, max_size=BATCH)

# Two programs for one formula round every term differently. Measured in float64 (jax 0.10, CPU) at
# these times and scales, a plain call differed from the batch by less than 1e-12 of the largest
# entry of the same array, but for the functions of `TERMS`: the formulas avoid differences of large
# terms.
RELATIVE = 1e-10
# The rounding of a difference of large terms is that of the terms.
CANCELLED = 1e-12


def _of_estimate(alone, *_):
    """A standard error, the spread of numbers around their mean, is 0 but for their rounding."""
    _, estimate = alone
    return np.max(np.abs([*np.ravel(estimate.mean), *np.ravel(estimate.standard_error)]))


def _of_acceleration(_, bank, x, t):
    """Late, the Jacobian times the velocity is near 1 / sigma^2, and its terms cancel to order one.

    A rounding error of the covariance is multiplied by alpha / sigma^3, (5) of `fmjax.empirical`.
    """
    c, u = paths.coefficients(PATH, t), empirical.velocity(PATH, bank, x, t)
    covariance = c.wronskian * c.alpha / c.sigma**3 * jnp.sum(bank**2)
    return float(jnp.linalg.norm(u) * (jnp.abs(c.sigma_dot) / c.sigma + covariance))


TERMS = {
    "empirical.acceleration": _of_acceleration,
    **{name: _of_estimate for name in PER_EXAMPLE if name.startswith("estimators.")},
}


@functools.cache
def _program(name):
    case = PER_EXAMPLE[name]
    return jax.jit(jax.vmap(case.call, in_axes=_axes(case)))


def _drawn(case, shape, drawn):
    """Returns the arguments of a batch: the seed, the time, and the scales of both states."""
    normal = lambda seed, i: np.random.default_rng((seed, i)).normal(size=shape)
    column = lambda i: [normal(seed, i) * scales[i] for seed, _, *scales in drawn]
    seeds = [row[0] for row in drawn]
    made = {
        "x": lambda: jnp.asarray(column(0)),
        "y": lambda: jnp.asarray(column(1)),
        "t": lambda: jnp.asarray([t for _, t, *_ in drawn]),
        "b": lambda: jnp.asarray(np.random.default_rng(seeds[0]).gamma(1.5, size=(7, *shape))),
        "k": lambda: jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)),
    }
    return [made[letter]() for letter in case.arguments]


def _finite(result, i):
    return all(np.isfinite(np.asarray(a[i])).all() for a in _numbers(result))


def _refuses(case, arguments, i):
    """Whether the plain call with the number of the time raises ValueError."""
    one, where = _one(case, arguments, i), case.arguments.index("t")
    one[where] = float(one[where])
    try:
        case.call(*one)
    except ValueError:
        return True
    return False


def _holds_at(name, shape, drawn):
    """Asserts the first two properties of a batch; the second of its first example."""
    case = PER_EXAMPLE[name]
    arguments = _drawn(case, shape, drawn)
    together = _program(name)(*arguments)
    for i, (_, t, *_) in enumerate(drawn):
        if "t" not in case.arguments:
            assert _finite(together, i)
        elif t not in INFINITE.get(name, ()):
            assert _finite(together, i) or (t in (0.0, 1.0) and _refuses(case, arguments, i)), t
    one = _one(case, arguments, 0)
    alone = case.call(*one)
    terms = CANCELLED * TERMS[name](alone, *one) if name in TERMS else 0.0
    for a, b in zip(_numbers(alone), _numbers(together), strict=True):
        size = np.nanmax(np.abs(np.where(np.isfinite(b[0]), b[0], 0.0)), initial=0.0)
        np.testing.assert_allclose(a, b[0], rtol=RELATIVE, atol=RELATIVE * size + terms)


def _shows(name, shape, drawn, letter):
    """Asserts that one entry that is not a number is seen, in every example."""
    case = PER_EXAMPLE[name]
    arguments = _drawn(case, shape, drawn)
    where = case.arguments.index(letter)
    broken = np.array(arguments[where])
    broken.reshape(len(broken), -1)[:, -1] = np.nan
    arguments[where] = jnp.asarray(broken)
    result = _program(name)(*arguments)
    for i in range(BATCH):
        assert any(np.isnan(np.asarray(a[i])).any() for a in _numbers(result)), drawn[i]


def _quick(max_examples):
    """Draws that are the same in every run: CI tests the code and not its luck."""
    return hypothesis.settings(
        max_examples=max_examples, derandomize=True, database=None, deadline=None,
        # Of a batch that fails a smaller one says no more, and looking for it takes minutes.
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip


def _by_hand(shape):
    # Together they take 3.6 minutes of one core; vectors alone take 1.8.
    return pytest.param(shape, marks=pytest.mark.long)


LIGHT = [name for name in PER_EXAMPLE if not HEAVY.search(name)]
BROKEN = [
    (name, letter)
    for name, case in PER_EXAMPLE.items()
    for letter in "xytb"
    if letter in case.arguments and name not in RAISES
    if letter != "t" or name not in WITHOUT_TIME
]


@pytest.mark.parametrize("name", LIGHT[::3])
@_quick(2)
@hypothesis.given(drawn=examples)
def test_results_are_finite_and_those_of_plain_calls(name, drawn):
    with jax.enable_x64(True):
        _holds_at(name, (3,), drawn)


@pytest.mark.parametrize(
    "shape", [pytest.param((3,), marks=pytest.mark.slow), *map(_by_hand, [(), (2, 2)])], ids=str
)
@pytest.mark.parametrize("name", PER_EXAMPLE)
@_quick(8)
@hypothesis.given(drawn=examples)
def test_results_are_finite_and_those_of_plain_calls_in_every_shape(name, shape, drawn):
    with jax.enable_x64(True):
        _holds_at(name, shape, drawn)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "letter"), BROKEN)
@_quick(4)
@hypothesis.given(drawn=examples)
def test_what_is_not_a_number_is_seen(name, letter, drawn):
    with jax.enable_x64(True):
        _shows(name, (3,), drawn, letter)


EMPTY = ("must have entries", "x has 0 entries")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_a_state_without_entries_is_computed_or_refused(name, shape):
    case = PER_EXAMPLE[name]
    if name == "losses.adaptive":
        pytest.skip("takes a loss, which the table makes of a state by a mean")
    try:
        result = jax.jit(case.call)(*_one(case, _arguments(case, shape), 1))
    except ValueError as error:
        assert any(words in str(error) for words in EMPTY)  # noqa: PT017
        return
    assert not any(np.isnan(np.asarray(a)).any() for a in _numbers(result))
