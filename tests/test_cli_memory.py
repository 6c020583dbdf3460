"""`olm memory`: what it measures is the run's own model on what it has read, what it writes, draws and refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import olm
from olm.cli import continual, control, main, options
from olm.cli import memory as command
from olm.errors import InputError
from olm.learner import order
from olm.memory import measure
from olm.memory.measure import Samples, samples
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.records import Run, load_arrays, read_json, save_arrays
from olm.report import figures
from olm.report import memory as pages

SIZES = "--width 8 --heads 2 --layers 1 --length 8 --quiet"
SEARCH = f"search language --examples 16 --targets 6 --tests 9 --steps 4 --batch-size 3 --target-draws 0 --evaluations 1 {SIZES}"
CONTINUE = f"continue stories --shift strong --replay 0.25 --steps 8 --validation 8 --tests 8 --batch-size 5 {SIZES}"
CONTROL = "control train --vocabulary 90 --steps 12 --batch-size 2 --samples 60 --states 3 --em-steps 1 --method gelato "
CONTROL += f"{SIZES} --length 12"
FRACTIONS = (0.5, 2.0)
MOVES = ["--retrieved", "6", "--fractions", "0.5", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind, as the command line leaves it; their own figures take most of the time and are tested elsewhere."""
    folder = tmp_path_factory.mktemp("runs")
    words = ("dog cat cow", "runs sits sings", "field house tree")
    lines = [f"The {a} {b} in the {c}." for a in words[0].split() for b in words[1].split() for c in words[2].split()]
    (folder / "own.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olm.report.write_report", lambda path, on_missing=None: Path(path) / "report.html")
        for name, words_of in {
            "search": SEARCH,
            "train": f"train {shlex.quote(str(folder / 'search'))} --seed 1 --quiet",
            "continue": CONTINUE,
            "control": f"{CONTROL} --text {shlex.quote(str(folder / 'own.txt'))}",
        }.items():
            assert main([*shlex.split(words_of), "--run-dir", str(folder / name)]) == 0
    return folder


@pytest.fixture
def of(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "finish", lambda run, on_missing: None)
    monkeypatch.setattr(pages, "write", lambda path, tables: Path(path) / "figures")


def params_of(path: Path, config: TransformerConfig) -> Any:
    return load_arrays(path / "params.npz", jax.eval_shape(transformer.init(config), jax.random.key(0)))


def rows(part: Samples, kept: Any) -> Samples:
    return Samples(part.tokens[kept], part.mask[kept])


