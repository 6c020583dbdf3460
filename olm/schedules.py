"""Learning-rate schedules for training on one dataset after another, as optax schedules: a step count gives a rate.

Update number t, counted from 0, uses ``schedule(t)``: a warm-up of W steps is start + (peak − start) t/W and reaches the peak at
step W, and the last rate is reached at step T, after the T updates, and kept from there on. (`olm.scaling.schedules` follows the
convention of published curves instead, ``linspace(0, peak, W)``.)

Ibrahim et al. 2024 (arXiv 2403.08763): `warmup_cosine` is their equation 2, `rewarmed` and `held` are continual pre-training with
and without re-warming, `infinite` is their schedule that warms up once. `wsd` is that of Hu et al. 2024 (arXiv 2404.06395) with
the decays of Hägele et al. 2024 (arXiv 2405.18392).

Phases are optax's own where it has them. Each is given the steps since it began as the default float, because optax divides the
int32 count of its states in float32 even under x64, and mixes its two rates so that both ends are exact. Rates may be traced, and
schedules are differentiable in them; traced rates are not checked. Optimiser states are not reset here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from olm.errors import InputError, check_number, check_whole
from olm.types import Array

__all__ = ["COOLDOWNS", "DECAYS", "held", "infinite", "rates", "rewarmed", "warmup_cosine", "wsd"]

DECAYS = ("linear", "sqrt", "cosine", "square", "exponential")
COOLDOWNS = ("cosine", "inverse_sqrt", "linear", "constant")

Phase = tuple[optax.Schedule, int]  # what it does with the steps since its begin, and its length


def _phase(schedule: optax.Schedule, length: int) -> Phase:
    """``schedule`` on counts clipped to [0, length], in the default float and in the count's shape."""

    def inside(count: Array) -> Array:
        dtype = jnp.result_type(float)
        rate = schedule(jnp.asarray(jnp.clip(count, 0, length), dtype))
        return jnp.broadcast_to(jnp.asarray(rate, dtype), jnp.shape(count))

    return inside, length


def _joined(*phases: Phase, last: Array) -> optax.Schedule:
    """One phase after the other, without those of no length, and then ``last``: a phase's own end may be rounded."""
    kept = [phase for phase in (*phases, _level(last, 1)) if phase[1]]
    ends = [sum(length for _, length in kept[: i + 1]) for i in range(len(kept))]
    return optax.join_schedules([schedule for schedule, _ in kept], ends[:-1])


def _level(rate: Array, length: int) -> Phase:
    return _phase(optax.constant_schedule(rate), length)


def _sqrt(u: Array) -> Array:
    begun = u > 0  # the slope at 0 is infinite: 0 × ∞ would spoil the gradient of every other phase
    return 1 - jnp.where(begun, jnp.sqrt(jnp.where(begun, u, 1)), 0)


def _inverse_sqrt(u: Array, timescale: Array) -> Array:
    """1 − h(u)/h(1), with h(u) = 1/√(1+αu) − 1 = −αu/(s(1+s)), s = √(1+αu), free of its cancellation for small α."""
    root, last = jnp.sqrt(1 + timescale * u), jnp.sqrt(1 + timescale)
    return 1 - u * (last * (1 + last)) / (root * (1 + root))


def _mixed(shape: str, begin: Array, end: Array, length: int, timescale: Array = 10.0) -> Phase:
    """From ``begin`` to ``end``: c begin + (1 − c) end, where c goes from 1 to 0 by the shape."""
    if not length:
        return _level(end, 0)
    share: optax.Schedule = {
        "linear": optax.linear_schedule(1.0, 0.0, length),
        "cosine": optax.cosine_decay_schedule(1.0, length),
        "square": lambda count: 1 - (count / length) ** 2,
        "sqrt": lambda count: _sqrt(count / length),
        "inverse_sqrt": lambda count: _inverse_sqrt(count / length, timescale),
    }[shape]

    def mixed(count: Array) -> Array:
        c = share(count)
        return c * begin + (1 - c) * end

    return _phase(mixed, length)


