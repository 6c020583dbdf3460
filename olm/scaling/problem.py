"""One fit as arrays: checked columns, fitted coordinates, residuals and their Huber loss as functions that compile once.

A problem's parameters are split into those that are fitted, each in its coordinate (ln of the value where the law says so), and
those that are held. Everything that changes between two fits of one law is an argument of the compiled functions: columns,
targets, weights, held values, δ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.scaling.laws import Law, Parameter
from olm.types import Array

__all__ = ["Functions", "Problem", "checked_columns", "grid", "pose", "rename_rows", "wrong_unit"]

# Sizes and token counts in billions or millions look like this: no model has so few parameters, and no run, the earliest
# record of the largest model included, has so few tokens for each parameter, or so many; or repeats its data so often.
SMALLEST_PLAUSIBLE = 1e4
FEWEST_TOKENS_PER_PARAMETER, MOST_TOKENS_PER_PARAMETER = 1e-3, 1e6
MOST_EPOCHS = 1e4
SMALLEST_SHARE = 1e-5  # of the median row, below 10⁴ parameters or fewer tokens than one batch of any but the smallest models
FEWEST_TOKENS = 1e3
COUNTS = {"N": "parameters", "D": "tokens", "U": "tokens"}


class Functions(NamedTuple):
    """Functions of fitted coordinates x [P], what all problems share and one problem's own arrays.

    Attributes:
      parameters: ``parameters(x, fixed) -> {name: value}`` in natural scale.
      residuals: ``residuals(x, shared, own) -> [rows]``.
      objective: ``objective(x, shared, own) -> scalar``, Σ w·Huber_δ(residual).
      linearised: ``linearised(x, shared, own) -> (residuals [rows], their Jacobian [rows, P])``, compiled.
    """

    parameters: Callable[..., dict[str, Array]]
    residuals: Callable[..., Array]
    objective: Callable[..., Array]
    linearised: Callable[..., tuple[Array, Array]]


class Problem(NamedTuple):
    """A law, its data, and what of its parameters is fitted.

    Attributes:
      law: the `Law`.
      free: the parameters fitted.
      shared: ``columns`` (prepared), ``fixed`` {name: value}, ``delta``.
      own: ``target`` [rows] (ln loss or loss) and ``weights`` [rows].
      loss: [rows].
      residual: "log" or "raw".
    """

    law: Law
    free: tuple[Parameter, ...]
    shared: dict[str, Any]
    own: dict[str, np.ndarray]
    loss: np.ndarray
    residual: str

    @property
    def functions(self) -> Functions:
        """The problem's compiled functions, the same objects for every problem of its kind."""
        return _functions(self.law.predict, tuple((p.name, p.log) for p in self.free), self.residual)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds [P] of the fitted coordinates."""
        with np.errstate(divide="ignore"):
            pairs = [(np.log(p.lower), np.log(p.upper)) if p.log else (p.lower, p.upper) for p in self.free]
        return np.array([low for low, _ in pairs], float), np.array([high for _, high in pairs], float)

    def natural(self, x: np.ndarray) -> np.ndarray:
        """Parameters [..., P] in natural scale from fitted coordinates."""
        return np.where([p.log for p in self.free], np.exp(np.where([p.log for p in self.free], x, 0.0)), x)

    def coordinates(self, values: np.ndarray) -> np.ndarray:
        """Fitted coordinates [..., P] from parameters in natural scale."""
        logs = [p.log for p in self.free]
        return np.where(logs, np.log(np.where(logs, values, 1.0)), values)

    def linearised(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals [rows] and their Jacobian [rows, P] at x."""
        with jax.enable_x64(True):
            residuals, jacobian = self.functions.linearised(np.asarray(x, np.float64), self.shared, self.own)
            return np.asarray(residuals), np.asarray(jacobian)


