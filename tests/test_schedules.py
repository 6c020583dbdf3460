"""Learning-rate schedules against equations written out in numpy, at their joints and ends, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from olm.errors import InputError
from olm.schedules import COOLDOWNS, DECAYS, held, infinite, rates, rewarmed, warmup_cosine, wsd

TOLERANCE = 1e-12  # relative to the peak, in float64
Pieces = list[tuple[int, int, Callable[[np.ndarray], np.ndarray]]]  # first step, end, rate as a function of the step
Case = tuple[optax.Schedule, Pieces, float]  # schedule, its equation, its highest rate

# --- the equations, written out --------------------------------------------------------------------------------------


def line(a: int, b: int, begin: float, end: float) -> tuple[int, int, Any]:
    return a, b, lambda t: begin + (t - a) * (end - begin) / (b - a)


def cosine(a: int, b: int, begin: float, end: float) -> tuple[int, int, Any]:
    return a, b, lambda t: end + (begin - end) / 2 * (np.cos(np.pi * (t - a) / (b - a)) + 1)


def power(a: int, b: int, begin: float, end: float) -> tuple[int, int, Any]:
    return a, b, lambda t: np.exp(np.log(begin) * (b - t) / (b - a) + np.log(end) * (t - a) / (b - a))


def inverse_sqrt(a: int, b: int, begin: float, end: float, alpha: float) -> tuple[int, int, Any]:
    def h(u: Any) -> Any:
        return 1 / np.sqrt(1 + alpha * u) - 1

    return a, b, lambda t: begin + (end - begin) / h(1.0) * h((t - a) / (b - a))


def falling(a: int, b: int, begin: float, end: float, f: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int, Any]:
    return a, b, lambda t: end + (begin - end) * f((t - a) / (b - a))


def draw(rng: np.random.Generator, low: int = 1) -> tuple[float, float, float, int, int, int]:
    """Rates peak > constant > floor, and three lengths of at least ``low``."""
    peak, constant, floor = np.sort(np.exp(rng.uniform(-9, 0, 3)))[::-1].tolist()
    a, b, c = rng.integers(low, 200, 3).tolist()
    return peak, constant, floor, a, b, c


def case_cosine(rng: np.random.Generator) -> Case:
    peak, start, floor, a, b, _ = draw(rng)
    return warmup_cosine(peak, floor, a + b, a, start), [line(0, a, start, peak), cosine(a, a + b, peak, floor)], peak


def case_cosine_alone(rng: np.random.Generator) -> Case:
    peak, _, _, a, _, _ = draw(rng)
    return warmup_cosine(peak, 0.0, a), [cosine(0, a, peak, 0.0)], peak


def case_rewarmed(rng: np.random.Generator, whole: bool = False) -> Case:
    high, low, floor, *lengths = draw(rng, 10)
    peaks, share = (high, low, high), rng.uniform(0.1, 0.8)
    pieces: Pieces = []
    begin = 0
    for i, (peak, length) in enumerate(zip(peaks, lengths, strict=True)):
        top = begin + (7 if whole else round(share * length))
        end = begin + length
        pieces += [line(begin, top, floor if i else 0.0, peak), cosine(top, end, peak, floor)]
        begin = end
    return rewarmed(peaks, floor, lengths, warmup=7 if whole else share), pieces, high


def case_held(rng: np.random.Generator) -> Case:
    peak, _, floor, a, b, c = draw(rng, 10)
    top, end = round(0.2 * a), a + b + c
    pieces = [line(0, top, 0.0, peak), cosine(top, a, peak, floor), line(a, end, floor, floor)]
    return held(peak, floor, (a, b, c), 0.2), pieces, peak


def case_infinite(rng: np.random.Generator, shape: str) -> Case:
    peak, constant, floor, a, b, c = draw(rng)
    alpha = float(np.exp(rng.uniform(-1, 4)))
    top, level, end = a, a + b, a + b + 50 + c
    if shape == "constant":
        constant, level = peak, top
    cool = {
        "cosine": [cosine(top, level, peak, constant)],
        "linear": [line(top, level, peak, constant)],
        "inverse_sqrt": [inverse_sqrt(top, level, peak, constant, alpha)],
        "constant": [],
    }[shape]
    schedule = infinite(peak, constant, floor, warmup=a, cooldown=level - top, steps=end, anneal=c, shape=shape, timescale=alpha)
    level_to = end - c
    flat = line(level, level_to, constant, constant)
    return schedule, [line(0, top, 0.0, peak), *cool, flat, power(level_to, end, constant, floor)], peak


def case_wsd(rng: np.random.Generator, shape: str) -> Case:
    peak, _, floor, a, b, c = draw(rng)
    begin, end = a + b, a + b + c
    last = {
        "linear": falling(begin, end, peak, floor, lambda u: 1 - u),
        "sqrt": falling(begin, end, peak, floor, lambda u: 1 - np.sqrt(u)),
        "cosine": falling(begin, end, peak, floor, lambda u: (1 + np.cos(np.pi * u)) / 2),
        "square": falling(begin, end, peak, floor, lambda u: 1 - u**2),
        "exponential": power(begin, end, peak, floor),
    }[shape]
    return wsd(peak, floor, end, a, decay=c, shape=shape), [line(0, a, 0.0, peak), line(a, begin, peak, peak), last], peak


CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "cosine": case_cosine,
    "cosine alone": case_cosine_alone,
    "rewarmed, share": case_rewarmed,
    "rewarmed, steps": lambda rng: case_rewarmed(rng, whole=True),
    "held": case_held,
    **{f"infinite, {shape}": lambda rng, shape=shape: case_infinite(rng, shape) for shape in COOLDOWNS},
    **{f"wsd, {shape}": lambda rng, shape=shape: case_wsd(rng, shape) for shape in DECAYS},
}

# --- the checks ------------------------------------------------------------------------------------------------------


def equation(pieces: Pieces, steps: np.ndarray) -> np.ndarray:
    """The rates at the steps; a joint belongs to the later piece, the last end is kept."""
    t = np.minimum(steps, pieces[-1][1]).astype(np.float64)
    result = np.full(t.shape, np.nan)
    for a, b, rate in pieces:
        inside = (t >= a) & ((t < b) | (b == pieces[-1][1]))
        result[inside] = rate(t[inside])
    return result


def padded(steps: Any) -> np.ndarray:
    """Steps as an array of 64, so that few shapes are compiled."""
    return np.resize(np.asarray(steps), 64)


def disagreement(schedule: optax.Schedule, pieces: Pieces, peak: float, steps: Any) -> float:
    """Largest difference of schedule and equation over the peak, at int32 counts: those of optax's states."""
    at = padded(steps)
    got = schedule(jnp.asarray(at, jnp.int32))
    assert got.dtype == jnp.float64 or schedule.__module__.startswith("optax")
    return float(np.max(np.abs(np.asarray(got, np.float64) - equation(pieces, at))) / peak)


