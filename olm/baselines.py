"""Learning policies that need no search, to compare a found one with: an example's worth is read off the model as it learns.

All are judged by the loop that a found policy is judged by: those that look only at θ_t are a `Policy` with features
(`lookahead`, `high_loss`, `low_loss`, `rho_loss`), what is known beforehand is φ of `olm.policy.static` (`clean_only`), and what
remembers earlier steps is built in one run as a table (`law_guided`). The cost of a step is stated in matrix products, as in
docs/architecture.md: N training and K target examples, 3 N for the step itself.

Unlike the policies of `olm.policy` these do not start uniform, and there is little to search in them. Not here: bilevel scorers
(a search with `olm.policy.scorer` is one), schedules of difficulty, and anything that weighs examples by gradient norms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm import policy as policies
from olm.errors import DivergenceError, InputError, check_number
from olm.law import contributions
from olm.learner import examples, make_step
from olm.train import inputs, train, uniform_phi
from olm.types import Array, Free, Learner, Policy, PyTree, Task, Time
from olm.weighted import example_losses, mean_loss

__all__ = [
    "NAMES",
    "clean_only",
    "equalise",
    "high_loss",
    "law_guided",
    "lookahead",
    "low_loss",
    "named",
    "reference_losses",
    "rho_loss",
]


def _no_parameters(steps: int, examples: int, batch: int) -> tuple[()]:
    return ()


@functools.cache
def lookahead() -> Policy:
    """Weights by what one step on an example alone would gain on the target now, γ_n = [CT_n]₊ / Σ_m [CT_m]₊.

    CT_n = ∇L(θ_t)·∇ℓ_n(θ_t) on ``task.target``; examples that would do harm get nothing, and where none would help all weigh the
    same (the paper skips such a step). No parameters. Features cost one target gradient (3 K) and one jvp of the losses (2 N, as
    their forward pass is the step's own).

    Returns:
      A `Policy` with φ = ().

    Source: Ren et al. 2018 (arXiv 1803.09050), equations 6 to 9, for the learner's gradient step.

    >>> policy = lookahead()
    >>> policy.weights((), Time(0, 1), jnp.arange(3), jnp.array([3.0, -5.0, 1.0])).tolist()
    [0.75, 0.0, 0.25]
    >>> policy.weights((), Time(0, 1), jnp.arange(2), jnp.array([0.0, -5.0])).tolist()
    [0.5, 0.5]
    """

    def weights(phi_t: PyTree, t: Time, index: Array, features: Array) -> Array:
        helpful = jnp.maximum(features, 0)
        # Divided by the largest first: contributions are squares of gradients, and their sum may leave float32's range.
        helpful = helpful / jnp.where(jnp.max(helpful) > 0, jnp.max(helpful), 1)
        total = jnp.sum(helpful)
        # None helps: all alike. What is not finite stays NaN, for the run to fail on.
        return jnp.where(total == 0, 1 / index.shape[0], helpful / jnp.where(total == 0, 1, total))

    return Policy("lookahead", _no_parameters, weights, False, Free(), features=contributions)


def _losses(task: Task, params: PyTree, batch: PyTree, target: PyTree) -> Array:
    """Features of the loss-based policies: [B] losses at θ_t."""
    return task.losses(params, batch)


def _ranking(name: str, temperature: float | None, share: float | None) -> Callable[[Array], Array]:
    """How scores [B] become weights: softmax at a temperature, or a share of the examples alike."""
    if (temperature is None) == (share is None):
        raise InputError(f"{name}(temperature={temperature}, share={share}): give one of the two")
    if temperature is not None:
        check_number(f"{name}: temperature", temperature, "give a positive number of nats", 0, math.inf, open_low=True)
        return lambda scores: jax.nn.softmax(scores / temperature)
    assert share is not None
    check_number(f"{name}: share", share, "give a share of the examples above 0, at most 1", 0, 1, open_low=True)

    def top(scores: Array) -> Array:
        kept = max(1, round(share * scores.shape[0]))
        return jnp.zeros_like(scores).at[jax.lax.top_k(scores, kept)[1]].set(1 / kept)

    return top


def _config(temperature: float | None, share: float | None) -> tuple[tuple[str, Any], ...]:
    return (("temperature", temperature),) if share is None else (("share", share),)


@functools.cache
def high_loss(temperature: float | None = None, share: float | None = None) -> Policy:
    """Weights that rise with the loss, γ_n ∝ exp(ℓ_n(θ_t) / τ), or equal weights for the examples of highest loss.

    The first is gradient descent on the tilted loss τ log (1/B) Σ_n exp(ℓ_n / τ), between the mean (τ → ∞) and the worst
    example (τ → 0). No parameters. Features cost nothing: the losses are the step's own.

    Args:
      temperature: τ > 0, nats.
      share: the part of a step's examples that weighs anything, above 0 and at most 1; one of the two is given.

    Returns:
      A `Policy` with φ = ().

    Raises:
      InputError: for both or neither, or a value out of range.

    Source: Li et al. 2021 (tilted empirical risk, arXiv 2007.01162), Lemma 1; Kawaguchi and Lu 2020 (ordered SGD, arXiv
    1907.04371) for the share.

    >>> high_loss(temperature=1.0).weights((), Time(0, 1), jnp.arange(2), jnp.log(jnp.array([3.0, 1.0]))).round(2).tolist()
    [0.75, 0.25]
    >>> high_loss(share=0.5).weights((), Time(0, 1), jnp.arange(4), jnp.array([3.0, 1.0, 0.0, 2.0])).tolist()
    [0.5, 0.0, 0.0, 0.5]
    """
    rank = _ranking("high_loss", temperature, share)

    def weights(phi_t: PyTree, t: Time, index: Array, features: Array) -> Array:
        return rank(features)

    return Policy("high_loss", _no_parameters, weights, False, Free(), features=_losses, config=_config(temperature, share))


@functools.cache
def low_loss(temperature: float | None = None, share: float | None = None) -> Policy:
    """Weights that fall with the loss, γ_n ∝ exp(−ℓ_n(θ_t) / τ), or equal weights for the examples of lowest loss.

    Trusts what the model finds plausible, against spoiled examples. No parameters; cost as `high_loss`.

    Args:
      temperature: τ > 0, nats.
      share: the part of a step's examples that weighs anything; one of the two is given.

    Returns:
      A `Policy` with φ = ().

    Raises:
      InputError: for both or neither, or a value out of range.

    Source: Li et al. 2021 (arXiv 2007.01162), negative tilt; Jiang et al. 2018 (small-loss examples, arXiv 1712.05055) for
    the share.

    >>> low_loss(share=0.5).weights((), Time(0, 1), jnp.arange(4), jnp.array([3.0, 1.0, 0.0, 2.0])).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    rank = _ranking("low_loss", temperature, share)

    def weights(phi_t: PyTree, t: Time, index: Array, features: Array) -> Array:
        return rank(-features)

    return Policy("low_loss", _no_parameters, weights, False, Free(), features=_losses, config=_config(temperature, share))


@functools.cache
def rho_loss(temperature: float | None = None, share: float | None = None) -> Policy:
    """Weights that rise with the reducible loss, what the model has still to learn of what can be learned.

    ρ_n = ℓ_n(θ_t) − ℓ_n(θ_ref); γ_n ∝ exp(ρ_n / τ), or equal weights for a share of the examples. φ holds ℓ_n(θ_ref), the losses
    of a model trained on desired examples (`reference_losses`); with φ = 0, which ``init`` gives, it is `high_loss`. A spoiled
    example has a high loss under both models and a low ρ. Cost of a step as `high_loss`, and that of the reference once.

    Args:
      temperature: τ > 0, nats.
      share: the part of a step's examples that weighs anything; one of the two is given.

    Returns:
      A `Policy` with φ [N], nats.

    Raises:
      InputError: for both or neither, or a value out of range.

    Source: Mindermann et al. 2022 (RHO-LOSS, arXiv 2206.07137), equation 3; there a share of a larger batch is kept.

    >>> losses, reference = jnp.array([2.0, 5.0, 2.0]), jnp.array([0.0, 5.0, 1.0])
    >>> rho_loss(share=1 / 3).weights(reference, Time(0, 1), jnp.arange(3), losses).tolist()
    [1.0, 0.0, 0.0]
    """
    rank = _ranking("rho_loss", temperature, share)

    def init(steps: int, examples: int, batch: int) -> Array:
        return jnp.zeros(examples)

    def weights(phi_t: Array, t: Time, index: Array, features: Array) -> Array:
        return rank(features - phi_t[index].astype(features.dtype))

    return Policy("rho_loss", init, weights, False, Free(), features=_losses, config=_config(temperature, share))


@functools.lru_cache(maxsize=64)
def _all_losses(losses: Callable, chunk_size: int | None) -> Callable:
    return jax.jit(example_losses(losses, chunk_size))


def reference_losses(task: Task, learner: Learner, *, steps: int, key: Array) -> Array:
    """What a model trained on the desired examples loses on each training example: φ of `rho_loss`.

    θ_ref is trained on ``task.target`` with uniform weights. Costs ``steps`` times (3 + 1) K, and N once.

    Args:
      task: its target examples must be of the training examples' form.
      learner: how the reference learns; its batch size at most K.
      steps: its training steps.
      key: as for `olm.train`; another than the learner's gives it a start of its own.

    Returns:
      [N], nats.

    Raises:
      InputError: as `olm.train`, for example for a batch larger than K.
      DivergenceError: when the reference's losses are not finite.

    Source: Mindermann et al. 2022 (arXiv 2206.07137), section 3; there the reference is a smaller model.

    >>> import optax
    >>> task = Task(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, train=jnp.array([1.0, 3.0]), target=jnp.ones(4))
    >>> reference_losses(task, Learner(optax.sgd(0.5)), steps=1, key=jax.random.key(0)).tolist()
    [0.0, 4.0]
    """
    uniform = policies.uniform()
    desired = task._replace(losses=task.target_losses or task.losses, train=task.target, test=None)
    reference = train(desired, learner, uniform, (), steps=steps, key=key)
    losses = _all_losses(task.losses, learner.chunk_size)(reference.params, task.train)
    if not bool(jnp.all(jnp.isfinite(losses))):
        raise DivergenceError("the reference model's losses are not finite: lower its learning rate or its steps")
    return losses


def clean_only(corrupted: Array) -> Array:
    """φ of `olm.policy.static` that leaves out the examples known to be spoiled: an upper reference, as nobody knows them.

    γ_n = 1 / #{m not corrupted}, 0 for the corrupted. Costs nothing.

    Args:
      corrupted: [N] bool, for example ``Language.corrupted``.

    Returns:
      [N] on the simplex.

    Raises:
      InputError: for anything but a row of bools, or if all are True.

    >>> clean_only(jnp.array([False, True, False])).tolist()
    [0.5, 0.0, 0.5]
    """
    spoiled = np.asarray(corrupted)
    if spoiled.dtype != bool or spoiled.ndim != 1 or spoiled.size == 0:
        raise InputError(f"corrupted has dtype {spoiled.dtype} and shape {spoiled.shape}: give one bool an example, shape (N,)")
    if spoiled.all():
        raise InputError(f"all {spoiled.size} examples are corrupted: there is nothing left to learn from")
    return jnp.asarray(~spoiled, jnp.result_type(float)) / np.sum(~spoiled)


def equalise(scores: Array, contributions_B: Array, rate: Array | float, forget: Array | float = 0.0) -> Array:
    """One step of replicator dynamics on γ = softmax(scores) towards equal contributions.

    z_n ← (1 − ϕ) z_n + κ (CT_n − m) / r with m = Σ_n γ_n CT_n and r² = Σ_n γ_n CT_n²: with ϕ = 0, γ_n gains a factor
    exp(κ (CT_n − m) / r), and rests just where all examples of positive weight contribute equally. ϕ pulls towards uniform
    weights, so that an example once useless can return; at rest contributions then differ by r ϕ (z_n − z_m) / κ.

    Args:
      scores: z [B].
      contributions_B: CT [B], in any unit.
      rate: κ.
      forget: ϕ.

    Returns:
      z [B] of the next step.

    Source: Gu et al. 2024, Eq. 5 (where it rests); Taylor and Jonker 1978 (replicator dynamics).

    >>> equalise(jnp.zeros(2), jnp.array([4.0, 4.0]), 0.5).tolist()
    [0.0, 0.0]
    >>> equalise(jnp.zeros(2), jnp.array([7.0, -1.0]), 0.5).tolist()
    [0.4, -0.4]
    """
    weights = jax.nn.softmax(scores)
    # In units of the largest one, whose square float32 can hold.
    unit = jnp.max(jnp.abs(contributions_B))
    relative = contributions_B / jnp.where(unit > 0, unit, 1)
    mean, square = jnp.sum(weights * relative), jnp.sum(weights * relative**2)
    size = jnp.sqrt(jnp.where(square > 0, square, 1))
    return (1 - forget) * scores + rate * (relative - mean) / size


def _guide(functions: Task, learner: Learner, steps: int, transport: bool) -> Callable:
    """The run that `law_guided` builds its table in, compiled."""
    step = make_step(functions, learner, policies.table(), steps)
    target_gradient = jax.grad(mean_loss(functions.target_losses or functions.losses, learner.chunk_size))

    def run(aux: tuple[Array, Array | None], data: PyTree, carry: PyTree, rate: Array, forget: Array, memory: Array) -> Array:
        def body(state: PyTree, now: tuple[Array, Array | None]) -> tuple[PyTree, Array]:
            (params, optimiser), scores, costate = state
            index = now[1]
            drawn = scores if index is None else scores[index]
            row = jax.nn.softmax(drawn)
            costate = jax.tree.map(jnp.add, costate, target_gradient(params, data["target"]))

            def advance(row: Array, params: PyTree) -> tuple[PyTree, PyTree]:
                return step(row, (params, optimiser), now, data)

            after, back, optimiser = jax.vjp(advance, row, params, has_aux=True)
            raised, carried = back(costate)  # ∂⟨θ_{t+1}, λ⟩/∂γ and (∂θ_{t+1}/∂θ_t)ᵀ λ, both from one jvp along λ
            moved = equalise(drawn, -raised, rate, forget).astype(scores.dtype)
            scores = moved if index is None else scores.at[index].set(moved)
            # Without transport nothing reads what is carried, and the compiler leaves its Hessian product out.
            costate = jax.tree.map(lambda x: memory.astype(x.dtype) * x if transport else jnp.zeros_like(x), carried)
            return ((after, optimiser), scores, costate), row

        scores = jnp.zeros(examples(data["train"]))
        start = (carry, scores, jax.tree.map(jnp.zeros_like, carry[0]))
        return jax.lax.scan(body, start, aux)[1]

    return jax.jit(run)


_cached_guide = functools.lru_cache(maxsize=64)(_guide)


def law_guided(
    task: Task,
    learner: Learner,
    *,
    steps: int,
    key: Array,
    rate: float = 0.1,
    forget: float = 0.01,
    memory: float = 0.0,
) -> Array:
    """A table that follows the Learning Law as training goes: weights move to where all examples contribute equally.

    γ_{t+1} is `equalise` of γ_t, uniform at t = 0, by the contributions CT_n = −∂⟨θ_{t+1}, λ_t⟩/∂γ[n,t] (for SGD η ∇ℓ_n(θ_t)·λ_t)
    along λ_t = ∇L(θ_t) + μ (∂θ_t/∂θ_{t−1})ᵀ λ_{t−1}. With μ = 0 this is the law's own contribution. The discrete optimum
    equalises that along the costate, a sum over the steps to come; with μ > 0 the steps that were stand for them, carried
    through the same Jacobians I − η H: directions that curvature forgets fade, others add up. That helps while the target
    gradient keeps its direction, and overshoots once it turns. The optimiser's state is held fixed in these derivatives.
    Exponential averages of past target gradients, not carried, did worse than either where they were tried, and are not offered.

    One run builds the table, at 5 N + 3 K products a step with μ = 0 and 9 N + 3 K otherwise, and has then trained the model;
    `olm.train` with the table, the same task and key goes through the same steps again.

    Args:
      task: ``task.target`` is looked at.
      learner, steps, key: as for `olm.train`.
      rate: κ > 0, by how much a contribution one root mean square above the mean raises a log-weight in a step.
      forget: ϕ, from 0 up to 1, pull towards uniform weights.
      memory: μ, 0 to 1.

    Returns:
      γ [T, B], φ of `olm.policy.table`; with mini-batches an example keeps its score from one draw to the next.

    Raises:
      InputError: as `olm.train`, and for settings out of range.
      DivergenceError: when the run diverges.

    Source: Gu et al. 2024, Eq. 5 and 22, for what is equalised; that it is followed without a search is not in the paper.

    >>> import optax
    >>> losses = lambda w, x: 0.5 * (x - w) ** 2
    >>> task = Task(lambda key: jnp.zeros(()), losses, train=jnp.array([2.0, -1.0]), target=jnp.array([1.0]))
    >>> law_guided(task, Learner(optax.sgd(0.1)), steps=3, key=jax.random.key(0)).round(2).tolist()
    [[0.5, 0.5], [0.55, 0.45], [0.59, 0.41]]
    """
    check_number("law_guided: rate", rate, "give a positive number", 0, math.inf, open_low=True)
    if check_number("law_guided: forget", forget, "give a number from 0 up to (not including) 1", 0, 1) == 1:
        raise InputError("law_guided: forget is 1: give a number from 0 up to (not including) 1")
    check_number("law_guided: memory", memory, "give a number from 0 to 1", 0, 1)
    table = policies.table()
    arguments, carry = inputs(task, learner, table, uniform_phi(table, task, learner, steps), steps, key)
    functions = Task(task.init, task.losses, None, None, target_losses=task.target_losses)
    try:
        run = _cached_guide(functions, learner, steps, memory > 0)
    except TypeError:  # something unhashable among the functions
        run = _guide(functions, learner, steps, memory > 0)
    settings = (jnp.asarray(x, jnp.result_type(float)) for x in (rate, forget, memory))
    found = run(arguments.aux, arguments.data, carry, *settings)
    finite = np.isfinite(np.asarray(found)).all(axis=1)
    if not finite.all():
        step = int(np.argmin(finite))
        raise DivergenceError(f"the law-guided run diverges before step {step}: lower the learning rate, or rate={rate:g}")
    return found


NAMES = ("lookahead", "high_loss", "low_loss", "rho_loss")


def named(name: object, config: Any = None, where: str = "") -> Policy:
    """A policy by name, of this module or of `olm.policy`.

    Args:
      name: one of ``NAMES`` or of ``olm.policy.NAMES``.
      config: its arguments as a dict.
      where: put before an error's message.

    Returns:
      A `Policy`.

    Raises:
      InputError: for an unknown name or arguments it does not take.

    >>> named("high_loss", {"share": 0.5}).config, named("static").name
    ((('share', 0.5),), 'static')
    """
    return policies.named(name, config, where, {own: globals()[own] for own in NAMES})
