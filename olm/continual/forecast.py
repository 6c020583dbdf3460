"""What continued pre-training will do, foretold from pilots: the least replay that keeps the old loss, the best schedule.

`choose_share` fits a law of `olm.scaling.laws` to pilots at several shares of old data and solves it for the share at which the
old loss has risen by a budget. `forecast_schedule` and `best_schedule` fit a law of `olm.scaling.curves` to runs under some
learning-rate schedules and foretell others. Every figure comes with how wrong it may be: the share with an interval of
bootstrap refits, a schedule with the error at curves that were left out of the fit.

Laws: Gu et al. 2024 (arXiv 2407.17467, CMR), Que et al. 2024 (arXiv 2406.01375, D-CPT), Tissue et al. 2024 (arXiv 2408.11029),
Luo et al. 2025 (arXiv 2503.12811). Not here: how a share found with short pilots moves with tokens or size (fit
``olm.scaling.laws.cmr("domain")`` to shares found at several lengths for that), more than one old domain, the law of Wang et al.
2025 with a term for the shift of distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_kinds, check_number, check_whole
from olm.scaling.curves import LossCurve, Scores, fit_curves, predict_curve, score
from olm.scaling.fit import Fit, fit
from olm.scaling.intervals import quantile
from olm.scaling.laws import Law, named
from olm.scaling.problem import checked_columns
from olm.types import Array

__all__ = ["ScheduleForecast", "ShareForecast", "best_schedule", "choose_share", "forecast_schedule"]

GRID = 1025  # shares looked at before the root is narrowed down, up to the largest one measured and from it to 1
NOTHING = 1e-30  # a coefficient that is to be zero has a logarithm here
# What one size and one length cannot tell: A/N^α is one more constant, and B r^η/D^β one more function of r alone.
HELD = {"A": NOTHING, "alpha": 1.0, "B": NOTHING, "beta": 1.0, "eta": 1.0}
# Three curves hardly determine how soon a reduction of the rate pays off (see `olm.scaling.curves.multi_power`).
FOUR = {"C": 1.0, "beta": 0.5, "gamma": 0.5}
POINTS = 257  # steps at which a schedule's curve is foretold


class ShareForecast(NamedTuple):
    """The least replay that keeps the old loss within a budget.

    Attributes:
      share: of old data in every batch, 0 to 1.
      low, high: its interval; NaN where there are no more runs than parameters, or no refits. 1 stands for "no share will do".
      old_loss: that the law foretells at ``share``, nats.
      new_loss: likewise of the new data; None without ``new_losses``.
      limit: before · (1 + budget), nats.
      extrapolated: whether ``share`` lies above the largest share measured.
      fit: of the old loss.
      new_fit: of the new loss, or None.
      samples: [replicates] shares of the refits, in no order of value.
      message: what to know before using the figures; empty if there is nothing.
    """

    share: float
    low: float
    high: float
    old_loss: float
    new_loss: float | None
    limit: float
    extrapolated: bool
    fit: Fit
    new_fit: Fit | None
    samples: np.ndarray
    message: str


class ScheduleForecast(NamedTuple):
    """The loss curve foretold for a schedule.

    Attributes:
      name: of the schedule.
      steps: [n] int, entry i is after the rates η_0 … η_{steps[i]}.
      losses: [n], nats.
      final: the last of ``losses``.
      error: root mean square, over the curves seen, of the error at a curve's last step when it was left out, nats; NaN where
        no curve can be left out.
      left_out: a dict for each curve left out: the measures of `olm.scaling.curves.score`, and ``final_error``.
      scores: against the losses measured, where a `LossCurve` was wanted; else None.
      extrapolated: whether the schedule is longer, peaks higher or has a larger sum of rates than every one seen.
      fit: on all curves seen.
      message: what to know before using the figures; empty if there is nothing.
    """

    name: str
    steps: np.ndarray
    losses: np.ndarray
    final: float
    error: float
    left_out: tuple[dict[str, Any], ...]
    scores: Scores | None
    extrapolated: bool
    fit: Fit
    message: str


# --- the share --------------------------------------------------------------------------------------------------------


def choose_share(
    shares: Any,
    old_losses: Any,
    *,
    before: float,
    budget: float,
    new_losses: Any = None,
    law: str = "cmr",
    fixed: Mapping[str, float] | None = None,
    groups: Any = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ShareForecast:
    """The smallest share of old data at which the old loss has risen by at most ``budget``, from pilots at several shares.

    Solved on the fitted law is L_old(R) = before · (1 + budget); taken is the smallest R from which on every larger share, up to
    the largest measured, meets the limit. "cmr": L_old = a R^s + b. "d_cpt": L_old = E + C/(R + ε)^γ, which also takes runs
    without replay. It is `olm.scaling.laws.d_cpt` with five parameters held that pilots of one size N and one length D cannot
    identify: A/N^α is a constant, which E takes up, so A = 0 and α is idle; of B r^η/D^β the same D leaves a function of r alone,
    whose part C/(r + ε)^γ takes, so B = 0 and β, η are idle. (The zeros are 10⁻³⁰: the law fits logarithms.) The new loss
    follows L_new = a (1 − R)^s + b.

    The interval is of refits to resampled runs, or to resampled whole groups. Since percentiles of few are too narrow, their
    tails are those of the expanded percentile interval, Φ(−t √(n/ν)), n runs or groups, ν = n − P degrees of freedom for P fitted
    parameters; for groups ν = n − 1 where each alone spans enough shares for the law. With few groups it
    ends at the most extreme refits and still covers less than ``level``: with three seeds about three quarters of the time at
    95 %. A refit that meets the limit at the smallest share
    measured counts as that share, one that never meets it as 1.

    Args:
      shares: [rows], share of old data in every batch, fractions in (0, 1); 0 for "d_cpt" alone.
      old_losses: [rows], loss on old data after each pilot, nats.
      before: loss on old data before the continued training, nats.
      budget: allowed rise relative to ``before``, a fraction below 1: 0.03 for 3 %.
      new_losses: [rows], loss on new data after each pilot, nats; or None.
      law: "cmr" or "d_cpt".
      fixed: {name: value} of further parameters to hold, such as ``epsilon`` of "d_cpt".
      groups: [rows], a label a row, such as its seed; None: every row on its own.
      replicates: refits for the interval; 0 for none.
      level: of the interval.
      seed: of the resampling.

    Returns:
      A `ShareForecast`.

    Raises:
      InputError: shares in per cent, columns that do not fit together, fewer different shares than parameters, an old loss that
        grows with the share of old data, or a budget that no share below 1 meets (the message says the least rise there is).

    Source: Gu et al. 2024 (arXiv 2407.17467), section 4; Que et al. 2024 (arXiv 2406.01375), equation 6 and its use for the
    general loss; Hesterberg 2015 (arXiv 1411.5279), for the expanded percentile interval.

    >>> R = np.array([0.05, 0.1, 0.2, 0.3, 0.5])
    >>> found = choose_share(R, 2.0 + 0.1 * R**-0.5, before=2.2, budget=0.03, replicates=0)
    >>> round(found.share, 4), round(found.old_loss, 4), found.extrapolated  # (0.1/0.266)²
    (0.1413, 2.266, False)
    """
    table = {"shares": shares, "old_losses": old_losses, **({} if new_losses is None else {"new_losses": new_losses})}
    columns = checked_columns(table, [name for name in table if name != "shares"], check_units=False)
    R = _checked_shares(columns["shares"], law)
    before = check_number("before", before, "give the loss before the continued training, in nats", 0, math.inf, open_low=True)
    budget = check_number("budget", budget, "give the allowed rise as a fraction from 0 to below 1: 0.03 for 3 %", 0, 0.999)
    check_whole("replicates", replicates, 0)
    chosen, held = named(law), dict(fixed or {})
    plain: dict[str, Any] = {"R": R}
    if law == "d_cpt":
        plain, held = {"N": np.ones_like(R), "D": np.ones_like(R), "r": R}, {**HELD, **held}
    free = [p.name for p in chosen.parameters if p.name not in held]
    different = len(np.unique(R))
    if different < len(free):
        hold = ", or hold epsilon (fixed=)" if "epsilon" in free else ""
        raise InputError(f"{different} different shares for {', '.join(free)} of {law}: add pilots at other shares{hold}")
    units, degrees = _degrees(R, groups, len(free))
    count = replicates if degrees > 0 else 0
    settings: dict[str, Any] = {"groups": groups, "level": level, "check_units": False}
    if count:
        settings |= {"bootstrap": count, "key": jax.random.key(check_whole("seed", seed, 0))}
    old = fit(loss=columns["old_losses"], law=chosen, fixed=held, **plain, **settings)
    new = None if new_losses is None else fit(loss=columns["new_losses"], R=1 - R, law="cmr", level=level)

    limit, least, most = before * (1 + budget), float(R.min()), float(R.max())
    best = np.array([[old.parameters[p.name] for p in chosen.parameters]])
    solved, ends = _solve(chosen, best, limit, least, most)
    share, (at_least, at_most, at_one) = float(solved[0]), (100 * (loss / before - 1) for loss in ends[0])
    if math.isnan(share) and at_most >= at_least:
        raise InputError(
            f"the fitted old loss grows with the share of old data, and exceeds the limit at the largest, {most:g}: "
            "give shares of old data, not of new, and the loss on old data"
        )
    if math.isnan(share):
        raise InputError(
            f"no share below 1 keeps the old loss within {100 * budget:g} % of {before:g}: it rises by {at_most:.2f} % at the "
            f"largest share measured, {most:g}, and by {at_one:.2f} % near 1; allow more (budget=), or train less on the new "
            "data (fewer tokens, a lower rate)"
        )
    samples, (low, high) = np.empty(0), (math.nan, math.nan)
    if count:
        assert old.samples is not None
        samples = _solve(chosen, old.samples, limit, least, most)[0]
        never = float(np.isnan(samples).mean())
        samples = np.where(np.isnan(samples), 1.0, samples)
        tail = 0.5 * math.erfc(quantile(level, degrees) * math.sqrt(units / degrees / 2))
        low, high = (float(end) for end in np.quantile(samples, [tail, 1 - tail]))
    notes = [old.message] if old.message else []
    if at_most >= at_least:
        notes.append("the fitted old loss does not fall with the share of old data: noise, or shares of new data")
    if share > most:
        notes.append(f"the share lies above the largest one measured, {most:g}: add a pilot there")
    if share == least:
        notes.append(
            "without replay the old loss stays within the budget"
            if least == 0
            else f"the smallest share measured, {least:g}, meets the budget already: a smaller one may, too; add pilots there"
        )
    elif low == least > 0:
        notes.append(f"the interval is cut off at the smallest share measured, {least:g}: add pilots below it")
    if count and tail * count < 1:
        notes.append("few runs or refits: the interval ends at the most extreme refits and may cover less than its level")
    if count and never > 0:
        notes.append(f"{100 * never:.1f} % of the refits meet the budget at no share below 1")
    if degrees <= 0:
        notes.append(f"no interval: {units} {'rows' if groups is None else 'groups'} for {len(free)} parameters; add pilots")
    at = {name: share if name in ("R", "r") else 1.0 for name in plain}
    new_loss = None if new is None else float(new.predict(R=1 - share)[0])
    if new is not None and new.message:
        notes.append(f"new loss: {new.message}")
    old_loss = float(old.predict(**at)[0])
    return ShareForecast(share, low, high, old_loss, new_loss, limit, share > most, old, new, samples, "; ".join(notes))


def _checked_shares(R: np.ndarray, law: str) -> np.ndarray:
    if law not in ("cmr", "d_cpt"):
        raise InputError(f'law is {law!r}: give "cmr" or "d_cpt"')
    bad = (R < 0) | (R >= 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"row {row + 1}: share {R[row]:g}: give fractions of old data from 0 to below 1, not per cent")
    if law == "cmr" and not R.all():
        row = int(np.argmin(R))
        raise InputError(f'row {row + 1}: share 0, where cmr has no value: take law="d_cpt", or leave the row out')
    return R


def _degrees(R: np.ndarray, groups: Any, parameters: int) -> tuple[int, int]:
    """How many units are resampled, and the degrees of freedom they leave."""
    if groups is None:
        return len(R), len(R) - parameters
    labels = np.asarray(groups)
    if labels.shape != R.shape:
        raise InputError(f"groups have shape {labels.shape}: give one label for each of {len(R)} rows")
    different = np.unique(labels)
    if len(different) < 2:
        raise InputError("groups hold one label: give each seed its own, or leave groups out to resample rows")
    crossed = all(len(np.unique(R[labels == label])) >= parameters for label in different)
    return len(different), len(different) - (1 if crossed else parameters)


def _solve(law: Law, values: np.ndarray, limit: float, least: float, most: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row of parameters [S, P] the share or NaN [S], and the losses at ``least``, ``most`` and 1 [S, 3]."""
    shares = np.r_[np.linspace(least, most, GRID), np.linspace(most, 1.0, GRID)[1:]]
    with jax.enable_x64(True):
        parameters = {p.name: values[:, i, None] for i, p in enumerate(law.parameters)}
        at = partial(_losses, law.predict, parameters)
        loss = np.asarray(at(np.broadcast_to(shares, (len(values), len(shares)))))
        meets = loss <= limit
        inside, outside = meets[:, :GRID], meets[:, GRID:]
        last_failing = GRID - 1 - np.argmin(inside[:, ::-1], axis=1)
        right = np.where(inside.all(axis=1), 0, last_failing + 1)
        right = np.where(inside[:, -1], right, GRID + np.argmax(outside, axis=1))
        high = shares[right][:, None]
        low = shares[np.maximum(right - 1, 0)][:, None]
        for _ in range(50):
            middle = 0.5 * (low + high)
            good = np.asarray(at(middle)) <= limit
            low, high = np.where(good, low, middle), np.where(good, middle, high)
    found = np.where(inside[:, -1] | outside.any(axis=1), high[:, 0], np.nan)
    return found, loss[:, [0, GRID - 1, -1]]