def gap(schedule: optax.Schedule, pieces: Pieces, peak: float) -> float:
    """Largest difference over the peak between a joint's rate and the rates just before it, of schedule and of equation."""
    joints = np.array([b for _, b, _ in pieces], np.float64)
    n = len(joints)
    both = np.asarray(schedule(jnp.asarray(padded([*joints, *np.nextafter(joints, 0)]))))
    at, before = both[:n], both[n : 2 * n]
    left = np.array([rate(np.float64(b)) for _, b, rate in pieces])
    return float(max(np.max(np.abs(at - before)), np.max(np.abs(at - left))) / peak)


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_is_its_equation(x64: None, name: str) -> None:
    """At 1,000 random (step, parameters), at the joints and beyond the end; there is no jump."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        schedule, pieces, peak = CASES[name](rng)
        end = pieces[-1][1]
        assert (
            disagreement(schedule, pieces, peak, [*rng.integers(0, end + 5, 50), *{0, *(b for _, b, _ in pieces)}]) <= TOLERANCE
        )
        assert gap(schedule, pieces, peak) <= TOLERANCE


@pytest.mark.parametrize("precise", [True, False])
def test_ends_and_peaks_are_exact(precise: bool) -> None:
    """Compiled as well, where products are fused: all in one program, in float64 and in float32."""
    peak, constant, floor = 0.3, 0.17, 0.0123
    once: dict[str, Any] = {"warmup": 7, "cooldown": 5, "steps": 31, "anneal": 11}
    built = [
        (warmup_cosine(peak, floor, 31, 7, 0.07), 0.07, peak),
        (warmup_cosine(peak, floor, 7), peak, floor),
        (rewarmed(peak, floor, [20, 11], 7), 0.0, peak),
        (held(peak, floor, [20, 11], 7), 0.0, peak),
        *((wsd(peak, floor, 31, 7, decay=11, shape=shape), 0.0, peak) for shape in DECAYS),
        *((infinite(peak, constant, floor, **once, shape=shape), 0.0, peak) for shape in COOLDOWNS[:3]),
    ]
    with jax.enable_x64(precise):
        kind = np.float64 if precise else np.float32
        steps = jnp.array([0, 7, 31, 99, 12, 20])
        compiled = jax.jit(lambda t: jnp.stack([schedule(t) for schedule, _, _ in built]))(steps)
        assert compiled.dtype == kind and not compiled.weak_type
        at = np.asarray(compiled)
        assert at[:, :4].tolist() == [[kind(rate) for rate in (start, top, floor, floor)] for _, start, top in built]
        assert at[-3:, 4:].tolist() == [[kind(constant)] * 2] * 3


def test_planted_bugs_are_caught(x64: None) -> None:
    pieces: Pieces = [line(0, 10, 0.0, 1.0), cosine(10, 40, 1.0, 0.1)]
    steps = np.arange(45)
    assert disagreement(warmup_cosine(1.0, 0.1, 40, 10), pieces, 1.0, steps) <= TOLERANCE
    for shifted in (warmup_cosine(1.0, 0.1, 40, 11), warmup_cosine(1.0, 0.1, 41, 10)):  # a joint, the end
        assert disagreement(shifted, pieces, 1.0, steps) > 1e-3
    ours = warmup_cosine(1.0, 0.1, 40, 10)
    assert disagreement(lambda t: ours(t + 1), pieces, 1.0, steps) > 1e-2
    # optax's own, for its int32 count: float32 under x64. This is why counts are cast.
    plain = optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 40, 0.1)
    assert 1e-9 < disagreement(plain, pieces, 1.0, steps) < 1e-6
    # Without a warm-up a new dataset is a jump, of the size expected.
    jump = rewarmed(1.0, 0.25, [10, 10], warmup=0)
    assert gap(jump, [cosine(0, 10, 1.0, 0.25), cosine(10, 20, 1.0, 0.25)], 1.0) == pytest.approx(0.75, abs=1e-9)
    late = optax.join_schedules([optax.linear_schedule(0.0, 1.0, 10), optax.constant_schedule(1.0)], [9])
    assert disagreement(late, [line(0, 10, 0.0, 1.0), line(10, 20, 1.0, 1.0)], 1.0, steps) == pytest.approx(0.1)


def test_datasets_are_schedules_of_their_own(x64: None) -> None:
    """`rewarmed` is `warmup_cosine` for each dataset, `held` the same at first; a share is rounded and leaves a decay."""
    first, second = (
        rates(schedule, 64).tolist() for schedule in (warmup_cosine(1.0, 0.1, 30, 3), warmup_cosine(0.5, 0.1, 20, 2, start=0.1))
    )
    joint = rates(rewarmed([1.0, 0.5], 0.1, [30, 20], warmup=0.1), 64).tolist()
    assert joint == [*first[:30], *second[:34]]
    assert rates(held(1.0, 0.1, [30, 20], warmup=0.1), 64).tolist() == first
    assert rates(rewarmed(np.array([1.0, 0.5]), 0.1, np.array([30, 20]), 0.1), 64).tolist() == joint
    assert rates(rewarmed(1.0, 0.1, [100], warmup=0.29), 64)[29] == 1.0  # 0.29 × 100 is below 29 in floats
    assert rates(rewarmed(1.0, 0.1, [2, 1], warmup=0.99), 64)[:4].tolist() == [0.0, 1.0, 1.0, 0.1]
    assert rates(rewarmed(np.float32(0.5), 0.0, [4], np.int64(2)), 64)[:3].tolist() == [0.0, 0.25, 0.5]


def test_an_infinite_schedule_can_be_extended(x64: None) -> None:
    short, long = (
        np.asarray(rates(infinite(1.0, 0.5, 0.1, warmup=5, cooldown=20, steps=steps, anneal=10), 64)) for steps in (60, 600)
    )
    assert short[:51].tolist() == long[:51].tolist() and (short[51:] < long[51:]).all()
    none = infinite(1.0, None, 0.1, warmup=5, cooldown=0, steps=30, anneal=10)
    assert rates(none, 64).tolist() == rates(wsd(1.0, 0.1, 30, 5, decay=10, shape="exponential"), 64).tolist()
    tight = infinite(1.0, 0.5, 0.125, warmup=2, cooldown=2, steps=6, anneal=2)  # no constant phase
    assert rates(tight, 64)[:8].tolist() == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.125, 0.125], abs=1e-15)


def test_transformations_and_optimisers(x64: None) -> None:
    schedule = infinite(1.0, 0.5, 0.1, warmup=5, cooldown=20, steps=60, anneal=10, shape="inverse_sqrt")
    plain = np.asarray(schedule(jnp.arange(64)))
    assert np.asarray(jax.jit(schedule)(jnp.arange(64))) == pytest.approx(plain, rel=1e-14)
    assert np.asarray(rates(schedule, 64)) == pytest.approx(plain, rel=1e-14)
    assert jax.eval_shape(schedule, jnp.ones((7, 10), int)).shape == (7, 10)
    assert jax.jit(lambda: schedule(3))() == pytest.approx(0.6, rel=1e-15)
    assert rates(optax.constant_schedule(0.5), 3).tolist() == [0.5] * 3
    optimiser = optax.sgd(schedule)

    def step(state: Any, _: None) -> Any:
        update, state = optimiser.update(jnp.ones(()), state)
        return state, -update

    used = jax.lax.scan(step, optimiser.init(jnp.zeros(())), None, 64)[1]
    assert np.asarray(used) == pytest.approx(plain, rel=1e-14)


def test_schedules_are_differentiable(x64: None) -> None:
    """In the rates, which scale a schedule: Σ_i r_i ∂η/∂r_i = η; in the step, finite, by central differences."""

    def built(pair: Any, t: Any) -> Any:
        return jnp.stack([wsd(pair[0], pair[1], 40_000, 5, decay=10, shape=shape)(t) for shape in DECAYS], axis=-1)

    pair, inner = jnp.array([0.7, 0.01]), np.array([2.5, 100.5, 39_993.5, 39_998.5])
    at = jnp.array([*inner, *(inner - 1e-4), *(inner + 1e-4), 0, 2, 5, 100, 39_990, 39_993, 39_999, 40_000, 40_005])
    value, forward = jax.jit(lambda p, t: jax.jvp(built, (p, t), (p, jnp.zeros_like(t))))(pair, at)
    assert np.asarray(forward) == pytest.approx(np.asarray(value), rel=1e-13)
    back, slope = (np.asarray(x) for x in jax.jit(jax.grad(lambda p, t: jnp.sum(built(p, t)), (0, 1)))(pair, at))
    assert back @ np.asarray(pair) == pytest.approx(float(jnp.sum(value)), rel=1e-13)
    assert np.isfinite(slope).all()
    total = np.asarray(value).sum(axis=-1)
    assert slope[:4] == pytest.approx((total[8:12] - total[4:8]) / 2e-4, rel=1e-5, abs=1e-9)


def test_traced_rates_of_every_schedule(x64: None) -> None:
    def all_of(peak: Any) -> Any:
        built = [
            warmup_cosine(peak, peak / 4, 9, 2),
            rewarmed(peak, 0.1, [5, 4], 1),
            held(peak, 0.1, [5, 4], 1),
            infinite(peak, 0.5, 0.1, warmup=1, cooldown=2, steps=9, anneal=3, shape="inverse_sqrt"),
            infinite(peak, None, 0.1, warmup=1, cooldown=0, steps=9, anneal=3, shape="constant"),
        ]
        return jnp.stack([rates(schedule, 64) for schedule in built])

    traced, tangent = (np.asarray(x) for x in jax.jit(lambda peak: jax.jvp(all_of, (peak,), (1.0,)))(0.75))
    assert traced == pytest.approx(np.asarray(all_of(0.75)), rel=1e-14)
    assert np.isfinite(tangent).all() and tangent[0] * 0.75 == pytest.approx(traced[0], rel=1e-13)
    assert tangent[1:, 1].tolist() == [1.0] * 4  # the peak itself


ONCE: dict[str, Any] = {"warmup": 2, "cooldown": 3, "steps": 9, "anneal": 3}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: warmup_cosine(0.0, 0.0, 9), "peak is 0.0: give a positive rate"),
        (lambda: warmup_cosine(math.nan, 0.1, 9), "peak is nan"),
        (lambda: warmup_cosine(math.inf, 0.1, 9), "peak is inf"),
        (lambda: warmup_cosine(True, 0.1, 9), "peak is True"),
        (lambda: warmup_cosine(1.0, 2.0, 9), "floor is 2.0: give a rate of 0 or more, at most the peak, 1"),
        (lambda: warmup_cosine(1.0, -0.1, 9), "floor is -0.1"),
        (lambda: warmup_cosine(1.0, 0.1, 9, 3, start=2.0), "start is 2.0: give a rate of 0 or more, at most the peak, 1"),
        (lambda: warmup_cosine(1.0, 0.1, 9.5), "steps is 9.5: give a whole number"),
        (lambda: warmup_cosine(1.0, 0.1, 0), "steps is 0"),
        (lambda: warmup_cosine(1.0, 0.1, 9, -1), "warmup is -1"),
        (lambda: warmup_cosine(1.0, 0.1, 9, 9), r"phases exceed its length: warmup 9 \+ decay 1 > 9 steps: shorten"),
        (lambda: rewarmed(1.0, 0.1, 9), "steps is 9: give a sequence"),
        (lambda: rewarmed(1.0, 0.1, []), r"steps is \[\]: give a sequence"),
        (lambda: rewarmed(1.0, 0.1, [9, 1.5]), "steps of dataset 1 is 1.5"),
        (lambda: rewarmed(1.0, 0.1, [9, 9], warmup=1.0), "warmup is 1.0: give a whole number of steps, or a share"),
        (lambda: rewarmed(1.0, 0.1, [9, 9], warmup=-0.1), "warmup is -0.1"),
        (lambda: rewarmed(1.0, 0.1, [9, 9], warmup=True), "warmup is True"),
        (lambda: rewarmed(1.0, 0.1, [9, 9], warmup=-1), "warmup is -1"),
        (lambda: rewarmed(1.0, 0.1, [9, 4], warmup=4), r"warmup 4 \+ decay 1 > 4 steps"),
        (lambda: rewarmed([1.0, 0.5], 0.1, [9]), "2 peaks for 1 datasets"),
        (lambda: rewarmed([1.0, 0.5], 0.7, [9, 9]), "floor is 0.7: give a rate of 0 or more, at most the peak, 0.5"),
        (lambda: rewarmed("1", 0.1, [9]), "peak is '1'"),
        (lambda: held([1.0], 0.1, [9]), r"peak is \[1.0\]"),
        (lambda: held(1.0, 0.1, [9], warmup=9), "phases exceed"),
        (lambda: infinite(1.0, 2.0, 0.1, **ONCE), "constant is 2.0: give a positive rate, at most the peak, 1"),
        (lambda: infinite(1.0, 0.5, 0.7, **ONCE), "floor is 0.7: give a positive rate, at most the constant rate, 0.5"),
        (lambda: infinite(1.0, 0.5, 0.0, **ONCE), "floor is 0.0: give a positive rate"),
        (lambda: infinite(1.0, 0.5, 0.1, **ONCE, shape="round"), "unknown shape 'round': choose one of cosine"),
        (lambda: infinite(1.0, 0.5, 0.1, **ONCE, shape=[]), r"unknown shape \[\]"),
        (lambda: infinite(1.0, 0.5, 0.1, **ONCE, timescale=0.0), "timescale is 0.0: give a positive"),
        (lambda: infinite(1.0, 0.5, 0.1, **{**ONCE, "anneal": 5}), r"warmup 2 \+ cooldown 3 \+ anneal 5 > 9 steps"),
        (lambda: infinite(1.0, 0.5, 0.1, **{**ONCE, "anneal": 0}), "anneal is 0"),
        (lambda: infinite(1.0, 0.5, 0.1, **{**ONCE, "cooldown": 0}), "from 1 to 0.5 in 0 steps is a jump: give a cooldown"),
        (lambda: infinite(1.0, 1.0, 0.1, **ONCE, shape="constant"), "shape constant has no cool-down, cooldown is 3"),
        (lambda: wsd(1.0, 0.0, 9, decay=3, shape="exponential"), "floor is 0.0: give a positive rate"),
        (lambda: wsd(1.0, 0.0, 9, decay=3, shape="inverse_sqrt"), "unknown shape 'inverse_sqrt': choose one of linear, sqrt"),
        (lambda: wsd(1.0, 0.0, 9, 7, decay=3), r"warmup 7 \+ decay 3 > 9 steps"),
        (lambda: wsd(1.0, 0.0, 9, decay=0), "decay is 0"),
        (lambda: rates(0.1, 9), "schedule is 0.1: give a function"),
        (lambda: rates(optax.constant_schedule(0.1), 0), "steps is 0"),
    ],
)
def test_bad_input_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
