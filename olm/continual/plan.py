"""Which example every step reads, and at which rate: compute-equivalent replay, union and single datasets as data.

*Compute-equivalent replay* (Ibrahim et al. 2024, arXiv 2403.08763, section 4.2): the tokens of a run are fixed; a share x of
every batch is earlier data, read again in its original order, and the new data have what is left, 1 − x. A share below one
example a batch is spread over steps: at every step each of two datasets has been read within half an example of its share.

A plan is arrays only, so the same training loop runs replay, its baselines, and shares that change from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from olm.errors import InputError, check_whole
from olm.tasks.sequence import Dataset

__all__ = ["Plan", "account", "counts", "limited", "plan", "replay_shares", "union"]


class Plan(NamedTuple):
    """What a run reads, in which order, and how fast it learns from it. T steps, B examples a batch, D datasets.

    Attributes:
      order: int32 [T, B], row numbers in the datasets laid one after the other.
      counts: int64 [T, D], how many examples of each dataset a step reads.
      rates: float64 [T], the learning rate of every step.
      steps: steps of each phase; a phase begins where a new dataset does.
      new: the dataset that each phase is about (the last one, for a union).
      resets: steps before which the optimiser forgets its moments.
    """

    order: np.ndarray
    counts: np.ndarray
    rates: np.ndarray
    steps: tuple[int, ...]
    new: tuple[int, ...]
    resets: tuple[int, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """The number of steps done at the end of each phase."""
        return tuple(int(end) for end in np.cumsum(self.steps))


def counts(shares: Any, batch: int, steps: int | None = None) -> np.ndarray:
    """Whole examples for shares: each step gives its B examples to the datasets that are furthest behind their shares.

    After step t of two datasets each has been read q_d(t) = B Σ_{s≤t} share_d(s) times, rounded to the nearest whole number.

    Args:
      shares: [D], or [T, D] for shares that change; rows on the simplex.
      batch: B.
      steps: T, for shares [D].

    Returns:
      int64 [T, D], rows summing to B.

    Raises:
      InputError: for shares outside [0, 1] or rows that do not sum to one.

    >>> counts([0.1, 0.9], batch=4, steps=5).tolist()
    [[0, 4], [1, 3], [0, 4], [1, 3], [0, 4]]
    """
    shares = np.asarray(shares, np.float64)
    if shares.ndim == 1:
        shares = np.broadcast_to(shares, (check_whole("steps", steps, 1), len(shares)))
    if not np.isfinite(shares).all() or (shares < 0).any() or (np.abs(shares.sum(1) - 1) > 1e-6).any():
        raise InputError("shares of datasets must be numbers from 0 that sum to one at every step")
    # Nine decimals: a share of 0.005 of 32 examples has to be 4 examples after 25 steps, not 3.9999999.
    quota = np.round(np.cumsum(shares, axis=0) * batch, 9)
    given, result = np.zeros(shares.shape[1]), np.zeros(shares.shape, np.int64)
    for t, wanted in enumerate(quota):
        behind = wanted - given
        step = np.maximum(np.floor(behind), 0)
        left = batch - int(step.sum())
        while left < 0:  # several datasets ahead at once: the one that is ahead furthest waits
            most = int(np.argmax(np.where(step > 0, step - behind, -np.inf)))
            step[most] -= 1
            left += 1
        for _ in range(left):
            step[int(np.argmax(np.round(behind - step, 9)))] += 1
        given += step
        result[t] = step
    return result


def replay_shares(replay: float, sizes: Sequence[int]) -> np.ndarray:
    """Shares of a phase about the last of D datasets: x for the earlier ones in proportion to their sizes, 1 − x for the new.

    Args:
      replay: x in [0, 1).
      sizes: N_d, examples of each dataset so far, the new one last.

    Returns:
      [D], summing to one. The first dataset has nothing to replay: its share is 1.

    Raises:
      InputError: for a replay share outside [0, 1).

    Source: Ibrahim et al. 2024, section 4.2 (for two datasets).

    >>> replay_shares(0.2, [300, 100, 50]).round(2).tolist()
    [0.15, 0.05, 0.8]
    """
    number = isinstance(replay, (int, float, np.number)) and not isinstance(replay, bool)
    if not number or not 0 <= replay < 1:
        hint = f"; {replay:g} per cent is {replay / 100:g}" if number and 1 < replay <= 100 else ""
        raise InputError(f"replay is {replay!r}: give the share of earlier data in a batch, 0 up to but not 1{hint}")
    earlier = np.asarray(sizes[:-1], np.float64)
    if not earlier.size:
        return np.ones(1)
    return np.append(replay * earlier / earlier.sum(), 1 - replay)


def limited(shares_TxD: Any, batch: int, windows: Sequence[int]) -> np.ndarray:
    """Shares cut to what can be read: what a dataset lacks the others give, in proportion to what they have left.

    Args:
      shares_TxD: [T, D], rows that sum to one.
      batch: B.
      windows: [D] how many there are to read.

    Returns:
      [T, D]; the same where nothing is lacking. Where all datasets together are too short, `plan` says so.

    >>> limited([[0.5, 0.5], [0.9, 0.1]], 10, [7, 20]).round(2).tolist()
    [[0.25, 0.75], [0.45, 0.55]]
    """
    shares = np.array(shares_TxD, np.float64)
    limits = np.asarray(windows, np.float64) / batch
    for _ in range(shares.shape[1]):
        asked = shares.sum(0)
        over = asked > limits * (1 + 1e-12)
        room = np.where(over, 0, limits - asked)
        if not over.any() or room.sum() <= 0:
            break
        kept = shares * np.where(over, limits / np.where(over, asked, 1), 1)
        shares = kept + (shares - kept).sum(1, keepdims=True) * room / room.sum()
    return shares


def _rows(counts_TxD: np.ndarray, datasets: Sequence[Dataset], epochs: int, readable: Sequence[int]) -> np.ndarray:
    """[T, B] rows of the datasets laid end to end, each read from its beginning in its own order, up to ``readable`` rows."""
    starts = np.cumsum([0, *(len(one.train) for one in datasets)])
    order = np.empty((len(counts_TxD), int(counts_TxD[0].sum())), np.int32)
    # Place in the batch: datasets in turn.
    of = np.concatenate([np.repeat(np.arange(counts_TxD.shape[1]), row) for row in counts_TxD])
    flat = order.reshape(-1)
    for d, (one, size) in enumerate(zip(datasets, readable, strict=True)):
        at = np.flatnonzero(of == d)
        length = one.train.shape[1] - 1
        if len(at) > size * epochs:
            missing = (len(at) - size * epochs) * length
            has = "has" if size == len(one.train) else "was read before for"
            raise InputError(
                f"dataset {one.name!r} {has} {size * length * epochs:,} tokens in {epochs} reading(s) and the run asks for "
                f"{len(at) * length:,}: {missing:,} are missing; give more text, fewer steps, a smaller batch, less replay, or "
                "more epochs"
            )
        flat[at] = starts[d] + np.arange(len(at)) % max(size, 1)
    return order


def plan(
    datasets: Sequence[Dataset],
    steps: Sequence[int],
    rates: Any,
    *,
    batch_size: int,
    replay: float | Sequence[float] = 0.0,
    first: int = 0,
    shares: Any = None,
    seen: Sequence[int] | None = None,
    reset: bool = True,
    epochs: int = 1,
) -> Plan:
    """Train on the datasets one after the other, with replay of the earlier ones.

    Args:
      datasets: D of them, as `olm.tasks.sequence.check` wants them.
      steps: steps of each phase.
      rates: [T] learning rates, T the sum of ``steps``; see `olm.schedules.rates`.
      batch_size: B.
      replay: x, share of earlier data in every batch; one for all phases, or one for each.
      first: the dataset of the first phase; 1 for a run that continues from a model trained on dataset 0.
      shares: [T, D] shares of the datasets at every step in place of ``replay``; all phases are then read as one.
      seen: how many windows of each dataset before ``first`` the model has been trained on, from its beginning; None: all. Replay
        reads no others, and is spread over several earlier datasets in proportion to what was read of each.
      reset: whether the optimiser forgets its moments between phases, as published.
      epochs: how often a phase may read a dataset.

    Returns:
      A `Plan`; within a phase every dataset is read from its beginning in its own order, without shuffling.

    Raises:
      InputError: for phases that the datasets or the rates do not fit, replay shares outside [0, 1), and datasets shorter than
        the run asks for, with the number of tokens missing.

    >>> import numpy as np
    >>> data = [Dataset(name, np.zeros((8, 3), np.int32), None, None, 9, "ids") for name in "ab"]
    >>> plan(data, [2], np.ones(2), batch_size=4, replay=0.25, first=1).order.tolist()
    [[0, 8, 9, 10], [1, 11, 12, 13]]
    """
    lengths = tuple(check_whole(f"steps of phase {i + 1}", length, 1) for i, length in enumerate(steps))
    check_whole("batch_size", batch_size, 1)
    check_whole("epochs", epochs, 1)
    if not lengths or first + len(lengths) > len(datasets):
        raise InputError(
            f"{len(lengths)} phase(s) from dataset {first} on: there are {len(datasets)} datasets, give one for each"
        )
    total = sum(lengths)
    rates = _checked_rates(rates, total)
    begins = np.cumsum([0, *lengths])
    sizes = [len(one.train) for one in datasets]
    read = [*(sizes[:first] if seen is None else seen)]
    if len(read) != first or any(not 0 < rows <= size for rows, size in zip(read, sizes, strict=False)):
        raise InputError(
            f"seen is {read}: give the windows read of each of the {first} earlier dataset(s), at most {sizes[:first]}"
        )
    if shares is not None:
        shares = np.asarray(shares, np.float64)
        if shares.shape != (total, len(datasets)):
            raise InputError(f"shares have shape {shares.shape}: give [{total}, {len(datasets)}], one for each step and dataset")
        numbers = counts(shares, batch_size)
        order = _rows(numbers, datasets, epochs, [*read, *sizes[first:]])
    else:
        replays: list[Any] = [replay] * len(lengths) if np.ndim(replay) == 0 else list(replay)  # type: ignore[arg-type]
        if len(replays) != len(lengths):
            raise InputError(f"{len(replays)} replay shares for {len(lengths)} phases: give one, or one for each")
        parts, orders = [], []
        for phase, (length, share) in enumerate(zip(lengths, replays, strict=True)):
            now = first + phase
            numbers = counts(replay_shares(share, [*read, sizes[now]]), batch_size, length)
            orders.append(_rows(numbers, datasets[: now + 1], epochs, [*read, sizes[now]]))
            parts.append(np.pad(numbers, ((0, 0), (0, len(datasets) - now - 1))))
            read.append(min(int(numbers[:, now].sum()), sizes[now]))
        numbers, order = np.concatenate(parts), np.concatenate(orders)
    resets = tuple(int(begin) for begin in begins[1:-1]) if reset else ()
    return Plan(order, numbers, rates, lengths, tuple(range(first, first + len(lengths))), resets)


def union(datasets: Sequence[Dataset], steps: Sequence[int], rates: Any, *, batch_size: int, epochs: int = 1) -> Plan:
    """Train on all datasets at once, each in every batch by its share of the steps: what continual training is compared with.

    Args:
      datasets: D of them.
      steps: steps that each would have in turn; the run has their sum.
      rates: [T] learning rates.
      batch_size: B.
      epochs: how often a dataset may be read.

    Returns:
      A `Plan` of one phase.

    Raises:
      InputError: as `plan`.

    >>> data = [Dataset(name, np.zeros((8, 3), np.int32), None, None, 9, "ids") for name in "ab"]
    >>> union(data, [2, 1], np.ones(3), batch_size=3).counts.tolist()
    [[2, 1], [2, 1], [2, 1]]
    """
    if len(steps) != len(datasets):
        raise InputError(f"{len(steps)} lengths for {len(datasets)} datasets: give one for each")
    total = sum(check_whole("steps", length, 1) for length in steps)
    check_whole("batch_size", batch_size, 1)
    numbers = counts(np.asarray(steps) / total, batch_size, total)
    order = _rows(numbers, datasets, check_whole("epochs", epochs, 1), [len(one.train) for one in datasets])
    return Plan(order, numbers, _checked_rates(rates, total), (total,), (len(datasets) - 1,), ())


def _checked_rates(rates: Any, total: int) -> np.ndarray:
    rates = np.asarray(rates, np.float64)
    if rates.shape != (total,):
        raise InputError(f"rates have shape {rates.shape}: the phases have {total} steps in all, give one rate for each")
    if not np.isfinite(rates).all() or (rates < 0).any() or not rates.any():
        raise InputError("rates must be finite, not negative, and not all zero: change the schedule, its peak or its floor")
    return rates


def account(made: Plan, datasets: Sequence[Dataset]) -> list[dict[str, Any]]:
    """Count what a plan reads, from the order itself; every dataset has to be read in its own order.

    Args:
      made: a plan.
      datasets: those it was made for.

    Returns:
      For each phase a dict: ``new`` (name), ``steps``, ``tokens`` by dataset, ``share`` of each, and ``total`` tokens.

    Raises:
      RuntimeError: when the order and the counts disagree, or a dataset is not read in its own order from its beginning.

    >>> data = [Dataset(name, np.zeros((8, 3), np.int32), None, None, 9, "ids") for name in "ab"]
    >>> account(plan(data, [2], np.ones(2), batch_size=4, replay=0.25, first=1), data)[0]["tokens"]
    {'a': 4, 'b': 12}
    """
    starts = np.cumsum([0, *(len(one.train) for one in datasets)])
    length = datasets[0].train.shape[1] - 1
    result: list[dict[str, Any]] = []
    begin = 0
    for phase_steps, new in zip(made.steps, made.new, strict=True):
        rows = made.order[begin : begin + phase_steps]
        tokens = {}
        for d, one in enumerate(datasets):
            inside = (rows >= starts[d]) & (rows < starts[d + 1])
            if (inside.sum(1) != made.counts[begin : begin + phase_steps, d]).any():
                raise RuntimeError(f"the order reads another number of examples of {one.name} than its counts say")
            read = rows[inside] - starts[d]
            begun = np.flatnonzero(read == 0)
            again = int(begun[1]) if len(begun) > 1 else len(read)  # where it is read a second time, if it is
            if (read != np.arange(len(read)) % max(again, 1)).any():
                raise RuntimeError(f"{one.name} is not read in its own order")
            tokens[one.name] = len(read) * length
        total = rows.size * length
        if sum(tokens.values()) != total:
            raise RuntimeError("the order names examples of no dataset")
        shares = {name: number / total for name, number in tokens.items()}
        result.append({"new": datasets[new].name, "steps": int(phase_steps), "tokens": tokens, "share": shares, "total": total})
        begin += phase_steps
    return result
