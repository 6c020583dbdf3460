"""`olm law`: what it measures is the run's own policy, what it writes and refuses; and the figures of its tables."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import olm
from olm import law, plots
from olm.cli import law as command
from olm.cli import main
from olm.errors import DivergenceError, InputError
from olm.plots import law as law_plots
from olm.records import load_arrays, read_json, save_arrays
from olm.tasks.perceptron import perceptron

SEARCH = "search perceptron --width 4 --examples 16 --targets 8 --tests 8 --steps 8 --target-draws 16 --evaluations 3 --quiet"
AT = np.arange(5)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("runs") / "searched"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olm.report.write_report", lambda path, on_missing=None: Path(path) / "report.html")
        assert main([*shlex.split(SEARCH), "--run-dir", str(path)]) == 0
        assert main(["train", str(path), "--run-dir", str(path.parent / "replay"), "--seed", "1", "--quiet"]) == 0
    return path


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "copy"))


def test_the_runs_policy_is_measured_and_written(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """law.npz is the study of policy.npz on the task, key and target sample of config.json; law.json its summary."""
    assert command.run([str(copy)]) == 0
    said = capsys.readouterr()
    assert "mean similarity, costate, weights above" in said.out and said.err.count("olm: measuring") == 2
    policy, phi = olm.policy.load(copy / "policy.npz")
    key_data, _ = jax.random.split(jax.random.key(0))
    task = perceptron(key_data, width=4, examples=16, targets=8, tests=8)
    key_train = jax.random.split(jax.random.split(jax.random.key(0))[1])[0]
    arguments: dict[str, Any] = {"steps": 8, "key": key_train, "adjoint": olm.adjoint.direct(), "keep": 512}
    expected = law.study(task, olm.Learner(optax.sgd(0.1)), policy, phi, **arguments)
    written = load_arrays(copy / "law.npz")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), written["found"], expected.tables())
    np.testing.assert_array_equal(written["found"]["curves"]["test"], load_arrays(copy / "curves.npz")["found_test"])
    np.testing.assert_array_equal(written["uniform"]["kept"]["weights"], np.full((8, 16), 1 / 16, np.float32))
    record = read_json(copy / "law.json")
    assert record["found"]["similarity"] == json.loads(json.dumps(expected.summary()["similarity"]))
    assert record["found"]["gap"] < record["uniform"]["gap"]
    names = ["similarity", "similarity_costate", "gap", "dropped_target", "dropped_test", "redundant"]
    assert record["settings"]["search_saw_target"] is False and "did not see" in said.out  # the search draws
    drawn = {path.name for path in (copy / "figures").glob("law_*")}
    assert drawn == {f"law_{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert not list(copy.glob("**/.*.tmp"))
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "law.json" in page and all(
        figure.title in page for figure in law_plots.figures(written["found"], written["uniform"]).values()
    )
    named = page.count("law.npz")
    (copy / "law.npz").write_bytes(b"damaged")
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert page.count("law.npz") > named and not any(
        figure.title in page for figure in law_plots.figures(written["found"], written["uniform"]).values()
    )
    short = {**written, "found": {**written["found"], "seen": {**written["found"]["seen"], "gap": np.zeros(3)}}}
    save_arrays(copy / "law.npz", short)  # arrays that do not go together: one figure is missing, the others are there
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "distance from an optimum” cannot be drawn" in page and "Do all examples contribute alike?" in page


def test_a_search_that_goes_on_drops_what_was_measured_before(copy: Path) -> None:
    assert command.run([str(copy), "--quiet"]) == 0
    assert (copy / "law.npz").exists() and list((copy / "figures").glob("law_*"))
    done = len((copy / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert main(["search", "--resume", str(copy), "--evaluations", str(done + 1), "--quiet"]) == 0
    assert not (copy / "law.npz").exists() and not (copy / "law.json").exists()
    assert not list((copy / "figures").glob("law_*"))


def test_flags_reach_the_study(copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "finish", lambda run, on_missing: None)
    (copy / "figures").mkdir(exist_ok=True)
    (copy / "figures" / "law_dropped_test.svg").write_text("of an earlier measurement")
    assert command.run([str(copy), "--steps-between", "3", "--target-only", "--learned-share", "0.25", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    found = load_arrays(copy / "law.npz")["found"]
    assert found["at"].tolist() == [0, 3, 6] and set(found["curves"]) == {"target"}
    assert found["seen"]["learned"].tolist() == [4, 4, 4] and "law_learned" in law_plots.figures(found)
    assert read_json(copy / "law.json")["settings"]["learned_share"] == 0.25
    assert not list((copy / "figures").glob("law_*"))


@pytest.mark.parametrize(
    ("flags", "task", "share"),
    [
        ({}, "language", 0.05),
        ({"learned": 0.1}, "language", None),
        ({"learned_share": 0.2}, "language", 0.2),
        ({}, "perceptron", None),
    ],
)
def test_a_loss_that_is_named_decides_what_is_learned(flags: dict[str, float], task: str, share: float | None) -> None:
    assert command._learned_share(command.Law(run="runs/x", **flags), task) == share


def test_a_replay_is_measured_too(searched: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the replay's own seed: its curve comes back."""
    monkeypatch.setattr(command, "finish", lambda run, on_missing: None)
    replay = Path(shutil.copytree(searched.parent / "replay", tmp_path / "replay"))
    assert command.run([str(replay), "--quiet"]) == 0
    np.testing.assert_array_equal(
        load_arrays(replay / "law.npz")["found"]["curves"]["target"], load_arrays(replay / "curves.npz")["found_target"]
    )


