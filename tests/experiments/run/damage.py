"""Random damage to the newest checkpoint of a folder, and whether reading notices it.

Each time one file of the checkpoint is damaged: a bit is flipped, a byte replaced or lost, the end
cut off, or the file deleted. Then the state is restored as a run does it, and the averages
are read as `experiments.run.load` does it. Both must give back what was saved, go back to the
checkpoint before, or refuse with one line.

Run: `python -m tests.experiments.run.damage --number 1000 --seed 0` (some minutes).
"""

import argparse
import collections
import contextlib
import gc
import io
import logging
import pathlib
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import checkpoints
from fmjax import train

STEPS = (5, 10)


def state(step, width):
    """A state of arrays of several types and sizes, other at every step."""
    rng = np.random.default_rng(step)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    make = lambda: {"w": normal(width, 64), "layer": {"bias": normal(3)}}
    moments = (make(), {"half": normal(width, 3).astype(jnp.bfloat16)})
    opt_state = {"count": jnp.int32(step), "moments": moments, "seen": jnp.arange(7) % 2 == 0}
    return train.TrainState(jnp.int32(step), make(), make(), opt_state)


def save(folder, width):
    """Saves a state at each of the steps, and returns them by their steps."""
    states = {step: state(step, width) for step in STEPS}
    with checkpoints.opened(folder / "checkpoints") as saved:
        for step in STEPS:
            checkpoints.save(saved, step, states[step])
            saved.wait_until_finished()
    return states


def _bit(content, rng):
    place = rng.integers(len(content))
    return _byte_set(content, place, content[place] ^ (1 << rng.integers(8)))


def _byte(content, rng):
    place = rng.integers(len(content))
    return _byte_set(content, place, (content[place] + rng.integers(1, 256)) % 256)


def _byte_set(content, place, value):
    return content[:place] + bytes([value]) + content[place + 1 :]


def _lost(content, rng):
    place = rng.integers(len(content))
    return content[:place] + content[place + 1 :]


def _cut(content, rng):
    return content[: rng.integers(len(content))]


KINDS = {"bit": _bit, "byte": _byte, "lost byte": _lost, "cut": _cut, "no file": None}
_SHARES = (0.45, 0.35, 0.1, 0.07, 0.03)


def outcomes(folder, states, number, seed):
    """Yields (kind of damage, file, what restoring gave, what reading the averages gave)."""
    rng = np.random.default_rng(seed)
    files = [path for path in (folder / "checkpoints" / "10").rglob("*") if path.is_file()]
    files.sort(key=lambda path: -path.stat().st_size)  # the arrays come first
    for turn in range(number):
        file, kind = files[turn % len(files)], rng.choice(list(KINDS), p=_SHARES)
        with tempfile.TemporaryDirectory() as place:
            copy = pathlib.Path(place) / "run"
            shutil.copytree(folder, copy)
            damaged, content = copy / file.relative_to(folder), file.read_bytes()
            if kind == "no file" or not content:
                damaged.unlink()
            else:
                damaged.write_bytes(KINDS[kind](content, rng))
            averages = _averages(copy, states)
            yield str(kind), file.name, _restored(copy, states), averages
    time.sleep(0.5)  # until the other reads of those that failed have ended, and
    gc.collect()  # Python has said that nobody asked for their results


def _restored(folder, states):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            with checkpoints.opened(folder / "checkpoints") as saved:
                found = checkpoints.newest(saved, states[10], 10)
        except ValueError as error:
            return f"refused: {error}"
    step = int(found.step)
    if not _same(found, states[step]):
        return "unnoticed"
    if step == 5:
        assert said.getvalue().count("damaged, and moved from checkpoints") == 1
    return "same" if step == 10 else "before"


def _averages(folder, states):
    try:
        found = checkpoints.averaged(folder, states[10].params, 10)
    except ValueError as error:
        return f"refused: {error}"
    return "same" if _same(found, states[10].ema_params) else "unnoticed"


def _same(a, b):
    bits = lambda tree: [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]
    return bits(a) == bits(b)


def main():
    """Prints how often each outcome was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64, help="rows of the largest arrays")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what asyncio says of each failed read
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        states = save(folder, args.width)
        seen = collections.Counter()
        for kind, file, *results in outcomes(folder, states, args.number, args.seed):
            for what, result in zip(("state", "averages"), results, strict=True):
                seen[what, result.partition(":")[0]] += 1
                if result == "unnoticed":
                    print(f"unnoticed: {kind} in {file}, {what}")
    for (what, result), count in sorted(seen.items()):
        print(f"{what:8} {result:9} {count}")


if __name__ == "__main__":
    main()
