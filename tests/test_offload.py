"""The offloaded adjoint: its schedule as data, its agreement with `direct`, its memory, and what it survives."""

from __future__ import annotations

import errno
import functools
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tqdm
from hypothesis import given
from hypothesis import strategies as st

from olm import offload, policy
from olm.adjoint import Inputs, Program, Sweep, direct
from olm.errors import InputError, StorageError
from olm.offload import Action, advances, binomial_schedule, offloaded
from olm.train import policy_gradient, train
from olm.types import Learner, Task

# --- the schedule as data ---------------------------------------------------------------------------------------------


@functools.cache
def fewest(segments: int, snapshots: int) -> float:
    """The dynamic programme: save the carry at m as well, reverse what follows with one snapshot less, then what precedes."""
    if segments == 1:
        return 0
    if snapshots == 0:
        return math.inf
    return min(m + fewest(segments - m, snapshots - 1) + fewest(m, snapshots) for m in range(1, segments))


class Illegal(Exception):
    pass


def interpret(schedule: tuple[Action, ...], segments: int, snapshots: int) -> int:
    """Follow a schedule; the number of advances, or `Illegal` with the first action that cannot be done."""

    def demand(legal: bool, action: Any) -> None:
        if not legal:
            raise Illegal(action)

    held: set[int] = set()
    on_hand: int | None = 0
    to_reverse = segments - 1
    count = 0
    for action in schedule:
        kind, i = action
        if kind == "save":
            demand(on_hand == i and i not in held and len(held) < snapshots, action)
            held.add(i)
        elif kind == "restore":
            demand(i in held and on_hand != i, action)
            on_hand = i
        elif kind == "discard":
            demand(i in held, action)
            held.remove(i)
        elif kind == "advance":
            demand(on_hand == i and i < to_reverse, action)
            on_hand, count = i + 1, count + 1
        else:
            demand(kind == "reverse" and on_hand == i == to_reverse, action)
            on_hand, to_reverse = None, to_reverse - 1
    demand(to_reverse == -1 and not held, "the end")
    return count


@pytest.mark.parametrize("snapshots", [1, 2, 3, 4, 5, 6, 40])
def test_schedules_are_legal_and_as_short_as_the_dynamic_programme(snapshots: int) -> None:
    for segments in range(1, 31):
        count = interpret(binomial_schedule(segments, snapshots), segments, snapshots)
        assert count == advances(segments, snapshots) == fewest(segments, snapshots), segments


def test_the_two_ends_of_the_trade() -> None:
    """One snapshot: start afresh for every segment. All of them: run forward once, the last segment only to reverse it."""
    assert [advances(s, 1) for s in (1, 2, 7)] == [0, 1, 21]
    assert [advances(s, s - 1) for s in (2, 7, 1000)] == [1, 6, 999]
    assert advances(math.comb(10 + 3, 3), 10) == 3 * 286 - math.comb(13, 2)
    for snapshots in (3000, 7):  # long runs neither recurse nor take long
        assert interpret(binomial_schedule(3000, snapshots), 3000, snapshots) == advances(3000, snapshots)


@given(st.integers(2, 12), st.integers(1, 5), st.data())
def test_no_action_can_be_left_out_or_swapped(segments: int, snapshots: int, data: st.DataObject) -> None:
    """The interpreter refuses a schedule that lacks any one of its actions, and one with two neighbours swapped."""
    schedule = binomial_schedule(segments, snapshots)
    place = data.draw(st.integers(0, len(schedule) - 1))
    with pytest.raises(Illegal):
        interpret(schedule[:place] + schedule[place + 1 :], segments, snapshots)
    here, after = schedule[place], schedule[(place + 1) % len(schedule)]
    if place + 1 < len(schedule) and not {here.kind, after.kind} & {"discard", "save"}:
        with pytest.raises(Illegal):
            interpret((*schedule[:place], after, here, *schedule[place + 2 :]), segments, snapshots)


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (3, -1)])
def test_schedules_need_a_segment_and_a_snapshot(arguments: tuple[int, int]) -> None:
    for function in (binomial_schedule, advances):
        with pytest.raises(InputError, match="both must be at least 1"):
            function(*arguments)


# --- agreement --------------------------------------------------------------------------------------------------------


