"""What a search returns, and how much faster it learns than where the search began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from olm import policy as policies
from olm.objective import acceleration_first, acceleration_least, acceleration_ratio, area_under_loss, compression_ratio
from olm.train import Curve
from olm.types import Policy, PyTree

__all__ = ["Kept", "Solution", "above_entropy", "compare"]


def compare(baseline: Curve, found: Curve, alphabet: int, held_out: bool = True) -> dict[str, Any]:
    """How one curve does against another, on the test set if there is one and ``held_out``, else on the target set.

    Args:
      baseline, found: curves of one length.
      alphabet: |V|.
      held_out: False: compare on the target set.

    Returns:
      A dict of floats: ``acceleration`` (stays below), ``acceleration_first`` (first crossing), ``acceleration_least`` (to the
      baseline's least loss), ``area_ratio`` and ``final_ratio`` (found over baseline, below 1 is better), ``step_length_ratio``
      (mean ‖θ_{t+1} − θ_t‖, found over baseline), ``compression_ratio`` ({"baseline", "found", "unit"}), ``area`` and ``final``
      in nats, ``measured_on``.

    No example: needs two trained curves; see `olm.find_policy`.
    """
    on_test = held_out and baseline.test is not None and found.test is not None
    base = np.asarray(baseline.test if on_test else baseline.target, np.float64)
    new = np.asarray(found.test if on_test else found.target, np.float64)
    areas = [float(area_under_loss(x.astype(np.float32))) for x in (base, new)]
    with np.errstate(all="ignore"):  # of curves that diverged
        area_ratio = float(np.divide(areas[1], areas[0]))
        final_ratio = float(new[-1] / base[-1])
        step_length_ratio = float(np.mean(found.step_lengths) / np.mean(baseline.step_lengths))
    return {
        "measured_on": "test" if on_test else "target",
        "acceleration": acceleration_ratio(base, new),
        "acceleration_first": acceleration_first(base, new),
        "acceleration_least": acceleration_least(base, new),
        "area": {"baseline": areas[0], "found": areas[1]},
        "area_ratio": area_ratio,
        "final": {"baseline": float(base[-1]), "found": float(new[-1])},
        "final_ratio": final_ratio,
        "step_length_ratio": step_length_ratio,
        "compression_ratio": {
            "baseline": float(compression_ratio(base, alphabet)),
            "found": float(compression_ratio(new, alphabet)),
            "unit": "nats over nats",
        },
    }


def compare_at(baseline: Curve, found: Curve, weights: Any) -> dict[str, Any]:
    """`compare` for curves that were measured at the objective's own steps alone.

    Args:
      baseline, found: curves, NaN at the other steps.
      weights: [T+1], those of the objective.

    Returns:
      A dict like that of `compare`, with ``objective`` and ``objective_ratio``; None for what takes whole curves.

    No example: needs two trained curves; see `olm.find_policy`.
    """
    on_test = baseline.test is not None and found.test is not None
    at = np.flatnonzero(weights)
    sides = {"baseline": baseline, "found": found}
    losses = {side: np.asarray(c.test if on_test else c.target, np.float64) for side, c in sides.items()}
    objective = {side: float(np.asarray(weights)[at] @ x[at]) for side, x in losses.items()}
    final = {side: float(x[at[-1]]) for side, x in losses.items()}
    whole = ("acceleration", "acceleration_first", "acceleration_least", "area_ratio", "step_length_ratio")
    return {
        "measured_on": "test" if on_test else "target",
        "objective": objective,
        "objective_ratio": objective["found"] / objective["baseline"],
        "final": final,
        "final_ratio": final["found"] / final["baseline"],
        **dict.fromkeys(whole),
    }


def above_entropy(measures: Mapping[str, Any], entropy: float | None) -> dict[str, float]:
    """The ratio of the areas above the loss that no model can beat, (J_found − h) / (J_baseline − h).

    Args:
      measures: what `compare` returned.
      entropy: h in nats, or None where it is not known.

    Returns:
      ``{"area_above_entropy_ratio": ratio}`` to add to the measures; {} without an entropy.

    >>> above_entropy({"area": {"baseline": 3.0, "found": 2.0}}, 1.0)
    {'area_above_entropy_ratio': 0.5}
    """
    if entropy is None:
        return {}
    baseline, found = (measures["area"][side] - entropy for side in ("baseline", "found"))
    return {"area_above_entropy_ratio": found / baseline}


class Kept(NamedTuple):
    """A good point of a search.

    Attributes:
      evaluation: its number; one more than there are: the step after the last.
      value: what decided: the validation objective, or the objective, without the part that θ_0 has.
      phi: the policy's parameters.
    """

    evaluation: int
    value: float
    phi: PyTree


@dataclass(frozen=True)
class Solution:
    """A found policy, shown as figures in Jupyter.

    Attributes:
      policy, phi: the policy class and its parameters: the best evaluation on validation, or the start itself.
      curve, baseline: `Curve` of the found policy and of the start, on the same examples from the same θ_0.
      history: one dict an evaluation: evaluation, objective, validation, final, sample_share, scale, accepted, message, rate,
        seconds.
      status: "finished", "stopped" (validation no longer improved), "interrupted" or "diverged".
      message: why it ended, one line.
      best_evaluation: which evaluation's policy this is; 0: the start; one more than there are: the step after the last.
      alphabet: |V| of the task.
      measures: `compare` of the two curves, or `compare_at` where they were measured at few steps.
      kept: the best points, best first, as many as `olm.find_policy` was asked to keep.
    """

    policy: Policy
    phi: PyTree
    curve: Curve
    baseline: Curve
    history: list[dict[str, Any]]
    status: str
    message: str
    best_evaluation: int
    alphabet: int
    measures: dict[str, Any] = field(repr=False)
    kept: tuple[Kept, ...] = field(default=(), repr=False)

    @property
    def acceleration(self) -> float:
        """T / t*, t* the first step from which the found curve stays at or below the baseline's final loss."""
        return self.measures["acceleration"]

    @property
    def acceleration_first(self) -> float:
        """The paper's acceleration, by first crossing (Gu et al. 2024, Eq. 9)."""
        return self.measures["acceleration_first"]

    @property
    def area_ratio(self) -> float:
        """Area under the found curve over the baseline's; below 1 is better."""
        return self.measures["area_ratio"]

    @property
    def final_ratio(self) -> float:
        """Final loss of the found curve over the baseline's."""
        return self.measures["final_ratio"]

    @property
    def step_length_ratio(self) -> float:
        """Mean step length of the found run over the baseline's: how much of the gain could be longer steps."""
        return self.measures["step_length_ratio"]

    @property
    def compression_ratio(self) -> float:
        """log|V| / J of the found curve, one unit (Gu et al. 2024, section 4.3)."""
        return self.measures["compression_ratio"]["found"]

    def summary(self) -> dict[str, Any]:
        """Everything of a solution that is a number or a line, as written to ``summary.json``."""
        return {
            **self.measures,
            **({} if "objective_ratio" in self.measures else {"on_target": self._on_target()}),
            "alphabet": self.alphabet,
            "policy": self.policy.name,
            "evaluations": len(self.history),
            "best_evaluation": self.best_evaluation,
            "status": self.status,
            "message": self.message,
            "seconds": float(sum(row["seconds"] for row in self.history)),
        }

    def _on_target(self) -> dict[str, Any]:
        return compare(self.baseline, self.curve, self.alphabet, held_out=False)

    def save(self, path: str | Path) -> Path:
        """Write policy and parameters to one ``.npz``; `olm.policy.load` reads those of `olm.policy`'s own classes.

        Args:
          path: file to write, replaced atomically.

        Returns:
          The path.

        No example: writes a file; see `olm.policy.save`.
        """
        return policies.save(path, self.policy, self.phi)

    def _repr_html_(self) -> str:
        from olm import plots

        on_test = self.measures["measured_on"] == "test"
        base, found = (np.asarray(c.test if on_test else c.target) for c in (self.baseline, self.curve))
        drawings = [lambda ax: plots.objective_history(self.history, ax=ax, best=self.best_evaluation)]
        if "objective_ratio" not in self.measures:  # else the curves were measured at a few steps: nothing to draw
            drawings.insert(0, lambda ax: plots.loss_curves(base, found, ax=ax, label=f"{self.measures['measured_on']} loss"))
        return plots.inline(*drawings)
