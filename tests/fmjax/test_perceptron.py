"""fmjax.models.perceptron: against NumPy, its distribution at the start, errors by message."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import models


@pytest.mark.slow
def test_it_equals_the_formula():
    apply, params = models.perceptron(jax.random.key(3), 2, width=5, depth=3)
    assert [params[f"layer_{i}"]["kernel"].shape for i in range(4)] == [
        (3, 5), (5, 5), (5, 5), (5, 2)
    ]  # fmt: skip
    x, t = np.array([0.4, -1.3]), 0.3
    hidden = np.append(x, t)
    for i in range(4):
        layer = {name: np.asarray(value) for name, value in params[f"layer_{i}"].items()}
        hidden = hidden @ layer["kernel"] + layer["bias"]
        hidden = hidden if i == 3 else hidden / (1 + np.exp(-hidden))
    found = apply(params, jnp.asarray(x, jnp.float32), t)
    np.testing.assert_allclose(found, hidden, rtol=1e-5)
    batch = jax.jit(jax.vmap(apply, (None, 0, 0)))(
        params, jnp.stack([jnp.ones(2), jnp.asarray(x, jnp.float32)]), jnp.array([0.9, t])
    )
    np.testing.assert_allclose(batch[1], hidden, rtol=1e-5)
    assert abs(batch[0] - batch[1]).max() > 1e-3


@pytest.mark.slow
def test_it_starts_uniform_between_one_over_the_root_of_the_inputs():
    _, params = models.perceptron(jax.random.key(0), 3, width=200, depth=2)
    for i, inputs in enumerate((4, 200, 200)):
        for values in params[f"layer_{i}"].values():
            scaled = np.sort(np.asarray(values).ravel()) * np.sqrt(inputs)
            assert abs(scaled).max() <= 1
            if scaled.size >= 200:  # the distance of Kolmogorov and Smirnov, far from chance
                share = (np.arange(scaled.size) + 0.5) / scaled.size
                assert abs(share - (scaled + 1) / 2).max() < 2 / np.sqrt(scaled.size)
    _, other = models.perceptron(jax.random.key(1), 3, width=200, depth=2)
    assert (other["layer_1"]["bias"] != params["layer_1"]["bias"]).all()
    assert len({float(layer["bias"][0]) for layer in params.values()}) == 3


@pytest.mark.slow
def test_its_jacobian_against_differences(x64):
    apply, params = models.perceptron(jax.random.key(3), 2, width=5, depth=2)
    x, step = jnp.array([0.4, -1.3]), 1e-6
    jacobian = jax.jacfwd(lambda x: apply(params, x, 0.3))(x)
    for i, unit in enumerate(np.eye(2)):
        above, below = (apply(params, x + s * unit, 0.3) for s in (step, -step))
        np.testing.assert_allclose(jacobian[:, i], (above - below) / (2 * step), rtol=1e-7)


def test_wrong_input_is_named():
    for sizes in ({"size": 0}, {"width": 2.0}, {"depth": 0}):
        options = {"size": 2, "width": 4, "depth": 1} | sizes
        ((name, value),) = sizes.items()
        with pytest.raises(
            ValueError, match=f"{name} must be an integer of at least 1, got {value}"
        ):
            models.perceptron(jax.random.key(0), options.pop("size"), **options)
    apply, params = models.perceptron(jax.random.key(0), 2, width=4, depth=1)
    with pytest.raises(ValueError, match=r"shape \(2,\).*got \(9, 2\).*jax\.vmap"):
        apply(params, jnp.zeros((9, 2)), 0.5)
    with pytest.raises(ValueError, match=r"t must be a scalar, got shape \(9,\)"):
        apply(params, jnp.zeros(2), jnp.zeros(9))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.5"):
        apply(params, jnp.zeros(2), 1.5)
