"""Every row of the measured table that is not in `tests/measurements.py` stays under its bar."""

import pytest

from tests import (
    measured_closed_form,
    measured_fdm,
    measured_meanflow,
    measured_posterior,
    test_measurements,
)

GROUPS = (
    *measured_posterior.GROUPS,
    *measured_meanflow.GROUPS,
    *measured_fdm.GROUPS,
    *measured_closed_form.GROUPS,
)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_measured_number_is_under_its_bar(group):
    test_measurements.assert_under_bars(group)
