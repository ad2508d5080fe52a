"""The benchmarks against peers at their smallest: with absent peers, and with those installed."""

import json
import types

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
    _fields,
    _page,
    _start,
    _turns,
    _twins,
    couplings,
    divergences,
    first_step,
    likelihoods,
    sampling,
    steps,
)

SMALL = {"turns": 1, "batch_size": 8}
LEARNED = _fields.Learned(networks=("perceptron",), batch_size=8, num_steps=20)


@pytest.fixture
def alone(monkeypatch):
    """Lets no peer be installed, and no call be repeated."""
    monkeypatch.setattr(_page, "missing", lambda *modules: list(modules))
    monkeypatch.setattr(_turns, "LEAST", 0.0)


def _rows(text):
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.split("\n")]
    assert all(len(row) == len(head) for row in rows)
    return rows


def test_divergences_without_peers(alone):
    config = divergences.Config(sizes=(2, 65), batch_size=3, width=8, turns=1)
    rows = _rows(divergences.report(config))
    assert [(row[0], row[1]) for row in rows] == [
        ("2", "`exact`"),
        ("2", "`unrolled`"),
        ("65", "`chunked`"),
        ("65", "`exact`"),
    ]
    assert [row[5] for row in rows] == ["not installed"] * 4
    assert [row[4] for row in rows] == ["2", "", "65", ""]
    calls = divergences.make_calls(config, 2)
    field = _fields.make("perceptron", seed=0, size=2, width=8)
    x = jax.random.normal(jax.random.key(1), (3, 2))
    jacobian = jax.vmap(jax.jacrev(lambda x: field.apply(field.params, x, 0.5)))(x)
    value, found = calls["exact"].run()
    np.testing.assert_allclose(found, np.trace(jacobian, axis1=1, axis2=2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, calls["pass"].run(), rtol=1e-5, atol=1e-6)


def test_steps_without_peers(alone):
    rows = _rows(steps.report(steps.Config(networks=("perceptron",), **SMALL)))
    assert [row[0] for row in rows][::2] == [
        "perceptron, batch 8",
        "perceptron, batch 8, 100 steps fused",
    ]
    assert [row[2:4] for row in rows[:2]] == [
        ["torchcfm", "not installed"],
        ["flow_matching", "not installed"],
    ]
    assert [row[-1] for row in rows] == ["1.2", "1.2", "3.0", "3.0"]


def test_our_step_goes_on_from_call_to_call_and_fused_steps_are_a_hundred():
    field = _fields.make("perceptron", seed=0)
    calls = steps.our_calls(field, jax.numpy.ones((4, 2)), fused=True)
    first, second = calls["ours"].run(), calls["ours"].run()
    fused = calls["ours, fused"].run()
    np.testing.assert_array_equal(fused.loss[:2], [first.loss, second.loss])
    assert fused.loss.shape == (calls["ours, fused"].parts,) == (100,)


@pytest.mark.slow
def test_sampling_and_likelihoods_without_peers(alone):
    rows = _rows(sampling.report(sampling.Config(learned=LEARNED, turns=1)))
    assert [row[0] for row in rows][::2] == [
        "perceptron, Euler",
        "perceptron, adaptive",
        "perceptron, adaptive, one state",
    ]
    assert {row[3] for row in rows} == {"not installed"}
    rows = _rows(likelihoods.report(likelihoods.Config(learned=LEARNED, turns=1)))
    assert [row[0] for row in rows] == [
        f"perceptron, {estimator}, {solve}"
        for estimator in ("exact", "one probe")
        for solve in ("Euler", "adaptive")
    ]
    assert {row[2] for row in rows} == {"not installed"}


def test_a_probe_that_is_given_estimates_the_divergence():
    probe, x = jax.numpy.array([1.0, -1.0]), jax.numpy.array([2.0, 3.0])
    value, found = likelihoods.by_probe(probe, lambda x: x[::-1] * x[0], x)
    assert value.tolist() == [6.0, 4.0]
    assert float(found) == 3 - 2 - 4  # of the Jacobian [[3, 2], [4, 0]]: z J z


def test_couplings_without_peers(alone):
    config = couplings.Config(sizes=(2,), batch_sizes=(4,), turns=1)
    rows = _rows(couplings.report(config))
    assert [row[0] for row in rows] == ["4 x 2"] * 2
    assert [row[2:4] for row in rows] == [["torchcfm", "not installed"], ["POT", "not installed"]]
    assert rows[0][6].endswith("of perceptron")
    assert couplings.step_of(config, 784, 512) is None
    pairs = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 2.0], [1.0, 1.0]])
    assert couplings.cost(pairs) == 2.0


def test_a_network_trained_on_the_moons_is_better_than_before():
    field = _fields.make("perceptron", seed=0)
    trained = _fields.trained("perceptron", seed=0, num_steps=200)
    x1 = _fields.moons(5, 256)
    loss = jax.jit(_fields.drawn(field.apply))
    before, after = (loss(p, jax.random.key(3), x1) for p in (field.params, trained.params))
    assert float(after) < 0.9 * float(before)