@partial(jax.jit, static_argnums=0)
def _losses(predict: Any, parameters: Mapping[str, Array], shares: Array) -> Array:
    """[S, n] losses at [S, n] shares, for [S, 1] parameters."""
    return predict(parameters, {"R": shares, "r": shares, "N": jnp.ones(()), "D": jnp.ones(())})


# --- the schedule -----------------------------------------------------------------------------------------------------


def forecast_schedule(
    seen: Sequence[LossCurve], wanted: LossCurve | Any, *, law: str | Law | None = None, **settings: Any
) -> ScheduleForecast:
    """Fit a law to the loss curves of some schedules and foretell the curve of another.

    The error is that of curves left out, one after the other, with the law fitted to the rest. It says what to expect of a
    schedule that is as different from those seen as they are from each other, and nothing of one that is longer or peaks higher
    (``extrapolated``): `olm.scaling.curves.annealing` takes more steps at rate zero, and higher rates, for ever lower losses. An
    error above what the seen curves' ends differ by is no guide to a choice between such schedules; the message then says so.

    Args:
      seen: `LossCurve` of runs alike in all but their schedules; two or more give an error, three or more a useful one.
      wanted: rates [T], entry k is η_k, foretold at up to 257 steps; or a `LossCurve`, foretold at its steps and scored against
        its losses, which the fit does not see.
      law: "annealing", "multi_power", what the functions of those names return, or None: the better at curves left out of
        "annealing" and "multi_power" with C = 1, β = γ = ½ held, whose error is then a little too small.
      settings: arguments of `olm.scaling.curves.fit_curves`, such as ``fixed``; not ``weights``.

    Returns:
      A `ScheduleForecast`.

    Raises:
      InputError: no curve, none whose rate falls, rates that are no schedule, ``fixed`` without ``law``; as `fit_curves`.

    Source: Tissue et al. 2024 (arXiv 2408.11029), Luo et al. 2025 (arXiv 2503.12811), the laws.

    >>> from olm.scaling.curves import schedule
    >>> steps, truth = np.arange(30, 300, 10), {"L0": 2.0, "A": 1.0, "alpha": 0.5, "C": 0.1}
    >>> rates = {n: schedule(n, 300, 0.1, end=0.01, warmup=20, decay_from=150) for n in ("cosine", "wsd", "wsd_linear")}
    >>> exact = {n: predict_curve("annealing", LossCurve(steps, steps + 1.0, r), truth) for n, r in rates.items()}
    >>> curves = [LossCurve(steps, exact[n], rates[n], n) for n in rates]
    >>> found = forecast_schedule(curves[:2], curves[2], law="annealing")
    >>> float(abs(found.losses - exact["wsd_linear"]).max()) < 1e-6, found.scores.mean["pred_e"] < 1e-6
    (True, True)
    """
    return _foretell(_learn(seen, law, settings), tuple(seen), wanted, "wanted")


