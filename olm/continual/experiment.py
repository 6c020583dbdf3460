"""Training over a sequence of datasets: the core's loop along a plan, with every dataset measured on the way.

Forgetting and adaptation follow Ibrahim et al. 2024 (arXiv 2403.08763): the loss of a dataset is the mean over evaluations in
the last 100 steps of a phase; *forgetting* is how much the loss of an earlier dataset is above what it was at the end of its own
phase, *adaptation* the loss of the new one. AdamW's moments are reset between datasets, as there; the learning rate is not
part of the optimiser but of the plan, so that one compiled program serves every schedule.

The run is the program of `olm.train`, stopped where the losses are measured; the whole state (θ, moments, step, and with it the
place in every dataset) reaches the run folder there, from which a killed run goes on with the same bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm import policy as policies
from olm.continual.plan import Plan, account
from olm.errors import DivergenceError, InputError, check_whole
from olm.learner import Adam, adamw
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.records import Run, versions
from olm.records import fingerprint as fingerprint_of
from olm.tasks.sequence import Dataset, check, fingerprint
from olm.train import inputs, program, watch
from olm.types import Array, PyTree, Task

__all__ = ["Trajectory", "evaluator", "measure", "settings", "task", "train_sequence"]


def _functions(model: TransformerConfig) -> tuple[Any, Any]:
    return transformer.init(model), transformer.per_sequence_losses(model)


def task(datasets: Sequence[Dataset], model: TransformerConfig) -> Task:
    """All training windows laid end to end as one task; its target is the validation windows.

    Args:
      datasets: a sequence that `olm.tasks.sequence.check` accepts.
      model: the transformer; its vocabulary and length have to be those of the data.

    Returns:
      A `Task`.

    Raises:
      InputError: for datasets that do not belong together, or a model of another vocabulary or length.

    No example: see `train_sequence`.
    """
    check(datasets)
    vocabulary, length = datasets[0].vocabulary, datasets[0].train.shape[1] - 1
    if model.vocabulary != vocabulary:
        raise InputError(f"the model has {model.vocabulary} token ids, the datasets have {vocabulary}: make them equal")
    if model.length < length:
        raise InputError(f"windows of {length} tokens are longer than the model's length {model.length}: raise it")
    init, losses = _functions(model)
    train, held_out = ({"tokens": jnp.asarray(np.concatenate([getattr(one, part) for one in datasets]))} for part in
                       ("train", "validation"))  # fmt: skip
    return Task(init, losses, train, held_out, alphabet=vocabulary)


def evaluator(datasets: Sequence[Dataset], model: TransformerConfig) -> Any:
    """The losses of every dataset's held-out windows.

    Args:
      datasets, model: as for `task`.

    Returns:
      ``evaluate(params) -> {"validation": [D], "test": [D]}``, float64, nats per token.

    No example: see `train_sequence`.
    """
    parts = [getattr(one, part) for part in ("validation", "test") for one in datasets]
    tokens = jnp.asarray(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    losses_of = _window_losses(model)

    def evaluate(params: PyTree) -> dict[str, np.ndarray]:
        means = [float(part.mean()) for part in np.split(np.asarray(losses_of(params, tokens), np.float64), ends)]
        return {"validation": np.array(means[: len(datasets)]), "test": np.array(means[len(datasets) :])}

    return evaluate


@functools.cache
def _window_losses(model: TransformerConfig) -> Any:
    losses = _functions(model)[1]

    @jax.jit
    def of(params: PyTree, tokens: Array) -> Array:
        # In blocks: a large model's logits of all windows at once would not fit.
        block = math.gcd(len(tokens), 64)
        return jax.lax.map(lambda part: losses(params, {"tokens": part}), tokens.reshape(-1, block, tokens.shape[1])).reshape(-1)

    return of


@dataclass(frozen=True)
class Trajectory:
    """What a run over a sequence of datasets measured.

    Attributes:
      names: D names of datasets.
      rows: for every evaluation ``step`` (steps done), ``phase``, ``rate`` of the last step done, ``tokens`` so far, and
        ``validation`` and ``test``, the loss of each dataset in nats per token.
      before: losses at the start, by "validation" and "test", [D].
      final: losses at the end of each phase, by "validation" and "test", [phases, D]: means over the evaluations in its last
        100 steps.
      new: the dataset that each phase was about.
      account: as `olm.continual.plan.account` counts the tokens.
      params: θ_T.
    """

    names: tuple[str, ...]
    rows: list[dict[str, Any]]
    before: dict[str, np.ndarray]
    final: dict[str, np.ndarray]
    new: tuple[int, ...]
    account: list[Mapping[str, Any]]
    params: PyTree = field(repr=False, default=None)

    def measures(self, part: str = "test", before: Sequence[float] | None = None) -> dict[str, Any]:
        """Final losses, forgetting and adaptation after the last phase.

        Args:
          part: "test", or "validation" for choices.
          before: [D] losses to count forgetting from, where a dataset was learned before this run; None: where a dataset had a
            phase in this run the end of that phase, else the start of the run.

        Returns:
          ``loss`` {name: nats}, ``mean`` over the datasets seen, ``adaptation`` (loss of the last new dataset), ``forgetting``
          {earlier name: nats above its loss after it was learned}.

        No example: see `train_sequence`.
        """
        last, new = self.final[part][-1], self.new[-1]
        reference = np.array(self.before[part] if before is None else before, np.float64)
        if before is None:
            for phase, dataset in enumerate(self.new[:-1]):
                reference[dataset] = self.final[part][phase][dataset]
        seen = range(new + 1)
        return {
            "loss": {self.names[d]: float(last[d]) for d in seen},
            "mean": float(np.mean(last[: new + 1])),
            "adaptation": float(last[new]),
            "forgetting": {self.names[d]: float(last[d] - reference[d]) for d in seen if d != new},
        }


def _points(steps: Sequence[int], every: int, last: int) -> np.ndarray:
    """Steps after which to evaluate: every so often, ten times as often in the last ``last`` steps of a phase, at its end."""
    points, begin, dense = set(), 0, max(last // 10, 1)
    for length in steps:
        end = begin + length
        points |= {*range(begin + every, end, every), *range(end, max(begin, end - last), -dense)}
        begin = end
    return np.array(sorted(points))


def settings(datasets: Sequence[Dataset], model: TransformerConfig, made: Plan, adam: Adam, **more: Any) -> dict[str, Any]:
    """What identifies a run, for ``config.json``: a resumed run with other data or settings is refused by these.

    Args:
      datasets, model, made, adam: as for `train_sequence`.
      more: further settings.

    Returns:
      A JSON-like dict.

    No example: see `train_sequence`.
    """
    return {
        "kind": "continue",
        "model": asdict(model),
        "optimiser": asdict(adam),
        "plan": {
            "steps": list(made.steps),
            "new": list(made.new),
            "resets": list(made.resets),
            "batch_size": int(made.order.shape[1]),
            "fingerprint": fingerprint_of((made.order, made.rates))[:16],
        },
        "data": {"names": [one.name for one in datasets], "fingerprint": fingerprint(datasets)},
        **more,
    }


def train_sequence(
    datasets: Sequence[Dataset],
    model: TransformerConfig,
    made: Plan,
    *,
    key: Array,
    adam: Adam = Adam(),
    params: PyTree = None,
    before: Sequence[float] | None = None,
    evaluate_every: int = 50,
    last: int = 100,
    run: Run | None = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> Trajectory:
    """Train along a plan and measure every dataset on the way.

    Args:
      datasets, model: as for `task`.
      made: what is read, and the rates; see `olm.continual.plan`.
      key: fixes the initialisation.
      adam: the optimiser.
      params: θ_0, the end of an earlier run; None: a new model.
      before: as for `Trajectory.measures`, for the summary of a run folder.
      evaluate_every: steps between evaluations.
      last: final losses are means over the last so many steps of a phase, where evaluations are ten times as dense as that.
      run: an open run folder: metrics, state, and at the end parameters, curves and summary; what state it holds is continued.
      save_every: seconds between two states on disk; 0: at every evaluation.
      progress: show a bar with the losses and the time left.

    Returns:
      A `Trajectory`.

    Raises:
      InputError: for a plan that does not fit the data, or a state of another run.
      DivergenceError: when a loss is not finite; what was good before is kept.

    >>> from olm.continual.plan import plan
    >>> from olm.tasks.sequence import stories
    >>> data = stories("weak", 0, rows=64, validation=4, test=4, length=8)
    >>> made = plan(data, [4, 4], np.full(8, 1e-2), batch_size=8, replay=0.25)
    >>> model = TransformerConfig(vocabulary=256, length=8, width=8, layers=1, heads=2)
    >>> run = train_sequence(data, model, made, key=jax.random.key(0))
    >>> run.account[1]["tokens"] == {data[0].name: 64, data[1].name: 192}, run.final["test"].shape
    (True, (2, 2))

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), sections 4 and 5.
    """
    check_whole("evaluate_every", evaluate_every, 1)
    check_whole("last", last, 1)
    accounted = account(made, datasets)
    total, batch = made.order.shape
    whole = task(datasets, model)
    policy, how = policies.learning_rate(), adamw(adam, batch, made.resets)
    rates = jnp.asarray(made.rates, jnp.result_type(float))
    arguments, carry = inputs(whole, how, policy, rates, total, key, order=made.order, params=params)
    loop = program(whole, how, policy, total)
    evaluate = evaluator(datasets, model)
    points = _points(made.steps, evaluate_every, last)
    length = datasets[0].train.shape[1] - 1
    read = np.cumsum(made.counts, axis=0) * length

    def row(step: int, carry: PyTree) -> dict[str, Any]:
        losses = evaluate(carry[0])
        phase = int(np.searchsorted(made.ends, step)) if step else 0
        return {
            "step": int(step),
            "phase": phase,
            "new": datasets[made.new[phase]].name,
            "rate": float(made.rates[step - 1]) if step else 0.0,
            "tokens": {one.name: int(read[step - 1][d]) if step else 0 for d, one in enumerate(datasets)},
            **{part: {one.name: float(x) for one, x in zip(datasets, found, strict=True)} for part, found in losses.items()},
        }

    def refuse(row: Mapping[str, Any]) -> None:
        bad = [name for name, loss in row["test"].items() if not math.isfinite(loss)]
        if bad:
            raise DivergenceError(
                f"the loss of {bad[0]} is not finite after step {row['step']}: lower the learning rate, or clip gradients"
            )

    carry, rows = watch(
        loop,
        arguments,
        carry,
        points,
        row,
        refuse=refuse,
        shown=lambda row: row["validation"],
        run=run,
        identity={"plan": fingerprint_of((made.order, made.rates))[:16]},
        save_every=save_every,
        progress=progress,
    )
    trajectory = _trajectory(datasets, made, rows, last, accounted, carry[0])
    if run is not None:
        _write(run, trajectory, before)
    return trajectory


def _trajectory(
    datasets: Sequence[Dataset], made: Plan, rows: list[dict[str, Any]], last: int, accounted: Any, params: PyTree
) -> Trajectory:
    names = tuple(one.name for one in datasets)

    def losses(row: Mapping[str, Any], part: str) -> np.ndarray:
        return np.array([row[part][name] for name in names])

    final: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
    for begin, end in zip((0, *made.ends[:-1]), made.ends, strict=True):
        window = [row for row in rows if max(begin, end - last) < row["step"] <= end]
        for part, means in final.items():
            means.append(np.mean([losses(row, part) for row in window], axis=0))
    before = {part: losses(rows[0], part) for part in final}
    return Trajectory(names, rows, before, {part: np.array(x) for part, x in final.items()}, made.new, accounted, params)


def measure(params: PyTree, datasets: Sequence[Dataset], model: TransformerConfig) -> dict[str, dict[str, float]]:
    """The losses of a model on every dataset.

    Args:
      params: θ.
      datasets, model: as for `task`.

    Returns:
      ``{"validation": {name: nats}, "test": {name: nats}}``.

    No example: see `train_sequence`.
    """
    found = evaluator(datasets, model)(params)
    return {part: {one.name: float(x) for one, x in zip(datasets, losses, strict=True)} for part, losses in found.items()}


def _write(run: Run, trajectory: Trajectory, before: Sequence[float] | None) -> None:
    run.save("params", trajectory.params)
    curves = {part: np.array([[row[part][name] for name in trajectory.names] for row in trajectory.rows]) for part in
              ("validation", "test")}  # fmt: skip
    steps = np.array([row["step"] for row in trajectory.rows])
    run.save("curves", {"step": steps, "rate": np.array([row["rate"] for row in trajectory.rows]), **curves})
    run.write_summary(
        {
            "status": "finished",
            "datasets": list(trajectory.names),
            "before": {part: dict(zip(trajectory.names, x.tolist(), strict=True)) for part, x in trajectory.before.items()},
            "final": {part: x.tolist() for part, x in trajectory.final.items()},
            **trajectory.measures(before=before),
            "account": trajectory.account,
            "versions": versions(),
        }
    )
