"""Conditioning a trained velocity, after training, on an event or on a measurement.

Nothing is retrained: given the state, a velocity contains mean and covariance of the data
(`fmjax.posterior`), and Bayes' rule on the Gaussian law with these gives the conditioned velocity,
which every sampler takes.

* `conditioned`, on an event C(x1) > 0, by its `log_probability` (`fmjax.events.thresholds`)
* `given_linear`, on a noisy linear measurement, y = A x1 + noise (`fmjax.events.measurements`)
"""

from fmjax.events.measurements import given_linear
from fmjax.events.thresholds import JITTER, Event, conditioned, log_probability

__all__ = ["JITTER", "Event", "conditioned", "given_linear", "log_probability"]