def step(shared: Any, carry: Any, row: Any, aux: Any, data: Any) -> Any:
    """A bend in every direction: two float leaves, an integer one, all kinds of arguments."""
    x, count = carry["x"], carry["count"]
    bent = jnp.tanh(data @ x + row * shared["scale"]) + 0.1 * jnp.sin(aux["t"] + count) * carry["y"]
    return {"x": 0.5 * x + bent, "y": carry["y"] * jnp.cos(row[0]) + jnp.sum(x**2), "count": count + 1}


def cost(carry: Any, data: Any) -> Any:
    return jnp.sum(jnp.cos(carry["x"])) + carry["y"] ** 2 / 10


def readout(before: Any, after: Any, data: Any) -> Any:
    return {"length": jnp.linalg.norm(after["x"] - before["x"]), "count": after["count"]}


PROGRAM = Program(step, cost, readout)


def problem(steps: int = 11, width: int = 3) -> tuple[Inputs, Any, Any]:
    keys = jax.random.split(jax.random.key(5), 4)
    rows = jax.random.normal(keys[0], (steps, width))
    inputs = Inputs({"scale": jnp.array(0.7)}, rows, {"t": jnp.arange(steps)}, jax.random.normal(keys[1], (width, width)))
    carry = {"x": jax.random.normal(keys[2], (width,)), "y": jnp.array(0.3), "count": jnp.array(4)}
    return inputs, carry, jax.random.uniform(keys[3], (steps + 1,))


