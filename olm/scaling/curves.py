"""Laws for a whole loss curve under any learning-rate schedule: what the loss is after step t when the rate was η_0 … η_t.

Two laws, both a power law of the rates' sum S1(t) = Σ_{k≤t} η_k less what lowering the rate has brought by step t:

- `annealing`, Tissue et al. 2024 (arXiv 2408.11029), Eq. 1: L0 + A S1^-α − C S2, S2(t) = Σ_{i≤t} m_i,
  m_i = λ m_{i-1} + (η_{i-1} − η_i), from m_0 = 0. It has no floor: steps at rate zero that are appended still lower its S2.
- `multi_power`, Luo et al. 2025 (arXiv 2503.12811): L0 + A S1^-α − B Σ_{k≤t} (η_{k-1} − η_k) G(η_k^-γ S_k(t)),
  S_k(t) = Σ_{k≤τ≤t} η_τ, G(x) = 1 − (1 + C x)^-β.

The convention under which the published parameters give the published scores: steps count from 0, a warm-up of W steps is
``linspace(0, peak, W)``, a record of "step t" has seen η_0 … η_t, and both sums take in the warm-up (whose rising rate counts
as a negative reduction). Only steps at which the rate changes enter the inner sum, which is otherwise exact; it runs in
blocks, so that memory stays small for schedules of any length.

Not done: laws with a term for a shift of distribution (continual pre-training), several batch sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import DivergenceError, InputError, check_kinds, check_whole
from olm.scaling import solve
from olm.scaling.fit import ON_BOUND, Fit, describe
from olm.scaling.intervals import covariance
from olm.scaling.laws import Law, Parameter
from olm.scaling.problem import Problem, grid, pose
from olm.scaling.schedules import SCHEDULES, LossCurve, rates_from_log, schedule
from olm.types import Array

__all__ = [
    "SCHEDULES",
    "LossCurve",
    "Scores",
    "annealing",
    "fit_curves",
    "leave_one_out",
    "multi_power",
    "predict_curve",
    "rates_from_log",
    "schedule",
    "score",
]

_BLOCK = 1024  # changes of the rate summed at once
_TINY = 1e-300  # a rate of zero has a logarithm here; its S_k, and with it the summand, vanishes faster


@dataclass(frozen=True)
class Scores:
    """How well a law foretells curves; every mean is over the curves, each counting once.

    Attributes:
      rows: one dict a curve: ``name``, ``n``, ``r2``, ``mae``, ``rmse`` (nats), ``pred_e`` (mean of |error| / loss) and
        ``worst_e`` (its maximum).
      mean: the same measures, means over the curves.
    """

    rows: tuple[dict[str, Any], ...]
    mean: dict[str, float]


# --- the laws ---------------------------------------------------------------------------------------------------------


def _prepared(curve: LossCurve, *, warmup: bool, lam: float | None, changes: bool, coarse: int = 1) -> dict[str, np.ndarray]:
    """What the laws need of a curve: S1 at its steps, and of each change of the rate k, η_{k-1} − η_k, ln η_k, S1(k−1)."""
    rates, steps = curve.rates, curve.steps
    area = np.cumsum(rates)
    drops = -np.diff(rates)
    if not warmup:
        drops[: int(np.argmax(rates))] = 0
    result: dict[str, np.ndarray] = {"area": area[steps]}
    if lam is not None:
        from scipy.signal import lfilter

        momentum = lfilter([1.0], [1.0, -lam], drops)
        result["annealed"] = np.r_[0.0, np.cumsum(momentum)][steps]
    if changes:
        at = 1 + np.flatnonzero(drops[: int(steps[-1])])
        parts = np.array([at, drops[at - 1], np.log(np.maximum(rates[at], _TINY)), area[at - 1]]).reshape(4, -1)
        if coarse > 1 and at.size:  # means over up to `coarse` neighbouring changes: for choosing starts only
            run = np.cumsum(np.r_[0, np.diff(at) > 1])
            group = np.unique(run * 10**9 + np.arange(len(at)) // coarse, return_inverse=True)[1]
            count = np.bincount(group)
            parts = np.array([np.bincount(group, weights=part) / count for part in parts])
            parts[1] *= count
        blocks = -(-max(parts.shape[1], 1) // _BLOCK) if parts.shape[1] > _BLOCK else 1
        width = -(-max(parts.shape[1], 1) // blocks)
        padded = np.zeros((4, blocks * width))
        padded[:, : parts.shape[1]] = parts  # a change by 0 adds nothing
        result["step"] = steps.astype(np.float64)
        for name, part in zip(("at", "drop", "log_rate", "before"), padded, strict=True):
            result[name] = part.reshape(blocks, width)
    return result


def _prepare(columns: Mapping[str, Any], curves: Sequence[LossCurve] = (), **options: Any) -> dict[str, Any]:
    """The rows (curve, step) of a fit, which must be those of ``curves`` in order, as what the laws sum over."""
    if not curves:
        raise InputError("a law of loss curves needs their schedules: call olm.scaling.curves.fit_curves(curves)")
    rows = np.concatenate([np.stack([np.full(len(c.steps), i), c.steps]) for i, c in enumerate(curves)], axis=1)
    given = np.stack([np.asarray(columns[name], dtype=np.float64) for name in ("curve", "step")])
    if given.shape != rows.shape or (given != rows).any():
        raise InputError("the rows are not those of the curves: predict other curves with olm.scaling.curves.predict_curve")
    return {"curves": tuple(_prepared(curve, **options) for curve in curves)}


def _over_changes(curve: Mapping[str, Array], summand: Any) -> Array:
    """Σ_k (η_{k-1} − η_k) summand(k), [rows], over blocks of changes, recomputed on a way back instead of kept."""

    @jax.checkpoint
    def block(total: Array, part: Mapping[str, Array]) -> tuple[Array, None]:
        return total + summand(part) @ part["drop"], None

    parts = {name: curve[name] for name in ("at", "drop", "log_rate", "before")}
    if parts["drop"].shape[0] == 1:
        return block(jnp.zeros(()), {name: part[0] for name, part in parts.items()})[0]
    return jax.lax.scan(block, jnp.zeros_like(curve["area"] * parts["drop"][0, 0]), parts)[0]


def _predict_annealing(parameters: Mapping[str, Any], columns: Mapping[str, Any]) -> Array:
    def one(curve: Mapping[str, Array]) -> Array:
        if "annealed" in curve:
            annealed = curve["annealed"]
        else:
            rate = jnp.log1p(-1 / parameters["memory"])  # ln λ

            def summand(part: Mapping[str, Array]) -> Array:
                steps = jnp.maximum(curve["step"][:, None] - part["at"] + 1, 0.0)
                return -jnp.expm1(rate * steps) * parameters["memory"]  # Σ_{j<steps} λ^j

            annealed = _over_changes(curve, summand)
        return parameters["L0"] + parameters["A"] * curve["area"] ** -parameters["alpha"] - parameters["C"] * annealed

    return jnp.concatenate([one(curve) for curve in columns["curves"]])


def _predict_multi_power(parameters: Mapping[str, Any], columns: Mapping[str, Any]) -> Array:
    def one(curve: Mapping[str, Array]) -> Array:
        def summand(part: Mapping[str, Array]) -> Array:
            since = jnp.maximum(curve["area"][:, None] - part["before"], 0.0)  # S_k(t); none for changes yet to come
            scale = parameters["C"] * jnp.exp(-parameters["gamma"] * part["log_rate"])
            return -jnp.expm1(-parameters["beta"] * jnp.log1p(scale * since))

        return (
            parameters["L0"]
            + parameters["A"] * curve["area"] ** -parameters["alpha"]
            - parameters["B"] * _over_changes(curve, summand)
        )

    return jnp.concatenate([one(curve) for curve in columns["curves"]])


def _law(name: str, predict: Any, parameters: Sequence[Parameter], source: str, equation: str, **options: Any) -> Law:
    return Law(
        name=name,
        columns=("curve", "step"),
        parameters=tuple(parameters),
        predict=predict,
        source=source,
        equation=equation,
        prepare=partial(_prepare, **options),
        positive=(),
    )


# A level that the curves do not show runs off to ln L0 = −∞; the bound makes that visible.
LEVEL = Parameter("L0", True, (0.0,), 1e-4, 1e30)


def _scale(name: str) -> Parameter:
    return Parameter(name, True, (0.0,), 1e-9, 1e30)


def _power(name: str, *starts: float) -> Parameter:
    return Parameter(name, True, tuple(np.log(starts).tolist()), 1e-3, 10.0)


def annealing(lam: float | None = 0.999, *, warmup: bool = False) -> Law:
    """The annealing law, L(t) = L0 + A S1(t)^-α − C S2(t).

    Args:
      lam: λ in [0, 1), what is left of the momentum of reductions after a step; None: fitted, as ``memory`` = 1 / (1 − λ) steps.
      warmup: whether the rising rates of the warm-up enter S2, as negative reductions.

    Returns:
      A `olm.scaling.laws.Law` over loss curves, for `fit_curves`.

    Raises:
      InputError: λ outside [0, 1).

    Source: Tissue et al. 2024 (arXiv 2408.11029), Eq. 1; λ = .999 is what its replications use.

    >>> [parameter.name for parameter in annealing(None).parameters]
    ['L0', 'A', 'alpha', 'C', 'memory']
    """
    if lam is not None and not 0 <= lam < 1:
        raise InputError(f"lam is {lam}: give a number in [0, 1), such as .999, or None (--lam fit) to fit it")
    parameters = [LEVEL, _scale("A"), _power("alpha", 0.3, 0.5, 0.8), _scale("C")]
    if lam is None:
        parameters.append(Parameter("memory", True, tuple(np.log([100.0, 1000.0, 5000.0]).tolist()), 1.01, 1e9))
    source, equation = "Tissue et al. 2024 (arXiv 2408.11029), equation 1", "L = L0 + A S1^−α − C S2"
    return _law("annealing", _predict_annealing, parameters, source, equation, warmup=warmup, lam=lam, changes=lam is None)


def multi_power(*, warmup: bool = True) -> Law:
    """The multi-power law, L(t) = L0 + A S1(t)^-α − B Σ_k (η_{k-1} − η_k) (1 − (1 + C η_k^-γ S_k(t))^-β).

    C, β and γ say how soon a reduction of the rate pays off. Three curves hardly determine them: the exact optimum follows the
    curves it was fitted to more closely than it foretells others. With C = 1, β = γ = ½ held (``fixed=``) the law has four
    parameters and foretells new schedules better; `leave_one_out` tells which to take.

    Args:
      warmup: whether the rising rates of the warm-up enter the sum, as negative reductions; the published parameters say yes.

    Returns:
      A `olm.scaling.laws.Law` over loss curves, for `fit_curves`.

    Source: Luo et al. 2025 (arXiv 2503.12811), section 3.

    >>> [parameter.name for parameter in multi_power().parameters]
    ['L0', 'A', 'alpha', 'B', 'C', 'beta', 'gamma']
    """
    parameters = [
        LEVEL,
        _scale("A"),
        _power("alpha", 0.45),
        _scale("B"),
        Parameter("C", True, tuple(np.log([0.3, 3.0]).tolist()), 1e-9, 1e9),
        _power("beta", 0.2, 0.6),
        _power("gamma", 0.5, 1.0),
    ]
    source = "Luo et al. 2025 (arXiv 2503.12811), section 3"
    equation = "L = L0 + A S1^−α − B Σ_k (η_{k−1} − η_k) (1 − (1 + C η_k^−γ S_k)^−β)"
    return _law("multi_power", _predict_multi_power, parameters, source, equation, warmup=warmup, lam=None, changes=True)


# --- fitting ----------------------------------------------------------------------------------------------------------

_LAWS = {"annealing": annealing, "multi_power": multi_power}
_LINEAR = {"annealing": ("L0", "A", "C"), "multi_power": ("L0", "A", "B")}


def _bound(law: Law, curves: Sequence[LossCurve], coarse: int = 1) -> Law:
    """The law with these curves' schedules in its ``prepare``, which then takes the rows of `_rows`."""
    assert isinstance(law.prepare, partial)
    return law._replace(prepare=partial(_prepare, curves=tuple(curves), coarse=coarse, **law.prepare.keywords))