def best_schedule(
    seen: Sequence[LossCurve], candidates: Mapping[str, Any], *, law: str | Law | None = None, **settings: Any
) -> tuple[ScheduleForecast, ...]:
    """Rank schedules by the final loss that a law, fitted to the curves of other schedules, foretells for them.

    Two candidates' errors have much in common, so that a difference below ``error`` may still be real; it is not shown by these
    curves, and the first forecast's message says so.

    Args:
      seen, law, settings: as for `forecast_schedule`; the law is fitted once.
      candidates: {name: rates [T] or `LossCurve`}.

    Returns:
      A `ScheduleForecast` for each, the least final loss first.

    Raises:
      InputError: no candidate; as `forecast_schedule`.

    >>> from olm.scaling.curves import schedule
    >>> steps, truth = np.arange(30, 300, 10), {"L0": 2.0, "A": 1.0, "alpha": 0.5, "C": 0.1}
    >>> rates = {n: schedule(n, 300, 0.1, end=0.01, warmup=20, decay_from=150) for n in ("cosine", "wsd", "constant")}
    >>> exact = {n: predict_curve("annealing", LossCurve(steps, steps + 1.0, r), truth) for n, r in rates.items()}
    >>> ranked = best_schedule([LossCurve(steps, exact[n], rates[n], n) for n in rates], rates, law="annealing")
    >>> [forecast.name for forecast in ranked]
    ['cosine', 'wsd', 'constant']
    """
    if not isinstance(candidates, Mapping) or not candidates:
        raise InputError("there is no candidate: give {name: rates}")
    learned = _learn(seen, law, settings)
    ranked = sorted((_foretell(learned, tuple(seen), rates, name) for name, rates in candidates.items()), key=lambda f: f.final)
    first = ranked[0]
    near = [other.name for other in ranked[1:] if other.final - first.final < first.error]
    if near:
        note = f"within the error of the best: {', '.join(near)}"
        ranked[0] = first._replace(message="; ".join(filter(None, [first.message, note])))
    return tuple(ranked)