def alike(found: Sweep, expected: Sweep, tolerance: float = 1e-12) -> None:
    """Every leaf of two sweeps: structure, shape and type, and values within a relative tolerance of the leaf's size."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert (np.shape(a), a.dtype) == (np.shape(b), b.dtype), path
        if jnp.issubdtype(b.dtype, jnp.inexact):
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), path
        elif b.dtype != jax.dtypes.float0:
            assert np.array_equal(a, b), path


def bits(sweep: Sweep) -> list[tuple[Any, ...]]:
    return [(np.shape(x), str(x.dtype), np.asarray(x).tobytes()) for x in jax.tree.leaves(sweep)]


@functools.cache
def expected_sweep() -> Sweep:
    inputs, carry, weights = problem()
    return jax.jit(direct().sweep, static_argnums=0)(PROGRAM, inputs, carry, weights)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("segment", [None, 1, 4, 11, 50])
def test_a_sweep_agrees_with_direct(x64: None, tmp_path: Path, segment: int | None, on_disk: bool) -> None:
    """Cut into 4 with a shorter last, 11 of one step, 3, and one whole segment, with few snapshots or all."""
    arguments = problem()
    for snapshots in (None, 1, 2):
        found = offloaded(snapshots, segment, tmp_path / "sweep" if on_disk else None).sweep(PROGRAM, *arguments)
        alike(found, expected_sweep())
    assert isinstance(found.gradients.rows, np.ndarray) and isinstance(found.readout["length"], np.ndarray)
    assert not on_disk or list((tmp_path / "sweep").iterdir()) == []


def test_weights_of_zero_and_plain_numpy_arguments(x64: None) -> None:
    inputs, carry, weights = problem()
    weights = jnp.where(jnp.arange(12) % 3 == 1, weights, 0.0)
    expected = jax.jit(direct().sweep, static_argnums=0)(PROGRAM, inputs, carry, weights)
    assert expected.gradients.rows[-1].tolist() == [0, 0, 0] != expected.gradients.rows[0].tolist()
    alike(offloaded().sweep(PROGRAM, *jax.tree.map(np.asarray, (inputs, carry, weights))), expected)


def losses(params: Any, batch: Any) -> Any:
    return jax.nn.softplus(-batch["y"] * jnp.tanh(batch["x"] @ params["w"] + params["b"]))


def toy() -> Task:
    def examples(seed: int, n: int) -> Any:
        x = np.random.default_rng(seed).normal(size=(n, 4))
        return {"x": jnp.asarray(x), "y": jnp.asarray(np.sign(x[:, 0] + 0.3))}

    def init(key: Any) -> Any:
        return {"w": jax.random.normal(key, (4,)), "b": jnp.zeros(())}

    return Task(init, losses, examples(0, 7), examples(1, 5), examples(2, 3))


@pytest.mark.parametrize(
    ("optimiser", "weights", "batch"),
    [
        (optax.sgd(0.3), policy.table(), None),
        (optax.sgd(0.2, momentum=0.9), policy.static(), 3),
        (optax.adamw(0.05, eps_root=1e-8), policy.scorer(), 3),
    ],
)
def test_policy_gradients_agree_with_direct(x64: None, optimiser: Any, weights: Any, batch: int | None) -> None:
    task, learner = toy(), Learner(optimiser, batch)
    phi = jax.tree.map(lambda x: x + 0.01 * jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), weights.init(5, 7, batch or 7))
    both = [
        policy_gradient(task, learner, weights, phi, steps=5, key=jax.random.key(1), adjoint=adjoint)
        for adjoint in (direct(), offloaded(segment=3))
    ]
    (value, gradient), (found_value, found) = both
    assert abs(found_value - value) <= 1e-12 * abs(value)
    assert found.shape == gradient.shape and np.linalg.norm(gradient) > 1e-6
    assert np.linalg.norm(found - gradient) <= 1e-12 * np.linalg.norm(gradient)


def test_carries_with_keys_integers_numbers_and_short_floats(tmp_path: Path) -> None:
    """A step that draws noise from its carry: typed keys pass through host and disk as data and come back as keys."""

    def noisy(shared: Any, carry: Any, row: Any, aux: Any, data: Any) -> Any:
        key, draw = jax.random.split(carry["key"])
        half = carry["half"] * jnp.bfloat16(1.25)
        number = carry["number"] + jnp.float32(row) * jax.random.normal(draw)
        extra = jax.random.uniform(jax.random.fold_in(aux, carry["step"]))
        return {"key": key, "half": half, "number": number + half.astype(float) * extra, "step": carry["step"] + 1}

    program = Program(noisy, lambda carry, data: carry["number"] ** 2 + jax.random.uniform(data))
    keys = jax.random.split(jax.random.key(3, impl="rbg"), 7)
    inputs = Inputs(None, jnp.linspace(0.1, 1.0, 6), keys[:6], keys[6])
    carry = {"key": jax.random.key(8), "half": 1.0, "number": 0.5, "step": 0}  # the step makes "half" a bfloat16
    expected = jax.jit(direct().sweep, static_argnums=0)(program, inputs, carry, jnp.ones(7))
    last_key = expected.carry.pop("key")
    for directory in (None, tmp_path):
        found = offloaded(1, 2, directory).sweep(program, inputs, carry, jnp.ones(7))
        assert jax.random.key_data(found.carry.pop("key")).tolist() == jax.random.key_data(last_key).tolist()
        alike(found, expected, 1e-5)
    assert found.carry["half"].dtype == jnp.bfloat16

    with pytest.raises(InputError, match="key_data"):
        offloaded().sweep(program._replace(readout=lambda before, after, data: after["key"]), inputs, carry, jnp.ones(7))


# --- cost -------------------------------------------------------------------------------------------------------------


def test_repeated_sweeps_trace_the_step_once() -> None:
    traces = 0

    def counted(*arguments: Any) -> Any:
        nonlocal traces
        traces += 1
        return step(*arguments)

    program = PROGRAM._replace(step=counted)
    inputs, carry, weights = problem()
    offloaded(1, 3).sweep(program, inputs, carry, weights)
    first = traces
    assert first > 0
    for snapshots in (1, 2, None):
        offloaded(snapshots, 3).sweep(program, inputs._replace(rows=inputs.rows + 1), carry, weights)
    assert traces == first


def test_the_work_done_is_the_schedule_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """11 segments, 3 snapshots: `advances` of them, of which only the first ten take readouts, and 11 reversals."""
    calls = []
    for name in ("_advance", "_reverse", "_reverse_last"):
        original = getattr(offload, name)

        def spy(*arguments: Any, name: str = name, original: Any = original) -> Any:
            calls.append((name, arguments[-1] if name == "_advance" else None))
            return original(*arguments)

        spy.eval_shape = original.eval_shape  # type: ignore[attr-defined]
        monkeypatch.setattr(offload, name, spy)
    offloaded(3, 1).sweep(PROGRAM, *problem())
    assert calls.count(("_advance", True)) == 10
    assert calls.count(("_advance", False)) == advances(11, 3) - 10 > 0
    assert calls.count(("_reverse", None)) == 10 and calls.count(("_reverse_last", None)) == 1


def test_a_segment_needs_a_fraction_of_the_memory_of_a_sweep() -> None:
    """By the compiler's own account; 400 steps in 20 segments, so little more than a twentieth."""

    def total(compiled: Any) -> int:
        memory = compiled.memory_analysis()
        return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes

    inputs, carry, weights = problem(steps=400, width=64)
    whole = jax.jit(direct().sweep, static_argnums=0).lower(PROGRAM, inputs, carry, weights).compile()
    cut = offload._cut(inputs, weights, None)
    assert (cut.size, cut.segments) == (20, 20)
    costate, zeros = [jnp.zeros(64), jnp.zeros(())], jax.tree.map(jnp.zeros_like, inputs.shared)
    first, (last, last_weights) = cut.part(0), cut.part(19)
    segments = [
        offload._reverse.lower(PROGRAM, first[0], carry, costate, zeros, first[1]),
        offload._reverse_last.lower(PROGRAM, last, carry, last_weights),
    ]
    constant = inputs.data.nbytes
    largest = max(total(each.compile()) - constant for each in segments)
    assert total(whole) - constant > 400 * 64 * 4
    assert largest < (total(whole) - constant) / 15


