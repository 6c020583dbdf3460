"""The ready-made tasks: the paper's perceptron, language from stories and from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.data import stories as story_data
from olm.data.corruption import Corruption
from olm.data.stories import StoryConfig
from olm.errors import InputError
from olm.models.transformer import TransformerConfig
from olm.tasks import language
from olm.tasks.language import Stories
from olm.tasks.perceptron import perceptron

SMALL = Stories(TransformerConfig(length=12, width=8, layers=1, heads=2), examples=20, targets=6, tests=5)

# --- perceptron -------------------------------------------------------------------------------------------------------


def test_the_perceptrons_inputs_have_the_published_laws() -> None:
    task = perceptron(jax.random.key(0))
    train, test = task.train["x"], task.test["x"]
    assert train.shape == (4096, 128) and task.target["x"].shape == (512, 128) and test.shape == (8192, 128)
    np.testing.assert_allclose([train.mean(), train.var(), test.mean(), test.var()], [0, 3, 0.5, 1], atol=0.02)
    assert set(np.unique(task.train["y"])) == {0.0, 1.0}
    assert task.alphabet == 2 and train.dtype == task.train["y"].dtype == jnp.float32


def test_one_teacher_labels_every_set() -> None:
    """Whoever learns the teacher from training examples alone labels the targets and fresh draws well."""
    task = perceptron(jax.random.key(1), width=16)
    x, y = np.asarray(task.train["x"]), 2 * np.asarray(task.train["y"]) - 1
    w = np.linalg.lstsq(x, y, rcond=None)[0]
    for batch in (task.target, task.test, task.draw(jax.random.key(2), 1000)):
        assert ((np.asarray(batch["x"]) @ w > 0) == np.asarray(batch["y"])).mean() > 0.97


def test_uniform_learning_gives_the_published_baselines_curve() -> None:
    """Full-batch gradient descent, η = 0.1, T = 2000: independent re-runs had mean target losses of 0.14 to 0.17 nats."""
    task = perceptron(jax.random.key(0), tests=1)

    def step(params: dict, _: None) -> tuple[dict, jax.Array]:
        gradient = jax.grad(lambda p: task.losses(p, task.train).mean())(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return params, task.losses(params, task.target).mean()

    _, curve = jax.jit(lambda p: jax.lax.scan(step, p, None, length=2000))(task.init(jax.random.key(1)))
    assert 0.13 < curve.mean() < 0.19
    assert 0.08 < curve[-1] < 0.13


def test_perceptron_draws_and_types() -> None:
    task = perceptron(jax.random.PRNGKey(0), width=4, examples=3, targets=2, tests=1)
    first, again, other = (task.draw(jax.random.key(seed), 3)["x"] for seed in (5, 5, 6))
    assert (first == again).all() and (first != other).all()
    with jax.enable_x64(True):
        exact = perceptron(jax.random.key(0), width=4, examples=3, targets=2, tests=1)
        assert exact.init(jax.random.key(0))["w"].dtype == exact.train["y"].dtype == jnp.float64
        narrow = perceptron(jax.random.key(0), width=4, examples=3, targets=2, tests=1, dtype=jnp.float32)
        assert narrow.losses(narrow.init(jax.random.key(0)), narrow.train).dtype == jnp.float32


@pytest.mark.parametrize("settings", [{"width": 0}, {"examples": 0}, {"tests": -1}, {"train_variance": 0.0}])
def test_impossible_perceptrons_say_what_to_change(settings: dict) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(settings))} must be"):
        perceptron(jax.random.key(0), **settings)


# --- generated stories ------------------------------------------------------------------------------------------------


def test_half_of_the_training_stories_are_spoiled_and_no_target_is() -> None:
    built = language.stories(jax.random.key(0), replace(SMALL, tests=800))
    train, grammar = built.task.train, built.grammar
    assert built.corrupted.sum() == 10
    clean = np.isfinite(story_data.losses(grammar, np.asarray(train["tokens"])))
    assert clean[~built.corrupted].all() and not clean[built.corrupted].any()
    assert train["mask"][~built.corrupted].all() and not train["mask"][built.corrupted].all()
    nats = story_data.losses(grammar, np.asarray(built.task.test["tokens"]))
    assert abs(nats.mean() - built.entropy) < 3 * nats.std() / np.sqrt(800)
    assert built.decode(train["tokens"][int(np.argmin(built.corrupted))]).startswith("<story> ")


def test_stories_make_a_task() -> None:
    built = language.stories(jax.random.key(0), SMALL)
    task, model = built.task, built.model
    assert task.alphabet == model.vocabulary == 256 and model.length == 12
    params = task.init(jax.random.key(1))
    draw = jax.jit(lambda key: task.draw(key, 7))
    first, second = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert first["tokens"].shape == (7, 13) and (first["tokens"] != second["tokens"]).any()
    losses = jax.jit(task.losses)
    for batch, n in ((task.train, 20), (task.target, 6), (task.test, 5), (first, 7)):
        assert jax.tree.structure(batch) == jax.tree.structure(task.train)
        values = losses(params, batch)
        assert values.shape == (n,) and values.dtype == jnp.float32
        # Before learning all tokens are about equally likely.
        assert abs(float(values.mean()) - np.log(256)) < 0.6
    sets = [np.asarray(batch["tokens"]) for batch in (task.target, task.test, first, second)]
    assert all((a[:5] != b[:5]).any() for i, a in enumerate(sets) for b in sets[:i])


def test_the_target_may_have_other_topics() -> None:
    shifted = language.stories(jax.random.key(0), replace(SMALL, target_mixture=(0.0, 0.0, 0.0, 1.0)))
    same = language.stories(jax.random.key(0), SMALL)
    np.testing.assert_array_equal(shifted.task.train["tokens"], same.task.train["tokens"])
    assert shifted.entropy < same.entropy - 0.05
    places = {int(place) for place in shifted.task.draw(jax.random.key(0), 200)["tokens"][:, 3]}
    assert len(places) == 4
    assert shifted.decode([3, 4, 5]) == same.decode([3, 4, 5])


def test_stories_under_x64_keep_32_bit_tokens() -> None:
    with jax.enable_x64(True):
        built = language.stories(jax.random.key(0), SMALL)
        params = built.task.init(jax.random.key(0))
        assert built.task.train["tokens"].dtype == built.task.target["tokens"].dtype == jnp.int32
        assert jax.eval_shape(built.task.losses, params, built.task.train).dtype == jnp.float64


def test_the_papers_preset_has_the_papers_sizes() -> None:
    preset = language.PAPER
    assert (preset.task.examples, preset.task.targets, preset.steps, preset.rate) == (16384, 512, 4000, 0.1)
    assert preset.task.model.parameters == 1_682_688
    assert preset.task.grammar.vocabulary == preset.task.model.vocabulary == 5000
    assert preset.task.corruption == Corruption(0.5, 20)
    assert (language.CPU.task, language.CPU.steps, language.CPU.rate, language.CPU.clip) == (Stories(), 300, 0.3, 0.5)


def test_impossible_stories_say_what_to_change() -> None:
    with pytest.raises(InputError, match="examples must be at least 1"):
        language.stories(jax.random.key(0), replace(SMALL, examples=0))
    with pytest.raises(InputError, match="vocabulary 40 is too small"):
        language.stories(jax.random.key(0), replace(SMALL, grammar=StoryConfig(vocabulary=40)))


# --- text files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Numbered lines; those to learn from begin with "a", those to be good at with "b"."""
    paths = tmp_path / "train.txt", tmp_path / "target.txt"
    for letter, path in zip("ab", paths, strict=True):
        path.write_text("".join(f"{letter}{i:03d} is a line.\n" for i in range(60)))
    return paths


