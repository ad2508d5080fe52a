"""The trajectory experiment: what it measures, its paths and losses, and a run of a few steps."""

import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import experiments.run
import fmjax
from experiments.fdm import trajectories as fdm_trajectories
from experiments.fdm._trajectories import measures, settings, systems, training
from experiments.fdm._trajectories.options import Source, Training
from experiments.run import arrays, cli, numbers
from tests.oracles import tiny

load = training.load  # the run below puts another in its place

# Statistics.


def test_distances_against_loops_and_scipy():
    random = np.random.default_rng(0)
    data, samples = random.gamma(2.0, size=900), random.gamma(3.0, 0.8, size=700) - 0.4
    ours = measures.distances(samples, data, num_bins=8)
    low, high = data.min(), data.max()
    width, outside = (high - low) / 8, ((samples < low) | (samples > high)).sum()
    assert outside > 0
    p, counts = np.zeros(8), np.zeros(8)
    for values, bins in ((data, p), (samples, counts)):
        for value in values:
            if low <= value <= high:
                bins[min(int((value - low) / width), 7)] += 1
    p /= len(data)
    total = sum(abs(p[k] - counts[k] / 700) for k in range(8)) + outside / 700
    assert abs(ours["total_variation"] - total / 2) < 1e-12
    smooth = (counts + 0.5) / 704.0
    by_scipy = scipy.stats.entropy(p, smooth) - np.log(smooth.sum())  # which normalizes q
    assert abs(ours["kl"] - by_scipy) < 1e-12
    steps = [abs((data <= z).mean() - (samples <= z).mean()) for z in (*data, *samples)]
    assert abs(ours["kolmogorov_smirnov"] - max(steps)) < 1e-12


def test_distances_of_the_same_and_of_disjoint_samples():
    data = np.random.default_rng(0).normal(size=500)
    same = measures.distances(data, data, num_bins=10)
    assert same["total_variation"] == same["kolmogorov_smirnov"] == 0.0
    assert abs(same["kl"]) < 0.01  # half a count in each bin
    apart = measures.distances(data + 100.0, data, num_bins=10)
    assert apart["total_variation"] == apart["kolmogorov_smirnov"] == 1.0
    assert np.isfinite(apart["kl"])


def test_shares_and_means_with_their_standard_errors():
    ours = numbers.share(np.array([True] * 3 + [False] * 9))
    assert ours == {"share": 0.25, "standard_error": math.sqrt(0.25 * 0.75 / 12)}
    values = np.random.default_rng(1).gamma(2.0, size=30)
    ours = numbers.mean(values)
    assert abs(ours["mean"] - values.mean()) < 1e-12
    assert abs(ours["standard_error"] - scipy.stats.sem(values)) < 1e-12


@pytest.mark.slow
def test_the_event_is_that_of_the_normal_law_and_its_pull_is_bounded(x64):
    z = jnp.array([-40.0, -7.0, -5.0, -4.9, -1.0, 0.0, 3.0])
    found = jax.vmap(measures.bounded_log_cdf)(z)
    np.testing.assert_allclose(found[2:], scipy.stats.norm.logcdf(z[2:]), rtol=1e-12)
    slope = np.exp(scipy.stats.norm.logpdf(5.0) - scipy.stats.norm.logcdf(-5.0))
    below = scipy.stats.norm.logcdf(-5.0) + slope * (z[:2] + 5.0)
    np.testing.assert_allclose(found[:2], below, rtol=1e-12)
    slopes = jax.vmap(jax.grad(measures.bounded_log_cdf))(z[jnp.array([0, 1, 3])])
    wanted = [slope, slope, np.exp(scipy.stats.norm.logpdf(-4.9) - scipy.stats.norm.logcdf(-4.9))]
    np.testing.assert_allclose(slopes, wanted, rtol=1e-10)

    path, x = fmjax.paths.linear(), jnp.array([0.4, -1.3])
    gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
    event = lambda x1: x1[0] - 1.0
    found = jax.jit(measures.given(event, 0.0, gaussian, path))(x, 0.5)
    exact = jax.jit(fmjax.events.conditioned(event, gaussian, path, jitter=0.0))(x, 0.5)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_relative_error_against_a_loop():
    x, y = np.random.default_rng(0).gamma(2.0, size=(2, 3, 5, 4)) - 1.0
    ours = measures.relative_error(x, y)
    for i in range(3):
        for k in range(5):
            above = sum(abs(x[i, k, j] - y[i, k, j]) for j in range(4))
            below = sum(abs(x[i, k, j]) + abs(y[i, k, j]) for j in range(4))
            assert abs(ours[i, k] - above / below) < 1e-12
    np.testing.assert_array_equal(measures.relative_error(x, x), 0.0)
    np.testing.assert_allclose(measures.relative_error(x, -x), 1.0)


