"""Any pytree of arrays as one ``.npz`` that is never pickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey, tree_flatten_with_path, tree_unflatten

from olm.errors import InputError
from olm.records.files import atomic_write, decoded, json_bytes

__all__ = ["fingerprint", "load_arrays", "load_meta", "save_arrays"]

PyTree = Any
FORMAT, VERSION = "olm arrays", 1
_EMPTY: dict[str, Callable[[], Any]] = {"none": lambda: None, "dict": dict, "list": list}
# Everything that reading a cut, tampered or foreign archive has been seen to raise, and its kin.
_DAMAGE = (zipfile.BadZipFile, zlib.error, LookupError, TypeError, ValueError, AttributeError, EOFError, OverflowError,
           MemoryError, RuntimeError, SyntaxError)  # fmt: skip


def _is_hole(node: Any) -> bool:
    return node is None or (isinstance(node, (dict, list, tuple)) and not node)


def _step(key: Any) -> Any:
    """One step of a tree path as JSON: a name, a position, or [key] for a dictionary key that is not a text."""
    match key:
        case DictKey(key=str(name)) | GetAttrKey(name=str(name)):
            return name
        case SequenceKey(idx=position) | FlattenedIndexKey(key=int(position)):
            return position
        case DictKey(key=int(number)):
            return [int(number)]
    raise InputError(f"a tree to save has the key {key}: use texts or integers")


def _word(path: Sequence[Any]) -> str:
    """A readable path; characters that upset a zip archive are written %XX."""
    steps = [str(step[0] if isinstance(step, list) else step) for step in path]
    safe = [re.sub(r"[^\w.\-+ ]", lambda found: f"%{ord(found[0]):02X}", step) for step in steps]
    return "/".join(f"%2E{step[1:]}" if step in (".", "..") else step for step in safe) or "value"


def _flat(tree: PyTree) -> tuple[list[tuple[list[Any], Any]], Any]:
    """[(path, leaf)] and the structure; None and empty containers are leaves, so that they come back."""
    flat, structure = tree_flatten_with_path(tree, is_leaf=_is_hole)
    return [([_step(key) for key in path], leaf) for path, leaf in flat], structure


def _hole(leaf: Any) -> str:
    return "none" if leaf is None else "dict" if isinstance(leaf, dict) or hasattr(leaf, "_fields") else "list"


def _array(leaf: Any, name: str) -> np.ndarray:
    if str(getattr(leaf, "dtype", "")).startswith("key<"):
        raise InputError(f"leaf {name} is a typed PRNG key: save jax.random.key_data of it")
    array = np.asarray(leaf, order="C")
    if array.dtype.isbuiltin != 2 and array.dtype.kind not in "biufcSU":
        raise InputError(f"leaf {name} is a {type(leaf).__name__} ({array.dtype}): only arrays of numbers or texts can be saved")
    return array


def save_arrays(
    path: str | os.PathLike[str], tree: PyTree, meta: Mapping[str, Any] | None = None, *, started: bool = False
) -> Path:
    """Write a pytree of arrays to one uncompressed ``.npz``, atomically, never pickled; equal trees give equal bytes.

    Args:
      path: the file.
      tree: dicts, lists, tuples, NamedTuples, registered classes and None, with arrays or numbers as leaves. bfloat16 and
        the other types of ``ml_dtypes`` are stored as their bits and come back as themselves.
      meta: JSON-like, kept beside the arrays (`load_meta`).
      started: as for `atomic_write`.

    Returns:
      The path.

    Raises:
      InputError: a leaf that is not an array of numbers or texts, named; or a folder that refuses.
      StorageError: the disk is full; the old file is intact.

    >>> import tempfile
    >>> path = save_arrays(tempfile.mkdtemp() + "/a.npz", {"w": np.eye(2), "b": None}, {"policy": "table"})
    >>> load_arrays(path)
    {'b': None, 'w': array([[1., 0.],
           [0., 1.]])}
    >>> load_meta(path), sorted(np.load(path))
    ({'policy': 'table'}, ['__format__', '__meta__', 'w'])
    """
    leaves, entries, used = [], {}, {"__format__", "__meta__"}
    for steps, leaf in _flat(tree)[0]:
        if _is_hole(leaf):
            leaves.append({"path": steps, "empty": _hole(leaf)})
            continue
        name = _word(steps)
        array = _array(leaf, name)
        while name in used:  # a key may be called __meta__
            name += "~"
        used.add(name)
        record = {"path": steps, "name": name}
        if array.dtype.isbuiltin == 2:  # a type of ml_dtypes: numpy's format would forget its name
            record["dtype"] = array.dtype.name
            array = array.view(f"u{array.dtype.itemsize}")
        leaves.append(record)
        entries[name] = array
    about = json.dumps({"format": FORMAT, "version": VERSION, "leaves": leaves})
    entries = {"__format__": np.array(about), "__meta__": np.array(json_bytes(meta or {}).decode().strip())} | entries

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in entries.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    return atomic_write(path, write, started=started)


def _entry(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=100_000)
        if file.read(1):  # reading to the end also checks the checksum
            raise ValueError(f"entry {name} is longer than its header says")
    return array


@contextmanager
def _archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """The open archive and its format record; whatever is wrong with the file becomes one `InputError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if "__format__.npy" not in archive.namelist():
                raise InputError(f"{path} is not an array file of olm: give one that olm has saved")
            about = json.loads(str(_entry(archive, "__format__")))
            if about["format"] != FORMAT or int(about["version"]) > VERSION:
                there = f"{about['format']!r} {about['version']}"
                raise InputError(f"{path} has format {there}, this olm reads {FORMAT!r} {VERSION}: update olm")
            yield archive, about
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise InputError(f"{path} is cut, damaged or not an array file of olm ({error}): give one that olm has saved") from error


def load_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``meta`` given to `save_arrays`, without reading the arrays.

    Args:
      path: the file.

    Returns:
      A dict.

    Raises:
      InputError: the file is missing, cut, foreign or of a newer version.

    >>> import tempfile
    >>> load_meta(save_arrays(tempfile.mkdtemp() + "/a.npz", {}, {"rows": 3}))
    {'rows': 3}
    """
    with _archive(Path(path)) as (archive, _):
        return dict(decoded(json.loads(str(_entry(archive, "__meta__")))))


def _assemble(pairs: list[tuple[list[Any], Any]]) -> PyTree:
    """Nested dicts and lists from paths; positions make a list, everything else a dict."""
    if len(pairs) == 1 and not pairs[0][0]:
        return pairs[0][1]
    children: dict[Any, list[tuple[list[Any], Any]]] = {}
    positions = True
    for (first, *rest), value in pairs:
        positions &= isinstance(first, int)
        children.setdefault(first[0] if isinstance(first, list) else first, []).append((rest, value))
    built = {key: _assemble(below) for key, below in children.items()}
    # A gap (a registered class without leaves) leaves a dict of positions.
    return [built[position] for position in sorted(built)] if positions and max(built) == len(built) - 1 else built


def _read_leaf(archive: zipfile.ZipFile, record: dict[str, Any]) -> Any:
    if "empty" in record:
        return _EMPTY[record["empty"]]()
    array = _entry(archive, record["name"])
    if "dtype" in record:
        import ml_dtypes

        array = array.view(getattr(ml_dtypes, record["dtype"]))
    return array


def _described(dtype: Any, shape: Any) -> str:
    return f"{np.dtype(dtype).name}[{', '.join(map(str, shape))}]"


def _fitted(value: Any, like: Any, name: str) -> Any:
    """``value``, checked against the leaf it replaces."""
    if _is_hole(value) or _is_hole(like):
        if not (_is_hole(value) and _is_hole(like)):
            there, here = ("nothing" if _is_hole(side) else "an array" for side in (value, like))
            raise InputError(f"leaf {name} is {there}, expected {here}")
        return like
    if isinstance(like, (bool, int, float, complex)):
        if value.shape or type(value.item()) is not type(like):
            raise InputError(f"leaf {name} is {_described(value.dtype, value.shape)}, expected one {type(like).__name__}")
        return value.item()
    if not hasattr(like, "dtype"):
        raise InputError(f"leaf {name} is expected to be a {type(like).__name__}: expect arrays or shapes with a dtype")
    if value.shape != tuple(like.shape) or value.dtype != like.dtype:
        raise InputError(f"leaf {name} is {_described(value.dtype, value.shape)}, expected {_described(like.dtype, like.shape)}")
    return value


def load_arrays(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Read what `save_arrays` wrote.

    Args:
      path: the file.
      like: a tree of arrays or ``jax.ShapeDtypeStruct`` of the expected structure, shapes and dtypes. None: nothing is
        expected; tuples come back as lists, NamedTuples and registered classes as dicts.

    Returns:
      A tree of numpy arrays: ``like``'s structure, or nested dicts and lists.

    Raises:
      InputError: the file is missing, cut, foreign, pickled or of a newer version, or a leaf (named) is not what ``like``
        says.

    >>> import tempfile
    >>> path = save_arrays(tempfile.mkdtemp() + "/a.npz", (np.zeros(3), None))
    >>> load_arrays(path, like=(np.ones(3), None))
    (array([0., 0., 0.]), None)
    >>> load_arrays(path, like=(np.ones(4), None))
    Traceback (most recent call last):
      ...
    olm.errors.InputError: ...a.npz: leaf 0 is float64[3], expected float64[4]
    """
    with _archive(Path(path)) as (archive, about):
        found = [(record["path"], _read_leaf(archive, record)) for record in about["leaves"]]
        if like is None:
            return _assemble(found) if found else {}
        named = {json.dumps(steps): value for steps, value in found}
        wishes, structure = _flat(like)
        wanted = {json.dumps(steps) for steps, _ in wishes}
        differences = [f"no leaf {_word(steps)}" for steps, _ in wishes if json.dumps(steps) not in named]
        differences += [f"an unexpected leaf {_word(steps)}" for steps, _ in found if json.dumps(steps) not in wanted]
        if differences:
            raise InputError(f"{path} has {', '.join(differences[:6])}: it was saved from another structure")
        try:
            return tree_unflatten(structure, [_fitted(named[json.dumps(steps)], wish, _word(steps)) for steps, wish in wishes])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def fingerprint(tree: PyTree) -> str:
    """SHA-256 over the paths, dtypes, shapes and bytes of a tree: equal exactly when two trees are bit-identical.

    Args:
      tree: as for `save_arrays`.

    Returns:
      64 hexadecimal digits.

    Raises:
      InputError: a leaf that is not an array.

    >>> fingerprint({"w": np.zeros(2)}) == fingerprint({"w": np.array([0.0, 0.0])})
    True
    >>> fingerprint({"w": np.zeros(2)}) == fingerprint({"w": np.array([0.0, -0.0])})
    False
    """
    digest = hashlib.sha256()
    for steps, leaf in _flat(tree)[0]:
        array = None if _is_hole(leaf) else _array(leaf, _word(steps))
        described = [steps, _hole(leaf)] if array is None else [steps, array.dtype.name, array.dtype.byteorder, array.shape]
        digest.update(json.dumps(described).encode() + b"\0")
        if array is not None:
            digest.update(array.tobytes())
    return digest.hexdigest()
