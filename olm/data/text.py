"""Text files as examples: files → documents → tokens → windows of L+1 tokens with a mask.

Tokens are bytes, or byte-pair encodings (Sennrich et al. 2016, arXiv 1508.07909) learned on the spot with the ``tokenizers``
library on the byte level, so that the text it was learned from comes back exactly. Everything is a function of the files and the
settings.

Not done: other encodings than UTF-8, normalisation, streaming of files larger than memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from olm.errors import InputError

UNKNOWN, PAD = 0, 1
Split = Literal["paragraphs", "lines", "files"]
_SEPARATOR = {"paragraphs": r"\n(?:[^\S\n]*\n)+", "lines": r"\n", "files": None}


class Tokenizer(NamedTuple):
    """Text to token ids and back. Id 0 is <unk>, id 1 is <pad>.

    Attributes:
      encode: ``encode(text) -> list of ids``.
      decode: ``decode(ids) -> text``; <unk> and <pad> are left out.
      vocabulary: V, number of ids.
      saved: what ``load_tokenizer`` rebuilds it from.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Iterable[int]], str]
    vocabulary: int
    saved: str


def read_text(file: str | PathLike[str]) -> str:
    """Reads a UTF-8 file.

    Args:
      file: path.

    Returns:
      The text, without a byte order mark, lines ended by \\n.

    Raises:
      InputError: a file that is missing, unreadable, empty, or not UTF-8 (with the offset of the first bad byte).

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
      >>> _ = path.write_bytes(b"One line.\\r\\n")
      >>> read_text(path)
      'One line.\\n'
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        # A byte order mark is not counted by the decoder's offset.
        offset = error.start + 3 * data.startswith(b"\xef\xbb\xbf")
        raise InputError(f"{file} is not UTF-8: byte {offset} is 0x{data[offset]:02x}; convert the file to UTF-8") from None
    if not text.strip():
        raise InputError(f"{file} is empty: give a file with text")
    return text


def read_documents(files: Sequence[str | PathLike[str]], split: Split = "paragraphs") -> list[str]:
    """Reads UTF-8 files and cuts them into documents.

    Args:
      files: paths, read in this order.
      split: a document is a paragraph (between blank lines), a line, or a whole file.

    Returns:
      The documents that hold more than white space, ends stripped of line breaks.

    Raises:
      InputError: a file that is missing, unreadable, empty, or not UTF-8 (with the offset of the first bad byte); no files.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
      >>> _ = path.write_text("One line.\\nAnother.\\n\\nNew paragraph.\\n")
      >>> read_documents([path])
      ['One line.\\nAnother.', 'New paragraph.']
    """
    if split not in _SEPARATOR:
        raise InputError(f"split must be one of {', '.join(_SEPARATOR)}, not {split!r}")
    if not files:
        raise InputError("no text files were given: name at least one")
    documents = []
    for file in files:
        text = read_text(file)
        separator = _SEPARATOR[split]
        pieces = [text] if separator is None else re.split(separator, text)
        documents += [piece.strip("\n") for piece in pieces if piece.strip()]
    return documents


def byte_tokenizer() -> Tokenizer:
    """One token a byte of UTF-8: id = byte + 2.

    Returns:
      A ``Tokenizer`` of 258 ids that knows every text.

    Example:
      >>> tokenizer = byte_tokenizer()
      >>> tokenizer.encode("aé"), tokenizer.decode(tokenizer.encode("aé"))
      ([99, 197, 171], 'aé')
    """

    def decode(ids: Iterable[int]) -> str:
        return bytes(int(i) - 2 for i in ids if i > PAD).decode("utf-8", errors="replace")

    return Tokenizer(lambda text: [byte + 2 for byte in text.encode()], decode, 258, "bytes")


def train_tokenizer(documents: Sequence[str], vocabulary: int) -> Tokenizer:
    """Learns byte-pair encodings from documents; the same documents give the same encodings.

    Args:
      documents: texts to learn from.
      vocabulary: V wanted, <unk> and <pad> included. A short text may offer fewer pairs to merge; ``vocabulary`` of the result
        says how many ids there are.

    Returns:
      A ``Tokenizer`` that decodes each of the documents exactly; bytes it never saw become <unk>.

    Raises:
      InputError: a vocabulary too small for the bytes that occur.

    Example:
      >>> tokenizer = train_tokenizer(["low lower lowest"] * 3, 20)
      >>> tokenizer.decode(tokenizer.encode("lower")), tokenizer.vocabulary
      ('lower', 17)

    Source: Sennrich et al. 2016, arXiv 1508.07909.
    """
    import tokenizers

    needed = len({byte for document in documents for byte in document.encode()}) + 2
    if vocabulary < needed:
        raise InputError(f"the bytes of this text alone need {needed} ids, vocabulary is {vocabulary}: raise it")
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<unk>", "<pad>"], show_progress=False)
    model.train_from_iterator(documents, trainer)
    return load_tokenizer(model.to_str())


def load_tokenizer(saved: str) -> Tokenizer:
    """Rebuilds a tokenizer from its ``saved`` text.

    Args:
      saved: ``Tokenizer.saved``.

    Returns:
      A ``Tokenizer`` that does the same.

    Raises:
      InputError: text that is no tokenizer.

    Example:
      >>> load_tokenizer(byte_tokenizer().saved).vocabulary
      258
    """
    if saved == "bytes":
        return byte_tokenizer()
    import tokenizers

    try:
        model = tokenizers.Tokenizer.from_str(saved)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"this is no saved tokenizer: {error}") from None

    # Text may spell "<pad>"; only encoding without special tokens keeps it from turning into padding.
    model.encode_special_tokens = True
    return Tokenizer(
        lambda text: model.encode(text, add_special_tokens=False).ids,
        lambda ids: model.decode([int(i) for i in ids if i > PAD], skip_special_tokens=False),
        model.get_vocab_size(),
        saved,
    )


def deal(documents: Sequence[str], sizes: dict[str, int], seed: int) -> dict[str, list[str]]:
    """Deals documents to sets in proportion to the sizes wanted, none to two sets.

    Documents are shuffled; each then goes, with all that are equal to it, to the set which has the least text for its size.

    Args:
      documents: texts.
      sizes: relative size of each set.
      seed: of the shuffle.

    Returns:
      For each name its documents.

    Raises:
      InputError: fewer different documents than sets.

    Example:
      >>> {name: len(part) for name, part in deal("abcdefghi", {"target": 2, "test": 1}, seed=0).items()}
      {'target': 6, 'test': 3}
    """
    copies = Counter(documents)
    different = list(copies)
    if len(different) < len(sizes):
        raise InputError(
            f"{len(different)} different document(s) cannot be kept apart as {', '.join(sizes)}: separate documents by blank "
            "lines, split by lines, or give more files"
        )
    parts: dict[str, list[str]] = {name: [] for name in sizes}
    filled = dict.fromkeys(sizes, 0.0)
    for i in np.random.default_rng(seed).permutation(len(different)):
        document, name = different[i], min(filled, key=filled.__getitem__)
        parts[name] += [document] * copies[document]
        filled[name] += copies[document] * max(1, len(document.encode())) / sizes[name]
    return parts


class Windows(NamedTuple):
    """Examples cut from documents.

    Attributes:
      tokens: [N, L+1] int32, padded with 1 behind the end of a document.
      mask: [N, L] bool, labels that are not padding.
    """

    tokens: np.ndarray
    mask: np.ndarray


def windows(documents: Iterable[Sequence[int]], length: int) -> Windows:
    """Cuts token lists into windows of L+1 tokens.

    Neighbours share one token, so that every token of a document but the first is a label once.

    Args:
      documents: lists of ids; those of fewer than two tokens hold no label and are left out.
      length: L, labels of a window.

    Returns:
      ``Windows`` in the order of the documents.

    Raises:
      InputError: a length below 1.

    Example:
      >>> cut = windows([[5, 6, 7, 8], [9, 2]], 2)
      >>> cut.tokens.tolist(), cut.mask.sum(1).tolist()
      ([[5, 6, 7], [7, 8, 1], [9, 2, 1]], [2, 1, 1])
    """
    if length < 1:
        raise InputError(f"length must be at least 1, not {length}")
    pieces = [ids[at : at + length + 1] for ids in documents for at in range(0, len(ids) - 1, length)]
    tokens = np.full((len(pieces), length + 1), PAD, np.int32)
    for row, piece in zip(tokens, pieces, strict=True):
        row[: len(piece)] = piece
    sizes = np.array([len(piece) for piece in pieces], int).reshape(-1, 1)
    return Windows(tokens, np.arange(1, length + 1) < sizes)


def packed(documents: Iterable[Sequence[int]], length: int, separator: Sequence[int] = ()) -> np.ndarray:
    """Cuts all documents as one stream into windows of L+1 tokens, nothing padded.

    Neighbours share one token, so that every token of the stream but the first is a label once. The tail that fills no window is
    dropped.

    Args:
      documents: lists of ids.
      length: L, labels of a window.
      separator: ids behind each document.

    Returns:
      [N, L+1] int32, in the order of the stream.

    Raises:
      InputError: a length below 1, a stream of fewer than L+1 tokens.

    Example:
      >>> packed([[5, 6, 7], [8]], 2, separator=[2]).tolist()
      [[5, 6, 7], [7, 2, 8]]
    """
    if length < 1:
        raise InputError(f"length must be at least 1, not {length}")
    stream = np.fromiter(chain.from_iterable(chain(ids, separator) for ids in documents), np.int32)
    n = (len(stream) - 1) // length
    if n < 1:
        raise InputError(f"{len(stream)} tokens fill no window of {length + 1}: shorten the length, or give more text")
    return stream[np.arange(n)[:, None] * length + np.arange(length + 1)]


def choose(cut: Windows, n: int, seed: int, name: str) -> Windows:
    """A random n of the windows, in their order.

    Args:
      cut: windows to choose from.
      n: how many.
      seed: of the choice.
      name: what they are for, for the error.

    Returns:
      ``Windows`` [n, …].

    Raises:
      InputError: fewer than n windows.

    Example:
      >>> choose(windows([[5, 6, 7, 8], [9, 2]], 2), 2, seed=0, name="test").tokens.shape
      (2, 3)
    """
    if n > len(cut.tokens):
        raise InputError(
            f"the text gives {len(cut.tokens)} {name}, not {n}: ask for fewer, shorten the length, or give more text"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(cut.tokens))[:n])
    return Windows(*(field[rows] for field in cut))