# Paths, on N(0, s^2 I), whose velocity is linear.

STD = 0.7
SHAPE = (3, 2)
TIMES = (0.1, 0.6, 0.97)


def _exact(path_name):
    """The task whose network is exact for data N(0, STD^2 I), scaled by its parameter, 1."""
    setting = settings.PATHS[path_name](STD)

    def gaussian(params, x, t):
        c = fmjax.paths.coefficients(setting.path, t)
        spread = c.alpha**2 * STD**2 + c.sigma**2
        noise = c.sigma / spread * x
        return params * (c.sigma_dot * noise + c.alpha_dot * c.alpha * STD**2 / spread * x)

    def network(params, z, t):  # undoes what the setting does
        if path_name == "linear":
            return gaussian(params, z, t)
        x = z * jnp.sqrt(setting.path.sigma(t) ** 2 + STD**2)
        return gaussian(params, x, t) / fmjax.paths.coefficients(setting.path, t).sigma_dot

    def field(params, x, t):
        return setting.velocity(functools.partial(network, params), x, t)

    return training.Task(setting, training.nothing, field, jnp.ones(())), gaussian


BOTH = pytest.mark.parametrize("path", ["ve", "linear"])


@BOTH
def test_the_setting_leaves_the_velocity_as_it_is(path, x64):
    task, gaussian = _exact(path)
    x = np.random.default_rng(0).gamma(2.0, size=SHAPE) - 1.0
    for t in TIMES:
        expected = gaussian(1.0, x, t)
        np.testing.assert_allclose(task.field(1.0, x, t), expected, rtol=1e-9)
        assert expected.all()


MOMENTS = np.array([1.0, -2.0]), np.array([0.5, 3.0])


@BOTH
def test_conditioned_the_network_has_nothing_to_add_to_gaussian_states(path, x64):
    mean, std = MOMENTS
    setting = settings.conditioned(settings.PATHS[path](2.0), mean, std)
    x = np.random.default_rng(0).gamma(2.0, size=SHAPE) - 1.0
    for t in TIMES:
        c = fmjax.paths.Coefficients(*map(float, fmjax.paths.coefficients(setting.path, t)))
        slope = (c.alpha_dot * c.alpha * std**2 + c.sigma_dot * c.sigma) / (
            c.alpha**2 * std**2 + c.sigma**2
        )
        expected = c.alpha_dot * mean + slope * (x - c.alpha * mean)
        field = setting.velocity(lambda y, t: 0.0 * y, x, t)
        np.testing.assert_allclose(field, expected, rtol=1e-9)


@pytest.mark.slow
@BOTH
def test_conditioned_every_time_counts_alike(path):
    mean, std = MOMENTS
    setting = settings.conditioned(settings.PATHS[path](2.0), mean, std)
    field = lambda _, x, t: setting.velocity(lambda y, t: 0.0 * y, x, t)
    task, num = training.Task(setting, training.nothing, field, {}), 4000
    x1 = np.float32(np.random.default_rng(0).normal(mean, std, (num, *SHAPE)))
    for t in (0.05, 0.5, 0.95):
        at_once = task._replace(setting=setting._replace(times=lambda _, n, t=t: jnp.full(n, t)))
        loss = training.make_loss(at_once, 0.0, "trace")
        value = float(jax.jit(loss)({}, jax.random.key(1), {"x": x1}))
        # A mean of squares of unit variance, of which the wider coordinate has nearly all.
        assert abs(value - 1.0) < 5 * 2**0.5 / (3 * num) ** 0.5
    t = setting.times(jax.random.key(2), (num,))
    ratio = np.log(setting.path.sigma(t) / setting.path.alpha(t))
    size = np.sqrt(np.mean(std**2))
    assert abs(np.median(ratio) - np.log(size) + 0.5) < 5 * 1.2 * 1.2533 / num**0.5
    assert float(t.max()) <= setting.end


