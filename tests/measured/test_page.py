"""docs/measured.md has the groups that exist, and every number on it is under its bar."""

import pytest

from tests.measured import identities, page


def test_the_page_has_the_groups_that_exist_and_no_other():
    names = [group.__name__ for group in page.GROUPS]
    assert list(page.listed()) == names
    assert len(set(names)) == len(names)


def test_every_number_on_the_page_is_under_its_bar():
    lines = [line for line in page.PAGE.read_text().splitlines() if line.startswith("| `")]
    for line in lines:
        *_, value, bar = line.strip("| ").split(" | ")
        assert float(value) <= float(bar), line


def test_a_group_is_measured_anew_and_the_others_stay(tmp_path, monkeypatch):
    row = identities.Row("what", "paths.linear", "FM 20", 0.5, 1.0)
    monkeypatch.setattr(page, "PAGE", tmp_path / "measured.md")

    def first():
        yield row

    def second():
        yield row._replace(value=0.25)

    monkeypatch.setattr(page, "GROUPS", (first, second))
    page.main()
    row = row._replace(value=0.75)
    page.main(["second"])
    assert page.written() == {
        "first": ["| `first` | what | `paths.linear` | FM 20 | 5.0e-01 | 1.0e+00 |"],
        "second": ["| `second` | what | `paths.linear` | FM 20 | 2.5e-01 | 1.0e+00 |"],
    }
    page.main(["first"])
    assert "7.5e-01" in page.written()["first"][0]
    with pytest.raises(ValueError, match="no groups third: the groups are first, second"):
        page.main(["third"])
