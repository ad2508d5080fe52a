"""Training losses: one scalar per example.

Noise, times and couplings are drawn before and passed in, and whatever is random takes a key, so a
loss is tested by its value; the caller takes the mean over the batch. Only `probe_every` sees one.

* flow matching: `cfm`, on drawn pairs; `adaptive`, a weight for any loss
* flow and divergence matching: `fdm` on drawn pairs, `dm` on the exact field of a data set or of
  a minibatch; what is matched is a function, `match_trace`, `match_product` or `match_jacobian`,
  to a target, `of_pair`, `of_bank` or `of_large_bank`, by its `residual`;
  `cdm` and `cdm_absolute`, the divergence loss alone, to train on and to report; `probe_every`
  for a divergence on a share of the batch
* empirical flow matching: `efm`, on the closed form of a draw from the data set, `draw_bank`, or of
  all of it
* average velocities: `meanflow`, `improved_meanflow`, `guidance`
"""

from fmjax.losses.average_velocity import Guide, guidance, improved_meanflow, meanflow
from fmjax.losses.empirical_flow import draw_bank, efm
from fmjax.losses.flow import adaptive, cfm
from fmjax.losses.flow_divergence import cdm, cdm_absolute, dm, fdm
from fmjax.losses.matching import Matching, match_jacobian, match_product, match_trace
from fmjax.losses.share import probe_every
from fmjax.losses.target import Target, of_bank, of_large_bank, of_pair, residual

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
    "guidance",
    "improved_meanflow",
    "match_jacobian",
    "match_product",
    "match_trace",
    "meanflow",
    "of_bank",
    "of_large_bank",
    "of_pair",
    "probe_every",
    "residual",
]
