"""The rows of the measured table for what `fmjax.posterior` knows beside the first moments.

The truth of every covariance is `oracles.covariance_of`, which conditions joint Gaussians for
each quantity anew, so that no factor of `fmjax.posterior` (6) stands on both sides. Compilation
takes longer than anything else here: one program serves all paths and kinds, which it picks by
traced numbers.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from fmjax import empirical, likelihood, paths, posterior, predictions, samplers
from tests.measured.identities import KINDS, PATHS, TIMES, Row, _largest, _naive, _states
from tests.oracles import mixture as oracles

# A full covariance for the noise, and a unit and an origin for each of three channels.
GAMMA = np.array([[1.3, 0.5, -0.2], [0.5, 0.8, 0.3], [-0.2, 0.3, 0.6]])
SCALE, SHIFT = np.array([4.0, 0.5, 12.0]), np.array([1.0, -2.0, 7.0])
SCALED = oracles.affine(oracles.MIXTURE, SCALE, SHIFT)
PROBE = np.array([0.3, -1.0, 0.7])
EARLY = np.array([0.05, 0.1, 0.2, 0.4, 0.6])


def _chosen(index: jax.Array) -> paths.Path:
    """Returns one of PATHS by its number, which may be traced."""
    pick = lambda name: (
        lambda t: jax.lax.switch(
            index, [getattr(path, name) for path in PATHS.values()], jnp.asarray(t)
        )
    )
    return paths.Path(alpha=pick("alpha"), sigma=pick("sigma"))


def _kind(index: jax.Array) -> predictions.Prediction:
    """Returns the row of one of KINDS by its number, which may be traced."""
    return lambda path, t: jax.lax.switch(index, [partial(k, path) for k in KINDS.values()], t)


def _law(path: paths.Path, x, t, mixture=oracles.MIXTURE) -> oracles.Law:
    return oracles.law(paths.coefficients(path, t), x, mixture)


def _velocity(path: paths.Path, mixture=oracles.MIXTURE) -> Callable:
    return lambda x, t: _law(path, x, t, mixture).velocity


def _four(velocity: Callable, path: paths.Path, x, t, **options) -> dict[str, jax.Array]:
    """Returns the covariance, and its product, diagonal and trace as one vector."""
    product = posterior.matvec(velocity, path, x, t, jnp.asarray(PROBE, x.dtype), **options)
    entries = posterior.diagonal(velocity, path, x, t, chunk_size=2, **options)
    total = posterior.trace(velocity, path, x, t, **options)
    return {
        "covariance": posterior.covariance(velocity, path, x, t, **options),
        "product, diagonal and trace": jnp.concatenate([product, entries, total[None]]),
    }


def _parts(matrix: jax.Array) -> dict[str, jax.Array]:
    """Returns the same of a matrix that is at hand."""
    entries = jnp.diag(matrix)
    three = [matrix @ jnp.asarray(PROBE, matrix.dtype), entries, entries.sum()[None]]
    return {"covariance": matrix, "product, diagonal and trace": jnp.concatenate(three)}


def _of_a_kind(path: paths.Path, kind: jax.Array, gamma: jax.Array, x, t) -> tuple[dict, dict]:
    """Returns the covariance of one kind of prediction, for noise of the covariance gamma."""
    mixture, c = oracles.MIXTURE._replace(noise=gamma), paths.coefficients(path, t)
    velocity, noise = _velocity(path, mixture), lambda w: gamma @ w
    ours = _four(velocity, path, x, t, of=_kind(kind), noise=noise)
    # Written out apart from the rows of fmjax.predictions, in the order of KINDS.
    rows = [
        [c.alpha_dot, c.sigma_dot], [1, 0], [0, 1], [0, -1 / c.sigma], [-c.sigma, c.alpha]
    ]  # fmt: skip
    a, b = jnp.array(rows, x.dtype)[kind]
    return ours, _parts(oracles.covariance_of(a, b, c, x, mixture))


def _in_data_units(path: paths.Path, kind: jax.Array, gamma, x, t) -> tuple[dict, dict]:
    """Returns the posterior in data units of a network that sees scaled and shifted data."""
    scale, shift = jnp.asarray(SCALE, x.dtype), jnp.asarray(SHIFT, x.dtype)
    field, noise = posterior.in_data_units(_velocity(path), path, scale=scale, shift=shift)
    state, c = scale * x + path.alpha(t) * shift, paths.coefficients(path, t)
    law = _law(path, state, t, SCALED)
    ours = _four(field, path, state, t, noise=noise)
    truth = _parts(oracles.covariance_of(1.0, 0.0, c, state, SCALED))
    ours["mean"], truth["mean"] = posterior.mean(field, path, state, t), law.mean
    ours["velocity"], truth["velocity"] = field(state, t), law.velocity
    return ours, truth


def _of_a_model(path: paths.Path, kind: jax.Array, gamma, x, t) -> tuple[dict, dict]:
    """Returns moments from a model of one kind, in our time and in its own."""

    def model(path, x, t):
        law, c = _law(path, x, t), paths.coefficients(path, t)
        v = c.alpha * law.noise_mean - c.sigma * law.mean
        return jnp.stack([law.velocity, law.mean, law.noise_mean, law.score, v])[kind]

    # In its own time s the same path gives a velocity dx/ds.
    theirs = paths.Path(alpha=lambda s: path.alpha(1 - s), sigma=lambda s: path.sigma(1 - s))
    fields = {
        "": predictions.as_velocity(partial(model, path), path, given=_kind(kind)),
        ", which counts from the data": predictions.reverse_time(
            partial(model, theirs), path, given=_kind(kind)
        ),
    }
    law, ours, truth = _law(path, x, t), {}, {}
    for name, field in fields.items():
        ours["mean" + name], truth["mean" + name] = posterior.mean(field, path, x, t), law.mean
        ours["covariance" + name] = posterior.covariance(field, path, x, t)
        truth["covariance" + name] = law.covariance
    return ours, truth


@cache
def _compiled(values: Callable, which: int) -> Callable:
    """Returns one program for all paths and kinds, which gives ours (0) or the truth (1)."""

    def one(index, kind, gamma, x, t):
        return jax.vmap(partial(values, _chosen(index), kind, gamma))(x, t)[which]

    return jax.jit(one)


def _cells() -> Iterator[tuple[Callable, int, np.ndarray, str, str]]:
    """Yields what is measured: a function above, a kind, a gamma, a label and a function's name."""
    for kind, name in enumerate(KINDS):
        for gamma, color in ((np.eye(3), "white"), (GAMMA, "colored")):
            label = f"posterior of the kind {name}, {color} noise"
            yield _of_a_kind, kind, gamma, label, "posterior.covariance, matvec, diagonal, trace"
        reverse = "predictions.as_velocity, reverse_time"
        yield _of_a_model, kind, np.eye(3), f"posterior by a model of {name}", reverse
    label = "posterior in the units of the data, one per channel"
    yield _in_data_units, 0, np.eye(3), label, "posterior.in_data_units"


