"""Constraints on text: automata of keywords and of regular expressions over tokens that stand for several bytes.

A constraint on bytes becomes one on tokens by δ(s, v) = δ*(s, bytes of v), so that every way to spell a text counts (Ctrl-G,
arXiv 2406.13892, section 3). Keywords are the constraints of GeLaTo (arXiv 2304.07438) and of CommonGen; ``lemminflect`` knows
inflections, ``automata-lib`` reads regular expressions. ``finder`` is the same definition of a keyword, for texts at hand.

Not done: Unicode. Text is bytes: of letters, only ASCII's are matched in both cases, and every byte of a non-ASCII character
counts as part of a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce

import numpy as np

from olm.control import _tables
from olm.control._tables import Compact, conjunction, containing, lift
from olm.control.automata import Automaton
from olm.data.text import Tokenizer
from olm.errors import InputError

INSTALL = 'pip install "olm[control]"'
_WORD = rb"[\w'\x80-\xff]"  # the bytes of words, of which neither neighbour of a keyword is one
_INSIDE = np.array([re.fullmatch(_WORD, bytes([byte])) is not None for byte in range(256)])
_FOLD = np.array(list(bytes(range(256)).lower()))  # bytes.lower changes ASCII alone, as re.IGNORECASE does for bytes


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each token stands for, so that text is their concatenation.

    Args:
      tokenizer: of ``olm.data.text``.

    Returns:
      V byte strings; <unk> and <pad> stand for none.

    Raises:
      InputError: a vocabulary that is not on the byte level.

    >>> from olm.data.text import byte_tokenizer
    >>> token_bytes(byte_tokenizer())[97:101]
    [b'_', b'`', b'a', b'b']

    Source: the byte alphabet of GPT-2 (Radford et al. 2019), as ``tokenizers`` spells it.
    """
    if tokenizer.saved == "bytes":
        return [b"", b"", *(bytes([byte]) for byte in range(256))]
    import tokenizers

    value = _byte_alphabet()
    model = tokenizers.Tokenizer.from_str(tokenizer.saved)
    spelt = [b"", b""]
    for token in range(2, tokenizer.vocabulary):
        text = model.id_to_token(token) or ""
        if not text or not all(character in value for character in text):
            raise InputError(f"token {token} is {text!r}, not on the byte level: learn the tokens with train_tokenizer")
        spelt.append(bytes(value[character] for character in text))
    return spelt


def keywords(
    concepts: Sequence[str | Sequence[str]],
    tokens: Sequence[bytes],
    *,
    inflections: bool = False,
    whole_words: bool = True,
    end: int | None = None,
    case: bool = False,
) -> Automaton:
    """Texts that contain every concept, ∧_i ∨_j [the text contains the word w_ij], over tokens of several bytes.

    The text is the concatenation of the tokens' bytes, up to the first ``end``.

    Args:
      concepts: words, or lists of alternative words.
      tokens: the bytes that each of the V ids stands for (``token_bytes``).
      inflections: every inflection of a word, and of its lemmas, is an alternative (package ``lemminflect``).
      whole_words: neither neighbour of a word may be an ASCII letter, a digit, "_", "'" or a byte of a non-ASCII character; the
        ends of the text are fine.
      end: token after which only itself may follow.
      case: tell upper from lower case; otherwise ASCII letters match in both.

    Returns:
      The minimal ``Automaton``.

    Raises:
      InputError: no concepts, an empty word, a keyword with bytes that no token stands for, a missing package, tokens that are
        not bytes.

    >>> from olm.control.automata import accepts
    >>> about_dogs = keywords(["dog"], [b"d", b"og", b" ", b"dog", b"s"])
    >>> accepts(about_dogs, np.array([[2, 0, 1, 2], [0, 1, 4, 2]])).tolist()  # " dog " and "dogs "
    [True, False]

    Source: Zhang et al. 2023, arXiv 2304.07438, section 3; Aho & Corasick 1975.
    """
    spelt = _spelt(tokens, end)
    if isinstance(concepts, str) or not len(concepts):
        raise InputError(f"concepts is {concepts!r}: give a list of at least one word")
    fold, known = np.arange(256) if case else _FOLD, set().union(*spelt)
    available = {int(fold[byte]) for byte in known}
    parts = []
    for concept in concepts:
        forms = _forms(concept, inflections, case)
        keys = list(dict.fromkeys(tuple(int(fold[byte]) for byte in form.encode()) for form in forms))
        possible = [key for key in keys if available.issuperset(key)]
        if not possible:
            missing = " ".join(f"0x{byte:02x}" for byte in sorted(set(keys[0]) - available))
            name = " or ".join(map(repr, [concept] if isinstance(concept, str) else concept))
            raise InputError(f"keyword {name} has bytes no token stands for ({missing}): drop it, or learn tokens from such text")
        delta, accepting, label = containing(possible, 256, _INSIDE if whole_words else None)
        parts.append(lift(delta[:, label[fold]], accepting, spelt))
    return _automaton(parts, len(spelt), end)