def test_the_bar_shows_the_share_done_and_starts_where_a_sweep_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one snapshot 4 segments are advanced over 6 times and reversed 4 times, which counts as 6 + 4 · 4."""
    monkeypatch.setattr("tqdm.tqdm", functools.partial(tqdm.tqdm, mininterval=0, miniters=1))
    offloaded(1, 3).sweep(PROGRAM, *problem())
    assert capsys.readouterr().err == ""
    adjoint = offloaded(1, 3, tmp_path, progress=True)
    assert interrupted(monkeypatch, 4, lambda: adjoint.sweep(PROGRAM, *problem())) is None
    adjoint.sweep(PROGRAM, *problem())
    shown = [int(share) for share in re.findall(r"offloaded sweep: +(\d+)%", capsys.readouterr().err)]
    ticks = [round(100 * done / 22) for done in (0, 1, 2, 3, 7, 8, 9, 13, 14, 18, 22)]
    assert list(dict.fromkeys(shown)) == ticks
    assert shown.count(ticks[4]) > 1


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"snapshots": 0}, {"segment": 0}, {"snapshots": -2, "segment": 3}])
def test_counts_below_one_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match="both must be at least 1"):
        offloaded(**setting)


def test_it_says_that_it_runs_outside_jit_only() -> None:
    task, learner, table = toy(), Learner(optax.sgd(0.1)), policy.table()
    arguments = {"steps": 3, "key": jax.random.key(0), "adjoint": offloaded(segment=2)}
    with pytest.raises(InputError, match=r"the offloaded\(segment=2\) adjoint runs on the host: call it outside jax.jit"):
        jax.jit(lambda phi: policy_gradient(task, learner, table, phi, **arguments))(table.init(3, 7, 7))
    with pytest.raises(InputError, match="runs on the host"):
        train(task, learner, table, table.init(3, 7, 7), **arguments)


def test_a_file_or_a_missing_right_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file: choose a folder"):
        offloaded(directory=tmp_path / "file").sweep(PROGRAM, *problem())
    with pytest.raises(InputError, match="cannot make the folder"):
        offloaded(directory=tmp_path / "file" / "below").sweep(PROGRAM, *problem())
    assert (tmp_path / "file").read_text() == "mine"


# --- what it survives -------------------------------------------------------------------------------------------------


class Cut(BaseException):
    """Stands for whatever ends a process; not an `Exception`, like `KeyboardInterrupt`."""


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, run: Callable[[], Any]) -> int | None:
    """Run until ``after`` segments have been worked on; their number if it got to the end, None if it was cut."""
    done = 0

    def guard(original: Any) -> Any:
        def guarded(*arguments: Any) -> Any:
            nonlocal done
            if done == after:
                raise Cut
            done += 1
            return original(*arguments)

        guarded.eval_shape, guarded.lower = original.eval_shape, original.lower  # type: ignore[attr-defined]
        return guarded

    with monkeypatch.context() as patch:
        for name in ("_advance", "_reverse", "_reverse_last"):
            patch.setattr(offload, name, guard(getattr(offload, name)))
        try:
            run()
        except Cut:
            return None
    return done


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not reach the platter: no power fails in these tests, and waiting for it is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("snapshots", [None, 1, 2])
def test_a_sweep_cut_anywhere_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshots: int | None
) -> None:
    """Cut before each of its segments in turn, it does the rest, no more, and all bits are those of an undisturbed sweep."""
    arguments, adjoint = problem(), offloaded(snapshots, 3, tmp_path)
    expected = bits(offloaded(snapshots, 3).sweep(PROGRAM, *arguments))
    work = advances(4, snapshots or 4) + 4
    for after in range(work):
        assert interrupted(monkeypatch, after, lambda: adjoint.sweep(PROGRAM, *arguments)) is None
        results: list[Sweep] = []
        done = interrupted(monkeypatch, 1000, lambda: results.append(adjoint.sweep(PROGRAM, *arguments)))  # noqa: B023
        assert bits(results[0]) == expected
        saved_next = snapshots is None or snapshots == 2  # a carry that is about to be saved is not in the state
        assert work - after <= done <= work - after + saved_next
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unsynced")
def test_a_sweep_cut_after_every_segment_gets_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process manages a single segment of work; another process's temporary files and other people's files do not matter."""
    (tmp_path / "policy.npz").write_text("not ours")
    (tmp_path / ".sweep.npz.17-aa.tmp").write_text("left by a killed process")
    arguments, adjoint = problem(), offloaded(2, 2, tmp_path)
    results: list[Sweep] = []
    attempts = 1
    while interrupted(monkeypatch, 1, lambda: results.append(adjoint.sweep(PROGRAM, *arguments))) is None:
        attempts += 1
        assert attempts < 100, "it does not get on"
    assert attempts == advances(6, 2) + 6
    assert bits(results[0]) == bits(offloaded(2, 2).sweep(PROGRAM, *arguments))
    assert os.listdir(tmp_path) == ["policy.npz"]