MODEL = TransformerConfig(length=20, width=8, layers=1, heads=2)
SIZES = {"model": MODEL, "split": "lines", "examples": 12, "targets": 8, "tests": 9}


@pytest.mark.parametrize("tokens", ["bpe", "bytes"])
def test_files_make_disjoint_sets(files: tuple[Path, Path], tokens: str) -> None:
    train, target = files
    built = language.text(jax.random.key(0), [train], [target], tokens=tokens, vocabulary=60, **SIZES)
    task = built.task
    lines = [[built.decode(row) for row in batch["tokens"]] for batch in (task.train, task.target, task.test)]
    assert [len(part) for part in lines] == [12, 8, 9]
    assert all(line[0] == "a" for line in lines[0]) and all(line[0] == "b" for line in lines[1] + lines[2])
    assert not set(lines[1]) & set(lines[2])
    assert task.draw is None and built.entropy is None and task.alphabet == built.model.vocabulary == built.tokenizer.vocabulary
    assert task.target["tokens"].shape == (8, 21) and not built.corrupted.any()
    losses = jax.jit(task.losses)(task.init(jax.random.key(0)), task.target)
    assert losses.shape == (8,) and jnp.isfinite(losses).all()
    again = language.text(jax.random.key(0), [train], [target], tokens=tokens, vocabulary=60, **SIZES)
    np.testing.assert_array_equal(again.task.test["tokens"], task.test["tokens"])


