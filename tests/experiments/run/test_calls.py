"""Several steps in a call of the loop: the results are the same, whatever their number."""

import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import calls, layout, log
from tests.experiments.run import test_loop
from tests.experiments.run.test_loop import assert_same_bits, metrics, saved_steps

OPTIMIZED = True  # what users run: bits depend on what XLA makes of a program
EVERY = {"log_every": 4, "eval_every": 6, "save_every": 5}


@pytest.fixture(scope="module", autouse=True)
def _own_programs():
    """Forgets what other modules have compiled of the same loss, without optimizations."""
    calls.programs.cache_clear()
    yield
    calls.programs.cache_clear()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A run of 23 steps, each in a call of its own: its folder and its state."""
    workdir = tmp_path_factory.mktemp("single")
    return workdir, test_loop.fit(workdir, 23, steps_per_call=1, **EVERY)


@pytest.fixture
def counted(monkeypatch):
    """The numbers of steps of every call that takes several."""
    numbers, programs = [], calls.programs

    def counting(*given, **options):
        made = programs(*given, **options)

        def many(*arguments):
            numbers.append(arguments[-1])
            return made.many(*arguments)

        return made._replace(many=many)

    monkeypatch.setattr(calls, "programs", counting)
    return numbers


def assert_same_run(folder, state, single):
    assert_same_bits(state, single[1])
    assert metrics(folder) == metrics(single[0])
    assert saved_steps(folder) == saved_steps(single[0])


@pytest.mark.parametrize("count", [2, 4, 100])
def test_the_number_of_steps_in_a_call_changes_nothing(single, tmp_path, counted, count):
    state = test_loop.fit(tmp_path, 23, steps_per_call=count, **EVERY)
    assert_same_run(tmp_path, state, single)
    # Looks at 4 5 6 8 10 12 15 16 18 20 23: gaps of 4 1 1 2 2 2 3 1 2 2 3, once a 4.
    assert counted == {2: [2] * 9, 4: [4], 100: []}[count]


def test_stopped_and_resumed_with_other_numbers_it_is_the_same_run(single, tmp_path, counted):
    with pytest.raises(test_loop.Interruption):
        test_loop.fit(tmp_path, 23, steps_per_call=2, batches=test_loop.interrupted(14), **EVERY)
    assert saved_steps(tmp_path) == [5, 10]
    state = test_loop.fit(tmp_path, 23, steps_per_call=3, **EVERY)
    assert_same_run(tmp_path, state, single)
    assert counted == [2] * 5 + [3] * 2  # 1 to 4, 7 to 12; 13 to 15, 21 to 23


def clock(seconds):
    """A module in the place of `time`, by which `seconds` pass from one reading to the next."""
    readings = itertools.count(0.0, seconds)
    return types.SimpleNamespace(perf_counter=readings.__next__, monotonic=lambda: 0.0)


def test_what_the_clock_chooses_changes_nothing(tmp_path, monkeypatch, counted):
    options = {"log_every": 20, "eval_every": 40, "save_every": 40}
    runs = {}
    for name, seconds in {"quick": 1e-4, "slow": 1.0}.items():
        monkeypatch.setattr(calls, "time", clock(seconds))
        counted.clear()
        runs[name] = test_loop.fit(tmp_path / name, 80, **options)
        # The first 9 steps are timed, and the next look is at step 20.
        assert counted == {"quick": [20] * 3, "slow": []}[name]
    assert_same_bits(*runs.values())
    assert metrics(tmp_path / "quick") == metrics(tmp_path / "slow")


def test_the_number_is_the_one_that_the_first_process_chose(tmp_path, monkeypatch, counted):
    chosen = []
    monkeypatch.setattr(calls, "time", clock(1e-4))
    monkeypatch.setattr(layout, "said_by_first", lambda count: chosen.append(count) or 5)
    every = {"log_every": 20, "eval_every": 80, "save_every": 80}
    assert int(test_loop.fit(tmp_path, 80, **every).step) == 80
    assert chosen == [20]  # by the clock of this process
    assert counted == [5] * 14  # of steps 10 to 20 two, then four for each look


def with_convolution(params, key, batch):
    """The loss of the other tests, and a convolution that adds zero to it."""
    value = test_loop.loss(params, key, batch)
    rows = jnp.convolve(batch["x"][:, 0], params["w"][:, 0]) * 0.0
    return value + jax.jit(jnp.sum)(rows)


def test_a_network_with_convolutions_takes_single_steps(tmp_path, monkeypatch):
    traces, taken = [], []

    def counted(*arguments):
        traces.append(1)
        return with_convolution(*arguments)

    programs = calls.programs
    monkeypatch.setattr(
        calls,
        "programs",
        lambda *given, **options: programs(*given, **options)._replace(
            many=lambda *_: taken.append(1)
        ),
    )
    monkeypatch.setattr(calls, "time", clock(1e-4))
    every = {"log_every": 70, "eval_every": 70, "save_every": 70}
    assert int(test_loop.fit(tmp_path, 70, loss=counted, **every).step) == 70
    assert taken == []
    assert len(traces) == 1  # looking for convolutions takes no trace of its own


def test_convolutions_are_found_within_what_a_function_calls():
    def found(function, *arguments):
        return calls.has_convolution(jax.make_jaxpr(function)(*arguments).jaxpr)

    x = jnp.ones(4)
    inner = lambda x: jnp.convolve(x, x, mode="same")
    assert found(inner, x)
    assert found(lambda x: jax.lax.cond(x[0] > 0, jax.jit(inner), jnp.sin, x), x)
    assert found(lambda x: jax.lax.scan(lambda c, _: (inner(c), None), x, length=2), x)
    assert not found(
        lambda x: jax.lax.scan(lambda c, _: (jnp.outer(c, c)[0], None), x, length=2), x
    )


def test_on_an_accelerator_the_size_of_a_step_tells_and_no_clock(tmp_path, monkeypatch, counted):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(calls, "time", clock(1.0))
    options = {"log_every": 40, "eval_every": 40, "save_every": 40}
    test_loop.fit(tmp_path, 80, **options)
    assert counted == [40]  # the first look comes before 40 steps are left
    sizes = {1e6: 100, 1e8: 100, 1e9: 10, 4e9: 2, 1e11: 1, float("inf"): 1}
    assert {size: calls.by_size(size, gap=100) for size in sizes} == sizes


HOW_MANY = {
    "a small network": ((3e-4, 1e-4, 1.0), {"left": 10_000, "gap": 50}, 50),
    "each look splits into equal parts": ((3e-4, 6e-4, 1.0), {"left": 10_000, "gap": 100}, 50),
    "a call ends in time": ((2e-3, 1e-3, 1.0), {"left": 10_000, "gap": 1000}, 15),
    "a large network": ((3e-4, 5e-2, 9.0), {"left": 10_000, "gap": 50}, 1),
    "a slow host": ((5e-2, 1e-3, 9.0), {"left": 10_000, "gap": 50}, 1),
    "nothing to win any more": ((3e-4, 1e-4, 1.0), {"left": 1000, "gap": 50}, 1),
}


@pytest.mark.parametrize("name", HOW_MANY)
def test_how_many_steps_a_call_takes(name):
    seconds, options, wanted = HOW_MANY[name]
    number = calls.how_many(*seconds, **options)
    assert number == wanted
    assert number == 1 or number * sum(seconds[:2]) <= 0.1


def test_batches_that_end_within_a_call_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="the batches ended after step 7 of 20"):
        test_loop.fit(
            tmp_path,
            20,
            batches=lambda step: itertools.islice(test_loop.BATCHES(step), 7 - step),
            steps_per_call=5,
            log_every=20,
            eval_every=20,
            save_every=20,
        )


def test_a_loss_that_is_not_finite_stops_the_run_at_the_next_look(tmp_path):
    message = r"^loss is nan, .* at step 10; the last checkpoint is step 5, nothing after"
    with pytest.raises(FloatingPointError, match=message):
        test_loop.fit(
            tmp_path,
            20,
            loss=test_loop.explodes_at(7, np.nan),
            batches=test_loop.numbered,
            log_every=5,
            steps_per_call=5,
        )
    assert saved_steps(tmp_path) == [5]


def test_the_bar_counts_steps_and_not_calls(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    test_loop.fit(tmp_path, 8, steps_per_call=4, **EVERY | {"eval_every": 8, "save_every": 8})
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("train: 100%")
    assert "8/8" in last


def test_the_speed_counts_every_step_and_no_compilation(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "time", clock(3.0))  # read after the first call, and for the speed
    written = log.Log(tmp_path / "metrics.jsonl", 0, 20)
    written.tick(4, 5.0)
    written.tick(4, 2.0)
    assert written.speed(8) == 4.0 / (3.0 - 2.0)


@pytest.mark.slow
def test_a_state_in_parts_takes_several_steps_in_a_call(tmp_path):
    params = {"w": np.ones((3, 1), np.float32), "layer": {"bias": np.zeros((1, 2**14), np.float32)}}
    runs = []
    for count in (1, 3):
        with layout.split(4):
            state = test_loop.fit(
                tmp_path / str(count),
                6,
                params=params,
                evaluate=lambda *_: {},
                steps_per_call=count,
                log_every=6,
            )
        assert state.params["layer"]["bias"].sharding.shard_shape((1, 2**14)) == (1, 2**12)
        runs.append(layout.on_host(state))
    assert_same_bits(*runs)
