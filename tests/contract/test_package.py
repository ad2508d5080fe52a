"""What a package index shows: its page stands alone, and its address is the one of every page."""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_page_of_the_package_shows_the_code_of_the_readme_and_has_no_relative_link():
    page = (ROOT / PROJECT["readme"]).read_text()
    code = re.compile(r"```python\n.*?```", re.S)
    assert code.findall(page) == code.findall((ROOT / "README.md").read_text())
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_repository_has_one_address():
    address = PROJECT["urls"]["Repository"]
    assert PROJECT["urls"]["Changelog"].startswith(address + "/")
    pages = [path for kind in ("md", "ipynb", "cff", "yml") for path in ROOT.rglob(f"[!.]*.{kind}")]
    found = {
        match
        for page in pages
        for match in re.findall(r"https://github\.com/[\w.-]+/fmjax\b", page.read_text())
    }
    assert found == {address}
