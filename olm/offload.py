"""Differentiate a loop whose carries do not fit on the device: the host drives segments, carries wait in its memory or on disk.

A run of T steps is cut into S segments. `binomial_schedule` says, as data, in which order segments are run forward, carries
saved and segments reversed; with c snapshots it runs the fewest segments that any order can (Griewank 1992; Griewank and
Walther 2000, Algorithm 799, "revolve"). A snapshot here is the carry at the start of a segment, and the very first carry
counts as one. `offloaded` carries the schedule out: the device holds one segment at a time, that is its carries, its slices
of ``rows`` and ``aux``, and what is not sliced (``shared``, ``data``).

With a directory the sweep outlives its process. Files there, each replaced whole:

- ``sweep.npz``: the costate, the gradient of ``shared`` so far, the carry on hand where no snapshot holds it, and the position
  in the schedule. It is written last, so what it refers to is there. All files carry a fingerprint of the arrays, the
  schedule and the lowered program, so that neither other data nor another step is ever continued by mistake;
- ``sweep-carry-I.npz``: the carry at the start of segment I; I = S is c_T;
- ``sweep-seen-I.npz`` and ``sweep-rows-I.npz``: the readouts of segment I, and its costs and gradient rows.

Not done: schedules for an unknown T, transfers that overlap with computing, and carries sharded over devices (they are
gathered on the host and come back to one).
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.adjoint import Adjoint, Inputs, Program, Sweep, advance, assemble, finish, length, reverse
from olm.errors import InputError
from olm.records import fingerprint, load_arrays, load_meta, save_arrays
from olm.records.files import explained
from olm.types import Array, PyTree

try:
    import fcntl
except ImportError:  # Windows: one process at a time is up to the user
    fcntl = None  # type: ignore[assignment]

__all__ = ["Action", "advances", "binomial_schedule", "offloaded"]


# -- the schedule


class Action(NamedTuple):
    """One instruction of a schedule; segment i leads from carry i to carry i + 1, the carry on hand is the one last reached.

    Attributes:
      kind: ``save`` the carry on hand as snapshot i, ``restore`` snapshot i, ``discard`` snapshot i, ``advance`` over
        segment i, or ``reverse`` segment i, which uses up the carry on hand.
      segment: i.
    """

    kind: Literal["save", "restore", "discard", "advance", "reverse"]
    segment: int


def _repetitions(segments: int, snapshots: int) -> int:
    """r: the fewest times that every segment may be run forward, the smallest with S ≤ C(c + r, c)."""
    r, reach = 0, 1
    while reach < segments:
        r += 1
        reach = reach * (snapshots + r) // r
    return r


def _check(segments: int, snapshots: int) -> None:
    if segments < 1 or snapshots < 1:
        raise InputError(f"a schedule of {segments} segments and {snapshots} snapshots: both must be at least 1")


def advances(segments: int, snapshots: int) -> int:
    """How many times a segment is run forward before its own reversal: r S − C(c + r, r − 1), r smallest with S ≤ C(c + r, c).

    Args:
      segments: S ≥ 1.
      snapshots: c ≥ 1, the first carry's included.

    Returns:
      A count; each of the S reversals runs its segment once more.

    Raises:
      InputError: for segments or snapshots below 1.

    Source: Griewank and Walther 2000, their t(l, s) with l = S and s = c.

    >>> [advances(10, c) for c in (1, 2, 3, 9, 10)]
    [45, 20, 15, 9, 9]
    """
    _check(segments, snapshots)
    r = _repetitions(segments, snapshots)
    return r * segments - math.comb(snapshots + r, r - 1) if r else 0


def _stride(segments: int, snapshots: int) -> int:
    """How far from a saved carry the next one is saved: the farthest that keeps the count minimal."""
    r = _repetitions(segments, snapshots)
    before = math.comb(snapshots + r - 1, snapshots)
    return min(before, segments - math.comb(snapshots + r - 2, snapshots - 1))


def binomial_schedule(segments: int, snapshots: int) -> tuple[Action, ...]:
    """The order of work that reverses S segments with c snapshots and the fewest `advances`.

    Args:
      segments: S ≥ 1.
      snapshots: c ≥ 1, held at once; S − 1 are as good as any more.

    Returns:
      Actions, starting with carry 0 on hand and ending when segment 0 has been reversed.

    Raises:
      InputError: for segments or snapshots below 1.

    Source: Griewank and Walther 2000, Algorithm 799. Of the equally good places for a snapshot it takes the farthest.

    >>> " ".join(f"{kind[:3]}{i}" for kind, i in binomial_schedule(3, 1))
    'sav0 adv0 adv1 rev2 res0 adv0 rev1 res0 dis0 rev0'
    """
    _check(segments, snapshots)
    actions: list[Action] = []
    held: list[int] = []
    at, stop = 0, segments
    while stop:
        is_held = held[-1:] == [at]
        if stop - at > 1:
            if not is_held:
                actions.append(Action("save", at))
                held.append(at)
            reached = at + _stride(stop - at, snapshots - len(held) + 1)
            actions += [Action("advance", i) for i in range(at, reached)]
            at = reached
            continue
        if is_held:
            actions.append(Action("discard", held.pop()))
        actions.append(Action("reverse", at))
        stop = at
        if held:
            at = held[-1]
            actions.append(Action("restore", at))
    return tuple(actions)


# -- one segment on the device; the program is static, so sweeps of equal shapes compile once


@functools.partial(jax.jit, static_argnames=("program", "readout"))
def _advance(program: Program, inputs: Inputs, carry: PyTree, readout: bool):
    after, _, seen = advance(program, inputs, carry, tape=False, readout=readout)
    return after, seen


@functools.partial(jax.jit, static_argnames=("program",))
def _reverse(program: Program, inputs: Inputs, carry: PyTree, costate: list[Array], shared_bar: PyTree, weights: Array):
    _, kept, _ = advance(program, inputs, carry, tape=True, readout=False)
    costate, shared_bar, rows_bar, costs = reverse(program, inputs, kept, costate, shared_bar, weights)
    return costate, shared_bar, (costs, rows_bar)


@functools.partial(jax.jit, static_argnames=("program",))
def _reverse_last(program: Program, inputs: Inputs, carry: PyTree, weights: Array):
    """The last segment meets c_T and its readouts for the first time on its reversal; ``weights`` has one entry more."""
    last, kept, seen = advance(program, inputs, carry, tape=True)
    end, costate = finish(program, inputs, last, None, weights)
    zeros = jax.tree.map(jnp.zeros_like, inputs.shared)
    costate, shared_bar, rows_bar, costs = reverse(program, inputs, kept, costate, zeros, weights[:-1])
    return last, seen, costate, shared_bar, (jnp.append(costs, end), rows_bar)


# -- where the host keeps what the device does not


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _on_host(tree: PyTree) -> list[np.ndarray]:
    """The leaves in host memory, typed keys as their data."""
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
    return [np.asarray(leaf) for leaf in jax.device_get(leaves)]


def _rebuilder(tree: PyTree) -> Callable[[list[Any]], PyTree]:
    """The way back from `_on_host`."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = [jax.random.key_impl(leaf) if _is_key(leaf) else None for leaf in leaves]

    def rebuild(arrays: list[Any]) -> PyTree:
        pairs = zip(arrays, kinds, strict=True)
        return jax.tree.unflatten(structure, [x if k is None else jax.random.wrap_key_data(x, impl=k) for x, k in pairs])

    return rebuild


