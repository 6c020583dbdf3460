"""Files that are replaced whole, and JSON that stays valid when a number is not finite."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from olm.errors import InputError, StorageError

__all__ = ["atomic_write", "read_json", "write_json"]

_REFUSED = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def explained(path: Path, doing: str, started: bool = False) -> Iterator[None]:
    """Turn an `OSError` into an `InputError` (the place cannot be used) or, in a started run, a `StorageError`."""
    try:
        yield
    except (InputError, StorageError):
        raise
    except OSError as error:
        why = f"cannot {doing} {path}: {error.strerror or error}"
        if not started and error.errno in _REFUSED:
            raise InputError(f"{why}; choose a folder that exists and can be written") from error
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "look at the disk"
        again = "resume the run (--resume, or resume=True)" if started else "try again"
        raise StorageError(f"{why}; {hint} and {again}: what was saved before is intact") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any], *, started: bool = False) -> Path:
    """Replace a file whole: the reader finds the old contents or the new, never a part.

    Args:
      path: the file; its folder must exist.
      write: called with a temporary file in the same folder, open for writing bytes.
      started: a run is under way, so that a folder that refuses is a fault of storage, not of the input.

    Returns:
      The path.

    Raises:
      InputError: the folder does not exist or refuses.
      StorageError: the disk is full or broken; the old file is intact and nothing is left behind.

    >>> import tempfile
    >>> atomic_write(tempfile.mkdtemp() + "/a.txt", lambda file: file.write(b"whole")).read_text()
    'whole'
    """
    path = Path(path)
    with explained(path, "write", started):
        final = Path(os.path.realpath(path))
        temporary = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            # Not tempfile: its files are private to the user whatever the umask says.
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            with open(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(final.parent)
    return path


def plain(value: Any, where: str = "") -> Any:
    """``value`` as JSON can hold it. JSON has no NaN or infinity: they become words that `decoded` turns back."""
    inside = f"{where}." if where else ""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), inside + field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{inside}{key}") for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict(), where)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{inside}{position}") for position, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, where) for item in value), key=str)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return plain(np.asarray(value).tolist(), where)
    raise InputError(f"setting {where or 'given'} is a {type(value).__name__}: records hold numbers, texts, lists and dicts")


def decoded(value: Any) -> Any:
    """What `plain` made of a value, with the words for NaN and infinity turned back into numbers."""
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """``value`` as one line of JSON, or as an indented text."""
    # A file name that is not UTF-8 reaches us as surrogates, which become JSON's own \udcxx escapes.
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any, *, started: bool = False) -> Path:
    """Write one JSON file atomically; dataclasses, NamedTuples, paths and arrays are allowed, NaN and infinity become words.

    Args:
      path: the file.
      value: what to write.
      started: as for `atomic_write`.

    Returns:
      The path.

    Raises:
      InputError: something that JSON cannot hold, named by its dotted place; or a folder that refuses.
      StorageError: the disk is full; the old file is intact.

    >>> import tempfile
    >>> read_json(write_json(tempfile.mkdtemp() + "/a.json", {"rate": np.float32(0.5), "bound": float("inf")}))
    {'rate': 0.5, 'bound': inf}
    """
    data = json_bytes(value, indent=2)
    return atomic_write(path, lambda file: file.write(data), started=started)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read what `write_json` wrote.

    Args:
      path: the file.

    Returns:
      The value, with "NaN", "Infinity" and "-Infinity" turned back into numbers.

    Raises:
      InputError: the file is missing, cut or not JSON.

    >>> import tempfile
    >>> read_json(write_json(tempfile.mkdtemp() + "/a.json", [float("nan"), None, "NaN"]))
    [nan, None, nan]
    """
    try:
        return decoded(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is cut or not JSON ({error}): restore it or start in another folder") from error
