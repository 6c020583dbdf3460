"""Execute the notebooks: every ``NAME.py`` here becomes ``NAME.ipynb`` with its outputs.

    python notebooks/_execute.py [NAME ...]

Write in the Python files, then run this. What changes from run to run without meaning anything (identifiers, memory addresses, the
versions of the kernel) is left out; a warning or an error in an output ends the script and leaves the old notebook.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


def names() -> list[str]:
    """The notebooks of this folder."""
    return sorted(path.stem for path in HERE.glob("[!_]*.py"))


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs between two runs of the same code."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02}", nbformat.from_dict({})
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise SystemExit(f"cell {number} writes to standard error: {output.text}")
            data = output.get("data", {})
            if data.keys() & {"text/html", "image/png"} and "text/plain" in data:
                data["text/plain"] = data["text/plain"].split("(")[0]  # a class name; figures and tables say the rest
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def execute(name: str) -> Path:
    """Run one notebook in a kernel of this interpreter and write its pair."""
    notebook = jupytext.read(HERE / f"{name}.py", fmt="py:percent")
    os.environ.pop("MPLBACKEND", None)  # the kernel's own backend keeps the figures
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(HERE.parent)]))
    transport = Config({"KernelManager": {"transport": "ipc" if os.name == "posix" else "tcp"}})
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", coalesce_streams=True, config=transport).execute()
    path = HERE / f"{name}.ipynb"
    nbformat.write(clean(notebook), path)
    return path


if __name__ == "__main__":
    for name in sys.argv[1:] or names():
        path = execute(name)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
