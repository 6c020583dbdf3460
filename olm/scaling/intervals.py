"""How sure a fit is: the delta method for a Huber M-estimator, and a bootstrap that looks for other optima.

With J the Jacobian of the residuals, the estimator's covariance is τ² (JᵀWJ)⁻¹ JᵀW²J (JᵀWJ)⁻¹, τ² = mean ψ² / (mean ψ')², for
ψ the derivative of the Huber loss (Huber 1981, section 6.3). Where δ is far below the noise, ψ' is 1 on a handful of rows: its
mean is taken under a kernel estimate of the residuals' density instead. Rows count as independent and alike in noise.

Resampled rows enter as whole-number weights, so that one compiled program refits them all from the optimum; since a warm start
does not leave its basin, some are refitted from many starts as well, and what these find serves all others as a further start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.scaling import solve
from olm.scaling.laws import Law
from olm.scaling.problem import Problem
from olm.types import Array

__all__ = ["Bootstrap", "bootstrap", "covariance", "delta", "percentiles", "quantile", "score_scale", "undetermined"]

MAD = 1.482602218505602  # standard deviation of a normal law over its median absolute value
SINGULAR = 1e-9  # smallest singular value, columns scaled to length 1
SUBSET, SUBSET_STARTS = 20, 256


class Bootstrap(NamedTuple):
    """What a bootstrap did.

    Attributes:
      refits: resamplings of the rows.
      failed: how many of them ended without meeting the stopping rule.
      subset: how many were refitted from many starts, too.
      other_basin: how many of those ended lower than from the optimum alone.
      moved: how many of all refits were lowered by further starts.
      objectives: [R], of the refits kept.
      warm_objectives: [R], of the refits from the optimum alone.
    """

    refits: int
    failed: int
    subset: int
    other_basin: int
    moved: int
    objectives: np.ndarray
    warm_objectives: np.ndarray

    def summary(self) -> dict[str, int]:
        """The counts."""
        return {name: int(getattr(self, name)) for name in self._fields[:5]}


def quantile(level: float, degrees: int) -> float:
    """The two-sided quantile of Student's t.

    Args:
      level: probability between.
      degrees: of freedom; NaN comes back below 1.

    Returns:
      A float.

    >>> round(quantile(0.95, 10), 3)
    2.228
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2)) if degrees > 0 else float("nan")


def score_scale(residuals: np.ndarray, delta: float, parameters: int, weights: np.ndarray | None = None) -> float:
    """τ² = mean ψ² / (mean ψ')², the factor of (JᵀJ)⁻¹ in a Huber M-estimator's covariance.

    ψ(r) = r clipped to ±δ. ψ' = 1 for |r| < δ; its mean is ∫_{−δ}^{δ} of a Gaussian kernel estimate of the residuals' density
    (bandwidth 1.06 σ n^(−1/5)), hence steady where few residuals are that small. δ = ∞ gives the residual variance. Numerator
    and denominator lose ``parameters`` degrees of freedom.

    Args:
      residuals: [rows].
      delta: δ.
      parameters: how many were fitted.
      weights: [rows], 0 for rows that do not count; None: all count.

    Returns:
      τ²; NaN without degrees of freedom.

    Source: Huber 1981, Robust Statistics, section 6.3; Silverman 1986 for the bandwidth.

    >>> r = np.random.default_rng(0).normal(size=4000)
    >>> abs(score_scale(r, 1e-3, 0) / (math.pi / 2) - 1) < 0.2  # π/2: the median's variance, which δ → 0 leads to
    True
    """
    from scipy.special import ndtr

    r = residuals if weights is None else residuals[weights > 0]
    degrees = len(r) - parameters
    if degrees <= 0:
        return float("nan")
    correction = len(r) / degrees
    if not np.isfinite(delta):
        return float(np.mean(r**2) * correction)
    scale = MAD * np.median(np.abs(r)) * math.sqrt(correction)
    width = 1.06 * scale * len(r) ** -0.2
    if width == 0:
        return 0.0
    share = float(np.mean(ndtr((delta - r) / width) - ndtr((-delta - r) / width)))
    return float(np.mean(np.clip(r, -delta, delta) ** 2) * correction / share**2)


