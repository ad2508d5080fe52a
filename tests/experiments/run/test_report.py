"""The page of a run: whole, complete, needing nothing beside itself, and safe to open."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import __main__ as command
from experiments.run import cli, folder, lines, pictures, report, saved
from tests.experiments.run import test_loop, test_rehearsal

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\u202e\x00"
RESULTS = {
    "kl": 0.123456789012,
    "count": 7,
    "rows": [
        {"t": 0.1, "tv": {"mean": 0.25, "seeds": [1.5, 2.5]}},
        {"t": 0.9, "tv": {"mean": 3e-9}},
    ],
    "per_image": [0.5 + index for index in range(20)],
    "unlike": [{"a": 1.25}, {"b": 2.125, "c": [[3.0625, 4], [5, 6]]}],
    "deep": {"x": {"y": {"z": [{"w": [{"v": -11.5}]}]}}},
    "none": None,
    "truth": True,
    HOSTILE: {HOSTILE: HOSTILE},
}
EMPTY = {"meta", "img", "br", "path", "use", "circle"}  # elements without an end


class Page(html.parser.HTMLParser):
    """Collects elements, attributes, texts and numbers, and asserts that elements are closed."""

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes, self.ids = [], [], [], [], []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):  # noqa: D102
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in EMPTY - {"path", "use", "circle"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):  # noqa: D102
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):  # noqa: D102
        assert self.open.pop() == tag

    def handle_data(self, data):  # noqa: D102
        self.texts.append(data)

    @property
    def numbers(self):
        """All numbers, those of `data` elements and those of long lists."""
        found = [value for name, value in self.attributes if name == "value"]
        found += [word for text in self.texts for word in re.split(r"[,\s]+", text)]
        return found


def _numbers(tree):
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, int | float) and not isinstance(tree, bool):
        yield repr(tree)
    for part in parts:
        yield from _numbers(part)


@pytest.fixture
def run(tmp_path):
    """A run that has all kinds of files, with words in them that are HTML."""
    place = tmp_path / "a <b> & 'c'"
    options = {"name": HOSTILE, "training": {"num_steps": 50, "times": [0.1, 0.5]}}
    folder.write_json(place / "config.json", options)
    session = {"commit": "0123456789", "versions": {"jax": "1.2.3"}}
    origin = {"module": "experiments.fdm.mixture", "facts": [], "sessions": [session]}
    folder.write_json(place / "provenance.json", origin)
    folder.write_json(place / "results.json", RESULTS)
    for name in (".", "second <i>"):
        _record(place / name / "metrics.jsonl", {"loss": lambda k: 2.0 / k, HOSTILE: float})
    figure = Figure(figsize=(1, 1))
    figure.add_subplot()
    pictures.save(place / "figures", {"it's <me>": figure})
    return place


def _record(file, values, number=5):
    file.parent.mkdir(exist_ok=True)
    checksum = 0
    with file.open("a") as opened:
        for step in range(1, number + 1):
            line = {name: value(step) for name, value in values.items()}
            text, checksum = lines.text(step, line, checksum)
            opened.write(text)


def test_the_page_is_whole_and_holds_every_number(run):
    page = Page(report.make(run))
    assert page.tags[:2] == ["html", "head"]
    numbers = set(page.numbers)
    for number in _numbers(RESULTS):
        assert number in numbers, number
    assert {"50", "0.1", "0.5"} <= numbers  # of the options
    words = "".join(page.texts)
    assert "Flow and divergence matching on a line" in words
    for word in ("0123456789", "1.2.3", "num_steps", "True", "none", "second <i>", "it's <me>"):
        assert word in words, word
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_fetched_and_nothing_runs(run):
    content = report.make(run)
    page = Page(content)
    assert not re.search(r"https?:|//|@import|url\((?!#)", re.sub(r"base64,[\w+/=]+", "", content))
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href"):
            assert value.startswith(("data:image/png;base64,", "#")), value[:40]


def test_words_of_the_run_stay_words(run):
    content = report.make(run)
    page = Page(content)
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x00", "\\x00")
    assert "".join(page.texts).count(shown) >= 4  # name and value of an option, a number, a curve
    assert str(run) in "".join(page.texts)
    assert page.tags.count("img") == 1
    assert "\u202e" not in content
    assert "\x00" not in content


def test_light_and_dark_by_the_system_and_fit_for_a_phone(run):
    content = report.make(run)
    assert "prefers-color-scheme: dark" in content
    assert ("name", "viewport") in Page(content).attributes
    # The axes have the color of the text, whichever that is.
    assert "currentColor" in content
    assert "#010203" not in content


def test_curves_show_the_numbers_of_every_training(run):
    content = report.make(run)
    captions = re.findall(r"<figcaption>([^<]*)</figcaption><svg", content)
    assert captions[0] == "loss"
    assert len(captions) == 2
    drawings = re.findall(r"<svg.*?</svg>", content, re.S)
    assert len(drawings) == 2
    for color in ("#1f77b4", "#ff7f0e"):  # the first two of matplotlib's
        assert color in drawings[0]
    assert content.count('class="key"') == 2


def test_a_run_without_metrics_figures_or_results_has_a_page(run):
    for name in ("metrics.jsonl", "results.json"):
        (run / name).unlink()
    for name in ("figures", "second <i>"):
        shutil.rmtree(run / name)
    words = "".join(Page(report.make(run)).texts)
    assert "There are no results yet" in words
    assert "Curves" not in words
    assert "Figures" not in words
    assert "num_steps" in words


def _damage(run, name, content):
    (run / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "config.json").unlink(), "is no run folder of this version"),
        (lambda run: (run / "provenance.json").unlink(), "is no run folder of this version"),
        (lambda run: _damage(run, "config.json", b"{"), "config.json is damaged"),
        (lambda run: _damage(run, "results.json", b'{"kl": NaN}'), "results.json is damaged"),
        (lambda run: _damage(run, "metrics.jsonl", b"{"), "metrics.jsonl, the record of"),
        (lambda run: _damage(run, "figures/it's <me>.png", b"GIF"), "is no PNG image"),
        (lambda run: (run / "figures" / "x.png").symlink_to("/etc/hostname"), "is a link out of"),
    ],
)
def test_damage_is_one_line_and_nothing_is_written(run, damage, words, capsys):
    damage(run)
    with pytest.raises(SystemExit) as caught:
        command.main(["report", str(run)])
    assert caught.value.code == 1
    said = capsys.readouterr()
    assert words in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert not (run / "report.html").exists()


def test_where_load_refuses_a_folder_the_report_says_the_same(run):
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match="no run folder") as by_load:
        saved.load(run)
    with pytest.raises(ValueError, match="no run folder") as by_report:
        report.make(run)
    assert str(by_report.value) == str(by_load.value)


def test_the_command_writes_the_page_anew(run, capsys):
    (run / "report.html").write_text("old")
    command.main(["report", str(run)])
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert (run / "report.html").read_text() == report.make(run)


def test_every_command_writes_the_page_at_its_end(tmp_path, capsys):
    place = tmp_path / "run"
    cli.run(test_rehearsal.main, test_rehearsal.Config, args=["--workdir", str(place), "--helper"])
    assert (place / "report.html").read_text() == report.make(place)
    assert not (place / "helper" / "report.html").exists()
    page = Page((place / "report.html").read_text())
    losses = [line["loss"] for line in test_loop.metrics(place)]
    assert len(losses) == 10
    assert "the run itself" in "".join(page.texts)
    assert json.loads((place / "results.json").read_text())["ended"] == 1
    assert np.isfinite(losses).all()
