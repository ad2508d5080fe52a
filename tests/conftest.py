"""Settings for every test: strict rank promotion, eight virtual devices, a float64 switch."""

import jax
import pytest

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
