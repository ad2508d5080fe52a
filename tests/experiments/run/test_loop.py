"""The loop: resuming, devices, metrics, checkpoints, and what stops a run."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from experiments.run import batches as run_batches
from experiments.run import checkpoints, devices, loop, paths
from experiments.run import folder as record
from experiments.run.options import Place
from fmjax import train
from tests.experiments.run import damage

BATCH = 16
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a small run."""

    learning_rate: float = 0.1
    widths: tuple[int, ...] = (3, 4)
    name: str | None = None
    workdir: Place = "runs/a"
    data_dir: Place = None


def loss(params, key, batch):
    """A noisy linear regression: every step depends on its key, batch and parameters."""
    noise = jax.random.normal(key, batch["x"].shape)
    prediction = (batch["x"] + noise) @ params["w"] + params["layer"]["bias"]
    return jnp.mean((prediction - batch["x"].sum(-1, keepdims=True)) ** 2)


def make_params(width=3):
    random = np.random.default_rng(0)
    weights = jnp.asarray(random.normal(size=(width, 1)), jnp.float32)
    return {"w": weights, "layer": {"bias": jnp.zeros((1, 1))}}


ROWS = np.random.default_rng(1).normal(size=(56, 3)).astype(np.float32)
BATCHES = run_batches.batches(ROWS, BATCH, seed=0)


def evaluate(params, key):
    return {"bias": params["layer"]["bias"].sum(), "noise": jax.random.normal(key)}


def fit(workdir, num_steps, **changes):
    options = {
        "loss": loss,
        "params": make_params(),
        "batches": BATCHES,
        "optimizer": OPTIMIZER,
        "evaluate": evaluate,
        "workdir": workdir,
        "num_steps": num_steps,
        "seed": 7,
        "ema_decay": 0.9,
        "log_every": 1,
        "eval_every": 5,
        "save_every": 5,
    }
    return loop.fit(**(options | changes))


def metrics(workdir, *, speeds=False):
    """The lines of metrics.jsonl, without the speeds unless asked for."""
    lines = record.read_metrics(workdir)
    return lines if speeds else [line | {"steps_per_second": 0} for line in lines]


def contents(folder):
    """All files below a folder but the record of its sessions and writer, byte for byte."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [path for path in paths if path.name not in ("provenance.json", "writer.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of ten steps without a stop: its folder and its state."""
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, fit(workdir, 10)


@pytest.fixture
def run(straight, tmp_path):
    """A copy of the folder of that run."""
    shutil.copytree(straight[0], tmp_path / "run")
    return tmp_path / "run"


class Interruption(Exception):
    """What stops a run half way."""


def interrupted(stop):
    """Batches that fail when the one for step `stop` is asked for."""

    def start(step):
        for number, batch in enumerate(BATCHES(step), start=step + 1):
            if number == stop:
                raise Interruption
            yield batch

    return start


# Resuming.


@pytest.mark.slow
def test_stopped_at_5_and_resumed_to_10_is_the_straight_run_bit_for_bit(straight, tmp_path):
    half = fit(tmp_path, 5)
    assert int(half.step) == 5
    assert_same_bits(fit(tmp_path, 10), straight[1])
    assert metrics(tmp_path) == metrics(straight[0])


HALF = {"w": make_params()["w"], "layer": {"bias": jnp.zeros((1, 1), jnp.bfloat16)}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        (optax.chain(optax.add_noise(0.1, 0.55, key=0), optax.adam(0.1)), make_params()),
        (optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2), HALF),
        (optax.MultiSteps(optax.adam(0.1), every_k_schedule=2), make_params()),
        (optax.MultiSteps(optax.adam(0.1), every_k_schedule=3), HALF),
        (optax.lbfgs(), make_params()),
        (optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()), make_params()),
    ],
    ids=["key", "widening", "accumulation", "mid_accumulation", "lbfgs", "plateau"],
)
def test_any_state_of_an_optimizer_resumes_bit_for_bit(tmp_path, optimizer, params):
    straight = fit(tmp_path / "straight", 10, optimizer=optimizer, params=params)
    fit(tmp_path / "parts", 5, optimizer=optimizer, params=params)
    resumed = fit(tmp_path / "parts", 10, optimizer=optimizer, params=params)
    bits = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    assert_same_bits(jax.tree.map(bits, resumed), jax.tree.map(bits, straight))
    chex.assert_trees_all_equal_dtypes(resumed, straight)


