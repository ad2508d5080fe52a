"""The options of what is measured of a posterior, and of what it is compared with."""

import dataclasses
import math

from experiments.run import options


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """Where uncertainty is measured."""

    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times at which uncertainty is measured, in (0, 1); 0 is noise, 1 is data."""
    num_uncertainty: int = 360
    """Held-out images whose uncertainty is measured at each time, and as many training images
    where those are measured too."""

    def check(self) -> None:
        """Raises ValueError for times or a number that cannot be measured."""
        options.check_times(self.times)
        options.check_bounds(self, {"num_uncertainty": (2, math.inf)})


@dataclasses.dataclass(frozen=True)
class Rivals:
    """The other measures of uncertainty."""

    num_rivals: int = 0
    """Held-out images on which the other measures of uncertainty are compared, at least 2, or 0
    for none."""
    ensemble: int = 5
    """Networks of the deep ensemble, at least 2, or 0 for none; trained only for the rivals."""
    dropout_passes: int = 50
    """Forward passes of Monte-Carlo dropout for each image and time."""
    sde_seeds: int = 64
    """Seeds of the memoryless SDE for each image and time."""
    sde_steps: int = 20
    """Steps of the memoryless SDE, of three evaluations each."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "num_rivals": (0, math.inf),
            "ensemble": (0, 100),
            "dropout_passes": (2, math.inf),
            "sde_seeds": (2, math.inf),
            "sde_steps": (1, math.inf),
        }
        options.check_bounds(self, bounds)
        options.check_not_one(self, "num_rivals", "one image has no correlation")
        options.check_not_one(self, "ensemble", "one network does not differ from itself")
