"""`olm continue`: what it writes and prints, how it goes on, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olm.cli import main
from olm.errors import InputError
from olm.records import Run, load_arrays
from olm.search import loop

TINY = [
    "--steps", "20", "--width", "8", "--layers", "1", "--heads", "2", "--length", "8", "--vocabulary", "96", "--validation", "8",
    "--tests", "8", "--batch-size", "8", "--evaluate-every", "10", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a tiny run's time; what they show is tested elsewhere."""
    monkeypatch.setattr("olm.report.write_report", lambda path, on_missing=None: Path(path) / "report.html")


def texts(folder: Path) -> list[str]:
    """Two files of arithmetic in words."""
    for name, word in (("old", "plus"), ("new", "times")):
        lines = [f"{i} {word} {j} is what number {i * j % 7} says." for i in range(60) for j in range(9)]
        (folder / f"{name}.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return [str(folder / "old.txt"), str(folder / "new.txt")]


def test_a_run_leaves_what_it_measured_and_says_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    words = ["continue", "stories", "--shift", "strong", "--replay", "0.25", *TINY, "--baselines", "union", "scratch", "held"]
    assert main([*words, "--run-dir", str(path)]) == 0
    out = capsys.readouterr().out
    summary, run = Run.open(path).summary(), Run.open(path)
    old, new = summary["datasets"]
    assert run.config["kind"] == "continue"
    assert run.config["options"]["replay"]["replay"] == [0.25]
    assert [phase["tokens"] for phase in summary["account"]] == [{old: 1280, new: 0}, {old: 320, new: 960}]
    assert f"tokens read while learning {new}: {old} 320 (25.00%), {new} 960 (75.00%); 1,280 in all" in out
    assert summary["forgetting"][old] == pytest.approx(summary["final"]["test"][1][0] - summary["final"]["test"][0][0])
    assert f"forgetting of {old}: {summary['forgetting'][old]:+.4f} nats" in out
    assert summary["adaptation"] == summary["final"]["test"][1][1] == summary["loss"][new]
    assert set(summary["baselines"]) == {"union", "scratch", "held"}
    assert summary["baselines"]["union"]["steps"] == 40
    # The union saw both, the model from scratch never the old data: which of them knows it better is no accident.
    assert summary["baselines"]["union"]["loss"][old] < summary["baselines"]["scratch"]["loss"][old]
    curves = load_arrays(path / "curves.npz")
    assert curves["test"].shape == (len(run.metrics()), 2)
    assert curves["test"][-1] == pytest.approx([run.metrics()[-1]["test"][name] for name in (old, new)])
    assert all(np.isfinite(x).all() for x in load_arrays(path / "params.npz")["block_0"]["norm_mlp"].values())


def test_a_budget_for_forgetting_becomes_a_share_with_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    words = ["continue", "stories", "--shift", "strong", *TINY, "--pilots", "0.05", "0.1", "0.25", "0.5", "0.75"]
    assert main([*words, "--budget-forgetting", "0.2", "--run-dir", str(path)]) == 0
    out, summary = capsys.readouterr().out, Run.open(path).summary()
    forecast = summary["forecast"]
    assert out.startswith(f"replay {forecast['share']:.1%} [")
    assert forecast["low"] <= forecast["share"] <= forecast["high"]
    assert set(forecast["pilots"]) == {"0.05", "0.1", "0.25", "0.5", "0.75"}
    assert sorted(p.name for p in (path / "pilots").iterdir()) == ["0.05", "0.1", "0.25", "0.5", "0.75"]
    assert summary["account"][0]["share"][summary["datasets"][0]] == pytest.approx(forecast["share"], abs=0.5 / 160)


def test_a_searched_run_is_made_again_in_the_plain_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    assert (
        main(["continue", "stories", "--shift", "strong", *TINY, "--search", "2", "--pieces", "2", "--run-dir", str(path)]) == 0
    )
    summary = Run.open(path).summary()
    assert len(summary["searched"]["shares"]) == len(summary["searched"]["rates"]) == 20
    shown = f"searched: weighted final loss on validation, run plainly: {summary['searched']['start']:.4f} → "
    assert shown in capsys.readouterr().out
    assert len(Run.open(path / "search").metrics()) == 2
    plain = {one.name: Run.open(one).summary()["loss"] for one in (path / "search").glob("mean-of-*")}
    plain["start"] = Run.open(path / "search" / "start").summary()["loss"]
    points = "-".join(map(str, summary["searched"]["evaluations"]))
    assert len(plain) == 4 and plain[f"mean-of-{points}" if points else "start"] == pytest.approx(summary["loss"], rel=1e-6)
    assert len(summary["searched"]["found"]) == 3
    assert summary["account"][0]["total"] == 20 * 8 * 8
    # A finished run is asked to go on: no gradient is taken again, and the same is written.
    before = (path / "params.npz").read_bytes()
    assert main(["continue", "--resume", str(path), "--quiet"]) == 0
    assert (path / "params.npz").read_bytes() == before
    assert Run.open(path).summary()["searched"] == summary["searched"]


def test_a_choice_among_three_datasets_counts_forgetting_from_each_ones_own_phase(tmp_path: Path) -> None:
    """Once in one run, once in the parts that a choice makes of it: with the share that was chosen both are the same training."""
    words = ["continue", "stories", "--datasets", "3", *TINY]
    pilots = ["--pilots", "0.1", "0.25", "0.5", "0.75", "--budget-forgetting", "0.9"]
    assert main([*words, "--replay", "0.25", *pilots, "--run-dir", str(tmp_path / "parts")]) == 0
    parts = Run.open(tmp_path / "parts").summary()
    share = repr(parts["forecast"]["share"])
    assert main([*words, "--replay", "0.25", share, "--run-dir", str(tmp_path / "whole")]) == 0
    whole = Run.open(tmp_path / "whole").summary()
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert parts["forgetting"] == pytest.approx(whole["forgetting"], abs=1e-4)
    assert parts["account"][-1] == whole["account"][-1]


def test_an_interrupt_of_a_search_ends_the_command_and_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["continue", "stories", "--shift", "strong", *TINY, "--search", "3", "--pieces", "2", "--save-every", "0"]
    assert main([*words, "--run-dir", str(tmp_path / "whole")]) == 0
    original, calls = loop._Search.evaluate, []

    def evaluate(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    path = tmp_path / "cut"
    monkeypatch.setattr(loop._Search, "evaluate", evaluate)
    assert main([*words, "--run-dir", str(path)]) == 130
    assert f"olm continue --resume {path}" in capsys.readouterr().err
    assert not (path / "summary.json").exists() and not (path / "params.npz").exists()
    assert main(["continue", "--resume", str(path), "--quiet"]) == 0
    assert (path / "params.npz").read_bytes() == (tmp_path / "whole" / "params.npz").read_bytes()


def test_pilots_baselines_and_the_last_run_may_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command stopped in the middle of each kind of run it makes, and resumed: the end is that of an undisturbed one."""
    words = ["continue", "stories", "--shift", "strong", *TINY, "--save-every", "0", "--baselines", "scratch"]
    words += ["--pilots", "0.1", "0.25", "0.5", "0.75", "--budget-forgetting", "0.5"]
    path, appended, stops = tmp_path / "cut", Run.append_metrics, ["0.25", "scratch", "cut"]

    def append(run: Run, row: dict[str, Any]) -> None:
        appended(run, row)
        if stops and run.path.name == stops[0] and row["step"] == 10:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "append_metrics", append)
    assert main([*words, "--run-dir", str(path)]) == 130
    assert f"olm continue --resume {path}" in capsys.readouterr().err
    for left in (1, 0):
        assert main(["continue", "--resume", str(path), "--quiet"]) == 130
        assert len(stops) == left and not (path / "summary.json").exists()
    assert main(["continue", "--resume", str(path), "--quiet"]) == 0
    assert main([*words, "--run-dir", str(tmp_path / "whole")]) == 0
    cut, whole = (Run.open(folder).summary() for folder in (path, tmp_path / "whole"))
    for name in ("loss", "forgetting", "forecast", "baselines", "account"):
        assert cut[name] == whole[name], name
    assert (path / "params.npz").read_bytes() == (tmp_path / "whole" / "params.npz").read_bytes()


def test_another_budget_is_asked_of_the_same_pilots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that no share keeps is known after the pilots; they stay, and the next question trains none of them again."""
    words = ["continue", "stories", "--shift", "strong", *TINY, "--pilots", "0.1", "0.25", "0.5"]
    path = tmp_path / "run"

    def refuses(*_: Any, **__: Any) -> Any:
        raise InputError("no share keeps the budget")

    with monkeypatch.context() as patched:
        patched.setattr("olm.cli.continual.choose_share", refuses)
        assert main([*words, "--budget-forgetting", "0", "--run-dir", str(path)]) == 2
    pilots = [path / "pilots" / name / "params.npz" for name in ("0.1", "0.25", "0.5")]
    states = [one.with_name("state.npz").stat().st_mtime_ns for one in pilots]
    assert all(one.exists() for one in pilots) and not (path / "params.npz").exists()
    assert main(["continue", "--resume", str(path), "--budget-forgetting", "0.9", "--quiet"]) == 0
    assert states == [one.with_name("state.npz").stat().st_mtime_ns for one in pilots]
    run = Run.open(path)
    assert run.summary()["forecast"]["budget"] == run.config["options"]["replay"]["budget_forgetting"] == 0.9


def test_a_run_on_files_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["continue", "text", "--files", "old.txt", "new.txt", *TINY, "--vocabulary", "128", "--epochs", "2"]
    assert main([*words, "--run-dir", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["continue", "--resume", "../run", "--quiet"]) == 0


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_if_nothing_had_happened(tmp_path: Path, root: Path) -> None:
    """`kill -9` at several moments; parameters, curves and metrics are those of an undisturbed run, bit for bit."""
    files = texts(tmp_path)
    words = [word for word in TINY if word != "--quiet"]
    words = [
        "continue",
        "text",
        "--files",
        *files,
        "--tokens",
        "bytes",
        *words,
        "--vocabulary",
        "512",
        "--save-every",
        "0",
        "--quiet",
    ]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def start(*more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "olm", *more]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(*words, "--run-dir", "whole").wait() == 0
    path, kills = tmp_path / "cut", 0
    process = start(*words, "--run-dir", "cut")
    for wanted in (1, 3, 8):
        deadline = time.monotonic() + 120
        metrics = path / "metrics.jsonl"
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_bytes().splitlines()) >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
        process = start("continue", "--resume", "cut", "--quiet")
    assert process.wait() == 0
    assert kills >= 2
    for name in ("params.npz", "curves.npz", "metrics.jsonl"):
        assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_with_changed_files_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = texts(tmp_path)
    words = ["continue", "text", "--files", *files, *TINY, "--vocabulary", "128"]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    text = Path(files[1]).read_text(encoding="utf-8")
    Path(files[1]).write_text(text.replace("59 times", "58 times"), encoding="utf-8")
    capsys.readouterr()
    assert main(["continue", "--resume", str(tmp_path / "run"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "made with other settings" in error
    assert "files" in error
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the data"),
        (["novels"], "unknown data 'novels'"),
        (["stories", "--replay", "1.0"], "0 up to but not 1"),
        (["stories", "--replay", "5"], "5 per cent is 0.05"),
        (["stories", "--replay", "0.1", "0.2"], "2 replay shares for 1 later dataset"),
        (["stories", "--steps", "5", "6", "7"], "3 numbers of steps for 2 datasets"),
        (["stories", "--datasets", "1"], "two or more"),
        (["stories", "--schedule", "triangle"], "unknown schedule 'triangle'"),
        (["stories", "--schedule", "infinite-cosine", "--cooldown", "3"], "phases exceed its length"),
        (["stories", "--warmup", "1.5"], "warmup"),
        (["stories", "--peak", "-1"], "peak"),
        (["stories", "--floor", "0.1"], "floor"),
        (["stories", "--baselines", "oracle"], "unknown baseline 'oracle'"),
        (["stories", "--shift", "sideways"], "shift must be"),
        (["stories", "--search", "-1"], "search is -1"),
        (["stories", "--budget-forgetting", "0.03", "--pilots", "0.1"], "needs 3 different shares"),
        (["text"], "name the files of two or more"),
        (["text", "--files", "a.txt"], "name the files of two or more"),
        (["text", "--files", "absent.txt", "gone.txt"], "cannot read"),
        (["--resume", "nowhere"], "not a run folder"),
        (["stories", "--budget-forgetting", "3"], "0.03 for 3%"),
        (["stories", "--no-reset", "--search", "1"], "leave --no-reset out"),
        (["stories", "--replay", "0", "--search", "1"], "replay is 0"),
        (["stories", "--old-weight", "1", "--search", "1"], "old_weight is 1"),
        (["stories", "--pieces", "0", "--search", "1"], "pieces=0"),
        (["stories", "--warmup", "nan"], "warmup is nan"),
        (["stories", "--schedule", "wsd", "--anneal", "nan"], "anneal is nan"),
        (["stories", "--schedule", "infinite-linear", "--cooldown", "inf"], "cooldown is inf"),
        (["stories", "--steps", "2", "40", "--replay", "0.5"], "was read before for"),
        (["stories", "--save-every", "-1"], "save-every is -1"),
        (["stories", "--evaluate-every", "0"], "evaluate-every"),
        (["stories", "--batch-size", "0"], "batch-size"),
        (["stories", "--batch-size", "1", "--search", "1"], "batch-size"),
        (["stories", "--search", "1", "--search-keep", "0"], "search-keep"),
        (["stories", "--seed", "100000000000000000000"], "at most 63 bits"),
        (["library", "--seed", "-1"], "from 0"),
        (["stories", "--budget-forgetting", "0.9995"], "at most 0.999"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [] if not words or words[0].startswith("-") else [w for pair in zip(TINY[::2], TINY[1::2], strict=False)
                                                             if pair[0] not in words for w in pair]  # fmt: skip
    assert main(["continue", *words, *tiny]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_text_that_is_too_short_says_how_much_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = texts(tmp_path)
    words = [w if w != "20" else "2000" for w in TINY]
    assert main(["continue", "text", "--files", *files, *words, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "are missing; give more text, fewer steps, a smaller batch, less replay, or more epochs" in error
    assert not (tmp_path / "run").exists()


def test_help_and_the_settings_of_a_run_are_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["continue", "--help"]) == 0
    assert "olm continue --resume RUN" in capsys.readouterr().out
    path = tmp_path / "run"
    assert main(["continue", "stories", *TINY, "--schedule", "wsd", "--seed", "7", "--run-dir", str(path)]) == 0
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))["config"]
    assert config["options"]["training"]["seed"] == 7
    assert config["source"]["name"] == "stories"
    assert config["options"]["schedule"]["schedule"] == "wsd"
    assert len(config["data"]["fingerprint"]) == 16