def _relative(ours: dict, truth: dict) -> dict[str, float]:
    """Returns the largest error of every quantity, relative to its largest entry."""
    return {w: _largest(ours[w], truth[w]) / float(np.abs(truth[w]).max()) for w in truth}


def further_float64() -> Iterator[Row]:
    """Compares everything above with its closed form on all paths, the worst of each cell."""
    with jax.enable_x64(True):
        states = [_states(path, TIMES, n=8) for path in PATHS.values()]
        for values, kind, gamma, label, function in _cells():
            for index, name in enumerate(PATHS):
                arguments = (index, kind, jnp.asarray(gamma), *states[index])
                ours, truth = (_compiled(values, which)(*arguments) for which in (0, 1))
                error = max(_relative(ours, truth).values())
                yield Row(f"{label}, {name} path, relative", function, "DU 4.3", error, 1e-10)


def further_float32() -> Iterator[Row]:
    """Compares the same in float32 on the linear path, relative to the largest at each time."""
    for values, kind, gamma, label, function in _cells():
        worst = 0.0
        for time in EARLY:
            with jax.enable_x64(True):
                x, t = _states(PATHS["linear"], np.repeat(time, 7), n=8)
                x, t = x.astype(jnp.float32), t.astype(jnp.float32)
                wide = [jnp.asarray(a, jnp.float64) for a in (gamma, x, t)]
                truth = jax.tree.map(np.asarray, _compiled(values, 1)(0, kind, *wide))
            with jax.default_matmul_precision("highest"):
                ours = _compiled(values, 0)(0, kind, jnp.asarray(gamma, jnp.float32), x, t)
            worst = max(worst, *_relative(ours, truth).values())
        # x1 = (x - sigma x0) / alpha: near the noise, noise and score say little about the data.
        bar = 4e-4 if "model of x0" in label or "model of score" in label else 2e-5
        text = f"{label}, linear path, 0.05 <= t <= 0.6, float32 relative"
        yield Row(text, function, "DU 4.3", worst, bar)


