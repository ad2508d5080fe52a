"""Settings for every test: strict rank promotion, eight virtual devices, a float64 switch."""

import importlib.metadata
import os
import pathlib

# XLA's older emitters of loops compile these programs in half the time. jaxlib 0.11 and newer have
# only the others, and end a process at a flag that they do not know. `XLA_FLAGS= pytest` runs what
# users run; flags of one's own stay as they are.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Rank promotion "raise" catches the (B,) against (B, 1) bug, the classic of this field.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Several devices on one machine, so that sharding is tested everywhere. Set before any
# computation: the number is fixed once the backend has started.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def key():
    """A fixed typed key."""
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Runs one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Calls a test once more where JAX gave it a program for arguments of another width.

    Rarely, in a process that has gone in and out of float64 thousands of times, JAX calls a
    program compiled for int64 with an int32 array (0.10.2: "Executable(jit_multiply) expected
    s64[8,2] but got s32[8,2]"). Without its caches it does not. Any other error stands.
    """
    try:
        return (yield)
    except jax.errors.JaxRuntimeError as error:
        if "RuntimeProgramInputMismatch" not in str(error):
            raise
        jax.clear_caches()
        names = pyfuncitem._fixtureinfo.argnames
        pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
        return True


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory, request):
    """Keeps compiled programs, in the folder that JAX has been told or in one for the session.

    Tests, and the two processes of a session, compile the same small programs.
    """
    if jax.config.jax_compilation_cache_dir is None:
        base = tmp_path_factory.getbasetemp()
        # The processes of pytest-xdist have folders of their own in one folder.
        shared = base.parent if hasattr(request.config, "workerinput") else base
        jax.config.update("jax_compilation_cache_dir", str(shared / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    compilation_cache.reset_cache()  # JAX has decided at the imports that there is no folder


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(request):
    """Turns most of XLA's optimizations off: these tests compile far longer than they run.

    Modules that ask for the last digits of float32, or for the memory of a program, set
    `OPTIMIZED = True` and run what users run.
    """
    quick = not getattr(request.module, "OPTIMIZED", False)
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    # Every program takes several of the 65,530 pieces of memory that Linux gives a process.
    pieces = pathlib.Path("/proc/self/maps")
    if pieces.exists() and pieces.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
