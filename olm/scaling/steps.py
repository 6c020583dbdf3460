"""The scaling law of one training run, L(θ_t) = L0 + (B/t)^β, and by how much a policy improves its B and β.

Gu et al. 2024 (arXiv 2402.17759, Eq. 8 and section 4.6) fit the held-out loss of conventional learning and of a learning policy
with one L0 and one t0 and compare the coefficients: ΔB = 1 − B₂/B₁, Δβ = β₂/β₁ − 1. Two criteria are computed here, as they
answer differently:

- `CORRELATION`, the published one: ln(L − L0) is regressed on ln t for t > t0, and L0 and t0 are those of the greatest
  correlation (the mean over the curves of −r). A short tail of any curve is nearly straight, so t0 is kept within the first
  part of the run.
- `LEAST_SQUARES`: L0, every B and every β jointly minimise Σ (L − L0 − (B/t)^β)² over the same t > t0. A sum of squares cannot
  compare ranges of different length: t0 is still the correlation's.

B is the step at which the power law would be at L0 + 1 nat, an extrapolation by orders of magnitude where β is small: a fall of
L − L0 by a factor f at equal β is a fall of B by f^(1/β), a modest gain at the paper's β = .12 a ΔB near 100%. The ratio of
losses and the acceleration say what was gained. What is left of a curve after the fit is correlated from step to step: intervals
are over seeds, never over the points of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.objective import acceleration_first, acceleration_least, acceleration_ratio
from olm.types import Array

__all__ = [
    "CORRELATION",
    "LEAST_SQUARES",
    "StepFit",
    "along_L0",
    "fit_steps",
    "improvement",
    "on_common_steps",
    "over_seeds",
    "scatter",
    "thinned",
]

CORRELATION, LEAST_SQUARES = "correlation", "least squares"
_GAPS = 241  # values of L0 tried for each t0, and in each of the refinements
_STARTS = 24  # values of t0
FLAT = 1e-6  # a β up to this is no fall: the curve has no B


@dataclass(frozen=True)
class StepFit:
    """L0 + (B/t)^β of one or more curves that share L0 and t0.

    Attributes:
      L0: the loss that more steps of this kind would not pass, in nats.
      t0: the law is fitted to steps t > t0.
      B: one a curve, in steps.
      beta: one a curve.
      r2: one a curve, squared correlation of ln(L − L0) with ln t on t > t0.
      criterion: `CORRELATION` or `LEAST_SQUARES`.
      on_bound: "L0" where it is 0 (the curve is best as a pure power law) or just below the least loss, "t0" where it is the
        last one tried, "beta" where a curve does not fall beyond t0 (β ≤ 0; its B means nothing).
    """

    L0: float
    t0: float
    B: tuple[float, ...]
    beta: tuple[float, ...]
    r2: tuple[float, ...]
    criterion: str
    on_bound: tuple[str, ...] = ()

    def predict(self, steps: Array, curve: int = 0) -> np.ndarray:
        """L0 + (B/t)^β at ``steps`` [n], in nats, for one of the curves."""
        return self.L0 + np.exp(self.beta[curve] * (np.log(self.B[curve]) - np.log(np.asarray(steps, np.float64))))


def _checked(curve: tuple[Array, Array], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of a curve as floats, without step 0, whose logarithm does not exist."""
    steps, losses = (np.asarray(x, np.float64) for x in curve)
    if steps.shape != losses.shape or steps.ndim != 1:
        raise InputError(f"{name} has {steps.shape} steps and {losses.shape} losses: give two lists of one length")
    if not (np.diff(steps) > 0).all() or (len(steps) and steps[0] < 0):
        place = int(np.argmin(np.diff(steps) > 0)) + 1 if len(steps) > 1 else 0
        raise InputError(
            f"{name}: steps must rise from 0 or more, entry {place + 1} is {steps[place]:g}: sort the curve, one row a step"
        )
    steps, losses = steps[steps > 0], losses[len(losses) - int((steps > 0).sum()) :]
    bad = ~np.isfinite(losses) | (losses <= 0)
    if bad.any():
        place = int(np.argmax(bad))
        raise InputError(f"{name}: loss {losses[place]:g} at step {steps[place]:g}: losses must be positive and finite")
    if len(steps) < 8:
        raise InputError(f"{name} has {len(steps)} steps above 0: a fit needs at least 8")
    return steps, losses


