"""Every row of the measured table beside `identities` stays under its bar."""

import pytest

from tests.measured import closed_form, fdm, meanflow, posterior, test_identities

pytestmark = pytest.mark.long  # the other tests hold the functions; these their digits

GROUPS = (
    *posterior.GROUPS,
    *meanflow.GROUPS,
    *fdm.GROUPS,
    *closed_form.GROUPS,
)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_measured_number_is_under_its_bar(group):
    test_identities.assert_under_bars(group)
