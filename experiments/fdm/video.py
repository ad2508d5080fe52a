"""Flow and divergence matching of video: the next frames in a latent space, after RIVER.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, its section on video
prediction, which takes the latent flow matching of Davtyan et al. (2022), arXiv 2211.14575: an
autoencoder makes tokens of a frame, and a transformer is the velocity of the next frame's tokens,
given the frame before and a random earlier one. The paper's code never computes its penalty in
training (its branch cannot be reached); ours is the loss that the paper means.

The autoencoder is trained first, then four networks: FM and FDM from scratch, from the same start
and the same batches, and FM and FDM once more from the trained FM network, as the paper's code
does. All predict the same held-out clips from the same noise. Then

1. PSNR and SSIM by horizon, of one draw and of the best of several, beside a repeated last frame
   and the autoencoder's own error;
2. the Frechet distance of whole clips; FVD with the network I3D is an argument, `main(config,
   embed=i3d)`, where `embed` takes clips `[n, frames, h, w, c]` in [0, 1] to features `[n, d]`;
3. of moving digits the error of position and speed by horizon, which needs no network;
4. the same at equal time: FDM after fewer steps, by the cost of a step measured in the run.

Run:    python -m experiments.fdm.video
        python -m experiments.fdm.video --clips video.npz --channels 16 32 64 64 --num-latents 32
Time:   24 minutes on one CPU core beside other runs.
Expect: the tables of experiments/fdm/README.md.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx

import fmjax
from experiments.fdm._video import clips as videos
from experiments.fdm._video import coding, digits, evaluation, pictures, predicting, tables
from experiments.fdm._video.digits import Clips
from experiments.fdm._video.options import Coding, Measures, Source, Training
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, clock, devices, layout, loop, numbers, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import read_metrics, remembered, replace, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, PyTree

# The first in the run folder itself, where a run that was interrupted is recognized.
PLACES = {"FM": ".", "FDM": "FDM", "FM, then FM": "FM_then_FM", "FM, then FDM": "FM_then_FDM"}
DIGITS = ("digits", "mnist")


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    workdir: Place = None
    """Run folder; None is runs/fdm/video/CLIPS. The same command continues it."""
    seed: int = 0
    """Seed of the clips, the networks and all noise, an integer >= 0."""
    source: Source = Source()
    coding: Coding = Coding()
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})
        options.check_parts(self)


def load(config: Config) -> Clips:
    """Returns the clips of a run."""
    asked = config.source
    if asked.clips in DIGITS:
        counts = (asked.num_train, asked.num_test)
        given = {"counts": counts, "frames": asked.frames, "seed": config.seed}
        size = digits.Size(asked.side, asked.digit)
        return digits.load(asked.clips, asked.data_dir, size, **given)
    cut = {name: getattr(asked, name) for name in ("frames", "stride", "motion", "held_out")}
    found = videos.load(asked.clips, **cut)
    evaluation.check_size(found.test.shape[2:4])
    return found


def network(config: Config, tokens: tuple[int, int]) -> tuple[Callable[..., Array], PyTree]:
    """Returns the velocity, `(params, x, t, context) -> dx`, and its first parameters."""
    asked = config.training
    size = {"width": asked.width, "depth": asked.depth, "num_heads": asked.num_heads}
    known = 2 * tokens[1] + 1
    made = fmjax.models.DiT(tokens, context=known, **size, rngs=nnx.Rngs(config.seed))
    return fmjax.models.functional(made)


def tokens(config: Config) -> tuple[int, int]:
    """Returns the number of tokens of a frame, and of the features of each."""
    moving = config.source.clips in DIGITS
    side = config.source.side
    shape = (side, side, 1) if moving else load(config).train.shape[2:]
    *cells, latents = coding.networks(config.coding, shape, 0)[3]
    return math.prod(cells), latents


def train(
    config: Config,
    weight: float,
    velocity: tuple[Callable[..., Array], PyTree],
    latents: np.ndarray,
    evaluate: Callable[..., dict[str, float]],
    folder: os.PathLike,
    *,
    further: bool = False,
) -> PyTree:
    """Returns the averaged parameters, trained with this weight or restored.

    Args:
      config: of the run.
      weight: of the divergence penalty.
      velocity: the network and the parameters to start from.
      latents: of the training clips.
      evaluate: for the metrics.
      folder: of the checkpoints.
      further: whether a trained network is trained on.
    """
    (apply, params), asked = velocity, config.training
    state = loop.fit(
        predicting.make_loss(apply, weight, asked.penalty_every),
        params,
        predicting.batches(latents, asked.batch_size, seed=config.seed + further),
        optax.adam(asked.tune_rate if further else asked.learning_rate),
        evaluate,
        workdir=folder,
        num_steps=asked.tune_steps if further else asked.num_steps,
        seed=config.seed + further,
        max_skipped=asked.max_skipped,
        ema_decay=asked.ema_decay,
        eval_every=asked.save_every,
        save_every=asked.save_every,
    )
    return layout.on_host(state.ema_params)


def train_all(
    config: Config,
    velocity: tuple[Callable[..., Array], PyTree],
    latents: np.ndarray,
    evaluate: Callable[..., dict[str, float]],
    folder: epath.Path,
) -> dict[str, PyTree]:
    """Returns the averaged parameters of all four networks."""
    apply, first = velocity
    fit = partial(train, config, latents=latents, evaluate=evaluate)
    trained = {}
    for name, place in PLACES.items():
        further = name.startswith("FM, then")
        start = jax.tree.map(jnp.asarray, trained["FM"]) if further else first
        weight = config.training.weight if name.endswith("FDM") else 0.0
        given = {"velocity": (apply, start), "folder": folder / place, "further": further}
        trained[name] = fit(weight, **given)
    return trained


def cost(
    config: Config, velocity: tuple[Callable[..., Array], PyTree], latents: np.ndarray
) -> dict[str, float]:
    """Measures a training step of FM and of FDM in turn, in milliseconds, and their ratio."""
    (apply, params), asked = velocity, config.training
    batch = next(predicting.batches(latents, asked.batch_size, seed=config.seed)(0))
    optimizer, key = optax.adam(asked.learning_rate), jax.random.key(0)
    state, calls = fmjax.train.init(params, optimizer), {}
    every = {"FM": (0.0, 1), "FDM": (1.0, asked.penalty_every), "all probed": (1.0, 1)}
    for name, (weight, probed) in every.items():
        loss = predicting.make_loss(apply, weight, probed)
        step = jax.jit(fmjax.train.make_step(loss, optimizer))
        calls[name] = partial(step, state, key, batch)
    seconds = clock.seconds(calls, rounds=9)
    return {
        "milliseconds": {name: 1000 * taken for name, taken in seconds.items()},
        "time_ratio": seconds["FDM"] / seconds["FM"],
        "time_ratio_all_probed": seconds["all probed"] / seconds["FM"],
    }


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the velocities of a run are read, by method; they take a `context`."""
    apply, like = network(config, tokens(config))
    steps = (config.training.num_steps, config.training.tune_steps)
    found = {}
    for name, place in PLACES.items():
        count = steps[name.startswith("FM, then")]
        read = partial(checkpoints.averaged, folder / place, like=like, num_steps=count)
        found[name] = Network(apply, read, predicting.path, partial(load, config))
    return found


