"""Training on images: the data and keys of a run, the optimizer, a network.

What the image experiments share: pixels are dequantized with uniform noise (or taken at the
centers of their bins, `at_centers`, where the data are to be a finite set of points), the losses
are those of `experiments.images.objectives`, and the network is a U-Net with an exponential moving
average of its parameters.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.images import data, objectives, own, unet
from experiments.images.options import Source, Training
from experiments.run import batches, checkpoints, layout, loop
from experiments.run.folder import check_facts
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree

path = unet.path


def load(source: Source, seed: int) -> tuple[str, data.Images]:
    """Returns the name and the images of a run, the held-out ones shuffled, or refuses them.

    Args:
      source: which images.
      seed: of the split and of the order of the held-out images.
    """
    images = data.load(
        source.dataset, data_dir=source.data_dir, held_out=source.held_out, seed=seed
    )
    images = images._replace(held_out=data.shuffle(images.held_out, seed=seed))
    check_images(images)
    return own.label(source.dataset), images


def keys(seed: int) -> tuple[Key, Key]:
    """Returns the keys of the held-out loss and of the evaluation at the end."""
    # The loop splits the key of the seed; these two are folded far from its parts.
    return tuple(jax.random.fold_in(jax.random.key(seed), 1000 + i) for i in range(2))


def at_centers(_: Key, pixels: Array, levels: int) -> Array:
    """Returns pixels as real numbers without noise, in the place of `data.dequantize`."""
    return data.centers(pixels, levels)


# What a training is compiled from is made once, so that `loop.fit` compiles it once for all
# networks of one kind, whatever their data and seed.
@functools.lru_cache(maxsize=32)
def adamw(peak: float, weight_decay: float, num_steps: int) -> optax.GradientTransformation:
    """Returns AdamW with clipping, a short warm-up and a cosine decay to a fiftieth.

    Args:
      peak: of the learning rate.
      weight_decay: per unit of the learning rate.
      num_steps: of the training.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=min(100, num_steps // 10),
        decay_steps=num_steps,
        end_value=peak / 50,
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay)
    )


@functools.lru_cache(maxsize=32)
def _loss(
    make_loss: Callable[..., Any],
    apply: Callable[..., Array],
    levels: int,
    moments: unet.Moments | None,
    penalty: objectives.Penalty | None,
) -> Callable[..., Any]:
    given = {"moments": moments, "penalty": penalty}
    return make_loss(apply, levels, **{k: v for k, v in given.items() if v is not None})


def _itself(apply: Callable[..., Array]) -> Callable[..., Array]:
    return apply


def fit(
    options: Training,
    images: data.Images,
    workdir: str | os.PathLike,
    key: Key,
    *,
    make_loss: Callable[..., Any],
    seed: int,
    velocity: Callable[..., Any] = _itself,
    num_times: int = 1,
    place: Callable[..., Array] = data.dequantize,
    moments: unet.Moments | None = None,
    penalty: objectives.Penalty | None = None,
) -> tuple[Callable[..., Array], PyTree]:
    """Trains a network on the images, or restores it, and returns it with averaged parameters.

    Args:
      options: of the network and its training.
      images: the data set.
      workdir: folder of the checkpoints and of metrics.jsonl.
      key: for the noise of the held-out loss.
      make_loss: `(apply, levels) -> loss`, as `objectives.flow_loss`; with the same function,
        options and sizes again nothing is compiled anew.
      seed: for the network, the order of the images and all noise.
      velocity: turns `apply` into the velocity whose held-out loss is measured.
      num_times: times that the network takes.
      place: from a key, pixels and levels to x, for the held-out loss; bind it to `make_loss` too.
      moments: of the pixels, for a conditioned network; `make_loss` takes them too.
      penalty: beside the flow matching loss; `make_loss` takes it too.

    Returns:
      `apply`, `(params, x, *times, key=None) -> dx` of one example, and the parameters.
    """
    shape = tuple(images.train.shape[1:])
    apply, init = unet.network(shape, tuple(options.channels), num_times, options.dropout, moments)
    state = loop.fit(
        _loss(make_loss, apply, images.levels, moments, penalty),
        init(seed),
        batches.batches(images.train, options.batch_size, seed=seed),
        adamw(options.learning_rate, options.weight_decay, options.num_steps),
        objectives.held_out_loss(velocity(apply), images, key, place=place),
        workdir=workdir,
        num_steps=options.num_steps,
        seed=seed,
        max_skipped=options.max_skipped,
        ema_decay=options.ema_decay,
        eval_every=options.save_every,
        save_every=options.save_every,
    )
    return apply, layout.on_host(state.ema_params)


def trained(
    options: Training,
    images: data.Images,
    workdir: str | os.PathLike,
    *,
    velocity: Callable[..., Any] = _itself,
    num_times: int = 1,
    moments: unet.Moments | None = None,
) -> Network:
    """Tells how a network that `fit` has trained is read again.

    Args:
      options: as for `fit`.
      images: the data set.
      workdir: as for `fit`.
      velocity: turns `apply` into the velocity.
      num_times: times that the network takes.
      moments: as for `fit`.
    """
    shape = tuple(images.train.shape[1:])
    apply, init = unet.network(shape, tuple(options.channels), num_times, options.dropout, moments)
    like = jax.eval_shape(lambda: init(0))
    return Network(
        apply=apply,
        read=functools.partial(checkpoints.averaged, workdir, like, options.num_steps),
        path=path,
        data=lambda: images,
        velocity=functools.partial(functools.partial, velocity(apply)),
    )


def recorded(source: Source, seed: int, folder: str | os.PathLike) -> data.Images:
    """Loads the images of a run again, and refuses others.

    Args:
      source: as for `load`.
      seed: as for `load`.
      folder: the run folder.
    """
    _, images = load(source, seed)
    check_facts(folder, data=data.fingerprint(images))
    return images


flow = functools.partial(fit, make_loss=objectives.flow_loss)
"""`(options, images, workdir, key, *, seed)`: trains a velocity by conditional flow matching."""


def check_images(images: data.Images) -> None:
    """Raises ValueError if there are too few held-out images, or pixels, for what is measured."""
    if len(images.held_out) < 2:
        message = (
            f"at least 2 held-out images are needed, got {len(images.held_out)}: raise --held-out "
            "or give more images."
        )
        raise ValueError(message)
    if min(images.train.shape[1:3]) < 2:
        message = (
            f"images must be at least 2 pixels high and wide, got {images.train.shape[1:3]}: edges "
            "are differences of neighboring pixels."
        )
        raise ValueError(message)
