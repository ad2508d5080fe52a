"""The hosts of a run and their devices: joined at the start, counted, and named on stderr."""

import functools
import importlib.metadata
import importlib.util
import inspect
import os
import socket
import sys
import urllib.request
import warnings

import jax

from experiments.run import errors

_SHUTDOWN_SECONDS = 24 * 3600
_HEARTBEAT_SECONDS = 20  # without a sign of life, then JAX ends all other processes
_LOSSES = "closed by peer", "Connection re", "UNAVAILABLE", "heartbeat", "Timed out", "unhealthy"
_NAMES = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


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
    """Returns the option by which the processes wait at the end for process 0, up to a day.

    It draws the figures, and the cheapest experiments are measured by it alone: that may take
    longer than the five minutes after which JAX ends them all.
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
    """Starts jax.distributed where several hosts are named, else does nothing.

    The environment names them, or on the machines of a TPU slice their metadata.

    Raises:
      ValueError: if the environment names them in part, if they do not meet, or if JAX finds no
        device of the kind that JAX_PLATFORMS names.
    """
    get = os.environ.get
    workers = get("TPU_PROCESS_ADDRESSES") or get("TPU_WORKER_HOSTNAMES") or _of_slice()
    tasks = max(int(get("SLURM_STEP_NUM_TASKS", 1)), int(get("OMPI_COMM_WORLD_SIZE", 1)))
    address = get("JAX_COORDINATOR_ADDRESS") or get("MEGASCALE_COORDINATOR_ADDRESS")
    several = bool(address) or tasks > 1 or "," in workers
    count, index = get("JAX_NUM_PROCESSES"), get("JAX_PROCESS_ID")
    if (count or index) and not several:
        raise _not_joined("JAX_COORDINATOR_ADDRESS is not set")
    if several and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(
                num_processes=int(count) if count else None,
                process_id=int(index) if index else None,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                **_patience(),
            )
        except (ValueError, RuntimeError) as error:
            raise _not_joined(errors.first_line(error)) from error
    try:
        found = jax.process_count()
    except (RuntimeError, AssertionError) as error:  # the latter says nothing
        reason = f" ({errors.first_line(error)})" if str(error) else ""
        message = (
            f"JAX_PLATFORMS is {jax.config.jax_platforms!r}, but JAX has no such device{reason}: "
            'install its plugin, as in pip install -U "jax[cuda12]" or "jax[tpu]", or unset '
            "JAX_PLATFORMS to take what there is."
        )
        raise ValueError(message) from error
    if found > 1 and not jax.distributed.is_initialized():
        raise _not_joined("there are several")


def _not_joined(reason: str) -> ValueError:
    """Makes the error of a process that finds no others."""
    given = ", ".join(f"{name} is {os.environ.get(name, 'not set')}" for name in _NAMES)
    message = (
        f"cannot join the processes of this run ({reason}; {given}): set the three in all of them, "
        "the first to host:port of process 0, or none of them to run alone."
    )
    return ValueError(message)


def is_one_of_several() -> bool:
    """Returns whether this process has joined others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leave(code: int) -> None:
    """Ends one of several processes at once, else does nothing.

    On its usual way out it would wait for the others, which wait for it in their next sum over all
    devices. Now they lose it, and end too.

    Args:
      code: the exit code.
    """
    if is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def has_lost_another(error: Exception) -> bool:
    """Returns whether an error of JAX says that a process of this run does not answer."""
    return is_one_of_several() and any(word in str(error) for word in _LOSSES)


def loss(error: Exception) -> str:
    """Says which process does not answer, as far as JAX tells, and how to go on."""
    return (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} has "
        f"lost another one ({errors.first_line(error)}): what ended it stands in its own "
        "output. The same command, started for all of them, continues from the last checkpoint."
    )


@functools.cache
def _of_slice() -> str:
    """Returns the hosts of the TPU slice that this machine is part of, "" if it is of none.

    They stand where JAX looks them up as well, in the metadata of a machine of Compute Engine.
    """
    elsewhere = "tpu" not in (jax.config.jax_platforms or "tpu")
    if elsewhere or "TPU_SKIP_MDS_QUERY" in os.environ or not importlib.util.find_spec("libtpu"):
        return ""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:  # another machine, or one without a slice
        return ""


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
