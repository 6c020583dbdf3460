"""Several policies of one search beside each other: similarity and dropped examples against the compression ratio.

Gu et al. 2024 (Figure 7) fit SIM = c·log(a / (b − CR)): the similarity grows without bound as the compression ratio approaches
its largest value b. Given b the law is linear in (c log a, c), so b alone is searched, on a logarithmic scale of b − max CR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from olm.errors import InputError
from olm.law.study import Study

__all__ = ["SimilarityFit", "fit_similarity", "trend"]


class SimilarityFit(NamedTuple):
    """SIM = c·log(a / (b − CR)), by least squares.

    Attributes:
      a, b, c: parameters; b is the compression ratio at which the similarity diverges.
      rmse: root of the mean squared residual.
      r2: share of the variance explained.
      at_bound: b went to the end of what is searched: the points fix no asymptote, and a, b, c no more than a line's slope.
      falling: c < 0, the similarity falls as the compression ratio rises: the points contradict the law.
    """

    a: float
    b: float
    c: float
    rmse: float
    r2: float
    at_bound: bool
    falling: bool

    def predict(self, compression: Any) -> np.ndarray:
        """SIM at compression ratios below b."""
        return self.c * np.log(self.a / (self.b - np.asarray(compression, np.float64)))


def fit_similarity(compression: Any, similarity: Any) -> SimilarityFit:
    """Fit SIM = c·log(a / (b − CR)) to one point for each policy.

    Args:
      compression: [P] compression ratios.
      similarity: [P] mean similarities.

    Returns:
      A `SimilarityFit`.

    Raises:
      InputError: fewer than four points, or values that are not finite, or compression ratios that are all equal.

    Source: Gu et al. 2024, Figure 7.

    >>> ratios = np.linspace(4.0, 5.0, 8)
    >>> fit = fit_similarity(ratios, 0.3 * np.log(4.0 / (5.5 - ratios)))
    >>> round(fit.a, 4), round(fit.b, 4), round(fit.c, 4), fit.at_bound, fit.falling
    (4.0, 5.5, 0.3, False, False)
    """
    try:
        x, y = np.asarray(compression, np.float64), np.asarray(similarity, np.float64)
    except (TypeError, ValueError):
        raise InputError("compression ratios and similarities must be numbers: give two lists of the same length") from None
    if x.ndim != 1 or x.shape != y.shape or len(x) < 4 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{x.size} compression ratios and {y.size} similarities: give at least four finite pairs")
    span = float(np.ptp(x))
    if span == 0:
        raise InputError("the compression ratios are all equal: give policies of different compression")

    def solve(beyond: float) -> tuple[float, np.ndarray]:
        design = np.stack([np.ones_like(x), -np.log(x.max() + beyond - x)], axis=1)
        found = np.linalg.lstsq(design, y, rcond=None)[0]
        return float(np.sum((design @ found - y) ** 2)), found

    low, high = np.log(1e-6 * span), np.log(1e3 * span)
    grid = np.linspace(low, high, 400)
    place = int(np.argmin([solve(np.exp(u))[0] for u in grid]))
    left, right = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(80):
        inner, outer = right - golden * (right - left), left + golden * (right - left)
        left, right = (left, outer) if solve(np.exp(inner))[0] < solve(np.exp(outer))[0] else (inner, right)
    beyond = float(np.exp((left + right) / 2))
    squares, (level, c) = solve(beyond)
    total = float(np.sum((y - y.mean()) ** 2))
    with np.errstate(divide="ignore", over="ignore"):
        a = float(np.exp(level / c)) if c else float("nan")
    return SimilarityFit(
        a=a,
        b=float(x.max() + beyond),
        c=float(c),
        rmse=float(np.sqrt(squares / len(x))),
        r2=1 - squares / total if total else float("nan"),
        at_bound=place in (0, len(grid) - 1),
        falling=bool(c < 0),
    )


def trend(studies: Sequence[Study], name: str = "target") -> list[dict[str, float]]:
    """One row for each policy of a search: what Figures 7 and 8 draw.

    Args:
      studies: of policies of one task, in the search's order.
      name: ``"target"``, ``"test"`` or ``"costate"``, against whose gradient contributions are measured.

    Returns:
      Rows with ``compression_ratio`` (consistent units; of the target curve for ``costate``), ``similarity``,
      ``similarity_above_zero`` (means over steps), ``gap``, ``harmful_share``, ``harmful_weight``, and for each threshold
      ``harmful_zero@threshold`` (property 4.1) and ``zero@threshold`` (of all weights).

    Raises:
      InputError: no study, or a name that one of them has not measured.

    No example: see ``notebooks/02_the_learning_law``.
    """
    if not studies:
        raise InputError("there is no study to compare: give at least one")
    rows = []
    for one in studies:
        if name not in one.names:
            raise InputError(f"{name!r} was not measured: choose one of {', '.join(one.names)}")
        numbers, properties = one.summary(), one.properties()
        row = {
            "compression_ratio": numbers["compression_ratio"]["test" if name == "test" else "target"]["consistent"],
            "similarity": numbers["similarity"][name]["mean"],
            "similarity_above_zero": numbers["similarity"][name]["above_zero"],
            "gap": numbers["gap"],
            "harmful_share": properties["noisy"][name]["share"],
            "harmful_weight": properties["noisy"][name]["weight"],
        }
        for threshold, harmful, everything in zip(
            properties["thresholds"], properties["noisy"][name]["zero"], properties["zero"], strict=True
        ):
            row |= {f"harmful_zero@{threshold:g}": harmful, f"zero@{threshold:g}": everything}
        rows.append(row)
    return rows