def _rows(curves: Sequence[LossCurve]) -> dict[str, Any]:
    return {
        "curve": np.concatenate([np.full(len(curve.steps), float(i)) for i, curve in enumerate(curves)]),
        "step": np.concatenate([curve.steps.astype(np.float64) for curve in curves]),
    }


def _checked(curves: Any) -> tuple[LossCurve, ...]:
    curves = (curves,) if isinstance(curves, LossCurve) else tuple(curves)
    for place, curve in enumerate(curves):
        check_kinds(**{f"curve {place}": (curve, LossCurve)})
    if not curves:
        raise InputError("there is no curve: give at least one LossCurve")
    return curves


def _curve_law(law: str | Law) -> Law:
    if isinstance(law, str):
        if law not in _LAWS:
            raise InputError(f"law is {law!r}: the laws of a loss curve are {', '.join(_LAWS)}")
        return _LAWS[law]()
    if law.name not in _LAWS:
        raise InputError(f"{law.name} is no law of a loss curve: give one of {', '.join(_LAWS)}")
    return law


def _starts(law: Law, curves: Sequence[LossCurve], fixed: Mapping[str, float], coarse: int) -> np.ndarray:
    """[S, P]: a grid over the nonlinear parameters; the three linear ones by least squares of at least 0, given those."""
    from scipy.optimize import nnls

    linear = _LINEAR[law.name]
    grids = {p.name: p.starts for p in law.parameters if p.name not in linear}
    found, losses = [], np.concatenate([curve.losses for curve in curves])
    with jax.enable_x64(True):
        columns = {"curves": tuple(_prepared(c, **law.prepare.keywords, coarse=coarse) for c in curves)}  # type: ignore[union-attr]
        predict = jax.jit(lambda parameters: law.predict(parameters, columns))
        for point in product(*((np.log(fixed[n]),) if n in fixed else values for n, values in grids.items())):
            given = dict(zip(grids, np.exp(point), strict=True))
            basis = [np.asarray(predict({**given, **{n: float(n == one) for n in linear}})) for one in linear]
            held = [fixed.get(name) for name in linear]
            rest = losses - sum((h * b for h, b in zip(held, basis, strict=True) if h is not None), np.zeros_like(losses))
            free = [b for h, b in zip(held, basis, strict=True) if h is None]
            solved = iter(np.maximum(nnls(np.stack(free, axis=1), rest)[0], 1e-3) if free else ())
            given |= {name: next(solved) if h is None else h for name, h in zip(linear, held, strict=True)}
            found.append([given[p.name] for p in law.parameters])
    return np.array(found)


