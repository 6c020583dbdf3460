"""The Learning Law along a whole run: contributions, their similarity, and the properties of the weights as fractions.

θ_t is paired with γ_t (the published code pairs θ_{t+1} with γ_t). Everything is measured against the target sample, against the
held-out test set, and against the costate, whose contribution −∂J/∂γ[n,t] is what the optimum of the discrete run equalises.
The properties 4.1 to 4.3 of Gu et al. 2024 say which weights vanish under an optimal policy. A search by mirror descent never
makes an exact zero, so each fraction is given at several thresholds, beside the share of all weights that are zero there.

An update that does not depend on the gradient's length makes the weighted mean of the costate contributions zero,
Σ_n γ_n ∂J/∂γ_n = 0, hence their similarity, however equal they are: read the gap there. With clipping that holds at every step
that is clipped, with Adam for the sum over all steps.

Not done: gradients of single examples are never formed, so whether examples are linearly dependent (property 4.3) is for the
caller to know; for the perceptron they are wherever N > D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from olm import adjoint as adjoints
from olm import learner as learners
from olm.adjoint import Adjoint
from olm.errors import InputError, check_kinds, check_whole
from olm.law import sweep
from olm.law.sweep import COSTATE, Settings
from olm.objective import Objective, area, area_under_loss, compression_ratio
from olm.train import inputs, program
from olm.types import Array, Learner, Policy, PyTree, Task

__all__ = ["Study", "study"]


@dataclass(frozen=True)
class Study:
    """What was measured along a run; numpy arrays throughout, shown as figures in Jupyter.

    S steps were measured, Z thresholds make a weight zero. "Harmful" is an example whose contribution is 0 or less.

    Attributes:
      policy: the policy's name.
      at: [S] the steps.
      examples: examples of a step, B.
      alphabet: |V|.
      settings: thresholds and what else was asked for.
      curves: losses in nats at θ_0 … θ_T by name, ``target`` and ``test`` (where there is one), [T+1].
      seen: by name, ``zero`` [S, Z] (weights that are zero), ``largest`` [S] (weight), ``small``, ``learned``, ``learned_small``
        [S] (counts), ``gap`` [S] (Σ_n γ_n (G_n − min G), G = ∂J/∂γ); for ``target``, ``test`` and ``costate`` each ``mean``,
        ``spread``, ``spread_active``, ``harmful``, ``harmful_weight`` [S], ``harmful_zero`` [S, Z]; with a group ``size``,
        ``weight``, ``loss``, ``target``, ``test``, ``costate`` [S, 2] (number, sum of weights, means) and ``zero`` [S, 2, Z];
        with kept examples their ``weights``, ``losses``, ``target``, ``test``, ``costate`` [S, C].
      columns: [C] the places in the batch that are kept.
      index: [S, C] the examples there, or None for full batch, where the places are the examples.
      params: θ_T.
    """

    policy: str
    at: np.ndarray
    examples: int
    alphabet: int
    settings: Settings
    curves: dict[str, np.ndarray]
    seen: dict[str, Any]
    columns: np.ndarray
    index: np.ndarray | None
    params: PyTree

    @property
    def names(self) -> tuple[str, ...]:
        """``target``, ``test`` where there is one, ``costate``."""
        return tuple(name for name in ("target", "test", COSTATE) if name in self.seen)

    def similarity(self, name: str = "target", *, active: bool = True) -> np.ndarray:
        """SIM_t (Eq. 7) of the contributions ``name`` at every measured step, [S], over weights above zero/B; else above 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.seen[name]["mean"] / self.seen[name]["spread_active" if active else "spread"]

    def compression(self) -> dict[str, dict[str, float]]:
        """CR = log|V| / J on each curve: ``consistent`` in one unit, ``paper_mixed`` bits over nats as in the paper's figures."""
        return {
            name: {
                "consistent": float(compression_ratio(curve, self.alphabet)),
                "paper_mixed": float(compression_ratio(curve, self.alphabet, paper_units=True)),
            }
            for name, curve in self.curves.items()
        }

    def properties(self) -> dict[str, Any]:
        """Properties 4.1 (noisy), 4.2 (learned) and 4.3 (redundant) as fractions over all measured steps; NaN of nothing.

        Lists go with the thresholds. ``noisy``: of the harmful examples, how many weigh nothing. ``learned``: of the learned
        ones, how many weigh less than ``small`` times the largest. ``redundant``: of those that are not harmful, how many weigh
        nothing, and the share of steps where one does. Beside each: the same share of all weights.
        """
        total = len(self.at) * self.examples
        everything = self.seen["zero"].sum(axis=0) / total
        learned = self.seen["learned"].sum()
        noisy, redundant = {}, {}
        for name in self.names:
            part = self.seen[name]
            harmful, helpful = part["harmful"].sum(), total - part["harmful"].sum()
            helpful_zero = self.seen["zero"] - part["harmful_zero"]
            noisy[name] = {
                "zero": _share(part["harmful_zero"].sum(axis=0), harmful),
                "share": harmful / total,
                "weight": float(part["harmful_weight"].mean()),
            }
            redundant[name] = {
                "zero": _share(helpful_zero.sum(axis=0), helpful),
                "steps_with_zero": (helpful_zero > 0).mean(axis=0).tolist(),
            }
        return {
            "thresholds": list(self.settings.thresholds),
            "zero": everything.tolist(),
            "noisy": noisy,
            "learned": {
                "below": self.settings.learned if self.settings.quantile is None else None,
                "quantile": self.settings.quantile,
                "share": float(learned / total),
                "small": _share(self.seen["learned_small"].sum(), learned),
                "small_of_all": float(self.seen["small"].sum() / total),
            },
            "redundant": redundant,
        }

    def groups(self) -> dict[str, np.ndarray]:
        """Group 0 (clean) and 1 (corrupted) by step: ``weight`` relative to uniform, ``zero`` (shares), means of the rest.

        Returns:
          ``size``, ``weight``, ``loss``, ``target``, ``test``, ``costate`` [S, 2] and ``zero`` [S, 2, Z]; empty without a group.
        """
        if "group" not in self.seen:
            return {}
        part = dict(self.seen["group"])
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = part["weight"] * self.examples / part["size"]
            return part | {"weight": relative, "zero": part["zero"] / part["size"][..., None]}

    def summary(self) -> dict[str, Any]:
        """All numbers of the run, JSON-like: areas and compression in nats, mean SIM, gap, properties, groups' means.

        Returns:
          A dict; means of SIM leave out steps where it is not finite and count them.
        """
        similar = {}
        for name in self.names:
            each = {"mean": self.similarity(name), "above_zero": self.similarity(name, active=False)}
            finite = {key: x[np.isfinite(x)] for key, x in each.items()}
            similar[name] = {key: float(x.mean()) if x.size else float("nan") for key, x in finite.items()}
            similar[name]["steps_left_out"] = int(len(self.at) - len(finite["mean"]))
        found: dict[str, Any] = {
            "policy": self.policy,
            "steps": len(self.curves["target"]) - 1,
            "steps_measured": len(self.at),
            "area": {name: float(area_under_loss(curve)) for name, curve in self.curves.items()},
            "compression_ratio": self.compression(),
            "similarity": similar,
            "gap": float(self.seen["gap"].mean()),
            "properties": self.properties(),
        }
        if groups := self.groups():
            at = int(np.argmin(np.abs(np.array(self.settings.thresholds) - self.settings.zero)))
            columns = {**groups, "zero": groups["zero"][..., at]}
            means = {name: np.nanmean(column, axis=0) for name, column in columns.items()}
            found["groups"] = {name: {"clean": float(x[0]), "corrupted": float(x[1])} for name, x in means.items()}
        return found

    def tables(self) -> dict[str, Any]:
        """Everything by step as a tree of arrays, for a file and for figures."""
        groups = self.groups()
        return {
            "at": self.at,
            "examples": np.asarray(self.examples),
            "thresholds": np.asarray(self.settings.thresholds),
            "learned": np.asarray([np.nan if x is None else x for x in (self.settings.learned, self.settings.quantile)]),
            "small": np.asarray(self.settings.small),
            "curves": self.curves,
            "similarity": {name: self.similarity(name) for name in self.names},
            "similarity_above_zero": {name: self.similarity(name, active=False) for name in self.names},
            "seen": {key: value for key, value in self.seen.items() if key not in ("group", "kept")},
            **({"group": groups} if groups else {}),
            **({"kept": {**self.seen["kept"], "columns": self.columns}} if "kept" in self.seen else {}),
        }

    def _repr_html_(self) -> str:
        from olm import plots
        from olm.plots import law

        def curves(ax: Any) -> Any:
            return plots.loss_curves(self.curves.get("test", self.curves["target"]), ax=ax)

        return plots.inline(curves, lambda ax: law.over_steps(self.at, {n: self.similarity(n) for n in self.names}, ax))


