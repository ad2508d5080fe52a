"""One training up to its first step, started by `first_step` as a command of its own.

It prints one line of JSON: when the first step was done, in seconds since 1970, and the seconds
that XLA compiled until then. The peer's half does not import JAX.
"""

import json
import sys
import tempfile
import time

IMAGES, POINTS = 64, 256


def ours(name: str) -> dict[str, float]:
    """Takes one step in the loop of every experiment."""
    import jax
    import numpy as np
    import optax

    compiling = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiling.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    from experiments.benchmarks import _fields
    from experiments.run import batches, loop, programs

    programs.keep()
    shape = (IMAGES, *_fields.IMAGE) if name == "U-Net" else (POINTS, 2)
    x1 = np.random.default_rng(0).standard_normal(shape, np.float32)
    field, done = _fields.make(name, seed=0), {}
    loss = _fields.drawn(field.apply)

    def at_first_step(*_: object) -> dict[str, float]:
        done.update(ready=time.time(), compiling=sum(compiling))
        return {}

    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            lambda params, key, batch: loss(params, key, batch["x"]),
            field.params,
            batches.batches(x1, len(x1), seed=0),
            optax.adam(1e-3),
            at_first_step,
            workdir=folder,
            num_steps=1,
            seed=0,
            eval_every=1,
            save_every=1,
        )
    return done


def peer() -> dict[str, float]:
    """Takes one step of the same perceptron with torchcfm."""
    import torch
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    sizes = [(3, 64), (64, 64), (64, 64)]
    layers = [part for size in sizes for part in (torch.nn.Linear(*size), torch.nn.SiLU())]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x1 = torch.randn(POINTS, 2)
    t, xt, wanted = ConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow(
        torch.randn_like(x1), x1
    )
    ((network(torch.cat([xt, t[:, None]], 1)) - wanted) ** 2).mean().backward()
    optimizer.step()
    return {"ready": time.time(), "compiling": 0.0}


if __name__ == "__main__":
    print(json.dumps(peer() if sys.argv[1] == "torchcfm" else ours(sys.argv[1])))