class _Memory:
    """Parts of one sweep, lists of arrays by kind ("carry", "seen" or "rows") and segment, in host memory."""

    def __init__(self) -> None:
        self.parts: dict[tuple[str, int], list[np.ndarray]] = {}

    def put(self, kind: str, segment: int, leaves: list[np.ndarray]) -> None:
        self.parts[kind, segment] = leaves

    def get(self, kind: str, segment: int) -> list[np.ndarray]:
        return self.parts[kind, segment]

    def drop(self, kind: str, segment: int) -> None:
        del self.parts[kind, segment]

    def commit(self, position: int, **state: PyTree) -> None:
        """Memory ends with the process: there is nothing to continue from."""

    def resume(self) -> tuple[int, PyTree] | None:
        return None

    def clear(self) -> None:
        self.parts.clear()


class _Folder:
    """The same as files, and a state to continue from that is written after the parts it refers to."""

    def __init__(self, path: Path, sweep: str):
        self.path, self.sweep, self.state = path, sweep, path / "sweep.npz"
        self.started = self.state.exists()
        self.unneeded: list[Path] = []  # until the next state, which no longer refers to them, is on disk

    def _file(self, kind: str, segment: int) -> Path:
        return self.path / f"sweep-{kind}-{segment:05d}.npz"

    def _save(self, path: Path, tree: PyTree, **meta: Any) -> None:
        save_arrays(path, tree, {"sweep": self.sweep, "file": path.name, **meta}, started=self.started)
        self.started = True

    def _load(self, path: Path) -> tuple[PyTree, dict[str, Any]]:
        try:
            meta = load_meta(path)
            ours = (meta.get("sweep"), meta.get("file")) == (self.sweep, path.name)
            tree = load_arrays(path) if ours else None
        except InputError as error:
            raise InputError(f"{error}, or remove {self.path}/sweep*.npz to start the sweep again") from error
        if not ours:
            raise InputError(f"{self.path} holds another sweep ({path.name}): remove it or choose another directory")
        return tree, meta

    def put(self, kind: str, segment: int, leaves: list[np.ndarray]) -> None:
        self._save(self._file(kind, segment), leaves)

    def get(self, kind: str, segment: int) -> list[np.ndarray]:
        return self._load(self._file(kind, segment))[0]

    def drop(self, kind: str, segment: int) -> None:
        self.unneeded.append(self._file(kind, segment))

    def commit(self, position: int, **state: PyTree) -> None:
        self._save(self.state, {name: _on_host(tree) for name, tree in state.items()}, position=position)
        self._remove(self.unneeded)
        self.unneeded = []

    def resume(self) -> tuple[int, PyTree] | None:
        """The position and state last committed; parts without one are leftovers of a sweep that ended or had hardly begun."""
        if self.state.exists():
            tree, meta = self._load(self.state)
            return meta["position"], tree
        self._remove(self._parts())
        return None

    def clear(self) -> None:
        self._remove([self.state, *self._parts()])  # the state first, so that a crash in between leaves leftovers only

    def _parts(self) -> list[Path]:
        ours = re.compile(r"sweep-(carry|seen|rows)-\d{5,}\.npz|\.sweep[\w.-]*\.tmp")
        return [path for path in self.path.iterdir() if ours.fullmatch(path.name)]

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            with explained(path, "remove", started=True):
                path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, sweep: Callable[[], str]) -> Iterator[_Folder]:
    """The folder, made if absent, held against other processes; ``sweep`` gives the fingerprint."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose a folder for the sweep")
    with explained(path, "make the folder"):
        path.mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        if fcntl is not None:
            with explained(path, "open"):
                handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{path} is in use by another sweep: wait for it or choose another directory") from None
            except OSError:  # a network disk that cannot lock: better an unguarded sweep than none
                pass
        yield _Folder(path, sweep())
    finally:
        if handle is not None:
            os.close(handle)


# -- the sweep


class _Cut(NamedTuple):
    """A loop's arguments on the host, and how to take one segment of them to the device."""

    inputs: Inputs
    weights: np.ndarray
    size: int
    segments: int

    def part(self, segment: int) -> tuple[Inputs, np.ndarray]:
        """Segment i's inputs and cost weights; the last one's weights include c_T's."""
        here = slice(segment * self.size, (segment + 1) * self.size)
        rows, aux = jax.tree.map(lambda x: x[here], (self.inputs.rows, self.inputs.aux))
        weights = self.weights[here.start :] if segment == self.segments - 1 else self.weights[here]
        return self.inputs._replace(rows=rows, aux=aux), weights


