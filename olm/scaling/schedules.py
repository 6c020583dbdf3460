"""Learning-rate schedules as arrays, one rate a step, and loss curves that carry theirs.

The convention is that of the public curves of Luo et al. 2025 (arXiv 2503.12811): steps count from 0, a warm-up of W steps is
``linspace(0, peak, W)``, and a loss recorded at step t has seen η_0 … η_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from olm.errors import InputError, check_whole

__all__ = ["SCHEDULES", "LossCurve", "rates_from_log", "schedule"]

SCHEDULES = ("constant", "cosine", "wsd", "wsd_linear", "wsd_constant")


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Losses of one run after some of its steps, and the learning rate of every step.

    Attributes:
      steps: [n] whole numbers, increasing; entry i was measured when the rates η_0 … η_{steps[i]} had been used.
      losses: [n] in nats, positive.
      rates: [T], T > steps[-1]; entry k is η_k.
      name: for messages and tables.

    Raises:
      InputError: arrays that do not fit together, a loss that is not positive, a step without a rate, a negative rate.

    >>> curve = LossCurve([1, 3], [2.0, 1.5], schedule("constant", 4, 0.1), "a")
    >>> curve.rates.tolist()
    [0.1, 0.1, 0.1, 0.1, 0.1]
    """

    steps: Any
    losses: Any
    rates: Any
    name: str = "curve"

    def __post_init__(self) -> None:
        steps, losses, rates = (_vector(f"{self.name}: {what}", getattr(self, what)) for what in ("steps", "losses", "rates"))
        if len(steps) != len(losses):
            raise InputError(f"{self.name}: {len(steps)} steps and {len(losses)} losses: give one loss for each step")
        whole = steps.astype(np.int64)
        if (whole != steps).any() or (np.diff(steps) <= 0).any() or steps[0] < 0:
            raise InputError(
                f"{self.name}: the steps must be whole numbers from 0 that increase: sort the rows, drop repetitions"
            )
        if steps[-1] >= len(rates):
            raise InputError(f"{self.name}: step {whole[-1]} has no rate, there are {len(rates)} rates: give one for every step")
        if (losses <= 0).any():
            place = int(np.argmax(losses <= 0))
            raise InputError(f"{self.name}: the loss at step {whole[place]} is {losses[place]:g}: the laws need positive losses")
        if (rates < 0).any() or not rates[: whole[0] + 1].any():
            raise InputError(f"{self.name}: rates must not be negative, and not all zero before the first step measured")
        for what, value in (("steps", whole), ("losses", losses), ("rates", rates)):
            object.__setattr__(self, what, value)


def _vector(what: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} are not numbers") from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{what} have shape {array.shape}: give a non-empty array of one axis")
    if not np.isfinite(array).all():
        raise InputError(f"{what} hold {array[~np.isfinite(array)][0]} at place {int(np.argmin(np.isfinite(array)))}: drop it")
    return array