def test_one_set_of_files_serves_for_all(files: tuple[Path, Path]) -> None:
    built = language.text(jax.random.key(0), [files[0]], corruption_of_train=Corruption(), tokens="bytes", **SIZES)
    assert built.corrupted.sum() == 6
    parts = [[built.decode(row) for row in batch["tokens"]] for batch in (built.task.train, built.task.target, built.task.test)]
    clean = {line for line, spoiled in zip(parts[0], built.corrupted, strict=True) if not spoiled}
    assert len(clean) == 6 and len(clean | set(parts[1]) | set(parts[2])) == 6 + 8 + 9


def test_the_tokenizer_never_sees_the_test_documents(tmp_path: Path) -> None:
    """Every line has a letter of its own; those of the test lines stay unknown."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"letter {chr(0x1D00 + i)} and no other" for i in range(60)), encoding="utf-8")
    built = language.text(jax.random.key(0), [path], vocabulary=300, **{**SIZES, "model": replace(MODEL, length=30)})
    assert len({c for row in built.task.train["tokens"] for c in built.decode(row) if ord(c) > 999}) == 12
    unknown = (built.task.test["tokens"] == 0).any(axis=1)
    assert unknown.all() and not (built.task.train["tokens"] == 0).any()


def test_no_text_is_learned_and_tested(tmp_path: Path) -> None:
    """Lines that stand in both files, or twice in one, are never in two sets."""
    shared = [f"common line {i}" for i in range(20)]
    train, target = tmp_path / "train.txt", tmp_path / "target.txt"
    train.write_text("\n".join(shared + [f"training line {i}" for i in range(40)]), encoding="utf-8")
    target.write_text("\n".join(shared + [f"target line {i % 30}" for i in range(90)]), encoding="utf-8")
    settings = {"tokens": "bytes", "split": "lines", "model": replace(MODEL, length=30), "examples": 60, "targets": 9, "tests": 9}
    built = language.text(jax.random.key(0), [train], [target], **settings)
    sets = [{built.decode(row) for row in batch["tokens"]} for batch in (built.task.train, built.task.target, built.task.test)]
    assert len(sets[0]) == 60 and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    with pytest.raises(InputError, match="every document of the target files is in the training files"):
        language.text(jax.random.key(0), [train], [train], **settings)


def test_unusable_files_say_what_to_change(files: tuple[Path, Path]) -> None:
    train, target = files
    key = jax.random.key(0)
    with pytest.raises(InputError, match="the text gives 60 examples, not 61: ask for fewer"):
        language.text(key, [train], [target], **{**SIZES, "examples": 61})
    with pytest.raises(InputError, match=r"the text gives \d\d (targets|tests), not"):
        language.text(key, [train], [target], **{**SIZES, "targets": 40, "tests": 40})
    with pytest.raises(InputError, match=r"1 different document\(s\) cannot be kept apart as targets, tests"):
        language.text(key, [train], [target], **{**SIZES, "split": "files"})
    with pytest.raises(InputError, match="cannot read"):
        language.text(key, [train], [target.with_name("none")], **SIZES)
    with pytest.raises(InputError, match="tokens must be bpe or bytes, not 'words'"):
        language.text(key, [train], [target], tokens="words", **SIZES)
    with pytest.raises(InputError, match="tests must be at least 1, not 0"):
        language.text(key, [train], [target], **{**SIZES, "tests": 0})
