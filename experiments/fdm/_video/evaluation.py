"""What is measured of the velocities of a run: in training, at its end, and at equal time."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fdm._video import measures, predicting
from experiments.fdm._video.coding import Coder
from experiments.fdm._video.digits import Clips
from experiments.fdm._video.options import Measures
from experiments.run import batches
from fmjax.types import Array, Key, PyTree

_AT_A_TIME = 32  # clips that are predicted together
_HELD_OUT = 256  # frames of the held-out losses
_KEPT = 8  # clips whose frames are kept for the pictures
REPEATED, CODED, CHANCE = "last frame repeated", "autoencoder", "other held-out clips"


class Task(NamedTuple):
    """What all velocities of a run are measured by.

    Attributes:
      clips: of the run.
      coder: its autoencoder.
      latents: `[n, frames, tokens, features]`, of the training clips.
      held_out: the same of the held-out clips.
      asked: the options of the measures.
      past: frames that are known.
      seed: of the noise.
    """

    clips: Clips
    coder: Coder
    latents: np.ndarray
    held_out: np.ndarray
    asked: Measures
    past: int
    seed: int


def check_size(size: tuple[int, int]) -> None:
    """Raises ValueError for frames smaller than the window of SSIM."""
    if min(size) < measures.WINDOW:
        message = (
            f"the frames have {size[1]}x{size[0]} pixels, and SSIM needs {measures.WINDOW} in "
            "either direction: give larger ones."
        )
        raise ValueError(message)


def task(config: Any, clips: Clips, coder: Coder) -> Task:
    """Returns the task of a run, with the latents of its clips."""

    def encoded(part: np.ndarray) -> np.ndarray:
        latents = coder.encode(part.reshape(-1, *part.shape[2:]))
        return latents.reshape(*part.shape[:2], *latents.shape[1:])

    train, test = encoded(clips.train), encoded(clips.test)
    return Task(clips, coder, train, test, config.measures, config.source.past, config.seed)


def unit(frames: np.ndarray) -> np.ndarray:
    """Returns uint8 frames in [0, 1]."""
    return np.float32(frames) / 255


def forecasts(
    apply: Callable[..., Array],
    params: PyTree,
    task: Task,
    *,
    count: int,
    draw: int = 0,
    label: str | None = None,
) -> np.ndarray:
    """Returns predictions of the first held-out clips, `[count, frames - past, h, w, c]`.

    The noise of a draw is the same for all velocities.
    """
    frames = task.held_out.shape[1]
    past = task.held_out[:count, : task.past]
    one = _predicted(apply, frames, task.asked.solver_steps)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(task.seed + 1), draw), len(past))
    many = functools.partial(one, params)
    raw = jax.random.key_data(keys)
    latents = batches.in_batches(many, raw, past, size=min(_AT_A_TIME, len(past)), label=label)
    found = task.coder.decode(latents.reshape(-1, *latents.shape[2:]))
    return found.reshape(*latents.shape[:2], *found.shape[1:])


@functools.lru_cache(maxsize=8)
def _predicted(apply: Callable[..., Array], frames: int, num_steps: int) -> Callable[..., Array]:
    """Returns `(params, keys, past) -> latents`, one function for all calls: compiled once."""

    def one(params: PyTree, key: Array, past: Array) -> Array:
        key = jax.random.wrap_key_data(key)
        return predicting.predict(apply, params, key, past, frames, num_steps)

    return jax.vmap(one, (None, 0, 0))


def quick(apply: Callable[..., Array], task: Task) -> Callable[[PyTree, Key], dict[str, float]]:
    """Returns the metrics of a training: both held-out losses and the PSNR of a few forecasts.

    The noise is the same every time, and the divergence loss has no bias of its probes.
    """
    size = min(_HELD_OUT, task.held_out.shape[0] * (task.held_out.shape[1] - 2))
    batch = next(predicting.batches(task.held_out, size, seed=task.seed + 2)(0))
    batch, key = jax.tree.map(jnp.asarray, batch), jax.random.key(task.seed + 2)
    losses = [predicting.make_loss(apply, weight, 1, "product") for weight in (0.0, 1.0)]
    both = jax.jit(lambda params: [loss(params, key, batch) for loss in losses])
    count = min(task.asked.num_quick, len(task.held_out))
    true = unit(task.clips.test[:count, task.past :])

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        flow, whole = map(float, both(params))
        found = forecasts(apply, params, task, count=count)
        scores = {"psnr": float(measures.psnr(true, found).mean())}
        if task.clips.tracks is not None:
            last = unit(task.clips.test[:count, task.past - 1])
            tracks = task.clips.tracks[:count, task.past - 1 :]
            moved = measures.motion(found, last, tracks)
            scores |= {name: float(values.mean()) for name, values in moved.items()}
        return {"flow": flow, "divergence": whole - flow, **scores}

    return evaluate


def scores(found: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Returns every measure of frames that are predicted, `[n, frames]` each."""
    count = len(found)
    true = unit(task.clips.test[:count, task.past :])
    made = {"psnr": measures.psnr(true, found), "ssim": measures.ssim(true, found)}
    if task.clips.tracks is not None:
        last = unit(task.clips.test[:count, task.past - 1])
        made |= measures.motion(found, last, task.clips.tracks[:count, task.past - 1 :])
    return made