@pytest.mark.slow
@BOTH
def test_samples_and_their_likelihood_are_those_of_the_gaussian(path, x64):
    """The normalizer of the noise once per dimension: the printed one of the paper is too low."""
    task, _ = _exact(path)
    num = 400
    x0 = jax.random.normal(jax.random.key(0), (num, *SHAPE))
    draw = functools.partial(measures.sample, task, None, 60)
    run = measures.compiled(draw)
    x1 = run(jnp.ones(()), jax.random.key(1), x0, label="samples", size=num)
    count = x1.size
    assert abs(x1.mean()) < 5 * STD / count**0.5
    assert abs(x1.var() / STD**2 - 1.0) < 5 * (2.0 / count) ** 0.5 + 0.01  # sixty steps
    nats = jax.jit(functools.partial(measures.nats_per_dim, task, 1e-7))
    key = jax.random.key(2)
    ours = nats(jnp.ones(()), key, x1[0])
    end = task.setting.path.sigma(task.setting.end)
    x = x1[0] + end * jax.random.normal(jax.random.split(key)[0], SHAPE)
    expected = -scipy.stats.norm(0.0, np.hypot(STD, end)).logpdf(x).mean()
    # The law of the noise at t = 0 is that of x_0 up to the data's share, (0.7 / 300)^2.
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


# Losses.


@pytest.mark.slow
@BOTH
def test_the_loss_against_its_formula(path, x64):
    task, _ = _exact(path)
    x1 = np.random.default_rng(0).gamma(2.0, size=(6, *SHAPE)) - 1.0
    key, params = jax.random.key(3), 0.8
    key_time, key_noise, _ = jax.random.split(key, 3)
    times = task.setting.times(key_time, (6,))
    noise = jax.random.normal(key_noise, x1.shape)
    flows, penalties = [], []
    field = jax.jit(task.field)
    for t, e, z in zip(times, np.asarray(noise), x1, strict=True):
        c = fmjax.paths.coefficients(task.setting.path, t)
        c = type(c)(*map(float, c))
        scale = c.sigma_dot if path == "ve" else 1.0
        v = np.asarray(field(params, c.alpha * z + c.sigma * e, t))
        divergence = v.ravel()[0] / (c.alpha * z + c.sigma * e).ravel()[0] * 6
        flows.append((((v - c.alpha_dot * z - c.sigma_dot * e) / scale) ** 2).mean())
        rho = c.sigma_dot * (6 - (e**2).sum()) - ((c.alpha_dot * z - v) * e).sum()
        penalties.append(((rho - c.sigma * divergence) / scale) ** 2 / 6)
    options = ((0.0, "trace"), (0.3, "trace"), (0.3, "trace", 3))
    losses = [training.make_loss(task, *each) for each in options]
    ours = jax.jit(lambda x1: [loss(params, key, {"x": x1}) for loss in losses])(x1)
    on_average = [np.mean(part) for part in ([0.0], penalties, penalties[::3])]
    expected = [np.mean(flows) + 0.3 * penalty for penalty in on_average]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    held = training.held_out(task, x1, key)(params, None)
    assert abs(held["flow"] - np.mean(flows)) < 1e-9
    assert abs(held["divergence"] - np.mean(penalties)) < 1e-9


