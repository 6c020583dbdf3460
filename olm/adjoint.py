"""Differentiate a long loop: values Σ_t w_t cost(carry_t) and their exact gradients, in a chosen amount of memory.

The module knows no machine learning. It sees a `Program`: a ``step`` from carry to carry, a scalar ``cost`` of a carry,
and a ``readout`` that is only looked at. With costates λ_T = w_T ∇cost(c_T) and

    λ_t = w_t ∇cost(c_t) + (∂step_t/∂c_t)ᵀ λ_{t+1},

every adjoint returns the same gradients; they differ in which carries they keep and which they compute again:

- `direct` keeps every carry: memory T, no recomputation;
- `segmented` with k levels keeps segment starts, recursively: memory k·T^(1/k), up to k − 1 more forward sweeps;
- `olm.offload.offloaded` drives segments from the host by a binomial schedule, carries in host memory or on disk.

In a sweep the costs are evaluated once, together with their gradients on the way back (`differentiable`, which serves
`jax.grad`, needs them on the way out as well); one step is differentiated by `jax.vjp` at a stored carry, so nothing inside a
step outlives it. With ``residuals`` the first two keep matrix products of the steps as well, of all T or of one segment, and do
not compute those again: every product where activations are small (a linear model), only those that sum over many terms where
they are large (a transformer), which save most work for their memory. Integer parts of a carry (step counts) are replayed, not
differentiated. Not done: differentiating with respect to ``data``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.types import Array, PyTree

__all__ = ["Adjoint", "Gradients", "Inputs", "Program", "Sweep", "differentiable", "direct", "segmented", "truncated"]


class Program(NamedTuple):
    """A loop to differentiate; its functions must close over no traced value.

    Attributes:
      step: ``step(shared, carry, row, aux, data) -> carry``; ``row`` and ``aux`` are step t's slices.
      cost: ``cost(carry, data) -> scalar``.
      readout: ``readout(before, after, data) -> pytree`` of step t, stacked over steps, never differentiated.
      recorded: ``step`` written for JAX's reverse mode to keep what it computes, used with ``residuals``; None: ``step``.
    """

    step: Callable[[PyTree, PyTree, PyTree, PyTree, PyTree], PyTree]
    cost: Callable[[PyTree, PyTree], Array]
    readout: Callable[[PyTree, PyTree, PyTree], PyTree] = lambda before, after, data: None
    recorded: Callable[[PyTree, PyTree, PyTree, PyTree, PyTree], PyTree] | None = None


class Gradients(NamedTuple):
    """Derivatives of Σ_t w_t cost(c_t) + ⟨carry cotangent, c_T⟩.

    Attributes:
      shared: like ``shared``.
      rows: like ``rows``, leading axis T.
      carry: like the first carry; integer leaves have ``float0`` zeros.
    """

    shared: PyTree
    rows: PyTree
    carry: PyTree


class Sweep(NamedTuple):
    """What one forward and backward sweep yields.

    Attributes:
      costs: [T+1], cost(c_0) … cost(c_T), each where its weight is not zero, else 0: it is then not evaluated.
      carry: c_T.
      readout: stacked readouts, leading axis T.
      gradients: `Gradients`.
    """

    costs: Array
    carry: PyTree
    readout: PyTree
    gradients: Gradients


class Inputs(NamedTuple):
    """Arguments of a loop: ``shared`` and ``rows`` (leading axis T) are differentiated, ``aux`` (T) and ``data`` are not."""

    shared: PyTree
    rows: PyTree
    aux: PyTree
    data: PyTree


class Adjoint(NamedTuple):
    """A way to differentiate a `Program`.

    Attributes:
      name: written into run folders.
      sweep: ``sweep(program, inputs, carry, weights) -> Sweep`` with cost weights [T+1].
      forward, backward: the two halves, which `differentiable` needs; None when the host drives the sweep.
      traceable: whether it may run under ``jax.jit``.
      on_disk: whether an interrupted sweep continues from files; a search then saves its state after every evaluation.
    """

    name: str
    sweep: Callable[[Program, Inputs, PyTree, Array], Sweep]
    forward: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    traceable: bool = True
    on_disk: bool = False


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _cotangent(carry: PyTree, costate: list[Array]) -> PyTree:
    """A costate in the shape of a carry, with float0 zeros for integer leaves."""
    floats = iter(costate)
    return jax.tree.map(lambda x: next(floats) if _is_float(x) else np.zeros(jnp.shape(x), jax.dtypes.float0), carry)


def _split(carry: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The float leaves of a carry, and how to put such leaves back among its other ones."""
    leaves, treedef = jax.tree.flatten(carry)
    is_float = [_is_float(x) for x in leaves]

    def merge(floats: list[Array]) -> PyTree:
        rest = iter(floats)
        return jax.tree.unflatten(treedef, [next(rest) if f else x for x, f in zip(leaves, is_float, strict=True)])

    return [x for x, f in zip(leaves, is_float, strict=True) if f], merge