@pytest.mark.usefixtures("unsynced")
def test_a_process_that_dies_at_any_change_of_a_file_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after every rename and every removal, those of a finished sweep's own files included."""
    arguments, adjoint = problem(), offloaded(1, 6, tmp_path)
    expected = bits(offloaded(1, 6).sweep(PROGRAM, *arguments))
    for moment in range(200):
        left = itertools.count(moment, -1)

        def dying(original: Callable[..., Any], left: Any = left) -> Callable[..., Any]:
            def change(*positional: Any, **named: Any) -> None:
                if next(left) == 0:
                    raise Cut
                original(*positional, **named)
                if next(left) == 0:
                    raise Cut

            return change

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying(os.replace))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            try:
                finished = adjoint.sweep(PROGRAM, *arguments)
                break
            except Cut:
                pass
        assert bits(adjoint.sweep(PROGRAM, *arguments)) == expected, moment
        assert list(tmp_path.iterdir()) == []
    assert bits(finished) == expected
    assert moment == 2 * (10 + 1 + 6)  # files written, a snapshot discarded, files left at the end


def half_done(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., Sweep]:
    """A sweep that was cut on its way back, as a function of its arguments."""
    adjoint = offloaded(2, 3, folder)
    assert interrupted(monkeypatch, 6, lambda: adjoint.sweep(PROGRAM, *problem())) is None
    return adjoint.sweep


