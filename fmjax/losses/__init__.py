"""Training losses: one scalar per example.

Draw noise, times and couplings first and pass them in. A loss that is random takes a key, so each
loss can be tested by its value; the caller averages over the batch. Only `probe_every` takes a
whole batch.

* flow matching: `cfm` on drawn pairs; `adaptive` weights any loss by its value
* flow and divergence matching: `fdm` on drawn pairs, `dm` on the exact field of a data set or of
  a minibatch; what is matched is a function, `match_trace`, `match_product` or `match_jacobian`,
  to a target, `of_pair`, `of_bank` or `of_large_bank`, by its `scaled_residual`;
  `cdm` and `cdm_absolute`, the divergence loss alone, to train on and to report; `probe_every`
  for a divergence on a share of the batch
* empirical flow matching: `efm`, on the closed form of the data set or of a draw from it
  (`draw_bank`)
* a velocity and the variance of its target: `gaussian_nll`
* average velocities: `meanflow`, `improved_meanflow`; what they train on, `guidance`, `marginal`
"""

from fmjax.losses.average_velocity import improved_meanflow, meanflow
from fmjax.losses.empirical_flow import draw_bank, efm
from fmjax.losses.flow import adaptive, cfm
from fmjax.losses.flow_divergence import cdm, cdm_absolute, dm, fdm
from fmjax.losses.guides import Guide, guidance, marginal
from fmjax.losses.matching import Matching, match_jacobian, match_product, match_trace
from fmjax.losses.share import probe_every
from fmjax.losses.target import Target, of_bank, of_large_bank, of_pair, scaled_residual
from fmjax.losses.variance_head import gaussian_nll

__all__ = [
    "Guide",
    "Matching",
    "Target",
    "adaptive",
    "cdm",
    "cdm_absolute",
    "cfm",
    "dm",
    "draw_bank",
    "efm",
    "fdm",
    "gaussian_nll",
    "guidance",
    "improved_meanflow",
    "marginal",
    "match_jacobian",
    "match_product",
    "match_trace",
    "meanflow",
    "of_bank",
    "of_large_bank",
    "of_pair",
    "probe_every",
    "scaled_residual",
]
