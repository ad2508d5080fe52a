"""The hosts of a run and their devices: joined at the start, counted, and named on stderr."""

import functools
import importlib.metadata
import inspect
import os
import sys
import warnings

import jax

_SHUTDOWN_SECONDS = 24 * 3600


def check_batch(batch_size: int) -> None:
    """Raises ValueError unless the batch divides by the devices; joins the hosts to count them."""
    join_hosts()
    check_divides("batch_size", batch_size)


def check_divides(what: str, size: int) -> None:
    """Raises ValueError unless a number of examples divides by the devices.

    Args:
      what: the number is of, for the message.
      size: the number.
    """
    count = jax.device_count()
    if size % count:
        message = (
            f"{what} {size} does not divide by the {count} devices: make the batch size a multiple "
            f"of {count}."
        )
        raise ValueError(message)


def _patience() -> dict[str, int]:
    """Returns the option by which the processes wait at the end for the one that evaluates.

    It writes for up to a day, and the default of five minutes would kill them all.
    """
    parameters = inspect.signature(jax.distributed.initialize).parameters.values()
    if any(p.name == "shutdown_timeout_seconds" or p.kind == p.VAR_KEYWORD for p in parameters):
        return {"shutdown_timeout_seconds": _SHUTDOWN_SECONDS}
    message = (
        f"JAX {jax.__version__} ends all processes five minutes after the first is done: if the "
        "last evaluation takes longer than that, use a newer JAX."
    )
    warnings.warn(message, RuntimeWarning, stacklevel=3)
    return {}


def join_hosts() -> None:
    """Starts jax.distributed where the environment names several hosts, else does nothing."""
    get = os.environ.get
    workers = get("TPU_PROCESS_ADDRESSES") or get("TPU_WORKER_HOSTNAMES") or ""
    tasks = max(int(get("SLURM_STEP_NUM_TASKS", 1)), int(get("OMPI_COMM_WORLD_SIZE", 1)))
    address = get("JAX_COORDINATOR_ADDRESS") or get("MEGASCALE_COORDINATOR_ADDRESS")
    several = bool(address) or tasks > 1 or "," in workers
    if several and not jax.distributed.is_initialized():
        count, index = get("JAX_NUM_PROCESSES"), get("JAX_PROCESS_ID")
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(index) if index else None,
            **_patience(),
        )
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        message = (
            f"this is one of {jax.process_count()} processes, but nothing tells how to join them: "
            "set JAX_COORDINATOR_ADDRESS to host:port of process 0 in all of them."
        )
        raise RuntimeError(message)


@functools.cache
def announce() -> None:
    """Says on stderr on which devices this process computes, once.

    Warns if they are CPUs though the plugin of an accelerator is installed, unless JAX_PLATFORMS
    asks for CPUs: a plugin of another version than jaxlib is passed over, and the run is slow.
    """
    devices, local = jax.devices(), len(jax.local_devices())
    of = "" if jax.process_count() == 1 else f", {local} of them at each of its hosts"
    line = f"devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}){of}"
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
    plugins = _plugins()
    if plugins and devices[0].platform == "cpu" and not jax.config.jax_platforms:
        message = (
            f"warning: computes on a CPU though {', '.join(plugins)} is installed beside jaxlib "
            f"{importlib.metadata.version('jaxlib')}. A plugin must have the version of jaxlib and "
            'see its device: install both at once, as in pip install -U "jax[cuda12]" or '
            '"jax[tpu]", or set JAX_PLATFORMS=cpu if a CPU is what you want.'
        )
        print(message, file=sys.stderr, flush=True)


def _plugins() -> list[str]:
    """Names the installed plugins of accelerators with their versions."""
    entries = importlib.metadata.entry_points(group="jax_plugins")
    found = [entry.dist for entry in entries if entry.dist is not None]
    found += importlib.metadata.distributions(name="libtpu")  # has no entry point
    return sorted({f"{plugin.name} {plugin.version}" for plugin in found})
