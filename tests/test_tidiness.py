"""Housekeeping as a test: sizes, words that do not belong, locked requirements, configured paths."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ["olm", "tests", "benchmarks", "notebooks", "docs", ".ci"]
LINES, KIBIBYTES = 600, 1024


def files() -> Iterator[Path]:
    """The repository's own files: those at its top and in its folders, leaving out what tools generate."""
    for path in [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]:
        generated = {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
        if path.is_file() and not generated and path.suffix != ".pyc" and path.name != ".DS_Store":
            yield path


def text_files() -> Iterator[tuple[str, str]]:
    """Name and text of every file that is text."""
    for path in files():
        try:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_no_module_is_too_long() -> None:
    lengths = {name: text.count("\n") for name, text in text_files() if name.endswith(".py")}
    assert len(lengths) > 5
    long = [f"{name} ({length} lines)" for name, length in lengths.items() if length > LINES]
    assert not long, f"longer than {LINES} lines: {', '.join(long)}"


def test_no_file_is_too_large() -> None:
    large = [str(path.relative_to(ROOT)) for path in files() if path.stat().st_size > KIBIBYTES * 1024]
    assert not large, f"larger than {KIBIBYTES} KiB: {', '.join(large)}"


# Put together here so that this file does not hold them itself.
HOMES = "|".join(["work", "opt", "root", "home", "tmp", "Users"])
MACHINE_PATH = re.compile(rf"(?<![a-z0-9.}}~])/(?:{HOMES})/[a-z]")
INDEX_ADDRESS = re.compile(r"pypi\.(?:org|python)|python[h]osted|--(?:extra-)?index-[u]rl|--find-[l]inks")


@pytest.mark.parametrize(
    ("words", "planted"),
    [
        (MACHINE_PATH, "saved to " + "/home" + "/someone/run"),
        (MACHINE_PATH, '"' + "/tmp" + '/run"'),
        (INDEX_ADDRESS, "--extra-index-" + "url=x"),
        (INDEX_ADDRESS, "https://pypi" + ".org/simple"),
    ],
)
def test_no_machine_path_and_no_index_address(words: re.Pattern[str], planted: str) -> None:
    assert words.search(planted)
    places = [f"{name}: {found[0]}" for name, text in text_files() if (found := words.search(text))]
    assert not places, "\n".join(places)


def test_module_text_is_plain() -> None:
    """No tabs, no trailing space, one newline at the end: true of the files no formatter looks at, too."""
    plain = {".py", ".md", ".toml", ".cff", ".txt", ".yml"}
    found = [
        name
        for name, text in text_files()
        if Path(name).suffix in plain
        and (re.search(r"[ \t]$|\t|\r", text, re.MULTILINE) or (text and not re.search(r"\S\n\Z", text)))
    ]
    assert not found, f"tabs, trailing space, or not one newline at the end: {', '.join(found)}"


# --- requirements -----------------------------------------------------------------------------------------------------


def normal(name: str) -> str:
    """A distribution's name as an index compares it, without version or extras."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", name, maxsplit=1)[0]).lower()


def locked(name: str) -> dict[str, list[str]]:
    """Requirement lines of a locked file by distribution, each joined with its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line and not line.startswith("#"):
            found.setdefault(normal(line.split("==")[0]), []).append(line)
    return found


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    lines = [line for group in locked(name).values() for line in group]
    assert len(lines) > 20
    assert [line for line in lines if not re.match(r"[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line) or "://" in line] == []


def test_the_locks_cover_what_pyproject_asks_for() -> None:
    runtime, dev = locked("requirements.txt"), locked("requirements-dev.txt")
    assert set(runtime) & set(dev) == set(), "make lock leaves the runtime's packages out of the second file"
    assert {normal(name) for name in PROJECT["project"]["dependencies"]} - set(runtime) == set()
    extras = {normal(name) for group in PROJECT["project"]["optional-dependencies"].values() for name in group}
    assert extras - set(dev) - set(runtime) == set()
    assert {normal(name) for name in PROJECT["build-system"]["requires"]} - set(dev) == set()


def test_the_lock_holds_the_oldest_supported_jax() -> None:
    """Python 3.11's newest jax is the oldest one olm supports, so testing on 3.11 tests the lower bound."""
    oldest = re.search(r"jax>=([\d.]+)", " ".join(PROJECT["project"]["dependencies"]))
    assert oldest
    versions = {line.split("==")[1].split()[0]: line for line in locked("requirements.txt")["jax"]}
    assert oldest[1] in versions
    assert "python_full_version < '3.12'" in versions[oldest[1]]


# --- configured paths -------------------------------------------------------------------------------------------------


def test_configured_paths_exist() -> None:
    tool = PROJECT["tool"]
    globs = [
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
        *tool["hatch"]["build"]["targets"]["wheel"]["packages"],
        *tool["hatch"]["build"]["targets"]["sdist"]["include"],
        *tool["pytest"]["ini_options"]["testpaths"],
        *tool["ruff"]["lint"]["per-file-ignores"],
        *tool["mypy"]["files"],
        "olm/py.typed",
    ]
    missing = [pattern for pattern in globs if not any(ROOT.glob(pattern))]
    assert not missing, f"pyproject.toml names paths that do not exist: {', '.join(missing)}"


def test_console_scripts_exist() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, function = target.split(":")
        path = ROOT.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert source.is_file(), f"{target}: {source.relative_to(ROOT)} is missing"
        defined = re.compile(rf"^(def {function}\(|from .* import .*\b{function}\b)", re.MULTILINE)
        assert defined.search(source.read_text(encoding="utf-8")), f"{source.relative_to(ROOT)} has no {function}"


def test_ci_runs_what_a_contributor_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert re.search(r"^make lint$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(r"^make test$", script.read_text(encoding="utf-8"), re.MULTILINE)