def classes() -> Iterator[Row]:
    """Compares the parts within and between the mixture's components with their own formulas."""
    path = PATHS["linear"]
    velocity = lambda x, t, k: _law(path, x, t, oracles.component(k)).velocity
    solve = partial(samplers.fixed, num_steps=40, solver=diffrax.Dopri8())
    numbers = jnp.arange(3)

    def probabilities(x, t):
        field = lambda k: lambda x, t: velocity(x, t, k)
        density = lambda k: likelihood.log_prob(field(k), x, solve=solve, t1=t)
        return jax.nn.softmax(jax.vmap(density)(numbers) + jnp.log(oracles.WEIGHTS))

    def parts(x, t):
        r = _law(path, x, t).responsibilities
        whole = posterior.total_covariance(velocity, path, x, t, numbers, r)
        entries = posterior.total_diagonal(velocity, path, x, t, numbers, r)
        return (*whole, whole.total, *entries, entries.total)

    def truths(x, t):
        law = _law(path, x, t)
        each = [_law(path, x, t, oracles.component(k)) for k in range(3)]
        r = law.responsibilities
        within = sum(r[k] * each[k].covariance for k in range(3))
        # The means' own covariance over pairs of classes, without the mean of all.
        pairs = [(each[i].mean - each[j].mean, r[i] * r[j]) for i in range(3) for j in range(i)]
        between = sum(share * jnp.outer(gap, gap) for gap, share in pairs)
        matrices = (within, between, law.covariance)
        return (law.mean, *matrices, law.mean, *(jnp.diag(m) for m in matrices))

    names = [
        f"{part}, {function}"
        for function in ("matrix", "diagonal")
        for part in ("mean over classes", "within", "between", "within and between")
    ]
    with jax.enable_x64(True):
        x, t = _states(path, TIMES)
        ours, exact = (jax.jit(jax.vmap(f))(x, t) for f in (parts, truths))
        for name, a, b in zip(names, ours, exact, strict=True):
            function = f"posterior.total_{'covariance' if 'matrix' in name else 'diagonal'}"
            yield Row(f"{name}, linear path", function, "DU 4.3", _largest(a, b), 1e-10)
        x, t = _states(path, np.array([0.3, 0.9]), n=4)
        found = jax.jit(jax.vmap(probabilities))(x, t)
        exact = jax.jit(jax.vmap(lambda x, t: _law(path, x, t).responsibilities))(x, t)
        yield Row(
            "class probabilities by conditional likelihoods",
            "likelihood.log_prob",
            "NODE (8)",
            _largest(found, exact),
            1e-8,
        )