class _Learned(NamedTuple):
    fit: Fit
    left_out: tuple[dict[str, Any], ...]
    error: float
    message: str


def _learn(seen: Sequence[LossCurve], law: str | Law | None, settings: Mapping[str, Any]) -> _Learned:
    if isinstance(seen, LossCurve) or not len(seen):
        raise InputError("seen: give a list of at least one LossCurve")
    check_kinds(**{f"curve {place}": (curve, LossCurve) for place, curve in enumerate(seen)})
    if law is not None:
        return _learn_one(seen, law, settings)
    if given := {"fixed", "starts"} & set(settings):
        raise InputError(f"{min(given)} speaks of one law's parameters: say which (law=)")
    found = _learn_one(seen, "annealing", settings)
    if math.isnan(found.error):
        return found
    other = _learn_one(seen, "multi_power", {**settings, "fixed": FOUR})
    return other if other.error < found.error else found


def _learn_one(seen: Sequence[LossCurve], law: str | Law, settings: Mapping[str, Any]) -> _Learned:
    """The fit to all curves, and how it does at each when that is left out."""
    found, rows, message = fit_curves(seen, law, **settings), [], "no error: one curve cannot be left out; add runs"
    if len(seen) > 1:
        try:
            for place, curve in enumerate(seen):
                without = fit_curves([*seen[:place], *seen[place + 1 :]], law, **settings)
                last = float(predict_curve(without, curve)[-1] - curve.losses[-1])
                rows.append({**score(without, curve).rows[0], "final_error": last})
            message = ""
        except InputError as fault:  # all curves together were good enough, so it is for the want of this one
            rows, message = [], f"no error: without {seen[len(rows)].name}, {fault}"
    error = float(np.sqrt(np.mean([row["final_error"] ** 2 for row in rows]))) if rows else math.nan
    return _Learned(found, tuple(rows), error, "; ".join(filter(None, [found.message, message])))


