"""The benchmarks' shared helpers: what they summarise is right, and a result file is whole or absent. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "_bench.py"
    spec = importlib.util.spec_from_file_location("_bench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_interval_is_students(bench) -> None:
    """For three values, half the width is t(.975, 2) = 4.302653 times s/√3."""
    found = bench.interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found["low"] + found["high"] == pytest.approx(4.0)
    assert bench.interval([5.0])["low"] is None


def test_geometric_interval_is_symmetric_in_ratio(bench) -> None:
    found = bench.interval([0.5, 2.0, 4.0], geometric=True)
    assert found["mean"] == pytest.approx(4 ** (1 / 3))
    assert found["mean"] / found["low"] == pytest.approx(found["high"] / found["mean"])
    with pytest.raises(ValueError, match="negative"):
        bench.interval([1.0, -1.0], geometric=True)
    zero = bench.interval([0.0, 4.0], geometric=True)
    assert (zero["mean"], zero["low"], zero["high"], zero["geometric"]) == (0.0, None, None, True)


def test_comparison_pairs_its_times(bench) -> None:
    """Pair ratios 1, 3, 2 have median 2; the medians 6 and 2 have ratio 3: the two are different statements."""
    found = bench.compare([2.0, 6.0, 8.0], [2.0, 2.0, 4.0])
    assert found["ratio"] == 3.0
    assert found["pair_ratio_quartiles"] == [1.5, 2.0, 2.5]
    with pytest.raises(ValueError, match="pairs"):
        bench.compare([1.0], [])


def test_pairs_alternate_and_swap(bench) -> None:
    calls = []
    found = bench.paired_ratio(lambda: calls.append("a"), lambda: calls.append("b"), 3, warmup=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert found["repeats"] == len(found["a_s"]) == 3


def test_saved_record_is_complete_and_strict_json(bench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(bench.ROOT / "benchmarks" / "demo.py"), "--seeds", "3", "4"])
    path = tmp_path / "deep" / "demo.json"
    args = bench.parser("demo").parse_args(["--seeds", "3", "4", "--output", str(path)])
    payload = {"array": np.arange(3, dtype=np.float32), "one": np.float64(0.5), "bad": [np.nan, np.inf], "yes": np.bool_(True)}
    assert bench.save("demo", payload, args) == path

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["array"] == [0.0, 1.0, 2.0] and record["one"] == 0.5 and record["yes"] is True
    assert record["bad"] == ["nan", "inf"]
    assert record["seeds"] == [3, 4] and record["settings"] == {"quick": False}
    assert record["command"] == "python benchmarks/demo.py --seeds 3 4"
    assert record["environment"]["versions"]["numpy"] == np.__version__
    assert [file.name for file in path.parent.iterdir()] == ["demo.json"]


def test_a_record_does_not_say_where_folders_lie_on_the_machine(bench, tmp_path, monkeypatch) -> None:
    words = ["--data", str(tmp_path / "tables"), "--runs", str(bench.ROOT / "runs" / "demo")]
    monkeypatch.setattr(sys, "argv", [str(bench.ROOT / "benchmarks" / "demo.py"), *words])
    parser = bench.parser("demo")
    for name in ("--data", "--runs"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args([*words, "--output", str(tmp_path / "demo.json")])
    record = json.loads(bench.save("demo", {}, args).read_text(encoding="utf-8"))
    assert record["settings"] == {"quick": False, "data": "FOLDER", "runs": "runs/demo"}
    assert record["command"] == "python benchmarks/demo.py --data FOLDER --runs runs/demo"


def test_failed_write_leaves_the_old_record(bench, tmp_path, monkeypatch) -> None:
    path = tmp_path / "demo.json"
    path.write_text("old", encoding="utf-8")
    args = bench.parser("demo").parse_args(["--output", str(path)])

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(bench.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        bench.save("demo", {"a": 1}, args)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_quick_run_is_not_recorded(bench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    assert bench.save("demo", {}, bench.parser("demo").parse_args(["--quick"])) is None
    assert not (tmp_path / "results").exists()


def test_table_aligns_its_columns(bench, capsys) -> None:
    rows = [{"what": "forward", "seconds": 0.25}, {"what": "back", "seconds": 11.0}, {"what": "none", "seconds": None}]
    expected = "what     seconds\nforward     0.25\nback          11\nnone           -"
    assert bench.table(rows) == expected
    assert capsys.readouterr().out == expected + "\n"