def finder(
    concept: str | Sequence[str], *, inflections: bool = False, whole_words: bool = True, case: bool = False
) -> re.Pattern[bytes]:
    """Python's regular expression that finds a concept in exactly the texts that ``keywords([concept], …)`` accepts.

    Args:
      concept: a word, or a list of alternative words.
      inflections, whole_words, case: as for ``keywords``.

    Returns:
      A pattern over bytes; search UTF-8 with it.

    Raises:
      InputError: an empty word, a missing package.

    >>> [bool(finder("dog").search(text)) for text in (b"A hot Dog!", b"hot dogs")]
    [True, False]

    Source: Zhang et al. 2023, arXiv 2304.07438, section 3.
    """
    words = b"|".join(re.escape(form.encode()) for form in _forms(concept, inflections, case))
    before, behind = (b"(?<!%b)" % _WORD, b"(?!%b)" % _WORD) if whole_words else (b"", b"")
    return re.compile(b"%b(?:%b)%b" % (before, words, behind), 0 if case else re.IGNORECASE)


def regular(pattern: str, tokens: Sequence[bytes], *, search: bool = True, end: int | None = None) -> Automaton:
    r"""Texts that a regular expression matches, over tokens of several bytes.

    ``automata-lib`` reads the pattern: ``* + ? {m,n} | ( ) .`` and classes ``[a-z] [^a-z] \s \d \w`` as in ``re`` (but ``.`` is
    any byte), ``&`` is intersection, ``^`` is shuffle and no anchor, nor are ``$`` and ``\b`` (backspace), ``()`` is
    the empty text; a backslash makes a sign plain. A character that is not ASCII is the string of its bytes, never in a class.

    Args:
      pattern: the expression.
      tokens: the bytes that each of the V ids stands for (``token_bytes``).
      search: the text has a match somewhere; False: the whole text is one.
      end: token that ends the text, after which only itself may follow.

    Returns:
      The minimal ``Automaton``.

    Raises:
      InputError: a pattern that is empty or cannot be read, a missing package, tokens that are not bytes.

    >>> from olm.control.automata import accepts
    >>> digits = regular(r"\d\d", [b"a", b"1", b"23"])
    >>> accepts(digits, np.array([[0, 1, 1], [0, 2, 0], [1, 0, 1]])).tolist()
    [True, True, False]

    Source: Hopcroft, Motwani & Ullman 2006, Introduction to Automata Theory, chapters 2 to 4.
    """
    spelt = _spelt(tokens, end)
    if not isinstance(pattern, str) or not pattern:
        raise InputError(f"pattern is {pattern!r}: give a regular expression that is not empty")
    return _automaton([lift(*_read(pattern, search), spelt)], len(spelt), end)


# --- shared -----------------------------------------------------------------------------------------------------------