def schedule(
    name: str, steps: int, peak: float, *, end: float | None = None, warmup: int = 0, decay_from: int | None = None
) -> np.ndarray:
    """The learning rate of every step under a usual schedule.

    The first W entries are ``linspace(0, peak, W)``. After them ``constant``: peak; ``cosine``: from peak at step W to ``end`` at
    step T, end + (peak − end)/2 (1 + cos π (t − W)/(T − W)); ``wsd``: peak up to ``decay_from``, then a geometric decay that
    reaches ``end`` at T; ``wsd_linear``: a linear one; ``wsd_constant``: ``end`` from ``decay_from`` on.

    Args:
      name: one of `SCHEDULES`.
      steps: T, the last step's number.
      peak: the highest rate.
      end: the last rate; required by all but ``constant``.
      warmup: W, steps of warm-up.
      decay_from: the step at which the three ``wsd`` schedules leave the peak.

    Returns:
      [T+1] float64, entry k is η_k.

    Raises:
      InputError: an unknown name, or numbers that make no schedule.

    Source: Luo et al. 2025, section 4 (schedules of the public curves).

    >>> schedule("wsd_linear", 6, 1.0, end=0.5, warmup=3, decay_from=4).tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5]
    """
    if name not in SCHEDULES:
        raise InputError(f"unknown schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    steps, warmup = check_whole("steps", steps, 1), check_whole("warmup", warmup, 0)
    if not (np.isfinite(peak) and peak > 0):
        raise InputError(f"peak is {peak}: give a positive rate")
    if warmup > steps:
        raise InputError(f"a warm-up of {warmup} steps does not fit into {steps}")
    t = np.arange(steps + 1, dtype=np.float64)
    rates = np.full(steps + 1, float(peak))
    if name != "constant":
        if end is None or not (np.isfinite(end) and end >= 0):
            raise InputError(f"schedule {name} needs a last rate that is not negative: end is {end}")
        start = warmup if name == "cosine" else check_whole("decay_from", decay_from, warmup)
        if start >= steps:
            raise InputError(f"the decay would begin at step {start} of {steps}: begin earlier")
        if name == "wsd" and end == 0:
            raise InputError("a geometric decay never reaches end = 0: give a positive rate, or take wsd_linear")
        done = np.clip((t - start) / (steps - start), 0, 1)
        rates = {
            "cosine": lambda: end + (peak - end) / 2 * (1 + np.cos(np.pi * done)),
            "wsd": lambda: peak ** (1 - done) * end**done,
            "wsd_linear": lambda: peak + (end - peak) * done,
            "wsd_constant": lambda: np.where(t < start, peak, end),
        }[name]()
    rates[:warmup] = np.linspace(0, peak, warmup)
    return rates


def rates_from_log(steps: Any, rates: Any, warmup: int | None = None) -> np.ndarray:
    """The rate of every step up to the last one logged, from the rates at the steps logged.

    Between two logged steps the rate is interpolated linearly, unless it is level before and level after: then it jumped, and
    does so at the later step. Before the first logged step: ``linspace(0, first rate, W)``, then level.

    Args:
      steps: [n] whole numbers, increasing.
      rates: [n], the learning rate at each.
      warmup: W; None: the first logged step. 0: no warm-up, level from the start.

    Returns:
      [steps[-1] + 1] float64.

    Raises:
      InputError: steps that do not increase, negative rates, a warm-up that ends after the first logged step.

    >>> rates_from_log([2, 4, 6, 8, 10], [0.4, 0.4, 0.4, 0.2, 0.2]).tolist()
    [0.0, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2]
    """
    at, rate = _vector("the steps logged", steps), _vector("the rates logged", rates)
    if at.shape != rate.shape:
        raise InputError(f"{len(at)} steps and {len(rate)} rates: give one rate for each step")
    if (at != np.floor(at)).any() or at[0] < 0 or (np.diff(at) <= 0).any():
        raise InputError("the steps logged must be whole numbers from 0 that increase: sort the rows, drop repetitions")
    if (rate < 0).any():
        raise InputError(f"the rate at step {at[np.argmax(rate < 0)]:g} is negative")
    first = int(at[0])
    warmup = first if warmup is None else check_whole("warmup", warmup, 0)
    if warmup > first:
        raise InputError(f"the first step logged is {first}, inside a warm-up of {warmup} steps: give a shorter one")
    change = np.diff(rate) != 0
    jumps = np.flatnonzero(change[1:-1] & ~change[:-2] & ~change[2:]) + 1 if len(change) > 2 else np.empty(0, int)
    known_at = np.r_[at, at[jumps + 1] - 1]  # level up to one step before a jump
    known = np.r_[rate, rate[jumps]]
    known_at, keep = np.unique(known_at, return_index=True)
    result = np.interp(np.arange(int(at[-1]) + 1), known_at, known[keep])
    result[:warmup] = np.linspace(0, rate[0], warmup)
    return result
