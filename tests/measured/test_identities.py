"""Every row of `tests/measured/identities.py` stays under its bar and is on docs/measured.md."""

import math

import pytest

from tests.measured import identities, page

OPTIMIZED = True
pytestmark = pytest.mark.long  # the other tests hold the functions; these their digits


def assert_under_bars(group):
    rows = list(group())
    assert rows
    failed = [row for row in rows if not (math.isfinite(row.value) and row.value <= row.bar)]
    assert not failed, "\n".join(f"{r.what}: {r.value:.3g}, bar {r.bar:.3g}" for r in failed)
    lines = [page.fixed(page.line(group.__name__, row)) for row in rows]
    assert lines == page.listed().get(group.__name__), "run python -m tests.measured"


@pytest.mark.parametrize("group", identities.GROUPS, ids=lambda group: group.__name__)
def test_every_measured_number_is_under_its_bar(group):
    assert_under_bars(group)