@pytest.mark.slow
def test_large_parameters_of_half_precision_are_finite_to_the_loop(tmp_path):
    # The squares of 300 add up to more than 65504, the largest number of float16.
    params = {"w": jnp.full((3, 1), 300.0, jnp.float16), "layer": make_params()["layer"]}
    assert int(fit(tmp_path, 2, params=params, optimizer=optax.sgd(0.0)).step) == 2


@pytest.mark.parametrize("stop", [1, 6, 10])
def test_an_exception_half_way_loses_nothing_that_was_saved(straight, tmp_path, stop):
    with pytest.raises(Interruption):
        fit(tmp_path, 10, batches=interrupted(stop))
    assert saved_steps(tmp_path) == ([5] if stop > 5 else [])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # what a power cut leaves
    assert_same_bits(fit(tmp_path, 10), straight[1])
    assert metrics(tmp_path) == metrics(straight[0])


def test_a_finished_run_trains_nothing_and_returns_its_state(straight, run):
    def no_batches(step):
        raise AssertionError(step)
        yield

    before = contents(run)
    assert_same_bits(fit(run, 10, batches=no_batches), straight[1])
    assert contents(run) == before


def test_the_returned_state_keeps_its_types(straight):
    for state in (straight[1], fit(straight[0], 10)):
        assert isinstance(state, train.TrainState)
        assert jax.tree.structure(state) == jax.tree.structure(train.init(make_params(), OPTIMIZER))
        assert state.params["w"].sharding.is_fully_replicated


def test_the_callers_parameters_survive_donation(tmp_path):
    params = make_params()
    fit(tmp_path, 2, params=params)
    assert_same_bits(params, make_params())


@pytest.mark.slow
def test_another_seed_gives_another_run(straight, tmp_path):
    assert fit(tmp_path, 10, seed=8).params["w"][0] != straight[1].params["w"][0]


# Devices and numbers.


@pytest.mark.slow
def test_eight_devices_give_the_loss_of_one(straight):
    assert jax.device_count() == 8  # set in conftest
    key, _ = jax.random.split(jax.random.key(7))
    step = jax.jit(train.make_step(loss, OPTIMIZER, ema_decay=0.9))
    state, batches, losses = train.init(make_params(), OPTIMIZER), BATCHES(0), []
    for _ in range(10):
        state, info = step(state, key, next(batches))  # plain arrays, so on one device
        losses.append(float(info.loss))
    got = [line["loss"] for line in metrics(straight[0])]
    np.testing.assert_allclose(got, losses, rtol=1e-5)
    np.testing.assert_allclose(straight[1].params["w"], state.params["w"], rtol=1e-4)


def test_metrics_have_a_line_per_look(tmp_path):
    state = fit(tmp_path, 11, log_every=4, eval_every=6, save_every=5)
    lines = metrics(tmp_path, speeds=True)
    assert [line["step"] for line in lines] == [4, 5, 6, 8, 10, 11]
    names = ["step", "loss", "grad_norm", "steps_per_second"]
    for line in lines:
        evaluated = ["bias", "noise"] if line["step"] in (6, 11) else []
        assert list(line) == names + evaluated
        assert all(np.isfinite(x) for x in line.values())
        assert line["steps_per_second"] > 0
    assert lines[-1]["bias"] == pytest.approx(float(state.ema_params["layer"]["bias"][0, 0]))
    assert lines[2]["noise"] != lines[-1]["noise"]
    assert saved_steps(tmp_path) == [5, 10, 11]


