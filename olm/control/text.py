"""Controlled text from one's own sentences: a base language model, its tractable stand-in, and guides that learn.

The pieces of `olm.control` put together for text; `olm.control.generate` writes with them. A transformer learns sentences, each
after a prompt that spells its concepts, or without one. A hidden Markov model learns the transformer's samples (GeLaTo, Zhang et
al. 2023, arXiv 2304.07438, section 3). NADO, DiNADO (arXiv 2205.14219, 2306.11825) or FUDGE learn a guide from the same samples,
labelled by whether a sentence holds its concepts. A constraint is one on bytes (`olm.control.keywords`), so that labels,
automata and measures agree.

Sentences are at most T tokens, padded with ``END``; ``BEGIN`` stands before the first. Concepts of a prompt are sorted, as the
order of a set says nothing.

Not done: chains that depend on the prompt, prompts of another kind than concepts, models trained elsewhere.
"""

from __future__ import annotations

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm import fitting
from olm.control import decode
from olm.control import model as models
from olm.control.keywords import finder
from olm.control.model import Context, Model
from olm.control.samples import Samples
from olm.data.concepts import Pair
from olm.data.text import PAD, UNKNOWN, Tokenizer, deal, train_tokenizer
from olm.errors import InputError, check_number, check_whole
from olm.models import hmm as hmms
from olm.models import transformer as transformers
from olm.models.transformer import TransformerConfig
from olm.progress import Bar
from olm.records import Run
from olm.types import Array, PyTree

BEGIN, END = UNKNOWN, PAD
METHODS = ("dinado", "dense", "nado", "hard", "merge", "lora", "gelato", "fudge")

Concept = str | tuple[str, ...]
"""A word, or alternatives of which one will do."""
Concepts = tuple[Concept, ...]


