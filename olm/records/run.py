"""A run folder: made, locked, continued after a crash."""

from __future__ import annotations

import errno
import json
import os
import re
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from olm.errors import InputError
from olm.records.arrays import PyTree, load_arrays, load_meta, save_arrays
from olm.records.files import atomic_write, decoded, explained, json_bytes, plain, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Run", "unique_run_dir"]

VERSION = 1
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def _dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        below = [_dotted(item, f"{prefix}.{key}" if prefix else key) for key, item in value.items()]
        return {name: leaf for part in below for name, leaf in part.items()}
    return {prefix: value}


def _differences(there: dict[str, Any], here: dict[str, Any], may_change: Collection[str]) -> list[str]:
    old, new = _dotted(there), _dotted(here)

    def allowed(name: str) -> bool:
        return any(name == field or name.startswith(f"{field}.") for field in may_change)

    def shown(side: dict[str, Any], name: str) -> str:
        return json.dumps(side[name], ensure_ascii=False) if name in side else "absent"

    names = [name for name in [*old, *(n for n in new if n not in old)] if not allowed(name)]
    return [f"{n} is {shown(old, n)} there and {shown(new, n)} here" for n in names if shown(old, n) != shown(new, n)]


class Run:
    """One run folder: `create` and `resume` lock it until `close` (or the end of a ``with`` block), `open` only reads.

    Attributes:
      path: the folder.
      config: the settings as `read_json` gives them.
      command: the command line that made the run, or None.

    >>> import tempfile
    >>> with Run.create(tempfile.mkdtemp() + "/run", {"search": {"evaluations": 2}}) as run:
    ...     run.append_metrics({"evaluation": 1, "objective": float("nan")})
    ...     run.metrics()
    [{'evaluation': 1, 'objective': nan}]
    >>> Run.resume(run.path, {"search": {"evaluations": 3}})
    Traceback (most recent call last):
      ...
    olm.errors.InputError: ...: search.evaluations is 2 there and 3 here; ...
    """

    def __init__(self, path: Path, config: dict[str, Any], command: list[str] | None, lock: int | None):
        self.path, self.config, self.command = path, config, command
        # Closing the descriptor is what unlocks; the finaliser covers a Run that is dropped without `close`.
        self._unlock = weakref.finalize(self, os.close, lock) if lock is not None else None

    # -- opening

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Any, command: Sequence[str] | None = None) -> Run:
        """Make a new run folder (parents too) and lock it; the config is checked before anything is written.

        Args:
          path: a folder that is absent or empty.
          config: every setting, a JSON-like dict or a dataclass.
          command: the command line, for the report.

        Returns:
          The run, open for writing.

        Raises:
          InputError: the folder is in use or refuses, or the config cannot be written as JSON; nothing was written.
          StorageError: the disk is full.
        """
        path = Path(path)
        settings, words = _settings(config), list(map(str, command)) if command is not None else None
        data = json_bytes({"olm_run": VERSION, "command": words, "config": settings}, indent=2)
        with explained(path, "make the run folder"):
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is a file: choose another folder for the run")
            if path.is_dir():
                _refuse_used(path)
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            lock = None
            try:
                path.mkdir(parents=True, exist_ok=True)
                lock = _locked(path)
                _refuse_used(path)  # again: another process may have been quicker
                _remove_leftovers(path)
                atomic_write(path / "config.json", lambda file: file.write(data))
            except BaseException:
                if lock is not None:
                    with suppress(OSError):
                        (path / ".lock").unlink()
                    os.close(lock)
                for folder in made:
                    with suppress(OSError):
                        folder.rmdir()
                raise
        return cls(path, decoded(settings), words, lock)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open a run for reading, even one that is being written.

        Args:
          path: a run folder.

        Returns:
          The run; its writing methods refuse.

        Raises:
          InputError: not a run folder of olm, or of a newer olm.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is not a run folder (it has no config.json): give the folder of a run")
        record = read_json(path / "config.json")
        ours = isinstance(record, dict) and isinstance(record.get("config"), dict) and isinstance(record.get("olm_run"), int)
        if not ours:
            raise InputError(f"{path}/config.json was not written by olm: give the folder of a run")
        if record["olm_run"] > VERSION:
            raise InputError(f"{path} has run format {record['olm_run']}; this olm reads {VERSION}: update olm")
        command = record.get("command")
        whole = isinstance(command, list) and all(isinstance(word, str) for word in command)
        if not (whole or command is None):
            raise InputError(f"{path}/config.json: command is {command!r}, not a list of words: restore the file")
        return cls(path, record["config"], command, None)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], config: Any, may_change: Collection[str] = ()) -> Run:
        """Open an existing run to continue it, lock it and clear away what a crash left.

        Args:
          path: a run folder.
          config: the settings to continue with; they become the run's when it `begin`s.
          may_change: dotted names (or their prefixes) that may differ, for example ``{"search.evaluations"}``.

        Returns:
          The run, open for writing.

        Raises:
          InputError: not a run, in use by another process, or made with another config (each differing field is named).
          StorageError: the disk is full.
        """
        settings = _settings(config)
        run = cls.open(path)
        differences = _differences(plain(run.config), settings, may_change)
        if differences:
            raise InputError(f"{run.path} was made with other settings: {'; '.join(differences)}; use its own or another folder")
        with explained(run.path, "continue the run in"):
            resumed = cls(run.path, decoded(settings), run.command, _locked(run.path))
            try:
                _remove_leftovers(run.path)
                resumed._drop_cut_line()
            except BaseException:
                resumed.close()
                raise
        return resumed

    def begin(self) -> None:
        """Record that work goes on: the config becomes the resumed one, and a summary, which says that a run is finished, goes.

        Called by whoever resumes once the state has been read and found good, so that a refused resume clears away what a crash
        left and changes nothing else.

        Raises:
          StorageError: the disk is full; the old config is intact.
        """
        self._writable()
        if plain(Run.open(self.path).config) != plain(self.config):
            record = {"olm_run": VERSION, "command": self.command, "config": plain(self.config)}
            write_json(self.path / "config.json", record, started=True)
        with explained(self.path, "continue the run in", started=True):
            (self.path / "summary.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock; further writing refuses. Harmless when repeated."""
        if self._unlock is not None:
            self._unlock()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _writable(self) -> None:
        if self._unlock is None or not self._unlock.alive:
            raise InputError(f"{self.path} is open for reading only: use Run.create or Run.resume to write")

    # -- metrics

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one JSON line; it survives a killed process at once and a power failure after the next `save_state`.

        Args:
          row: JSON-like.

        Raises:
          StorageError: the disk is full; the file ends after the last whole line.
        """
        self._writable()
        data = json_bytes(row)
        path = self.path / "metrics.jsonl"
        with explained(path, "append to", started=True):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.fstat(handle).st_size
                try:
                    if os.write(handle, data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except BaseException:
                    os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)

    def _lines(self) -> list[bytes]:
        """The complete lines of the metrics, each with its end."""
        path = self.path / "metrics.jsonl"
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines

    def metrics(self) -> list[dict[str, Any]]:
        """Every complete row, in order.

        Returns:
          A list of dicts; empty where nothing was appended.

        Raises:
          InputError: a line before the last is not JSON.
        """
        rows = []
        for number, line in enumerate(self._lines(), 1):
            try:
                rows.append(dict(decoded(json.loads(line))))
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.path}/metrics.jsonl, line {number}, is not a row of JSON: restore the file") from error
        return rows

    def truncate_metrics(self, rows: int) -> None:
        """Keep the first ``rows`` rows, atomically: what a resumed run repeats is then not there twice.

        Args:
          rows: how many to keep, as many as the loaded state has seen.

        Raises:
          InputError: there are fewer.
        """
        self._writable()
        lines = self._lines()
        if rows > len(lines):
            raise InputError(f"{self.path}/metrics.jsonl has {len(lines)} rows where the state has seen {rows}: restore the file")
        if rows < len(lines):
            atomic_write(self.path / "metrics.jsonl", lambda file: file.writelines(lines[:rows]), started=True)

    def _drop_cut_line(self) -> None:
        path = self.path / "metrics.jsonl"
        lines = self._lines()
        if path.exists() and path.stat().st_size != sum(map(len, lines)):
            atomic_write(path, lambda file: file.writelines(lines))

    # -- arrays and summary

    def save(self, name: str, tree: PyTree, meta: Mapping[str, Any] | None = None) -> Path:
        """`save_arrays` into the folder.

        Args:
          name: the file's name without ``.npz``, such as ``"policy"``.
          tree, meta: as for `save_arrays`.

        Returns:
          The path.

        Raises:
          StorageError: the disk is full; the old file is intact.
        """
        self._writable()
        return save_arrays(self.path / f"{name}.npz", tree, meta, started=True)

    def load(self, name: str, like: PyTree = None) -> PyTree:
        """`load_arrays` from the folder; ``name`` as for `save`."""
        return load_arrays(self.path / f"{name}.npz", like)

    def save_state(self, tree: PyTree, meta: Mapping[str, Any] | None = None) -> Path:
        """Write what the run continues from, after making the metrics so far durable.

        Args:
          tree, meta: as for `save_arrays`; ``meta`` should say how many rows of metrics the state has seen.

        Returns:
          The path.

        Raises:
          StorageError: the disk is full; the last state is intact.
        """
        self._writable()
        path = self.path / "metrics.jsonl"
        with explained(path, "write", started=True):
            if path.exists():
                handle = os.open(path, os.O_RDWR)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        return self.save("state", tree, meta)

    def load_state(self, like: PyTree = None) -> tuple[PyTree, dict[str, Any]] | None:
        """The last saved state and its meta, or None where there is none yet.

        Args:
          like: as for `load_arrays`.

        Returns:
          ``(tree, meta)`` or None.

        Raises:
          InputError: the file is damaged or does not fit ``like``.
        """
        path = self.path / "state.npz"
        return (load_arrays(path, like), load_meta(path)) if path.exists() else None

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write ``summary.json``, which marks the run as finished.

        Args:
          summary: JSON-like.

        Returns:
          The path.

        Raises:
          StorageError: the disk is full.
        """
        self._writable()
        return write_json(self.path / "summary.json", summary, started=True)

    def summary(self) -> dict[str, Any]:
        """The contents of ``summary.json``, or an empty dict while the run is unfinished."""
        path = self.path / "summary.json"
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict):
            raise InputError(f"{path} was not written by olm: restore it")
        return found