@pytest.mark.slow
def test_only_the_newest_checkpoints_are_kept(tmp_path):
    fit(tmp_path, 6, save_every=1)
    assert saved_steps(tmp_path) == [4, 5, 6]


def test_progress_is_one_line_where_there_is_no_terminal(tmp_path, capsys):
    fit(tmp_path, 5, evaluate=lambda *_: {})
    text = capsys.readouterr().err
    assert text.startswith("train: step 5/5, loss ")
    assert text.endswith(" steps/s, 00:00 left\n")
    assert text.count("\n") == 1


def test_progress_is_a_bar_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(tmp_path, 5)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("train: 100%")
    assert "5/5" in last
    assert "steps/s" in last
    assert f"loss {metrics(tmp_path)[-1]['loss']:.4g}" in last


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch of 12 does not divide by the 8 devices: .* of 8"):
        fit(tmp_path, 5, batches=run_batches.batches(ROWS, 12, seed=0))


def test_batches_that_end_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="the batches ended after step 3 of 5"):
        fit(tmp_path, 5, batches=lambda step: (next(BATCHES(k)) for k in range(step, 3)))


@pytest.mark.parametrize("name", ["num_steps", "log_every", "eval_every", "save_every"])
def test_intervals_are_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        fit(tmp_path, **({"num_steps": 5} | {name: 0}))


def test_steps_that_may_be_skipped_are_counted_from_0(tmp_path):
    with pytest.raises(ValueError, match="max_skipped must be at least 0, got -1"):
        fit(tmp_path, 5, max_skipped=-1)


# What stops a run.


def explodes_at(step, factor):
    """A loss that is multiplied by `factor` from one step on, told by the batch."""

    def scaled(params, key, batch):
        return loss(params, key, batch) * jnp.where(batch["step"][0] >= step, factor, 1.0)

    return scaled


def numbered(start):
    for number, batch in enumerate(BATCHES(start), start=start + 1):
        yield batch | {"step": np.full(BATCH, number)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "log_every"),
    [(np.inf, 1), (np.nan, 100)],
    ids=["inf, seen when logging", "nan, seen when saving"],
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, factor, log_every):
    step = 7 if log_every == 1 else 10
    last = r"the last checkpoint is step 5, nothing after it was saved\. Try a smaller learning"
    message = rf"^loss is {factor}, grad_norm is nan.* at step {step}; {last}"
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(FloatingPointError, match=message):
            fit(tmp_path, 10, loss=explodes_at(7, factor), batches=numbered, log_every=log_every)
        assert saved_steps(tmp_path) == [5]
    assert all(line["step"] < 7 and None not in line.values() for line in metrics(tmp_path))
    # The checkpoint that was kept is whole: without the explosion the run goes on from it.
    assert int(fit(tmp_path, 10, batches=numbered).step) == 10


def spoiled(*steps):
    """Batches of which those of the given steps hold a NaN."""

    def start(step):
        for number, batch in enumerate(BATCHES(step), start=step + 1):
            wrong = np.nan if number in steps else 0.0
            yield {"x": batch["x"] + np.float32([wrong, 0.0, 0.0])}

    return start


@pytest.mark.parametrize("steps_per_call", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, steps_per_call):
    options = {"batches": spoiled(3, 10), "max_skipped": 1, "log_every": 5}
    straight = fit(tmp_path / "straight", 10, steps_per_call=steps_per_call, **options)
    assert int(straight.step) == 10
    assert int(optax.tree.get(straight.opt_state, "count")) == 8  # updates by Adam
    lines = metrics(tmp_path / "straight")
    assert [line["skipped"] for line in lines] == [1, 1]
    assert lines[0]["loss"] > 0
    assert lines[1]["loss"] is None  # the step of the line was skipped
    fit(tmp_path / "parts", 5, **options)
    assert_same_bits(fit(tmp_path / "parts", 10, **options), straight)
    assert metrics(tmp_path / "parts") == lines


