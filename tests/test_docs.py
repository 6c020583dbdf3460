"""The documentation as a test: docstrings are complete, README's code runs, its numbers and links lead somewhere."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/results.md"]


def page(name: str) -> str:
    """The text of one of the repository's pages."""
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    return path.read_text(encoding="utf-8")


# --- docstrings -------------------------------------------------------------------------------------------------------


def public_modules() -> list[str]:
    """Modules whose names others import: all but the command line's and those that start with an underscore."""
    paths = (path.relative_to(ROOT).with_suffix("").parts for path in sorted((ROOT / "olm").rglob("*.py")))
    names = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths if parts[1] != "cli"]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module exports by `__all__`, or without one defines, if it is a function or a class of olm."""
    for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
        value = getattr(module, name)
        here = hasattr(module, "__all__") or getattr(value, "__module__", None) == module.__name__
        if here and callable(value) and str(getattr(value, "__module__", "")).startswith("olm"):
            yield name, value


def faults(value: Any) -> list[str]:
    """What the docstring of a public function or class lacks; CONTRIBUTING.md has the template."""
    text = inspect.cleandoc((vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or "")
    if not text or text.startswith(f"{value.__name__}("):  # what a NamedTuple or a dataclass writes itself
        return ["no docstring"]
    found = [] if re.match(r"\S.*[.:]$", text.splitlines()[0]) else ["the first line is not a sentence"]

    def lacks(name: str) -> bool:
        return not re.search(
            rf"(^\s*[\w*, ]*\b{re.escape(name)}\b[^:\n]*:)|``[^`]*\b{re.escape(name)}\b[^`]*``", text, re.MULTILINE
        )

    if inspect.isclass(value):
        if issubclass(value, BaseException):
            return found
        fields = getattr(value, "_fields", None) or ()
        if dataclasses.is_dataclass(value):
            fields = tuple(field.name for field in dataclasses.fields(value) if not field.name.startswith("_"))
        return found + [f"attribute {name} is not explained" for name in fields if lacks(name)]
    signature = inspect.signature(value)
    if signature.parameters and "Args:" not in text:
        found.append("no Args")
    found += [f"argument {name} is not explained" for name in signature.parameters if lacks(name)]
    if signature.return_annotation not in (None, "None") and not re.search(r"^(Returns|Yields):", text, re.MULTILINE):
        found.append("no Returns")
    if ">>>" not in text and not re.search(r"^No example: \S", text, re.MULTILINE):
        found.append("no example, and no line 'No example: reason'")
    return found


@pytest.mark.parametrize("name", public_modules())
def test_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    found = [f"{name}.{public}: {fault}" for public, value in public_names(module) for fault in faults(value)]
    assert not found, "\n".join(found)


def complete(rate: float) -> float:
    """Twice the rate.

    Args:
      rate: a number.

    Returns:
      Two times ``rate``.

    >>> complete(2.0)
    4.0
    """
    return 2 * rate


def test_the_docstring_checker_finds_what_is_missing() -> None:
    assert faults(complete) == []

    def planted(rate: float, other: float) -> float:
        return rate

    planted.__doc__ = complete.__doc__
    assert faults(planted) == ["argument other is not explained"]
    planted.__doc__ = "Something."
    assert [fault.split()[0] for fault in faults(planted)] == ["no", "argument", "argument", "no", "no"]
    planted.__doc__ = None
    assert faults(planted) == ["no docstring"]


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_readme_code_runs(tmp_path: Path) -> None:
    """README's Python, its blocks one after the other, in a folder of its own and with warnings as errors."""
    blocks = re.findall(r"^```python\n(.*?)^```", page("README.md"), re.MULTILINE | re.DOTALL)
    assert blocks, "README.md has no ```python block"
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-W", "error", script.name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    text = re.sub(r"```.*?```", "", page(name), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and not link.startswith("#")]
    folder = (ROOT / name).parent
    missing = [link for link in links if not (folder / link.split("#")[0]).exists()]
    assert not missing, f"{name} links to what does not exist: {', '.join(missing)}"


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    missing = set(re.findall(r"(?:`|^)make ([a-z]+)", page(name), re.MULTILINE)) - targets
    assert not missing, f"{name} names make targets that do not exist: {', '.join(sorted(missing))}"


