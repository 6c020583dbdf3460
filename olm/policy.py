"""Learning policies: the weight γ[n,t] of every example at every step as a function of parameters φ.

`table` is the paper's policy, one weight for each step and example (Gu et al. 2024, section 2); `static` is the
time-invariant case of PDS (Gu et al. 2025, section 2); `piecewise` lies between them; `scorer` replaces a table by a few
numbers; `mixture` weighs whole datasets, `learning_rate` leaves the weights uniform and scales each step, `combined` does
both. A policy of one's own is a `Policy` of functions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from olm.errors import InputError
from olm.records import load_arrays, load_meta, save_arrays
from olm.simplex import broadcast_prefix
from olm.types import Array, Box, Free, Policy, PyTree, Simplex, Task, Time

__all__ = [
    "combined",
    "join",
    "late",
    "learning_rate",
    "load",
    "loss_features",
    "mixture",
    "piecewise",
    "save",
    "scorer",
    "split",
    "static",
    "table",
    "uniform",
]


@functools.cache
def uniform() -> Policy:
    """Every example of a step weighs the same, γ = 1/B. No parameters.

    Returns:
      A `Policy` with φ = ().

    >>> uniform().weights((), Time(0, 10), jnp.arange(4), None).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def weights(phi_t: PyTree, t: Time, index: Array, features: PyTree) -> Array:
        return jnp.full(index.shape, 1 / index.shape[0])

    return Policy("uniform", lambda steps, examples, batch: (), weights, False, Free())


@functools.cache
def table() -> Policy:
    """One weight for every step and example: φ *is* γ [T, B], rows on the simplex, used as it is.

    With mini-batches column b weighs the b-th example drawn at that step.

    Returns:
      A `Policy` with φ [T, B].

    Source: Gu et al. 2024, section 4.1.

    >>> table().init(2, 4, 4).tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """

    def init(steps: int, examples: int, batch: int) -> Array:
        return jnp.full((steps, batch), 1 / batch)

    return Policy("table", init, lambda phi_t, t, index, features: phi_t, True, Simplex())


def _drawn(weights_N: Array, index: Array) -> Array:
    """The weights of the drawn examples, summing to one over the step."""
    if weights_N.shape == index.shape:  # full batch: index is 0 … N−1 and the row is on the simplex already
        return weights_N
    drawn = weights_N[index]
    total = jnp.sum(drawn)
    # Where none of the drawn examples weighs anything there is nothing to learn from: weights of zero, not 0/0.
    return drawn / jnp.where(total > 0, total, 1)


@functools.cache
def static() -> Policy:
    """One weight for every example, the same at all steps: φ [N] on the simplex.

    With mini-batches the weights are normalised over the examples drawn: γ_b = φ[i_b] / Σ_c φ[i_c], or all zero where these are.

    Returns:
      A `Policy` with φ [N].

    Source: Gu et al. 2025 (PDS), section 2.

    >>> static().weights(jnp.array([0.5, 0.25, 0.25]), Time(0, 1), jnp.array([1, 2]), None).tolist()
    [0.5, 0.5]
    """

    def init(steps: int, examples: int, batch: int) -> Array:
        return jnp.full(examples, 1 / examples)

    return Policy("static", init, lambda phi_t, t, index, features: _drawn(phi_t, index), False, Simplex())


