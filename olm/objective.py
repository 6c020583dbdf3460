"""What a learning curve is worth: area under the loss, compression ratio, acceleration.

A curve is L(θ_0) … L(θ_T), T+1 losses in nats. The area J = (1/T) Σ_{t=1..T} L(θ_t) leaves out L(θ_0), which no policy
can change. Maximal compression is minimal area: CR = log|V| / J with both in one unit (Gu et al. 2024, section 3.1 and
Theorem A.1). The paper's own figures for the transformer divide bits by nats; that is available by name, not by default.

An `Objective` is linear in the curve, Σ_t w_t L(θ_t): this is what lets an adjoint run without keeping any loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.types import Array

__all__ = [
    "Objective",
    "acceleration_first",
    "acceleration_least",
    "acceleration_ratio",
    "area",
    "area_under_loss",
    "compression_ratio",
    "final",
    "weighted",
]


class Objective(NamedTuple):
    """A linear functional of the target curve, Σ_t w_t L(θ_t).

    Attributes:
      name: written into run folders.
      weights: ``weights(steps) -> [T+1]`` numpy array, entry t multiplies L(θ_t).
    """

    name: str
    weights: Callable[[int], np.ndarray]


def area() -> Objective:
    """The area under the loss, J = (1/T) Σ_{t=1..T} L(θ_t) (Gu et al. 2024, Eq. 4 and 6, divided by T).

    Returns:
      An `Objective` with weight 0 at θ_0 and 1/T at θ_1 … θ_T.

    >>> area().weights(4).tolist()
    [0.0, 0.25, 0.25, 0.25, 0.25]
    """
    return Objective("area", lambda steps: np.r_[0.0, np.full(steps, 1.0 / steps)])


def final() -> Objective:
    """The loss after the last step, L(θ_T).

    Returns:
      An `Objective` with weight 1 at θ_T only.

    >>> final().weights(3).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    return Objective("final", lambda steps: np.r_[np.zeros(steps), 1.0])


def weighted(weights: Array) -> Objective:
    """Any linear functional of the curve, Σ_t w_t L(θ_t).

    Args:
      weights: [T+1], entry t multiplies L(θ_t).

    Returns:
      An `Objective`.

    Raises:
      InputError: when it meets a run of another length.

    >>> weighted([0.0, 0.5, 0.5]).weights(2).tolist()
    [0.0, 0.5, 0.5]
    """
    values = np.asarray(weights, dtype=np.float64)

    def of_length(steps: int) -> np.ndarray:
        if values.shape != (steps + 1,):
            raise InputError(f"objective weights have shape {values.shape}: a run of {steps} steps needs ({steps + 1},)")
        return values

    return Objective("weighted", of_length)


def area_under_loss(losses: Array) -> Array:
    """J = (1/T) Σ_{t=1..T} L(θ_t), in the losses' unit.

    Args:
      losses: [..., T+1], entry t at θ_t.

    Returns:
      [...].

    Source: Gu et al. 2024, Eq. 6, divided by T.

    >>> float(area_under_loss(jnp.array([9.0, 2.0, 1.0])))
    1.5
    """
    return jnp.mean(jnp.asarray(losses)[..., 1:], axis=-1)


def compression_ratio(losses: Array, alphabet: int, *, paper_units: bool = False) -> Array:
    """CR = log|V| / J with numerator and denominator in one unit.

    Args:
      losses: [..., T+1] in nats.
      alphabet: |V|, the number of symbols a prediction chooses from.
      paper_units: numerator in bits over J in nats, as the paper's transformer figures appear to be (1.4427 times larger).

    Returns:
      [...], dimensionless.

    Source: Gu et al. 2024, Theorem A.1 and section 4.3.

    >>> round(float(compression_ratio(jnp.array([0.7, 0.35, 0.35]), 2)), 3)
    1.98
    """
    numerator = np.log2(alphabet) if paper_units else np.log(alphabet)
    return numerator / area_under_loss(losses)


def _curves(baseline: Array, improved: Array) -> tuple[np.ndarray, np.ndarray]:
    pair = np.asarray(baseline, dtype=np.float64), np.asarray(improved, dtype=np.float64)
    if pair[0].shape != pair[1].shape or pair[0].ndim != 1 or len(pair[0]) < 2:
        raise InputError(f"curves have shapes {pair[0].shape} and {pair[1].shape}: give two of one shape [T+1], T ≥ 1")
    return pair


