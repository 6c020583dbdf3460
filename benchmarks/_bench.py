"""What every benchmark script shares: where it ran, paired timing, intervals over seeds, tables and the result file.

Run as ``python benchmarks/NAME.py`` in a checkout, a script prints a table and leaves ``benchmarks/results/NAME.json``: figures
with the machine, versions, commit, command and seeds they came from. Two programs are timed alternately in one process and
compared pair by pair, so that a slow minute of the machine falls on both. No test asserts a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def parser(description: str, *, seeds: Sequence[int] = (0,)) -> argparse.ArgumentParser:
    """An argument parser with the flags that all scripts have: ``--quick``, ``--seeds``, ``--output``."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--quick", action="store_true", help="tiny sizes, to see that the script works; saved only with --output")
    result.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="one independent run for each")
    result.add_argument("--output", type=Path, default=None, help="result file instead of benchmarks/results/NAME.json")
    return result


def environment() -> dict[str, Any]:
    """The machine, versions and commit a figure belongs to; ``dirty``: a file other than a result differs from the commit."""
    try:
        import jax

        devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    except ModuleNotFoundError:
        devices = [platform.machine()]
    installed = {name: _version(name) for name in ("jax", "jaxlib", "optax", "flax", "numpy", "scipy", "torch", "cvxpy")}
    # Where a copy without its history runs, on a borrowed machine say, who sent it says which commit it is.
    told = os.environ.get("OLM_COMMIT")
    changed = None if told else _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": devices[0],
        "device_count": len(devices),
        "cpu": _cpu_name(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name, version in installed.items() if version is not None},
        "commit": told or _git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
    }


def save(name: str, payload: Mapping[str, Any], args: argparse.Namespace | None = None) -> Path | None:
    """Write ``payload`` with its environment, command, settings and seeds to ``benchmarks/results/NAME.json``, atomically.

    Args:
      name: the script's name, which is also the file's.
      payload: figures; numpy and jax arrays become lists, non-finite numbers the strings "nan", "inf", "-inf".
      args: what ``parser`` returned. ``--output`` moves the file; a ``--quick`` run without it is not recorded.

    Returns:
      The file written, or None.
    """
    settings = dict(vars(args)) if args is not None else {}
    output, seeds = settings.pop("output", None), settings.pop("seeds", None)
    if settings.get("quick") and output is None:
        print("quick run: nothing recorded (--output FILE records it)")
        return None
    path = Path(output) if output is not None else RESULTS / f"{name}.json"
    # Where a folder lies on this machine is no part of a result.
    folders = {key: value for key, value in settings.items() if isinstance(value, Path)}
    settings |= {key: _placed(value) for key, value in folders.items()}
    record = {
        "name": name,
        "command": _command(folders.values()),
        "seeds": seeds,
        "settings": settings,
        "environment": environment(),
        **payload,
    }
    text = json.dumps(_plain(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"wrote {os.path.relpath(path)}")
    return path


def kept_below(folder: Path, preset: Any) -> Path:
    """Where the runs of a preset, a dataclass, are kept: those of another one are never read for it."""
    text = json.dumps(dataclasses.asdict(preset), sort_keys=True)
    return folder / hashlib.sha256(text.encode()).hexdigest()[:8]


def cell(path: Path, label: str, run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """A finished run from its file, or run now and written to it, atomically, with its seconds, commit and device."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        where = environment()
        record = {**run(), "seconds": time.monotonic() - begun, "commit": where["commit"], "device": where["device"]}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(_plain(record), indent=1, allow_nan=False), encoding="utf-8")
        os.replace(temporary, path)
        print(f"{label}, {time.monotonic() - begun:.1f} s", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Print mappings as the rows of an aligned text table and return it; columns are their keys, numbers stand to the right."""
    rows = list(rows)
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        cells = [name, *map(_cell, values)]
        width = max(map(len, cells))
        right = any(map(_is_number, values)) and all(value is None or _is_number(value) for value in values)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in cells])
    text = "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))
    print(text)
    return text


def seconds(function: Callable[[], Any]) -> float:
    """Wall time in seconds of one call, waiting for every jax array in its result."""
    start = time.perf_counter()
    result = function()
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(result)
    return time.perf_counter() - start


def paired_ratio(a: Callable[[], Any], b: Callable[[], Any], repeats: int, *, warmup: int = 1) -> dict[str, Any]:
    """Time of ``a`` over time of ``b`` from alternating calls, each going first in turn; jax results are waited for.

    Args:
      a, b: called without arguments.
      repeats: pairs timed.
      warmup: untimed calls of each beforehand (compilation).

    Returns:
      ``ratio`` (of the medians), ``pair_ratio_quartiles`` (25, 50, 75% of the ratios pair by pair), ``a_median_s``,
      ``b_median_s``, the times ``a_s``, ``b_s`` and ``repeats``.
    """
    for _ in range(warmup):
        seconds(a)
        seconds(b)
    times: dict[str, list[float]] = {"a": [], "b": []}
    for pair in range(repeats):
        for name, function in (("a", a), ("b", b)) if pair % 2 == 0 else (("b", b), ("a", a)):
            times[name].append(seconds(function))
    return compare(times["a"], times["b"])


def compare(a_s: Sequence[float], b_s: Sequence[float]) -> dict[str, Any]:
    """The summary that `paired_ratio` returns, for paired times [repeats] measured elsewhere."""
    a, b = np.asarray(a_s, float), np.asarray(b_s, float)
    if a.size == 0 or a.shape != b.shape:
        raise ValueError(f"{a.size} and {b.size} times: pairs of at least one are needed")
    return {
        "ratio": float(np.median(a) / np.median(b)),
        "pair_ratio_quartiles": np.quantile(a / b, [0.25, 0.5, 0.75]).tolist(),
        "a_median_s": float(np.median(a)),
        "b_median_s": float(np.median(b)),
        "a_s": a.tolist(),
        "b_s": b.tolist(),
        "repeats": int(a.size),
    }


def interval(values: Sequence[float], *, geometric: bool = False) -> dict[str, Any]:
    """`olm.scaling.steps.over_seeds`: mean over seeds with its 95% Student t interval; ``geometric`` for ratios."""
    from olm.scaling.steps import over_seeds  # scripts that measure other packages load olm only here

    return over_seeds(values, geometric=geometric)


def summarise(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Print and return the `interval` of every number over runs ``{row: {measure: value}}``; of ratios the geometric one."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for row, measures in runs[0].items():
        summary[row] = {}
        for name in (name for name, value in measures.items() if _is_number(value)):
            values = [run[row][name] for run in runs]
            ratio = name.startswith("acceleration") or "_ratio" in name
            summary[row][name] = interval(values, geometric=ratio and min(values) >= 0)
    table(
        {"row": row, "measure": name, **{k: measure[k] for k in ("mean", "low", "high", "min", "max")}}
        for row, measures in summary.items()
        for name, measure in measures.items()
    )
    return summary


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _placed(path: Path) -> str:
    """A path within the repository as it is there; FOLDER for any other."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "FOLDER"


def _command(folders: Iterable[Path] = ()) -> str:
    script = Path(sys.argv[0]).resolve()
    words = sys.argv[1:]
    for folder in folders:
        words = [word.replace(str(folder), _placed(folder)) for word in words]
    return shlex.join(["python", str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name, *words])


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return float(value) if math.isfinite(value) else str(float(value))
        case None | bool() | int() | str():
            return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.4g}"
    return "-" if value is None else str(value)