def fit_curves(
    curves: Sequence[LossCurve] | LossCurve,
    law: str | Law = "multi_power",
    *,
    fixed: Mapping[str, float] | None = None,
    starts: Any = None,
    huber: float | str | None = "law",
    residual: str = "law",
    weights: Any = None,
    level: float = 0.95,
    coarse: int = 32,
) -> Fit:
    """Fit a law to loss curves together: the least Σ Huber_δ(ln L̂ − ln L), δ = 10⁻³, over all their rows.

    The starts are a grid over the exponents and scales, each with the best L0, A and B given those. They are compared on sums in
    which ``coarse`` neighbouring changes of the rate are one; the best is then followed to the optimum of the exact sum. The rows
    of a curve are not independent of each other, so that the intervals of the fit are narrower than new runs would show.

    Args:
      curves: one `LossCurve` or several; at least one whose rate falls after its peak.
      law: "multi_power", "annealing", or what `multi_power` or `annealing` return.
      fixed: {name: value} of parameters to hold.
      starts: [S, P] in natural scale; None: the grid.
      huber, residual, weights: as for `olm.scaling.fit.fit`; weights [rows] in the order of the curves.
      level: of the intervals.
      coarse: changes of the rate taken together while starts are compared; 1: none.

    Returns:
      A `olm.scaling.fit.Fit`; its starts are those that were compared. `predict_curve` foretells other curves from it.

    Raises:
      InputError: no curves, a law that is none of these, no curve whose rate falls; and as `olm.scaling.fit.fit`.

    Source: the laws' own; the objective is that of Luo et al. 2025.

    >>> rates = [schedule(n, 400, 0.1, end=0.01, warmup=20, decay_from=200) for n in ("constant", "cosine", "wsd_constant")]
    >>> steps = np.arange(30, 400, 10)
    >>> truth = {"L0": 2.0, "A": 1.0, "alpha": 0.5, "C": 0.1}
    >>> exact = [predict_curve(annealing(0.99), LossCurve(steps, steps + 1.0, r), truth) for r in rates]
    >>> found = fit_curves([LossCurve(steps, *pair) for pair in zip(exact, rates)], annealing(0.99))
    >>> {name: round(value, 4) for name, value in found.parameters.items()}
    {'L0': 2.0, 'A': 1.0, 'alpha': 0.5, 'C': 0.1}
    """
    chosen, curves, fixed = _curve_law(law), _checked(curves), dict(fixed or {})
    coarse = check_whole("coarse", coarse, 1)
    free = [p.name for p in chosen.parameters if p.name not in fixed]
    lowered = any((np.diff(c.rates[int(np.argmax(c.rates)) : int(c.steps[-1]) + 1]) < 0).any() for c in curves)
    if not lowered and set(free) - {"L0", "A", "alpha"}:
        raise InputError(f"no curve's rate falls after its peak: {chosen.name} needs one that does; add a run with a decay")
    losses, rows = np.concatenate([curve.losses for curve in curves]), _rows(curves)
    if starts is None:
        starts = _starts(chosen, curves, {k: v for k, v in fixed.items() if v > 0}, coarse)
    settings: dict[str, Any] = {"fixed": fixed, "huber": huber, "residual": residual, "weights": weights}
    rough, problem = (pose(_bound(chosen, curves, c), rows, losses, **settings) for c in (coarse, 1))
    ends = [_descend(rough, start) for start in grid(rough, starts)]
    values = np.array([value for _, value, _ in ends])
    if not np.isfinite(values).any():
        raise DivergenceError("the objective is finite at no start: give starts nearer to the data (starts=)")
    x, value, converged = _descend(problem, ends[int(np.argmin(values))][0])
    lower, upper = problem.bounds
    bound = np.minimum(np.abs(x - lower), np.abs(upper - x)) <= ON_BOUND * np.maximum(1, np.abs(x))
    status = np.array([solve.CONVERGED if converged else solve.EXHAUSTED])
    end = solve.Solutions(x[None], np.array([value]), status, np.zeros(1, int))
    found = describe(problem, end, 0, bound, covariance(problem, x, ~bound), level, None, None)
    summary = {
        "starts": len(ends),
        "converged": sum(good for _, _, good in ends),
        "abandoned": 0,
        "in_best_basin": int((values <= values.min() * (1 + 1e-6)).sum()),
    }
    return replace(found, starts_summary=summary)