def length(tree: PyTree) -> int:
    """The common leading axis T of ``aux`` (which always holds the step number)."""
    return jax.tree.leaves(tree)[0].shape[0]


def cost_gradient(program: Program, carry: PyTree, data: PyTree, weight: Array, costate: list[Array]) -> tuple[Array, Any]:
    """cost(c) and λ + w ∇cost(c); with a weight of zero the cost is not evaluated, and given as 0."""
    floats, merge = _split(carry)

    def cost(leaves: list[Array]) -> Array:
        return program.cost(merge(leaves), data)

    def with_gradient(leaves: list[Array]) -> tuple[Array, list[Array]]:
        value, pullback = jax.vjp(cost, leaves)
        (gradient,) = pullback(weight.astype(value.dtype))
        return value, jax.tree.map(jnp.add, costate, gradient)

    nothing = jnp.zeros((), jax.eval_shape(cost, floats).dtype)
    return jax.lax.cond(weight != 0, with_gradient, lambda leaves: (nothing, costate), floats)


def backward_step(program: Program, inputs: Inputs, carry: PyTree, costate: list[Array], shared_bar: PyTree, weight: Array):
    """One step of the costate recursion at carry c_t; ``inputs`` holds step t's row and aux."""
    floats, merge = _split(carry)

    def step(shared: PyTree, leaves: list[Array], row: PyTree) -> list[Array]:
        return _split(program.step(shared, merge(leaves), row, inputs.aux, inputs.data))[0]

    _, pullback = jax.vjp(step, inputs.shared, floats, inputs.rows)
    shared_step, costate, row_bar = pullback(costate)
    value, costate = cost_gradient(program, carry, inputs.data, weight, costate)
    return costate, jax.tree.map(jnp.add, shared_bar, shared_step), row_bar, value


def advance(program: Program, inputs: Inputs, carry: PyTree, *, tape: bool = True, readout: bool = True):
    """Run the loop: (c_T, every carry c_0 … c_{T−1} if ``tape``, stacked readouts)."""

    def body(carry: PyTree, x: tuple[PyTree, PyTree]):
        after = program.step(inputs.shared, carry, *x, inputs.data)
        seen = program.readout(carry, after, inputs.data) if readout else None
        return after, (carry if tape else None, seen)

    carry, (kept, seen) = jax.lax.scan(body, carry, (inputs.rows, inputs.aux))
    return carry, kept, seen


def _products(terms: int) -> Callable[..., bool]:
    """A checkpoint policy that keeps the matrix products with sums of at least ``terms`` terms."""

    def keep(primitive: Any, *operands: Any, **settings: Any) -> bool:
        if primitive is not jax.lax.dot_general_p:
            return False
        (contracted, _), _ = settings["dimension_numbers"]
        return math.prod(operands[0].shape[axis] for axis in contracted) >= terms

    return keep