def _no_policy(path: Path) -> None:
    (path / "policy.npz").unlink()


def _other_data(path: Path) -> None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["config"]["data"]["fingerprint"] = "0" * 16
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _other_policy(path: Path) -> None:
    olm.policy.save(path / "policy.npz", olm.policy.table(), np.full((8, 3), 1 / 3, np.float32))


def _infeasible(path: Path) -> None:
    olm.policy.save(path / "policy.npz", olm.policy.table(), np.full((8, 16), 1.0, np.float32))


def _no_config(path: Path) -> None:
    (path / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_policy, "has no policy.npz: let the run end"),
        (_other_data, r"the data are not those of .* \(fingerprint\): restore what"),
        (_other_policy, r"does not go with this run: phi has shapes \(8, 3\)"),
        (_infeasible, "a row of weights sums to 16"),
        (_no_config, "is not a run folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(copy: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(copy)
    with pytest.raises(InputError, match=message) as error:
        command.run([str(copy), "--quiet"])
    assert "\n" not in str(error.value) and error.value.exit_status == 2
    assert not (copy / "law.npz").exists() and not (copy / "law.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "name the folder"), (["{run}", "--steps-between", "0"], "steps-between is 0"), (["{run}", "--nothing"], "nothing")],
)
def test_wrong_words_are_refused(searched: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        command.run([word.format(run=searched) for word in words])


def test_a_run_that_is_not_finite_writes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = law.study

    def diverged(*arguments: Any, **settings: Any) -> law.Study:
        found = study(*arguments, **settings)
        return dataclasses.replace(found, curves={**found.curves, "test": np.full(9, np.nan)})

    monkeypatch.setattr(command.law, "study", diverged)
    with pytest.raises(DivergenceError, match="uniform weights is not finite: nothing was written"):
        command.run([str(copy), "--quiet"])
    assert not (copy / "law.npz").exists()


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_lines_over_steps_are_the_numbers() -> None:
    axes = law_plots.over_steps(AT, {"a": [1.0, 2.0, np.inf, 4.0, -1.0], "b": np.ones(5)}, log_y=True)
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [1.0, 2.0, np.nan, 4.0, np.nan])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_policies_are_coloured_by_compression_and_drawn_from_high_loss_to_low() -> None:
    axes = law_plots.similarity_against_loss([[0.5, 0.1], [0.5, 0.05]], [[0.1, 0.2], [0.2, 0.6]], [5.0, 4.0])
    colours = [line.get_color() for line in axes.get_lines()]
    assert len(colours) == 2 and colours[0] != colours[1] and axes.get_xlim()[0] > axes.get_xlim()[1]
    np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), [0.5, 0.05])  # the least compression is drawn first


def test_the_trend_shows_its_fit_and_asymptote() -> None:
    ratios = np.linspace(4.0, 5.0, 6)
    axes = law_plots.similarity_trend(ratios, 0.3 * np.log(4.0 / (5.5 - ratios)), fit=(4.0, 5.5, 0.3))
    curve, asymptote = axes.get_lines()[1], axes.get_lines()[2]
    x, y = curve.get_data()
    np.testing.assert_allclose(y, 0.3 * np.log(4.0 / (5.5 - x)))
    assert x.max() < 5.5 and asymptote.get_xdata()[0] == 5.5


