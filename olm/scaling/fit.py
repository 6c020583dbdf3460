"""Fit a scaling law to a table of runs: many starts, every one of them accounted for, and intervals.

Minimised is Σ_i w_i Huber_δ(ln L̂_i − ln L_i) (or of L̂_i − L_i), summed, by `olm.scaling.solve` from the law's grid of starts.
What comes back says how it went: how many starts converged, were given up and reached the best value; parameters on a bound;
intervals by the delta method (`olm.scaling.intervals`) and, on request, by resampling rows.
"""

from __future__ import annotations

import difflib
import html
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from olm.errors import DivergenceError, InputError, check_whole
from olm.scaling import intervals as _intervals
from olm.scaling import solve
from olm.scaling.laws import Law, named
from olm.scaling.problem import Problem, grid, pose
from olm.types import Array

__all__ = ["Fit", "fit", "shown"]

SAME_BASIN = 1e-6  # relative: objectives this close count as one optimum
ON_BOUND = 1e-9
HARDLY = 1e6  # ratio of an interval's ends from which its parameter is called hardly determined


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      law: the `Law`.
      parameters: {name: value} in natural scale, held ones included.
      fixed: names of the parameters that were held.
      objective: Σ w·Huber of the residuals at the optimum, summed over rows.
      status: "converged"; or "stalled" or "exhausted" where the best start did not meet the stopping rule.
      message: what to know before using the figures; empty if there is nothing.
      rows: how many rows were fitted.
      starts_summary: how many ``starts``, ``converged``, ``abandoned`` (screened out) and ``in_best_basin`` (ended within a
        relative 10⁻⁶ of the best objective; those screened out never got there).
      at_bounds: parameters that lie on a bound; they have no interval and count as known in the others'.
      covariance: [P, P] of the fitted coordinates (ln of a parameter where ``law`` says so), law order; zero rows for held
        parameters and those on a bound; NaN where the rows do not determine the parameters.
      intervals: {name: (low, high)} by the delta method: of rows that are independent and equally noisy. Checkpoints of one run
        are not: resample whole runs there (``groups``).
      level: of the intervals.
      samples: [R, P] parameters of the bootstrap refits in natural scale, or None.
      bootstrap: what the bootstrap reports (see `olm.scaling.intervals.Bootstrap`), or None.
      r2: 1 − Σ(L − L̂)²/Σ(L − mean L)², raw losses, weighted.
      residual_scale: robust standard deviation of the residuals (1.4826 times their median absolute value).
      residuals: [rows], prediction minus loss, of logarithms where the fit's residual is "log".
      problem: the `Problem` that was solved: checked columns, weights, δ.
    """

    law: Law
    parameters: dict[str, float]
    fixed: tuple[str, ...]
    objective: float
    status: str
    message: str
    rows: int
    starts_summary: dict[str, int]
    at_bounds: tuple[str, ...]
    covariance: np.ndarray = field(repr=False)
    intervals: dict[str, tuple[float, float]]
    level: float
    samples: np.ndarray | None = field(repr=False)
    bootstrap: _intervals.Bootstrap | None = field(repr=False)
    r2: float
    residual_scale: float
    residuals: np.ndarray = field(repr=False)
    problem: Problem = field(repr=False)

    def predict(self, N: Any = None, D: Any = None, **columns: Any) -> np.ndarray:
        """Losses that the law predicts.

        Args:
          N, D: columns of those names, numbers or [rows].
          columns: the law's other columns.

        Returns:
          [rows] float64, nats.

        Raises:
          InputError: for a column that the law needs and that is missing, no numbers, or not above 0 where it must be.

        No example: see `fit`.
        """
        given = {name: value for name, value in {"N": N, "D": D, **columns}.items() if value is not None}
        if missing := [name for name in self.law.columns if name not in given]:
            raise InputError(f"{self.law.name} predicts from {', '.join(self.law.columns)}: give {missing[0]}")
        try:
            arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(given[name], np.float64)) for name in self.law.columns))
        except ValueError as error:  # texts, or lengths that differ
            raise InputError(f"{', '.join(self.law.columns)}: give numbers, or lists of one length ({error})") from None
        prepared: dict[str, Any] = dict(zip(self.law.columns, arrays, strict=True))
        for name in self.law.columns if self.law.positive is None else self.law.positive:
            if name in prepared and not (prepared[name] > 0).all():
                raise InputError(
                    f"column {name}: {prepared[name].min():g} is not above 0, where {self.law.name} foretells nothing"
                )
        if self.law.prepare:
            prepared = self.law.prepare(prepared)
        with jax.enable_x64(True):
            return np.asarray(jax.jit(self.law.predict)({k: np.float64(v) for k, v in self.parameters.items()}, prepared))

    def interval(
        self, function: Callable[[Mapping[str, Array]], Array], *, method: str = "delta", log: bool = False
    ) -> tuple[float, float, float]:
        """A function of the parameters with its interval.

        Delta method: f ± t·√(∇fᵀ Σ ∇f), ∇ in the fitted coordinates. Bootstrap: percentiles of f over the refits.

        Args:
          function: ``function({name: value}) -> scalar``, by jax.numpy for the delta method.
          method: "delta" or "bootstrap".
          log: the delta method on ln f, for quantities that are positive and spread over decades.

        Returns:
          Estimate, low, high.

        Raises:
          InputError: for a bootstrap interval of a fit without one.

        No example: see `fit`.
        """
        if method == "bootstrap":
            if self.samples is None:
                raise InputError("this fit has no bootstrap: give fit(..., bootstrap=1000, key=...)")
            return _intervals.percentiles(function, self.law, self.parameters, self.samples, self.level)
        if method != "delta":
            raise InputError(f'method is {method!r}: give "delta" or "bootstrap"')
        degrees = self.rows - len(self.problem.free)
        return _intervals.delta(function, self.law, self.parameters, self.covariance, self.level, degrees, log=log)

    @property
    def bootstrap_intervals(self) -> dict[str, tuple[float, float]] | None:
        """{name: (low, high)}, percentiles of the refits, or None."""
        if self.samples is None:
            return None
        tails = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(self.samples, tails, axis=0)
        return {p.name: (float(low[i]), float(high[i])) for i, p in enumerate(self.law.parameters)}

    def as_dict(self) -> dict[str, Any]:
        """Everything that is a number or a line, for a JSON file; None for a number that is not finite."""
        return _finite(
            {
                "law": self.law.name,
                "equation": self.law.equation,
                "source": self.law.source,
                "parameters": self.parameters,
                "fixed": list(self.fixed),
                "objective": self.objective,
                "residual": self.problem.residual,
                "huber": None if np.isinf(self.problem.shared["delta"]) else float(self.problem.shared["delta"]),
                "status": self.status,
                "message": self.message,
                "rows": self.rows,
                "starts": self.starts_summary,
                "at_bounds": list(self.at_bounds),
                "covariance": self.covariance.tolist(),
                "level": self.level,
                "intervals": {name: list(pair) for name, pair in self.intervals.items()},
                "bootstrap_intervals": self.bootstrap_intervals and {k: list(v) for k, v in self.bootstrap_intervals.items()},
                "bootstrap": self.bootstrap and self.bootstrap.summary(),
                "r2": self.r2,
                "residual_scale": self.residual_scale,
            }
        )

    def _lines(self) -> tuple[list[str], list[list[str]]]:
        starts = self.starts_summary
        head = [
            f"{self.law.name}: {self.law.equation}",
            f"{self.law.source}",
            f"{self.rows} rows, objective {self.objective:.10g} ({self.problem.residual} residuals), R² {self.r2:.5f}",
            f"{self.status}: {starts['starts']} starts, {starts['converged']} converged, {starts['abandoned']} given up, "
            f"{starts['in_best_basin']} in the best basin",
        ]
        head += [f"note: {self.message}"] if self.message else []
        if self.bootstrap is not None:
            done = self.bootstrap.summary()
            others = f"of {done['subset']} refitted from many starts {done['other_basin']} ended lower than from the optimum"
            head.append(f"bootstrap: {done['refits']} refits, {done['failed']} did not converge; {others}")
        percent = f"{100 * self.level:g}%"
        rows = [
            ["parameter", "value", f"{percent} low", "high"] + (["bootstrap low", "high"] if self.samples is not None else [])
        ]
        bootstrap = self.bootstrap_intervals
        for name, value in self.parameters.items():
            row = [name, shown(value)]
            words = "held" if name in self.fixed else "on a bound" if name in self.at_bounds else None
            row += [words, ""] if words else [*map(shown, self.intervals[name])]
            row += [*map(shown, bootstrap[name])] if bootstrap is not None else []
            rows.append(row)
        return head, rows

    def __str__(self) -> str:
        head, rows = self._lines()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
        ]
        return "\n".join([*head, *(line.rstrip() for line in table)])

    def _repr_html_(self) -> str:
        head, rows = self._lines()
        cells = [
            "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) for row, tag in zip(rows, _tags(len(rows)), strict=True)
        ]
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>{'<br>'.join(map(html.escape, head))}</p><table>{body}</table>"


def shown(value: float) -> str:
    """Five decimals, or six digits where five decimals would not show them.

    Args:
      value: a parameter or an end of its interval.

    Returns:
      The text of a table's cell.

    >>> shown(0.29287), shown(15415.991)
    ('0.29287', '15416')
    """
    return f"{value:.5f}" if value == 0 or 1e-2 <= abs(value) < 1e3 else f"{value:.6g}"


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _tags(count: int) -> list[str]:
    return ["th"] + ["td"] * (count - 1)


def fit(
    N: Any = None,
    D: Any = None,
    loss: Any = None,
    *,
    law: str | Law = "chinchilla",
    fixed: Mapping[str, float] | None = None,
    starts: Any = None,
    huber: float | str | None = "law",
    residual: str = "law",
    weights: Any = None,
    bootstrap: int = 0,
    key: Array | None = None,
    groups: Any = None,
    level: float = 0.95,
    check_units: bool = True,
    screen: solve.Screen | None = solve.Screen(),
    **columns: Any,
) -> Fit:
    """Fit a law to runs: the least Σ_i w_i Huber_δ(ln L̂_i − ln L_i) over all starts.

    Args:
      N: [rows] model sizes, in parameters.
      D: [rows] training tokens.
      loss: [rows] losses, nats.
      law: a name (`olm.scaling.laws.NAMES`) or a `Law`.
      fixed: {name: value} of parameters to hold.
      starts: [S, P] in natural scale, P the law's parameters or the free ones; None: the law's grid.
      huber: δ; None for least squares; "law" for the law's own.
      residual: "log", "raw" or "law".
      weights: [rows], at least 0; None: all 1.
      bootstrap: how many resamplings of the rows to refit; 0 for none.
      key: for the resampling.
      groups: [rows], a label a row, such as the run that a checkpoint is of: the bootstrap draws whole groups. The delta method
        takes rows for independent; where several belong to one run its intervals are too narrow.
      level: of the intervals.
      check_units: refuse N or D that look like millions or billions (`olm.scaling.problem.wrong_unit`).
      screen: after how many iterations how many starts go on; None: every start goes on to the end.
      columns: the law's other columns, [rows] each.

    Returns:
      A `Fit`.

    Raises:
      InputError: for a table or arguments that cannot be fitted, naming row and column.
      DivergenceError: if the objective is finite at no start.

    >>> rng = np.random.default_rng(0)
    >>> N, D = 10 ** rng.uniform(7, 10, 60), 10 ** rng.uniform(9, 12, 60)
    >>> loss = (1.7 + 400 / N**0.34 + 400 / D**0.28) * np.exp(0.001 * rng.normal(size=60))
    >>> found = fit(N, D, loss, starts=[[1.5, 100.0, 1000.0, 0.3, 0.3]])
    >>> found.status, round(found.parameters["alpha"], 1), found.intervals["alpha"][0] < 0.34 < found.intervals["alpha"][1]
    ('converged', 0.3, True)
    >>> found.predict(1e9, 1e11).shape
    (1,)

    Source: Hoffmann et al. 2022 (arXiv 2203.15556), Approach 3, for the objective; the law's own source for the law.
    """
    law = named(law) if isinstance(law, str) else law
    check_whole("bootstrap", bootstrap, least=0)
    if bootstrap and key is None:
        raise InputError("bootstrap needs key: give key=jax.random.key(0)")
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}: give a share between 0 and 1, such as 0.95")
    if unknown := [name for name in columns if name not in law.columns]:
        close = difflib.get_close_matches(unknown[0], [*inspect.signature(fit).parameters, *law.columns], 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"fit takes no {unknown[0]!r}: {hint}the columns of {law.name} are {', '.join(law.columns)}")
    given = {name: value for name, value in {"N": N, "D": D, **columns}.items() if value is not None}
    problem = pose(law, given, loss, fixed=fixed, huber=huber, residual=residual, weights=weights, check_units=check_units)
    counted = problem.loss[problem.own["weights"] > 0]
    if len(counted) > 1 and np.ptp(counted) == 0:
        raise InputError(
            f"every row has loss {counted[0]:g}: no term of {law.name} can be told from another; give runs that differ"
        )
    labels = None if groups is None else np.asarray(groups)
    if labels is not None and labels.shape != problem.loss.shape:
        raise InputError(f"groups have shape {labels.shape}: give one label for each of {len(problem.loss)} rows")
    begin = grid(problem, starts)
    _refuse_unidentified(problem, begin)
    lower, upper = problem.bounds
    found = solve.minimise(
        problem.functions.objective, begin, problem.shared, _own(problem), lower=lower, upper=upper, screen=screen
    )
    best = _best(found)
    x = found.x[best]
    bound = np.minimum(np.abs(x - lower), np.abs(upper - x)) <= ON_BOUND * np.maximum(1, np.abs(x))
    spread = _intervals.covariance(problem, x, ~bound)
    samples, report = None, None
    if bootstrap:
        assert key is not None
        others = _distinct(found, best)
        samples, report = _intervals.bootstrap(problem, x, others, grid(problem), int(bootstrap), key, labels)
    return describe(problem, found, best, bound, spread, level, samples, report)


def _own(problem: Problem) -> dict[str, np.ndarray]:
    return {name: value[None] for name, value in problem.own.items()}


def _best(found: solve.Solutions) -> int:
    """The start with the least objective; among those as good as it, one that met the stopping rule."""
    if not np.isfinite(found.value).any():
        raise DivergenceError(
            "the objective is finite at no start: hold no parameter far from the data (fixed=, --fixed), or give other starts"
            " (starts=)"
        )
    least = np.min(found.value)
    close = found.value <= least + 1e-12 * abs(least) + 1e-24
    ranked = np.lexsort((found.value, found.status != solve.CONVERGED, ~close))
    return int(ranked[0])


def _distinct(found: solve.Solutions, best: int, most: int = 4) -> np.ndarray:
    """Other optima [≤ most, P] that starts converged to, best first."""
    order = np.argsort(found.value, kind="stable")
    order = order[found.status[order] == solve.CONVERGED]
    kept: list[np.ndarray] = []
    values = [found.value[best]]
    for i in order:
        if found.value[i] > values[-1] * (1 + 1e-4) and len(kept) < most:
            kept.append(found.x[i])
            values.append(found.value[i])
    return np.array(kept).reshape(len(kept), found.x.shape[1])


def _refuse_unidentified(problem: Problem, starts: np.ndarray) -> None:
    """Fail if a column that never changes leaves parameters undetermined, whatever their values."""
    columns = problem.shared["columns"]
    constant = [n for n in problem.law.columns if n in columns and np.ndim(columns[n]) == 1 and np.ptp(columns[n]) == 0]
    if not constant:
        return
    inner = (
        starts[np.linspace(0, len(starts) - 1, min(len(starts), 16)).astype(int)] + 0.01
    )  # off the corners, where terms vanish
    ranks = [_intervals.undetermined(problem, x) for x in inner]
    if all(ranks):
        names = min(ranks, key=len)
        value = columns[constant[0]][0]
        raise InputError(
            f"column {constant[0]}: every row has {value:g}, which cannot tell {', '.join(names)} apart: "
            f"add runs with other values of {constant[0]}, or hold parameters (fixed=, --fixed)"
        )


def describe(
    problem: Problem,
    found: solve.Solutions,
    best: int,
    bound: np.ndarray,
    spread: np.ndarray,
    level: float,
    samples: np.ndarray | None,
    report: _intervals.Bootstrap | None,
) -> Fit:
    law, x = problem.law, found.x[best]
    free = [p.name for p in problem.free]
    values = {**problem.shared["fixed"], **dict(zip(free, problem.natural(x), strict=True))}
    parameters = {p.name: float(values[p.name]) for p in law.parameters}
    at_bounds = tuple(name for name, on in zip(free, bound, strict=True) if on)
    places = [i for i, p in enumerate(law.parameters) if p.name in free]
    covariance = np.zeros((len(law.parameters),) * 2)
    covariance[np.ix_(places, places)] = spread
    rows = int((problem.own["weights"] > 0).sum())
    half = _intervals.quantile(level, rows - len(free)) * np.sqrt(np.diag(covariance))
    limits = {}
    for i, p in enumerate(law.parameters):
        centre = np.log(parameters[p.name]) if p.log else parameters[p.name]
        pair = np.array([centre - half[i], centre + half[i]])
        with np.errstate(over="ignore"):  # a coefficient that the rows hardly determine: its upper end is inf
            pair = np.full(2, np.nan) if p.name in at_bounds else np.exp(pair) if p.log else pair
        limits[p.name] = (float(pair[0]), float(pair[1]))
    weight, residuals = problem.own["weights"], problem.linearised(x)[0]
    predicted = residuals + problem.own["target"]
    predicted = np.exp(predicted) if problem.residual == "log" else predicted
    mean = np.average(problem.loss, weights=weight)
    total = float(weight @ (problem.loss - mean) ** 2)
    return Fit(
        law=law,
        parameters=parameters,
        fixed=tuple(problem.shared["fixed"]),
        objective=float(found.value[best]),
        status={solve.CONVERGED: "converged", solve.STALLED: "stalled"}.get(int(found.status[best]), "exhausted"),
        message=_message(problem, found, best, at_bounds, spread, parameters, limits, report),
        rows=rows,
        starts_summary={
            "starts": len(found.value),
            "converged": int((found.status == solve.CONVERGED).sum()),
            "abandoned": int((found.status == solve.ABANDONED).sum()),
            "in_best_basin": int((found.value <= found.value[best] * (1 + SAME_BASIN) + 1e-24).sum()),
        },
        at_bounds=at_bounds,
        covariance=covariance,
        intervals=limits,
        level=level,
        samples=samples,
        bootstrap=report,
        r2=float(1 - weight @ (problem.loss - predicted) ** 2 / total) if total > 0 else float("nan"),
        residual_scale=float(_intervals.MAD * np.median(np.abs(residuals[weight > 0]))),
        residuals=residuals,
        problem=problem,
    )


def _message(
    problem: Problem,
    found: solve.Solutions,
    best: int,
    at_bounds: tuple[str, ...],
    spread: np.ndarray,
    parameters: Mapping[str, float],
    limits: Mapping[str, tuple[float, float]],
    report: _intervals.Bootstrap | None,
) -> str:
    """What a reader of the figures has to know, in sentences on one line."""
    notes = []
    if found.status[best] != solve.CONVERGED:
        notes.append("the best start did not meet the stopping rule: give more starts, or fewer parameters")
    if at_bounds:
        notes.append(f"on a bound, so without an interval, and taken as known by the others: {', '.join(at_bounds)}")
    if np.isnan(spread).any():
        names = _intervals.undetermined(problem, found.x[best])
        reason = f"the rows do not determine {', '.join(names)}" if names else "no more rows than parameters"
        notes.append(f"no intervals: {reason}")
    if wide := [p.name for p in problem.free if p.log and limits[p.name][1] > HARDLY * limits[p.name][0]]:
        notes.append(f"hardly determined by these rows, with intervals over more than a millionfold: {', '.join(wide)}")
    if "E" in parameters and (problem.loss <= parameters["E"]).any():
        below = np.flatnonzero(problem.loss <= parameters["E"])
        many = f", nor are those of {len(below) - 1} more" if len(below) > 1 else ""
        notes.append(
            f"row {below[0] + 1}: loss {problem.loss[below[0]]:g} is not above the fitted E = {parameters['E']:g}{many}: "
            "are these runs of the same data? Drop them, or hold E below them (fixed=, --fixed)"
        )
    if report is not None and report.failed:
        notes.append(f"{report.failed} of {report.refits} bootstrap refits did not meet the stopping rule")
    return "; ".join(notes)
