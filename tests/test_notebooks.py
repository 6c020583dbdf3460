"""The notebooks: their code runs and shows what their text says, their pairs agree, their outputs are clean."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jupytext
import nbformat
import numpy as np
import optax
import pytest

import olm

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
KILOBYTES = 500


def cells(path: Path) -> list[Any]:
    """The cells of a notebook in either form."""
    notebook = jupytext.read(path, fmt="py:percent") if path.suffix == ".py" else nbformat.read(path, as_version=4)
    return notebook.cells


def test_there_are_notebooks() -> None:
    assert {"00_the_idea", "01_differentiate_training", "02_the_learning_law", "03_scaling_laws", "04_continual"} <= set(NAMES)
    assert {"05_control", "06_memory"} <= set(NAMES)
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_has_the_same_cells(name: str) -> None:
    script, executed = ([(cell.cell_type, cell.source) for cell in cells(FOLDER / f"{name}{end}")] for end in (".py", ".ipynb"))
    assert len(script) > 10
    differing = [place for place, (a, b) in enumerate(zip(script, executed, strict=False)) if a != b]
    assert script == executed, f"cells {differing} of {name} differ: run python notebooks/_execute.py {name}"


def blemishes(cell: Any) -> list[str]:
    """What an executed cell shows that a reader should not see, or fails to show."""
    found, outputs = [], cell.outputs
    for output in outputs:
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append(f"{output.output_type} {output.get('name', '')}")
        data = [value for kind, value in output.get("data", {}).items() if kind != "image/png"]
        text = "".join([output.get("text", ""), *data])
        text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
        found += re.findall(r"0x[0-9a-f]{6,}|/(?:work|home|root|tmp|opt|Users)/\w+", text)
    drawn = sum("image/png" in output.get("data", {}) for output in outputs)
    if drawn != cell.source.count("plt.subplots("):
        found.append(f"{drawn} figures")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_clean(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < KILOBYTES * 1000
    code = [cell for cell in cells(path) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), f"{name} was not executed in one go"
    found = [f"cell {cell.execution_count}: {blemish}" for cell in code for blemish in blemishes(cell)]
    assert not found, "\n".join(found)
    if name in ("04_continual", "05_control", "06_memory"):  # these keep no curves to show
        return
    shown = "".join(output.get("data", {}).get("text/html", "") for cell in code for output in cell.outputs)
    assert shown.startswith('<img src="data:image/png;base64,'), "the solution shows itself as figures"


def test_the_checker_of_outputs_finds_blemishes() -> None:
    output = nbformat.v4.new_output
    planted = [
        output("stream", name="stderr", text="warning"),
        output("stream", name="stdout", text="at 0x7f00aa11bb"),
        output("display_data", data={"text/plain": "saved to " + "/tmp" + "/run"}),
        output("error", ename="ValueError", evalue="", traceback=[]),
    ]
    for blemish in planted:
        assert blemishes(nbformat.v4.new_code_cell("pass", outputs=[blemish])), blemish
    assert blemishes(nbformat.v4.new_code_cell("plt.subplots()")) == ["0 figures"]
    assert blemishes(nbformat.v4.new_code_cell("pass", outputs=[output("stream", name="stdout", text="0.5")])) == []


# What the text of a notebook says, as numbers of its namespace; printed by the process that runs it.
MEASURES = {
    "00_the_idea": """{
        "finite difference": error, "area ratio": solution.area_ratio, "acceleration": solution.acceleration,
        "own rates": grid.claim["area_ratio"], "gap": [float(gap[name].sum()) for name in ("uniform", "found")],
        "similarity": [float(jnp.nanmean(similarity[name])) for name in ("uniform", "found")],
    }""",
    "01_differentiate_training": """{
        "area ratio": solution.area_ratio, "on wrong labels": float(weights[wrong].sum()), "wrong": float(wrong.mean()),
        "uniform": uniform, "learned": learned, "careful": float(found[person == 0].sum()), "objective": float(value),
        "libraries": {name: accuracies[1] for name, accuracies in accuracies_of.items()},
        "wrong labels do harm": float((slope[wrong] > 0).mean()), "right labels do harm": float((slope[~wrong] > 0).mean()),
    }""",
    "02_the_learning_law": """{
        "similarity": [rows[name][place]["similarity"] for name in ("target", "test") for place in (0, -1)],
        "gap": [rows["target"][place]["gap"] for place in (0, -1)], "at bound": fit.at_bound, "share": share.tolist(),
        "in the long run": [properties[side]["noisy"]["costate"]["weight"] for side in ("uniform", "found")],
        "zero": [float(properties["found"]["zero"][2]), float(properties["found"]["noisy"]["target"]["zero"][2])],
        "exact zeros": float(exact["zero"][0]),
    }""",
    "03_scaling_laws": """{
        "alpha": parts["last points, E known"].parameters["alpha"], "all": [found.parameters["alpha"], found.parameters["beta"]],
        "largest": parts["largest size, steps 3 to 100"].intervals["beta"], "bias": held["bias_percent"],
        "acceleration": measured["acceleration"]["mean"], "area": measured["area_ratio"]["mean"],
        "along": [[row[name] for name in ("delta_B_percent", "delta_beta_percent")] for row in (along[0], along[-1])],
    }""",
    "04_continual": """{
        **{what: [float(table[f"replay {share:.0%}"][what]) for share in SHARES] for what in ("forgetting", "new", "mean")},
        "union": float(table["union (twice the steps)"]["mean"]), "choice": [choice.low, choice.share, choice.high],
        "rise": float(checked.final["validation"][-1][0] / first.final["validation"][-1][0] - 1), "budget": BUDGET,
        "foretold": [foretold.final - float(third.losses[-1]), foretold.error], "message": foretold.message,
        "searched": [float(start["mean"]), float(after["mean"])],
    }""",
    "05_control": """{
        "kl": {name: list(row.values()) for name, row in kl.items()}, "rates": list(rates.values()),
        "counted": list(counted.values()),
        "masking": with_mask["satisfaction"], "gelato": [gelato[states]["kl"] for states in (1, S)],
        "text": {name: [row["satisfied"], row["nats_per_token"]] for name, row in satisfied.items()},
    }""",
    "06_memory": """{
        "rises": [float((steps > 1e-5).mean()) for steps in (joint, own)], "integral": [volume, integral],
        "losses": [[rows[-1][side][0] for side in ("train", "validation")] for rows in histories.values()],
        "entropy": data.entropy, "apart": float(np.log(few) / length),
        "known": [s["known"] for s in found.values()], "written": [s["written_stored"] for s in found.values()],
        "recovered": [
            [s["retrieval"][f"{kind}, towards"]["recovered"] for kind in ("stored", "held out")] for s in found.values()
        ],
        "plateaus": [[row["entropy"], row["loss"]] for row in plateaus],
    }""",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Run a notebook's Python as a script, with warnings as errors, and return its measures."""

    def run(name: str) -> dict[str, Any]:
        script = tmp_path_factory.mktemp(name) / "run.py"
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        script.write_text(f"{source}\nimport json\nprint(json.dumps({MEASURES[name]}))\n", encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent), "MPLBACKEND": "Agg"}
        done = subprocess.run(
            [sys.executable, "-W", "error", script.name],
            cwd=script.parent, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.slow
def test_the_idea_holds(measured: Callable[[str], dict[str, Any]]) -> None:
    """The gradient is that of a finite difference; the policy learns faster at the same rate and at each side's best one."""
    found = measured("00_the_idea")
    assert found["finite difference"] < 1e-6
    assert found["area ratio"] < 0.75
    assert found["acceleration"] > 2.5
    assert found["own rates"] < 0.8
    assert found["gap"][1] < found["gap"][0] / 4
    assert found["similarity"][1] > 1.3 * found["similarity"][0]


@pytest.mark.slow
def test_training_is_differentiated(measured: Callable[[str], dict[str, Any]]) -> None:
    """Wrong labels lose their weight, the weights serve a loop that knows nothing of olm, and all libraries' models learn."""
    found = measured("01_differentiate_training")
    assert found["area ratio"] < 0.5
    assert found["on wrong labels"] < 0.1 < 0.3 < found["wrong"]
    assert found["learned"] > found["uniform"] + 0.05
    assert found["careful"] > 0.8
    assert found["objective"] < 0.35
    assert {"flax linen", "flax nnx", "equinox"} == set(found["libraries"])
    assert all(accuracy > 0.94 for accuracy in found["libraries"].values())
    assert found["wrong labels do harm"] > 0.8
    assert found["right labels do harm"] < 0.25


@pytest.mark.slow
def test_the_learning_law_is_measured(measured: Callable[[str], dict[str, Any]]) -> None:
    """Contributions become alike on the target, not held out; what harms in the long run and wrong labels lose their weight."""
    found = measured("02_the_learning_law")
    target, test = found["similarity"][:2], found["similarity"][2:]
    assert target[1] > 1.4 * target[0] and test[1] < 0.7 * test[0]
    assert found["gap"][1] < 0.5 * found["gap"][0]
    assert found["at bound"] is True
    assert found["in the long run"][1] < 0.05 < 0.15 < found["in the long run"][0]
    assert found["zero"][1] < 1.2 * found["zero"][0]  # the harmful are hardly dropped more often than all are
    assert found["exact zeros"] > 0.05
    assert found["share"][0] > 1.3 and found["share"][1] < 0.2


@pytest.mark.slow
def test_scaling_laws_are_fitted(measured: Callable[[str], dict[str, Any]]) -> None:
    """The known exponents come from the rows where the law can hold, and what an improvement is called hangs on L0."""
    found = measured("03_scaling_laws")
    assert found["alpha"] == pytest.approx(0.5, abs=0.05)
    assert found["all"][0] > 0.55 and found["all"][1] > 0.45
    assert found["largest"][0] < 1 / 3 < found["largest"][1]
    assert found["bias"] > 5
    assert found["acceleration"] > 2 and found["area"] < 0.85
    (low_B, low_beta), (high_B, high_beta) = found["along"]
    assert low_B > 20 and low_beta < 20 and high_B < 0 and high_beta > 100


@pytest.mark.slow
def test_training_goes_on_with_replay(measured: Callable[[str], dict[str, Any]]) -> None:
    """Replay takes most forgetting away and costs on the new data; more steps help more; forecasts hold within their error."""
    found = measured("04_continual")
    forgetting, new = found["forgetting"], found["new"]
    assert forgetting == sorted(forgetting, reverse=True) and forgetting[1] < 0.3 * forgetting[0]
    assert new[-1] > new[1] > new[0]
    assert found["union"] < min(found["mean"])
    low, share, high = found["choice"]
    assert 0.01 < low <= share <= high < 0.6 and abs(found["rise"] - found["budget"]) < 0.06
    difference, error = found["foretold"]
    assert abs(difference) < error and "no guide to a choice" in found["message"]
    assert found["searched"][1] < found["searched"][0]


@pytest.mark.slow
def test_generation_is_controlled(measured: Callable[[str], dict[str, Any]]) -> None:
    """Rates are exact; masking holds keywords and is no posterior; own samples help DiNADO; a better chain guides better."""
    found = measured("05_control")
    kl, rates = found["kl"], np.array(found["rates"])
    assert np.allclose(found["counted"], rates, atol=0.01) and found["masking"] == 1
    assert kl["masking"][-1] > -0.5 * np.log(rates[-1])
    for name in ("NADO", "DiNADO-Soft"):
        assert kl[name] == sorted(kl[name]) and (kl[name] < -np.log(rates)).all()
    others = [row[-1] for name, row in kl.items() if name != "DiNADO-Soft, explored"]
    assert kl["DiNADO-Soft, explored"][-1] < min(others)
    assert found["gelato"][1] < found["gelato"][0]
    none, mask, gelato = (found["text"][name] for name in ("none", "mask", "gelato"))
    assert none[0] < 0.2 and mask[0] == gelato[0] == 1 and gelato[1] < mask[1]


@pytest.mark.slow
def test_memory_is_measured(measured: Callable[[str], dict[str, Any]]) -> None:
    """The joint bound never raises the energy; much data settles at the entropy, little is known by heart; plateaus follow it."""
    found = measured("06_memory")
    assert found["rises"][0] == 0 and found["rises"][1] > 0.1
    assert found["integral"][1] > 100 * found["integral"][0]
    (much, held_out), (little, overfitted) = found["losses"]
    assert abs(much - found["entropy"]) < 0.05 > abs(held_out - found["entropy"])
    assert abs(little - found["apart"]) < 0.05 and overfitted > 2
    assert found["known"][1] == 1 and max(found["known"][0], found["known"][2]) < 0.15
    assert found["written"][1] == 1 and max(found["written"][0], found["written"][2]) == 0
    # "About the same": stored and held-out windows come back alike, trained or not.
    stored, other = np.array(found["recovered"]).swapaxes(0, 1)
    assert np.abs(stored - other).max() < 0.3 and np.abs(stored[0] - stored[2]).max() < 0.3
    for entropy, loss in found["plateaus"]:
        assert -0.02 < loss - entropy < 0.1
    assert found["plateaus"][0][1] < 0.75


def test_results_show_themselves() -> None:
    """A curve and a solution are figures in Jupyter."""
    task = olm.Task(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, train=jnp.array([0.0, 2.0]), target=jnp.full(8, 1.5))
    solution = olm.find_policy(task, olm.Learner(optax.sgd(0.1)), steps=4, evaluations=2, key=jax.random.key(0))
    for shown in (solution, solution.curve):
        assert re.fullmatch(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]{1000,}" alt="figure">', shown._repr_html_())
