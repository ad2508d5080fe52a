"""The experiments for a few steps: their smallest configurations, and what a run leaves."""

import dataclasses
import json

import jax
import matplotlib.image
import numpy as np
import orbax.checkpoint as ocp

import experiments.run
from experiments.uncertainty import maps, meanflow

# The experiments on images of one paper, which have much in common and are tested together.
EXPERIMENTS = {"meanflow": meanflow, "maps": maps}


def images_file(tmp_path_factory, count, **arrays):
    """Returns an .npz file of random gray images of 4 x 4 pixels, and of other arrays."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    file = tmp_path_factory.mktemp("mine") / "mine.npz"
    np.savez(file, images=pixels, **arrays)
    return str(file)


def config(config_type, **flat):
    """Returns a config with some options given by their names, whatever their part."""
    return replace(config_type(), **flat)


def replace(options, **flat):
    """Returns options with some of them, given by their names, replaced, whatever their part."""
    changed = _replaced(options, flat)
    assert not flat, f"no options {flat}"
    return changed


def _replaced(options, flat):
    """Takes out of `flat` what is an option here or in a part of it."""
    own = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            own[field.name] = _replaced(value, flat)
        elif field.name in flat:
            own[field.name] = flat.pop(field.name)
    return dataclasses.replace(options, **own)


_COMMON = {
    "channels": (8,),
    "batch_size": 8,
    "num_steps": 4,
    "save_every": 2,
    "times": (0.3, 0.7),
    "num_uncertainty": 6,
    "num_samples": 4,
    "eval_batch_size": 4,
}
UNCERTAINTY = config(
    maps.Config,
    **_COMMON,
    num_likelihood=2,
    likelihood_probes=1,
    num_trajectories=3,
    num_rivals=4,
    ensemble=2,
    dropout_passes=2,
    sde_seeds=2,
    sde_steps=2,
)
# Without the rivals and the likelihood, which are most of what is compiled.
SMALL = replace(UNCERTAINTY, num_rivals=0, num_likelihood=0, times=(0.7,))
MEANFLOW = config(meanflow.Config, **_COMMON, num_maps=3, renoisings=2)
MEASURED = ("milliseconds", "time_ratio", "checksum")  # differ from run to run


def results(folder):
    """Returns results.json without what a clock measured."""

    def without(tree):
        if isinstance(tree, dict):
            return {name: without(part) for name, part in tree.items() if name not in MEASURED}
        return [without(part) for part in tree] if isinstance(tree, list) else tree

    return without(json.loads((folder / "results.json").read_text()))


def contents(folder):
    """Returns the bytes of every file below the folder, but not the records of its sessions."""
    files = (path for path in folder.rglob("*") if path.is_file())
    sessions = ("provenance.json", "writer.json")
    return {path: path.read_bytes() for path in files if path.name not in sessions}


def loaded(folder, name, place, config):
    """Loads a network of a run, and asserts that it is the one of the checkpoints in a place."""
    run = experiments.run.load(folder, name)
    assert run.options == replace(config, workdir=str(folder))
    newest = max((place / "checkpoints").iterdir(), key=lambda step: int(step.name))
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.restore(newest / "default")["ema_params"]
    jax.tree.map(np.testing.assert_array_equal, run.params, saved)
    return run


def check_pictures(folder, names):
    """Asserts that the folder holds these figures and no other, none of them blank."""
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in names}
    for path in folder.iterdir():
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 100, path
        assert np.ptp(picture[..., :3]) == 1.0, path  # black letters on white
        assert picture[..., :3].std() > 0.05, path
