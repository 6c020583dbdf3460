"""`olm control`: what it writes and prints, how it goes on, what it refuses."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olm.cli import main
from olm.control import text as control_text
from olm.control.keywords import finder
from olm.errors import DivergenceError, StorageError
from olm.models import hmm as hmms
from olm.records import Run, load_arrays

TINY = [
    "--width", "16", "--layers", "1", "--heads", "2", "--vocabulary", "90", "--length", "12", "--steps", "120", "--batch-size",
    "32", "--peak", "0.01", "--samples", "300", "--states", "6", "--em-steps", "4", "--guide-steps", "150", "--guide-peak",
    "0.01", "--quiet",
]  # fmt: skip
ANIMALS, VERBS, PLACES = ("dog", "cat", "cow"), (("run", "runs"), ("sit", "sits"), ("sing", "sings")), ("field", "house", "tree")


def write_files(folder: Path) -> Path:
    """Sentences of a small grammar; sources and targets as in CommonGen; keys and references of sets, and the same as JSON."""
    pairs = []
    for (a, (verb, form), p), kind in itertools.product(itertools.product(ANIMALS, VERBS, PLACES), range(3)):
        sentence = (f"The {a} {form} in the {p}.", f"In the {p} a {a} {form}.", f"A {a} {form}.")[kind]
        pairs.append(((a, verb, p) if kind < 2 else (a, verb), sentence))
    (folder / "own.txt").write_text("\n".join(sentence for _, sentence in pairs) + "\n", encoding="utf-8")
    (folder / "src.txt").write_text("\n".join(" ".join(words) for words, _ in pairs) + "\n", encoding="utf-8")
    (folder / "tgt.txt").write_text("\n".join(sentence for _, sentence in pairs) + "\n", encoding="utf-8")
    sets = [("dog", "run"), ("cow", "sit", "tree"), ("cat", "house")]
    (folder / "keys.txt").write_text("\n".join(" ".join(one) for one in sets) + "\n", encoding="utf-8")
    refs = [["The dog runs in the field.", "A dog runs."], ["The cow sits in the tree."], ["In the house a cat sings."]]
    (folder / "refs.txt").write_text("\n\n".join("\n".join(several) for several in refs) + "\n", encoding="utf-8")
    rows = [
        {"concept_set": "#".join(f"{word}_N" for word in one), "scene": several} for one, several in zip(sets, refs, strict=True)
    ]
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("text"))


def on_text(files: Path, *more: str) -> list[str]:
    return ["control", "train", "--text", str(files / "own.txt"), "--keywords", "cow|cat", "sits", *TINY, *more]


def on_pairs(files: Path, *more: str) -> list[str]:
    return ["control", "train", "--sources", str(files / "src.txt"), "--targets", str(files / "tgt.txt"), *TINY, *more]


@pytest.fixture(scope="module")
def words_run(files: Path) -> Path:
    """Fixed keywords, an unconditional base, DiNADO."""
    path = files / "words"
    assert main(on_text(files, "--run-dir", str(path), "--samples", "600")) == 0
    return path


@pytest.fixture(scope="module")
def pairs_run(files: Path) -> Path:
    """A base that reads concepts, no learned guide."""
    path = files / "pairs"
    assert main(on_pairs(files, "--method", "gelato", "--run-dir", str(path))) == 0
    return path


# --- train ------------------------------------------------------------------------------------------------------------


def test_a_run_explains_itself(words_run: Path) -> None:
    run = Run.open(words_run)
    summary, config = run.summary(), run.config
    assert config["kind"] == "control" and config["options"]["data"]["keywords"] == ["cow|cat", "sits"]
    assert list(config["files"]) == [str(words_run.parent / "own.txt")]
    assert config["data"]["sentences"] + config["data"]["held_out"] + config["data"]["dropped"] == 81
    samples = load_arrays(words_run / "samples.npz")
    assert samples["tokens"].shape == (600, 12)
    assert summary["samples"]["accepted"] == samples["label"].sum()
    assert summary["samples"]["rate"] == pytest.approx(samples["label"].mean())
    # Of the text 2 of 3 animals times 1 of 3 verbs hold both; the base and its stand-in are near to that.
    for name in ("rate", "rate_of_hmm"):
        assert summary["samples"][name] == pytest.approx(2 / 9, abs=0.13), name
    for stage, last in (("base", 120), ("hmm", 4), ("guide", 150)):
        rows = Run.open(words_run / stage).metrics()
        assert rows[-1]["step"] == last
        assert summary[stage]["seconds"] > 0
        assert summary[stage]["loss"] == rows[-1]["held_out" if stage == "hmm" else "loss"]
    assert summary["base"]["loss"] < 0.4 * Run.open(words_run / "base").metrics()[0]["loss"]
    assert summary["guide"]["loss"] < 0.7 * summary["guide"]["loss_before"]


@pytest.mark.parametrize("stage", ["base", "hmm", "guide"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    stage: str, files: Path, words_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, appended, rows = tmp_path / "cut", Run.append_metrics, []

    def append(run: Run, row: dict[str, Any]) -> None:
        appended(run, row)
        if run.path.name == stage and not rows and row["step"] > 2:
            rows.append(row)
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "append_metrics", append)
    assert main(on_text(files, "--run-dir", str(path), "--samples", "600", "--save-every", "0")) == 130
    assert f"olm control train --resume {path}" in capsys.readouterr().err
    assert rows and not (path / "summary.json").exists()
    assert main(["control", "generate", str(path)]) == 2
    assert "is not finished: go on with olm control train --resume" in capsys.readouterr().err
    assert main(["control", "train", "--resume", str(path), "--quiet"]) == 0
    for name in ("base/params.npz", "samples.npz", "hmm/hmm.npz", "guide/params.npz", "hmm/metrics.jsonl", "guide/metrics.jsonl"):
        assert (path / name).read_bytes() == (words_run / name).read_bytes(), name


def test_rounds_draw_from_what_was_learned_and_may_be_interrupted(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended, rows = Run.append_metrics, []
    more = ["--samples", "300", "--rounds", "3", "--guide-steps", "30"]
    assert main(on_text(files, "--run-dir", str(tmp_path / "whole"), *more)) == 0
    metrics = Run.open(tmp_path / "whole" / "guide").metrics()
    assert [row["round"] for row in metrics if row["step"] % 10 == 0 and row["step"]] == [0, 1, 1, 2, 2]
    state, meta = Run.open(tmp_path / "whole" / "guide").load_state()
    labels = np.asarray(state[1]["label"]).reshape(3, -1)
    assert meta["round"] == 3 and labels.shape == (3, 270)
    assert len({labels[i].tobytes() for i in range(3)}) == 3  # every round drew anew

    def append(run: Run, row: dict[str, Any]) -> None:
        appended(run, row)
        if row.get("round") == 1 and not rows:
            rows.append(row)
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "append_metrics", append)
    assert main(on_text(files, "--run-dir", str(tmp_path / "cut"), *more)) == 130
    assert rows and Run.open(tmp_path / "cut" / "guide").load_state()[1]["round"] == 1
    assert main(["control", "train", "--resume", str(tmp_path / "cut"), "--quiet"]) == 0
    for name in ("params.npz", "metrics.jsonl"):
        assert (tmp_path / "cut" / "guide" / name).read_bytes() == (tmp_path / "whole" / "guide" / name).read_bytes()


def test_the_chain_learns_from_the_base_itself_at_any_temperature(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, distil, drawn, learned = control_text.draw, control_text.distil, {}, []

    def drawing(*args: Any, temperature: float, **more: Any) -> Any:
        drawn[temperature] = draw(*args, temperature=temperature, **more)
        return drawn[temperature]

    def distilling(tokens: np.ndarray, *args: Any, held_out: np.ndarray, **more: Any) -> Any:
        learned.append(np.concatenate([tokens, held_out]))
        return distil(tokens, *args, held_out=held_out, **more)

    monkeypatch.setattr(control_text, "draw", drawing)
    monkeypatch.setattr(control_text, "distil", distilling)
    more = ["--method", "gelato", "--temperature", "3", "--run-dir", str(tmp_path / "hot")]
    assert main(on_text(files, *more)) == 0
    assert sorted(drawn) == [1.0, 3.0]
    np.testing.assert_array_equal(learned[0], drawn[1.0].batch["tokens"])
    saved = Run.open(tmp_path / "hot").load("samples")
    np.testing.assert_array_equal(saved["tokens"], drawn[3.0].batch["tokens"])


def test_a_finished_run_is_not_trained_again(words_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {one: one.read_bytes() for one in words_run.rglob("*.npz")}
    summary = Run.open(words_run).summary()
    assert main(["control", "train", "--resume", str(words_run), "--quiet"]) == 0
    assert {one: one.read_bytes() for one in words_run.rglob("*.npz")} == before
    assert Run.open(words_run).summary() == summary
    capsys.readouterr()
    assert main(["control", "train", "--resume", str(words_run), "--states", "7"]) == 2
    assert "made with other settings: options.chain.states is 6 there and 7 here" in capsys.readouterr().err
    assert Run.open(words_run).summary() == summary


def test_rare_words_are_said_and_more_samples_may_be_drawn(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No sentence has two animals, so the oracle is silent; the base that was trained stays."""
    path = tmp_path / "rare"
    words = ["control", "train", "--text", str(files / "own.txt"), *TINY, "--run-dir", str(path), "--samples", "20"]
    assert main([*words, "--keywords", "dog", "cat", "cow"]) == 2
    error = capsys.readouterr().err
    assert "the oracle accepts 0 of 20 samples (rate below 0.15): draw more" in error
    assert (path / "base" / "params.npz").exists() and not (path / "samples.npz").exists()
    base = (path / "base" / "params.npz").read_bytes()
    assert main(["control", "train", "--resume", str(path), "--samples", "24", "--quiet"]) == 2
    assert "accepts 0 of 24 samples" in capsys.readouterr().err
    assert (path / "base" / "params.npz").read_bytes() == base
    assert main(["control", "train", "--resume", str(path), "--keywords", "dog"]) == 2
    assert "options.data.keywords" in capsys.readouterr().err


