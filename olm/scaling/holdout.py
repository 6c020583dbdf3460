"""How well a law extrapolates: fitted on the smaller runs of a table, judged on the larger ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.scaling.fit import fit
from olm.scaling.laws import Law, named
from olm.scaling.problem import pose, rename_rows

__all__ = ["holdout"]


def holdout(
    N: Any = None,
    D: Any = None,
    loss: Any = None,
    *,
    law: str | Law = "chinchilla",
    largest: Any = 0.2,
    compute: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fit the smaller runs, and report the error on the larger ones, which the fit never sees.

    Args:
      N, D, loss: [rows], as for `fit`.
      law: as for `fit`.
      largest: which rows are held out: a share of the rows, those of most compute (0.2); a number above 1: all rows of at
        least that compute; or a mask [rows].
      compute: [rows] compute of the runs, in any unit; None: 6·N·D.
      settings: further arguments of `fit`, columns included.

    Returns:
      ``fit`` (a `Fit`), ``rows`` (a dict for each run held out: ``row`` counted from 1, its columns, ``loss``, ``predicted``,
      ``error_percent`` = 100·(predicted − loss)/loss), ``mean_absolute_percent``, ``worst_percent``, ``bias_percent``.

    Raises:
      InputError: if nothing, or too much, is held out.

    >>> rng = np.random.default_rng(0)
    >>> N, D = 10 ** rng.uniform(7, 10, 60), 10 ** rng.uniform(9, 12, 60)
    >>> loss = (1.7 + 400 / N**0.34 + 400 / D**0.28) * np.exp(0.001 * rng.normal(size=60))
    >>> held = holdout(N, D, loss, largest=0.25, starts=[[1.5, 100.0, 1000.0, 0.3, 0.3]])
    >>> len(held["rows"]), held["mean_absolute_percent"] < 1
    (15, True)
    """
    law = named(law) if isinstance(law, str) else law
    plain = {name: settings.pop(name) for name in list(settings) if name in law.columns}
    weights = settings.pop("weights", None)
    given = {name: value for name, value in {"N": N, "D": D, **plain}.items() if value is not None}
    checked = settings.get("check_units", True)
    problem = pose(law, given, loss, weights=weights, fixed=settings.get("fixed"), check_units=checked)
    table = {name: np.asarray(value, np.float64) for name, value in given.items()}
    losses = problem.loss
    out = _held(largest, compute, table, len(losses))
    used = {name: value[~out] for name, value in table.items()}
    if weights is not None:
        used["weights"] = problem.own["weights"][~out]
    if settings.get("groups") is not None:
        labels = np.asarray(settings.pop("groups"))
        if labels.shape != losses.shape:
            raise InputError(f"groups have shape {labels.shape}: give one label for each of {len(losses)} rows")
        settings["groups"] = labels[~out]
    kept = np.flatnonzero(~out)

    def of_all(message: str) -> str:
        return rename_rows(message, lambda row: f"row {kept[row - 1] + 1}")

    try:
        found = fit(loss=losses[~out], law=law, **used, **settings)
    except InputError as fault:
        raise InputError(of_all(str(fault))) from None
    found = replace(found, message=of_all(found.message))
    predicted = found.predict(**{name: value[out] for name, value in table.items()})
    error = 100 * (predicted / losses[out] - 1)
    rows = [
        {
            "row": int(row) + 1,
            **{name: float(value[row]) for name, value in table.items()},
            "loss": float(losses[row]),
            "predicted": float(predicted[i]),
            "error_percent": float(error[i]),
        }
        for i, row in enumerate(np.flatnonzero(out))
    ]
    return {
        "fit": found,
        "rows": rows,
        "mean_absolute_percent": float(np.abs(error).mean()),
        "worst_percent": float(np.abs(error).max()),
        "bias_percent": float(error.mean()),
    }


def _held(largest: Any, compute: Any, table: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Which rows [rows] are held out."""
    if np.ndim(largest) == 1:
        out = np.asarray(largest)
        if out.dtype != bool or len(out) != rows:
            raise InputError(f"largest is a mask of {len(out)} {out.dtype} values: give True or False for each of {rows} rows")
    else:
        if compute is None and not {"N", "D"} <= set(table):
            raise InputError(
                "no columns N and D to order runs by: give FLOPs (a column C, in Python compute=), or largest= as a mask"
            )
        flops = 6 * table["N"] * table["D"] if compute is None else np.asarray(compute, np.float64)
        if flops.shape != (rows,):
            raise InputError(f"compute has shape {flops.shape}: give one number for each of {rows} rows")
        if not np.ndim(largest) == 0 or not float(largest) > 0:
            raise InputError(f"largest is {largest!r}: give a share of the rows below 1, a compute above 1, or a mask")
        if float(largest) < 1:
            out = np.zeros(rows, bool)
            out[np.argsort(flops, kind="stable")[rows - max(1, round(float(largest) * rows)) :]] = True
        else:
            out = flops >= float(largest)
    if not out.any():
        raise InputError("no row is held out: lower largest")
    return out