def _cost_on_the_way_back(program: Program) -> Callable[[PyTree, PyTree, Array], Array]:
    """``cost(carry, data, slot)``, forward ``slot``; backward the cost's gradient, and its value as the cotangent of ``slot``.

    So a recorded run keeps nothing of its costs but their carries, evaluates each once, and takes no gradient of weight zero.
    """
    cost = jax.custom_vjp(lambda carry, data, slot: slot)

    def backward(residuals: tuple[PyTree, PyTree], weight: Array):
        carry, data = residuals
        floats, _ = _split(carry)
        value, gradient = cost_gradient(program, carry, data, weight, [jnp.zeros_like(x) for x in floats])
        return _cotangent(carry, gradient), None, value

    cost.defvjp(lambda carry, data, slot: (slot, (carry, data)), backward)
    return cost


def record(program: Program, inputs: Inputs, carry: PyTree, terms: int, *, readout: bool = True):
    """Run the loop in JAX's reverse mode: (c_T, (slots for costs [T], pullback of costs and of c_T), stacked readouts).

    Products that sum over at least ``terms`` terms are kept; the rest of a step is computed again on the way back.
    """
    # What lies between products is always cheaper to compute again than to write and read.
    step = jax.checkpoint(program.recorded or program.step, policy=_products(terms), prevent_cse=False)
    cost = _cost_on_the_way_back(program)

    def run(shared: PyTree, leaves: list[Array], rows: PyTree, slots: Array):
        def body(carry: PyTree, x: tuple[PyTree, PyTree, Array]):
            row, aux, slot = x
            after = step(shared, carry, row, aux, inputs.data)
            seen = program.readout(carry, after, inputs.data) if readout else None
            return after, (cost(carry, inputs.data, slot), seen)

        last, (costs, seen) = jax.lax.scan(body, merge(leaves), (rows, inputs.aux, slots))
        return (costs, _split(last)[0]), (last, seen)

    floats, merge = _split(carry)
    slots = jnp.zeros(length(inputs.aux), jax.eval_shape(program.cost, carry, inputs.data).dtype)
    _, pullback, (last, seen) = jax.vjp(run, inputs.shared, floats, inputs.rows, slots, has_aux=True)
    return last, (slots, pullback), seen


def reverse(program: Program, inputs: Inputs, kept: PyTree, costate: list[Array], shared_bar: PyTree, weights: Array):
    """The costate recursion over T stored carries; ``weights`` [T] belong to c_0 … c_{T−1}."""

    def body(state: tuple[list[Array], PyTree], x: tuple[PyTree, PyTree, PyTree, Array]):
        carry, row, aux, weight = x
        here = inputs._replace(rows=row, aux=aux)
        costate, shared_bar, row_bar, value = backward_step(program, here, carry, *state, weight)
        return (costate, shared_bar), (row_bar, value)

    xs = (kept, inputs.rows, inputs.aux, weights)
    (costate, shared_bar), (rows_bar, costs) = jax.lax.scan(body, (costate, shared_bar), xs, reverse=True)
    return costate, shared_bar, rows_bar, costs


def play_back(program: Program, inputs: Inputs, recorded: PyTree, costate: list[Array], shared_bar: PyTree, weights: Array):
    """The costate recursion from what `record` kept: as `reverse`, but the products kept are not computed again."""
    slots, pullback = recorded
    shared_run, costate, rows_bar, costs = pullback((weights.astype(slots.dtype), costate))
    return costate, jax.tree.map(jnp.add, shared_bar, shared_run), rows_bar, costs


def _segment_size(steps: int, levels: int, size: int | None) -> int:
    return min(steps, size or max(1, round(steps ** ((levels - 1) / levels))))


def _steps(inputs: Inputs, start: Array | int, count: int) -> Inputs:
    """The arguments of ``count`` steps from ``start`` on."""

    def part(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, start, count)

    return inputs._replace(rows=jax.tree.map(part, inputs.rows), aux=jax.tree.map(part, inputs.aux))