def _foretell(learned: _Learned, seen: Sequence[LossCurve], wanted: Any, name: str) -> ScheduleForecast:
    measured = isinstance(wanted, LossCurve)
    if measured:
        curve, name = wanted, wanted.name if name == "wanted" else name
    else:
        rates = np.asarray(wanted)
        first = int(np.argmax(rates > 0)) if rates.dtype.kind in "iuf" and rates.ndim == 1 and rates.size else 0
        steps = np.unique(np.linspace(first, max(np.size(rates) - 1, first), POINTS).round())
        curve = LossCurve(steps, np.ones(len(steps)), wanted, name)  # its losses are never looked at
    losses = predict_curve(learned.fit, curve)
    ends = [(len(c.rates), float(c.rates.max()), float(c.rates.sum())) for c in (curve, *seen)]
    beyond = [
        what
        for i, what in enumerate(("longer", "peaks higher", "has a larger sum of rates"))
        if ends[0][i] > max(end[i] for end in ends[1:]) * (1 + 1e-9)
    ]
    notes = [learned.message, f"{name} {', '.join(beyond)} than every schedule seen" if beyond else ""]
    spread = float(np.ptp([c.losses[-1] for c in seen]))
    if learned.error > spread:
        notes.append(f"no guide to a choice: error {learned.error:.2g}, while the ends of the curves seen differ by {spread:.2g}")
    return ScheduleForecast(
        name=name,
        steps=curve.steps,
        losses=losses,
        final=float(losses[-1]),
        error=learned.error,
        left_out=learned.left_out,
        scores=score(learned.fit, curve) if measured else None,
        extrapolated=bool(beyond),
        fit=learned.fit,
        message="; ".join(filter(None, notes)),
    )