@lru_cache(maxsize=64)
def _functions(predict: Callable[..., Array], coordinates: tuple[tuple[str, bool], ...], residual: str) -> Functions:
    def parameters(x: Array, fixed: Mapping[str, Array]) -> dict[str, Array]:
        return {**fixed, **{name: jnp.exp(x[i]) if log else x[i] for i, (name, log) in enumerate(coordinates)}}

    def residuals(x: Array, shared: Mapping[str, Any], own: Mapping[str, Array]) -> Array:
        predicted = predict(parameters(x, shared["fixed"]), shared["columns"])
        return (jnp.log(predicted) if residual == "log" else predicted) - own["target"]

    def objective(x: Array, shared: Mapping[str, Any], own: Mapping[str, Array]) -> Array:
        r = residuals(x, shared, own)
        clipped = jnp.clip(r, -shared["delta"], shared["delta"])
        return jnp.sum(own["weights"] * clipped * (r - 0.5 * clipped))  # ½r² within δ, δ(|r| − ½δ) beyond

    @jax.jit
    def linearised(x: Array, shared: Mapping[str, Any], own: Mapping[str, Array]) -> tuple[Array, Array]:
        value, along = jax.linearize(lambda x: residuals(x, shared, own), x)
        return value, jax.vmap(along, out_axes=1)(jnp.eye(len(x)))

    return Functions(parameters, residuals, objective, linearised)