@partial(jax.jit, static_argnums=0)
def _linear(residuals: Any, x: Array, shared: Any, own: Any) -> tuple[Array, Array]:
    """Residuals [rows] and their Jacobian [rows, P]."""

    def twice(x: Array) -> tuple[Array, Array]:
        r = residuals(x, shared, own)
        return r, r

    jacobian, r = jax.jacfwd(twice, has_aux=True)(x)
    return r, jacobian


def _descend(problem: Problem, x: np.ndarray, iterations: int = 200) -> tuple[np.ndarray, float, bool]:
    """Levenberg and Marquardt's method on the Huber objective, reweighted: where it ends, the objective, whether it converged.

    One forward-mode Jacobian a step: for sums as long as these far cheaper than the exact Hessian of `olm.scaling.solve`, and it
    ends at the same optimum.
    """
    delta, weights = float(problem.shared["delta"]), problem.own["weights"]
    lower, upper = problem.bounds

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        with jax.enable_x64(True):
            r, jacobian = map(np.asarray, _linear(problem.functions.residuals, x, problem.shared, problem.own))
        clipped = np.clip(r, -delta, delta)
        value = float(np.sum(weights * clipped * (r - 0.5 * clipped)))
        return r, jacobian, value if np.isfinite(value) and np.isfinite(jacobian).all() else np.inf

    x, damping = np.clip(x, lower, upper), 1e-3
    r, jacobian, value = at(x)
    if not np.isfinite(value):
        return x, np.inf, False
    for _ in range(iterations):
        weight = weights * np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300))
        gradient, hessian = jacobian.T @ (weight * r), jacobian.T @ (weight[:, None] * jacobian)
        scale = np.diag(np.maximum(np.diag(hessian), 1e-12 * np.trace(hessian) + 1e-300))
        while True:
            move = -np.linalg.lstsq(hessian + damping * scale, gradient, rcond=None)[0]
            trial = np.clip(x + move / max(1.0, float(np.abs(move).max())), lower, upper)
            new_r, new_jacobian, new_value = at(trial)
            if new_value < value:
                break
            damping *= 5
            if damping > 1e9:  # no step descends: as far as float64 goes, if the model says so, too
                free = ~((x <= lower) & (gradient > 0) | (x >= upper) & (gradient < 0))
                full = np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=None)[0]
                return x, value, bool(0.5 * gradient[free] @ full <= solve.LOST * (value + 1e-12))
        fall, damping = value - new_value, max(damping / 5, 1e-12)
        x, r, jacobian, value = trial, new_r, new_jacobian, new_value
        if fall <= 1e-13 * value:
            return x, value, True
    return x, value, False