def _share(part: Any, whole: float) -> Any:
    """part / whole, NaN where there is nothing, as Python numbers."""
    return (np.asarray(part, np.float64) / (whole or np.nan)).tolist()


def _kept(keep: str | int, batch: int) -> int:
    if keep == "all":
        return batch
    if keep == "summaries":
        return 0
    if isinstance(keep, str):
        raise InputError(f"keep={keep!r}: choose summaries, all, or a number of examples")
    return min(check_whole("keep", keep, least=0), batch)


def study(
    task: Task,
    learner: Learner,
    policy: Policy,
    phi: PyTree,
    *,
    steps: int,
    key: Array,
    objective: Objective | None = None,
    adjoint: Adjoint | None = None,
    keep: str | int = "summaries",
    every: int | None = None,
    group: Any = None,
    thresholds: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1),
    zero: float = 1e-2,
    learned: float = 1e-6,
    quantile: float | None = None,
    small: float = 0.2,
    held_out: bool = True,
) -> Study:
    """Measure the Learning Law along a run: CT_n(t) = ∇L(θ_t)·∇ℓ_n(θ_t), −∂J/∂γ[n,t], SIM_t and the zero weights.

    The weights that the policy gives along the run are taken as a table: −∂J/∂γ is `olm.policy_gradient` of that table.

    Args:
      task, learner, policy, phi, steps, key: as for `olm.train`.
      objective: of the costates; None: `olm.objective.area`.
      adjoint: None: `olm.adjoint.segmented`; with ``residuals`` nothing is gained here.
      keep: ``"summaries"``, ``"all"`` or how many examples, evenly spaced, are kept one by one (memory T·B for all).
      every: contributions are measured at steps 0, ``every``, 2·``every`` …; curves and costates are those of all steps. None: at
        up to 250 steps, evenly spaced. At every step a study takes 1.2 to 1.4 policy gradients on the target alone and up to 1.6
        with as many held-out examples, at every eighth 1.1 and 1.2.
      group: [N] 0 or 1, for example 1 for corrupted.
      thresholds: weights up to threshold/B count as zero.
      zero: an example of at most zero/B is not active, and SIM_t leaves it out: mirror descent makes no exact zeros.
      learned: an example of a loss below this, in nats, is learned.
      quantile: instead, that is an example among this share of the least losses of its step (where none is ever learned).
      small: a weight below this times the largest of its step is small.
      held_out: measure on ``task.test``, too, whose gradient is then taken at every measured step.

    Returns:
      A `Study`.

    Raises:
      InputError: as `olm.train`, and for a group of another length or settings out of range.

    Source: Gu et al. 2024, Theorem 3.1, Eq. 7, section 4.4.

    >>> import optax, olm
    >>> import jax.numpy as jnp
    >>> task = olm.Task(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, train=jnp.array([0.0, 2.0]), target=jnp.ones(1))
    >>> learner, uniform = olm.Learner(optax.sgd(0.25)), olm.policy.uniform()
    >>> found = study(task, learner, uniform, (), steps=2, key=jax.random.key(0), keep="all")
    >>> found.seen["kept"]["target"].tolist(), found.seen["kept"]["costate"].tolist()
    ([[0.0, 8.0], [-1.0, 3.0]], [[0.0, 0.625], [-0.0625, 0.1875]])
    """
    objective, adjoint = objective or area(), adjoint or adjoints.segmented()
    check_kinds(objective=(objective, Objective), adjoint=(adjoint, Adjoint), task=(task, Task))
    every = math.ceil(steps / 250) if every is None else check_whole("every", every, least=1)
    arguments, carry = inputs(task, learner, policy, phi, steps, key, test=task.test if held_out else None)
    n_examples = learners.examples(task.train)
    batch = learners.batch_size(learner, n_examples)
    settings = Settings(every, _kept(keep, batch), tuple(map(float, thresholds)), zero, learned, quantile, small)
    _check(settings)
    members = None
    if group is not None:
        members = np.asarray(group)
        if members.shape != (n_examples,) or not np.isin(members, (0, 1)).all():
            what = f"shape {members.shape}" if members.shape != (n_examples,) else "other values than 0 and 1"
            raise InputError(f"group has {what}: give one 0 or 1 for each of the {n_examples} training examples")
        members = members.astype(np.int32)
    weights = objective.weights(steps)
    seen, curves, params = sweep.run(task, learner, policy, arguments, carry, members, weights, adjoint, settings)
    at = np.arange(0, steps, every)
    found = {"target": curves["target"]}
    if arguments.data.get("test") is not None:
        last = program(task, learner, policy, steps).cost((params, None), {"target": task.test})
        found["test"] = np.append(curves["test"], np.asarray(last))
    places = sweep.columns(settings.kept, batch)
    index = arguments.aux[1]
    drawn = None if index is None else np.asarray(index[at][:, places])
    return Study(
        policy.name,
        at,
        batch,
        task.alphabet,
        settings,
        found,
        jax.tree.map(np.asarray, seen),
        places,
        drawn,
        jax.device_get(params),
    )


def _check(settings: Settings) -> None:
    for name, value, low, high in (
        ("zero", settings.zero, 0, 1),
        ("learned", settings.learned, 0, np.inf),
        ("quantile", settings.quantile, 0, 1),
        ("small", settings.small, 0, 1),
        *(("thresholds", value, 0, 1) for value in settings.thresholds),
    ):
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}: give a number from {low} to {high}")
    if not settings.thresholds:
        raise InputError("thresholds is empty: give at least one, for example 0")
