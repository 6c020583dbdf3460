"""What the command line can learn: each task's settings as flags, and how they become a `olm.Task`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from tyro.conf import arg

from olm.errors import InputError
from olm.records import fingerprint
from olm.types import Task


def none_means(meaning: str) -> Callable[[str], str]:
    """How the help shows a default that may be None."""
    return lambda default: f"(default: {meaning if default == 'None' else default})"


def count(meaning: str) -> Any:
    return arg(metavar="INT|None", help_behavior_hint=none_means(meaning))


class Built(NamedTuple):
    """A task and what else is known about it.

    Attributes:
      task: what is learned.
      data: what identifies the data, for ``config.json``.
      facts: numbers for ``summary.json``; ``entropy`` is the loss in nats that no model can beat.
      group: [N] 1 for a corrupted training example, or None.
      model: sizes of the transformer, or None where it is another model.
    """

    task: Task
    data: dict[str, Any]
    facts: dict[str, Any]
    group: np.ndarray | None = None
    model: Any = None


@dataclass(frozen=True)
class Perceptron:
    """The perceptron of the Learning Law paper: a teacher labels, training inputs are shifted against those that count."""

    name = "perceptron"

    width: int = 128
    """D, length of an input."""
    examples: int = 4096
    """N, training examples."""
    targets: int = 512
    """K, examples of the fixed target sample (used when --target-draws is 0)."""
    tests: int = 8192
    """M, held-out examples; no choice looks at them."""
    train_variance: float = 3.0
    """Variance of each coordinate of a training input."""
    target_mean: float = 0.5
    """Mean of each coordinate of a target input."""

    def resolved(self) -> Perceptron:
        return self

    def build(self, key: jax.Array, seed: int) -> Built:
        from olm.tasks.perceptron import perceptron

        task = perceptron(key, **dataclasses.asdict(self))
        return Built(task, {"fingerprint": _fingerprint(task)}, {})


@dataclass(frozen=True)
class Language:
    """The paper's small transformer on generated stories, half of them corrupted, or on text files of your own."""

    name = "language"

    train: Annotated[tuple[str, ...], arg(metavar="FILE ...", help_behavior_hint="(default: none, generated stories)")] = ()
    """UTF-8 text files to learn from."""
    target: Annotated[tuple[str, ...], arg(metavar="FILE ...", help_behavior_hint="(default: the --train files)")] = ()
    """UTF-8 text files of the kind to become good at; targets and held-out tests are from different documents."""
    split: Annotated[str, arg(metavar="{paragraphs,lines,files}")] = "paragraphs"
    """For files: what a document is."""
    tokens: Annotated[str, arg(metavar="{bpe,bytes}")] = "bpe"
    """For files: byte-pair encodings learned on the spot, or bytes."""
    vocabulary: Annotated[int | None, count("256 of stories, 512 of files")] = None
    """V, token ids: of the stories, or wanted of byte-pair encodings."""
    examples: int = 256
    """N, training sequences."""
    targets: int = 256
    """K, sequences of the fixed target sample."""
    tests: Annotated[int | None, count("1024 of stories, 256 of files")] = None
    """M, held-out sequences; no choice looks at them."""
    corruption: Annotated[
        float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("0.5 of stories, 0 of files"))
    ] = None
    """Share of the training sequences that is corrupted, 0 to 1."""
    edits: int = 20
    """Edits of each corrupted sequence: replace a token, delete the last, or repeat one."""
    odds: Annotated[tuple[float, float, float], arg(metavar="FLOAT FLOAT FLOAT")] = (1.0, 1.0, 1.0)
    """Relative odds of those three edits."""
    topics: int = 4
    """For stories: topics of the grammar."""
    mixture: Annotated[tuple[float, ...], arg(metavar="FLOAT ...", help_behavior_hint="(default: all alike)")] = ()
    """For stories: probability of each topic."""
    target_mixture: Annotated[tuple[float, ...], arg(metavar="FLOAT ...", help_behavior_hint="(default: as in training)")] = ()
    """For stories: probability of each topic in the target distribution."""
    names: int = 8
    """For stories: names in the grammar."""
    places: int = 4
    """For stories: places of each topic."""
    objects: int = 8
    """For stories: objects of each topic."""
    exponent: float = 1.0
    """For stories: the r-th word of a list has probability in proportion to r^(−exponent)."""
    end: float = 0.2
    """For stories: probability that a story ends after a sentence."""
    language_seed: int = 0
    """For stories: which words there are; another seed is another language."""
    length: int = 16
    """L, tokens predicted in a sequence."""
    width: int = 32
    """D, width of the transformer."""
    layers: int = 2
    """Blocks of the transformer."""
    heads: int = 4
    """Attention heads of a block; divides the width."""
    mlp_ratio: int = 4
    """Hidden width of a block's network over the width."""
    score_scale: Annotated[str, arg(metavar="{width,head}")] = "width"
    """Attention scores are divided by the root of the whole width, as published, or of a head's."""
    init: Annotated[str, arg(metavar="{torch,gpt2}")] = "torch"
    """Initial weights: torch as published, or gpt2."""

    def resolved(self) -> Language:
        files = bool(self.train)
        return dataclasses.replace(
            self,
            train=tuple(map(os.path.abspath, self.train)),
            target=tuple(map(os.path.abspath, self.target)),
            vocabulary=self.vocabulary if self.vocabulary is not None else 512 if files else 256,
            tests=self.tests if self.tests is not None else 256 if files else 1024,
            corruption=self.corruption if self.corruption is not None else 0.0 if files else 0.5,
        )

    def build(self, key: jax.Array, seed: int) -> Built:
        from olm.data.corruption import Corruption
        from olm.data.stories import StoryConfig
        from olm.models.transformer import TransformerConfig
        from olm.tasks import language

        if self.target and not self.train:
            raise InputError("--target files need --train files: name them, or leave both out for generated stories")
        this: Any = self.resolved()
        corruption = Corruption(this.corruption, this.edits, this.odds)
        sizes = {name: getattr(this, name) for name in ("examples", "targets", "tests")}
        model = TransformerConfig(
            256, this.length, this.width, this.layers, this.heads, this.mlp_ratio, this.score_scale, this.init
        )
        if this.train:
            built = language.text(
                key,
                this.train,
                this.target,
                model=model,
                tokens=this.tokens,
                vocabulary=this.vocabulary,
                split=this.split,
                corruption_of_train=corruption,
                seed=seed,
                **sizes,
            )
        else:
            names = ("vocabulary", "topics", "names", "places", "objects", "exponent", "end")
            grammar = StoryConfig(
                mixture=this.mixture or None, seed=this.language_seed, **{name: getattr(this, name) for name in names}
            )
            built = language.stories(key, language.Stories(model, grammar, corruption, this.target_mixture or None, **sizes))
        hashes = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for file in (*this.train, *this.target)}
        facts = {
            "vocabulary": built.model.vocabulary,
            "parameters": built.model.parameters,
            **({} if built.entropy is None else {"entropy": built.entropy}),
        }
        data = {**({"files": hashes} if hashes else {}), "fingerprint": _fingerprint(built.task)}
        group = np.asarray(built.corrupted).astype(int) if built.corrupted.any() else None
        return Built(built.task, data, facts, group, built.model)

    def spoiled(self, key: jax.Array, tokens: np.ndarray, mask: np.ndarray, vocabulary: int) -> dict[str, np.ndarray]:
        """Sequences corrupted like those of the training set that are, all of them."""
        from olm.data.corruption import Corruption, corrupt

        how = Corruption(1.0, self.edits, self.odds)
        found = corrupt(jax.random.fold_in(key, 1), tokens, mask, vocabulary=vocabulary, how=how)
        return {"tokens": np.asarray(found.tokens), "mask": np.asarray(found.mask)}


def _fingerprint(task: Task) -> str:
    return fingerprint((task.train, task.target, task.test))[:16]