@pytest.mark.slow
def test_only_the_first_states_are_known():
    x = jnp.arange(1.0, 11.0).reshape(5, 2)
    context = training.first_states(x, known=2)["context"]
    assert context.tolist() == [[1, 2, 1], [3, 4, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert training.nothing(x) == {}


# A run.

TINY = tiny.config(
    fdm_trajectories.Config,
    num_train=64,
    num_test=100,
    channels=(8,),
    num_blocks=(1,),
    batch_size=8,
    num_steps=4,
    save_every=2,
    probe_every=2,
    forecast_steps=2,
    num_samples=6,
    num_conditioned=4,
    sample_steps=2,
    num_bins=5,
    num_likelihood=2,
    tolerance=0.1,
    num_forecasts=5,
    eval_batch_size=4,
)
PLACES = ("fm", "fdm", "forecast/fm", "forecast/fdm")


def _waves(source, seed):
    """Waves of random size and phase for the simulated data: the smaller half is in the event."""
    random = np.random.default_rng(seed)
    shape = (source.num_train + source.num_test, 1, 3)
    size, phase = random.uniform(0.0, 1.2, shape), random.uniform(0.0, 6.0, shape)
    x = size * np.sin(np.arange(60.0)[:, None] / 4.0 + phase) + 0.3
    parts = np.split(x.astype(np.float32), [source.num_train])
    return training.Trajectories(systems.lorenz(), *parts)


def _main(folder, **options):
    fdm_trajectories.main(tiny.replace(TINY, workdir=str(folder), **options))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("trajectories") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load", _waves)
        _main(folder)
        yield folder


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    found = {place: tiny.loaded(run, place, run / place, TINY) for place in PLACES}
    trajectories = found["fm"].data
    key = jax.random.fold_in(jax.random.key(TINY.seed), 1000)
    task = training.task(TINY.training, TINY.seed, trajectories, TINY.path, training.nothing)
    # The losses of the velocity itself, whatever parameters the task would give it.
    bound = task._replace(field=lambda _, x, t: found["fdm"].velocity(x, t))
    losses = training.held_out(bound, trajectories.test[:512], key)(None, None)
    kept = json.loads((run / "results.json").read_text())["held_out"]["fdm"]
    np.testing.assert_allclose(losses["flow"], kept["flow"], rtol=1e-4)
    sampled = arrays.read(run / "arrays.npz")["free"]
    assert set(sampled) == {"data", "fm", "fdm"}
    assert sampled["fm"].shape[1:] == (60, 3)
    x1 = jnp.asarray(trajectories.train[0])
    context = training.first_states(x1)["context"]
    assert found["forecast/fm"].velocity(x1, 0.5, context=context).shape == x1.shape


@pytest.mark.slow
def test_a_run_folder_holds_everything(run):
    for place in PLACES:
        lines = [json.loads(s) for s in (run / place / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == ([2] if "forecast" in place else [2, 4])
        assert all(np.isfinite(line["flow"] + line["divergence"]) for line in lines)
    results = json.loads((run / "results.json").read_text())
    for part, happened, count in (("free", "event", 6), ("given", "inside", 4)):
        assert list(results[part]) == ["data", "fm", "fdm"]
        for row in results[part].values():
            assert row["num_samples"] == count
            assert 0.0 <= row["total_variation"] <= 1.0
            assert 0.0 <= row[happened]["share"] <= 1.0
    assert results["given"]["data"]["inside"]["share"] == 1.0
    assert set(results["likelihood"]) == {"fm", "fdm", "fdm - fm"}
    assert [len(row["median"]) for row in results["forecasts"].values()] == [60] * 3
    assert list(results["held_out"]["fm"]) == ["step", "flow", "divergence"]
    assert results["held_out"]["fm"] != results["held_out"]["fdm"]
    tiny.check_pictures(run / "figures", {"trajectories", "statistic", "forecasts", "training"})


@pytest.mark.long
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(run):
    again = run.parent / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "fdm" / "checkpoints" / "4")
    (again / "results.json").unlink()
    _main(again)
    assert tiny.results(again) == tiny.results(run)


@pytest.mark.slow
def test_other_options_are_refused_and_nothing_is_touched(run):
    before = tiny.contents(run)
    with pytest.raises(ValueError, match=r"other options: weight .*--workdir"):
        _main(run, weight=0.1)
    with pytest.raises(ValueError, match=r"other options: seed .*trajectories .*crc32"):
        _main(run, seed=1)
    with pytest.raises(
        ValueError, match=r"[01] of 1 .* event of lorenz, .* give a larger num_test"
    ):
        _main(run, num_test=1)
    assert tiny.contents(run) == before


def test_the_methods_differ_in_what_was_asked_for_and_in_nothing_else():
    same = fdm_trajectories.methods(Training(weight=0.0))
    assert same["fm"] == same["fdm"] == {"weight": 0.0, "learning_rate": 3e-3}
    tuned = Training(weight=0.2, learning_rate=2e-3, fdm_learning_rate=5e-3)
    tuned = fdm_trajectories.methods(tuned)
    assert tuned["fm"] == {"weight": 0.0, "learning_rate": 2e-3}
    assert tuned["fdm"] == {"weight": 0.2, "learning_rate": 5e-3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--system", "pendulum"],
            "one of lorenz, fitzhugh_nagumo, or a path ending in .npy",
        ),
        (["--system", "none.npy"], "no file none.npy: an .npy or .csv file of numbers [n, length"),
        (["--path", "vp"], "path must be one of ve, linear, got 'vp'"),
        (["--matching", "curl"], "matching must be one of trace, product, jacobian, got 'curl'"),
        (["--seed", "-1"], "seed must be between"),
        (["--weight", "-1"], "weight must be between"),
        (["--batch-size", "9999"], "batch_size must be between 1 and 4000, got 9999"),
        (["--probe-every", "0"], "probe_every must be between"),
        (["--fdm-learning-rate", "0"], "fdm_learning_rate must be between"),
        (["--num-likelihood", "1"], "one has no standard error"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (["--ema-decay", "1"], "ema_decay must"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(fdm_trajectories.main, fdm_trajectories.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def _own(path, n=64, length=20):
    """Waves of two channels in a file."""
    random = np.random.default_rng(0)
    phase = random.uniform(0.0, 6.0, (n, 1, 2))
    size = random.gamma(2.0, 0.5, (n, 1, 2))
    np.save(path, size * np.sin(np.arange(float(length))[:, None] / 3.0 + phase) + 0.3)
    return str(path)


def test_a_users_own_trajectories_are_split_and_have_an_event(tmp_path):
    file = _own(tmp_path / "waves.npy")
    source = Source(system=file, num_train=40, num_test=20)
    found = load(source, 0)
    assert (found.train.shape, found.test.shape) == ((40, 20, 2), (20, 20, 2))
    whole = {row.tobytes() for row in np.float32(np.load(file))}
    parts = [row.tobytes() for part in found[1:] for row in part]
    assert len(set(parts)) == 60
    assert set(parts) < whole
    assert found.system.name == "waves"
    # The event against its words: the first channel rises above nine tenths of the maxima.
    happens = measures.statistic(found.system.event, found.train) > 0
    maxima = found.train[:, :, 0].max(axis=1)
    np.testing.assert_array_equal(happens, maxima > np.quantile(maxima, 0.9))
    assert happens.sum() == 4
    again, other = load(source, 0), load(source, 1)
    np.testing.assert_array_equal(again.train, found.train)
    assert not np.array_equal(other.train, found.train)
    with pytest.raises(ValueError, match=r"holds 64 examples, too few for --num-train 60"):
        load(Source(system=file, num_train=60, num_test=20), 0)
    with pytest.raises(ValueError, match="nothing is known of the system of waves"):
        found.system.field(jnp.zeros(2))


@pytest.mark.slow
def test_a_run_on_a_users_own_trajectories(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load", load)  # the fixture `run` has waves in its place
    file = _own(tmp_path / "waves.npy", n=200)
    options = {"system": file, "num_train": 100, "num_test": 100, "forecast_steps": 0}
    _main(tmp_path / "run", **options, num_likelihood=0)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["free"]) == ["data", "fm", "fdm"]
    assert arrays.read(tmp_path / "run" / "arrays.npz")["free"]["fm"].shape[1:] == (20, 2)
    tiny.check_pictures(tmp_path / "run" / "figures", {"trajectories", "statistic", "training"})
    run = experiments.run.load(tmp_path / "run", "fm")
    assert run.data.train.shape == (100, 20, 2)


def test_trajectories_are_those_of_the_seed_and_kept(monkeypatch):
    calls = []
    monkeypatch.setattr(
        systems,
        "simulate",
        lambda *args, cache: (calls.append((args, cache)), np.zeros(args[2]))[1],
    )
    source = Source(system="fitzhugh_nagumo", data_dir="kept", num_train=7)
    trajectories = load(source, 0)
    assert [len(part) for part in trajectories[1:]] == [7, source.num_test]
    assert {cache for _, cache in calls} == {"kept"}
    assert {args[0].name for args, _ in calls} == {"fitzhugh_nagumo"}
    load(source, 1)
    drawn = {tuple(jax.random.key_data(args[1]).tolist()) for args, _ in calls}
    assert len(drawn) == 4  # training and test, of two seeds