# --- numbers ----------------------------------------------------------------------------------------------------------

RESULT = re.compile(r"benchmarks/results/([\w.-]+\.json)")


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a parsed JSON value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def unsupported(row: str, results: list[Any]) -> list[str]:
    """Decimal numbers of a table row that no number of the cited results rounds to at the digits shown.

    ``12.3%`` may be .123 in the file. Whole numbers (seeds, sizes) are not looked up, nor what a row marks as `code`.
    """
    known = [number for result in results for number in numbers_in(result)]
    missing = []
    for token, decimals, percent in re.findall(
        r"((?<![\w.])\d*\.(\d+)(?:e-?\d+)?)\s*(%?)", re.sub(r"`[^`]*`|\]\([^)]*\)", "", row)
    ):
        if "e" in token:
            close = (f"{abs(number):.{len(decimals)}e}" for number in known)
            shown = f"{float(token):.{len(decimals)}e}"
        else:
            scales = (1.0, 100.0) if percent else (1.0,)
            close = (f"{abs(number) * scale:.{len(decimals)}f}" for number in known for scale in scales)
            shown = f"{float(token):.{len(decimals)}f}"
        if shown not in close:
            missing.append(token + percent)
    return missing


def test_the_readme_numbers_come_from_committed_results() -> None:
    rows = [line for line in page("README.md").splitlines() if line.startswith("|") and RESULT.search(line)]
    assert rows, "README.md has no table row that cites a file of benchmarks/results"
    found = []
    for row in rows:
        results = [json.loads(page(f"benchmarks/results/{name}")) for name in RESULT.findall(row)]
        found += [f"{number} is in no cited result: {row}" for number in unsupported(row, results)]
    assert not found, "\n".join(found)


def test_the_number_checker_finds_a_wrong_number() -> None:
    result = {"acceleration": {"mean": 6.2451, "interval": [5.804, 6.7]}, "share": 0.1234, "error": 3.21e-13}
    assert unsupported("| fresh draws, 3 seeds | 6.25 [5.80, 6.70] | 12.3% | 3.2e-13 | `0.9` |", [result]) == []
    assert unsupported("| fresh draws | 6.35 [5.80, 6.70] | 13.3% | 3.3e-13 |", [result]) == ["6.35", "13.3%", "3.3e-13"]


@pytest.mark.parametrize("name", [*PAGES, "benchmarks/LOG.md"])
def test_cited_results_are_committed(name: str) -> None:
    missing = [cited for cited in RESULT.findall(page(name)) if not (ROOT / "benchmarks/results" / cited).is_file()]
    assert not missing, f"{name} cites results that are not there: {', '.join(missing)}"


def test_the_table_of_results_is_that_of_the_files() -> None:
    done = subprocess.run([sys.executable, "docs/results.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Hours of computing each; a name goes when its file is there.
UNRECORDED = {"policies_compared_labels"}


def test_every_benchmark_has_its_result() -> None:
    """Each file that the table of results has rows for is there, each script has one, and each has the seeds it says."""
    scripts = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if not path.name.startswith("_")]
    names = [path.stem for path in (ROOT / "benchmarks/results").glob("*.json")]
    missing = [script for script in scripts if not any(name.startswith(script) for name in names) and script not in UNRECORDED]
    assert not missing, f"no file of benchmarks/results bears the name of: {', '.join(missing)}"
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs/results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    assert set(results.ROWS) - set(names) <= UNRECORDED and not UNRECORDED & set(names)
    for name in names:
        record = json.loads(page(f"benchmarks/results/{name}.json"))
        if "run_seeds" in record:
            assert set(record["seeds"]) <= set(record["run_seeds"]) and len(record["runs"]) == len(record["run_seeds"]), name
    ladder = json.loads(page("benchmarks/results/scaling_improvement.json"))
    assert set(ladder["claims"]) == {"a", "b"}
    for name in names:
        record = json.loads(page(f"benchmarks/results/{name}.json"))
        measured = {key: value for key, value in record.items() if key not in ("environment", "settings", "seeds", "run_seeds")}
        assert any(numbers_in(measured)), f"{name}.json holds no number"