def whole(
    apply: Callable[..., Array],
    trained: dict[str, PyTree],
    task: Task,
    embed: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of a run, and the arrays its figures are drawn from.

    Args:
      apply: the network.
      trained: its parameters by method.
      task: of the run.
      embed: features of clips in the place of the encoder's.
    """
    count = min(task.asked.num_clips, len(task.held_out))
    known = unit(task.clips.test[:count])
    embed = embed or measures.features(task.coder.encode, task.latents)
    real = embed(known)

    def apart(found: np.ndarray) -> float:
        return measures.distance(embed(np.concatenate([known[:, : task.past], found], 1)), real)

    predicted = functools.partial(forecasts, apply, task=task, count=count)
    results, each, shown = {}, {}, {}
    for name, params in trained.items():
        made = [
            predicted(params, draw=draw, label=f"{name}, draw {draw + 1}")
            for draw in range(task.asked.num_draws)
        ]
        rows = [scores(one, task) for one in made]
        each[name], shown[name] = rows[0], made[0][:_KEPT]
        results[name] = {key: measures.summary(value) for key, value in rows[0].items()}
        for key in ("psnr", "ssim"):
            best = measures.best(np.stack([row[key] for row in rows]))
            results[name][f"best_{key}"] = measures.summary(best)
        results[name]["frechet"] = float(np.mean([apart(one) for one in made]))
    for name, found in _references(task, count).items():
        each[name] = scores(found, task)
        results[name] = {key: measures.summary(value) for key, value in each[name].items()}
        results[name]["frechet"] = apart(found)
    if len(task.clips.more):
        results[CHANCE] = {"frechet": measures.distance(embed(unit(task.clips.more[:count])), real)}
    results["differences"] = differences(each)
    true = task.clips.test[: min(_KEPT, count)]
    return results, {"scores": each, "frames": {"true": unit(true), **shown}}


def _references(task: Task, count: int) -> dict[str, np.ndarray]:
    """Returns the last known frame again and again, and true frames through the autoencoder."""
    ahead = task.clips.test[:count, task.past :]
    last = unit(task.clips.test[:count, task.past - 1 : task.past])
    latents = task.held_out[:count, task.past :]
    coded = task.coder.decode(latents.reshape(-1, *latents.shape[2:])).reshape(ahead.shape)
    return {REPEATED: np.broadcast_to(last, ahead.shape), CODED: coded}


def differences(each: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Returns FDM less FM of the same clips, from scratch and after FM, with standard errors."""
    pairs = {"from scratch": ("FDM", "FM"), "after FM": ("FM, then FDM", "FM, then FM")}
    return {
        label: {key: measures.summary(each[one][key] - each[other][key]) for key in each[one]}
        for label, (one, other) in pairs.items()
    }


def equal_time(
    history: dict[str, list[dict[str, float]]], ratio: float
) -> dict[str, dict[str, Any]]:
    """Returns the metrics of FM at its end, and of FDM when at most as much time had passed.

    Args:
      history: the metrics of every training.
      ratio: the time of a step of FDM, in steps of FM.
    """
    pairs = {"from scratch": ("FM", "FDM"), "after FM": ("FM, then FM", "FM, then FDM")}
    found = {}
    for label, (plain, matched) in pairs.items():
        last = history[plain][-1]
        reached = math.floor(last["step"] / max(ratio, 1.0))
        rows = [row for row in history[matched] if row["step"] <= reached]
        found[label] = {plain: last, matched: (rows or history[matched][:1])[-1]}
    return found