def _geometric(begin: Array, end: Array, length: int) -> Phase:
    """begin^(1−u) end^u; `optax.exponential_decay` takes no traced rates."""
    return _phase(lambda count: begin * (end / begin) ** (count / length), length)


def _rate(name: str, value: Any, *, most: Any = math.inf, of: str = "", zero: bool = False) -> Any:
    """A finite rate above 0, or 0 too if ``zero``, up to ``most``, which the message calls ``of``."""
    if isinstance(value, jax.core.Tracer):
        return value
    known = not isinstance(most, jax.core.Tracer) and most < math.inf
    wanted = f"give {'a rate of 0 or more' if zero else 'a positive rate'}{f', at most {of}, {most:g}' if known else ''}"
    return check_number(name, value, wanted, 0.0, most if known else math.inf, open_low=not zero)


def _one_of(shape: Any, known: tuple[str, ...]) -> None:
    if shape not in known:
        raise InputError(f"unknown shape {shape!r}: choose one of {', '.join(known)}")


def _fits(steps: int, **phases: int) -> None:
    if sum(phases.values()) > steps:
        said = " + ".join(f"{name} {length}" for name, length in phases.items())
        raise InputError(f"a schedule whose phases exceed its length: {said} > {steps} steps: shorten a phase or give more steps")


def _lengths(steps: Any) -> list[int]:
    """The lengths of the datasets."""
    try:
        lengths = [check_whole(f"steps of dataset {i}", length, 1) for i, length in enumerate(steps)]
    except TypeError:
        lengths = []
    if not lengths:
        raise InputError(f"steps is {steps!r}: give a sequence with the steps of each dataset")
    return lengths


def _warmup(warmup: Any, steps: int) -> int:
    """Steps of warm-up, of which a decay is to be left, from their number or their share of ``steps``."""
    try:
        whole = operator.index(warmup)
    except TypeError:
        wanted = "give a whole number of steps, or a share from 0 to below 1"
        return min(round(check_number("warmup", warmup, wanted, 0.0, math.nextafter(1, 0)) * steps), steps - 1)
    _fits(steps, warmup=check_whole("warmup", warmup, 0), decay=1)
    return whole


def warmup_cosine(peak: float, floor: float, steps: int, warmup: int = 0, start: float = 0.0) -> optax.Schedule:
    """A linear warm-up over W steps, then a cosine that ends at step T.

    η_t = start + (peak − start) t/W for t < W, then floor + (peak − floor)/2 (1 + cos π (t − W)/(T − W)); floor after T.

    Args:
      peak: the rate at step W, positive.
      floor: the rate at step T and after it, from 0 to the peak.
      steps: T.
      warmup: W < T; 0: begin at the peak.
      start: the rate at step 0 of a warm-up, from 0 to the peak.

    Returns:
      An optax schedule.

    Raises:
      InputError: rates out of order, steps that are not whole, a warm-up that leaves no step to decay.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), equation 2.

    >>> [round(float(rate), 3) for rate in rates(warmup_cosine(1.0, 0.5, steps=6, warmup=2), 10)]
    [0.0, 0.5, 1.0, 0.927, 0.75, 0.573, 0.5, 0.5, 0.5, 0.5]
    """
    peak, steps, warmup = _rate("peak", peak), check_whole("steps", steps, 1), check_whole("warmup", warmup, 0)
    floor = _rate("floor", floor, most=peak, of="the peak", zero=True)
    start = _rate("start", start, most=peak, of="the peak", zero=True)
    _fits(steps, warmup=warmup, decay=1)
    return _joined(_mixed("linear", start, peak, warmup), _mixed("cosine", peak, floor, steps - warmup), last=floor)