def test_words_of_every_sentence_leave_nothing_to_control(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["control", "train", "--text", str(files / "own.txt"), *TINY, "--run-dir", str(tmp_path / "run"), "--samples", "20"]
    assert main([*words, "--keywords", "a|the|in|dog|cat|cow"]) == 2
    assert "the oracle accepts 20 of 20 samples" in capsys.readouterr().err


@pytest.mark.parametrize("error", [StorageError("the disk is full"), DivergenceError("the loss is not finite")])
def test_a_full_disk_and_a_divergence_end_with_status_3(
    error: Exception, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(hmms, "fit", fails)
    assert main(on_text(files, "--run-dir", str(tmp_path / "run"))) == 3
    assert str(error) in capsys.readouterr().err
    assert (tmp_path / "run" / "samples.npz").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to do"),
        (["sing"], "unknown command 'sing'"),
        (["train"], "give sentences as --text FILE"),
        (["train", "--text", "own.txt", "--sources", "src.txt", "--targets", "tgt.txt"], "give sentences as --text FILE"),
        (["train", "--sources", "src.txt"], "--sources and --targets go together"),
        (["train", "--sources", "src.txt", "--targets", "tgt.txt", "--variants", "0"], "variants is 0"),
        (["train", "--sources", "src.txt", "--targets", "tgt.txt", "--keywords", "dog"], "leave --keywords out"),
        (["train", "--sources", "src.txt", "--targets", "keys.txt"], "give files whose lines belong together"),
        (["train", "--text", "own.txt"], "method dinado learns what to hold: give --keywords"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--method", "magic"], "unknown method 'magic'"),
        (["train", "--text", "own.txt", "--keywords", "dog||cat"], "has an empty alternative"),
        (["train", "--text", "own.txt", "--keywords", "zebra"], "keyword 'zebra' has bytes no token stands for"),
        (
            ["train", "--text", "own.txt", "--keywords", "dog", "fieldtreehousefieldtreehousefieldtree"],
            "keyword 'fieldtreehousefieldtreehousefieldtree' needs ",
        ),
        (["train", "--text", "empty.txt", "--keywords", "dog"], "empty.txt is empty"),
        (["train", "--text", "gone.txt", "--keywords", "dog"], "cannot read"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--length", "2"], "no sentence to learn from has at most 2 tokens"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--split", "words"], "split must be one of"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--case", "upper"], "unknown case 'upper'"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--vocabulary", "9"], "raise it"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--width", "9"], "not a multiple of heads"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--states", "1"], "states is 1"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--temperature", "0"], "temperature is 0"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--samples", "3"], "samples is 3"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--method", "lora", "--rank", "99"], "rank 99 exceeds the width 16"),
        (["train", "--text", "own.txt", "--method", "gelato", "--rounds", "2"], "gelato learns no guide: leave --rounds out"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--seed", "-1"], "seed is -1"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--held-out", "1"], "held-out is 1"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--save-every", "-1"], "save-every is -1"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--peak", "0"], "peak is 0"),
        (["train", "--text", "own.txt", "--keywords", "dog", "--peek", "0"], "did you mean"),
        (["train", "--resume", "nowhere"], "not a run folder"),
        (["generate"], "name the folder of a run"),
        (["generate", "nowhere"], "not a run folder"),
        (["evaluate"], "name the folder of a run"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(
    words: list[str],
    message: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    tiny = [w for pair in zip(TINY[::2], TINY[1::2], strict=False) if pair[0] not in words for w in pair]
    more = tiny if words[:1] == ["train"] and "--resume" not in words else []
    assert main(["control", *words, *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# --- generate ---------------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["control", *words, "--quiet"]) == 0
    return capsys.readouterr().out.splitlines()


def test_gelato_always_writes_the_words(words_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "generate", str(words_run), "--guide", "gelato", "--n", "12")
    assert len(lines) == 12
    for line in lines:
        assert all(finder(one).search(line.encode()) for one in (("cow", "cat"), "sits")), line
    assert lines == said(capsys, "generate", str(words_run), "--guide", "gelato", "--n", "12")
    assert lines != said(capsys, "generate", str(words_run), "--guide", "gelato", "--n", "12", "--seed", "1")
    for decode in (["--decode", "beam", "--width", "4", "--n", "2"], ["--decode", "greedy"]):
        found = said(capsys, "generate", str(words_run), "--guide", "gelato", *decode)
        assert len(found) == (2 if "beam" in decode else 1) and all("sits" in line for line in found)
    others = said(capsys, "generate", str(words_run), "--guide", "mask", "--n", "5", "--keywords", "dog", "house")
    assert all("dog" in line and "house" in line for line in others)


def test_sentences_of_several_sets_go_to_a_file_that_can_be_read_back(
    pairs_run: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.txt"
    words = ["generate", str(pairs_run), "--concepts", str(files / "keys.txt"), "--n", "2", "--output", str(out)]
    assert said(capsys, *words) == []
    blocks = [block.split("\n") for block in out.read_text(encoding="utf-8").strip("\n").split("\n\n")]
    assert [len(block) for block in blocks] == [2, 2, 2]
    for block, concepts in zip(blocks, (("dog", "run"), ("cow", "sit", "tree"), ("cat", "house")), strict=True):
        assert all(finder(one, inflections=True).search(line.encode()) for line in block for one in concepts)
    single = said(capsys, "generate", str(pairs_run), "--keywords", "dog", "sing", "--n", "3", "--weight", "0.5")
    assert all(finder("sing", inflections=True).search(line.encode()) for line in single)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "WORDS", "--keywords", "dog"], "the learned guide is for 'cow|cat' 'sits' only"),
        (["generate", "WORDS", "--guide", "magic"], "unknown guide 'magic'"),
        (["generate", "WORDS", "--weight", "0.5"], "weight is for guide gelato"),
        (["generate", "WORDS", "--temperature", "0"], "temperature is 0"),
        (["generate", "WORDS", "--decode", "greedy", "--n", "3"], "greedy decoding writes one sentence"),
        (["generate", "WORDS", "--guide", "gelato", "--keywords", "zebra"], "keyword 'zebra' has bytes no token stands for"),
        (["generate", "PAIRS"], "give a file of concepts, or --keywords"),
        (["generate", "PAIRS", "--keywords", "dog", "--guide", "learned"], "no guide was learned here"),
        (["generate", "PAIRS", "--keywords", "dog", "--concepts", "KEYS"], "give one of them"),
        (["generate", "PAIRS", "--keywords", "dog", "--output", "gone/out.txt"], "gone/out.txt"),
        (["evaluate", "WORDS", "--sets", "2"], "--sets chooses among the sets of a file"),
        (["evaluate", "PAIRS", "--references", "KEYS"], "--references are of the sets of --concepts"),
        (["evaluate", "PAIRS", "--jsonl", "KEYS", "--concepts", "KEYS"], "give one of them"),
        (["evaluate", "PAIRS", "--concepts", "KEYS", "--guides", "magic"], "unknown guide 'magic'"),
        (["evaluate", "PAIRS", "--concepts", "KEYS", "--sets", "9"], "sets is 9: give a number from 1 to 3"),
        (["evaluate", "PAIRS", "--concepts", "KEYS", "--guides", "none", "--weight", "0.5"], "weight is for guide gelato"),
    ],
)
def test_writing_that_cannot_be_is_refused_in_one_line(
    words: list[str],
    message: str,
    words_run: Path,
    pairs_run: Path,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"WORDS": str(words_run), "PAIRS": str(pairs_run), "KEYS": str(files / "keys.txt")}
    capsys.readouterr()
    assert main(["control", *(places.get(word, word) for word in words), "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_command_is_no_run_of_this_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.create(tmp_path / "other", {"kind": "search"}).close()
    for words in (["train", "--resume"], ["generate"], ["evaluate"]):
        assert main(["control", *words, str(tmp_path / "other")]) == 2
        assert "was not made by olm control train" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["hard", "lora", "fudge"])
def test_what_a_method_learned_comes_back_from_the_folder(
    method: str, files: Path, words_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base and the samples of another run; the guide is loaded as it was saved."""
    path = tmp_path / "run"
    shutil.copytree(words_run, path)
    shutil.rmtree(path / "guide")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["config"]["options"]["guide"] |= {"method": method, "rank": 4, "guide_steps": 60}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["control", "train", "--resume", str(path), "--quiet"]) == 0
    summary = Run.open(path).summary()
    assert summary["guide"]["loss"] < summary["guide"]["loss_before"]
    lines = said(capsys, "generate", str(path), "--n", "60")
    held = [all(finder(one).search(line.encode()) for one in (("cow", "cat"), "sits")) for line in lines]
    assert np.mean(held) > summary["samples"]["rate"] + 0.1


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_every_guide_holds_more_words_than_none(words_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "evaluate", str(words_run), "--n", "100")
    found = json.loads((words_run / "evaluation.json").read_text(encoding="utf-8"))
    guides = found["guides"]
    assert [line.split()[0] for line in out[:5]] == ["guide", "none", "mask", "gelato", "learned"]
    assert guides["gelato"]["satisfied"] == guides["mask"]["satisfied"] == guides["gelato"]["coverage"] == 1
    assert guides["none"]["complete"] < 0.5 < guides["learned"]["complete"]
    assert guides["none"]["nats_per_token"] < guides["gelato"]["nats_per_token"] < guides["mask"]["nats_per_token"]
    low, high = guides["learned"]["complete_interval"]
    assert low <= guides["learned"]["complete"] <= high and high - low < 0.25
    assert all(one["tokens_per_second"] > 0 and one["sentences"] == 100 for one in guides.values())


def test_bleu_and_coverage_of_sets_with_references(pairs_run: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--concepts", str(files / "keys.txt"), "--references", str(files / "refs.txt")]
    out = said(capsys, "evaluate", str(pairs_run), *keys, "--guides", "none", "gelato", "--decode", "beam", "--width", "3")
    found = json.loads((pairs_run / "evaluation.json").read_text(encoding="utf-8"))
    assert "BLEU" in out[0] and out[-1].startswith("in brackets: 95% over 3 sets")
    assert found["guides"]["gelato"]["coverage"] == 1 >= found["guides"]["none"]["coverage"]
    assert 0 < found["guides"]["gelato"]["bleu"] <= 100
    said(capsys, "evaluate", str(pairs_run), "--jsonl", str(files / "dev.jsonl"), "--guides", "gelato", "--decode", "beam",
         "--width", "3")  # fmt: skip
    again = json.loads((pairs_run / "evaluation.json").read_text(encoding="utf-8"))
    assert again["guides"]["gelato"]["bleu"] == found["guides"]["gelato"]["bleu"]  # the same sets, read from another file


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "--help"]) == 0
    assert "olm control evaluate RUN" in capsys.readouterr().out
    for command in ("train", "generate", "evaluate"):
        assert main(["control", command, "--help"]) == 0
        assert "usage: olm control" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "control" in capsys.readouterr().out