def predict_curve(law: Fit | Law | str, curve: LossCurve, parameters: Mapping[str, float] | None = None) -> np.ndarray:
    """The losses that a law foretells at a curve's steps, from its schedule alone.

    Args:
      law: a fit by `fit_curves`; or a law, with ``parameters``.
      curve: its steps and rates are used, its losses are not.
      parameters: {name: value}; None: the fit's.

    Returns:
      [n] float64, nats.

    Raises:
      InputError: a law without parameters, or with some missing.

    >>> curve = LossCurve([1, 2], [1.0, 1.0], [0.5, 0.5, 0.25])
    >>> predict_curve("annealing", curve, {"L0": 2.0, "A": 1.0, "alpha": 1.0, "C": 0.4}).tolist()
    [3.0, 2.7]
    """
    if isinstance(law, Fit):
        parameters = law.parameters if parameters is None else parameters
        law = law.law
    chosen = _curve_law(law)
    names = [p.name for p in chosen.parameters]
    if parameters is None or set(names) - set(parameters):
        raise InputError(f"{chosen.name} needs its parameters {', '.join(names)}")
    assert isinstance(chosen.prepare, partial)
    options = {name: value for name, value in chosen.prepare.keywords.items() if name not in ("curves", "coarse")}
    with jax.enable_x64(True):
        columns = {"curves": (jax.tree.map(jnp.asarray, _prepared(curve, **options)),)}
        return np.asarray(_compiled(chosen.predict, {name: jnp.float64(parameters[name]) for name in names}, columns))


