"""Run folders and array files: round trips, atomicity, locks, and what must be refused."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from olm.errors import InputError, StorageError
from olm.records import (
    Run,
    atomic_write,
    fingerprint,
    load_arrays,
    load_meta,
    read_json,
    save_arrays,
    unique_run_dir,
    versions,
    write_json,
)


class State(NamedTuple):
    count: Any
    moments: Any


class Empty(NamedTuple):
    pass


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


def same(left: Any, right: Any) -> bool:
    """Bit-identical arrays in one structure."""
    (a, structure), (b, other) = jax.tree.flatten(left), jax.tree.flatten(right)
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=False)]
    return structure == other and all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def array(dtype: Any, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An array of arbitrary bits: NaNs with payloads, signed zeros, subnormal numbers."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).view(dtype).reshape(shape)


DTYPES = ["f4", "f8", "f2", "i4", "i8", "u1", "c8", ">f4", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
leaves = st.builds(array, st.sampled_from(DTYPES), shapes, st.integers(0, 9)) | st.none()
names = st.sampled_from(["a", "a/b", "b", "__meta__", "__format__", "..", "", "é ∇", "a~", "\n\0", "file"]) | st.text(max_size=4)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.dictionaries(names, inner, max_size=3)
        | st.dictionaries(st.integers(-2, 3), inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(State, inner, inner)
        | st.just(Empty())
    )


trees = st.recursive(leaves, containers, max_leaves=8)


def untyped(tree: Any) -> Any:
    """What a tree comes back as when nothing is expected of it."""
    if isinstance(tree, dict) or hasattr(tree, "_asdict"):
        return {key: untyped(value) for key, value in (tree if isinstance(tree, dict) else tree._asdict()).items()}
    return [untyped(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


# --- arrays -----------------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=50)
@hypothesis.given(tree=trees)
@hypothesis.example(
    tree={"__meta__": np.ones(2), "__format__": np.zeros(3), "__meta__~": None, "a/b": np.ones(1), "a": {"b": np.zeros(1)}}
)
def test_any_tree_comes_back_bit_for_bit(tmp_path: Path, tree: Any) -> None:
    path = save_arrays(tmp_path / "a.npz", tree)
    assert same(load_arrays(path, like=tree), tree)
    assert same(load_arrays(path), untyped(tree))
    assert fingerprint(load_arrays(path, like=tree)) == fingerprint(tree)
    with np.load(path, allow_pickle=False) as plain:  # every entry is readable without olm
        assert len([plain[name] for name in plain]) == len(jax.tree.leaves(tree)) + 2
    assert os.listdir(tmp_path) == ["a.npz"]


def test_keys_are_readable_and_equal_trees_give_equal_bytes(tmp_path: Path) -> None:
    tree = {"params": [{"w": jnp.ones((2, 3)), "b": None}], "optimiser": State(jnp.int32(4), (np.zeros(1), True))}
    first = save_arrays(tmp_path / "a.npz", tree, {"policy": "table", "config": {"lower": float("-inf")}})
    second = save_arrays(tmp_path / "b.npz", tree, {"policy": "table", "config": {"lower": float("-inf")}})
    assert first.read_bytes() == second.read_bytes()
    assert {entry.date_time for entry in zipfile.ZipFile(first).infolist()} == {(1980, 1, 1, 0, 0, 0)}  # not the time of writing
    keys = {"__format__", "__meta__", "params/0/w", "optimiser/count", "optimiser/moments/0", "optimiser/moments/1"}
    assert set(np.load(first)) == keys
    assert load_meta(first) == {"policy": "table", "config": {"lower": -math.inf}}
    assert json.loads(str(np.load(first)["__format__"]))["version"] == 1


def test_an_optimiser_state_comes_back_by_shapes_alone(tmp_path: Path) -> None:
    state = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, eps_root=1e-8)).init({"w": jnp.arange(3.0)})
    path = save_arrays(tmp_path / "a.npz", state)
    assert same(load_arrays(path, like=jax.eval_shape(lambda: state)), state)


@pytest.mark.parametrize(
    ("like", "complaint"),
    [
        ({"w": np.zeros((2, 3)), "n": np.int32(0)}, "leaf w is float32[2, 3], expected float64[2, 3]"),
        ({"w": np.zeros((3, 2), "f4"), "n": np.int32(0)}, "leaf w is float32[2, 3], expected float32[3, 2]"),
        ({"w": np.zeros((2, 3), "f4")}, "an unexpected leaf n"),
        ({"w": np.zeros((2, 3), "f4"), "n": np.int32(0), "m": {"v": np.zeros(1)}}, "no leaf m/v"),
        ({"w": np.zeros((2, 3), "f4"), "n": None}, "leaf n is an array, expected nothing"),
        ({"w": [np.zeros((2, 3), "f4")], "n": np.int32(0)}, "no leaf w/0, an unexpected leaf w"),
        ({"w": np.zeros((2, 3), "f4"), "n": 1.0}, "leaf n is int32[], expected one float"),
        ({"w": np.zeros((2, 3), "f4"), "n": "text"}, "leaf n is expected to be a str"),
    ],
)
def test_a_leaf_that_does_not_fit_is_named(tmp_path: Path, like: Any, complaint: str) -> None:
    path = save_arrays(tmp_path / "a.npz", {"w": np.ones((2, 3), "f4"), "n": np.int32(5)})
    with pytest.raises(InputError) as caught:
        load_arrays(path, like)
    assert complaint in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert load_arrays(path, {"w": np.zeros((2, 3), "f4"), "n": 0})["n"] == 5


@pytest.mark.parametrize("leaf", [print, {1, 2}, np.array([None]), np.zeros(2, "f4,i4"), jax.random.key(0)])
def test_what_is_not_an_array_is_refused_before_anything_is_written(tmp_path: Path, leaf: Any) -> None:
    with pytest.raises(InputError, match="leaf good/bad"):
        save_arrays(tmp_path / "a.npz", {"good": {"bad": leaf}})
    assert os.listdir(tmp_path) == []


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = save_arrays(tmp_path / "a.npz", {"w": np.arange(30.0)}).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "b.npz").write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"b\.npz is cut"):
            load_arrays(tmp_path / "b.npz")


def test_a_changed_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    tree, path = {"w": np.arange(6.0), "b": None}, tmp_path / "a.npz"
    whole = save_arrays(path, tree, {"k": 1}).read_bytes()
    noticed = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            assert same(load_arrays(path), tree)
        except InputError:
            noticed += 1
    assert noticed > 0.2 * len(whole)  # of a third; the rest are dates, attributes and versions inside the archive


def test_foreign_pickled_and_newer_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    def planted(version: int, entry: bytes, leaf: str = "w") -> None:
        about = {"format": "olm arrays", "version": version, "leaves": [{"path": ["w"], "name": leaf}]}
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in (("__format__", np.array(json.dumps(about))), ("__meta__", np.array("{}"))):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, value)
            archive.writestr("w.npy", entry)

    pickled, good = io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([Bomb()]), allow_pickle=True)
    np.save(good, np.ones(2))
    planted(1, good.getvalue())
    assert same(load_arrays(path), {"w": np.ones(2)})
    for make, complaint in [
        (lambda: planted(1, pickled.getvalue()), "Object arrays cannot be loaded"),
        (lambda: planted(2, good.getvalue()), "format 'olm arrays' 2"),
        (lambda: planted(1, good.getvalue() + b"x"), "longer than its header"),
        (lambda: planted(1, good.getvalue()[:-1]), "cut, damaged"),
        (lambda: planted(1, good.getvalue(), leaf="v"), "cut, damaged"),
        (lambda: np.savez(path, w=np.ones(2)), "not an array file of olm"),
        (lambda: np.savez(path, w=np.array([Bomb()])), "not an array file of olm"),
        (lambda: path.write_bytes(pickled.getvalue()), "cut, damaged"),
        (lambda: path.write_text("not an archive"), "cut, damaged"),
        (lambda: path.write_bytes(b""), "cut, damaged"),
        (lambda: path.unlink(), "cannot read .*No such file"),
    ]:
        make()
        with pytest.raises(InputError, match=complaint) as caught:
            load_arrays(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_the_fingerprint_sees_every_bit_and_the_structure() -> None:
    tree = {"w": np.zeros((2, 3), "f4"), "b": [None]}
    others = [
        {"w": -np.zeros((2, 3), "f4"), "b": [None]},
        {"w": np.zeros((3, 2), "f4"), "b": [None]},
        {"w": np.zeros((2, 3), "i4"), "b": [None]},
        {"w": np.zeros((2, 3), "f4"), "b": [np.zeros(0)]},
        {"v": np.zeros((2, 3), "f4"), "b": [None]},
    ]
    prints = [fingerprint(each) for each in [tree, *others]]
    assert len(set(prints)) == 6 and all(len(each) == 64 for each in prints)
    assert fingerprint({"b": (None,), "w": jnp.zeros((2, 3))}) == prints[0]


# --- atomic files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = save_arrays(tmp_path / "state.npz", {"w": np.zeros(4)})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        monkeypatch.setattr(np.lib.format, "write_array", full)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(StorageError, match="No space left") as caught:
        save_arrays(path, {"w": np.ones(4)})
    assert caught.value.exit_status == 3 and "\n" not in str(caught.value)
    monkeypatch.undo()
    assert same(load_arrays(path), {"w": np.zeros(4)})
    assert os.listdir(tmp_path) == ["state.npz"]


def test_a_write_that_stops_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel itself stops the write: a limit on the size of files stands for the full disk."""
    run = Run.create(tmp_path / "run", {})
    run.append_metrics({"evaluation": 0})
    run.save_state({"w": np.zeros(4)}, {"rows": 1})
    before = contents(run.path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for attempt in (
        lambda: run.save_state({"w": np.ones(100_000)}),
        lambda: run.append_metrics({"message": "x" * 20_000}),
        lambda: run.write_summary({"message": "x" * 20_000}),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(StorageError):
                attempt()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(run.path) == before
    run.append_metrics({"evaluation": 1})  # and the run can go on
    assert [row["evaluation"] for row in run.metrics()] == [0, 1]
    run.close()


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"x": 1})

    def interrupted(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, interrupted)
    assert read_json(path) == {"x": 1} and os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_refuses_is_an_input_error_before_a_run_and_a_storage_error_in_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose a folder that exists"):
        save_arrays(tmp_path / "missing" / "a.npz", {})
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(InputError, match="choose a folder"):
        save_arrays(tmp_path / "a.npz", {})
    with pytest.raises(StorageError, match="look at the disk"):
        save_arrays(tmp_path / "missing" / "a.npz", {}, started=True)


