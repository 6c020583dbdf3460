"""The architecture as a test: who may import whom, and what importing olm costs.

A module imports only modules of a strictly lower rank; modules of one folder may import each other as long as that
makes no circle. The picture of it is in docs/architecture.md.
"""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

# The first component below olm has the rank; a folder's modules share it.
RANKS = {
    "types": 0, "errors": 0,
    "records": 1, "simplex": 1, "objective": 1, "weighted": 1, "adjoint": 1, "models": 1, "data": 1,
    "schedules": 1, "progress": 1,
    "policy": 2, "learner": 2, "offload": 2, "tasks": 2, "plots": 2, "scaling": 2,
    "train": 3,
    "search": 4, "fitting": 4,
    "law": 5, "report": 5, "continual": 5, "control": 5, "memory": 5,
    "baselines": 6,
    "": 7,  # olm/__init__.py, the public names
    "cli": 8,
    "__main__": 9,
}  # fmt: skip


def sources(package: Path) -> dict[str, str]:
    """Source text by dotted module name, of every module below ``package``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, text: str, modules: set[str]) -> set[str]:
    """Modules of ``modules`` that the source ``text`` of module ``name`` imports, wherever in it the import stands."""
    top = name.split(".")[0]
    is_package = any(other.startswith(name + ".") for other in modules)
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                here = name.split(".") if is_package else name.split(".")[:-1]
                origin = ".".join([*here[: len(here) - node.level + 1], *([origin] if origin else [])])
            below = {f"{origin}.{alias.name}" for alias in node.names}
            # `from olm.models import transformer` needs the module, `from olm.models import Transformer` the package.
            wanted |= {target if target in modules else origin for target in below}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            wanted |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return {target for target in wanted if target == top or target.startswith(top + ".")} - {name}


def component(name: str) -> str:
    """What of a module's name has the rank: "olm.search.mirror" → "search", "olm" → ""."""
    return name.split(".")[1] if "." in name else ""


def violations(modules: dict[str, str], ranks: dict[str, int]) -> list[str]:
    """One line for each module without a rank, each import that does not go down, and a circle if there is one."""
    graph = {name: imports(name, text, set(modules)) for name, text in modules.items()}
    found = [f"{name}: no rank, add '{component(name)}' to RANKS" for name in graph if component(name) not in ranks]
    for name, targets in graph.items():
        for target in sorted(targets):
            mine, theirs = component(name), component(target)
            if mine not in ranks or theirs not in ranks:
                continue
            if ranks[theirs] >= ranks[mine] and not (mine == theirs != ""):
                found.append(f"{name} (rank {ranks[mine]}) imports {target} (rank {ranks[theirs]}): only lower ranks")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("imports in a circle: " + " ← ".join(error.args[1]))
    return found


def test_imports_only_go_down(root: Path) -> None:
    modules = sources(root / "olm")
    assert len(modules) > 2
    found = violations(modules, RANKS)
    assert not found, "\n".join(found)


def test_every_folder_is_a_package(root: Path) -> None:
    folders = {path.parent for path in (root / "olm").rglob("*.py")}
    missing = sorted(str(folder.relative_to(root)) for folder in folders if not (folder / "__init__.py").is_file())
    assert not missing, f"folders without __init__.py: {', '.join(missing)}"


GOOD = {
    "olm": "from olm.train import train",
    "olm.types": "import jax",
    "olm.weighted": "from olm.types import Task",
    "olm.models": "from olm.models.perceptron import losses",
    "olm.models.perceptron": "from olm.types import Array",
    "olm.models.transformer": "from . import perceptron",
    "olm.train": "import olm.weighted\nfrom olm import types",
    "olm.cli": "import olm",
    "olm.__main__": "from olm.cli import main",
}


def test_the_checker_accepts_imports_that_go_down() -> None:
    assert violations(GOOD, RANKS) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("olm.weighted", "from olm.train import train", "olm.weighted (rank 1) imports olm.train (rank 3)"),
        ("olm.weighted", "def f():\n    from .train import train", "olm.weighted (rank 1) imports olm.train (rank 3)"),
        ("olm.weighted", "from olm.models import perceptron", "imports olm.models.perceptron (rank 1)"),
        ("olm.models.perceptron", "from ..weighted import x", "imports olm.weighted (rank 1)"),
        ("olm.types", "import importlib\nimportlib.import_module('olm.cli')", "olm.types (rank 0) imports olm.cli (rank 8)"),
        ("olm.train", "from olm import Task", "olm.train (rank 3) imports olm (rank 7)"),
        ("olm.train", "if TYPE_CHECKING:\n    import olm.cli", "olm.train (rank 3) imports olm.cli (rank 8)"),
        ("olm.models.perceptron", "from olm.models.transformer import x", "imports in a circle"),
        ("olm.novelty", "import jax", "olm.novelty: no rank, add 'novelty' to RANKS"),
    ],
)
def test_the_checker_finds_a_planted_import(module: str, source: str, complaint: str) -> None:
    found = violations({**GOOD, module: source}, RANKS)
    assert any(complaint in line for line in found), found


IMPORT_OLM = """
import json, sys
import jax, flax, optax
before, settings = set(sys.modules), dict(jax.config.values)
import olm
loaded = {name.split(".")[0] for name in set(sys.modules) - before} - {"olm"} - sys.stdlib_module_names
print(json.dumps([sorted(loaded), [k for k in settings if settings[k] != jax.config.values[k]]]))
"""


def test_importing_olm_loads_nothing_more_and_changes_no_setting(root: Path) -> None:
    """Beyond jax, flax and optax `import olm` loads its own modules only, and leaves jax's configuration alone."""
    run = subprocess.run([sys.executable, "-c", IMPORT_OLM], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [[], []]