def _cut(inputs: Inputs, weights: Array, segment: int | None) -> _Cut:
    steps = length(inputs.aux)
    size = segment or max(1, round(math.sqrt(steps)))
    rows, aux = (_rebuilder(tree)(_on_host(tree)) for tree in (inputs.rows, inputs.aux))
    shared, data = jax.tree.map(lambda x: x if _is_key(x) else jnp.asarray(x), (inputs.shared, inputs.data))
    return _Cut(Inputs(shared, rows, aux, data), np.asarray(weights), size, max(1, -(-steps // size)))


def _typed(carry: PyTree, like: PyTree) -> PyTree:
    """The first carry in host memory, with the types that the loop gives it (Python numbers have none of their own)."""
    pairs = zip(_on_host(carry), jax.tree.leaves(like), strict=True)
    return _rebuilder(carry)([x if _is_key(shape) else x.astype(shape.dtype) for x, shape in pairs])


def _identity(program: Program, cut: _Cut, carry: PyTree, schedule: tuple[Action, ...]) -> str:
    """The fingerprint of everything that a result depends on: arrays, schedule, and the program as the compiler reads it."""
    inputs, weights = cut.part(cut.segments - 1)
    text = _reverse_last.lower(program, inputs, carry, weights).as_text()
    order = [f"{kind} {segment}" for kind, segment in schedule]
    arrays = [_on_host(cut.inputs), _on_host(carry), cut.weights]
    return fingerprint([arrays, np.array(order), np.array([text, jax.__version__, jax.default_backend()])])


def _joined(store: _Memory | _Folder, kind: str, segments: int, structure: Any) -> PyTree:
    parts = [store.get(kind, segment) for segment in range(segments)]
    return jax.tree.unflatten(structure, [np.concatenate(leaves) for leaves in zip(*parts, strict=True)])


def _drive(program: Program, cut: _Cut, first: PyTree, schedule: tuple[Action, ...], store: _Memory | _Folder, shapes, progress):
    """Carry a schedule out from where ``store`` left it; everything that is done depends on the position in it alone."""
    rebuild, last = _rebuilder(first), cut.segments - 1
    begin, carry, costate, shared_bar = 0, first, None, None
    found = store.resume()
    if found:
        begin, state = found
        costate = state["costate"]
        if ("reverse", last) in schedule[:begin]:
            shared_bar = jax.tree.unflatten(jax.tree.structure(cut.inputs.shared), state["shared"])
        match schedule[begin - 1]:
            case ("save", segment):
                carry = rebuild(store.get("carry", segment))
            case ("advance", _):
                carry = rebuild(state["carry"])
    # Readouts are taken when a segment is first run.
    reached = max((1 + segment for kind, segment in schedule[:begin] if kind == "advance"), default=0)

    with _bar(schedule, begin) if progress else nullcontext(lambda position: None) as tick:
        for position in range(begin, len(schedule)):
            kind, segment = schedule[position]
            inputs, weights = cut.part(segment)
            if kind == "save":
                store.put("carry", segment, _on_host(carry))
            elif kind == "restore":
                carry = rebuild(store.get("carry", segment))
            elif kind == "discard":
                store.drop("carry", segment)
            elif kind == "advance":
                carry, seen = _advance(program, inputs, carry, segment == reached)
                if segment == reached:
                    store.put("seen", segment, _on_host(seen))
                    reached += 1
            elif segment == last:
                carry, seen, costate, shared_bar, parts = _reverse_last(program, inputs, carry, weights)
                for name, index, tree in (("carry", segment + 1, carry), ("seen", segment, seen), ("rows", segment, parts)):
                    store.put(name, index, _on_host(tree))
            else:
                costate, shared_bar, parts = _reverse(program, inputs, carry, costate, shared_bar, weights)
                store.put("rows", segment, _on_host(parts))
            # A carry that was just saved, or is saved next, need not be in the state as well.
            if kind in ("save", "reverse") or (kind == "advance" and schedule[position + 1].kind != "save"):
                on_hand = carry if kind == "advance" else None
                store.commit(position + 1, costate=costate, shared=shared_bar, carry=on_hand)
            tick(position)

    costs, rows_bar = _joined(store, "rows", last + 1, jax.tree.structure(shapes[4]))
    seen = _joined(store, "seen", last + 1, jax.tree.structure(shapes[1]))
    carry = jax.tree.map(jnp.asarray, rebuild(store.get("carry", last + 1)))
    costate, shared_bar = jax.tree.map(jnp.asarray, (costate, shared_bar))
    store.clear()
    return Sweep(jnp.asarray(costs), carry, seen, assemble(first, costate, shared_bar, rows_bar))


@contextmanager
def _bar(schedule: tuple[Action, ...], begin: int) -> Iterator[Callable[[int], Any]]:
    from tqdm import tqdm

    # A reversal runs its segment, then backwards: about four times an advance, which the time left must reflect.
    work = [{"advance": 1, "reverse": 4}.get(action.kind, 0) for action in schedule]
    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=sum(work), initial=sum(work[:begin]), desc="offloaded sweep", bar_format=bar_format, leave=False) as bar:
        yield lambda position: bar.update(work[position])


def offloaded(
    snapshots: int | None = None,
    segment: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Adjoint:
    """Drive segments from the host: the device holds one segment's carries, the host's memory or a disk the snapshots.

    A run of T steps in S segments costs T + s·`advances`(S, c) forward steps and T backward ones for segments of s steps,
    and recomputes within a segment as `olm.adjoint.segmented` with two levels does. Gradient rows and readouts are numpy
    arrays; pass ``rows`` as numpy arrays too and they never are on the device whole. Results do not depend on ``snapshots``
    or ``directory`` beyond rounding, and a continued sweep gives the same bits as an undisturbed one.

    Args:
      snapshots: c ≥ 1, carries held at once; None: the start of every segment.
      segment: steps in a segment, the last may have fewer; None: about √T.
      directory: a folder for snapshots and for a state after every segment, so that a sweep that was interrupted goes on where
        it was when the same one is asked for again; made if absent, emptied of the sweep's files at the end. One process at
        a time. None: host memory.
      progress: show a bar of the segments run, with the time left.

    Returns:
      An `Adjoint` that cannot run under ``jax.jit`` and does not serve `olm.train`'s derivative.

    Raises:
      InputError: snapshots or segment below 1; when it runs: a directory that holds another sweep, damaged files, or is in
        use, and typed PRNG keys in readouts.
      StorageError: the disk is full or broken when it runs; the last state is intact.

    Source: Griewank and Walther 2000 (Algorithm 799: revolve); the count of `advances` is optimal.

    >>> from olm.adjoint import direct
    >>> program = Program(lambda shared, carry, row, aux, data: carry * row, lambda carry, data: carry**2)
    >>> inputs = Inputs(None, jnp.array([2.0, 3.0, 1.0]), jnp.arange(3), None)
    >>> sweep = offloaded(snapshots=1, segment=1).sweep(program, inputs, jnp.array(1.0), jnp.array([0.0, 0.0, 0.0, 1.0]))
    >>> sweep.costs.tolist(), sweep.gradients.rows.tolist(), sweep.gradients.carry.tolist()
    ([0.0, 0.0, 0.0, 36.0], [36.0, 24.0, 72.0], 72.0)
    """
    if min(1 if snapshots is None else snapshots, 1 if segment is None else segment) < 1:
        raise InputError(f"offloaded(snapshots={snapshots}, segment={segment}): both must be at least 1")
    if directory is not None and Path(directory).exists() and not Path(directory).is_dir():
        raise InputError(f"{directory} is a file: choose a folder for the snapshots")

    def sweep(program: Program, inputs: Inputs, carry: PyTree, weights: Array) -> Sweep:
        cut = _cut(inputs, weights, segment)
        schedule = binomial_schedule(cut.segments, min(snapshots or cut.segments, cut.segments))
        last, last_weights = cut.part(cut.segments - 1)
        shapes = _reverse_last.eval_shape(program, last, carry, last_weights)
        if any(_is_key(leaf) for leaf in jax.tree.leaves(shapes[1])):
            raise InputError("a readout holds a typed PRNG key: read out jax.random.key_data of it")
        first = _typed(carry, shapes[0])
        if directory is None:
            return _drive(program, cut, first, schedule, _Memory(), shapes, progress)
        with _opened(Path(directory), lambda: _identity(program, cut, first, schedule)) as store:
            return _drive(program, cut, first, schedule, store, shapes, progress)

    given = [f"{name}={value}" for name, value in (("snapshots", snapshots), ("segment", segment)) if value is not None]
    name = f"offloaded({', '.join(given)})" if given else "offloaded"
    return Adjoint(name, sweep, traceable=False, on_disk=directory is not None)