@functools.cache
def piecewise(pieces: int = 8) -> Policy:
    """Weights that are constant over each of P equal stretches of the run: φ [P, N], rows on the simplex.

    Step t uses row ⌊tP/T⌋; mini-batches normalise as in `static`.

    Args:
      pieces: P ≥ 1.

    Returns:
      A `Policy` with φ [P, N].

    Raises:
      InputError: for P below 1.

    >>> phi = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> piecewise(2).weights(phi, Time(5, 8), jnp.arange(2), None).tolist()
    [0.0, 1.0]
    """
    _whole_pieces("piecewise", pieces, 1)

    def init(steps: int, examples: int, batch: int) -> Array:
        return jnp.full((pieces, examples), 1 / examples)

    def weights(phi_t: Array, t: Time, index: Array, features: PyTree) -> Array:
        return _drawn(phi_t[t.step * pieces // t.steps], index)

    return Policy("piecewise", init, weights, False, Simplex(), config=(("pieces", pieces),))


def loss_features(task: Task, params: PyTree, batch: PyTree, target: PyTree) -> Array:
    """Margin and loss of each example at θ_t, [B, 2].

    The margin is the log-odds of the right answer, log(p / (1−p)) = −ℓ − log(1 − e^(−ℓ)) with p = e^(−ℓ); for the perceptron
    it is exactly (2y − 1) θ·z. It is taken at ℓ ≥ 10⁻⁶ so that learned examples have a finite one (13.8).

    Args:
      task: supplies the losses.
      params, batch, target: the model, the step's examples, the target sample (unused).

    Returns:
      [B, 2]: margin (nats), loss (nats).

    >>> task = Task(init=None, losses=lambda w, x: x * w, train=None, target=None)
    >>> loss_features(task, 1.0, jnp.array([jnp.log(2.0), 100.0]), None).round(2).tolist()
    [[0.0, 0.69], [-100.0, 100.0]]
    """
    losses = task.losses(params, batch)
    floored = jnp.maximum(losses, 1e-6)
    # Not −log(expm1(ℓ)), which is −∞ from ℓ = 89 on in float32.
    return jnp.stack([-floored - jnp.log(-jnp.expm1(-floored)), losses], axis=-1)


@functools.cache
def scorer() -> Policy:
    """Weights from what the model thinks of an example: softmax over the batch of a linear score.

    score_n = Σ_f (φ[0,f] + φ[1,f]·t/T) x_f,n with features x = (margin, loss) of `loss_features`: linear in margin,
    loss and step (a term in the step alone cancels in the softmax). γ depends on θ_t, and the policy gradient includes
    that dependence exactly.

    Returns:
      A `Policy` with φ [2, 2]; φ = 0 is uniform.

    >>> scorer().init(10, 4, 4).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """

    def weights(phi_t: Array, t: Time, index: Array, features: Array) -> Array:
        slope = phi_t[0] + phi_t[1] * (jnp.asarray(t.step, phi_t.dtype) / t.steps)
        return jax.nn.softmax(features @ slope)

    return Policy("scorer", lambda steps, examples, batch: jnp.zeros((2, 2)), weights, False, Free(), features=loss_features)


@functools.cache
def mixture(sizes: tuple[int, ...], pieces: int = 1) -> Policy:
    """The share of each dataset in a step's weight, constant over each of P equal stretches of the run.

    The N examples are those of dataset 0, then of dataset 1, …; with c_d examples of dataset d in the step's batch,
    γ_b = φ[p, d(b)] / c_d(b), p = ⌊tP/T⌋, divided by the sum over the datasets that the batch has. So a dataset weighs its share
    whatever the number of its examples, and the share has a derivative. `olm.continual.plan` reads shares as numbers of
    examples instead.

    Args:
      sizes: N_d, the number of examples of each dataset, in their order.
      pieces: P ≥ 1.

    Returns:
      A `Policy` with φ [P, datasets], rows on the simplex, at first N_d / N: uniform weights where a batch has as much of each.

    Raises:
      InputError: for fewer than two datasets, an empty one, or P below 1.

    Source: Xie et al. 2023 (DoReMi, arXiv 2305.10429), section 2, weighs domains in this way.

    >>> phi = jnp.array([[0.2, 0.8]])
    >>> mixture((4, 6)).weights(phi, Time(0, 1), jnp.array([0, 5, 9]), None).round(2).tolist()
    [0.2, 0.4, 0.4]
    """
    sizes = tuple(sizes)
    if len(sizes) < 2 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise InputError(f"mixture(sizes={sizes}): give the number of examples of each of two datasets or more")
    _whole_pieces("mixture", pieces, 1)
    ends = tuple(sum(sizes[: place + 1]) for place in range(len(sizes)))

    def init(steps: int, examples: int, batch: int) -> Array:
        if examples != ends[-1]:
            raise InputError(f"mixture(sizes={sizes}): the datasets have {ends[-1]} examples, the task has {examples}")
        return jnp.broadcast_to(jnp.asarray(sizes, jnp.result_type(float)) / ends[-1], (pieces, len(sizes)))

    def weights(phi_t: Array, t: Time, index: Array, features: PyTree) -> Array:
        shares = phi_t[t.step * pieces // t.steps]
        of = jnp.searchsorted(jnp.asarray(ends), index, side="right")
        counts = jnp.bincount(of, length=len(sizes))
        each = shares[of] / counts[of]
        total = jnp.sum(each)
        return each / jnp.where(total > 0, total, 1)

    return Policy("mixture", init, weights, False, Simplex(), config=(("sizes", sizes), ("pieces", pieces)))


def _whole_pieces(name: str, pieces: object, least: int) -> None:
    if not isinstance(pieces, int) or isinstance(pieces, bool) or pieces < least:
        raise InputError(f"{name}(pieces={pieces}): give a whole number of at least {least}")


@functools.cache
def learning_rate(upper: float = float("inf"), pieces: int | None = None) -> Policy:
    """Uniform weights, and a factor in [0, upper] on the learner's update at every step.

    ``pieces=None``: φ[t] is the factor of step t. ``pieces=P``: φ [P+1] are its values at both ends of P equal stretches of the
    run, linear in between, step t at place P·t/(T−1). ``pieces=0``: one factor for the whole run, the peak of the learner's own
    schedule. A schedule becomes a policy by `olm.schedules.rates`, with a learner of rate 1.

    Args:
      upper: the largest factor.
      pieces: None, or P ≥ 0.

    Returns:
      A `Policy` with φ [T] or [P+1], 1 at first, or ``upper`` if that is less.

    Raises:
      InputError: for an upper bound that is not positive, or P below 0.

    >>> learning_rate().init(3, 4, 4).tolist()
    [1.0, 1.0, 1.0]
    >>> float(learning_rate(pieces=2).rate(jnp.array([1.0, 0.5, 0.0]), Time(3, 5)))
    0.25
    """
    if not upper > 0:
        raise InputError(f"learning_rate(upper={upper}): give a positive bound")
    if pieces is not None:
        _whole_pieces("learning_rate", pieces, 0)

    def knots(phi: Array, t: Time) -> Array:
        if not pieces:
            return phi[0]
        place = jnp.asarray(t.step, phi.dtype) * pieces / max(t.steps - 1, 1)
        left = jnp.clip(place.astype(jnp.int32), 0, pieces - 1)
        return phi[left] + (place - left) * (phi[left + 1] - phi[left])

    return Policy(
        "learning_rate",
        lambda steps, examples, batch: jnp.full(steps if pieces is None else pieces + 1, min(1.0, upper)),
        uniform().weights,
        pieces is None,
        Box(0.0, upper),
        rate=(lambda phi_t, t: phi_t) if pieces is None else knots,
        config=(("upper", upper),) if pieces is None else (("upper", upper), ("pieces", pieces)),
    )


def combined(weights: Policy | tuple[Any, ...], rate: Policy | tuple[Any, ...]) -> Policy:
    """The weights of one policy with the rate of another, both searched at once: φ = (φ_weights, φ_rate).

    Args:
      weights: a policy of examples, such as `mixture`; or its (name, config).
      rate: a policy with a rate, such as `learning_rate`; or its (name, config).

    Returns:
      A `Policy`.

    Raises:
      InputError: when ``weights`` changes the rate as well, or ``rate`` does not.

    >>> policy = combined(mixture((4, 6)), learning_rate(pieces=2))
    >>> shares, factors = policy.init(100, 10, 5)
    >>> shares.shape, factors.shape
    ((1, 2), (3,))
    """
    of, by = (one if isinstance(one, Policy) else named(one[0], dict(one[1])) for one in (weights, rate))
    return _combined(of, by)


@functools.cache
def _combined(of: Policy, by: Policy) -> Policy:
    if of.rate is not None or by.rate is None:
        raise InputError(
            f"combined({of.name}, {by.name}): give a policy of weights and then one of rates, such as learning_rate()"
        )
    rated = by.rate

    def described(policy: Policy) -> tuple[Any, ...]:
        return policy.name, policy.config

    return Policy(
        "combined",
        lambda steps, examples, batch: (of.init(steps, examples, batch), by.init(steps, examples, batch)),
        lambda phi_t, t, index, features: of.weights(phi_t[0], t, index, features),
        (of.stepwise, by.stepwise),
        (of.feasible, by.feasible),
        rate=lambda phi_t, t: rated(phi_t[1], t),
        features=of.features,
        config=(("weights", described(of)), ("rate", described(by))),
    )


def late(policy: Policy | tuple[Any, ...], share: float = 0.5) -> Policy:
    """A policy over the last part of a run; before it its first values hold.

    With H = ⌈share · T⌉ step t is that policy's step max(t − (T − H), 0) of H. Beside `olm.adjoint.truncated`, which has
    derivatives through the last steps only: what is found for the first of these serves the whole beginning.

    Args:
      policy: one whose parameters are shared by all steps, such as ``mixture(sizes, 8)``; or its (name, config).
      share: H/T, above 0, at most 1.

    Returns:
      A `Policy` with the parameters of ``policy``.

    Raises:
      InputError: for a share outside (0, 1], or a policy with a parameter for each step.

    >>> early = late(learning_rate(pieces=1), 0.5)
    >>> [float(early.rate(jnp.array([1.0, 0.0]), Time(t, 10))) for t in (0, 5, 7, 9)]
    [1.0, 1.0, 0.5, 0.0]
    """
    return _late(policy if isinstance(policy, Policy) else named(policy[0], dict(policy[1])), share)


def late_steps(steps: int, share: float) -> int:
    """H = ⌈share · T⌉, the steps that a `late` policy divides.

    Args:
      steps: T.
      share: as for `late`.

    Returns:
      H ≥ 1.

    >>> late_steps(750, 0.3)
    225
    """
    return max(1, math.ceil(round(share * steps, 9)))


@functools.cache
def _late(policy: Policy, share: float) -> Policy:
    if not 0 < share <= 1:
        raise InputError(f"late(share={share}): give a share above 0, at most 1")
    if any(jax.tree.leaves(policy.stepwise)):
        raise InputError(f"late({policy.name}): it has a parameter for each step: choose one with pieces")

    def at(t: Time) -> Time:
        steps = late_steps(t.steps, share)
        return Time(jnp.maximum(t.step - (t.steps - steps), 0), steps)

    def weights(phi: PyTree, t: Time, index: Array, features: PyTree) -> Array:
        return policy.weights(phi, at(t), index, features)

    rated = policy.rate
    return policy._replace(
        name="late",
        weights=weights,
        rate=None if rated is None else lambda phi, t: rated(phi, at(t)),
        config=(("policy", (policy.name, policy.config)), ("share", share)),
    )


def split(policy: Policy, phi: PyTree) -> tuple[PyTree, PyTree]:
    """φ as (shared, rows): leaves used whole at every step, and leaves of which step t uses row t; None elsewhere.

    Args:
      policy: says which leaves are ``stepwise``.
      phi: its parameters.

    Returns:
      Two pytrees of φ's structure with None in place of the other's leaves.

    >>> shared, rows = split(table(), jnp.ones((2, 3)))
    >>> shared is None, rows.shape
    (True, (2, 3))
    """
    stepwise = broadcast_prefix(policy.stepwise, phi)
    shared = jax.tree.map(lambda by_step, leaf: None if by_step else leaf, stepwise, phi)
    rows = jax.tree.map(lambda by_step, leaf: leaf if by_step else None, stepwise, phi)
    return shared, rows


def join(shared: PyTree, rows: PyTree) -> PyTree:
    """Undo `split`: wherever one tree has None, the other's leaf.

    Args:
      shared, rows: as `split` returns them.

    Returns:
      φ.

    >>> join({"a": 1, "b": None}, {"a": None, "b": 2})
    {'a': 1, 'b': 2}
    """
    return jax.tree.map(lambda a, b: b if a is None else a, shared, rows, is_leaf=lambda x: x is None)


def save(path: str | Path, policy: Policy, phi: PyTree) -> Path:
    """Write a policy and its parameters to one ``.npz``, atomically and without pickling.

    Args:
      path: file to write.
      policy, phi: a policy of this module or of `olm.baselines`; of another, `load` needs to be told how to make it
        (``resolve``).

    Returns:
      The path.

    >>> import tempfile
    >>> path = save(tempfile.mkdtemp() + "/policy.npz", table(), jnp.ones((1, 1)))
    >>> policy, phi = load(path)
    >>> policy.name, phi.shape
    ('table', (1, 1))
    """
    return save_arrays(path, phi, {"policy": policy.name, "config": dict(policy.config)})


def load(path: str | Path, resolve: Callable[[object, Any, str], Policy] | None = None) -> tuple[Policy, PyTree]:
    """Read what `save` wrote.

    Args:
      path: file to read.
      resolve: (name, config, start of an error's message) → policy; None: `named`, which knows this module's.
        `olm.baselines.named` knows those of the literature as well; give your own for a class of your own.

    Returns:
      (policy, φ).

    Raises:
      InputError: for a file that is missing, cut short, not a policy, or of a policy class that this version lacks.

    No example: see `save`.
    """
    meta = load_meta(path)
    policy = (resolve or named)(meta.get("policy"), meta.get("config"), f"{path}: ")
    phi = jax.tree.map(jnp.asarray, load_arrays(path))
    return policy, phi if jax.tree.leaves(phi) else ()


def _tuples(value: Any) -> Any:
    """Lists, as JSON has them, as tuples all the way down, which is what a policy's arguments are."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


NAMES = ("uniform", "table", "static", "piecewise", "scorer", "mixture", "learning_rate", "combined", "late")


def named(name: object, config: Any = None, where: str = "", more: Mapping[str, Callable[..., Policy]] | None = None) -> Policy:
    """A policy of this module by name.

    Args:
      name: one of ``NAMES``.
      config: its arguments as a dict.
      where: put before an error's message.
      more: further names and what makes their policies.

    Returns:
      A `Policy`.

    Raises:
      InputError: for an unknown name or arguments it does not take.

    >>> named("piecewise", {"pieces": 4}).config
    (('pieces', 4),)
    """
    known = {**{own: globals()[own] for own in NAMES}, **(more or {})}
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{where}unknown policy {name!r}: choose one of {', '.join(known)}")
    try:
        return known[name](**{key: _tuples(value) for key, value in (config or {}).items()})
    except TypeError as error:
        raise InputError(f"{where}policy {name}: {error}") from None