def test_first_steps_are_counted_from_the_command(monkeypatch):
    seen = []

    def run(command, *, env, **options):
        seen.append((command[-1], env["XDG_CACHE_HOME"]))
        ready = {"perceptron": 104.0, "torchcfm": 103.0}[command[-1]]
        out = json.dumps({"ready": ready, "compiling": 1.0})
        return types.SimpleNamespace(returncode=0, stdout=f"said\n{out}\n", stderr="")

    monkeypatch.setattr(first_step.subprocess, "run", run)
    monkeypatch.setattr(first_step.time, "time", lambda: 100.0)
    monkeypatch.setattr(_page, "missing", lambda *modules: [])
    rows = _rows(first_step.report(first_step.Config(networks=("perceptron",), turns=2)))
    assert rows == [
        ["perceptron, cold", "4.0", "25 %", "1.00 (1.00 to 1.00)"],
        ["perceptron, cached", "4.0", "25 %", "1.00 (1.00 to 1.00)"],
        ["perceptron, torchcfm", "3.0", "", "0.75 (0.75 to 0.75)"],
    ]
    names, folders = zip(*seen, strict=True)
    assert names.count("torchcfm") == 3
    assert len(set(folders)) == 3  # one is kept, a cold one each turn
    failed = types.SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nValueError: no")
    monkeypatch.setattr(first_step.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ValueError, match="first step of perceptron failed: ValueError: no"):
        first_step.start("perceptron", "folder")


@pytest.mark.slow
def test_the_command_that_takes_a_first_step(tmp_path):
    seconds, share = first_step.start("perceptron", str(tmp_path))
    assert seconds > 0.5
    assert 0 < share < 1
    assert list((tmp_path / "fmjax" / "programs").iterdir())


@pytest.mark.parametrize(
    ("benchmark", "options", "words"),
    [
        (divergences, {"sizes": (2, 0)}, r"sizes must be positive, got \(2, 0\)"),
        (steps, {"networks": ("MPL",)}, "networks must be of perceptron, MLP, U-Net"),
        (
            sampling,
            {"learned": _fields.Learned(networks=("U-Net",))},
            "networks must be of perceptron, MLP",
        ),
        (
            likelihoods,
            {"learned": _fields.Learned(networks=())},
            "networks must be of perceptron, MLP",
        ),
        (couplings, {"sizes": (3,)}, "sizes must be of 2, 784"),
        (couplings, {"batch_sizes": (1,)}, "batch_sizes must be at least 2"),
        (first_step, {"networks": ("MLP",)}, "networks must be of perceptron, U-Net"),
    ],
)
def test_what_cannot_be_held_against_peers_is_said_first(benchmark, options, words):
    with pytest.raises(ValueError, match=words):
        benchmark.main(benchmark.Config(**options))


@pytest.mark.parametrize("name", list(_twins.TWINS))
def test_a_twin_in_torch_is_the_same_network(name):
    torch = pytest.importorskip("torch")
    field = _fields.make(name, seed=0)
    shape = _fields.IMAGE if name == "U-Net" else (2,)
    x, t = jax.random.normal(jax.random.key(1), (3, *shape)), jax.numpy.array([0.1, 0.5, 0.9])
    wanted = jax.jit(jax.vmap(field.apply, (None, 0, 0)))(field.params, x, t)
    params, states = _twins.tensors(field.params), torch.tensor(np.array(x))
    states = states.movedim(-1, 1) if name == "U-Net" else states
    found = _twins.TWINS[name](params, states, torch.tensor(np.array(t))).detach()
    found = found.movedim(1, -1) if name == "U-Net" else found
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, _twins.arrays(params), dict(field.params))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peers' own
def test_the_tables_with_peers(monkeypatch):
    for module in ("torch", "torchcfm", "flow_matching", "torchdiffeq", "ot"):
        pytest.importorskip(module)
    monkeypatch.setattr(_turns, "LEAST", 0.0)
    one = SMALL | {"networks": ("perceptron",)}
    rows = _rows(steps.report(steps.Config(**one)))
    rows += _rows(sampling.report(sampling.Config(learned=LEARNED, turns=1)))
    assert all("thread" in row[3] and "to" in row[4] for row in rows)
    rows = _rows(likelihoods.report(likelihoods.Config(learned=LEARNED, turns=1)))
    assert all("thread" in row[2] and "to" in row[3] for row in rows)
    small = couplings.Config(sizes=(2,), batch_sizes=(8,), turns=1)
    assert ["to" in row[4] for row in _rows(couplings.report(small))] == [True, True]
    small = divergences.Config(sizes=(2,), batch_size=3, width=8, turns=1)
    assert all("thread" in row[5] for row in _rows(divergences.report(small)))
    assert _start.peer()["ready"] > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_peers_that_compute_something_else_are_found_out():
    pytest.importorskip("torchcfm")
    pytest.importorskip("flow_matching")
    field, x1 = _fields.make("perceptron", seed=0), jax.numpy.ones((4, 2))
    import torch

    for peer in ("torchcfm", "flow_matching"):
        step = steps.Step("perceptron", field, torch.ones(4, 2), peer)
        steps.compare(field, step, x1)
        step.params["layer_1"]["bias"].data += 0.1
        with pytest.raises(ValueError, match="the peer computes something else"):
            steps.compare(field, step, x1)
