"""The networks of `fmjax.models` once more in PyTorch, with the same weights, for batches.

`tensors` copies the parameters: a tree of the same names, dense kernels as `[out, in]`, those of
convolutions `[out, in, height, width]`. Each twin is a function `(params, x, t)` of a batch, with
one time for all, `[]`, or one for each, `[b]`. Images are `[b, c, h, w]`. Functions in the place of
modules spare PyTorch some microseconds a layer.
"""

import functools
import math
from typing import Any

import jax
import numpy as np

from fmjax.types import PyTree

_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}


def tensors(params: PyTree) -> dict[str, Any]:
    """Returns the parameters of a network as tensors that ask for a gradient."""
    import torch

    def one(leaf: Any) -> Any:
        array = np.asarray(leaf)
        array = array.transpose(_AXES.get(array.ndim, range(array.ndim)))
        return torch.tensor(np.ascontiguousarray(array)).requires_grad_()

    return jax.tree.map(one, params)


def arrays(tree: dict[str, Any]) -> PyTree:
    """Returns tensors as NumPy arrays in the layout of `fmjax.models`."""

    def one(tensor: Any) -> np.ndarray:
        array = tensor.detach().numpy()
        axes = _AXES.get(array.ndim, range(array.ndim))
        return array.transpose(np.argsort(axes))

    return jax.tree.map(one, tree)


def perceptron(params: dict[str, Any], x: Any, t: Any) -> Any:
    """Evaluates `fmjax.models.perceptron`; x may also be one example `[d]`."""
    import torch
    from torch.nn.functional import silu

    hidden = torch.cat([x, t.expand(x.shape[:-1])[..., None]], -1)
    for i in range(len(params)):
        hidden = _dense(params[f"layer_{i}"], hidden if i == 0 else silu(hidden))
    return hidden


def mlp(params: dict[str, Any], x: Any, t: Any) -> Any:
    """Evaluates `fmjax.models.MLP`; x may also be one example `[d]`."""
    from torch.nn.functional import linear, silu

    embedding = _embed(params["embed"], t)
    hidden = _dense(params["dense_in"], x)
    for i in range(len(params["blocks"])):
        block = params["blocks"][str(i)]
        shift = linear(embedding, block["time"]["kernel"])
        hidden = hidden + _dense(
            block["dense_out"], silu(_dense(block["dense_in"], hidden) + shift)
        )
    return _dense(params["dense_out"], silu(hidden))


def unet(params: dict[str, Any], x: Any, t: Any) -> Any:
    """Evaluates `fmjax.models.UNet` with attention at its coarsest level, for one time each."""
    from torch.nn.functional import interpolate, silu

    embedding = _embed(params["embed"], t)
    hidden, kept = _conv(params["conv_in"], x), []
    levels = len(params["down"])
    for level in range(levels):
        if level > 0:
            kept.append(hidden)
            hidden = _halved(params["halve"][str(level - 1)], hidden)
        for block in params["down"][str(level)].values():
            hidden = _residual(block, hidden, embedding)
    hidden = _attended(params["attention"], hidden)
    for level in reversed(range(levels)):
        for block in params["up"][str(level)].values():
            hidden = _residual(block, hidden, embedding)
        if level > 0:
            merge, skip = params["merge"][str(level - 1)], kept.pop()
            fine = interpolate(_pointwise(merge["from_coarse"], hidden), scale_factor=2)
            fine = fine[..., : skip.shape[-2], : skip.shape[-1]]
            hidden = fine + _pointwise(merge["from_skip"], skip)
    return _conv(params["conv_out"], silu(_norm(params["norm_out"], hidden)))


TWINS = {"perceptron": perceptron, "MLP": mlp, "U-Net": unet}


@functools.cache
def _frequencies(count: int) -> Any:
    import torch

    return torch.exp(torch.linspace(0.0, math.log(100.0), count))


def _embed(params: dict[str, Any], t: Any) -> Any:
    """Returns `[*t, features]`, of the sines and cosines of the times."""
    import torch
    from torch.nn.functional import silu

    angles = t[..., None] * _frequencies(params["dense"]["kernel"].shape[1] // 2)
    return silu(_dense(params["dense"], torch.cat([angles.sin(), angles.cos()], -1)))


def _dense(params: dict[str, Any], x: Any) -> Any:
    from torch.nn.functional import linear

    return linear(x, params["kernel"], params["bias"])


def _pointwise(params: dict[str, Any], x: Any) -> Any:
    """Applies a dense layer at every pixel."""
    from torch.nn.functional import conv2d

    return conv2d(x, params["kernel"][..., None, None], params.get("bias"))


def _conv(params: dict[str, Any], x: Any) -> Any:
    from torch.nn.functional import conv2d

    return conv2d(x, params["kernel"], params["bias"], padding=1)


def _halved(params: dict[str, Any], x: Any) -> Any:
    """Applies a convolution of stride 2; of an even size only the end is padded."""
    from torch.nn.functional import conv2d, pad

    height, width = (size % 2 for size in x.shape[-2:])
    return conv2d(pad(x, (width, 1, height, 1)), params["kernel"], params["bias"], stride=2)


def _norm(params: dict[str, Any], x: Any) -> Any:
    from torch.nn.functional import group_norm

    return group_norm(x, 8, params["scale"], params["bias"], eps=1e-6)


def _residual(params: dict[str, Any], x: Any, embedding: Any) -> Any:
    from torch.nn.functional import silu

    hidden = _conv(params["conv_in"], silu(_norm(params["norm_in"], x)))
    scale, offset = _dense(params["film"], embedding)[..., None, None].chunk(2, 1)
    hidden = (1 + scale) * _norm(params["norm_out"], hidden) + offset
    x = _pointwise(params["adapt"], x) if "adapt" in params else x
    return x + _conv(params["conv_out"], silu(hidden))


def _attended(params: dict[str, Any], x: Any) -> Any:
    """Adds the attention over all pixels, of four heads."""
    from torch.nn.functional import scaled_dot_product_attention

    rows = _norm(params["norm"], x).flatten(2).transpose(1, 2)  # [b, pixels, channels]
    parts = _dense(params["project_in"], rows).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    read = scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    return x + _dense(params["project_out"], read).transpose(1, 2).reshape(x.shape)