def test_a_run_that_stopped_goes_on_when_more_steps_may_be_skipped(tmp_path):
    options = {"batches": spoiled(7, 9), "log_every": 5}
    with pytest.raises(
        FloatingPointError, match=r"param_norm is nan at step 10; .*\(max_skipped\)"
    ):
        fit(tmp_path, 10, **options)
    words = (
        r"^2 steps were skipped, more than max_skipped 1, at step 10; the last .* step 5, nothing"
    )
    with pytest.raises(FloatingPointError, match=words):
        fit(tmp_path, 10, max_skipped=1, **options)
    assert saved_steps(tmp_path) == [5]
    assert int(optax.tree.get(fit(tmp_path, 10, max_skipped=2, **options).opt_state, "count")) == 8
    assert [line.get("skipped") for line in metrics(tmp_path)] == [None, 2]


@pytest.mark.slow
def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    sgd = optax.sgd(1e38)
    with pytest.raises(FloatingPointError, match=r"param_norm is .* at step 1; there is no check"):
        fit(tmp_path, 5, optimizer=sgd, save_every=1)
    assert saved_steps(tmp_path) == []


# Checkpoints of another kind.


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(run):
    before = contents(run)
    with pytest.raises(ValueError, match="of another configuration") as caught:
        fit(
            run,
            20,
            params=make_params(5),
            batches=run_batches.batches(ROWS[:, [0, 1, 2, 0, 1]], 16, seed=0),
        )
    message = str(caught.value)
    assert str(run / "checkpoints" / "10") in message
    assert "params.w (float32[3, 1] there, float32[5, 1] now)" in message
    assert "and 1 more" in message  # params, ema_params, and two moments of Adam
    assert contents(run) == before


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"w": jnp.zeros((3, 1))}, r"params\.layer\.bias \(float32\[1, 1\] there, absent now\)"),
        (make_params() | {"b": jnp.zeros(2)}, r"params\.b \(absent there, float32\[2\] now\)"),
        (
            make_params() | {"w": jnp.zeros((3, 1), jnp.bfloat16)},
            r"params\.w \(float32\[3, 1\] there, bfloat16\[3, 1\] now\)",
        ),
    ],
    ids=["fewer", "more", "dtype"],
)
def test_the_first_differing_arrays_are_named(run, params, expected):
    before = contents(run)
    with pytest.raises(ValueError, match=expected):
        fit(run, 20, params=params)
    assert contents(run) == before


def test_a_checkpoint_of_another_optimizer_is_refused(run):
    with pytest.raises(ValueError, match=r"opt_state\.\S+ \(\S+ there, absent now\)"):
        fit(run, 20, optimizer=optax.sgd(0.1))


def test_a_checkpoint_beyond_the_end_is_refused(run):
    before = contents(run)
    with pytest.raises(
        ValueError, match="checkpoints/10 is beyond num_steps 5: train to at least 10"
    ):
        fit(run, 5)
    assert contents(run) == before


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


CHECKPOINT_DAMAGES = {
    "no metadata": lambda step: (step / "default" / "_METADATA").unlink(),
    "half metadata": lambda step: cut(step / "default" / "_METADATA"),
    "no arrays": lambda step: shutil.rmtree(step / "default"),
    "half the arrays": lambda step: [cut(path) for path in step.rglob("d/*")],
    "no manifest": lambda step: (step / "default" / "manifest.ocdbt").unlink(),
    "emptied": lambda step: [path.unlink() for path in step.rglob("*") if path.is_file()],
    "flipped bits": lambda step: [flip(path) for path in step.rglob("d/*")],
}