# --- text -------------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Sentences.

    Attributes:
      tokens: int32 [N, T], padded with ``END``.
      prompts: int32 [N, P]; P = 0 where there are none.
      concepts: for each its concepts; () where there are none.
    """

    tokens: np.ndarray
    prompts: np.ndarray
    concepts: tuple[Concepts, ...]


class Corpus(NamedTuple):
    """Sentences to learn from, and some that are held out.

    Attributes:
      tokenizer: learned from the sentences that are not held out.
      train, held_out: `Rows`; no sentence, and no set of concepts, is in both.
      dropped: sentences left out, as they, or their prompts, are too long.
    """

    tokenizer: Tokenizer
    train: Rows
    held_out: Rows
    dropped: int


def read_corpus(
    sentences: Sequence[str] | Sequence[Pair],
    *,
    vocabulary: int,
    length: int,
    prompt_length: int = 24,
    seed: int = 0,
    held_out: float = 0.05,
    lower: bool = False,
) -> Corpus:
    """Sentences, or pairs of concepts and a sentence, as tokens.

    Args:
      sentences: texts, or `olm.data.concepts.Pair`, whose concepts become prompts.
      vocabulary: V wanted of byte-pair encodings.
      length: T; longer sentences are dropped.
      prompt_length: P of pairs; those with longer prompts are dropped.
      seed: of the choice of what is held out.
      held_out: its share.
      lower: turn all to lower case.

    Returns:
      `Corpus`.

    Raises:
      InputError: no sentence is short enough, too few are different, a vocabulary too small for the bytes that occur.

    >>> corpus = read_corpus(["a dog runs", "a cat sits", "a cow runs"] * 4, vocabulary=40, length=12, held_out=0.3)
    >>> corpus.train.tokens.shape, corpus.held_out.tokens.shape, corpus.tokenizer.decode(corpus.train.tokens[0])[:2]
    ((8, 12), (4, 12), 'a ')
    """
    check_whole("length", length, 1)
    check_number("held-out", held_out, "give a share between 0 and 1", 1e-6, 1 - 1e-6)
    pairs = [one if isinstance(one, Pair) else Pair((), one) for one in sentences]
    if lower:
        pairs = [Pair(tuple(map(str.lower, one.concepts)), one.sentence.lower()) for one in pairs]
    prompted = any(one.concepts for one in pairs)
    check_whole("prompt_length", prompt_length, 1)
    # Pairs of one set of concepts stay together, so that held-out sets are new ones.
    kinds = [" ".join(sorted(one.concepts)) if prompted else one.sentence for one in pairs]
    apart = set(deal(kinds, {"train": round(1e6 * (1 - held_out)), "held_out": round(1e6 * held_out)}, seed)["held_out"])
    parts = [[one for one, kind in zip(pairs, kinds, strict=True) if (kind in apart) == out] for out in (False, True)]
    tokenizer = train_tokenizer([one.sentence for one in parts[0]], vocabulary)
    found, dropped = [], 0
    for name, part in zip(("to learn from", "to hold out"), parts, strict=True):
        ids = [tokenizer.encode(one.sentence) for one in part]
        asked = [tokenizer.encode(spelt_prompt(one.concepts)) if prompted else [] for one in part]
        kept = [i for i in range(len(part)) if 0 < len(ids[i]) <= length and len(asked[i]) <= prompt_length]
        if not kept:
            raise InputError(
                f"no sentence {name} has at most {length} tokens"
                + (f" with concepts of at most {prompt_length}" if prompted else "")
                + f" (the shortest has {min(map(len, ids))}): raise the length or the vocabulary, or cut text into shorter pieces"
            )
        dropped += len(part) - len(kept)
        prompts = filled([asked[i] for i in kept], prompt_length if prompted else 0)
        found.append(Rows(filled([ids[i] for i in kept], length), prompts, tuple(part[i].concepts for i in kept)))
    return Corpus(tokenizer, found[0], found[1], dropped)


def varied(rows: Rows, tokenizer: Tokenizer, *, variants: int, most: int = 5, common: float = 0.02, seed: int = 0) -> Rows:
    """Sentences with prompts of several kinds, so that a base learns to use the words it reads, not to recognise known sets.

    Args:
      rows: sentences with prompts.
      tokenizer: of the corpus.
      variants: how often each sentence comes: the first time after its own concepts in random order, then after 1 to ``most``
        words of its own, of three letters or more. Variants whose prompts are too long are left out; one may by chance be a set
        of concepts that is held out, of another sentence.
      most: words.
      common: words of a larger share of the sentences are not prompted with: they tell nothing.
      seed: of the choices.

    Returns:
      `Rows`; of concepts those that the prompts spell.

    Raises:
      InputError: rows without prompts, no variant.

    >>> rows = Rows(np.array([[2, 3, 1]]), np.array([[4, 1, 1]]), (("dog",),))
    >>> class Spelt:
    ...     encode, decode = staticmethod(lambda text: [4] * text.count(" ")), staticmethod(lambda ids: "A dog runs.")
    >>> varied(rows, Spelt, variants=2).concepts
    (('dog',), ('dog', 'runs'))
    """
    check_whole("variants", variants, 1)
    length = rows.prompts.shape[1]
    if not length:
        raise InputError("sentences without prompts have no variants: give pairs of concepts and a sentence")
    generator, found = np.random.default_rng(seed), []
    every = [set(re.findall(r"[^\W\d_]{3,}", tokenizer.decode(row))) for row in rows.tokens]
    seen = Counter(word for words in every for word in words)
    for row, own in enumerate(rows.concepts):
        words = sorted(word for word in every[row] if seen[word] <= max(common * len(every), 1))
        for variant in range(variants if words else 1):
            pool, size = (words, generator.integers(1, most + 1)) if variant else (own, len(own))
            mixed = tuple(pool[i] for i in generator.permutation(len(pool))[:size])
            ids = tokenizer.encode("".join(" " + (one if isinstance(one, str) else one[0]) for one in mixed))
            if mixed and len(ids) <= length:
                found.append((row, ids, mixed))
    return Rows(
        rows.tokens[[row for row, _, _ in found]],
        filled([ids for _, ids, _ in found], length),
        tuple(mixed for _, _, mixed in found),
    )


def filled(ids: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Lists of tokens as one array, padded with ``END``.

    Args:
      ids: lists of at most ``length`` ids.
      length: columns.

    Returns:
      int32 [N, length].

    >>> filled([[5, 6], [7]], 3).tolist()
    [[5, 6, 1], [7, 1, 1]]
    """
    rows = np.full((len(ids), length), END, np.int32)
    for row, one in zip(rows, ids, strict=True):
        row[: len(one)] = one
    return rows