def _settings(config: Any) -> dict[str, Any]:
    settings = plain(config)
    if not isinstance(settings, dict):
        raise InputError(f"a run's config is a {type(config).__name__}: give a dict or a dataclass")
    return settings


def _is_leftover(name: str) -> bool:
    return name == ".lock" or (name.startswith(".") and name.endswith(".tmp"))


def _refuse_used(path: Path) -> None:
    if (path / "config.json").exists():
        raise InputError(f"{path} already holds a run: continue it with --resume {path} (resume=True), or choose another folder")
    if not all(_is_leftover(entry.name) for entry in path.iterdir()):
        raise InputError(f"{path} is not empty and not a run: choose another folder")


def _remove_leftovers(path: Path) -> None:
    """Temporary files of a killed process; only the holder of the lock may call this."""
    for entry in path.iterdir():
        if entry.name != ".lock" and _is_leftover(entry.name):
            entry.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed or the process dies."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(handle), os.stat(path / ".lock")):  # unlinked by a `create` that failed
                raise BlockingIOError
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # a network disk that cannot lock: better an unguarded run than none
            holder = os.read(handle, 32).decode("ascii", "replace").strip()
            os.close(handle)
            if isinstance(error, BlockingIOError):
                who = f"process {holder}" if holder else "another process"
                raise InputError(f"{path} is being written by {who}: wait for it, or choose another folder") from None
            raise
    with suppress(OSError):  # only for the message above
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def unique_run_dir(root: str | os.PathLike[str], name: str) -> Path:
    """A folder name that is not taken: ``root/name-001``, ``root/name-002`` and so on. Nothing is created.

    Args:
      root: where run folders are kept.
      name: what was run.

    Returns:
      A path that does not exist.

    >>> unique_run_dir("/nowhere", "perceptron").name
    'perceptron-001'
    """
    root = Path(root)
    taken = [re.fullmatch(re.escape(name) + r"-(\d+)", entry.name) for entry in root.iterdir()] if root.is_dir() else []
    return root / f"{name}-{1 + max((int(match[1]) for match in taken if match), default=0):03d}"