def _numbers(name: str, values: Any) -> np.ndarray:
    """A column as float64 [rows]; the first cell that is no finite number is named."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"column {name} has shape {array.shape}: give one number a row")
    if array.dtype.kind not in "iuf":
        converted = []
        for row, value in enumerate(array.tolist(), 1):
            try:
                converted.append(float(value))
            except (TypeError, ValueError):
                raise InputError(f"row {row}, column {name}: {value!r} is no number: correct the cell or drop the row") from None
        array = np.asarray(converted)
    array = array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"row {row + 1}, column {name}: {array[row]} is not finite: correct the cell or drop the row")
    return array


def checked_columns(columns: Mapping[str, Any], positive: Sequence[str], check_units: bool = True) -> dict[str, np.ndarray]:
    """Columns of a table as float64, or the first fault in them.

    Args:
      columns: {name: [rows]}.
      positive: names of those whose cells must be above zero.
      check_units: refuse sizes and token counts that look like millions or billions (`wrong_unit`).

    Returns:
      {name: [rows] float64}.

    Raises:
      InputError: naming row and column of a cell that is no number, not finite or not positive; for lengths that differ; for
        sizes or token counts that look like billions.

    >>> checked_columns({"N": [1e8, -3]}, ["N"])
    Traceback (most recent call last):
    olm.errors.InputError: row 2, column N: -3 is not above 0: correct the cell or drop the row
    """
    checked = {name: _numbers(name, values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in checked.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length ({', '.join(f'{k} {v}' for k, v in lengths.items())}): give one value a row")
    for name in positive:
        bad = checked[name] <= 0
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"row {row + 1}, column {name}: {checked[name][row]:g} is not above 0: correct the cell or drop the row"
            )
    if check_units and (found := wrong_unit(checked)) is not None:
        name, row, why = found
        raise InputError(
            f"row {row + 1}, column {name}: {why}: give counts, not millions or billions "
            "(check_units=False, on the command line --any-units, if they are counts)"
        )
    return checked


def rename_rows(message: str, name: Callable[[int], str]) -> str:
    """A message with each "row k" replaced by ``name(k)``: rows of a part as those of the whole, or as lines of a file.

    Args:
      message: a line that names rows, counted from 1.
      name: what row k is called.

    Returns:
      The message.

    >>> rename_rows("row 2, column N: -3 is not above 0", lambda row: f"line {row + 1}")
    'line 3, column N: -3 is not above 0'
    """
    return re.sub(r"\brow (\d+)", lambda found: name(int(found[1])), message)


def wrong_unit(columns: Mapping[str, np.ndarray]) -> tuple[str, int, str] | None:
    """A column that looks like millions or billions: its largest is below 10⁴, or half of the rows go with no run there is.

    That is fewer tokens than a thousandth of the parameters, more than 10⁶ for each, or more than 10⁴ epochs of the unique ones.
    One row may be in another unit than the rest: N below 10⁴ and less than 10⁻⁵ of the median, or D below 1,000, less than 10⁻⁵
    of the median and less than a millionth of N. Columns that are all in one wrong unit, with the largest above 10⁴, look like
    counts, and are taken for them.

    Args:
      columns: {name: [rows]}, of which N, D and U are looked at.

    Returns:
      Its name, the row of its largest, or of the one cell, and what is wrong; None where nothing is.

    >>> wrong_unit({"N": np.array([1e9, 2e9]), "D": np.array([20e3, 200e3])})  # billions of tokens, written in millions
    ('D', 1, 'is at most 200000 tokens, 6e-05 for each parameter in the median row')
    >>> wrong_unit({"N": np.array([44, 16183.0]), "D": np.array([1e9, 3e11])})  # millions of parameters
    ('N', 1, 'is at most 16183 parameters, with 2.1e+07 tokens for each in the median row')
    >>> wrong_unit({"N": np.array([0.4, 7.0])})
    ('N', 1, 'is at most 7 parameters')
    >>> wrong_unit({"N": np.array([4e8, 7.0, 1e9])})
    ('N', 1, 'is 7 parameters, where the median row has 4e+08')
    """
    for name, unit in COUNTS.items():
        if name not in columns or not columns[name].size:
            continue
        row = int(np.argmax(columns[name]))
        largest = f"is at most {columns[name][row]:g} {unit}"
        if columns[name][row] < SMALLEST_PLAUSIBLE:
            return name, row, largest
        if name == "N" and (least := columns[name].min()) < min(SMALLEST_PLAUSIBLE, SMALLEST_SHARE * np.median(columns[name])):
            middle = f"{np.median(columns[name]):g}"
            return name, int(np.argmin(columns[name])), f"is {least:g} {unit}, where the median row has {middle}"
        if name == "D" and "N" in columns:
            strange = columns[name] < np.minimum(FEWEST_TOKENS, SMALLEST_SHARE * np.median(columns[name]))
            strange &= columns[name] < FEWEST_TOKENS_PER_PARAMETER**2 * columns["N"]
            if strange.any():
                row = int(np.argmax(strange))
                middle = f"{np.median(columns[name]):g}"
                return name, row, f"is {columns[name][row]:g} {unit}, where the median row has {middle}"
        if name == "D" and "N" in columns and (share := np.median(columns["D"] / columns["N"])) < FEWEST_TOKENS_PER_PARAMETER:
            return name, row, f"{largest}, {share:.2g} for each parameter in the median row"
        if name == "N" and "D" in columns and (share := np.median(columns["D"] / columns["N"])) > MOST_TOKENS_PER_PARAMETER:
            return name, row, f"{largest}, with {share:.2g} tokens for each in the median row"
        if name == "U" and "D" in columns and (share := np.median(columns["D"] / columns["U"])) > MOST_EPOCHS:
            return name, row, f"{largest}, read {share:.2g} times in the median row"
    return None


def pose(
    law: Law,
    columns: Mapping[str, Any],
    loss: Any,
    *,
    fixed: Mapping[str, float] | None = None,
    huber: float | str | None = "law",
    residual: str = "law",
    weights: Any = None,
    check_units: bool = True,
) -> Problem:
    """Check a table against a law and make a `Problem` of them.

    Args:
      law: the `Law`.
      columns: {name: [rows]}; those that the law does not name are left out.
      loss: [rows], nats.
      fixed: {name: value} of parameters that are held.
      huber, residual: "law" for the law's own.
      weights: [rows], at least 0; None for ones.
      check_units: as for `checked_columns`.

    Returns:
      A `Problem`.

    Raises:
      InputError: for anything that cannot be fitted, in one line.

    No example: `olm.scaling.fit` is how to use it.
    """
    fixed = dict(fixed or {})
    names = [p.name for p in law.parameters]
    if unknown := [name for name in fixed if name not in names]:
        raise InputError(f"fixed has {unknown[0]!r}: the parameters of {law.name} are {', '.join(names)}")
    if missing := [name for name in law.columns if columns.get(name) is None]:
        raise InputError(f"{law.name} needs column {missing[0]}: give {', '.join(law.columns)} and loss")
    if loss is None:
        raise InputError("no loss given: give one loss a row, in nats")
    if residual not in ("law", "log", "raw"):
        raise InputError(f'residual is {residual!r}: give "log", "raw" or "law"')
    if huber != "law" and huber is not None and not (isinstance(huber, (int, float)) and huber > 0):
        raise InputError(f"huber is {huber!r}: give a number above 0, or None (--huber none) for least squares")
    for p in law.parameters:
        if p.name in fixed and not (np.isfinite(fixed[p.name]) and (fixed[p.name] > 0 or not p.log)):
            raise InputError(f"fixed has {p.name} = {fixed[p.name]!r}: give a finite number{' above 0' if p.log else ''}")
    own = {name: columns[name] for name in law.columns}
    extra = {} if weights is None else {"weights": weights}
    positive = [*(law.columns if law.positive is None else law.positive), "loss"]
    checked = checked_columns({**own, "loss": loss, **extra}, positive, check_units)
    losses = checked.pop("loss")
    weight = checked.pop("weights", np.ones_like(losses))
    if (weight < 0).any():
        raise InputError(f"row {int(np.argmax(weight < 0)) + 1}, column weights: give weights of at least 0")
    free = tuple(p for p in law.parameters if p.name not in fixed)
    if not free:
        raise InputError("every parameter is fixed: leave at least one out of fixed")
    rows = int((weight > 0).sum())
    if rows < len(free):
        raise InputError(
            f"{rows} rows for {len(free)} parameters ({', '.join(p.name for p in free)}): add runs or hold some (fixed=, --fixed)"
        )
    if "E" in fixed and (losses <= fixed["E"]).any():
        row = int(np.argmax(losses <= fixed["E"]))
        raise InputError(
            f"row {row + 1}: loss {losses[row]:g} is not above the irreducible E = {fixed['E']:g}: lower E or drop the row"
        )
    residual = law.residual if residual == "law" else residual
    delta = law.huber if huber == "law" else huber
    shared = {
        "columns": law.prepare(dict(checked)) if law.prepare else checked,
        "fixed": {name: np.float64(value) for name, value in fixed.items()},
        "delta": np.float64(np.inf if delta is None else delta),
    }
    target = np.log(losses) if residual == "log" else losses
    return Problem(law, free, shared, {"target": target, "weights": weight}, losses, residual)


def grid(problem: Problem, starts: Any = None) -> np.ndarray:
    """Starts [S, P] in fitted coordinates: the law's grid over the free parameters, or the caller's in natural scale.

    Args:
      problem: a `Problem`.
      starts: None, or [S, P] over the law's parameters or over the free ones.

    Returns:
      [S, P].

    Raises:
      InputError: for a wrong shape or values that the coordinates cannot take.

    No example: `olm.scaling.fit` is how to use it.
    """
    if starts is None:
        return np.array(list(product(*(p.starts for p in problem.free))), np.float64)
    values = np.asarray(starts, np.float64)
    values = values[None] if values.ndim == 1 else values
    names = [p.name for p in problem.free]
    if values.ndim == 2 and values.shape[1] == len(problem.law.parameters):
        values = values[:, [p.name in names for p in problem.law.parameters]]
    if values.ndim != 2 or values.shape[1] != len(names) or not len(values):
        raise InputError(f"starts have shape {values.shape}: give [starts, {len(names)}] values of {', '.join(names)}")
    for column, p in enumerate(problem.free):
        bad = ~np.isfinite(values[:, column]) | (p.log & (values[:, column] <= 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"start {row + 1}: {p.name} = {values[row, column]:g}: give a finite number{' above 0' if p.log else ''}"
            )
    return problem.coordinates(values)