def spelt_prompt(concepts: Sequence[Concept]) -> str:
    """What a base reads of concepts: the words, sorted, of each the first alternative, as they stand inside a sentence.

    Args:
      concepts: words, or alternatives.

    Returns:
      A text.

    >>> spelt_prompt(["run", ("dog", "puppy")])
    ' dog run'
    """
    return "".join(" " + word for word in sorted(one if isinstance(one, str) else one[0] for one in concepts))


def context(prompts: np.ndarray, which: np.ndarray | None = None) -> Context:
    """The context of sequences: their prompts, if there are any, and which constraint they have.

    Args:
      prompts: [B, P].
      which: [B]; None: the first.

    Returns:
      A dictionary.

    >>> sorted(context(np.zeros((2, 0), int))), sorted(context(np.zeros((2, 3), int)))
    (['which'], ['prompt', 'which'])
    """
    which = np.zeros(len(prompts), np.int32) if which is None else which
    return {"which": jnp.asarray(which, jnp.int32)} | ({"prompt": jnp.asarray(prompts)} if prompts.shape[1] else {})


# --- the base ---------------------------------------------------------------------------------------------------------


def base_model(config: TransformerConfig, length: int) -> Model:
    """The base: a transformer whose sentences end with ``END``.

    Args:
      config: its sizes; P + T + 1 inputs must fit.
      length: T.

    Returns:
      A `Model`.

    >>> base_model(TransformerConfig(vocabulary=5, length=4), 3).length
    3
    """
    return models.transformer(config, length, begin=BEGIN, end=END)


def batch_of(rows: Rows) -> PyTree:
    """Sentences as losses take them.

    Args:
      rows: N sentences.

    Returns:
      {"tokens", "mask", "context"}, the mask true up to and with the first ``END``.

    No example: arrays of `Rows`.
    """
    mask = np.arange(rows.tokens.shape[1]) < sizes(rows.tokens)[:, None]
    return {"tokens": jnp.asarray(rows.tokens), "mask": jnp.asarray(mask), "context": context(rows.prompts)}


@functools.cache
def _language_losses(base: Model) -> Callable[[PyTree, PyTree], Array]:
    """−log p(y | prompt) / T of sentences up to and with their end."""

    def losses(params: PyTree, batch: PyTree) -> Array:
        log_p = base.whole(params["theta"], batch["tokens"], batch["context"])
        each = models.log_likelihood(log_p, batch["tokens"])
        return -jnp.where(batch["mask"], each, 0.0).sum(1) / base.length

    return losses


@functools.cache
def _total(losses: Callable[[PyTree, PyTree], Array]) -> Callable[[PyTree, PyTree, Array], Array]:
    return jax.jit(lambda params, batch, real: jnp.where(real, losses(params, batch), 0.0).sum())


def mean_loss(losses: Callable[[PyTree, PyTree], Array], params: PyTree, batch: PyTree, chunk: int = 256) -> float:
    """Mean of a loss over samples, some of them at a time.

    Args:
      losses: ``(params, batch) -> [B]``.
      params: of the model.
      batch: "tokens" and other arrays with a leading axis N.
      chunk: samples at once.

    Returns:
      A number.

    >>> mean_loss(lambda params, batch: params * batch["tokens"], jnp.asarray(2.0), {"tokens": jnp.arange(3.0)})
    2.0
    """
    n, total = len(batch["tokens"]), 0.0
    batch = jax.tree.map(np.asarray, batch)  # cut without compiling
    for rows, real in _chunks(n, chunk):
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)
        total += float(_total(losses)(params, part, np.arange(len(rows)) < real))
    return total / n


