"""The page about a run: complete, honest about what is missing, self-contained, and safe to open."""

from __future__ import annotations

import base64
import errno
import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olm.errors import InputError, StorageError
from olm.records import Run
from olm.report import write_figures, write_report

CONFIG = {"task": {"name": "perceptron", "examples": 6}, "steps": 4, "search": {"evaluations": 3}, "bound": math.inf}
COMMAND = ["olm", "search", "perceptron", "--out", "my run"]
EVIL = "<script>alert(1)</script> & <img src=x onerror=alert(2)>"
SUMMARY: dict[str, Any] = {
    "acceleration": 4.0,
    "acceleration_first": 8.125,
    "area_ratio": 0.51236,
    "final_ratio": 0.82,
    "step_length_ratio": 1.07,
    "compression_ratio": {"baseline": 4.4, "found": 8.8, "unit": "bits over bits"},
    "evaluations": 3,
    "best_evaluation": 3,
    "status": "finished",
    "message": EVIL,
    "seconds": 83.4,
    "entropy": 0.05,
    "grid": [
        {"side": "uniform", "learning_rate": 0.1, "area_validation": 0.4, "area_test": 0.41, "final_test": 0.3},
        {"side": "uniform", "learning_rate": 0.2, "area_validation": 0.3, "area_test": 0.32, "final_test": 0.2},
        {"side": "found", "learning_rate": 0.1, "area_validation": 0.2, "area_test": 0.24, "final_test": 0.15},
        {"side": "found", "learning_rate": 0.2, "area_validation": math.inf, "area_test": math.inf, "final_test": math.nan},
    ],
    "versions": {"jax": "0.10.2", "device": "1 × cpu: cpu"},
}
ALL = ["loss_test", "loss_target", "objective", "weights", "weights_distribution", "learning_rates"]


