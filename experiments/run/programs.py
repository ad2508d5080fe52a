"""Compiled programs, kept from one run to the next in the user's cache folder.

The main experiment compiles for a minute before its first step. JAX can keep what it compiled and
reads it back when the same program comes again on the same kind of device with the same versions.
"""

import os
import pathlib

import jax

_LEAST_SECONDS = 0.2  # smaller programs are compiled again about as fast as they are read


def keep() -> None:
    """Lets JAX keep the programs that it compiles, where the user's caches are.

    The folder is fmjax/programs in XDG_CACHE_HOME, or in ~/.cache if that is not set. Where the
    user has told JAX a folder of his own (JAX_COMPILATION_CACHE_DIR), or switched its cache off
    (JAX_ENABLE_COMPILATION_CACHE), nothing is changed. A folder that cannot be written costs a
    warning by JAX, no run.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def folder() -> pathlib.Path:
    """Names the folder in which compiled programs are kept."""
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches) / "fmjax" / "programs"
