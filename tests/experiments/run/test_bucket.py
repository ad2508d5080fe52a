"""Run folders in a bucket, gs://: on a file system in memory that, like a bucket, cannot append.

The checkpoints in a bucket are written by tensorstore, past this file system; whole trainings were
run by hand against an emulator (docs/tpu.md).
"""

import dataclasses
import importlib.machinery
import sys
import types

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

import experiments.run
from experiments.run import arrays, cli, folder, log, loop, pictures

PLACE = "gs://bucket/runs/a"


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a small run."""

    rate: float = 0.5
    """Of a run."""


class Bucket(MemoryFileSystem):
    """Files by their names after gs://; opened to append, a file begins anew, as in gcsfs."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("gs://"))

    def _open(self, path, mode="rb", **options):
        return super()._open(path, mode.replace("a", "w"), **options)


@pytest.fixture
def bucket(monkeypatch):
    """Puts gs:// into memory."""
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    files = Bucket()
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda _: files)
    gcsfs = types.ModuleType("gcsfs")
    gcsfs.__spec__ = importlib.machinery.ModuleSpec("gcsfs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", gcsfs)
    return files


@pytest.fixture
def no_gcsfs(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def test_the_missing_package_is_named_in_one_line(no_gcsfs, capsys):
    message = r"gs://bucket/runs/a is in a bucket, and the package gcsfs is needed .*,gcs\]"
    with pytest.raises(ImportError, match=message):
        loop.open_run(PLACE, Config())
    with pytest.raises(ImportError, match=message):
        experiments.run.load(PLACE)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda config: loop.open_run(PLACE, config), Config, args=[])
    assert left.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "gcsfs" in line]
    assert line.startswith("error: gs://bucket/runs/a is in a bucket")


def test_a_run_folder_in_a_bucket_is_opened_again_and_refuses_other_options(bucket):
    place = loop.open_run(PLACE, Config())
    assert str(place) == PLACE
    assert sorted(bucket.store) == [f"/bucket/runs/a/{n}.json" for n in ("config", "provenance")]
    (place / "seed_0").mkdir()
    (place / "seed_0" / "metrics.jsonl").write_text("")
    loop.open_run(PLACE, Config())
    assert len(folder.read_json(place / "provenance.json")["sessions"]) == 2
    with pytest.raises(ValueError, match=r"holds a run with other options: rate \(0\.5 there"):
        loop.open_run(PLACE, Config(0.25))
    assert folder.read_json(place / "config.json") == {"rate": 0.5}


def test_every_line_of_the_metrics_is_kept_and_those_beyond_a_checkpoint_are_dropped(bucket):
    place = loop.open_run(PLACE, Config())
    steps = lambda: [line["step"] for line in folder.read_metrics(place)]
    first = log.Log(place / "metrics.jsonl", 0, 6)
    for step in (1, 2, 3):
        first.write(step, {"loss": 0.5 * step, "steps_per_second": 1.0})
    assert steps() == [1, 2, 3]
    again = log.Log(place / "metrics.jsonl", 2, 6)
    assert steps() == [1, 2]
    again.write(3, {"loss": jnp.float32(7.0), "steps_per_second": 1.0})
    assert [line["loss"] for line in folder.read_metrics(place)] == [0.5, 1.0, 7.0]


def test_measurements_arrays_and_figures_are_written_and_read_back(bucket):
    place = loop.open_run(PLACE, Config())
    tree = {"samples": np.arange(6.0).reshape(2, 3), "flow": {0.5: np.float32([1.0, -2.0])}}
    arrays.write(place / "arrays.npz", tree)
    found = arrays.read(place / "arrays.npz")
    np.testing.assert_array_equal(found["samples"], tree["samples"])
    np.testing.assert_array_equal(found["flow"]["0.5"], tree["flow"][0.5])
    calls = []
    make = lambda: calls.append(1) or {"mean": np.float32(0.25)}
    for _ in range(2):
        kept = folder.remembered(f"{PLACE}/seed_0/evaluation.json", {"n": 3}, make)
        assert kept == {"mean": 0.25}
    assert len(calls) == 1
    pictures.save(place / "figures", {"empty": matplotlib.figure.Figure(figsize=(1, 1))})
    assert bucket.store["/bucket/runs/a/figures/empty.png"].getvalue()[1:4] == b"PNG"