def undetermined(problem: Problem, x: np.ndarray) -> list[str]:
    """Names of fitted parameters that the rows do not determine at x, or an empty list.

    Args:
      problem: a `Problem`.
      x: [P], fitted coordinates.

    Returns:
      The parameters in directions along which no residual changes.

    No example: `olm.scaling.fit` reports it.
    """
    jacobian = problem.linearised(x)[1] * (problem.own["weights"] > 0)[:, None]
    if not np.isfinite(jacobian).all():
        return []
    names = [p.name for p in problem.free]
    lengths = np.linalg.norm(jacobian, axis=0)
    if (lengths == 0).any():
        return [name for name, length in zip(names, lengths, strict=True) if length == 0]
    _, values, vectors = np.linalg.svd(jacobian / lengths, full_matrices=False)
    null = np.abs(vectors[values < SINGULAR * values[0]])
    return [name for i, name in enumerate(names) if len(null) and null[:, i].max() > 1e-3]


def covariance(problem: Problem, x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Delta-method covariance of the fitted coordinates.

    Args:
      problem: a `Problem`.
      x: [P], its optimum.
      inside: [P] bool, coordinates that lie on no bound; the others count as known.

    Returns:
      [P, P]; zero rows outside ``inside``; NaN within where the rows do not determine the parameters.

    No example: `olm.scaling.fit` returns it.
    """
    residuals, jacobian = problem.linearised(x)
    jacobian, weights = jacobian[:, inside], problem.own["weights"]
    result = np.zeros((len(x), len(x)))
    block = np.ix_(inside, inside)
    if not inside.any():
        return result
    tau2 = score_scale(residuals, float(problem.shared["delta"]), int(inside.sum()), weights)
    lengths = np.linalg.norm(jacobian * np.sqrt(weights)[:, None], axis=0)
    result[block] = np.nan
    if not np.isfinite(tau2) or not np.isfinite(lengths).all() or not lengths.all():
        return result
    scaled = jacobian / lengths
    _, values, vectors = np.linalg.svd(scaled * np.sqrt(weights)[:, None], full_matrices=False)
    if values[-1] < SINGULAR * values[0]:
        return result
    bread = (vectors.T / values**2) @ vectors
    meat = scaled.T @ (scaled * (weights**2)[:, None])
    result[block] = tau2 * (bread @ meat @ bread) / np.outer(lengths, lengths)
    return result


def delta(
    function: Callable[[Mapping[str, Array]], Array],
    law: Law,
    parameters: Mapping[str, float],
    covariance: np.ndarray,
    level: float,
    degrees: int,
    *,
    log: bool = False,
) -> tuple[float, float, float]:
    """f ± t·√(∇fᵀ Σ ∇f), the gradient in the fitted coordinates.

    Args:
      function: of {name: value}, differentiable by jax.
      law: whose parameters they are.
      parameters: {name: value} at the optimum.
      covariance: [P, P], Σ.
      level: of the interval.
      degrees: of freedom of t.
      log: take ln f for f, and the exponentials of the limits.

    Returns:
      Estimate, low, high.

    No example: see `olm.scaling.Fit.interval`.
    """
    x = np.array([math.log(parameters[p.name]) if p.log else parameters[p.name] for p in law.parameters])

    def scalar(x: Array) -> Array:
        value = function({p.name: jnp.exp(x[i]) if p.log else x[i] for i, p in enumerate(law.parameters)})
        return jnp.log(value) if log else value

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(scalar)(jnp.asarray(x))
        value, gradient = float(value), np.asarray(gradient)
    half = quantile(level, degrees) * math.sqrt(max(gradient @ covariance @ gradient, 0.0))
    limits = value, value - half, value + half
    return tuple(map(math.exp, limits)) if log else limits  # type: ignore[return-value]


def percentiles(
    function: Callable[[Mapping[str, Array]], Array],
    law: Law,
    parameters: Mapping[str, float],
    samples: np.ndarray,
    level: float,
) -> tuple[float, float, float]:
    """f at the optimum, and its percentiles over bootstrap refits.

    Args:
      function: of {name: value}.
      law: whose parameters they are.
      parameters: {name: value} at the optimum.
      samples: [R, P], natural scale, law order.
      level: of the interval.

    Returns:
      Estimate, low, high.

    No example: see `olm.scaling.Fit.interval`.
    """
    names = [p.name for p in law.parameters]
    with jax.enable_x64(True):
        values = np.asarray(jax.vmap(lambda row: function(dict(zip(names, row, strict=True))))(jnp.asarray(samples)))
        estimate = float(function({name: jnp.asarray(parameters[name]) for name in names}))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return estimate, float(low), float(high)


def bootstrap(
    problem: Problem,
    x: np.ndarray,
    others: np.ndarray,
    starts: np.ndarray,
    refits: int,
    key: Array,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, Bootstrap]:
    """Refit resampled rows, or resampled groups of rows.

    Args:
      problem: a `Problem`.
      x: [P], its optimum, from which every refit starts.
      others: [O, P], further optima of it, from which every refit starts, too.
      starts: [S, P], the grid; a thinned one serves the subset that is refitted from many starts.
      refits: how many.
      key: for the resampling.
      groups: [rows], a label a row: rows of one label are drawn together. None: each row on its own.

    Returns:
      Samples [R, parameters of the law] in natural scale, and a `Bootstrap`.

    No example: see `olm.scaling.fit`.
    """
    rows = len(problem.loss)
    member = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = int(member.max()) + 1
    draws = np.asarray(jax.random.randint(key, (refits, units), 0, units, dtype=jnp.int32))
    counts = np.stack([np.bincount(draw, minlength=units)[member] for draw in draws]).astype(np.float64)
    own = {"target": np.broadcast_to(problem.own["target"], counts.shape), "weights": problem.own["weights"] * counts}

    def refit(points: np.ndarray, which: np.ndarray, screen: solve.Screen | None = None) -> solve.Solutions:
        lower, upper = problem.bounds
        bounds: dict[str, Any] = {"lower": lower, "upper": upper}
        return solve.minimise(problem.functions.objective, points, problem.shared, own, which=which, screen=screen, **bounds)

    everyone = np.arange(refits)
    warm = refit(np.tile(x, (refits, 1)), everyone)
    best_x, best_value, best_status = warm.x.copy(), warm.value.copy(), warm.status.copy()

    def improve(found: solve.Solutions, which: np.ndarray) -> None:
        for i in np.argsort(found.value, kind="stable")[::-1]:  # the best of each comes last
            if found.value[i] < best_value[which[i]] and np.isfinite(found.value[i]):
                best_x[which[i]], best_value[which[i]], best_status[which[i]] = found.x[i], found.value[i], found.status[i]

    subset = min(SUBSET, refits)
    thin = starts[np.unique(np.linspace(0, len(starts) - 1, min(SUBSET_STARTS, len(starts))).astype(int))]
    which = np.repeat(np.arange(subset), len(thin))
    improve(refit(np.tile(thin, (subset, 1)), which, solve.Screen(iterations=30, keep=8)), which)
    lower_now = best_value < warm.value * (1 - 1e-6) - 1e-24
    other_basin = int(lower_now[:subset].sum())
    extra = np.concatenate([others, best_x[:subset][lower_now[:subset]][:4]])
    if len(extra):
        which = np.repeat(everyone, len(extra))
        improve(refit(np.tile(extra, (refits, 1)), which), which)
    natural = problem.natural(best_x)
    free = [p.name for p in problem.free]
    fixed = problem.shared["fixed"]
    samples = np.stack(
        [natural[:, free.index(p.name)] if p.name in free else np.full(refits, fixed[p.name]) for p in problem.law.parameters],
        axis=1,
    )
    moved = int((best_value < warm.value * (1 - 1e-6) - 1e-24).sum())
    failed = int((best_status != solve.CONVERGED).sum())
    return samples, Bootstrap(refits, failed, subset, other_basin, moved, best_value, warm.value)