def test_learned_and_redundant_examples_are_picked() -> None:
    weights, losses = [[0.1, 0.9], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]
    axes = law_plots.learned_weights(weights, losses)
    assert axes.get_title("left") == "50% of the learned examples are at or below 0.2"
    # Beside an example of weight 4 that is not among those shown, ½ is small too.
    axes = law_plots.learned_weights(weights, losses, largest=[4.0, 4.0])
    assert axes.get_title("left") == "100% of the learned examples are at or below 0.2"
    axes = law_plots.learned_weights(weights, np.add(losses, 1), quantile=0.05)
    assert axes.get_title("left").startswith("50% of the examples of least loss")
    image = law_plots.redundant_weights([[0.25, 0.75], [0.5, 0.5]], [[1.0, -1.0], [1.0, 1.0]], n_examples=2).collections[0]
    shown = np.ma.masked_invalid(image.get_array()).reshape(2, 2)
    # By mean weight the first example is on top: its weights are 1/2 and 1 of uniform; the second one is harmful at first.
    assert shown[0].tolist() == [0.5, 1.0] and shown[1].mask.tolist() == [True, False]


def tables(group: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    part = {"harmful": np.full(5, 4.0), "harmful_zero": np.tile([0.0, 1.0, 2.0, 4.0], (5, 1))}
    names = ("target", "test", "costate")
    return {
        "at": AT,
        "examples": np.array(8),
        "thresholds": np.array([0.0, 1e-3, 1e-2, 1e-1]),
        "learned": np.array([1e-6, 0.5]),
        "small": np.array(0.2),
        "similarity": {name: rng.uniform(size=5) for name in names},
        "seen": {
            "gap": rng.uniform(size=5),
            "largest": np.ones(5),
            "zero": np.tile([0.0, 1.0, 2.0, 4.0], (5, 1)),
            **dict.fromkeys(names, part),
        },
        "kept": {"weights": rng.uniform(size=(5, 3)), "losses": rng.uniform(size=(5, 3)), "target": rng.normal(size=(5, 3))},
        **({"group": {"weight": rng.uniform(size=(5, 2)), "target": rng.uniform(size=(5, 2))}} if group else {}),
    }


@pytest.mark.parametrize("group", [False, True])
def test_tables_say_which_figures_there_are(group: bool) -> None:
    found = law_plots.figures(tables(group), tables(group))
    assert ("law_group_weight" in found) == group and {"law_gap", "law_dropped_test", "law_learned"} <= set(found)
    for name, figure in found.items():
        with plots.style():
            axes = figure.draw(plots.new_figure())
        assert axes.get_lines() or axes.collections, name
        assert figure.title and figure.caption.endswith(".")
    with plots.style():
        harmful, everything = found["law_dropped_target"].draw(plots.new_figure()).get_lines()[4:6]
    np.testing.assert_array_equal(harmful.get_ydata(), np.full(5, 0.5))
    np.testing.assert_array_equal(everything.get_ydata(), np.full(5, 0.25))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: law_plots.over_steps(AT, {}), "no line"),
        (lambda: law_plots.over_steps(AT, {"a": [1.0]}), "a has 1 values for 5 steps"),
        (lambda: law_plots.similarity_against_loss([[1.0]], [[1.0]], [1.0, 2.0]), "1 losses, 1 similarities, 2 ratios"),
        (lambda: law_plots.similarity_against_loss([[1.0, 2.0]], [[1.0]], [1.0]), "2 losses and 1 similarities"),
        (lambda: law_plots.similarity_trend([1.0, 2.0], [1.0]), "2 compression ratios and 1 similarities"),
        (lambda: law_plots.dropped_examples([1.0], {}), "no threshold"),
        (lambda: law_plots.dropped_examples([1.0], {"0": ([1.0, 1.0], [1.0])}), "0 has 2 and 1 shares"),
        (lambda: law_plots.learned_weights([[1.0]], [[1.0, 2.0]]), "weights have shape"),
        (lambda: law_plots.learned_weights([[1.0]], [[1.0]]), "no example's loss is at most 1e-06 nats"),
        (lambda: law_plots.learned_weights([[1.0]], [[0.0]], largest=[1.0, 1.0]), "2 largest weights for 1 steps"),
        (lambda: law_plots.redundant_weights([[1.0]], [[1.0, 2.0]]), "weights have shape"),
        (lambda: law_plots.redundant_weights([[1.0]], [[-1.0]]), "no example has a contribution above 0"),
        (lambda: law_plots.by_group(AT, np.ones((4, 2))), r"shape \(4, 2\): give one of each group for 5 steps"),
    ],
)
def test_figures_refuse_what_they_cannot_draw(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()