def _regressions(x: np.ndarray, y_GxT: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(slope, intercept, r) [G, S] of y on x over the entries from each of ``first`` [S] on, by sums from the end."""

    def sums(values: np.ndarray) -> np.ndarray:
        return np.flip(np.cumsum(np.flip(values, -1), -1), -1)[..., first]

    x = x - x[-1]  # nearer to zero, for the sums' sake
    n = len(x) - first
    sx, sxx = sums(x), sums(x * x)
    centre = y_GxT.mean(-1, keepdims=True)
    y = y_GxT - centre
    sy, syy, sxy = sums(y), sums(y * y), sums(x * y)
    vx, vy, vxy = n * sxx - sx**2, n * syy - sy**2, n * sxy - sx * sy
    slope = vxy / vx
    with np.errstate(divide="ignore", invalid="ignore"):
        r = vxy / np.sqrt(vx * np.maximum(vy, 0))
    return slope, (sy - slope * sx) / n + centre, r


def _by_correlation(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], t0: float | None, L0: float | None, latest_share: float
) -> StepFit:
    if not 0 < latest_share < 1:
        raise InputError(f"latest_share {latest_share}: give a share of the run, between 0 and 1")
    if L0 is not None and not L0 >= 0:
        raise InputError(f"L0 = {L0}: give a loss of at least 0")
    if t0 is not None and not t0 >= 0:
        raise InputError(f"t0 = {t0}: give a step of at least 0")
    end = min(steps[-1] for steps, _ in curves)
    if t0 is None:
        starts = np.unique(np.r_[0.0, np.geomspace(min(steps[0] for steps, _ in curves), latest_share * end, _STARTS)])
    else:
        starts = np.array([float(t0)])
    first = [np.searchsorted(steps, starts, side="right") for steps, _ in curves]
    enough = np.all([len(steps) - f >= 8 for (steps, _), f in zip(curves, first, strict=True)], axis=0)
    if not enough.any():
        raise InputError(f"fewer than 8 steps of a curve lie beyond t0 = {starts[0]:g}: choose a smaller t0")
    starts, first = starts[enough], [f[enough] for f in first]
    # A loss before t0 does not take part, but L0 must lie below all that do, for every t0: so below all of them.
    least = min(losses[f.min() :].min() for (_, losses), f in zip(curves, first, strict=True))
    if L0 is not None and not least > L0:
        raise InputError(f"L0 = {L0:g} is not below the least loss {least:g}: choose a smaller one")

    def search(gaps: np.ndarray) -> tuple[float, float, int]:
        score: np.ndarray = np.zeros((len(gaps), len(starts)))
        for (steps, losses), f in zip(curves, first, strict=True):
            y = np.log(losses - least + gaps[:, None])
            r = _regressions(np.log(steps), y, f)[2]
            score -= np.where(np.abs(r) < 1.001, r, 1.0)  # losses that are all equal have none (0/0, or ∞): the worst score
        gap = int(np.argmax(score.max(1)))
        start = int(np.argmax(score[gap] >= score[gap].max() - 1e-12))  # the earliest: without noise all are as good
        return float(score[gap, start]), float(gaps[gap]), start

    if L0 is not None:
        gap, start = least - L0, search(np.array([least - L0]))[2]
    else:
        gaps = np.geomspace(1e-4 * least, least, _GAPS)
        _, gap, start = search(gaps)
        width = gaps[1] / gaps[0]
        for _ in range(4):  # a finer grid about the best: L0 to eight digits
            gaps = np.clip(np.geomspace(gap / width, gap * width, _GAPS), 1e-4 * least, least)
            _, gap, start = search(gaps)
            width **= 4 / _GAPS
    level = least - gap
    fits = [
        tuple(float(v[0, 0]) for v in _regressions(np.log(steps), np.log(losses - level)[None], f[[start]]))
        for (steps, losses), f in zip(curves, first, strict=True)
    ]
    bounds = [] if L0 is not None or 1.001e-4 * least < gap < least * (1 - 1e-6) else ["L0"]
    bounds += ["t0"] if t0 is None and len(starts) > 1 and start == len(starts) - 1 else []
    # The regression's x is measured from the curve's last step: ln(L − L0) = a − β (ln t − ln T), so ln B = a/β + ln T.
    beta = tuple(-slope for slope, _, _ in fits)
    with np.errstate(over="ignore", divide="ignore"):
        B = tuple(
            float(np.exp(np.divide(a, b) + np.log(steps[-1])))
            for (_, a, _), b, (steps, _) in zip(fits, beta, curves, strict=True)
        )
    bounds += ["beta"] if not min(beta) > FLAT else []
    return StepFit(float(level), float(starts[start]), B, beta, tuple(r * r for *_, r in fits), CORRELATION, tuple(bounds))


def _by_least_squares(curves: Sequence[tuple[np.ndarray, np.ndarray]], start: StepFit, L0: float | None) -> StepFit:
    from scipy.optimize import least_squares

    parts = [(np.log(steps[steps > start.t0]), losses[steps > start.t0]) for steps, losses in curves]
    least = min(losses.min() for _, losses in parts)
    ends = [x[-1] for x, _ in parts]

    def powers(p: np.ndarray) -> list[np.ndarray]:
        """(B/t)^β of each curve; p = (L0, then ln of the last step's power and β of each)."""
        return [np.exp(p[1 + 2 * c] - p[2 + 2 * c] * (x - ends[c])) for c, (x, _) in enumerate(parts)]

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.concatenate([p[0] + power - y for power, (_, y) in zip(powers(p), parts, strict=True)])

    def jacobian(p: np.ndarray) -> np.ndarray:
        result = np.zeros((sum(len(y) for _, y in parts), len(p)))
        result[:, 0] = 0.0 if L0 is not None else 1.0
        row = 0
        for c, (power, (x, _)) in enumerate(zip(powers(p), parts, strict=True)):
            rows = slice(row, row + len(x))
            result[rows, 1 + 2 * c], result[rows, 2 + 2 * c] = power, -(x - ends[c]) * power
            row += len(x)
        return result

    best: Any = None
    # The sum of squares may have several minima along L0: from pure power laws to nearly flat tails.
    for level in [L0] if L0 is not None else [0.0, 0.5 * least, 0.8 * least, 0.95 * least, start.L0]:
        p = [level]
        for x, y in parts:
            slope, at_end, _ = (float(v[0, 0]) for v in _regressions(x, np.log(np.maximum(y - level, 1e-9))[None], np.array([0])))
            p += [at_end, -slope]
        low, high = np.full(len(p), -np.inf), np.full(len(p), np.inf)
        low[0], high[0] = (0.0, max(least, level) + 1e-12) if L0 is None else (level - 1e-9, level + 1e-9)
        with np.errstate(over="ignore", invalid="ignore"):  # steps that are tried and taken back
            found = least_squares(residuals, p, jacobian, bounds=(low, high), x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12)
        if best is None or found.cost < best.cost:
            best = found
    if not best.success:  # never silent: a fit that did not end is not a fit
        raise InputError(f"the least-squares fit did not converge ({best.message}): thin the curve or fix L0")
    level = float(best.x[0]) if L0 is None else L0
    beta = tuple(float(b) for b in best.x[2::2])
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        B = tuple(float(np.exp(np.divide(a, b) + end)) for a, b, end in zip(best.x[1::2], beta, ends, strict=True))
        r2 = tuple(float(np.corrcoef(x, np.log(np.maximum(y - level, 1e-300)))[0, 1] ** 2) for x, y in parts)
    bounds = ["L0"] if L0 is None and not 1e-6 * least < level < least * (1 - 1e-6) else []
    bounds += [name for name in start.on_bound if name == "t0"] + (["beta"] if not min(beta) > FLAT else [])
    return StepFit(level, start.t0, B, beta, r2, LEAST_SQUARES, tuple(bounds))


def fit_steps(
    curves: Sequence[tuple[Array, Array]],
    *,
    criterion: str = CORRELATION,
    t0: float | None = None,
    L0: float | None = None,
    latest_share: float = 0.25,
) -> StepFit:
    """Fit L(θ_t) = L0 + (B/t)^β to curves that share L0 and t0.

    Args:
      curves: pairs (steps [n], losses [n] in nats), steps rising; step 0 is left out.
      criterion: `CORRELATION` (published) or `LEAST_SQUARES`.
      t0: fit only t > t0; None: chosen by the correlation, up to ``latest_share`` of the shortest run.
      L0: the irreducible loss, where it is known; None: fitted, at least 0.
      latest_share: within (0, 1).

    Returns:
      A `StepFit`.

    Raises:
      InputError: steps that do not rise, losses that are not positive, fewer than 8 points beyond t0, an L0 above a loss, a fit
        that does not converge.

    Source: Gu et al. 2024, Eq. 8.

    >>> t = np.arange(1, 200)
    >>> fit = fit_steps([(t, 1.0 + (50 / t) ** 0.5), (t, 1.0 + (20 / t) ** 0.6)])
    >>> round(fit.L0, 4), [round(b, 3) for b in fit.B], [round(b, 4) for b in fit.beta]
    (1.0, [50.0, 20.0], [0.5, 0.6])
    """
    if criterion not in (CORRELATION, LEAST_SQUARES):
        raise InputError(f"criterion {criterion!r}: choose {CORRELATION!r} or {LEAST_SQUARES!r}")
    if not curves:
        raise InputError("there is no curve to fit: give at least one")
    checked = [_checked(curve, f"curve {place + 1}") for place, curve in enumerate(curves)]
    found = _by_correlation(checked, t0, L0, latest_share)
    return found if criterion == CORRELATION else _by_least_squares(checked, found, L0)


def over_seeds(values: Sequence[float], *, geometric: bool = False, level: float = 0.95) -> dict[str, Any]:
    """Mean over independent runs with its Student t interval; ``geometric`` works on logarithms, for ratios.

    Args:
      values: one a run.
      geometric: mean and interval of the logarithms, then back; no value may be negative.
      level: of the interval.

    Returns:
      ``mean``, ``low``, ``high`` (None with a single value or a ratio of 0), ``min``, ``max``, ``n``, ``geometric`` and the
      ``values``.

    Raises:
      InputError: no values, or negative ones under ``geometric``.

    >>> {k: round(v, 3) for k, v in over_seeds([1.0, 4.0], geometric=True).items() if k in ("mean", "min")}
    {'mean': 2.0, 'min': 1.0}
    """
    from scipy import stats

    x = np.asarray(values, float)
    if x.size == 0 or (geometric and not (x >= 0).all()):
        raise InputError(f"{x.tolist()}: an interval needs at least one value, a geometric one no negative values")
    zero = geometric and not x.all()  # its geometric mean is 0, and no interval of logarithms exists
    y, back = (np.log(x), np.exp) if geometric and not zero else (x, float)
    low, high = None, None
    if x.size > 1 and not zero:
        half = stats.t.ppf(0.5 + level / 2, x.size - 1) * y.std(ddof=1) / np.sqrt(x.size)
        low, high = float(back(y.mean() - half)), float(back(y.mean() + half))
    mean = 0.0 if zero else float(back(y.mean()))
    extremes = {"min": float(x.min()), "max": float(x.max())}
    return {"mean": mean, "low": low, "high": high, **extremes, "n": int(x.size), "geometric": geometric, "values": x.tolist()}


def on_common_steps(base: tuple[Array, Array], mine: tuple[Array, Array]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two curves at the steps of either where both run, linear in between.

    Args:
      base, mine: (steps [n], losses [n]), steps rising.

    Returns:
      Steps and the two curves' losses, [m] each.

    Raises:
      InputError: no steps in common.

    >>> [x.tolist() for x in on_common_steps(([0, 2, 4], [4, 2, 1]), ([1, 3], [3, 1]))]
    [[1.0, 2.0, 3.0], [3.0, 2.0, 1.5], [3.0, 2.0, 1.0]]
    """
    (s, a), (u, b) = ((np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in (base, mine))
    steps = np.union1d(s, u)
    steps = steps[(steps >= max(s[0], u[0])) & (steps <= min(s[-1], u[-1]))]
    if len(steps) < 2:
        raise InputError(f"the curves have no steps in common: they run over {s[0]:g}–{s[-1]:g} and {u[0]:g}–{u[-1]:g}")
    return steps, np.interp(steps, s, a), np.interp(steps, u, b)


def _changes(fit: StepFit, end: float) -> dict[str, Any]:
    (B1, B2), (b1, b2) = fit.B, fit.beta
    if not min(fit.beta) > FLAT:  # a loss that does not fall beyond t0 has no B, and nothing can be said of its change
        B1 = B2 = b1 = b2 = float("nan")
    with np.errstate(all="ignore"):
        # Eq. 9 in logarithms, as B^(b1/b2) overflows.
        predicted = float(np.exp(b1 / b2 * np.log(B1) - np.log(B2) + (1 - b1 / b2) * np.log(end)))
        ratio = float(np.divide(B2, B1))
    return {
        "L0": fit.L0, "t0": fit.t0, "B_base": fit.B[0], "B_mine": fit.B[1], "beta_base": fit.beta[0], "beta_mine": fit.beta[1],
        "r2_base": fit.r2[0], "r2_mine": fit.r2[1], "B_ratio": ratio, "beta_ratio": b2 / b1,
        "delta_B_percent": 100 * (1 - ratio), "delta_beta_percent": 100 * (b2 / b1 - 1),
        "acceleration_predicted": predicted, "on_bound": list(fit.on_bound),
    }  # fmt: skip


def scatter(losses: Array, steps: Array) -> dict[str, float]:
    """How far losses scatter from one entry to the next, and what the curve does at its end, beside that.

    Crossings of a level are read off single losses: where they scatter by more than the curve still falls, the first one is by
    chance early, the last one late, and the least loss is a chance trough.

    Args:
      losses: [n] nats; fewer than 8 tell nothing, and the result is NaN, NaN and 0.
      steps: [n], rising.

    Returns:
      In nats: ``scatter``, the standard deviation that second differences tell of independent errors (their median /.6745/√6);
      ``late_fall``, in the last tenth of the steps, from the line through the last fifth; ``rise``, of the mean of the last
      twentieth of the entries over the lowest mean of as many, 0 where it is within five standard errors of these.

    >>> t = np.arange(1, 1001)
    >>> noisy = 2 + (20 / t) ** 0.8 + 0.01 * np.random.default_rng(1).normal(size=1000)
    >>> {name: round(value, 3) for name, value in scatter(noisy, t).items()}
    {'scatter': 0.01, 'late_fall': 0.004, 'rise': 0.0}
    """
    losses, steps = np.asarray(losses, np.float64), np.asarray(steps, np.float64)
    if len(losses) < 8:
        return {"scatter": float("nan"), "late_fall": float("nan"), "rise": 0.0}
    # Errors of a straight line through the neighbours, on whatever steps there are: those of a smooth curve are small.
    left, right = np.diff(steps)[:-1], np.diff(steps)[1:]
    share = left / (left + right)
    off = losses[1:-1] - (1 - share) * losses[:-2] - share * losses[2:]
    error = float(np.median(np.abs(off) / np.sqrt(1 + share**2 + (1 - share) ** 2)) / 0.6745)
    late = steps >= steps[-1] - 0.2 * (steps[-1] - steps[0])
    late[-3:] = True
    slope = np.polyfit(steps[late] - steps[-1], losses[late], 1)[0]
    width = max(1, len(losses) // 20)
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    rise = float(means[-1] - means.min())
    return {
        "scatter": error,
        "late_fall": float(-slope * 0.1 * (steps[-1] - steps[0])),
        "rise": rise if rise > 5 * error * np.sqrt(2 / width) else 0.0,
    }


def improvement(
    base: Mapping[Any, tuple[Array, Array]],
    mine: Mapping[Any, tuple[Array, Array]],
    *,
    t0: float | None = None,
    L0: float | None = None,
    latest_share: float = 0.25,
) -> dict[str, Any]:
    """By how much one set of curves improves the scaling law of another: ΔB, Δβ and acceleration, with intervals over seeds.

    Args:
      base, mine: seed → (steps [n], losses [n] in nats). Seeds that both have are compared pairwise; if they have none in
        common but one curve each, those two are.
      t0, L0, latest_share: as for `fit_steps`; each pair of curves shares both.

    Returns:
      ``runs``: one dict a seed with ``measured`` (acceleration that stays, first crossing, to the baseline's least loss, ratios
      of area and of final loss, all over the ``steps`` that both curves cover, the baseline's "last" loss being that at the last
      of these; the baseline's first crossing of its own last loss, above 1 where it rises again), ``scatter`` of the baseline
      and, for both criteria, L0, t0, B, β and r² of either side, ``delta_B_percent`` = 100 (1 − B₂/B₁), ``delta_beta_percent`` =
      100 (β₂/β₁ − 1) and the acceleration that Eq. 9 predicts, (B₁^(β₁/β₂)/B₂) T^(1 − β₁/β₂). ``summary``: the same over
      seeds, mean and 95% interval (`over_seeds`; ratios on a logarithmic scale, ΔB and Δβ from them).

    Raises:
      InputError: as `fit_steps`; no seed in common.

    Source: Gu et al. 2024, Eq. 8 and 9, Table 2.

    >>> t = np.arange(1, 400)
    >>> found = improvement({0: (t, 1.0 + (50 / t) ** 0.5)}, {0: (t, 1.0 + (20 / t) ** 0.6)})
    >>> {k: round(v, 2) for k, v in found["runs"][0]["correlation"].items() if k.startswith("delta")}
    {'delta_B_percent': 60.0, 'delta_beta_percent': 20.0}
    """
    seeds = [seed for seed in base if seed in mine]
    pairs = [(seed, base[seed], mine[seed]) for seed in seeds]
    if not pairs and len(base) == len(mine) == 1:
        pairs = [(next(iter(base)), next(iter(base.values())), next(iter(mine.values())))]
    if not pairs:
        raise InputError(
            f"no seed is in both: {', '.join(map(str, base))} and {', '.join(map(str, mine))}: "
            "number the runs of both sides alike, each with the one it is compared with"
        )
    runs = []
    for seed, one, other in pairs:
        both = [_checked(curve, f"{side}, seed {seed}") for side, curve in (("baseline", one), ("mine", other))]
        steps, a, b = on_common_steps(*both)
        published = _by_correlation(both, t0, L0, latest_share)
        squares = _by_least_squares(both, published, L0)
        measured = {
            "acceleration": acceleration_ratio(a, b, steps),
            "acceleration_first": acceleration_first(a, b, steps),
            "acceleration_least": acceleration_least(a, b, steps),
            "acceleration_of_baseline": acceleration_first(a, a, steps),
            "area_ratio": float(np.trapezoid(b, steps) / np.trapezoid(a, steps)),
            "final_ratio": float(b[-1] / a[-1]),
        }
        fits = {fit.criterion: _changes(fit, float(steps[-1])) for fit in (published, squares)}
        ends = {name: [float(curve[0][0]), float(curve[0][-1])] for name, curve in zip(("base", "mine"), both, strict=True)}
        common = {"first": float(steps[0]), "last": float(steps[-1]), **ends}
        rough = scatter(*(x[(both[0][0] >= steps[0]) & (both[0][0] <= steps[-1])] for x in both[0][::-1]))
        runs.append({"seed": seed, "measured": measured, "scatter": rough, "steps": common, **fits})
    return {
        "runs": runs,
        "summary": {part: _summary([run[part] for run in runs]) for part in ("measured", CORRELATION, LEAST_SQUARES)},
    }


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`over_seeds` of every number; ΔB and Δβ are those of the mean ratios, which a percentage's own mean is not."""
    result: dict[str, Any] = {}
    for name in (name for name, value in runs[0].items() if isinstance(value, float) and not name.startswith("delta")):
        values = [run[name] for run in runs]
        if len(runs) > 1 and not np.isfinite(values).all():  # one seed without a value leaves the others without a mean
            nothing = {"mean": float("nan"), "low": None, "high": None, "min": float("nan"), "max": float("nan")}
            result[name] = {**nothing, "n": len(values), "geometric": False, "values": values}
            continue
        positive = all(np.isfinite(v) and v > 0 for v in values)
        logarithmic = positive and ("ratio" in name or name.startswith(("acceleration", "B_")))
        result[name] = over_seeds(values, geometric=logarithmic)
    for delta, ratio, sign in (("delta_B_percent", "B_ratio", -1), ("delta_beta_percent", "beta_ratio", 1)):
        if ratio in result:
            of = result[ratio]
            ends = [None if of[end] is None else 100 * sign * (of[end] - 1) for end in ("mean", "low", "high", "min", "max")]
            mean, low, high, least, most = ends if sign == 1 else (ends[0], ends[2], ends[1], ends[4], ends[3])
            values = [run[delta] for run in runs]
            result[delta] = {"mean": mean, "low": low, "high": high, "min": least, "max": most, "n": of["n"], "values": values}
    return result


def along_L0(
    base: tuple[Array, Array], mine: tuple[Array, Array], levels: Sequence[float], *, t0: float | None = None
) -> list[dict[str, float]]:
    """ΔB and Δβ as functions of the irreducible loss one assumes: what of an improvement is a choice of L0.

    Args:
      base, mine: (steps [n], losses [n] in nats).
      levels: values of L0, below every loss beyond t0.
      t0: as for `fit_steps`; None: chosen anew for each L0.

    Returns:
      A dict for each level: ``L0``, ``t0``, ``delta_B_percent``, ``delta_beta_percent``, ``r2_base``, ``r2_mine``.

    Raises:
      InputError: as `fit_steps`.

    Source: Gu et al. 2024, Eq. 8; there L0 = 0.051 at losses of 3.5 to 5.

    >>> t = np.arange(1, 400)
    >>> rows = along_L0((t, 2 + (50 / t) ** 0.5), (t, 2 + (20 / t) ** 0.5), [0.0, 2.0], t0=0)
    >>> [round(row["delta_B_percent"], 1) for row in rows]
    [-312.1, 60.0]
    """
    checked = [_checked(curve, side) for side, curve in (("baseline", base), ("mine", mine))]
    end = float(min(steps[-1] for steps, _ in checked))
    names = ("L0", "t0", "delta_B_percent", "delta_beta_percent", "r2_base", "r2_mine")
    rows = [_changes(fit_steps(checked, t0=t0, L0=float(level)), end) for level in levels]
    return [{name: row[name] for name in names} for row in rows]


def thinned(steps: Array, losses: Array, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """A curve at about so many of its steps, evenly spaced in ln t, the last among them: to draw or to keep, not to fit.

    Args:
      steps, losses: [n].
      points: at most so many.

    Returns:
      Steps above 0 and their losses.

    >>> thinned(range(101), range(101), 3)[0].tolist()
    [1.0, 10.0, 100.0]
    """
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    steps, losses = steps[steps > 0], losses[len(losses) - int((steps > 0).sum()) :]
    wanted = np.geomspace(steps[0], steps[-1], points)
    keep = np.unique(np.clip(np.searchsorted(steps, wanted * (1 - 1e-12)), 0, len(steps) - 1))
    return steps[keep], losses[keep]