def _steps(baseline: np.ndarray, steps: Array | None) -> np.ndarray:
    at = np.arange(len(baseline), dtype=np.float64) if steps is None else np.asarray(steps, dtype=np.float64)
    if at.shape != baseline.shape:
        raise InputError(f"{at.shape} steps for curves of shape {baseline.shape}: give one step for each loss")
    return at


def _ratio(reached: np.ndarray, baseline: np.ndarray, improved: np.ndarray, steps: Array | None) -> float:
    at = _steps(baseline, steps)
    if reached.any():
        first = at[np.argmax(reached)]
        return float(at[-1] / first) if first else float("inf")
    # Never reached: how early the baseline already had what the improved curve ends with.
    below = baseline <= improved[-1]
    return float(at[np.argmax(below)] / at[-1]) if below.any() else float("nan")


def acceleration_ratio(baseline: Array, improved: Array, steps: Array | None = None) -> float:
    """T / t*, where t* is the first step from which ``improved`` stays at or below the baseline's final loss.

    When it never does, t'/T ≤ 1, where t' is the baseline's first step at or below the improved curve's final loss
    (0 when it starts there); NaN when neither exists (a curve with non-finite losses).

    Args:
      baseline, improved: [T+1] losses of two runs of one length.
      steps: [T+1], where the losses were taken if not at steps 0 … T.

    Returns:
      A float; 1 for two equal curves that fall steadily.

    Raises:
      InputError: when the shapes differ.

    Source: Gu et al. 2024, Eq. 9, with "stays" in place of "first crosses" (`acceleration_first`).

    >>> acceleration_ratio([4, 3, 2, 1, 1], [4, 1, 2, 1, 0.5])
    1.3333333333333333
    >>> acceleration_ratio([4, 3, 2, 1, 1], [4, 4, 3, 3, 3])
    0.25
    """
    base, new = _curves(baseline, improved)
    stays = np.flip(np.logical_and.accumulate(np.flip(new <= base[-1])))
    return _ratio(stays, base, new, steps)


def acceleration_first(baseline: Array, improved: Array, steps: Array | None = None) -> float:
    """T / t, where t is the first step at which ``improved`` is at or below the baseline's final loss.

    Args:
      baseline, improved: [T+1] losses of two runs of one length.
      steps: [T+1], where the losses were taken if not at steps 0 … T.

    Returns:
      A float, never below `acceleration_ratio` where both are reached.

    Raises:
      InputError: when the shapes differ.

    Source: Gu et al. 2024, Eq. 9.

    >>> acceleration_first([4, 3, 2, 1, 1], [4, 1, 2, 1, 0.5])
    4.0
    """
    base, new = _curves(baseline, improved)
    return _ratio(new <= base[-1], base, new, steps)


def acceleration_least(baseline: Array, improved: Array, steps: Array | None = None) -> float:
    """t_b / t, where the baseline is least at step t_b and ``improved`` first at or below that loss at step t.

    For baselines that rise again: these reach their own final loss early, which `acceleration_ratio` and `acceleration_first`
    credit to ``improved``. Where ``improved`` never gets there: t'/T ≤ 1, with t' the baseline's first step at or below the least
    loss of ``improved``. Read off single losses, and so too small where those scatter by more than they still fall.

    Args:
      baseline, improved: [T+1] losses of two runs of one length.
      steps: [T+1], where the losses were taken if not at steps 0 … T.

    Returns:
      A float; 1 for two equal curves, whatever their shape. NaN for losses that are not finite.

    Raises:
      InputError: when the shapes differ.

    >>> rises = [4, 3, 1, 2, 2]
    >>> acceleration_least(rises, rises), acceleration_ratio(rises, rises)
    (1.0, 2.0)
    >>> acceleration_least(rises, [4, 1, 1, 1, 1])
    2.0
    """
    base, new = _curves(baseline, improved)
    at = _steps(base, steps)
    if not (np.isfinite(base).all() and np.isfinite(new).all()):
        return float("nan")
    if new.min() > base.min():
        return float(at[np.argmax(base <= new.min())] / at[-1])
    least, reached = float(at[np.argmin(base)]), float(at[np.argmax(new <= base.min())])
    return 1.0 if least == reached else least / reached if reached else float("inf")
