"""Spoiled sentences, as in the Learning Law paper (arXiv 2402.17759, section 4.2): half the training set, twenty edits each.

One edit replaces one token by a random token of the vocabulary, deletes the last token, or repeats one token. How often each kind
is chosen is not published; here it is a setting, and even odds the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from olm.errors import InputError
from olm.types import Array


@dataclass(frozen=True)
class Corruption:
    """How sentences are spoiled.

    Attributes:
      fraction: share of the examples that is spoiled, rounded to a whole number of them.
      edits: edits of each spoiled example.
      odds: relative odds of replacing a token, deleting the last one, repeating one.

    Raises:
      InputError: a fraction outside 0 … 1, negative edits, odds that are not three non-negative numbers with a positive sum.
    """

    fraction: float = 0.5
    edits: int = 20
    odds: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise InputError(f"fraction must lie between 0 and 1, not {self.fraction}")
        if self.edits < 0:
            raise InputError(f"edits must be at least 0, not {self.edits}")
        if len(self.odds) != 3 or not all(0 <= odds < float("inf") for odds in self.odds) or sum(self.odds) <= 0:
            raise InputError(f"odds must be three non-negative numbers, not all zero, not {self.odds}")


class Corrupted(NamedTuple):
    """Examples after corruption.

    Attributes:
      tokens: [N, L+1] int32, padded behind their ends.
      mask: [N, L] bool, labels that are not padding.
      corrupted: [N] bool, which examples were edited.
    """

    tokens: Array
    mask: Array
    corrupted: Array


def corrupt(
    key: Array, tokens: Array, mask: Array | None = None, *, vocabulary: int, how: Corruption = Corruption(), pad: int = 1
) -> Corrupted:
    """Edits a random part of the examples; a pure function of the key.

    A window keeps its size: a deletion shortens the sentence in it, down to two tokens; a repetition lengthens it, and what is
    pushed over the end is lost.

    Args:
      key: random key.
      tokens: [N, L+1] of integers.
      mask: [N, L], labels that are not padding; None: all.
      vocabulary: V; random tokens are drawn from pad+1 … V−1.
      how: share, number and kinds of edits.
      pad: the token written behind a sentence's end; ids up to it are special and never drawn.

    Returns:
      ``Corrupted``, with round(fraction · N) examples edited and all others as they were.

    Raises:
      InputError: a vocabulary without a token to draw.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> tokens = jnp.tile(jnp.arange(2, 10), (4, 1))
      >>> spoiled = corrupt(jax.random.key(0), tokens, vocabulary=10)
      >>> int(spoiled.corrupted.sum()), bool((spoiled.tokens == tokens)[~spoiled.corrupted].all())
      (2, True)

    Source: arXiv 2402.17759, section 4.2.
    """
    if vocabulary < pad + 2:
        raise InputError(f"vocabulary {vocabulary} has no token above the padding {pad}: raise it")
    tokens = jnp.asarray(tokens, jnp.int32)
    mask = jnp.ones(tokens[:, 1:].shape, bool) if mask is None else jnp.asarray(mask, bool)
    return _corrupt(key, tokens, mask, vocabulary, how, pad)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _corrupt(key: Array, tokens: Array, mask: Array, vocabulary: int, how: Corruption, pad: int) -> Corrupted:
    n, size = tokens.shape
    which, key = jax.random.split(key)
    corrupted = jax.random.permutation(which, n) < round(how.fraction * n)
    place = jnp.arange(size)

    def edit(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        tokens, length = carry
        kind_key, where_key, what_key = jax.random.split(key, 3)
        kind = jax.random.choice(kind_key, 3, (n, 1), p=jnp.asarray(how.odds) / sum(how.odds))
        where = jax.random.randint(where_key, (n,), 0, length, jnp.int32)[:, None]
        what = jax.random.randint(what_key, (n, 1), pad + 1, vocabulary, jnp.int32)
        replaced = jnp.where(place == where, what, tokens)
        repeated = jnp.where(place > where, jnp.roll(tokens, 1, axis=1), tokens)
        tokens = jnp.where(kind == 0, replaced, jnp.where(kind == 2, repeated, tokens))
        length = jnp.clip(length + jnp.where(kind == 1, -1, jnp.where(kind == 2, 1, 0))[:, 0], jnp.minimum(length, 2), size)
        return (jnp.where(place < length[:, None], tokens, pad), length), None

    length = mask.sum(-1, dtype=jnp.int32) + 1
    (edited, edited_length), _ = jax.lax.scan(edit, (tokens, length), jax.random.split(key, how.edits))
    length = jnp.where(corrupted, edited_length, length)
    return Corrupted(jnp.where(corrupted[:, None], edited, tokens), place[1:] < length[:, None], corrupted)