@pytest.mark.usefixtures("unsynced")
def test_another_sweep_is_not_continued(x64: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other data, a last bit, another cut, another constant in the step: each is refused, and the right one then continues."""
    sweep = half_done(monkeypatch, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    inputs, carry, weights = problem()
    others: list[Callable[[], Any]] = [
        lambda: sweep(PROGRAM, inputs._replace(rows=inputs.rows.at[10, 2].multiply(1 + 2e-16)), carry, weights),
        lambda: sweep(PROGRAM, inputs._replace(data=-inputs.data), carry, weights),
        lambda: sweep(PROGRAM, inputs, {**carry, "count": jnp.array(5)}, weights),
        lambda: sweep(PROGRAM, inputs, carry, weights.at[0].set(0.0)),
        lambda: sweep(PROGRAM._replace(cost=lambda carry, data: cost(carry, data) * 1.5), inputs, carry, weights),
        lambda: sweep(PROGRAM._replace(readout=lambda before, after, data: None), inputs, carry, weights),
        lambda: offloaded(3, 3, tmp_path).sweep(PROGRAM, inputs, carry, weights),
        lambda: offloaded(2, 4, tmp_path).sweep(PROGRAM, inputs, carry, weights),
    ]
    for other in others:
        with pytest.raises(InputError, match=r"holds another sweep .*remove it or choose another") as caught:
            other()
        assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert bits(sweep(PROGRAM, inputs, carry, weights)) == bits(offloaded(2, 3).sweep(PROGRAM, inputs, carry, weights))


@pytest.mark.usefixtures("unsynced")
def test_damaged_files_are_named_and_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = half_done(monkeypatch, tmp_path)
    intact = {path: path.read_bytes() for path in tmp_path.iterdir()}
    kinds = [path.name.removeprefix("sweep-")[:4] for path in intact]
    assert sorted(kinds) == ["carr"] * 2 + ["rows"] * 2 + ["seen"] * 4 + ["swee"]  # carries 0 and T, two segments reversed
    for path, content in intact.items():
        for damage in (content[: len(content) // 2], b"", None):
            path.write_bytes(damage) if damage is not None else path.unlink()
            if damage is None and path.name == "sweep.npz":
                path.write_bytes(content)
                continue  # without a state there is nothing to continue: tested above
            with pytest.raises(InputError, match=rf"{path.name}.* to start the sweep again") as caught:
                sweep(PROGRAM, *problem())
            assert "\n" not in str(caught.value)
            for each, bytes_ in intact.items():
                each.write_bytes(bytes_)
    swapped = [path for path in intact if "rows" in path.name] + [path for path in intact if "seen" in path.name]
    swapped[0].write_bytes(intact[swapped[-1]])
    with pytest.raises(InputError, match="holds another sweep"):
        sweep(PROGRAM, *problem())


@pytest.mark.usefixtures("unsynced")
def test_a_full_disk_ends_a_sweep_that_continues_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, adjoint = problem(), offloaded(2, 3, tmp_path)
    expected = bits(offloaded(2, 3).sweep(PROGRAM, *arguments))
    write = np.lib.format.write_array
    for room in range(2, 200, 17):
        left = itertools.count(room, -1)

        def full(*positional: Any, left: Any = left, **named: Any) -> None:
            if next(left) <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(*positional, **named)

        with monkeypatch.context() as patch:
            patch.setattr(np.lib.format, "write_array", full)
            try:
                adjoint.sweep(PROGRAM, *arguments)
                break
            except StorageError as error:
                assert error.exit_status == 3 and "No space left" in str(error) and "\n" not in str(error)
        assert not list(tmp_path.glob(".*"))
        assert bits(adjoint.sweep(PROGRAM, *arguments)) == expected
    assert room > 50


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, seen = problem(), []
    original = offload._reverse_last

    def meanwhile(*positional: Any) -> Any:
        with pytest.raises(InputError, match="in use by another sweep") as caught:
            offloaded(2, 3, tmp_path).sweep(PROGRAM, *arguments)
        seen.append(caught)
        return original(*positional)

    meanwhile.eval_shape, meanwhile.lower = original.eval_shape, original.lower  # type: ignore[attr-defined]
    monkeypatch.setattr(offload, "_reverse_last", meanwhile)
    offloaded(2, 3, tmp_path).sweep(PROGRAM, *arguments)
    assert len(seen) == 1


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import test_offload as here
print("begin", flush=True)
adjoint = here.offloaded(3, 1, sys.argv[2] if sys.argv[2] != "-" else None)
for leaf in here.bits(adjoint.sweep(here.PROGRAM, *here.problem(steps=40))):
    print(leaf[0], leaf[1], leaf[2].hex())
"""


@pytest.mark.slow
def test_kill_at_any_moment_and_continue_to_the_same_bits(tmp_path: Path, root: Path) -> None:
    """kill -9 at moments spread over a sweep of many short segments, each resumed by another process."""
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}

    def child(directory: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(root / "tests"), directory]
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)

    with child("-") as undisturbed:
        assert undisturbed.stdout is not None
        expected = undisturbed.stdout.read()
    assert expected.startswith("begin") and undisturbed.returncode == 0
    killed = 0
    for delay in (0.0, 0.1, 0.25, 0.6):
        with child(str(tmp_path)) as process:
            state = tmp_path / "sweep.npz"
            before = state.stat().st_mtime_ns if state.exists() else None
            while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
                time.sleep(0.002)
            time.sleep(delay)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert killed >= 3
    with child(str(tmp_path)) as resumed:
        assert resumed.stdout is not None
        assert resumed.stdout.read() == expected
    assert resumed.returncode == 0 and not list(tmp_path.iterdir())