def flip(path):
    """Flips nine bits of a file; a single one may lie where nothing is read."""
    content = bytearray(path.read_bytes())
    for tenth in range(1, 10):
        content[tenth * len(content) // 10] ^= 4
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's readers
@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGES)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(straight, run, damage, capsys):
    CHECKPOINT_DAMAGES[damage](run / "checkpoints" / "10")
    assert_same_bits(fit(run, 10), straight[1])
    assert metrics(run) == metrics(straight[0])
    said = capsys.readouterr().err
    assert said.count("damaged, and moved from checkpoints to") == 1
    assert "going on from step 5\n" in said
    assert saved_steps(run) == [5, 10]
    assert [path.name for path in (run / "set_aside").iterdir()] == ["10"]
    assert_same_bits(fit(run, 10), straight[1])  # what was saved anew is whole
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's readers
def test_random_damage_changes_nothing_that_is_restored(straight, run):
    states = {10: straight[1]}
    shutil.copytree(run / "checkpoints" / "5", run / "half" / "checkpoints" / "5")
    with checkpoints.opened(run / "half" / "checkpoints") as saved:
        states[5] = checkpoints.newest(saved, straight[1], 5)
    # A seed whose damages do all three, whether orbax is the oldest or the newest.
    found = [result for _, _, *pair in damage.outcomes(run, states, 4, seed=3) for result in pair]
    kinds = {result.partition(":")[0] for result in found}
    assert kinds == {"same", "before", "refused"}, found


def test_a_run_without_a_whole_checkpoint_is_refused_and_nothing_changes(run):
    for step in ("5", "10"):
        CHECKPOINT_DAMAGES["half metadata"](run / "checkpoints" / step)
    before = contents(run)
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* is whole: step 10 \(.*step 5 \("
    ) as e:
        fit(run, 10)
    assert "\n" not in str(e.value)
    assert contents(run) == before


def test_a_checkpoint_of_an_older_version_has_no_checksums_and_restores(straight, tmp_path):
    with checkpoints.opened(tmp_path / "checkpoints") as saved:
        saved.save(10, args=ocp.args.StandardSave(straight[1]))
    assert_same_bits(fit(tmp_path, 10), straight[1])


# A damaged record.


def test_a_damaged_line_takes_the_run_back_to_the_checkpoint_before_it(straight, run, capsys):
    text = (run / "metrics.jsonl").read_text()
    line = text.splitlines()[6]
    (run / "metrics.jsonl").write_text(text.replace(line, line.replace('"loss": ', '"loss": 1')))
    with pytest.raises(ValueError, match="line 7 is damaged"):
        metrics(run)
    assert_same_bits(fit(run, 10), straight[1])
    assert metrics(run) == metrics(straight[0])
    assert "line 7 is damaged (it does not agree" in capsys.readouterr().err


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_a_record_that_no_checkpoint_can_mend_is_refused(run, lost):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:lost] + lines[lost + 1 :]))
    before = contents(run)
    with pytest.raises(
        ValueError, match=rf"of metrics.jsonl, line {lost + 1} is damaged"
    ) as caught:
        fit(run, 10)
    assert "move it away to go on without the record" in str(caught.value)
    assert contents(run) == before


def test_a_record_whose_end_is_lost_is_made_again(straight, run, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:8]))
    assert_same_bits(fit(run, 10), straight[1])
    assert metrics(run) == metrics(straight[0])
    assert "of metrics.jsonl, the last lines are missing); going on from" in capsys.readouterr().err


def test_a_run_whose_record_was_moved_away_says_so_and_goes_on(straight, run, capsys):
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "checkpoints" / "10")
    assert_same_bits(fit(run, 10), straight[1])
    assert "the record of this training begins after step 5" in capsys.readouterr().err
    assert metrics(run) == metrics(straight[0])[5:]


# The run folder.