@partial(jax.jit, static_argnums=0)
def _compiled(predict: Any, parameters: Mapping[str, Array], columns: Mapping[str, Any]) -> Array:
    return predict(parameters, columns)


def score(law: Fit | Law | str, curves: Sequence[LossCurve] | LossCurve, parameters: Mapping[str, float] | None = None) -> Scores:
    """R², mean and root-mean-square error, and relative errors of what a law foretells for curves.

    Args:
      law: a fit by `fit_curves`; or a law, with ``parameters``.
      curves: with the losses measured.
      parameters: {name: value}; None: the fit's.

    Returns:
      `Scores`.

    Raises:
      InputError: no curves; as `predict_curve`.

    Source: Luo et al. 2025, section 4 (the five measures, averaged over test curves).

    >>> curve = LossCurve([1, 2], [3.0, 2.5], [0.5, 0.5, 0.25], "half")
    >>> score("annealing", curve, {"L0": 2.0, "A": 1.0, "alpha": 1.0, "C": 0.4}).rows[0]["worst_e"]
    0.08
    """
    rows = []
    for curve in _checked(curves):
        error = predict_curve(law, curve, parameters) - curve.losses
        around = np.sum((curve.losses - curve.losses.mean()) ** 2)
        relative = np.abs(error) / curve.losses
        rows.append(
            {
                "name": curve.name,
                "n": len(error),
                "r2": float(1 - np.sum(error**2) / around) if around > 0 else float("nan"),
                "mae": float(np.abs(error).mean()),
                "rmse": float(np.sqrt(np.mean(error**2))),
                "pred_e": float(relative.mean()),
                "worst_e": float(relative.max()),
            }
        )
    return Scores(tuple(rows), {name: float(np.mean([row[name] for row in rows])) for name in list(rows[0])[2:]})


