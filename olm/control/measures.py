"""What generated text is worth: which concepts it holds, how close it is to references, how varied it is.

Coverage is that of CommonGen (Lin et al. 2020, arXiv 1911.03705): the share of a set's concepts that are in the sentence, up to
inflection. A concept is there as ``olm.control.keywords`` says, so a constraint and its measure agree. BLEU (Papineni et al.
2002) is computed by ``sacrebleu`` (Post 2018, arXiv 1804.08771).

Not done: lemmas of what a sentence says (a form counts whatever its part of speech there), CIDEr, SPICE, BLEU over the tokens of
the Penn Treebank, whose numbers differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from olm.control.keywords import INSTALL, finder
from olm.errors import InputError, check_whole


class Coverage(NamedTuple):
    """Concepts found in n sentences.

    Attributes:
      found: int [n], concepts of its set that a sentence holds.
      asked: int [n], concepts of the set.
      by_concept: Σ found / Σ asked.
      by_sentence: share of sentences that hold all.
    """

    found: np.ndarray
    asked: np.ndarray
    by_concept: float
    by_sentence: float


def coverage(
    sentences: Sequence[str], concept_sets: Sequence[Sequence[str | Sequence[str]]], *, inflections: bool = True
) -> Coverage:
    """Which concepts sentences hold, Σ_i Σ_k 1[concept k of set i is in sentence i] / Σ_i K_i.

    Args:
      sentences: n texts.
      concept_sets: for each sentence its concepts, words or lists of alternative words.
      inflections: every inflection of a word, and of its lemmas, will do (package ``lemminflect``).

    Returns:
      ``Coverage``; words are whole ones, in any case, as ``keywords`` defines them.

    Raises:
      InputError: no sentences, another number of sets, a set without concepts, an empty word, a missing package.

    >>> judged = coverage(["Dogs ran.", "A dogma runs."], [["dog", "run"], ["dog", "run"]])
    >>> judged.found.tolist(), judged.by_concept, judged.by_sentence
    ([2, 1], 0.75, 0.5)

    Source: Lin et al. 2020, arXiv 1911.03705, "coverage", there the mean of found / asked over the sentences.
    """
    _check_texts("sentences", sentences)
    if len(concept_sets) != len(sentences):
        raise InputError(f"{len(sentences)} sentences and {len(concept_sets)} concept sets: give a set for each sentence")
    for i, concepts in enumerate(concept_sets):
        if isinstance(concepts, str) or not len(concepts):
            raise InputError(f"concept set {i} is {concepts!r}: give a list of at least one word")
    spelt = [[tuple(one) if isinstance(one, list) else one for one in concepts] for concepts in concept_sets]
    finders = {one: finder(one, inflections=inflections) for one in dict.fromkeys(one for concepts in spelt for one in concepts)}
    found = np.array(
        [
            sum(finders[one].search(text.encode()) is not None for one in concepts)
            for text, concepts in zip(sentences, spelt, strict=True)
        ]
    )
    asked = np.array([len(concepts) for concepts in spelt])
    return Coverage(found, asked, float(found.sum() / asked.sum()), float((found == asked).mean()))


def bleu(sentences: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 in percent, 100 · min(1, exp(1 − r/c)) · (∏_{n=1..4} p_n)^{1/4}.

    p_n is the share of the sentences' n-grams that are in a reference, c their length and r that of the closest references, in
    tokens of mteval-v13a, with upper and lower case told apart. Of an order n without any match, p_n is smoothed as in mteval.

    Args:
      sentences: texts.
      references: for each sentence its references, not always as many.

    Returns:
      0 … 100.

    Raises:
      InputError: no sentences, another number of lists of references, a sentence without reference, a missing package.

    >>> bleu(["the cat sat on the mat"], [["the cat sat on the mat", "a cat sat"]])
    100.0

    Source: Papineni et al. 2002, Bleu: a Method for Automatic Evaluation of Machine Translation; Post 2018, arXiv 1804.08771.
    """
    _check_texts("sentences", sentences)
    if len(references) != len(sentences):
        raise InputError(f"{len(sentences)} sentences and references for {len(references)}: give a list for each sentence")
    for i, several in enumerate(references):
        _check_texts(f"references {i}", several)
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise InputError(f"BLEU needs the package sacrebleu: {INSTALL}") from None
    # The library takes the first references of all sentences, then the second ones, …, and None where there is none.
    most = max(map(len, references))
    ranks: list[list[Any]] = [[several[k] if k < len(several) else None for several in references] for k in range(most)]
    # Captions that end in " ." are meant: force leaves out a warning about them and changes no number.
    return float(BLEU(force=True).corpus_score(list(sentences), ranks).score)


def distinct(token_lists: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Share of different n-grams among all of several texts, |{n-grams}| / #n-grams.

    Args:
      token_lists: for each text its tokens, words or ids.
      n: tokens of an n-gram.

    Returns:
      A share in (0, 1]; 1 if no n-gram occurs twice. It falls as the texts get more or longer: compare equal amounts.

    Raises:
      InputError: n that is no whole number of at least 1, a text that is no list, no text of n tokens.

    >>> distinct([["a", "dog", "runs"], ["a", "dog", "sits"]])
    0.75

    Source: Li et al. 2016, arXiv 1510.03055, "distinct-2", there divided by the number of tokens.
    """
    n = check_whole("n", n, 1)
    rows = []
    for i, tokens in enumerate(token_lists):
        if isinstance(tokens, (str, bytes)):
            raise InputError(f"text {i} is {tokens!r}: give a list of tokens")
        rows.append(tokens.tolist() if hasattr(tokens, "tolist") else list(tokens))
    grams = [tuple(row[at : at + n]) for row in rows for at in range(len(row) - n + 1)]
    if not grams:
        raise InputError(f"no text has {n} tokens: give longer texts, or lower n")
    return len(set(grams)) / len(grams)


def _check_texts(name: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}: {texts!r:.60} is no list of texts: give at least one, each a string")