def test_a_run_folder_is_made_and_opened_again(tmp_path):
    config = Config(learning_rate=0.5)
    folder = loop.open_run(tmp_path / "a" / "b", config)
    assert pathlib.Path(folder) == tmp_path / "a" / "b"
    before = contents(tmp_path)
    recorded = json.loads(before.pop("a/b/config.json"))
    assert recorded.pop("checksum") == f"crc32:{zlib.crc32(json.dumps(recorded).encode()):08x}"
    assert recorded == {
        "learning_rate": 0.5,
        "widths": [3, 4],
        "name": None,
        "workdir": "runs/a",
        "data_dir": None,
    }
    assert before == {}
    loop.open_run(tmp_path / "a" / "b", config)
    loop.open_run(tmp_path / "a" / "b", Config(0.5, workdir="moved", data_dir="/elsewhere"))
    assert "runs/a" in (tmp_path / "a" / "b" / "config.json").read_text()


def test_another_config_is_refused_and_nothing_changes(run):
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(Config())))
    before = contents(run)
    with pytest.raises(ValueError, match="holds a run with other options") as caught:
        loop.open_run(run, Config(learning_rate=0.01, widths=(3, 5), name="x"))
    message = str(caught.value)
    for part in (
        "learning_rate (0.1 there, 0.01 now)",
        "widths ([3, 4] there, [3, 5] now)",
        'name (null there, "x" now)',
        "another --workdir, or the same options",
    ):
        assert part in message
    assert "\n" not in message
    assert contents(run) == before


def test_a_config_with_other_fields_is_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Older:
        learning_rate: float = 0.1
        widths: tuple[int, ...] = (3, 4)
        momentum: float = 0.9

    loop.open_run(tmp_path, Older())
    (tmp_path / "metrics.jsonl").write_text("")
    expected = r'momentum \(0\.9 there, "absent" now\), name \("absent" there, null now\)'
    with pytest.raises(ValueError, match=expected):
        loop.open_run(tmp_path, Config())


def test_a_folder_in_which_nothing_was_recorded_takes_other_options(tmp_path):
    loop.open_run(tmp_path, Config(learning_rate=0.5))
    loop.open_run(tmp_path, Config(learning_rate=0.2))
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 0.2


def test_a_run_whose_config_is_missing_is_refused(run):
    before = contents(run)
    with pytest.raises(ValueError, match=r"holds a run but no config\.json: restore it"):
        loop.open_run(run, Config())
    assert contents(run) == before


def test_facts_are_compared_like_options(tmp_path):
    loop.open_run(tmp_path, Config(), data="crc32 1")
    (tmp_path / "metrics.jsonl").write_text("")
    loop.open_run(tmp_path, Config(), data="crc32 1")
    with pytest.raises(ValueError, match=r'data \("crc32 1" there, "crc32 2" now\)'):
        loop.open_run(tmp_path, Config(), data="crc32 2")


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\xfd", b""])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged .* or give another --workdir"):
        loop.open_run(tmp_path, Config())
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_checkpoint_that_cannot_be_saved_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.Manager, "save", full)
    with pytest.raises(OSError, match=r"could not save .*No space left.*make room.*steps are none"):
        fit(tmp_path, 10)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    for workdir in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(
            OSError, match=r"cannot write the run folder .*: give another --workdir"
        ) as e:
            loop.open_run(workdir, Config())
        assert str(workdir) in str(e.value)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write the run folder"):
        loop.open_run(tmp_path, Config())


def test_write_json_takes_arrays_and_is_strict_json(tmp_path):
    value = {
        "a": np.float32(0.5),
        "b": jnp.arange(2),
        "c": (1, np.nan, True, None),
        3: pathlib.Path("x"),
        "d": {"e": np.array([[1.0, np.inf]])},
    }
    record.write_json(tmp_path / "results.json", value)
    text = (tmp_path / "results.json").read_text()
    assert record.read_json(tmp_path / "results.json") == {
        "a": 0.5,
        "b": [0, 1],
        "c": [1, None, True, None],
        "3": "x",
        "d": {"e": [[1.0, None]]},
    }
    assert "NaN" not in text