def test_a_file_gets_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    path = write_json(tmp_path / "a.json", 1)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_stays_valid_with_numbers_that_are_not_finite(tmp_path: Path) -> None:
    @dataclass
    class Settings:
        rate: Any
        folder: Path

    value = {
        "nan": np.float32("nan"),
        "list": [math.inf, (-math.inf, 1)],
        "settings": Settings(jnp.float32(0.5), Path("a/b")),
        "é": {2},
    }
    path = write_json(tmp_path / "a.json", value)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    back = read_json(path)
    assert math.isnan(back.pop("nan"))
    assert back == {"list": [math.inf, [-math.inf, 1]], "settings": {"rate": 0.5, "folder": "a/b"}, "é": [2]}
    with pytest.raises(InputError, match=r"setting a\.0\.f is a function"):
        write_json(path, {"a": [{"f": refuse}]})
    (tmp_path / "a.json").write_text('{"cut": ')
    with pytest.raises(InputError, match="cut or not JSON"):
        read_json(path)


# --- runs -------------------------------------------------------------------------------------------------------------

CONFIG = {"task": "perceptron", "steps": 20, "search": {"evaluations": 4, "rate": None}, "bound": math.inf}


def test_a_run_is_written_and_read_back(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a" / "run", CONFIG, ["olm", "search", "a b"]) as run:
        assert run.load_state() is None and run.summary() == {} and run.metrics() == []
        run.append_metrics({"evaluation": 0, "objective": jnp.float32(math.nan), "message": "zwei\nZeilen\u2028"})
        run.save_state({"w": jnp.ones(2)}, {"rows": 1})
        run.save("policy", {"table": np.ones((2, 3))}, {"policy": "table"})
        run.write_summary({"acceleration": math.inf})
    again = Run.open(tmp_path / "a" / "run")
    assert again.config == CONFIG == run.config and again.command == ["olm", "search", "a b"]
    assert [(row["evaluation"], row["message"]) for row in again.metrics()] == [(0, "zwei\nZeilen\u2028")]
    assert math.isnan(again.metrics()[0]["objective"]) and again.summary() == {"acceleration": math.inf}
    state = again.load_state({"w": jnp.zeros(2)})
    assert state is not None and same(state[0], {"w": np.ones(2, "f4")}) and state[1] == {"rows": 1}
    assert again.load("policy")["table"].shape == (2, 3)
    for write in (lambda: again.append_metrics({}), lambda: again.write_summary({}), lambda: run.save_state({})):
        with pytest.raises(InputError, match="reading only"):
            write()


def test_nothing_is_written_when_the_config_is_wrong(tmp_path: Path) -> None:
    for config in ({"f": print}, [1], None):
        with pytest.raises(InputError):
            Run.create(tmp_path / "a" / "run", config)
    assert os.listdir(tmp_path) == []


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.txt").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model": 1}')
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "config.json").write_text('{"olm_run": 99, "config": {}}')
    Run.create(tmp_path / "run", CONFIG).close()
    before = contents(tmp_path)
    for name, complaint in [
        ("file", "is a file"),
        ("full", "not empty and not a run"),
        ("run", "--resume .*run .resume=True., or choose another"),
    ]:
        with pytest.raises(InputError, match=complaint):
            Run.create(tmp_path / name, CONFIG)
    for name, complaint in [
        ("absent", "not a run folder"),
        ("full", "not a run folder"),
        ("foreign", "not written by olm"),
        ("newer", "99"),
    ]:
        for enter in (Run.open, lambda path: Run.resume(path, CONFIG)):
            with pytest.raises(InputError, match=complaint):
                enter(tmp_path / name)
    with pytest.raises(InputError, match="cannot make the run folder"):
        Run.create(tmp_path / "file" / "below", CONFIG)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_known_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    Run.create(tmp_path / "old", CONFIG).close()
    genuine = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), path)
        return genuine(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(InputError, match=os.strerror(code)) as caught:
        Run.create(tmp_path / "a" / "run", CONFIG)
    assert caught.value.exit_status == 2
    with pytest.raises(InputError, match=os.strerror(code)):
        Run.resume(tmp_path / "old", CONFIG)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["old"]  # the folders made on the way are gone


def test_a_resume_names_every_field_that_differs(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", CONFIG).close()
    before = contents(tmp_path)
    other = {"task": "perceptron", "steps": 30, "search": {"evaluations": 9, "rate": None, "new": [1]}, "bound": 1.0}
    with pytest.raises(InputError) as caught:
        Run.resume(tmp_path / "run", other, may_change={"search.evaluations"})
    text = str(caught.value)
    assert "steps is 20 there and 30 here" in text and "search.new is absent there and [1] here" in text
    assert 'bound is "Infinity" there and 1.0 here' in text and "evaluations" not in text and "rate" not in text
    assert contents(tmp_path) == before
    more = {**CONFIG, "search": {"evaluations": 9, "rate": None}}
    for too_little in ((), {"search.evaluation"}, {"sea"}):
        with pytest.raises(InputError, match=r"search\.evaluations is 4 there and 9 here"):
            Run.resume(tmp_path / "run", more, may_change=too_little)
    with Run.resume(tmp_path / "run", more, may_change=["search"]) as run:
        run.write_summary({"status": "finished"})
        # Until the state has been read and found good, nothing says that work goes on.
        assert run.config == more and Run.open(run.path).config == CONFIG and run.summary()["status"] == "finished"
        run.begin()
        assert run.config == more == Run.open(run.path).config and not (run.path / "summary.json").exists()


def test_metrics_survive_a_cut_line_and_are_truncated_for_a_resume(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}) as run:
        for evaluation in range(4):
            run.append_metrics({"evaluation": evaluation})
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        assert [row["evaluation"] for row in Run.open(run.path).metrics()] == list(range(whole[:end].count(b"\n")))
    path.write_bytes(whole + b'{"evaluation": 4')
    (run.path / ".state.npz.17-aa.tmp").write_bytes(b"left by a killed process")
    with Run.resume(run.path, {}) as run:
        assert path.read_bytes() == whole and not (run.path / ".state.npz.17-aa.tmp").exists()
        run.truncate_metrics(2)
        run.append_metrics({"evaluation": 7})
        assert [row["evaluation"] for row in run.metrics()] == [0, 1, 7]
        with pytest.raises(InputError, match="3 rows where the state has seen 5"):
            run.truncate_metrics(5)
    path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(InputError, match="line 1"):
        Run.open(run.path).metrics()


def test_two_writers_exclude_each_other(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        Run.resume(run.path, {})
    Run.open(run.path)  # reading is allowed
    run.close()
    run.close()
    resumed = Run.resume(run.path, {})
    with pytest.raises(InputError, match="being written"):
        Run.resume(run.path, {})
    del resumed  # a Run that is dropped lets go
    Run.resume(run.path, {}).close()


HOLDER = (
    "import fcntl, sys, time; file = open(sys.argv[1], 'r+'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
)


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {}).close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(InputError, match="being written by"):
            Run.resume(tmp_path / "run", {})
        holder.kill()
    Run.resume(tmp_path / "run", {}).close()


def test_a_start_that_was_killed_before_its_config_can_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("17\n")
    (folder / ".config.json.17-aa.tmp").write_text("{")
    Run.create(folder, CONFIG).close()
    assert set(contents(folder)) == {"config.json"}


WRITER = """
import sys
import numpy as np
from olm.records import Run
with Run.create(sys.argv[1], {"size": 4000}) as run:
    for row in range(10**6):
        run.append_metrics({"evaluation": row})
        run.save_state({"w": np.full(4000, float(row))}, {"rows": row + 1})
        print(row, flush=True)
"""


def test_kill_at_any_moment_leaves_a_run_that_can_be_continued(tmp_path: Path, root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
    with Run.resume(tmp_path / "run", {"size": 4000}) as run:
        found = run.load_state()
        assert found is not None
        rows = found[1]["rows"]
        assert rows > said[-1] and len(run.metrics()) >= rows
        assert np.array_equal(found[0]["w"], np.full(4000, rows - 1.0))
        run.truncate_metrics(rows)
        assert [row["evaluation"] for row in run.metrics()] == list(range(rows))
        assert set(contents(run.path)) == {"config.json", "metrics.jsonl", "state.npz"}


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    assert unique_run_dir(tmp_path / "runs", "language") == tmp_path / "runs" / "language-001"
    for taken in ("language-001", "language-009", "language-x", "perceptron-050"):
        (tmp_path / "runs" / taken).mkdir(parents=True)
    assert unique_run_dir(tmp_path / "runs", "language").name == "language-010"


def test_versions_are_those_of_this_process() -> None:
    found = versions()
    assert found["jax"] == jax.__version__ and found["numpy"] == np.__version__ and found["optax"] == optax.__version__
    assert jax.devices()[0].platform in found["device"] and all(isinstance(text, str) for text in found.values())
