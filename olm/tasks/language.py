"""Language tasks: the paper's small transformer on generated stories or on text files (arXiv 2402.17759, section 4.2).

The paper trains on TinyStories, half of the sentences spoiled, and wants low loss on clean ones. Here clean text is drawn from a
grammar of known entropy, so that a loss can be measured from the floor it cannot pass and fresh targets never run out, or is read
from files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Literal

import jax
import jax.numpy as jnp

from olm.data import corruption
from olm.data import stories as story_data
from olm.data import text as text_data
from olm.data.corruption import Corruption
from olm.data.stories import Grammar, StoryConfig
from olm.data.text import Split, Tokenizer
from olm.errors import InputError
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.types import Array, PyTree, Task


@dataclass(frozen=True)
class Language:
    """A language task and what is known about it. Batches are ``{"tokens": [B, L+1] int32, "mask": [B, L] bool}``.

    Attributes:
      task: what ``train`` and ``find_policy`` take.
      model: sizes of its transformer; ``transformer.logits(model)`` are its predictions.
      corrupted: [N] bool, which training examples were spoiled.
      decode: ``decode(ids) -> text``.
      entropy: nats per token that no model can beat on the desired distribution; None where it is not known.
      grammar: the grammar of the desired distribution, or None.
      tokenizer: how text became tokens, or None.
    """

    task: Task
    model: TransformerConfig
    corrupted: Array
    decode: Callable[[Iterable[int]], str]
    entropy: float | None = None
    grammar: Grammar | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Stories:
    """Settings of the generated-stories task; the defaults suit two CPU cores.

    Attributes:
      model: the transformer; its vocabulary is taken from ``grammar``, its length is that of the examples.
      grammar: the language.
      corruption: how training examples are spoiled; targets never are.
      target_mixture: topic probabilities of the desired distribution; None: those of ``grammar``.
      examples: N, training examples.
      targets: K, the fixed sample of the desired distribution.
      tests: M, held-out examples of the desired distribution.
    """

    model: TransformerConfig = transformer.CPU
    grammar: StoryConfig = field(default_factory=StoryConfig)
    corruption: Corruption = field(default_factory=Corruption)
    target_mixture: tuple[float, ...] | None = None
    examples: int = 256
    targets: int = 256
    tests: int = 1024


@dataclass(frozen=True)
class Preset:
    """A task's settings with the training run they were made for.

    Attributes:
      task: settings of the task.
      steps: T.
      rate: learning rate of plain gradient descent on all examples at once.
      clip: longest gradient, or None. Full-batch descent at the rates where the area is least oscillates at the edge of
        stability; clipped it stays there without spikes.
      target_draws: fresh desired examples for an evaluation of a search; 0: the fixed targets.
    """

    task: Stories = field(default_factory=Stories)
    steps: int = 300
    rate: float = 0.3
    clip: float | None = 0.5
    target_draws: int = 256


CPU = Preset()
PAPER = Preset(
    Stories(transformer.PAPER, StoryConfig(vocabulary=5000, topics=8, names=16), examples=16384, targets=512, tests=512),
    steps=4000,
    rate=0.1,
    clip=None,
    target_draws=0,
)


def stories(key: Array, config: Stories = Stories()) -> Language:
    """Learns a generated language from examples of which half are spoiled.

    Args:
      key: random key of all examples and of the corruption.
      config: settings.

    Returns:
      ``Language`` with a task that can draw fresh targets, the entropy of the desired distribution, and its grammar.

    Raises:
      InputError: sizes below 1 or settings that make no grammar.

    Example:
      >>> import jax
      >>> language = stories(jax.random.key(0), Stories(examples=8, targets=2, tests=2))
      >>> int(language.corrupted.sum()), language.task.train["tokens"].shape
      (4, (8, 17))
      >>> language.decode(language.task.target["tokens"][0])
      '<story> mia visited bizu . she found pufe . <story> ana visited volo . she found tapa'
      >>> round(language.entropy, 3)
      1.111

    Source: arXiv 2402.17759, section 4.2; there N = 16,384, K = M = 512, V = 5,000, L = 64.
    """
    for name in ("examples", "targets", "tests"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, not {getattr(config, name)}")
    model = replace(config.model, vocabulary=config.grammar.vocabulary)
    source = story_data.grammar(config.grammar)
    desired = source
    if config.target_mixture is not None:
        desired = story_data.grammar(replace(config.grammar, mixture=config.target_mixture))
    spoil_key, *keys = jax.random.split(key, 4)

    def draw(key: Array, n: int) -> PyTree:
        return {"tokens": story_data.draw(desired, key, n, model.length), "mask": jnp.ones((n, model.length), bool)}

    @jax.jit
    def sets(train_key: Array, target_key: Array, test_key: Array) -> tuple[Array, PyTree, PyTree]:
        clean = story_data.draw(source, train_key, config.examples, model.length)
        return clean, draw(target_key, config.targets), draw(test_key, config.tests)

    clean, target, test = sets(*keys)
    train = corruption.corrupt(spoil_key, clean, vocabulary=model.vocabulary, how=config.corruption)
    task = Task(
        init=transformer.init(model),
        losses=transformer.per_sequence_losses(model),
        train={"tokens": train.tokens, "mask": train.mask},
        target=target,
        test=test,
        draw=draw,
        alphabet=model.vocabulary,
    )
    entropy = story_data.entropy(desired, model.length)
    return Language(task, model, train.corrupted, lambda ids: " ".join(source.words[int(i)] for i in ids), entropy, desired)


def text(
    key: Array,
    train_files: Sequence[str | PathLike[str]],
    target_files: Sequence[str | PathLike[str]] = (),
    *,
    model: TransformerConfig = transformer.CPU,
    tokens: Literal["bpe", "bytes"] = "bpe",
    vocabulary: int = 512,
    split: Split = "paragraphs",
    corruption_of_train: Corruption = Corruption(fraction=0.0),
    examples: int = 256,
    targets: int = 256,
    tests: int = 256,
    seed: int = 0,
) -> Language:
    """Learns from text files towards text like that of the target files.

    The target files' documents, but for those that the training files have too, are dealt to a target and a held-out test set, no
    document to both. Without target files all three sets come from different documents of the training files.

    Args:
      key: random key of the corruption.
      train_files: UTF-8 files to learn from.
      target_files: UTF-8 files of the desired kind of text; none: the training files.
      model: the transformer; its vocabulary is taken from the tokenizer, its length is that of the examples.
      tokens: byte-pair encodings learned from the documents of the training and target sets (never the test set), or bytes.
      vocabulary: ids wanted of byte-pair encodings.
      split: what a document is.
      corruption_of_train: how training examples are spoiled; default: not at all.
      examples: N, training examples (windows).
      targets: K, target examples.
      tests: M, held-out examples.
      seed: of the choice of documents.

    Returns:
      ``Language`` with a task that cannot draw: its targets are fixed.

    Raises:
      InputError: files that cannot be used, fewer examples than asked, unknown choices.

    Example:
      >>> import pathlib, tempfile, jax
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
      >>> _ = path.write_text("\\n".join(f"{i} and {i} make {2 * i}." for i in range(99)))
      >>> language = text(jax.random.key(0), [path], split="lines", tokens="bytes", examples=8, targets=4, tests=4)
      >>> language.decode(language.task.target["tokens"][0])
      '71 and 71 make 14'
    """
    if tokens not in ("bpe", "bytes"):
        raise InputError(f"tokens must be bpe or bytes, not {tokens!r}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, not {seed}")
    sizes = {"examples": examples, "targets": targets, "tests": tests}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} must be at least 1, not {size}")
    train_documents = text_data.read_documents(train_files, split)
    # Sets are dealt before anything looks at the text, so that the tokenizer never sees what the model is tested on.
    if target_files:
        wanted = {"targets": targets, "tests": tests}
        seen = set(train_documents)
        desired = [document for document in text_data.read_documents(target_files, split) if document not in seen]
        if not desired:
            raise InputError("every document of the target files is in the training files as well: give other target files")
        documents = {"examples": train_documents, **text_data.deal(desired, wanted, seed)}
    else:
        documents = text_data.deal(train_documents, sizes, seed)
    tokenizer = text_data.byte_tokenizer()
    if tokens == "bpe":
        tokenizer = text_data.train_tokenizer(documents["examples"] + documents["targets"], vocabulary)
    model = replace(model, vocabulary=tokenizer.vocabulary)
    train, target, test = (
        text_data.choose(text_data.windows(map(tokenizer.encode, documents[name]), model.length), size, seed, name)
        for name, size in sizes.items()
    )
    spoiled = corruption.corrupt(key, train.tokens, train.mask, vocabulary=model.vocabulary, how=corruption_of_train)
    task = Task(
        init=transformer.init(model),
        losses=transformer.per_sequence_losses(model),
        train={"tokens": spoiled.tokens, "mask": spoiled.mask},
        target={"tokens": jnp.asarray(target.tokens), "mask": jnp.asarray(target.mask)},
        test={"tokens": jnp.asarray(test.tokens), "mask": jnp.asarray(test.mask)},
        alphabet=model.vocabulary,
    )
    return Language(task, model, spoiled.corrupted, tokenizer.decode, tokenizer=tokenizer)