def rewarmed(peak: float | Sequence[float], floor: float, steps: Sequence[int], warmup: float | int = 0.01) -> optax.Schedule:
    """For each dataset a warm-up and a cosine decay to the floor: from rate 0 for the first, from the floor for later ones.

    Without a warm-up the rate jumps from the floor to the peak where a dataset begins.

    Args:
      peak: positive; one for all datasets, or one for each.
      floor: the rate that each dataset ends at, from 0 to the smallest peak.
      steps: [S] steps of each dataset, T = their sum.
      warmup: a float: a share of each dataset's steps, in [0, 1), rounded to whole steps, one at least left to decay; a whole
        number: that many steps of each.

    Returns:
      An optax schedule.

    Raises:
      InputError: rates out of order, not one peak for each dataset, steps that are not whole, a warm-up without a step to decay.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), re-warming and re-decaying.

    >>> [round(float(rate), 3) for rate in rates(rewarmed(1.0, 0.5, steps=[4, 4], warmup=2), 10)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.75, 1.0, 0.75, 0.5, 0.5]
    """
    lengths = _lengths(steps)
    try:
        peaks: list[Any] = list(peak)  # type: ignore[arg-type]
    except TypeError:  # one number
        peaks = [peak] * len(lengths)
    if len(peaks) != len(lengths):
        raise InputError(f"{len(peaks)} peaks for {len(lengths)} datasets: give one peak, or one for each")
    phases: list[Phase] = []
    for i, (length, high) in enumerate(zip(lengths, peaks, strict=True)):
        high, warm = _rate("peak", high), _warmup(warmup, length)
        floor = _rate("floor", floor, most=high, of="the peak", zero=True)
        phases += [_mixed("linear", floor if i else 0.0, high, warm), _mixed("cosine", high, floor, length - warm)]
    return _joined(*phases, last=floor)