def _chunks(n: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of chunks that are all of one size, so that programs compile once; and how many of them are meant."""
    size = min(size, n)
    for begin in range(0, n, size):
        yield np.arange(begin, begin + size) % n, min(size, n - begin)


def nats_per_token(base: Model, params: PyTree, rows: Rows) -> float:
    """−Σ log p(y | prompt) / number of tokens, ends included.

    Args:
      base, params: of `train_base`.
      rows: sentences.

    Returns:
      Nats.

    No example: see `train_base`.
    """
    mean = mean_loss(_language_losses(base), {"theta": params, "frozen": {}}, batch_of(rows))
    return mean * base.length / float(sizes(rows.tokens).mean())


def train_base(
    corpus: Corpus,
    config: TransformerConfig,
    *,
    steps: int,
    key: Array,
    batch_size: int = 64,
    peak: float = 2e-3,
    **more: Any,
) -> fitting.Fitted:
    """A language model of the corpus, p(y | prompt).

    Args:
      corpus: of `read_corpus`.
      config: the transformer's sizes.
      steps, key, batch_size, peak: as for `olm.fitting.fit`.
      more: its ``run``, ``save_every``, ``progress``, ``every``.

    Returns:
      `olm.fitting.Fitted`: the transformer's parameters; rows with "loss", held-out nats a token.

    Raises:
      InputError, DivergenceError: as `olm.fitting.fit`.

    No example: see tests/test_control_text.py.
    """
    base = base_model(config, corpus.train.tokens.shape[1])
    of_init, of_order = jax.random.split(key)
    found = fitting.fit(
        _language_losses(base),
        {"theta": transformers.init(config)(of_init), "frozen": {}},
        batch_of(corpus.train),
        steps=steps,
        key=of_order,
        batch_size=batch_size,
        peak=peak,
        measures=lambda params: {"loss": nats_per_token(base, params["theta"], corpus.held_out)},
        **more,
    )
    return found._replace(params=found.params["theta"])


# --- samples -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16384)
def _finder(concept: Concept, inflections: bool) -> Any:
    return finder(concept, inflections=inflections)


def sizes(ids: np.ndarray) -> np.ndarray:
    """Tokens of each sequence, up to and with its first ``END``.

    Args:
      ids: int [..., T].

    Returns:
      int [...].

    >>> sizes(np.array([[5, 1, 1], [5, 5, 5]])).tolist()
    [2, 3]
    """
    ended = np.asarray(ids) == END
    return np.where(ended.any(-1), ended.argmax(-1) + 1, ended.shape[-1])


def texts(tokens: Sequence[bytes], ids: np.ndarray) -> list[bytes]:
    """What sequences of tokens say, up to their first ``END``.

    Args:
      tokens: the bytes of each id.
      ids: int [B, T].

    Returns:
      B byte strings.

    >>> texts([b"", b"", b"a", b" b"], np.array([[2, 3, 1], [3, 1, 1]]))
    [b'a b', b' b']
    """
    return [b"".join(tokens[int(i)] for i in row[:size]) for row, size in zip(ids, sizes(ids), strict=True)]


def holds(sentences: Sequence[bytes], concept_sets: Sequence[Concepts], *, inflections: bool = False) -> np.ndarray:
    """Whether sentences hold all concepts of their sets, C(y): what the automata of `constraints` accept.

    Args:
      sentences: UTF-8 texts.
      concept_sets: for each its concepts.
      inflections: every inflection of a word will do.

    Returns:
      bool [B].

    >>> holds([b"a dog", b"a dogma"], [("dog",), ("dog",)]).tolist()
    [True, False]
    """
    return np.array(
        [
            all(_finder(one, inflections).search(sentence) for one in concepts)
            for sentence, concepts in zip(sentences, concept_sets, strict=True)
        ],
        bool,
    )


def draw(
    base: Model,
    params: PyTree,
    prompts: np.ndarray,
    concepts: Sequence[Concepts],
    tokens: Sequence[bytes],
    key: Array,
    *,
    n: int,
    inflections: bool = False,
    temperature: float = 1.0,
    chunk: int = 256,
    progress: bool = False,
) -> Samples:
    """Samples of the base for prompts that occur, each with the label of its own concepts.

    Args:
      base, params: of `train_base`.
      prompts: [N, P], of the training sentences.
      concepts: for each its concepts; sets without any label every sample 1.
      tokens: the bytes of each id.
      key: random key.
      n: how many; prompts come in shuffled order, round and round.
      inflections: every inflection of a word will do.
      temperature: τ of the draw; `Samples.weights` are then p / q_τ.
      chunk: sequences drawn at once.
      progress: show a bar.

    Returns:
      `Samples` without "log_p".

    No example: see tests/test_control_text.py.
    """
    of_rows, of_tokens = jax.random.split(key)
    rounds = -(-check_whole("n", n, 1) // len(prompts))
    order = [np.asarray(jax.random.permutation(jax.random.fold_in(of_rows, r), len(prompts))) for r in range(rounds)]
    rows = np.concatenate(order)[:n]
    bar = Bar(n, 0, on=progress, unit="sample", name="draw")
    ids, log_w, label = [], [], []
    try:
        for place, (part, real) in enumerate(_chunks(n, chunk)):
            here = rows[part]
            got = decode.sample(
                base, params, jax.random.fold_in(of_tokens, place), context(prompts[here]), temperature=temperature
            )
            ids.append(np.asarray(got.tokens)[:real])
            log_w.append(np.asarray(got.log_p - got.log_drawn)[:real])
            of_each = [concepts[i] for i in here[:real]]
            label.append(holds(texts(tokens, ids[-1]), of_each, inflections=inflections))
            bar.show(sum(map(len, ids)), {"accepted": float(np.concatenate(label).mean())})
    finally:
        bar.close()
    batch = batch_of(Rows(np.concatenate(ids), prompts[rows], ()))
    batch["label"] = jnp.asarray(np.concatenate(label), jnp.result_type(float))
    odds = np.concatenate(log_w).astype(np.float64)
    weights = np.exp(odds - odds.max()) / np.exp(odds - odds.max()).mean()
    rate = float((weights * np.concatenate(label)).mean())
    return Samples(batch, jnp.asarray(weights, jnp.result_type(float)), rate)


# --- the stand-in -----------------------------------------------------------------------------------------------------


def distil(
    tokens: np.ndarray,
    vocabulary: int,
    *,
    states: int,
    steps: int,
    key: Array,
    held_out: np.ndarray,
    run: Run | None = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> fitting.Fitted:
    """A hidden Markov model of a base's samples, by expectation maximisation.

    Args:
      tokens: [N, T], samples of the base itself, not at another temperature; empty sentences are passed over.
      vocabulary: V.
      states: S; one of them stands for the end.
      steps: of EM, each over all samples.
      key: of the start.
      held_out: [N', T], samples to measure with.
      run: an open run folder: metrics and state, which a resumed run continues.
      save_every: seconds between two states on disk.
      progress: show a bar.

    Returns:
      `olm.fitting.Fitted`: an `HMM`; a row for each step, "loss" before it and "held_out" after it, nats a token.

    Raises:
      InputError: no sample but empty ones; sizes as in `olm.models.hmm`.

    No example: see tests/test_control_text.py.

    Source: Zhang et al. 2023, arXiv 2304.07438, section 3, where the samples are unconditional ones.
    """
    train, other = (np.asarray(part)[np.asarray(part)[:, 0] != END] for part in (tokens, held_out))
    if not len(train) or not len(other):
        raise InputError("the base writes empty sentences only: train it for more steps")
    # hmm.fit counts padding as tokens; these are nats a position times positions a token.
    scale = [one.size / float(sizes(one).sum()) for one in (train, other)]
    chain, done, rows = hmms.starting_point(key, train, states, vocabulary, end=END), 0, []
    if run is not None:
        saved = run.load_state(chain)
        if saved is not None:
            chain, done = jax.tree.map(jnp.asarray, saved[0]), int(saved[1]["step"])
        run.truncate_metrics(done)
        rows = run.metrics()
        run.begin()
    bar, saved_at = Bar(steps, done, on=progress, unit="step", name="em"), time.monotonic()
    try:
        while done < check_whole("steps", steps, 1):
            found = hmms.fit(train, start=chain, steps=1, held_out=other)
            assert found.held_out is not None
            losses = [-float(one[0]) * by for one, by in zip((found.log_likelihoods, found.held_out), scale, strict=True)]
            row = {"step": done + 1, "loss": losses[0], "held_out": losses[1]}
            if run is not None:
                run.append_metrics(row)
            chain, done = found.hmm, done + 1
            rows.append(row)
            bar.show(done, {"held_out": losses[1]})
            if run is not None and (time.monotonic() - saved_at >= save_every or done == steps):
                run.save_state(chain, {"step": done})
                saved_at = time.monotonic()
    except KeyboardInterrupt:
        if run is not None:
            run.truncate_metrics(done)
            run.save_state(chain, {"step": done})
        raise
    finally:
        bar.close()
    return fitting.Fitted(chain, rows)