def check(path: Path, name: str, side: str, config: TransformerConfig, params: Any, stored: Samples, held: Samples) -> Any:
    """What is written of a set and a model is what a call of the library says; returns it."""
    found = measure.measure(
        config, jax.tree.map(jnp.asarray, params), stored, held, jax.random.key(0), fractions=FRACTIONS, retrieved=6
    )
    record = read_json(path / "memory.json")["sets"][name][side]
    wanted = {"stored": len(stored.tokens), "held_out": len(held.tokens), **found.summary()}
    assert record == json.loads(json.dumps(wanted))
    tables = load_arrays(path / "memory.npz")[name][side]
    jax.tree.map(np.testing.assert_array_equal, tables, dict(found.tables()))
    return record


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seed"), [("search", 0), ("train", 1)])
@pytest.mark.usefixtures("no_report")
def test_a_policys_model_is_measured_beside_uniform_weights_and_an_untrained_one(
    of: Callable[[str], Path], name: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = of(name)
    assert main(["memory", str(path), *MOVES]) == 0
    said = capsys.readouterr()
    assert said.err.count("olm: measuring") == 6 and "training with uniform weights" in said.err
    restored = options.restored(str(path))
    key_data, key = restored.training.keys()
    assert restored.training.seed == seed
    built = options.resolved(restored).task.build(key_data, 0)
    key_train = jax.random.split(key)[0]
    seen = np.unique(order(jax.random.split(key_train)[1], 4, 16, 3))
    whole, held, config = samples(built.task.train), samples(built.task.test), built.model
    others = restored.task.spoiled(key_data, held.tokens, held.mask, config.vocabulary)
    groups = {"clean": (seen[built.group[seen] == 0], held), "corrupted": (seen[built.group[seen] == 1], samples(others))}
    assert (others["tokens"] != held.tokens).any(1).all()  # each of them is spoiled
    assert len(seen) == 12 and {len(part[0]) for part in groups.values()} != {0}
    # What was never in a batch has no say in what is learned: its tokens may be others.
    learner = restored.learner.build(restored.learner.learning_rate)
    spoiled = dict(built.task.train)
    spoiled["tokens"] = np.where(np.isin(np.arange(16), seen)[:, None], spoiled["tokens"], 3)
    trained = [
        olm.train(built.task._replace(train=batch), learner, olm.policy.uniform(), (), steps=4, key=key_train)
        for batch in (built.task.train, spoiled)
    ]
    jax.tree.map(np.testing.assert_array_equal, trained[0].params, trained[1].params)
    models = {
        "found": params_of(path, config),
        "uniform": trained[0].params,
        "untrained": built.task.init(jax.random.split(key_train)[0]),
    }
    curves = load_arrays(path / "curves.npz")
    ends = {"found": curves["found_test"][-1], "uniform": curves["baseline_test"][-1], "untrained": curves["baseline_test"][0]}
    record, losses = read_json(path / "memory.json"), jax.jit(transformer.per_sequence_losses(config))
    assert list(record["sets"]) == ["clean", "corrupted"]
    for group, (kept, other) in groups.items():
        assert list(record["sets"][group]) == ["found", "uniform", "untrained"]
        for side, params in models.items():
            if side == "uniform":  # compiled elsewhere: the same up to rounding
                found = record["sets"][group][side]
            else:
                found = check(path, group, side, config, params, rows(whole, kept), other)
            assert found["loss_held_out"] == pytest.approx(float(losses(params, other._asdict()).mean()), rel=1e-5)
            if group == "clean":
                assert found["loss_held_out"] == pytest.approx(float(ends[side]), rel=1e-5)
    assert f"clean: {len(groups['clean'][0])} stored, 9 held out" in said.out and "layers of found" in said.out
    assert len({record["sets"]["clean"][side]["loss_stored"] for side in models}) == 3
    assert record["settings"] == {
        "view": "last", "most": 2048, "retrieved": 6, "fractions": [0.5, 2.0], "chunk": 256, "seed": 0,
    }  # fmt: skip
    assert {"olm", "jax"} <= set(record["versions"])


@pytest.mark.usefixtures("no_report")
def test_of_datasets_in_turn_what_was_read_is_measured(of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = of("continue")
    assert main(["memory", str(path), *MOVES, "--quiet"]) == 0
    told = capsys.readouterr().err.splitlines()
    work, run = continual.work_of(str(path)), Run.open(path)
    params = {
        "trained": params_of(path, work.model),
        "untrained": transformer.init(work.model)(jax.random.split(work.key)[0]),
    }
    read = [40, 30]  # a quarter of the second phase's 40 windows are those of the first once more
    assert [len(data.train) for data in work.data] == [40, 40]
    account = run.summary()["account"]
    assert [account[d]["tokens"][data.name] // 8 for d, data in enumerate(work.data)] == read
    parts = [(data.name, data.train[: read[d]]) for d, data in enumerate(work.data)]
    repeats = {name: len(part) - len({row.tobytes() for row in part}) for name, part in parts}
    wanted = [f"olm: {name}: {n} stored sequences repeat an earlier one" for name, n in repeats.items() if n]
    assert [line.split(";")[0] for line in told] == wanted and wanted
    curves = load_arrays(path / "curves.npz")["test"]
    for d, data in enumerate(work.data):
        for side, end in (("trained", curves[-1]), ("untrained", curves[0])):
            found = check(path, data.name, side, work.model, params[side], samples(data.train[: read[d]]), samples(data.test))
            assert found["loss_held_out"] == pytest.approx(float(end[d]), rel=1e-5)
    # A run that chose its last phase has the others, and what they have read, in another folder.
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    (path / "summary.json").write_text(json.dumps({**summary, "account": summary["account"][1:]}), encoding="utf-8")
    sets = command._of_sequence(str(path), Run.open(path)).sets
    assert [len(stored.tokens) for stored, _ in sets.values()] == read


@pytest.mark.usefixtures("no_report")
def test_of_a_base_the_sentences_it_has_read_are_measured(of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = of("control")
    assert main(["memory", str(path), *MOVES, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.splitlines()[-1] == f"figures: {path / 'figures'}"
    work = control.work_of(str(path))
    stored, held = (Samples(*control.sequences(part)) for part in (work.corpus.train, work.corpus.held_out))
    of_order = jax.random.split(jax.random.split(work.keys[0])[1])[1]
    seen = np.unique(order(of_order, 12, len(stored.tokens), 2))
    assert len(seen) == 24 < len(stored.tokens)
    params = params_of(path / "base", work.model)
    found = check(path, "sentences", "base", work.model, params, rows(stored, seen), held)
    # Nats a token, as the run itself has measured them: a ratio of sums.
    losses, counts = load_arrays(path / "memory.npz")["sentences"]["base"]["losses"]["held_out"], held.mask.sum(1)
    assert (losses * counts).sum() / counts.sum() == pytest.approx(Run.open(path).summary()["base"]["loss"], rel=1e-5)
    start = transformer.init(work.model)(jax.random.split(work.keys[0])[0])
    none = check(path, "sentences", "untrained", work.model, start, rows(stored, seen), held)
    assert found["loss_stored"] < none["loss_stored"]
    # Unread sentences leave no trace: training again without them gives the same base.
    tokens = np.where(np.isin(np.arange(len(stored.tokens)), seen)[:, None], work.corpus.train.tokens, 2)
    corpus = work.corpus._replace(train=work.corpus.train._replace(tokens=tokens))
    again = control.control.train_base(corpus, work.model, steps=12, key=work.keys[0], batch_size=2, peak=work.options.base.peak)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_sentences_are_read_after_their_prompt_and_up_to_their_end() -> None:
    class Rows:
        tokens = np.array([[5, 6, 1, 1], [5, 6, 7, 8], [5, 1, 7, 1]])
        prompts = np.array([[9, 1], [9, 9], [1, 1]])

    tokens, mask = control.sequences(Rows)
    assert tokens.tolist() == [[9, 1, 0, 5, 6, 1, 1], [9, 9, 0, 5, 6, 7, 8], [1, 1, 0, 5, 1, 7, 1]]
    assert mask.astype(int).tolist() == [[0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(("steps", "batch"), [(2, 5), (3, 4), (10, 3), (1, 12)])
def test_examples_count_as_read_when_an_epoch_has_reached_them(steps: int, batch: int) -> None:
    key = jax.random.key(7)
    seen = command._seen(key, steps, 12, batch)
    assert seen.tolist() == sorted(set(np.asarray(order(key, steps, 12, batch)).ravel().tolist()) if batch < 12 else range(12))
    assert len(seen) == min(12, steps * batch)


# --- files and figures ------------------------------------------------------------------------------------------------


def drawn(path: Path) -> set[str]:
    return {file.name for file in (path / "figures").glob("memory_*")}


def test_the_report_shows_the_figures(of: Callable[[str], Path]) -> None:
    path = of("search")
    (path / "figures").mkdir(exist_ok=True)
    (path / "figures" / "memory_radii_of_another_set.svg").write_text("of an earlier measurement")
    assert main(["memory", str(path), *MOVES, "--quiet"]) == 0
    kinds = [f"memory_{kind}_{group}" for kind in ("distances", "radii", "retrieval") for group in ("clean", "corrupted")]
    assert drawn(path) == {f"{kind}.{ending}" for kind in kinds for ending in ("svg", "png")}
    assert not list(path.glob("**/.*.tmp"))
    titles = [figure.title.replace("'", "&#39;") for figure in pages.figures(load_arrays(path / "memory.npz")).values()]
    page = (path / "report.html").read_text(encoding="utf-8")
    assert len(titles) == 6 and all(title in page for title in titles) and "memory.json" in page
    # Damage is told, and the rest is there.
    tables = load_arrays(path / "memory.npz")
    (path / "memory.npz").write_bytes(b"damaged")
    assert main(["report", str(path)]) == 0
    damaged = (path / "report.html").read_text(encoding="utf-8")
    assert "memory.npz is cut, damaged" in damaged and titles[0] not in damaged and "Learning curves on held-out" in damaged
    del tables["corrupted"]["found"]["theory"]
    save_arrays(path / "memory.npz", tables)
    facts = figures.gather(path)
    assert not figures._memory_drawings(facts) and "memory.npz cannot be drawn ('theory')" in facts.missing[-1]


def test_a_search_that_goes_on_drops_what_was_measured_before(of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = of("search")
    monkeypatch.setattr("olm.report.write_report", lambda path, on_missing=None: Path(path) / "report.html")
    (path / "figures").mkdir(exist_ok=True)
    for stale in ("figures/memory_radii_clean.svg", "memory.json", "memory.npz", "figures/law_gap.png", "law.json"):
        (path / stale).write_text("of an earlier policy")
    (path / "figures" / "loss_test.svg").write_text("")
    assert main(["search", "--resume", str(path), "--evaluations", "2", "--quiet"]) == 0
    assert not drawn(path) and not list(path.glob("memory.*")) and not list(path.glob("**/law*"))
    assert (path / "figures" / "loss_test.svg").exists() and (path / "params.npz").exists()


def test_the_figures_of_a_sequence_and_of_a_base_are_drawn(of: Callable[[str], Path]) -> None:
    path = of("continue")
    assert main(["memory", str(path), "--retrieved", "0", "--quiet"]) == 0
    names = [data.replace("-", "_") for data in Run.open(path).config["data"]["names"]]
    assert drawn(path) == {f"memory_{kind}_{n}.{end}" for kind in ("distances", "radii") for n in names for end in ("svg", "png")}
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "Radius of each layer" in page and "memory.json" in page
    path = of("control")
    assert main(["memory", str(path), *MOVES, "--quiet"]) == 0
    assert len(drawn(path)) == 6 and not (path / "report.html").exists()


def test_what_figures_show_are_the_tables() -> None:
    radii = {"found": np.array([[2.0, 1.0, 3.0], [4.0, 3.0, 5.0]]), "uniform": np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])}
    shares = {"25%": np.array([1.0, 2.0]), "100%": np.array([1.0, 0.5, 0.5, 0.7])}
    one = {"fractions": np.array([0.5, 2.0]), "recovered": np.array([[0.0, 0.0], [1.0, 0.25]]), "drawn": np.ones((2, 2))}
    sides = {
        side: {"theory": np.array(0.5), "radii": table, "by_share": shares, "retrieval": {"stored, random": one}}
        for side, table in radii.items()
    }
    found = pages.figures({"a-1 b": sides})
    assert list(found) == ["memory_distances_a_1_b", "memory_radii_a_1_b", "memory_retrieval_a_1_b"]
    assert all(figure.title and figure.caption.endswith(".") and "a-1 b" in figure.title for figure in found.values())
    with olm.plots.style():
        axes = {name: figure.draw(olm.plots.new_figure()) for name, figure in found.items()}
        lines = {name: {line.get_label(): line for line in ax.get_lines()} for name, ax in axes.items()}
        np.testing.assert_array_equal(lines["memory_retrieval_a_1_b"]["stored, random"].get_ydata(), [1.0, 0.25])
        for side, table in radii.items():
            np.testing.assert_array_equal(lines["memory_radii_a_1_b"][side].get_ydata(), table[:, 0])
        assert {"25%", "100%", "2·radius of theory = 1"} == set(lines["memory_distances_a_1_b"])
    sides["found"]["retrieval"] = {}
    assert list(pages.figures({"a": sides})) == ["memory_distances_a", "memory_radii_a"] and pages.figures({}) == {}
    both = pages.figures({"a-1": sides, "a_1": sides})
    assert list(both) == [f"memory_{kind}_{word}" for word in ("a_1", "a_1_") for kind in ("distances", "radii")]
    assert "a_1" in both["memory_radii_a_1_"].title


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_report")
def test_measuring_again_gives_the_same_and_flags_arrive(of: Callable[[str], Path]) -> None:
    path = of("continue")

    def measured(*flags: str) -> tuple[bytes, Any, Any]:
        assert main(["memory", str(path), *flags, "--quiet"]) == 0
        return (path / "memory.npz").read_bytes(), read_json(path / "memory.json"), load_arrays(path / "memory.npz")

    data, record, tables = measured(*MOVES)
    again = measured(*MOVES)
    assert again[:2] == (data, record)
    chunked = measured(*MOVES, "--chunk", "3")
    name = "strong-2"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), chunked[2][name], tables[name])
    assert chunked[1]["settings"]["chunk"] == 3
    other = measured(*MOVES, "--seed", "5")[2][name]["trained"]
    moved = [one["retrieval"]["stored, random"]["drawn"] for one in (other, tables[name]["trained"])]
    assert (moved[0] != moved[1]).any()
    for part in ("stored_distance", "losses", "radii"):
        jax.tree.map(np.testing.assert_array_equal, other[part], tables[name]["trained"][part])
    whole, last = measured(*MOVES, "--view", "whole")[1]["sets"][name]["trained"], record["sets"][name]["trained"]
    assert whole["view"] == "whole" and whole["theory_radius"] == pytest.approx(8**0.5 * last["theory_radius"])
    few = measured("--most", "5", "--retrieved", "0")
    assert few[1]["sets"][name]["trained"]["stored"] == few[1]["sets"][name]["trained"]["held_out"] == 5
    assert few[1]["sets"][name]["trained"]["retrieval"] == {} == few[2][name]["trained"]["retrieval"]
    np.testing.assert_array_equal(few[2][name]["trained"]["losses"]["stored"], tables[name]["trained"]["losses"]["stored"][:5])


def test_a_set_of_equal_sequences_is_measured_without_retrieval(
    of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = of("continue")
    record, models = command._models(str(path), True)
    (name, (stored, held_out)), (other, parts) = list(models.sets.items())[:2]
    equal = Samples(np.repeat(stored.tokens[:1], 4, 0), np.repeat(stored.mask[:1], 4, 0))
    found = models._replace(sets={name: (equal, held_out), other: parts})
    monkeypatch.setattr(command, "_models", lambda path, quiet: (record, found))
    assert main(["memory", str(path), *MOVES, "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "3 stored sequences repeat an earlier one" in said and f"{name}: the 4 sequences of a retrieval test are all" in said
    sets = read_json(path / "memory.json")["sets"]
    assert sets[name]["trained"]["retrieval"] == {} != sets[other]["trained"]["retrieval"]
    assert {layer["radius"] for layer in sets[name]["trained"]["layers"]} == {0.0}
    word, second = (one.replace("-", "_") for one in (name, other))
    kinds = {f"distances_{word}", f"radii_{word}", *(f"{kind}_{second}" for kind in ("distances", "radii", "retrieval"))}
    assert {figure[7:-4] for figure in drawn(path)} == kinds


def _settings(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((path / "config.json").read_text(encoding="utf-8"))
    change(record["config"])
    (path / "config.json").write_text(json.dumps(record), encoding="utf-8")


def _other_data(path: Path) -> None:
    _settings(path, lambda config: config["data"].update(fingerprint="0" * 16))


def _perceptron(path: Path) -> None:
    task = {"name": "perceptron", **dataclasses.asdict(options.Perceptron(width=4, examples=16, tests=8))}
    _settings(path, lambda config: config.update(task=task))


def _no_params(path: Path) -> None:
    (path / "params.npz").unlink()


def _no_base(path: Path) -> None:
    shutil.rmtree(path / "base")


def _no_base_params(path: Path) -> None:
    (path / "base" / "params.npz").unlink()


def _damaged(path: Path) -> None:
    (path / "params.npz").write_bytes((path / "params.npz").read_bytes()[:-200])


def _of_another_model(path: Path) -> None:
    params = load_arrays(path / "params.npz")
    save_arrays(path / "params.npz", {**params, "head": params["head"][:, :-1]})


def _diverged(path: Path) -> None:
    params = load_arrays(path / "params.npz")
    params["block_0"]["down"][:] = np.nan
    save_arrays(path / "params.npz", params)


def _no_config(path: Path) -> None:
    (path / "config.json").unlink()


def _another_kind(path: Path) -> None:
    _settings(path, lambda config: config.update(kind="control-base"))


def _other_text(path: Path) -> None:
    own = path.parent / "own.txt"  # a copy, as the run's own file belongs to all tests
    _settings(path, lambda config: own.write_text(Path(config["options"]["data"]["text"][0]).read_text().replace("dog", "hen")))
    _settings(path, lambda config: config["options"]["data"].update(text=[str(own)]))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("search", _perceptron, r"trained a perceptron, which has no layers of a transformer: give a run on language"),
        ("search", _no_params, r"has no stored model \(params.npz\): let the run end, or continue it with olm search --resume"),
        ("continue", _no_params, r"has no stored model \(params.npz\): let the run end, or continue it with olm continue --res"),
        ("control", _no_base, r"has no stored model \(base/params.npz\): go on with olm control train --resume"),
        ("control", _no_base_params, r"base has no stored model \(params.npz\): go on with olm control train --resume"),
        ("search", _damaged, r"params.npz is cut, damaged"),
        ("continue", _of_another_model, r"params.npz: leaf head is float32\[8, 255\], expected float32\[8, 256\]"),
        ("continue", _diverged, "activations of block 1 hold nan or infinities: the model has diverged"),
        ("search", _other_data, r"the data are not those of .*search \(fingerprint\): restore what it was made from"),
        ("continue", _other_data, r"the data are not those of .*continue \(fingerprint\): restore what it was made from"),
        ("control", _other_text, r"the data are not those of .*control \(.*fingerprint\): restore what it was made from"),
        ("search", _no_config, "is not a run folder"),
        ("continue", _another_kind, "holds no model of its own: give the folder of olm search, train, continue or control train"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    of: Callable[[str], Path], name: str, spoil: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = of(name)
    spoil(path)
    assert main(["memory", str(path), "--quiet"]) == 2
    said = capsys.readouterr()
    *told, error = said.err.splitlines()
    assert said.out == "" and all("stored sequences repeat an earlier one" in line for line in told) and len(told) < 2
    with pytest.raises(InputError, match=message):
        raise InputError(error)
    assert not list(path.glob("memory.*")) and not drawn(path)


def test_where_all_are_corrupted_there_is_no_clean_set(of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = of("search")
    _settings(path, lambda config: config["task"].update(corruption=1.0))
    restored = options.resolved(options.restored(str(path)))
    built = restored.task.build(restored.training.keys()[0], 0)
    _settings(path, lambda config: config.update(data=built.data))
    ((name, (stored, held)),) = command._of_search(str(path), Run.open(path), True).sets.items()
    assert "0 clean sequences were learned from: that half is left out" in capsys.readouterr().err
    assert name == "corrupted" and stored.tokens.shape == (12, 9) and held.tokens.shape == (9, 9)


@pytest.mark.parametrize(
    ("stored", "held", "message"), [(1, 8, "1 few sequences learned from"), (2, 0, "0 few sequences held out")]
)
def test_too_few_sequences_are_refused(
    runs: Path, stored: int, held: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part, whole = samples(np.zeros((8, 9), np.int32)), command._of_sequence(str(runs / "continue"), Run.open(runs / "continue"))
    few = whole._replace(sets={"few": (rows(part, slice(stored)), rows(part, slice(held)))})
    monkeypatch.setattr(command, "_of_sequence", lambda path, run: few)
    assert main(["memory", str(runs / "continue"), "--quiet"]) == 2
    assert f"has {message}: give a run with at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the folder of a run"),
        (["{run}", "--view", "first"], "view is 'first': give last or whole"),
        (["{run}", "--fractions", "1", "0"], r"fractions are \(1.0, 0.0\): give numbers above 0"),
        (["{run}", "--fractions", "nan"], "give numbers above 0"),
        (["{run}", "--most", "1"], "most is 1: give a whole number of at least 2"),
        (["{run}", "--retrieved", "-1"], "retrieved is -1"),
        (["{run}", "--chunk", "0"], "chunk is 0"),
        (["{run}", "--seed", "-1"], "seed is -1: give a number from 0"),
        (["{run}", "--nothing"], "nothing"),
        (["{run}/nowhere"], "is not a run folder"),
    ],
)
def test_wrong_words_are_refused(runs: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", *(word.format(run=runs / "search") for word in words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and not list((runs / "search").glob("memory.*"))
    with pytest.raises(InputError, match=message):
        raise InputError(said.err)
