"""Bad input and faults: one clear line, the right exit status, and nothing written or lost."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_cli import TINY, interrupt_at, no_figures, rows, same  # noqa: F401

from olm.cli import main
from olm.records import Run, load_arrays, save_arrays

LANGUAGE = shlex.split("search language --width 8 --heads 2 --quiet")


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The line that a command ends in; it must be the only one, with status 2, and nothing may be there that was not before."""
    monkeypatch.chdir(tmp_path)

    def contents() -> dict[str, bytes]:
        return {str(path.relative_to(tmp_path)): path.read_bytes() if path.is_file() else b"" for path in tmp_path.rglob("*")}

    def run(*words: str) -> str:
        before = contents()
        capsys.readouterr()
        status = main(list(words))
        out, err = capsys.readouterr()
        assert (status, out) == (2, ""), err
        assert err.startswith("olm: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert contents() == before
        return err

    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny search as it ends when nothing happens to it."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olm.report.write_report", lambda path, on_missing=None: path)
        assert main([*TINY, "--run-dir", str(path)]) == 0
    return path


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--steps 0", "steps is 0: give a whole number of at least 1"),
        ("--steps -5", "steps is -5"),
        ("--steps many", "--steps.*'many'.*olm search perceptron --help"),
        ("--batch-size 65", "batch size 65 with 64 training examples: choose 1 to 64"),
        ("--batch-size 0", "batch size 0"),
        ("--chunk-size 0", "chunk size 0"),
        ("--evaluations 0", "evaluations is 0"),
        ("--patience 0", "patience is 0"),
        ("--learning-rate 0", "learning rate 0: give a positive number"),
        ("--learning-rate nan", "learning rate nan"),
        ("--optimiser rmsprop", "unknown optimiser 'rmsprop': choose one of sgd, momentum, adamw"),
        ("--momentum 1", "momentum 1"),
        ("--eps-root -1", "eps-root"),
        ("--optimiser adamw --eps-root nan", "eps-root"),
        ("--weight-decay nan", "weight-decay"),
        ("--clip 0", "clip above 0"),
        ("--policy tabel", "unknown policy 'tabel': choose one of table, static, piecewise, scorer, learning_rate"),
        ("--policy uniform", "unknown policy 'uniform'"),
        ("--policy piecewise --pieces 0", "pieces=0"),
        ("--policy learning_rate --upper -1", "upper=-1"),
        ("--policy learning_rate --upper nan", "upper=nan"),
        ("--method newton", "unknown method 'newton': choose one of mirror_descent, projected_gradient"),
        ("--method-fall 2", "fall in"),
        ("--method projected_gradient --method-rate 0", "positive rate"),
        ("--method projected_gradient --method-rate nan", "positive rate"),
        ("--adjoint none", "unknown adjoint 'none': choose one of direct, segmented, offloaded"),
        ("--adjoint segmented --levels 0", "levels=0"),
        ("--adjoint segmented --levels 50", "levels=50"),
        ("--adjoint offloaded --offload-dir {file}", "is a file: choose a folder"),
        ("--adjoint offloaded --offload-dir {file}/below", "cannot make the folder .*/below"),
        ("--objective min", "unknown objective 'min'"),
        ("--validation-fraction 1", "validation_fraction is 1.0"),
        ("--target-draws -1", "target_draws is -1"),
        ("--target-draws 1", "target_draws is 1"),
        ("--target-draws 0 --targets 2", "2 target examples cannot spare"),
        ("--width 0", "width must be at least 1"),
        ("--examples 0", "examples must be at least 1"),
        ("--train-variance 0", "train_variance must be positive"),
        ("--train-variance inf", "train_variance must be positive and finite"),
        ("--target-mean nan", "target_mean must be finite"),
        ("--seed 1180591620717411303424", "at most 63 bits"),
        ("--save-every -1", "save-every is -1"),
        ("--save-every nan", "save-every is nan"),
        ("--grid --grid-searches 0", "grid-searches is 0"),
        ("--preset huge", "unknown preset 'huge': choose one of cpu, paper"),
        ("--evalutions 3", "unrecognized options: --evalutions, 3: did you mean --evaluations"),
        ("--steps", "missing value"),
        ("surplus", "unrecognized.*surplus"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used(refused: Callable[..., str], flags: str, said: str) -> None:
    assert re.search(said, refused(*TINY, *flags.replace("{file}", __file__).split()))


def test_a_command_that_cannot_be_understood(refused: Callable[..., str]) -> None:
    for words, said in (
        ([], "give a command, one of search, train, report"),
        (["serach"], "unknown command 'serach'"),
        (["search"], "name a task"),
        (["search", "--steps", "3"], "name a task"),
        (["search", "chess"], "unknown task 'chess': choose one of perceptron, language"),
        (["train"], "say what to replay"),
        (["train", "chess"], "chess is neither a run folder nor a task"),
        (["train", "perceptron"], "name the policy to replay: olm train perceptron --policy FILE"),
        (["report"], "olm report RUN"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["search", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["search", "--resume"], "name a task"),
    ):
        assert said in refused(*words)


def test_files_that_cannot_be_read_as_text(refused: Callable[..., str], tmp_path: Path) -> None:
    good = "\n\n".join(f"story number {i} is about a cat and a dog" for i in range(40))
    for name, content in (
        ("good", good.encode()),
        ("empty", b" \n\n"),
        ("latin", "naïve".encode("latin-1")),
        ("short", b"one two"),
    ):
        (tmp_path / f"{name}.txt").write_bytes(content)
    sizes = shlex.split("--examples 8 --targets 4 --tests 4 --vocabulary 64 --length 4")
    for files, said in (
        (["--train", "missing.txt"], "cannot read .*missing.txt: No such file"),
        (["--train", "good.txt", "--target", "missing.txt"], "cannot read .*missing.txt"),
        (["--train", "good.txt", "empty.txt"], "empty.txt is empty"),
        (["--train", "latin.txt"], "latin.txt is not UTF-8: byte 2 is 0xef; convert the file to UTF-8"),
        (["--train", "."], "cannot read .*: Is a directory"),
        (["--target", "good.txt"], "--target files need --train files"),
        (["--train", "good.txt", "--target", "short.txt"], "1 different document.* targets, tests.*give more"),
        (["--train", "good.txt", "--examples", "100000"], r"not 100000\b.*give more"),
        (["--train", "good.txt", "--vocabulary", "5"], r"vocabulary.* 5\b.*raise it"),
        (["--train", "good.txt", "--tokens", "words"], "tokens must be bpe or bytes"),
        (["--train", "good.txt", "--split", "chapters"], "split must be one of"),
        (["--vocabulary", "20"], "vocabulary 20 is too small"),
        (["--corruption", "1.5"], "between 0 and 1"),
        (["--width", "9"], "width 9 is not a multiple of heads 2"),
        (["--init", "zeros"], "init must be one of"),
    ):
        assert re.search(said, refused(*LANGUAGE, *sizes, *files)), files


def test_places_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    assert "file" in refused(*TINY, "--run-dir", "file")
    assert "cannot make the run folder file/run" in refused(*TINY, "--run-dir", "file/run")
    assert "used is not empty and not a run" in refused(*TINY, "--run-dir", "used")
    assert "already holds a run: continue it with --resume" in refused(*TINY, "--run-dir", str(undisturbed))
    assert "cannot make the run folder" in refused("train", str(undisturbed), "--run-dir", "file/run", "--quiet")


def test_a_disk_that_is_read_only(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before the search begins. Permissions do not stop every user, so the system call itself is made to fail."""

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    counted = interrupt_at(monkeypatch, None)
    monkeypatch.setattr(os, "mkdir", read_only)
    assert "Read-only file system; choose a folder that exists and can be written" in refused(*TINY, "--run-dir", "run")
    assert counted == []


class _Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_policy_file_that_is_none(refused: Callable[..., str], tmp_path: Path, undisturbed: Path) -> None:
    whole = (undisturbed / "policy.npz").read_bytes()
    trap = np.empty(1, object)
    trap[0] = _Trap(tmp_path / "sprung")
    np.savez(tmp_path / "pickled.npz", phi=trap)
    np.savez(tmp_path / "foreign.npz", phi=np.ones((20, 64)))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(trap))
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    save_arrays(tmp_path / "unknown.npz", np.ones((20, 64)), {"policy": "oracle", "config": {}})
    save_arrays(tmp_path / "arrays.npz", np.ones((20, 64)))
    save_arrays(tmp_path / "shape.npz", np.ones((3, 64), np.float32), {"policy": "table", "config": {}})
    for name, said in (
        ("missing", "cannot read missing.npz: No such file"),
        ("pickled", "not an array file of olm"),
        ("foreign", "not an array file of olm"),
        ("bare", "cut, damaged or not an array file"),
        ("cut", "cut, damaged or not an array file"),
        ("empty", "cut, damaged or not an array file"),
        ("unknown", "unknown policy 'oracle'"),
        ("arrays", "unknown policy None"),
        ("shape", "shape.npz cannot be replayed here: phi has shapes (3, 64): policy table for 20 steps, 64 examples"),
    ):
        assert said in refused("train", str(undisturbed), "--policy", f"{name}.npz", "--quiet"), name
    assert not (tmp_path / "sprung").exists()


def test_a_run_folder_that_is_damaged(refused: Callable[..., str], tmp_path: Path, undisturbed: Path) -> None:
    def copy(name: str, file: str, change: Callable[[bytes], bytes]) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for path in undisturbed.iterdir():
            if path.is_file() and path.name != ".lock":
                (folder / path.name).write_bytes(change(path.read_bytes()) if path.name == file else path.read_bytes())
        (folder / ".lock").touch()  # what a resume leaves anyway
        return name

    def config(**changes: Any) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            record = json.loads(data)
            record["config"].update(changes)
            return json.dumps(record).encode()

        return change

    resume = ["search", "--quiet", "--resume"]
    foreign = config(kind="note")
    assert "was not made by olm search or olm train" in refused(*resume, copy("foreign", "config.json", foreign))
    assert "learner.learning_rate is 'fast'" in refused(
        *resume, copy("typed", "config.json", config(learner={"learning_rate": "fast"}))
    )
    for name, value in (("list", []), ("true", True), ("nothing", None)):
        change = config(learner={"learning_rate": value})
        assert "restore the file" in refused(*resume, copy(name, "config.json", change)), name
    assert "not made by olm search or olm train" in refused("train", copy("unnamed", "config.json", config(task={"name": []})))
    newer = config(learner={"learning_rate": 0.1, "warmup": 3})
    assert "does not know: warmup" in refused(*resume, copy("newer", "config.json", newer))
    assert "learner lacks b1, b2" in refused(*resume, copy("older", "config.json", config(learner={"learning_rate": 0.1})))

    def without(data: bytes) -> bytes:
        record = json.loads(data)
        del record["config"]["method"]
        return json.dumps(record).encode()

    assert "config.json lacks method" in refused(*resume, copy("less", "config.json", without))
    assert "cut or not JSON" in refused(*resume, copy("cut", "config.json", lambda data: data[:50]))
    assert "holds a replay, not a search" in refused(*resume, copy("replay", "config.json", config(kind="train")))
    assert "learner is 3, not a group" in refused("train", copy("group", "config.json", config(learner=3)))


@pytest.mark.parametrize("file", ["state.npz", "metrics.jsonl"])
def test_a_damaged_state_is_said_so_and_kept(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in undisturbed.iterdir():
        if path.is_file() and path.name != ".lock":
            (folder / path.name).write_bytes(path.read_bytes())
    damaged = (folder / file).read_bytes()
    damaged = damaged[: len(damaged) // 2]
    (folder / file).write_bytes(damaged)
    before = (folder / "policy.npz").read_bytes()
    assert main(["search", "--quiet", "--resume", str(folder)]) == 2
    assert f"{folder}/{file}" in capsys.readouterr().err
    assert (folder / "policy.npz").read_bytes() == before


# --- faults while it runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_fills_leaves_the_last_state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undisturbed: Path,
    no_figures: None,  # noqa: F811
    call: str,
) -> None:
    """The disk is full from the fourth evaluation on: a row (write) or a state (fsync, replace) cannot be written."""
    from olm.search import loop

    path, evaluate, real = tmp_path / "run", loop._Search.evaluate, getattr(os, call)
    full = False

    def fills(self: Any, phi: Any, number: int) -> Any:
        nonlocal full
        full = number >= 4
        return evaluate(self, phi, number)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(loop._Search, "evaluate", fills)
    monkeypatch.setattr(os, call, failing)
    assert main([*TINY, "--save-every", "0", "--run-dir", str(path)]) == 3
    monkeypatch.setattr(loop._Search, "evaluate", evaluate)
    monkeypatch.setattr(os, call, real)
    error = capsys.readouterr().err
    assert "No space left on device; free some space and resume the run" in error and error.count("\n") == 1
    found = Run.open(path).load_state()
    assert found is not None and found[1]["book"]["rows"] == 3
    assert rows(path)[:3] == rows(undisturbed)[:3]
    assert main(["search", "--quiet", "--resume", str(path)]) == 0
    assert same(path, undisturbed) == []


@pytest.mark.parametrize("count", [1, 4])
def test_an_interrupt_keeps_the_best_so_far_and_can_be_continued(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undisturbed: Path,
    no_figures: None,  # noqa: F811
    count: int,
) -> None:
    path = tmp_path / "run"
    interrupt_at(monkeypatch, count)
    assert main([*TINY, "--run-dir", str(path)]) == 130
    error = capsys.readouterr().err
    assert f"interrupted after {count - 1} evaluations" in error and f"olm search --resume {path}" in error
    assert rows(path) == rows(undisturbed)[: count - 1]
    summary = Run.open(path).summary()
    assert summary["status"] == "interrupted" and (summary["area_ratio"] < 1) == (count > 1)
    assert load_arrays(path / "policy.npz").shape == (20, 64)
    monkeypatch.undo()
    monkeypatch.setattr("olm.report.write_report", lambda path, on_missing=None: path)
    assert main(["search", "--quiet", "--resume", str(path)]) == 0
    assert same(path, undisturbed) == []


def test_an_interrupt_between_a_row_and_its_state_loses_neither(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Path,
    no_figures: None,  # noqa: F811
) -> None:
    """The signal may come right after the row was appended, before the search has moved on."""
    path, append, count = tmp_path / "run", Run.append_metrics, itertools.count(1)

    def interrupted(self: Run, row: Any) -> None:
        append(self, row)
        if next(count) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "append_metrics", interrupted)
    assert main([*TINY, "--run-dir", str(path)]) == 130
    assert len(rows(path)) == 2
    assert main(["search", "--quiet", "--resume", str(path)]) == 0
    assert same(path, undisturbed) == []


def test_a_search_that_diverges_says_so_and_keeps_what_it_has(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_figures: None,  # noqa: F811
) -> None:
    path = tmp_path / "run"
    assert main([*TINY, *shlex.split("--optimiser momentum --momentum 0.99 --learning-rate 3e38"), "--run-dir", str(path)]) == 3
    error = capsys.readouterr().err
    assert "not finite" in error and "lower the learning rate" in error and str(path) in error and error.count("\n") == 1
    assert Run.open(path).summary()["status"] == "diverged" and len(rows(path)) == 1
    # Its start, uniform weights, can still be replayed; that diverges as well.
    assert main(["train", str(path), "--quiet", "--run-dir", str(tmp_path / "replay")]) == 3
    assert "lower the learning rate" in capsys.readouterr().err
    # Continued, it ends as it did: no evaluation is spent on what is known.
    assert main(["search", "--quiet", "--resume", str(path)]) == 3
    assert len(rows(path)) == 1


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 GiB")])
def test_too_little_memory_is_said_with_what_needs_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("olm.cli.search.find_policy", exhausted)
    assert main(TINY) == 3
    assert re.fullmatch(r"olm: out of memory: .*--chunk-size.*--adjoint segmented.*\n", capsys.readouterr().err)
    monkeypatch.setattr("olm.cli.search.find_policy", lambda *_, **__: int("x"))
    with pytest.raises(ValueError):  # a bug of ours keeps its traceback
        main(TINY)


def test_patience_stops_a_continued_search_where_an_undisturbed_one_stops(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_figures: None,  # noqa: F811
) -> None:
    """From targets that teach nothing validation soon stops improving."""
    flags = "--target-draws 0 --targets 8 --validation-fraction 0.5 --evaluations 30 --patience 3"
    words = [*TINY, *shlex.split(flags)]
    assert main([*words, "--run-dir", str(tmp_path / "whole")]) == 0
    whole = Run.open(tmp_path / "whole")
    ended = len(whole.metrics())
    assert whole.summary()["status"] == "stopped" and 3 < ended < 30
    interrupt_at(monkeypatch, ended)
    assert main([*words, "--run-dir", str(tmp_path / "cut"), "--save-every", "0"]) == 130
    interrupt_at(monkeypatch, None)
    for _ in range(2):  # and once more: a search that has stopped does not go on by itself
        assert main(["search", "--quiet", "--resume", str(tmp_path / "cut")]) == 0
        assert same(tmp_path / "cut", tmp_path / "whole") == []


# --- processes that are killed ----------------------------------------------------------------------------------------

LONGER = [*TINY, "--evaluations", "40"]


@contextmanager
def started(root: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command line as a process of its own, gone at the end; figures are left out as they are elsewhere here."""
    # A shell that runs the tests in the background has them, and what they start, ignore interrupts.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import sys, olm.report as r; r.write_report = lambda path, _: path; from olm.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(path: Path) -> int:
    metrics = path / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool], seconds: float = 120) -> bool:
    """Until it is so, or the process has ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and not reached():
        assert time.monotonic() < end, "the search did not get there"
        time.sleep(0.002)
    return process.poll() is None


@pytest.mark.slow
def test_a_search_killed_at_random_moments_ends_as_if_nothing_had_happened(tmp_path: Path, root: Path) -> None:
    """Once before the first row, then at random rows and a random moment after them, with states kept always or never."""
    whole, path = tmp_path / "whole", tmp_path / "killed"
    with started(root, *LONGER, "--run-dir", str(whole)) as process:
        assert process.wait(240) == 0
    draw = random.Random(8)
    words, kills = [*LONGER, "--run-dir", str(path)], 0
    targets = [0, *sorted(draw.sample(range(1, 39), 4)), 40]  # 40: while the results are written
    for target in targets:
        every = draw.choice(["0", "0", "1000"])
        with started(root, *words, "--save-every", every) as process:
            if wait_for(process, lambda target=target: (path / "config.json").exists() and lines(path) >= target):
                time.sleep(draw.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += process.returncode == -signal.SIGKILL
        words = ["search", "--quiet", "--resume", str(path)]
    assert kills >= 3
    with started(root, *words) as process:
        assert process.wait(240) == 0
    assert same(path, whole) == []
    assert not [name for name in os.listdir(path) if name.endswith(".tmp")]


@pytest.mark.usefixtures("no_figures")
def test_a_search_goes_on_with_another_folder_for_its_states(tmp_path: Path) -> None:
    """Where the states are kept changes no number: the folder may differ when the search is continued."""
    whole, path = tmp_path / "whole", tmp_path / "run"
    assert main([*TINY, "--adjoint", "offloaded", "--evaluations", "3", "--run-dir", str(whole)]) == 0
    kept = ["--adjoint", "offloaded", "--offload-dir", str(tmp_path / "a" / "b")]
    assert main([*TINY, *kept, "--evaluations", "2", "--run-dir", str(path)]) == 0
    again = ["--offload-dir", str(tmp_path / "c"), "--evaluations", "3"]
    assert main(["search", "--resume", str(path), "--quiet", *again]) == 0
    assert Run.open(path).config["adjoint"]["folder"] == str(tmp_path / "c")
    assert rows(path) == rows(whole) and len(rows(path)) == 3


@pytest.mark.slow
def test_an_interrupt_from_the_keyboard(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "run"
    with started(root, *LONGER, "--evaluations", "100000", "--run-dir", str(path)) as process:
        assert wait_for(process, lambda: lines(path) >= 5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and f"olm search --resume {path}" in error and "Traceback" not in error
    run = Run.open(path)
    assert run.summary()["status"] == "interrupted" and run.summary()["evaluations"] == len(run.metrics()) >= 5
    assert {"policy.npz", "params.npz", "curves.npz", "state.npz"} <= set(os.listdir(path))
