"""Solving the flow: deterministic, in jumps, or at random.

* `fixed`, `adaptive`, `trajectory`: the flow equation by diffrax, forwards and backwards
* `graded`: times for fixed steps, small where the field asks for it
* `hybrid`: piece by piece, with one velocity after another
* `flow_map`, `few_step`, `one_step`: jumps of an average velocity
* `guided`: classifier-free guidance in an interval of times
* `memoryless_sde`: random draws of the data given a noisy state

This package is the only one that imports diffrax.

References:
  Kidger (2021), On Neural Differential Equations, arXiv 2202.02435 (diffrax).
"""

from fmjax.samplers.grids import graded
from fmjax.samplers.guidance import guided
from fmjax.samplers.ode import adaptive, fixed, trajectory
from fmjax.samplers.sde import memoryless_sde
from fmjax.samplers.steps import few_step, flow_map, hybrid, one_step

__all__ = [
    "adaptive",
    "few_step",
    "fixed",
    "flow_map",
    "graded",
    "guided",
    "hybrid",
    "memoryless_sde",
    "one_step",
    "trajectory",
]