def leave_one_out(curves: Sequence[LossCurve], law: str | Law = "multi_power", **settings: Any) -> Scores:
    """Fit all curves but one and score the one left out, for each in turn: which law or ``fixed`` foretells new schedules best.

    Args:
      curves: at least two.
      law: as for `fit_curves`.
      settings: arguments of `fit_curves`, such as ``fixed``; not ``weights``.

    Returns:
      `Scores`, a row for each curve as left out.

    Raises:
      InputError: fewer than two curves; as `fit_curves`.

    >>> rates = [schedule(n, 300, 0.1, end=0.01, warmup=20, decay_from=150) for n in ("cosine", "wsd", "wsd_linear")]
    >>> steps = np.arange(30, 300, 10)
    >>> truth = {"L0": 2.0, "A": 1.0, "alpha": 0.5, "C": 0.1}
    >>> exact = [predict_curve(annealing(0.99), LossCurve(steps, steps + 1.0, r), truth) for r in rates]
    >>> left_out = leave_one_out([LossCurve(steps, *pair) for pair in zip(exact, rates)], annealing(0.99))
    >>> len(left_out.rows), left_out.mean["pred_e"] < 1e-6
    (3, True)
    """
    curves = _checked(curves)
    if len(curves) < 2:
        raise InputError("leaving one out needs at least two curves")
    rows: list[dict[str, Any]] = []
    for place, curve in enumerate(curves):
        rows += score(fit_curves([*curves[:place], *curves[place + 1 :]], law, **settings), curve).rows
    return Scores(tuple(rows), {name: float(np.mean([row[name] for row in rows])) for name in list(rows[0])[2:]})