def test_write_json_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch):
    record.write_json(tmp_path / "a.json", {"old": 1})
    before = contents(tmp_path)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(type(paths.absolute(tmp_path)), "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        record.write_json(tmp_path / "a.json", {"new": 2})
    assert (tmp_path / "a.json").read_bytes() == before["a.json"]


# Several hosts.


def test_a_single_host_is_left_alone(monkeypatch):
    for name in ("TPU_WORKER_HOSTNAMES", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "1")
    devices.join_hosts()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TPU_WORKER_HOSTNAMES", "a,b"),
        ("SLURM_STEP_NUM_TASKS", "2"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("JAX_COORDINATOR_ADDRESS", "a:1"),
    ],
)
def test_several_hosts_are_joined(monkeypatch, name, value):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    monkeypatch.setenv(name, value)
    devices.join_hosts()
    (options,) = calls
    # The hosts that do not evaluate wait for the one that does, longer than jax's five minutes.
    assert options.pop("shutdown_timeout_seconds") >= 3600
    # Where one dies the others end within 30 s; jax's heartbeats would take 100.
    assert options.pop("heartbeat_timeout_seconds") <= 25
    assert options == {"num_processes": None, "process_id": None}


PROCESS = """
import dataclasses, sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from experiments.images import data
from experiments.run import batches, devices, loop
folder = loop.open_run(sys.argv[1], dataclasses.make_dataclass("Config", [])())
# After the processes have met, because it asks for the devices:
from tests.experiments.run import test_loop
assert (jax.process_count(), jax.device_count()) == (2, 8)
batches = batches.batches(test_loop.ROWS, test_loop.BATCH, seed=0)
for num_steps in (5, 10):
    state = test_loop.fit(folder, num_steps, batches=batches)
np.save(f"{folder}/w{jax.process_index()}.npy", np.asarray(state.params["w"]))
"""


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(straight, tmp_path):
    root = str(pathlib.Path(loop.__file__).parents[2])
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    names = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "PYTHONPATH": root}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / "run")],
            env=os.environ | names | {"JAX_PROCESS_ID": str(index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for index in range(2):
        weights = np.load(tmp_path / "run" / f"w{index}.npy")
        np.testing.assert_allclose(weights, straight[1].params["w"], rtol=1e-5)
    got, wanted = metrics(tmp_path / "run"), metrics(straight[0])
    assert [line["step"] for line in got] == [line["step"] for line in wanted]
    losses = [[line["loss"] for line in lines] for lines in (got, wanted)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert "train: step" in errors[0]
    assert "train: step" not in errors[1]


# What several trainings, or all steps of one, have in common.


@pytest.mark.slow
def test_what_is_shared_reaches_every_step_whole(tmp_path):
    offset = np.linspace(-1.0, 1.0, 7, dtype=np.float32)  # not a multiple of the devices

    def with_offset(params, key, batch):
        return loss(params, key, {"x": batch["x"] + batch["offset"]["rows"].sum() + 1.0})

    # The rows sum to 0: the same training has 1 written into its loss.
    closed = fit(
        tmp_path / "closed", 5, loss=lambda p, k, b: loss(p, k, {"x": b["x"] + np.float32(1.0)})
    )
    shared = fit(
        tmp_path / "shared", 5, loss=with_offset, shared={"offset": {"rows": jnp.asarray(offset)}}
    )
    for ours, theirs in zip(jax.tree.leaves(shared), jax.tree.leaves(closed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_two_trainings_with_one_loss_compile_it_once(tmp_path):
    traces = []

    def counted(params, key, batch):
        traces.append(1)
        return loss(params, key, batch)

    for seed in (1, 2):
        fit(tmp_path / str(seed), 5, loss=counted, seed=seed)
    assert len(traces) == 1
    fit(tmp_path / "other", 5, loss=counted, ema_decay=0.5)
    assert len(traces) == 2