class _Plan(NamedTuple):
    """How `segmented` divides a run: levels, steps in a top segment, and what the last level keeps.

    That is its carries (``terms`` None), or the products that sum over at least ``terms`` terms.
    """

    levels: int
    size: int | None
    terms: int | None

    def span(self, steps: int) -> int:
        return _segment_size(steps, self.levels, self.size)

    def below(self) -> _Plan:
        return _Plan(self.levels - 1, None, self.terms)


def _levels_forward(program: Program, inputs: Inputs, carry: PyTree, plan: _Plan, readout: bool):
    """(c_T, tape, readouts); the tape holds the segments' starts, and of the last segment what the next level keeps."""
    if plan.levels == 1:
        if plan.terms is None:
            return advance(program, inputs, carry, readout=readout)
        return record(program, inputs, carry, plan.terms, readout=readout)
    steps = length(inputs.aux)
    span = plan.span(steps)
    whole = -(-steps // span) - 1

    def body(carry: PyTree, segment: Array):
        after, _, seen = advance(program, _steps(inputs, segment * span, span), carry, tape=False, readout=readout)
        return after, (carry, seen)

    carry, (starts, seen) = jax.lax.scan(body, carry, jnp.arange(whole))
    # The last segment is reversed at once: recorded now, it need not be run again.
    rest = _steps(inputs, whole * span, steps - whole * span)
    last, tail, last_seen = _levels_forward(program, rest, carry, plan.below(), readout)
    seen = jax.tree.map(lambda a, b: jnp.concatenate([a.reshape(-1, *b.shape[1:]), b]), seen, last_seen)
    return last, (starts, tail), seen


def _levels_reverse(program, inputs, tape, costate, shared_bar, weights, plan: _Plan):
    if plan.levels == 1:
        return (reverse if plan.terms is None else play_back)(program, inputs, tape, costate, shared_bar, weights)
    steps = length(inputs.aux)
    span = plan.span(steps)
    starts, tail = tape
    whole = -(-steps // span) - 1

    def place(whole_run: PyTree, part: PyTree, start: Array | int) -> PyTree:
        return jax.tree.map(lambda x, p: jax.lax.dynamic_update_slice_in_dim(x, p, start, 0), whole_run, part)

    rest = _steps(inputs, whole * span, steps - whole * span)
    costate, shared_bar, *part = _levels_reverse(program, rest, tail, costate, shared_bar, weights[whole * span :], plan.below())
    # Written in place, segment by segment: a table of policy gradients is never copied whole.
    results = jax.tree.map(lambda p: jnp.zeros((steps, *p.shape[1:]), p.dtype), part)

    def segment(state, x):
        costate, shared_bar, results = state
        number, start = x
        here = _steps(inputs, number * span, span)
        _, inner, _ = _levels_forward(program, here, start, plan.below(), readout=False)
        part_weights = jax.lax.dynamic_slice_in_dim(weights, number * span, span)
        costate, shared_bar, *part = _levels_reverse(program, here, inner, costate, shared_bar, part_weights, plan.below())
        return (costate, shared_bar, place(results, part, number * span)), None

    state = costate, shared_bar, place(results, part, whole * span)
    (costate, shared_bar, results), _ = jax.lax.scan(segment, state, (jnp.arange(whole), starts), reverse=True)
    return costate, shared_bar, *results


def finish(program: Program, inputs: Inputs, last: PyTree, carry_bar: PyTree, weights: Array):
    """λ_T, and the cost at c_T."""
    floats, _ = _split(last)
    if carry_bar is None:
        costate = [jnp.zeros_like(x) for x in floats]
    else:
        costate = [b for x, b in zip(jax.tree.leaves(last), jax.tree.leaves(carry_bar), strict=True) if _is_float(x)]
    return cost_gradient(program, last, inputs.data, weights[-1], costate)


def assemble(carry: PyTree, costate: list[Array], shared_bar: PyTree, rows_bar: PyTree) -> Gradients:
    """`Gradients`, with the first costate in the shape of the first carry."""
    return Gradients(shared_bar, rows_bar, _cotangent(carry, costate))


@functools.cache
def _in_device_memory(name: str, plan: _Plan) -> Adjoint:
    def forward(program: Program, inputs: Inputs, carry: PyTree):
        return _levels_forward(program, inputs, carry, plan, readout=True)

    def backward(program: Program, inputs: Inputs, carry: PyTree, last: PyTree, tape: PyTree, weights: Array, carry_bar: PyTree):
        """Costs [T+1] and `Gradients` from the tape that ``forward`` left; ``carry`` is c_0, ``last`` c_T."""
        end, costate = finish(program, inputs, last, carry_bar, weights)
        zeros = jax.tree.map(jnp.zeros_like, inputs.shared)
        costate, shared_bar, rows_bar, costs = _levels_reverse(program, inputs, tape, costate, zeros, weights[:-1], plan)
        return jnp.append(costs, end), assemble(carry, costate, shared_bar, rows_bar)

    def sweep(program: Program, inputs: Inputs, carry: PyTree, weights: Array) -> Sweep:
        last, tape, seen = forward(program, inputs, carry)
        costs, gradients = backward(program, inputs, carry, last, tape, weights, None)
        return Sweep(costs, last, seen, gradients)

    return Adjoint(name, sweep, forward, backward)


def _terms(residuals: bool | int) -> int | None:
    """The least number of terms of a product that is kept: True is 1, False None."""
    if isinstance(residuals, bool):
        return 1 if residuals else None
    if not isinstance(residuals, (int, np.integer)) or residuals < 1:
        raise InputError(f"residuals={residuals!r}: give True, False, or the least number of terms of a product worth keeping")
    return int(residuals)


def direct(residuals: bool | int = False) -> Adjoint:
    """Keep every carry c_0 … c_{T−1}: no step is run twice, memory T times a carry.

    Args:
      residuals: True: keep the matrix products of all steps too. A number: only those that sum over at least that many terms
        (`olm.models.transformer`: 4·width, the wide layer's, whose results are small for the work they save).

    Returns:
      An `Adjoint`.

    Raises:
      InputError: for residuals below 1 or not whole.

    >>> direct().name, direct(residuals=512).name
    ('direct', 'direct(residuals=512)')
    """
    return _in_device_memory(f"direct(residuals={residuals})" if residuals else "direct", _Plan(1, None, _terms(residuals)))


def segmented(levels: int = 2, size: int | None = None, residuals: bool | int = False) -> Adjoint:
    """Keep the starts of segments and recompute within them, recursively: memory about k·T^(1/k) carries.

    Args:
      levels: k, 1 … 8; 1 is `direct`, 2 keeps √T starts and at most √T carries of one segment. Compilation takes 2^k as long.
      size: steps in a segment of the top level; None: T^((k−1)/k).
      residuals: keep matrix products of one innermost segment's steps too; as for `direct`.

    Returns:
      An `Adjoint`; k levels run up to k − 1 forward sweeps more than `direct`.

    Raises:
      InputError: for levels outside 1 … 8, size below 1, or residuals as `direct` does.

    Source: Chen et al. 2016 (k = 2); Griewank and Walther 2008, chapter 12 (multi-level).

    >>> segmented(levels=3).name, segmented(residuals=True).name
    ('segmented(levels=3)', 'segmented(levels=2, residuals=True)')
    """
    if not (isinstance(levels, (int, np.integer)) and 1 <= levels <= 8):
        raise InputError(f"segmented(levels={levels!r}): choose 1 to 8; more repeat steps without saving memory")
    if size is not None and not (isinstance(size, (int, np.integer)) and size >= 1):
        raise InputError(f"segmented(size={size!r}): give a whole number of at least 1, or None")
    settings = {"levels": levels, "size": size, "residuals": residuals if _terms(residuals) else None}
    name = ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)
    return _in_device_memory(f"segmented({name})", _Plan(levels, size, _terms(residuals)))


@functools.cache
def truncated(last: int, within: Adjoint | None = None) -> Adjoint:
    """Differentiate the last steps alone: the carry before them counts as given (truncated backpropagation).

    A biased gradient, on purpose: through all steps of a long run at a good learning rate derivatives can grow beyond any use,
    and what the last steps say is still right. It costs a forward sweep and the last steps' own reverse sweep.

    Args:
      last: how many steps.
      within: how these are differentiated; None: `direct`.

    Returns:
      An `Adjoint` for sweeps, not for `differentiable`; costs of earlier steps have their values, rows of theirs gradient zero.

    Raises:
      InputError: for fewer than one step, or an adjoint that the host drives.

    >>> program = Program(lambda shared, carry, row, aux, data: carry - row * carry, lambda carry, data: carry**2)
    >>> inputs = Inputs(shared=None, rows=jnp.array([0.5, 0.5]), aux=jnp.arange(2), data=None)
    >>> sweep = truncated(1).sweep(program, inputs, jnp.array(2.0), jnp.array([0.0, 0.0, 1.0]))
    >>> sweep.costs.tolist(), sweep.gradients.rows.tolist()
    ([0.0, 0.0, 0.25], [0.0, -1.0])

    Source: Williams and Peng 1990; on chaotic training runs Metz et al. 2021 (arXiv 2111.05803).
    """
    inner = direct() if within is None else within
    if not isinstance(last, (int, np.integer)) or isinstance(last, bool) or last < 1:
        raise InputError(f"truncated(last={last!r}): give a whole number of steps, at least 1")
    if not inner.traceable:
        raise InputError(f"truncated(within={inner.name}): choose direct() or segmented()")

    def sweep(program: Program, inputs: Inputs, carry: PyTree, weights: Array) -> Sweep:
        steps = length(inputs.aux)
        begin = max(steps - last, 0)
        if begin == 0:
            return inner.sweep(program, inputs, carry, weights)
        first = _steps(inputs, 0, begin)
        dtype = jax.eval_shape(program.cost, carry, inputs.data).dtype

        def body(carry: PyTree, x: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, tuple[Array, PyTree]]:
            row, aux, weight = x
            none = jnp.zeros((), dtype)
            cost = jax.lax.cond(weight != 0, lambda c: program.cost(c, inputs.data), lambda c: none, carry)
            after = program.step(inputs.shared, carry, row, aux, inputs.data)
            return after, (cost, program.readout(carry, after, inputs.data))

        middle, (costs, seen) = jax.lax.scan(body, carry, (first.rows, first.aux, weights[:begin]))
        rest = inner.sweep(program, _steps(inputs, begin, steps - begin), middle, weights[begin:])
        zeros = jax.tree.map(jnp.zeros_like, first.rows)
        floats, _ = _split(carry)

        def joined(a: PyTree, b: PyTree) -> PyTree:
            return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)

        start = _cotangent(carry, [jnp.zeros_like(x) for x in floats])
        gradients = Gradients(rest.gradients.shared, joined(zeros, rest.gradients.rows), start)
        return Sweep(jnp.concatenate([costs, rest.costs]), rest.carry, joined(seen, rest.readout), gradients)

    return Adjoint(f"truncated({last}, {inner.name})", sweep)