def held(peak: float, floor: float, steps: Sequence[int], warmup: float | int = 0.01) -> optax.Schedule:
    """The first dataset as in `rewarmed`, then the floor for all later ones: the baseline "constant η_min".

    Args:
      peak, floor, warmup: as for `rewarmed`, of the first dataset.
      steps: [S] steps of each dataset.

    Returns:
      An optax schedule.

    Raises:
      InputError: as `rewarmed`.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), constant baselines.

    >>> [round(float(rate), 3) for rate in rates(held(1.0, 0.5, steps=[4, 3], warmup=2), 10)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    first = _lengths(steps)[0]
    return warmup_cosine(peak, floor, first, _warmup(warmup, first))


def infinite(
    peak: float,
    constant: float | None,
    floor: float,
    *,
    warmup: int,
    cooldown: int,
    steps: int,
    anneal: int,
    shape: str = "cosine",
    timescale: float = 10.0,
) -> optax.Schedule:
    """Warm up once, cool down to a constant rate for as long as there is data, anneal at the end.

    0 → peak linearly over ``warmup`` steps; peak → constant over ``cooldown`` steps, with u from 0 to 1:

    - ``cosine``: constant + (peak − constant)/2 (1 + cos πu);
    - ``inverse_sqrt``: peak + (constant − peak) h(u)/h(1), h(u) = 1/√(1 + αu) − 1;
    - ``linear``: peak + (constant − peak) u;
    - ``constant``: no cool-down, the constant rate is the peak;

    constant until step T − A; over the last A steps constant (floor/constant)^u, which is the floor at step T and after it.
    Up to step T − A the rates do not depend on T: a run can be extended from there.

    Args:
      peak, constant, floor: peak ≥ constant ≥ floor > 0; constant None: the peak.
      warmup: steps, 0 or more.
      cooldown: steps; 0 needs constant = peak, as else the rate would jump.
      steps: T.
      anneal: A ≥ 1.
      shape: of the cool-down, one of `COOLDOWNS`.
      timescale: α > 0 of ``inverse_sqrt``.

    Returns:
      An optax schedule.

    Raises:
      InputError: rates out of order, phases longer than T, an unknown shape, a jump.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), infinite schedules; shapes from the code of arXiv 2503.02844.

    >>> [round(float(rate), 3) for rate in rates(infinite(1.0, 0.5, 0.125, warmup=2, cooldown=2, steps=8, anneal=2), 10)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5, 0.5, 0.25, 0.125, 0.125]
    """
    _one_of(shape, COOLDOWNS)
    peak, timescale = _rate("peak", peak), _rate("timescale", timescale)
    constant = peak if constant is None else _rate("constant", constant, most=peak, of="the peak")
    floor = _rate("floor", floor, most=constant, of="the constant rate")
    steps, anneal = check_whole("steps", steps, 1), check_whole("anneal", anneal, 1)
    warmup, cooldown = check_whole("warmup", warmup, 0), check_whole("cooldown", cooldown, 0)
    _fits(steps, warmup=warmup, cooldown=cooldown, anneal=anneal)
    if shape == "constant" and cooldown:
        raise InputError(f"shape constant has no cool-down, cooldown is {cooldown}: give 0, or another shape")
    traced = any(isinstance(rate, jax.core.Tracer) for rate in (peak, constant))
    if not cooldown and not traced and constant != peak:
        raise InputError(f"from {peak:g} to {constant:g} in 0 steps is a jump: give a cooldown, or constant={peak:g}")
    return _joined(
        _mixed("linear", 0.0, peak, warmup),
        _mixed(shape, peak, constant, cooldown, timescale),
        _level(constant, steps - warmup - cooldown - anneal),
        _geometric(constant, floor, anneal),
        last=floor,
    )


def wsd(peak: float, floor: float, steps: int, warmup: int = 0, *, decay: int, shape: str = "linear") -> optax.Schedule:
    """Warm up, stay at the peak, decay over the last D steps: floor + (peak − floor) f(u), with u from 0 to 1.

    f is 1 − u for ``linear``, 1 − √u for ``sqrt``, (1 + cos πu)/2 for ``cosine``, 1 − u² for ``square``. ``exponential`` is
    peak^(1−u) floor^u.

    Args:
      peak: positive.
      floor: the rate at step T and after it, from 0 to the peak; positive for ``exponential``.
      steps: T.
      warmup: steps from rate 0; 0: begin at the peak.
      decay: D ≥ 1.
      shape: one of `DECAYS`.

    Returns:
      An optax schedule.

    Raises:
      InputError: rates out of order, phases longer than T, an unknown shape.

    Source: Hu et al. 2024 (arXiv 2404.06395); Hägele et al. 2024 (arXiv 2405.18392).

    >>> rates(wsd(1.0, 0.5, steps=6, warmup=2, decay=2), 10).tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.5, 0.5, 0.5]
    """
    _one_of(shape, DECAYS)
    peak, geometric = _rate("peak", peak), shape == "exponential"
    floor = _rate("floor", floor, most=peak, of="the peak", zero=not geometric)
    steps, warmup = check_whole("steps", steps, 1), check_whole("warmup", warmup, 0)
    _fits(steps, warmup=warmup, decay=check_whole("decay", decay, 1))
    falling = _geometric(peak, floor, decay) if geometric else _mixed(shape, peak, floor, decay)
    return _joined(_mixed("linear", 0.0, peak, warmup), _level(peak, steps - warmup - decay), falling, last=floor)


def rates(schedule: optax.Schedule, steps: int) -> Array:
    """The rate of every update.

    Args:
      schedule: any optax schedule.
      steps: T.

    Returns:
      [T], entry t is ``schedule(t)``.

    Raises:
      InputError: a schedule that is no function, steps that are not whole.

    >>> rates(optax.linear_schedule(1.0, 0.0, 4), 10).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if not callable(schedule):
        raise InputError(f"schedule is {schedule!r}: give a function of the step count, as optax.constant_schedule(rate)")
    return jax.vmap(schedule)(jnp.arange(check_whole("steps", steps, 1)))
