"""The command line: what it writes, prints and returns, and that every flag reaches what it is for."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import olm
from olm.cli import main, options
from olm.models.transformer import TransformerConfig
from olm.records import Run, load_arrays
from olm.report.page import write_report

TINY = shlex.split("search perceptron --width 8 --examples 64 --tests 16 --steps 20 --target-draws 32 --evaluations 6 --quiet")


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file.name != ".lock"}


def rows(path: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in Run.open(path).metrics()]


def same(one: Path, other: Path) -> list[str]:
    """The names of a run's files that differ between two folders, time fields aside; equal arrays give equal bytes."""
    arrays = ["policy.npz", "params.npz", "curves.npz", "state.npz"]
    different = [name for name in arrays if (one / name).read_bytes() != (other / name).read_bytes()]
    summaries = [{k: v for k, v in Run.open(path).summary().items() if k not in ("seconds", "versions")} for path in (one, other)]
    return different + ["metrics.jsonl"] * (rows(one) != rows(other)) + ["summary.json"] * (summaries[0] != summaries[1])


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a tiny run's time; what they show is tested elsewhere."""
    monkeypatch.setattr("olm.report.write_report", lambda path, on_missing=None: Path(path) / "report.html")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny search, figures and report included."""
    path = tmp_path_factory.mktemp("runs") / "searched"
    assert main([*TINY, "--run-dir", str(path)]) == 0
    return path


# --- search -----------------------------------------------------------------------------------------------------------


def test_a_search_leaves_a_complete_run_folder(searched: Path) -> None:
    figures = {f"figures/{name}.{kind}" for name in ("loss_test", "loss_target", "objective", "weights", "weights_distribution")
               for kind in ("svg", "png")}  # fmt: skip
    arrays = {"policy.npz", "params.npz", "curves.npz", "state.npz"}
    assert files(searched) == figures | arrays | {"config.json", "metrics.jsonl", "summary.json", "report.html"}
    run = Run.open(searched)
    assert run.command is not None and run.command[:3] == ["olm", "search", "perceptron"]
    assert [row["evaluation"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]
    # The headline is what the curves say, and the policy's files give those curves again.
    curves, summary = load_arrays(searched / "curves.npz"), run.summary()
    areas = [float(np.mean(curves[name][1:])) for name in ("baseline_test", "found_test")]
    assert summary["area_ratio"] == pytest.approx(areas[1] / areas[0], rel=1e-6) and summary["area_ratio"] < 0.95
    policy, phi = olm.policy.load(searched / "policy.npz")
    assert (policy.name, phi.shape) == ("table", (20, 64))
    assert curves["weights"] == pytest.approx(np.asarray(phi), abs=0)
    assert "step-length ratio" in (searched / "report.html").read_text(encoding="utf-8")


def test_the_recorded_settings_are_complete_and_come_back(searched: Path) -> None:
    config = Run.open(searched).config
    assert set(config) == {"kind", "task", "learner", "training", "policy", "search", "method", "adjoint", "data"}
    assert config["kind"] == "search" and config["task"]["width"] == 8
    assert config["training"] == {"steps": 20, "seed": 0, "data_seed": 0}
    assert config["learner"]["eps_root"] == 1e-8 and config["policy"]["upper"] == float("inf")
    back = options.restored(str(searched))
    assert options.recorded(back, "search", config["data"]) == config
    assert back.task == options.Perceptron(width=8, examples=64, tests=16)


def test_the_results_are_printed_and_progress_is_not_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word for word in TINY if word != "--quiet"]) == 0
    out, err = capsys.readouterr()
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"perceptron-\d{4}-\d\d-\d\d-001", path.name)
    summary = Run.open(path).summary()
    assert out.splitlines()[-1] == f"report: runs/{path.name}/report.html"
    assert re.search(rf"area under the loss, nats +{summary['area']['baseline']:.5g} +{summary['area']['found']:.5g} ", out)
    assert f"{summary['acceleration']:.3g}×" in out
    assert f"writing to runs/{path.name}" in err and "6/6" in err and "objective=" in err and "6/6" not in out
    assert main(TINY) == 0  # the next free number; quiet
    assert capsys.readouterr().err == "" and len(list((tmp_path / "runs").iterdir())) == 2


class _Seen(Exception):
    def __init__(self, task: olm.Task, learner: olm.Learner, arguments: dict[str, Any]):
        self.task, self.learner, self.arguments = task, learner, arguments


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Seen]:
    """What `olm search` with given flags hands to `olm.find_policy`."""

    def seen(task: olm.Task, learner: olm.Learner, **arguments: Any) -> None:
        raise _Seen(task, learner, arguments)

    def read(flags: str, task: str = " ".join(TINY[1:])) -> _Seen:
        monkeypatch.setattr("olm.cli.search.find_policy", seen)
        with pytest.raises(_Seen) as caught:
            main(["search", *task.split(), *flags.split()])
        return caught.value

    return read


def test_defaults_are_those_of_the_paper_with_fresh_targets(built: Callable[..., _Seen]) -> None:
    found = built("--width 128 --examples 4096 --steps 2000")
    assert found.task.train["x"].shape == (4096, 128) and found.task.target["x"].shape == (512, 128)
    arguments = found.arguments
    assert (arguments["steps"], arguments["evaluations"], arguments["target_draws"]) == (2000, 6, 32)
    assert arguments["policy"] is olm.policy.table() and arguments["method"].config == olm.search.mirror_descent().config
    assert arguments["adjoint"] is olm.adjoint.direct() and arguments["objective"].name == "area"
    assert arguments["patience"] is None and arguments["progress"] is False
    published = options.preset("perceptron", "paper")
    assert published.search.target_draws == published.search.validation_fraction == 0 and published.task.tests == 512
    assert published.method == options.MethodOptions("projected_gradient", rate=0.01) and published.search.evaluations == 500


def test_a_preset_is_where_the_other_flags_start(built: Callable[..., _Seen]) -> None:
    arguments = built("--preset paper --method-rate 0.02").arguments
    assert (arguments["method"].name, dict(arguments["method"].config)) == ("projected_gradient", {"rate": 0.02})
    assert arguments["validation_fraction"] == 0 and arguments["target_draws"] == 32


@pytest.mark.parametrize(
    ("flags", "name", "config"),
    [
        ("--policy static", "static", {}),
        ("--policy piecewise --pieces 3", "piecewise", {"pieces": 3}),
        ("--policy scorer", "scorer", {}),
        ("--policy learning_rate --upper 2", "learning_rate", {"upper": 2.0}),
    ],
)
def test_policies_by_name(built: Callable[..., _Seen], flags: str, name: str, config: dict[str, Any]) -> None:
    policy = built(flags).arguments["policy"]
    assert (policy.name, dict(policy.config)) == (name, config)


def test_every_setting_of_a_method_adjoint_and_search_arrives(built: Callable[..., _Seen]) -> None:
    flags = "--method-fall .1 --method-momentum .2 --method-agreement .4 --method-window 5 --method-cap 7 --method-largest .9"
    method = built(flags).arguments["method"]
    expected = {"fall": 0.1, "momentum": 0.2, "agreement": 0.4, "window": 5, "cap": 7.0, "largest": 0.9}
    assert (method.name, dict(method.config)) == ("mirror_descent", expected)
    arguments = built("--adjoint segmented --levels 3 --segment 4 --objective final --patience 2 --save-every 0.5").arguments
    assert arguments["adjoint"].name == "segmented(levels=3, size=4)" and arguments["objective"].name == "final"
    assert arguments["patience"] == 2 and arguments["save_every"] == 0.5
    assert built("--adjoint direct --residuals").arguments["adjoint"] is olm.adjoint.direct(residuals=True)
    assert built("--adjoint offloaded --snapshots 2 --segment 5").arguments["adjoint"].name == "offloaded(snapshots=2, segment=5)"
    task = built("--targets 7 --train-variance 2 --target-mean 1 --batch-size 9 --chunk-size 5")
    assert task.task.target["x"].shape == (7, 8) and task.learner[1:] == (9, 5)
    assert float(jnp.mean(task.task.draw(jax.random.key(0), 4096)["x"])) == pytest.approx(1.0, abs=0.05)
    assert float(jnp.var(task.task.train["x"])) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--learning-rate 0.5", optax.sgd(0.5)),
        ("--optimiser momentum --momentum 0.8", optax.sgd(0.1, momentum=0.8)),
        ("--optimiser adamw --b1 0.7 --b2 0.9 --eps-root 1e-4 --weight-decay 0.3",
         optax.adamw(0.1, b1=0.7, b2=0.9, eps_root=1e-4, weight_decay=0.3)),
        ("--clip 0.25", optax.chain(optax.clip_by_global_norm(0.25), optax.sgd(0.1))),
    ],
)  # fmt: skip
def test_optimisers_do_what_optax_does(built: Callable[..., _Seen], flags: str, expected: optax.GradientTransformation) -> None:
    """Two updates, so that what a moment keeps from the first shows in the second."""

    def updates(optimiser: optax.GradientTransformation) -> list[list[float]]:
        params = jnp.array([1.0, -2.0])
        state, found = optimiser.init(params), []
        for gradient in (jnp.array([0.5, 0.1]), jnp.array([-0.2, 0.4])):
            update, state = optimiser.update(gradient, state, params)
            found.append(update.tolist())
        return found

    assert updates(built(flags).learner.optimiser) == updates(expected)


def test_the_seeds_of_data_and_training_are_apart(built: Callable[..., _Seen]) -> None:
    def seen(flags: str) -> tuple[bytes, bytes]:
        found = built(flags)
        return np.asarray(found.task.train["x"]).tobytes(), np.asarray(jax.random.key_data(found.arguments["key"])).tobytes()

    zero, one, mixed = seen("--seed 0"), seen("--seed 1"), seen("--seed 1 --data-seed 0")
    assert zero[0] != one[0] and zero[1] != one[1]
    assert mixed == (zero[0], one[1])


# --- the language task ------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, str]:
    """Two files of 60 paragraphs over a dozen words, the second with half of the words."""
    words = shlex.split("the a cat dog house ran to from saw tree blue red")
    draw = np.random.default_rng(0)
    for name, known in (("train.txt", words), ("target.txt", words[:6])):
        (tmp_path / name).write_text("\n\n".join(" ".join(draw.choice(known, 24)) for _ in range(60)), encoding="utf-8")
    return str(tmp_path / "train.txt"), str(tmp_path / "target.txt")


def test_the_language_defaults_are_the_task_s_own() -> None:
    from olm.tasks import language

    key = jax.random.key(3)
    built, own = options.Language().resolved().build(key, 0), language.stories(key)
    assert jax.tree.all(jax.tree.map(np.array_equal, (built.task.train, built.task.test), (own.task.train, own.task.test)))
    assert built.facts == {"vocabulary": 256, "parameters": own.model.parameters, "entropy": own.entropy}
    assert built.group is not None and built.group.sum() == 128 and np.array_equal(built.group, own.corrupted)
    cpu, paper = (options.preset("language", name) for name in ("cpu", "paper"))
    for settings, theirs in ((cpu, language.CPU), (paper, language.PAPER)):
        assert (settings.training.steps, settings.learner.learning_rate) == (theirs.steps, theirs.rate)
        assert settings.learner.clip == theirs.clip
        task, model = settings.task.resolved(), theirs.task.model
        assert [getattr(task, name) for name in ("length", "width", "layers", "heads")] == [
            getattr(model, name) for name in ("length", "width", "layers", "heads")
        ]
        assert (task.vocabulary, task.topics, task.names) == tuple(
            getattr(theirs.task.grammar, name) for name in ("vocabulary", "topics", "names")
        )
        assert (task.examples, task.targets) == (theirs.task.examples, theirs.task.targets)
        assert settings.search.target_draws == theirs.target_draws


def test_every_setting_of_the_language_task_arrives(built: Callable[..., _Seen], texts: tuple[str, str]) -> None:
    def seen(flags: str) -> olm.Task:
        return built(flags, "language --examples 12 --targets 6 --tests 5 --width 8 --heads 2 --length 9").task

    grammar = "--vocabulary 80 --names 2 --places 1 --objects 1 --topics 2"
    flags = ("--layers 3 --mlp-ratio 2", "--corruption 1 --edits 20", "--language-seed 1", "--target-mixture 1 0")
    plain, spoiled, other, shifted = (seen(f"{grammar} {flag}") for flag in flags)
    sizes = TransformerConfig(vocabulary=80, length=9, width=8, layers=3, heads=2, mlp_ratio=2)
    params = jax.eval_shape(plain.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sizes.parameters
    assert plain.alphabet == 80 and plain.train["tokens"].shape == (12, 10) and plain.draw is not None
    assert not np.array_equal(other.test["tokens"], plain.test["tokens"])
    assert not np.array_equal(shifted.test["tokens"], plain.test["tokens"])
    assert np.array_equal(spoiled.test["tokens"], plain.test["tokens"])
    # Half of them are corrupted anyway, and by the same edits.
    changed = (spoiled.train["tokens"] != plain.train["tokens"]).any(axis=1)
    assert 0 < changed.sum() <= 6
    files = seen(f"--train {texts[0]} --target {texts[1]} --vocabulary 30")
    assert files.draw is None and files.alphabet == 30 and files.target["tokens"].shape == (6, 10)
    assert seen(f"--train {texts[0]} --tokens bytes --split lines").alphabet == 258


@pytest.mark.slow
def test_a_search_on_text_files_and_on_stories(
    tmp_path: Path, texts: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = shlex.split(
        "--examples 16 --targets 8 --tests 8 --width 8 --heads 2 --layers 1 --length 8 --steps 8 --evaluations 2 --quiet"
    )
    path = tmp_path / "files"
    words = ["search", "language", "--train", texts[0], "--target", texts[1], "--vocabulary", "40", "--corruption", "0.5", *sizes]
    assert main([*words, "--run-dir", str(path)]) == 0
    run, curves = Run.open(path), load_arrays(path / "curves.npz")
    assert run.config["task"]["train"] == [texts[0]] and set(run.config["data"]["files"]) == set(texts)
    assert "entropy" not in run.summary() and run.summary()["vocabulary"] == 40
    assert sorted(curves["group"].tolist()) == [0] * 8 + [1] * 8 and curves["weights"].shape == (8, 16)
    with open(texts[1], "a", encoding="utf-8") as file:
        file.write("\n\nthe cat saw a dog")
    assert main(["search", "--resume", str(path), "--quiet"]) == 2
    assert f"data.files.{texts[1]} is" in capsys.readouterr().err

    path = tmp_path / "stories"
    assert main(["search", "language", *sizes, "--target-draws", "8", "--run-dir", str(path)]) == 0
    summary = Run.open(path).summary()
    above = [summary["area"][side] - summary["entropy"] for side in ("baseline", "found")]
    assert summary["area_above_entropy_ratio"] == pytest.approx(above[1] / above[0]) and summary["area_above_entropy_ratio"] < 1
    assert "area above the source's entropy" in capsys.readouterr().out


# --- resume -----------------------------------------------------------------------------------------------------------


def test_a_search_continued_with_more_evaluations_is_the_longer_search(tmp_path: Path, searched: Path, no_figures: None) -> None:
    path = tmp_path / "run"
    assert main([*TINY, "--evaluations", "3", "--run-dir", str(path)]) == 0
    assert rows(path) == rows(searched)[:3]
    assert main(["search", "--resume", str(path), "--evaluations", "6", "--quiet"]) == 0
    assert same(path, searched) == []
    assert Run.open(path).config == Run.open(searched).config
    # Nothing is left to do: the same results again.
    assert main(["search", "perceptron", "--resume", str(path), "--quiet", "--save-every", "0"]) == 0
    assert same(path, searched) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--steps 21 --learning-rate 0.2",
         r"made with other settings: learner\.learning_rate is 0\.1 there and 0\.2 here; training\.steps is 20 there and 21"),
        ("--policy static", r'policy\.name is "table" there and "static" here'),
        ("--seed 1", r"training\.seed is 0 there and 1 here"),
        ("--data-seed 1", r"training\.data_seed is 0 there and 1 here; data\.fingerprint is"),
        ("--evaluations 5", "give --evaluations 6 or more, not 5"),
        ("--preset paper", "leave it out with --resume"),
        ("--run-dir elsewhere", "leave --run-dir out"),
    ],
)  # fmt: skip
def test_a_resume_with_other_settings_names_them(
    searched: Path, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    before = {name: (searched / name).read_bytes() for name in files(searched)}
    assert main(["search", "--resume", str(searched), "--quiet", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
    assert {name: (searched / name).read_bytes() for name in files(searched)} == before


# --- grid -------------------------------------------------------------------------------------------------------------

GRID = shlex.split("--grid --grid-searches 2 --evaluations 3 --learning-rate 6.4")


def test_the_grid_adds_the_second_claim_and_continues_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "interrupted"
    build = options.Perceptron.build
    monkeypatch.setattr(options.Perceptron, "build", lambda *given: build(*given)._replace(group=np.arange(64) % 2))
    assert main([*TINY, *GRID, "--run-dir", str(whole)]) == 0
    assert "group" in load_arrays(whole / "curves.npz")  # though the grid looks the same search up again
    out = capsys.readouterr().out
    summary = Run.open(whole).summary()
    grid, claims = summary["grid"], summary["claims"]
    sides = {side: [row for row in grid if row["side"] == side] for side in ("uniform", "found")}
    best = {side: min(them, key=lambda row: row["area_validation"]) for side, them in sides.items()}
    assert {row["learning_rate"] for row in sides["uniform"]} >= {3.2, 6.4, 12.8} and len(sides["found"]) >= 2
    assert claims["a"] == {"learning_rate": 6.4, **{k: summary[k] for k in claims["a"] if k != "learning_rate"}}
    assert [claims["b"][f"learning_rate_{side}"] for side in sides] == [best[side]["learning_rate"] for side in sides]
    assert claims["b"]["area_ratio"] == pytest.approx(best["found"]["area_test"] / best["uniform"]["area_test"], rel=1e-5)
    assert f"found, η = {best['found']['learning_rate']:g}" in out
    # The search at the given rate serves the grid as well; the other one has a folder of its own.
    searched = {row["searched_at"] for row in sides["found"]}
    assert {row["searched_at"] for row in sides["uniform"]} == {None} and len(searched) == 2
    assert [f"{rate:g}" for rate in searched - {6.4}] == os.listdir(whole / "grid")

    # Interrupted in the second evaluation of the grid's own search: only that one goes on.
    interrupt_at(monkeypatch, 3 + 2)
    assert main([*TINY, *GRID, "--run-dir", str(path)]) == 130
    assert f"olm search --resume {path}" in capsys.readouterr().err and "grid" not in Run.open(path).summary()
    evaluations = interrupt_at(monkeypatch, None)
    assert main(["search", "--resume", str(path), "--quiet"]) == 0
    assert evaluations == [2, 3]
    assert same(path, whole) == []
    assert [same(path / "grid" / name, whole / "grid" / name) for name in os.listdir(whole / "grid")] == [[]]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, count: int | None) -> list[int]:
    """Raise KeyboardInterrupt in the count-th evaluation from now on; the list fills with the numbers of those that are run."""
    from olm.search import loop

    if not hasattr(interrupt_at, "evaluate"):
        interrupt_at.evaluate = loop._Search.evaluate  # type: ignore[attr-defined]
    seen: list[int] = []

    def evaluate(self: Any, phi: Any, number: int) -> Any:
        seen.append(number)
        if len(seen) == count:
            raise KeyboardInterrupt
        return interrupt_at.evaluate(self, phi, number)  # type: ignore[attr-defined]

    monkeypatch.setattr(loop._Search, "evaluate", evaluate)
    return seen


# --- train and report -------------------------------------------------------------------------------------------------


def test_a_replay_without_changes_gives_the_search_s_own_curves(
    tmp_path: Path, searched: Path, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    path = tmp_path / "replay"
    assert main(["train", str(searched), "--run-dir", str(path), "--quiet"]) == 0
    assert files(path) == {"config.json", "policy.npz", "params.npz", "curves.npz", "summary.json"}
    for name in ("curves.npz", "params.npz", "policy.npz"):
        assert (path / name).read_bytes() == (searched / name).read_bytes(), name
    there, here = Run.open(searched).summary(), Run.open(path).summary()
    assert all(here[name] == there[name] for name in ("acceleration", "area_ratio", "final_ratio", "on_target"))
    assert here["status"] == "finished" and "report: " in capsys.readouterr().out
    config = Run.open(path).config
    assert config["kind"] == "train" and config["replay"]["policy"] == str(searched / "policy.npz")
    page = write_report(path).read_text(encoding="utf-8")
    assert "olm train" in page and "--resume" not in page and "no evaluation" not in page


def test_a_replay_may_change_the_start_the_rate_and_the_optimiser(tmp_path: Path, searched: Path, no_figures: None) -> None:
    paths = [tmp_path / name for name in ("seed", "rate", "task")]
    assert main(["train", str(searched), "--seed", "1", "--run-dir", str(paths[0]), "--quiet"]) == 0
    assert main(["train", str(searched), "--learning-rate", "0.2", "--run-dir", str(paths[1]), "--quiet"]) == 0
    task = shlex.split("--width 8 --examples 64 --tests 16 --steps 20 --quiet")
    policy = str(searched / "policy.npz")
    assert main(["train", "perceptron", "--policy", policy, "--run-dir", str(paths[2]), *task]) == 0
    original, seed, rate, named = (load_arrays(path / "curves.npz") for path in (searched, *paths))
    assert seed["baseline_test"][0] != original["baseline_test"][0]  # another θ_0 on the same data
    assert Run.open(paths[0]).config["data"] == Run.open(searched).config["data"]
    assert rate["baseline_test"][0] == original["baseline_test"][0] and rate["found_test"][-1] < original["found_test"][-1]
    assert np.array_equal(named["found_test"], original["found_test"])


def test_a_report_can_be_drawn_again(tmp_path: Path, searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [(searched / "report.html").read_bytes()]
    (searched / "report.html").unlink()
    assert main(["report", str(searched)]) == 0
    assert capsys.readouterr().out == f"report: {searched}/report.html\n"
    pages.append((searched / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_report_says_what_is_damaged(tmp_path: Path, searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(searched, tmp_path / "run"))
    (copy / "metrics.jsonl").write_text("nothing\n{}\n", encoding="utf-8")
    for name in ("summary.json", "curves.npz"):
        (copy / name).unlink()
    assert main(["report", str(copy)]) == 0
    said = capsys.readouterr().err
    assert "metrics.jsonl, line 1, is not a row of JSON" in said and "summary.json is not there" in said


# --- help -------------------------------------------------------------------------------------------------------------


def flags(settings: Any) -> Iterator[tuple[str, str]]:
    """The flag and the class of every setting."""
    for group in dataclasses.fields(settings):
        value = getattr(settings, group.name)
        for field in dataclasses.fields(value):
            yield field.name.replace("_", "-"), type(value).__name__


@pytest.mark.parametrize("task", options.PRESETS)
def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["search", task, "--help"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    explained = 0
    for place, line in enumerate(lines):
        if not re.match("[│ ] --[a-z]", line):  # what goes on from the line before is indented further
            continue
        flag, *rest = re.split(r" {2,}", line.strip("│ "), maxsplit=1)
        text = rest[0] if rest else lines[place + 1].strip("│ ")
        assert re.match(r"[\wηγφ“0-9]", text) and not text.startswith("(default"), f"{flag} is not explained: {text!r}"
        explained += 1
    assert explained == len(list(flags(options.preset(task, None))))


def test_help_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words, mentions in (
        (["--help"], ("search", "train", "report", "--version")),
        (["search", "--help"], ("perceptron", "--resume RUN", "--evaluations MORE")),
        (["train", "--help"], ("olm train RUN", "--policy FILE")),
        (["report", "--help"], ("RUN", "report.html")),
    ):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert err == "" and all(mention in out for mention in mentions), out


def test_the_versions_that_a_fault_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    out = capsys.readouterr().out
    assert f"jax {jax.__version__}\n" in out and "device 1 × " in out


def test_python_m_olm_is_the_command_line_and_loads_little(root: Path, tmp_path: Path) -> None:
    """What only a search needs (figures, templates, tokenizers, progress bars) is not loaded to say what is wrong."""
    command = [sys.executable, "-X", "importtime", "-m", "olm", "search", "perceptron", "--policy", "none"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    *imported, said = done.stderr.splitlines()
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert said.startswith("olm: unknown policy 'none'")
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in imported}
    assert "tyro" in loaded and not {"matplotlib", "jinja2", "tokenizers", "tqdm"} & loaded
