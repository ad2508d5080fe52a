"""What a run gives back, and the folders from which nothing can be given back."""

import dataclasses
import json
import pathlib
import sys
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import experiments.run
from experiments.run import arrays, checkpoints, loop, saved, stored
from experiments.run import folder as run_folder
from fmjax import train
from tests.oracles import tiny

OPTIMIZER = optax.adam(0.1)
LIKE = {"w": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of an experiment that trains two networks."""

    workdir: str | None = None
    widths: tuple[int, ...] = (3,)
    rate: float = 0.5
    num_steps: int = 2


def _apply(params, x, t):
    return t * (x @ params["w"]["kernel"] + params["w"]["bias"])


def _loss(params, key, batch):
    target = jnp.arange(3.0) + batch["x"].mean()
    return jnp.mean((_apply(params, jnp.ones(2), 1.0) - target) ** 2) + 0.0 * jax.random.uniform(
        key
    )


def _restore(config, folder):
    read = lambda name: partial(checkpoints.averaged, folder / name, LIKE, config.num_steps)
    return {
        name: saved.Network(_apply, read(name), "the path", lambda name=name: f"data of {name}")
        for name in ("first", "second")
    }


def _train(folder, name, num_steps=2):
    rows = np.full((8, 1), len(name), np.float32)
    return loop.fit(
        _loss, LIKE, lambda _: iter(lambda: {"x": rows}, None), OPTIMIZER, lambda *_: {},
        workdir=folder / name, num_steps=num_steps, seed=0, eval_every=10, save_every=10,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _module(monkeypatch):
    """An experiment named experiments.two."""
    module = types.ModuleType("experiments.two")
    module.Config, module.restore = Config, _restore
    monkeypatch.setitem(sys.modules, "experiments.two", module)
    monkeypatch.setattr(Config, "__module__", "experiments.two")


@pytest.fixture
def folder(tmp_path):
    """The folder of a run whose second network is not finished."""
    folder = loop.open_run(tmp_path / "run", Config(widths=(4, 5), rate=0.25), data="crc32 1")
    _train(folder, "first")
    _train(folder, "second", num_steps=1)
    return folder


@pytest.mark.slow
def test_a_network_comes_back_with_its_averaged_parameters(folder):
    state = _train(folder, "first")  # restored
    before = tiny.contents(pathlib.Path(folder))
    found = experiments.run.load(str(folder), "first")
    assert tiny.contents(pathlib.Path(folder)) == before
    jax.tree.map(np.testing.assert_array_equal, found.params, jax.device_get(state.ema_params))
    assert float(np.abs(found.params["w"]["bias"] - state.params["w"]["bias"]).max()) > 0
    x = jnp.array([0.5, -2.0])
    wanted = 0.25 * (np.float32([0.5, -2.0]) @ state.ema_params["w"]["kernel"])
    wanted += 0.25 * state.ema_params["w"]["bias"]
    np.testing.assert_allclose(found.velocity(x, 0.25), wanted, rtol=1e-6)
    assert found.options == Config(widths=(4, 5), rate=0.25)
    assert (found.path, found.data) == ("the path", "data of first")


def test_without_a_name_and_with_a_wrong_one_the_names_are_listed(folder):
    for name in (None, "third"):
        words = f"holds 2 networks, got name {name!r}: give one of 'first', 'second'"
        with pytest.raises(ValueError, match=words):
            experiments.run.load(folder, name)


def test_an_unfinished_training_is_not_given_back(folder):
    with pytest.raises(ValueError, match=r"no finished training: 1 of 2 steps .*Run the same comm"):
        experiments.run.load(folder, "second")
    (folder / "first").rename(folder / "elsewhere")
    with pytest.raises(ValueError, match=r"no finished training: 0 of 2 steps are saved"):
        experiments.run.load(folder, "first")
    assert not (folder / "first").exists()  # reading makes nothing


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"no run folder .*it has no config.json"):
        experiments.run.load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it has no provenance.json.*the same command adds"):
        experiments.run.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda options: options.pop("rate"), "it lacks rate"),
        (lambda options: options.update(depth=3), "it has depth, unknown here"),
        (lambda options: options.update(rate="0.5"), "rate: '0.5' is no float"),
        (lambda options: options.update(widths=[3, 0.5]), "widths: 0.5 is no int"),
    ],
)
def test_options_of_another_version_are_named(folder, change, words):
    options = json.loads((folder / "config.json").read_text())
    del options["checksum"]  # as the message of an edited file says
    change(options)
    (folder / "config.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match=f"another version of experiments.two: {words}. Check out"):
        experiments.run.load(folder, "first")


def test_an_experiment_of_another_version_is_named(folder):
    origin = run_folder.read_json(folder / "provenance.json")
    run_folder.write_json(folder / "provenance.json", origin | {"module": "experiments.gone"})
    with pytest.raises(ValueError, match=r"run of 'experiments.gone', which this version does not"):
        experiments.run.load(folder)


def test_damage_that_would_change_what_is_given_back_is_named(folder):
    for name, old, new in (
        ("config.json", b"0.25", b"0.35"),
        ("provenance.json", b"experiments.two", b"experiments.twp"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before.replace(old, new))
        words = rf"{name} is damaged \(it does not agree with its checksum\)"
        with pytest.raises(ValueError, match=words):
            experiments.run.load(folder, "first")
        (folder / name).write_bytes(before)
    assert experiments.run.load(folder, "first").options.rate == 0.25


def test_a_checkpoint_of_another_network_is_named(folder, monkeypatch):
    other = {"w": {"kernel": jnp.zeros((2, 4)), "bias": jnp.zeros(3)}}
    monkeypatch.setattr(sys.modules[__name__], "LIKE", other)
    words = r"another configuration: w.kernel \(float32\[2, 3\] there, float32\[2, 4\] now\)"
    with pytest.raises(ValueError, match=words):
        experiments.run.load(folder, "first")


def test_only_the_averages_and_the_checksums_are_read(folder, monkeypatch):
    read, real = [], stored.changed
    monkeypatch.setattr(
        stored, "changed", lambda found, there: read.append(found) or real(found, there)
    )
    experiments.run.load(folder, "first")
    assert [set(found) for found in read] == [{"ema_params", "checksums"}]


@pytest.mark.parametrize("shape", [(10**13,), (3,), (), (4, 4)])
def test_checksums_of_another_shape_than_the_arrays_ask_for_are_never_made(
    folder, monkeypatch, shape
):
    # A description is not covered by a checksum: a damaged one may claim 40 terabytes.
    real = stored.described
    claimed = jax.ShapeDtypeStruct(shape, np.uint32)
    claim = lambda *which: real(*which) | {"checksums": claimed}
    monkeypatch.setattr(stored, "described", claim)
    words = r"checksums of shape .* for 10 arrays"
    with pytest.raises(ValueError, match=words):
        experiments.run.load(folder, "first")
    state = train.init(LIKE, OPTIMIZER)
    with (
        checkpoints.opened(folder / "first" / "checkpoints") as found,
        pytest.raises(ValueError, match=words),
    ):
        checkpoints.newest(found, state, 2)


def test_one_network_of_several_that_were_trained_at_once(folder, monkeypatch):
    stacked = {"w": np.arange(6.0).reshape(2, 3)}
    read = lambda *_: stacked
    apply = lambda params, x, t: params["w"] * x * t
    networks = lambda *_: {"b": saved.Network(apply, read, None, lambda: None, index=1)}
    monkeypatch.setattr(sys.modules["experiments.two"], "restore", networks)
    found = experiments.run.load(folder)
    np.testing.assert_array_equal(found.velocity(2.0, 0.5), [3.0, 4.0, 5.0])


def test_a_tree_of_arrays_is_kept_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    tree = {"held_out": {0.3: {"u": rng.normal(size=3)}}, "parts": (np.arange(4), np.float32(2))}
    tree["drawn"] = {("flow", 50): jnp.ones(2), ("flow", 4): jnp.zeros(2)}
    arrays.write(tmp_path / "a" / "arrays.npz", tree)
    found = arrays.read(tmp_path / "a" / "arrays.npz")
    np.testing.assert_array_equal(found["held_out"]["0.3"]["u"], tree["held_out"][0.3]["u"])
    assert found["parts"]["0"].dtype == tree["parts"][0].dtype
    assert found["parts"]["1"] == 2
    assert list(found["drawn"]) == ["flow 50", "flow 4"]  # as they came
    (tmp_path / "a" / "arrays.npz").write_bytes(b"PK")
    for name in ("a/arrays.npz", "none.npz"):
        with pytest.raises(ValueError, match=r"npz is missing or damaged .*run the same command"):
            arrays.read(tmp_path / name)


def test_no_flipped_bit_changes_the_arrays_that_are_read(tmp_path):
    file, rng = tmp_path / "arrays.npz", np.random.default_rng(0)
    arrays.write(file, {"a": {"b": rng.normal(size=3)}, "c": np.arange(2)})
    content, noticed = file.read_bytes(), 0
    good = str(arrays.read(file))
    # All of the directory at the end, where a flip may lose an array, and a part of the rest.
    for place in [*rng.choice(len(content) - 200, 60), *range(len(content) - 200, len(content))]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            found = str(arrays.read(file))
        except ValueError as error:
            noticed += "run the same command again" in str(error)
        else:
            assert found == good, place
    assert noticed > 100