def _automaton(parts: list[Compact], vocabulary: int, end: int | None) -> Automaton:
    """All of the parts; ``end`` ends the text."""
    return Automaton(*_tables.dense(reduce(conjunction, parts if end is None else [*parts, _tables.ended(vocabulary, end)])))


def _forms(concept: str | Sequence[str], inflections: bool, case: bool) -> list[str]:
    """What of a concept the text may contain: its words, then their inflections."""
    words = list(concept) if isinstance(concept, Sequence) and not isinstance(concept, str) else [concept]
    if not words or not all(isinstance(word, str) and word for word in words):
        raise InputError(f"concept {concept!r} has no word or an empty one: give words of at least one letter")
    inflected = [form for word in words for form in _inflected(word if case else word.lower())] if inflections else []
    return list(dict.fromkeys([*words, *inflected]))


def _inflected(word: str) -> list[str]:
    """The word, then what ``lemminflect`` knows of it."""
    try:
        import lemminflect
    except ImportError:
        raise InputError(f"inflections need the package lemminflect: {INSTALL}") from None
    lemmas = [lemma for found in lemminflect.getAllLemmas(word).values() for lemma in found]
    forms = [form for lemma in [word, *lemmas] for found in lemminflect.getAllInflections(lemma).values() for form in found]
    return list(dict.fromkeys([word, *lemmas, *forms]))


def _read(pattern: str, search: bool) -> tuple[np.ndarray, np.ndarray]:
    """The texts that a regular expression matches, somewhere or as a whole: δ [n, 256] over bytes, F [n]."""
    try:
        from automata.base.exceptions import AutomatonException, RegexException
        from automata.fa.dfa import DFA
        from automata.fa.nfa import NFA
    except ImportError:
        raise InputError(f"regular expressions need the package automata-lib: {INSTALL}") from None

    def as_bytes(piece: re.Match) -> str:
        text = piece[0]
        if text.isascii():
            return text
        if text[0] == "[":
            raise InputError(f"pattern {pattern!r} has {text}: write characters that are not ASCII as (x|y), not in a class")
        return "(" + "".join("\\" + chr(byte) for byte in text[-1].encode()) + ")"

    # A symbol is a byte, written as the Latin-1 character of its number.
    latin = re.sub(r"(?s)\\.|\[[^\]]*\]|[^\x00-\x7f]", as_bytes, pattern)
    symbols = frozenset(map(chr, range(256)))
    try:
        nfa, anything = (NFA.from_regex(text, input_symbols=symbols) for text in (latin, ".*"))
        dfa = DFA.from_nfa(anything.concatenate(nfa).concatenate(anything) if search else nfa, minify=True)
    except (AutomatonException, RegexException) as error:
        raise InputError(f"pattern {pattern!r} cannot be read: {error}") from None
    index = {dfa.initial_state: 0}
    for state in dfa.states:
        index.setdefault(state, len(index))
    delta = np.full((len(index) + 1, 256), len(index))  # the last state is dead: the library leaves out what leads there
    for state, row in dfa.transitions.items():
        for symbol, target in row.items():
            delta[index[state], ord(symbol)] = index[target]
    return delta, np.array([state in dfa.final_states for state in index] + [False])


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    # Bytes that print stand for themselves in Latin-1, the others for the characters from 256 on, in order.
    prints = [33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174 for byte in range(256)]
    unseen = iter(range(256, 512))
    return {chr(byte if prints[byte] else next(unseen)): byte for byte in range(256)}


def _spelt(tokens: Sequence[bytes], end: int | None) -> list[bytes]:
    """The bytes of each token, checked; ``end`` ends the text and is no part of it."""
    spelt = list(tokens)
    if not spelt:
        raise InputError("tokens is empty: give the bytes of each id")
    for v, token in enumerate(spelt):
        if not isinstance(token, bytes):
            raise InputError(f"token {v} is {token!r}: give the bytes of each id")
    if end is not None:
        _tables.check_tokens("end", [end], len(spelt))
        spelt[end] = b""
    return spelt