def make(path: Path, summary: dict[str, Any] | None = None, curves: bool = True) -> Path:
    """A run folder: without a summary it is one that was interrupted."""
    with Run.create(path, CONFIG, COMMAND) as run:
        for evaluation, message in enumerate(["", EVIL, ""], 1):
            row = {
                "evaluation": evaluation,
                "objective": 1 / evaluation,
                "accepted": not message,
                "message": message,
                "seconds": 0.1,
            }
            run.append_metrics(row)
        if curves:
            base, found = np.array([1.0, 0.8, 0.6, 0.5, 0.4]), np.array([1.0, 0.4, 0.3, 0.2, 0.1])
            table = np.random.default_rng(0).dirichlet(np.ones(6), size=4)
            tables = {"baseline_target": base, "baseline_test": base + 0.1, "found_target": found, "found_test": found + 0.1}
            run.save("curves", tables | {"weights": table, "weights_steps": np.arange(4), "group": np.array([0, 1] * 3)})
        if summary is not None:
            run.write_summary(summary)
    return path


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, which must close what it opens."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text = " ".join([*self.text.split(), *data.split()])

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a finished run with everything in it."""
    return write_report(make(tmp_path_factory.mktemp("full") / "run", SUMMARY))


def test_a_finished_run_is_told_in_full(full: Path) -> None:
    page = Page(full)
    for shown in (
        "perceptron: run", "4×", "8.12× to the first crossing", "0.5124", "0.82", "1.07", "4.4 → 8.8", "bits over bits",
        "1 min 23 s", "kept: number 3", "evaluation 2:", "task.examples 6", "bound ∞", "jax 0.10.2", "1 × cpu: cpu",
        "Learning rates (4 runs)", "olm search perceptron --out 'my run'", f"olm search --resume {full.parent}", "curves.npz",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert "not there" not in page.text
    assert len(page.all("img")) == len(ALL)


def test_the_page_needs_nothing_else_and_runs_nothing(full: Path) -> None:
    page = Page(full)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "a", "base", "form"} == set()
    assert EVIL in page.text  # as text, twice: the summary's message and the evaluation's
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(value and value.startswith("data:image/svg+xml;base64,") for value in addresses)
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    for image in page.all("img"):
        svg = base64.b64decode(str(image["src"]).split(",")[1])
        assert svg.startswith(b"<?xml") and b"<script" not in svg and image["alt"]
    text = full.read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_the_same_folder_makes_the_same_page(full: Path) -> None:
    first = full.read_bytes()
    assert write_report(full.parent).read_bytes() == first


def between(page: Page, start: str, end: str) -> str:
    """The text from ``start`` to ``end``."""
    return page.text.split(start)[1].split(end)[0].strip()


def test_claims_are_taken_from_the_grid_or_as_recorded(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path / "run", SUMMARY, curves=False)))
    assert between(page, "(b) each side at its own best", "Figures") == (
        "η of uniform weights 0.2 η of the found policy 0.1 acceleration 4 area ratio (below 1 is better) 0.5124 0.75 "
        "final-loss ratio (below 1 is better) 0.82 0.75 step-length ratio 1.07"
    )
    without = {key: value for key, value in SUMMARY.items() if key != "grid"}
    claims = {"a": {"area_ratio": 0.5}, "b": {"area_ratio": 0.7, "seeds": 3}}
    page = Page(write_report(make(tmp_path / "given", without | {"claims": claims}, curves=False)))
    assert between(page, "each side at its own best", "Figures") == "area ratio (below 1 is better) 0.5 0.7 seeds 3"
    without = {key: value for key, value in SUMMARY.items() if key != "grid"}
    assert "Claim (a)" not in Page(write_report(make(tmp_path / "without", without, curves=False))).text


def test_an_interrupted_run_says_what_is_missing(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path / "run", curves=False)))
    assert "This run is not complete." in page.text and "unfinished" in page.text
    assert (
        "summary.json is not there" in page.text
        and "curves.npz is not there" in page.text
        and "metrics.jsonl is not" not in page.text
    )
    assert "evaluations 3" in page.text and len(page.all("img")) == 1 and "acceleration" not in page.text
    Run.create(tmp_path / "empty", {}).close()
    page = Page(write_report(tmp_path / "empty"))
    assert "metrics.jsonl is not there" in page.text and "Made by" not in page.text and page.all("img") == []


def test_a_run_that_is_being_written_can_be_reported(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", CONFIG) as run:
        run.append_metrics({"evaluation": 1, "objective": 0.5})
        assert "unfinished" in Page(write_report(run.path)).text


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("curves.npz", b"PK\x03\x04 cut", "curves.npz is cut, damaged"),
        ("summary.json", b'{"acceleration": ', "summary.json is cut or not JSON"),
        ("summary.json", b"[1]", "summary.json was not written by olm"),
        ("metrics.jsonl", b"nonsense\n", "line 1, is not a row of JSON"),
        ("metrics.jsonl", b"[1]\n", "line 1, is not a row of JSON"),
    ],
)
def test_a_damaged_file_is_reported_and_the_rest_is_shown(tmp_path: Path, name: str, damage: bytes, complaint: str) -> None:
    path = make(tmp_path / "run", {key: value for key, value in SUMMARY.items() if key != "grid"}, curves=False)
    (path / name).write_bytes(damage)
    page = Page(write_report(path))
    assert complaint in page.text and "task.examples 6" in page.text
    assert ("4.4 → 8.8" in page.text) == (name != "summary.json") and len(page.all("img")) == (name != "metrics.jsonl")


def test_odd_values_do_not_stop_the_page(tmp_path: Path) -> None:
    odd = {
        "acceleration": math.inf, "area_ratio": math.nan, "compression_ratio": None, "evaluations": None, "seconds": 7500.0,
        "grid": [1, {"side": "found"}], "claims": {"a": 3}, "versions": "none", "message": None, "entropy": "unknown",
    }  # fmt: skip
    path = make(tmp_path / "run", odd, curves=False)
    with Run.resume(path, CONFIG) as run:
        run.save("curves", {"baseline_test": None, "baseline_target": np.zeros((2, 2)), "weights": np.array(["a"])})
    page = Page(write_report(path))
    for shown in (
        "∞",
        "not a number",
        "2 h 5 min",
        "cannot be drawn: the baseline's curve has shape (2, 2)",
        "no positive learning_rate",
    ):
        assert shown in page.text, shown
    assert len(page.all("img")) == 1 and "held-out data" not in page.text


def test_figures_are_svg_and_png_of_everything_there_is(full: Path, tmp_path: Path) -> None:
    files = sorted(path.name for path in (full.parent / "figures").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in ALL for kind in ("svg", "png"))
    paths = write_figures(make(tmp_path / "run", curves=False))
    assert paths == [tmp_path / "run" / "figures" / f"objective.{kind}" for kind in ("svg", "png")]
    assert paths[0].read_bytes().startswith(b"<?xml") and paths[1].read_bytes().startswith(b"\x89PNG")


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="not a run folder"):
            write_report(path)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(make(tmp_path / "run", {"acceleration": 2.0}, curves=False))
    before, genuine = path.read_bytes(), os.replace
    (path.parent / "summary.json").write_text(json.dumps({"acceleration": 3.0}))

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "report.html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_report(path.parent)
    assert path.read_bytes() == before and not list(path.parent.glob(".*.tmp"))