def main(config: Config, embed: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
    """Trains or continues all networks, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      embed: `clips[n, frames, h, w, c] -> features[n, d]` for the distance of clips, pixels in
        [0, 1]; None is the encoder of the run.
    """
    config.check()
    devices.check_batch(config.training.batch_size)
    found = load(config)
    label = os.path.splitext(os.path.basename(config.source.clips.rstrip("/")))[0]
    facts = {"data": f"{list(found.train.shape)}, crc32 {numbers.crc32(found.train, found.test)}"}
    folder = loop.open_run(config.workdir or f"runs/fdm/video/{label}", config, **facts)
    frames = [part.reshape(-1, *part.shape[2:]) for part in (found.train, found.test)]
    coder = coding.fit(config.coding, *frames, config.seed, folder / "autoencoder")
    task = evaluation.task(config, found, coder)
    velocity = network(config, task.latents.shape[2:])
    quick = evaluation.quick(velocity[0], task)
    trained = train_all(config, velocity, task.latents, quick, folder)
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    asked, measure = vars(config.training), partial(cost, config, velocity, task.latents)
    costs = remembered(folder / "cost.json", asked, measure)
    results, arrays = evaluation.whole(velocity[0], trained, task, embed)
    history = {name: read_metrics(folder / place, "flow") for name, place in PLACES.items()}
    results |= {"cost": costs, "history": history}
    results["equal_time"] = evaluation.equal_time(history, costs["time_ratio"])
    run_arrays.write(folder / "arrays.npz", arrays)
    write_json(folder / "results.json", results)
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(arrays, results))
    replace(folder / "clips.gif", pictures.animation(arrays))
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