def _component_errors(found: posterior.Components, matrix: np.ndarray) -> dict[str, float]:
    """Returns errors against NumPy's eigh: of values, of the subspace, of norms and residuals."""
    values, vectors = np.linalg.eigh(matrix)
    k, variances = len(found.variances), np.asarray(found.variances, np.float64)
    ours, top = np.asarray(found.directions, np.float64).reshape(k, -1), vectors[:, ::-1][:, :k]
    defect = np.linalg.norm(ours @ matrix - variances[:, None] * ours, axis=1)
    return {
        "variances": np.abs(variances - values[::-1][:k]).max() / values[-1],
        "sine of the subspace's angle": np.linalg.norm(ours - (ours @ top) @ top.T, ord=2),
        "orthonormality": np.abs(ours @ ours.T - np.eye(k)).max(),
        "residuals": np.abs(defect - np.asarray(found.residuals)).max() / values[-1],
    }


def components() -> Iterator[Row]:
    """Compares principal components with NumPy's eigh, for digits in 64 dimensions."""
    path, images = PATHS["linear"], datasets.load_digits().images[:600] / 8.0 - 1.0
    noise = np.asarray(jax.random.normal(jax.random.key(1), (8, 8)))

    def find(bank, x, t, num_matvecs):
        velocity = partial(empirical.velocity, path, bank)
        return posterior.principal_components(
            jax.random.key(0), velocity, path, x, t, num_matvecs=num_matvecs
        )

    # The angle after 20 products is the method's, not the arithmetic's.
    for t, num_matvecs, dtype, bar, angle in (
        (0.3, 20, jnp.float64, 1e-10, 1e-6),
        (0.1, 32, jnp.float64, 1e-10, 1e-6),
        (0.1, 32, jnp.float32, 1e-5, 1e-4),
    ):
        with jax.enable_x64(dtype == jnp.float64), jax.default_matmul_precision("highest"):
            x = jnp.asarray(t * images[4] + (1 - t) * noise, dtype)
            compiled = jax.jit(find, static_argnums=3)
            found = compiled(jnp.asarray(images, dtype), x, t, num_matvecs)
        # The truth is for the state as it was rounded.
        with jax.enable_x64(True):
            truth = _naive(path, images, np.asarray(x, np.float64), t)[2]
        for what, error in _component_errors(found, truth).items():
            text = f"{what} of 5 components of digits, {num_matvecs} products, {x.dtype}, relative"
            limit = angle if "angle" in what else bar
            yield Row(text, "posterior.principal_components", "MM 4", float(error), limit)


def priors() -> Iterator[Row]:
    """Compares the limits at the noise end with Gaussian data at every time and path."""
    with jax.enable_x64(True):
        gaussian = oracles.component(2)
        cov = jnp.asarray(oracles.COVARIANCES[2])
        alone = oracles.MIXTURE._replace(
            weights=np.ones(1), means=oracles.MEANS[:1],
            covariances=np.diag(np.diag(oracles.COVARIANCES[2]))[None],
        )  # fmt: skip

        def both(index, t):
            path, x = _chosen(index), jnp.array([0.4, -0.1, 0.7])
            ours = posterior.prior_covariance(cov, path, t)
            entries = posterior.prior_variance(jnp.diag(cov), path, t)
            truth = _law(path, x, t, gaussian).covariance
            return [ours, entries], [truth, jnp.diag(_law(path, x, t, alone).covariance)]

        compiled = jax.jit(jax.vmap(both, (None, 0)))
        for index, name in enumerate(PATHS):
            ours, truth = compiled(index, jnp.asarray(TIMES))
            for which, a, b in zip(("covariance", "variance"), ours, truth, strict=True):
                label = f"prior {which} of Gaussian data, {name} path"
                yield Row(label, f"posterior.prior_{which}", "limit (7)", _largest(a, b), 1e-10)


GROUPS = (further_float64, further_float32, classes, components, priors)