def carries_kept(steps: int, levels: int) -> int:
    """How many carries `segmented` holds at once for a run of T steps: starts of segments, and one segment's, recursively.

    Args:
      steps: T.
      levels: k.

    Returns:
      A count of carries.

    >>> [carries_kept(4096, k) for k in (1, 2, 3)]
    [4096, 127, 46]
    """
    if levels == 1:
        return steps
    span = _segment_size(steps, levels, None)
    return -(-steps // span) - 1 + carries_kept(span, levels - 1)


def _instantiated(cotangent: Any) -> Any:
    """A cotangent as an array, where JAX passes a symbol for zeros."""
    if not isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return cotangent
    if cotangent.dtype == jax.dtypes.float0:
        return np.zeros(cotangent.shape, cotangent.dtype)
    return jnp.zeros(cotangent.shape, cotangent.dtype)


def differentiable(program: Program, adjoint: Adjoint) -> Callable[[Inputs, PyTree], tuple[Array, PyTree, PyTree]]:
    """Make ``run(inputs, carry) -> (costs [T+1], c_T, readouts)``, differentiable in reverse mode by ``adjoint``.

    Derivatives reach ``inputs.shared``, ``inputs.rows`` and ``carry``, through the costs and c_T; readouts and data carry
    none. Forward mode and second derivatives are not offered.

    Args:
      program: the loop.
      adjoint: `direct` or `segmented`.

    Returns:
      A function of `Inputs` and a first carry.

    Raises:
      InputError: for an adjoint that the host drives; for a derivative in ``data``, which would be silently zero.

    >>> program = Program(lambda shared, carry, row, aux, data: carry - row * carry, lambda carry, data: carry**2)
    >>> run, carry = differentiable(program, direct()), jnp.array(2.0)
    >>> inputs = Inputs(shared=None, rows=jnp.array([0.5, 0.5]), aux=jnp.arange(2), data=None)
    >>> run(inputs, carry)[0].tolist()
    [4.0, 1.0, 0.25]
    >>> jax.grad(lambda rows: run(inputs._replace(rows=rows), carry)[0][2])(inputs.rows).tolist()
    [-1.0, -1.0]
    """
    forward_of, backward_of = adjoint.forward, adjoint.backward
    if forward_of is None or backward_of is None:
        why = "drops derivatives" if adjoint.traceable else "runs on the host"
        raise InputError(f"the {adjoint.name} adjoint {why}: use it with olm.policy_gradient or olm.find_policy")

    def watched(before: PyTree, after: PyTree, data: PyTree):
        return program.cost(after, data), program.readout(before, after, data)

    with_costs = program._replace(readout=watched)

    def outputs(inputs: Inputs, carry: PyTree, last: PyTree, seen: PyTree):
        # Under vmap a scan stacks along axis 1, a concatenation along 0. JAX takes the axes of the first of run and forward
        # that it traces for both, so both have to end in the same kind of operation.
        readouts = jax.tree.map(lambda x: jnp.concatenate([x[:1], x[1:]]), seen[1])
        return jnp.append(program.cost(carry, inputs.data), seen[0]), last, readouts

    @jax.custom_vjp
    def run(inputs: Inputs, carry: PyTree):
        last, _, seen = advance(with_costs, inputs, carry, tape=False)
        return outputs(inputs, carry, last, seen)

    def forward(inputs: Inputs, carry: PyTree):
        if any(leaf.perturbed for leaf in jax.tree.leaves((inputs.aux, inputs.data))):
            raise InputError("derivatives reach the policy, not the data: put the task's data under jax.lax.stop_gradient")
        inputs, carry = jax.tree.map(lambda leaf: leaf.value, (inputs, carry))
        last, tape, seen = forward_of(with_costs, inputs, carry)
        return outputs(inputs, carry, last, seen), (inputs, carry, last, tape)

    def backward(residuals, cotangents):
        inputs, carry, last, tape = residuals
        weights, carry_bar, _ = jax.tree.map(_instantiated, cotangents)
        _, gradients = backward_of(program, inputs, carry, last, tape, weights, carry_bar)
        return Inputs(gradients.shared, gradients.rows, None, None), gradients.carry

    # Symbolic zeros tell which arguments a derivative is asked for.
    run.defvjp(forward, backward, symbolic_zeros=True)
    return run
