"""`kill -9` at random moments of whole experiments: training, saving, evaluating and drawing.

Each experiment runs once without a disturbance. Then it runs again and again in other folders, and
is killed and started anew until it ends. Every start must go on from the newest complete
checkpoint, and every end must be that of the undisturbed run, bit for bit: the last checkpoints,
the metrics, the results, the arrays of the figures.

Run: `python -m tests.experiments.run.kills --number 100 --seed 0` (half an hour).
"""

import argparse
import importlib
import json
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.closed_form import efm_toy
from experiments.fdm import checkerboard, mixture
from experiments.run import arrays, checkpoints, stored
from experiments.run import folder as run_folder
from tests.oracles import tiny

_STEPS = {"num_steps": 40, "batch_size": 16, "width": 8, "depth": 2}
_SMALL = {"num_points": 20, "tolerance": 1e-2}
EXPERIMENTS = {
    mixture: tiny.config(mixture.Config, **_STEPS, save_every=5, num_seeds=2, tolerance=1e-2),
    checkerboard: tiny.config(
        checkerboard.Config, **_STEPS, **_SMALL, weights=(0.0, 0.3), seeds=(0,), num_evaluations=8,
        euler_steps=2, tv_times=(0.5,), grid_points=6,
    ),
    efm_toy: tiny.config(
        efm_toy.Config, **_STEPS, **_SMALL, seeds=(0,), banks=(16,), num_train=40, eval_every=5,
        num_pairs=64,
    ),
}  # fmt: skip
_MEASURED = {"steps_per_second", "checksum"}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([module.__name__ for module in EXPERIMENTS])


def _run(name, config, said, programs):
    """What a process does: the experiment, with its stdout and stderr in a file."""
    with pathlib.Path(said).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)
    importlib.import_module(name).main(config)


def started(module, folder, programs):
    """Starts an experiment in a folder; its words go to a file beside it."""
    config = tiny.replace(EXPERIMENTS[module], workdir=str(folder))
    words = f"{folder}.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(words).write_text("")  # a process may be killed before it says a word
    process = _SERVER.Process(target=_run, args=(module.__name__, config, words, str(programs)))
    process.start()
    return process


def saved_steps(folder):
    """The newest complete checkpoint of every network, by its folder."""
    places = [path for path in folder.rglob("checkpoints") if path.is_dir()]
    steps = lambda place: [int(one.name) for one in place.iterdir() if one.name.isdigit()]
    return {str(place.parent): max(steps(place)) for place in places if steps(place)}


def check_start(said, before):
    """Asserts that a process went on from the newest checkpoints that the one before had left."""
    assert "damaged" not in said
    for step, folder in re.findall(r"(?:continuing|trained): step (\d+) of \d+, from (.*)", said):
        assert before.pop(folder) == int(step), said


def killed_until_the_end(module, folder, programs, rng, seconds, most):
    """Runs an experiment to its end and returns how often it was killed, at most `most` times."""
    kills, before = 0, {}
    while True:
        process = started(module, folder, programs)
        process.join(None if kills == most else rng.uniform(0.0, seconds))
        ended = not process.is_alive()
        process.kill()
        process.join()
        said = pathlib.Path(f"{folder}.txt").read_text()
        check_start(said, before)
        if ended:
            assert process.exitcode == 0, said
            assert not before, said  # every network said from where it went on
            return kills
        kills, before = kills + 1, saved_steps(folder)


def left(folder):
    """What a run leaves, but for what a clock measures."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        own = path.suffix == ".json" and path.name not in ("provenance.json", "writer.json")
        if own and "checkpoints" not in name:
            found[name] = _without(json.loads(path.read_text()))
        elif path.name == "metrics.jsonl":
            found[name] = _without(run_folder.read_metrics(path.parent))
        elif path.name == "checkpoints":
            found[name] = _last_state(path)
        elif path.suffix == ".npz":
            found[name] = jax.tree.map(np.ndarray.tobytes, arrays.read(path))
        elif path.suffix == ".png":
            found[name] = path.read_bytes()
    return found


def _without(tree):
    if isinstance(tree, dict):
        kept = {name: part for name, part in tree.items() if name not in _MEASURED}
        return {name: _without(part) for name, part in kept.items() if name != "workdir"}
    return [_without(part) for part in tree] if isinstance(tree, list) else tree


def _last_state(place):
    with checkpoints.opened(place) as saved:
        step, here = saved.latest_step(), jax.sharding.SingleDeviceSharding(jax.devices()[0])
        tree = stored.described(saved, step)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)
        state = saved.restore(step, args=ocp.args.StandardRestore(like))
    assert not stored.changed(state)
    state.pop("checksums")  # the one of the record knows the speeds
    return jax.tree.map(lambda x: np.asarray(x).tobytes(), state)


def tried(number, seed, place, experiments=tuple(EXPERIMENTS)):
    """Yields (experiment, kills of a run that ended as it should) until there were enough kills."""
    rng, programs = np.random.default_rng(seed), place / "programs"
    for module in experiments:
        straight, begin = place / module.__name__ / "straight", time.monotonic()
        process = started(module, straight, programs)
        process.join()
        assert process.exitcode == 0, pathlib.Path(f"{straight}.txt").read_text()
        seconds = 0.6 * (time.monotonic() - begin)  # without compiling
        wanted, kills, run = left(straight), 0, 0
        while kills < number // len(experiments):
            folder, run = place / module.__name__ / f"killed_{run}", run + 1
            most = number // len(experiments) - kills
            kills += (now := killed_until_the_end(module, folder, programs, rng, seconds, most))
            got = left(folder)
            assert got.keys() == wanted.keys()
            differing = [name for name in wanted if got[name] != wanted[name]]
            assert not differing, (str(folder), differing)
            yield module.__name__, now


def main():
    """Prints how often each run was killed before it ended as the undisturbed one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args, total = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as place:
        for name, kills in tried(args.number, args.seed, pathlib.Path(place)):
            total += kills
            print(f"{name}: killed {kills} times, ended like the undisturbed run", flush=True)
    print(f"{total} kills")


if __name__ == "__main__":
    sys.exit(main())
