"""Energies of an associative memory: Hopfield's, a layer's, the nearest neighbour's, that of several layers, and steps down them.

Patterns ρ_1 … ρ_d in Rⁿ are what is remembered; a state x falls to one of them (Niu et al. 2024, arXiv 2405.08707; the modern
Hopfield network is that of Ramsauer et al. 2021, arXiv 2008.02217). With squared distances ‖x − ρ‖²:

    g(x) = min_i ‖x − ρ_i‖²                              nearest neighbour
    E(x) = −log Σ_i exp(−‖x − ρ_i‖²)                      a layer, Eq. 4;   g − log d ≤ E ≤ g
    H(x) = −(1/β) log Σ_i exp(β ρ_i·x) + ‖x‖²/2 + (log d)/β + max ‖ρ‖²/2      Hopfield
    G(x) = −log Σ_t exp(−E_t(x))                          layers t, Eq. 7: one layer that holds the patterns of all

`descend` minimises G by majorisation: with w_i the softmax of −‖x_k − ρ_i‖², Jensen's inequality gives
G(x) ≤ Σ_i w_i ‖x − ρ_i‖² + Σ_i w_i log w_i with equality at x_k, which is least at m = Σ_i w_i ρ_i. So a step cannot raise G, and
m is attention over the patterns at β = 2 when all have one norm. `descend_layers` is the published iteration (Eq. 6), in which
each layer lowers its own energy alone; nothing keeps G from rising there, and it does.

All is written with differences and log-sum-exp in the dtype of the arrays given: nothing overflows at n = 10⁵, and float64 is the
caller's to choose. Not done: complex or binary patterns, learned patterns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from olm.errors import InputError, check_whole
from olm.types import Array


class Descent(NamedTuple):
    """A trajectory.

    Attributes:
      path: [steps + 1, ..., n], states.
      energy: [steps + 1, ...], the global energy at each.
    """

    path: Array
    energy: Array


def check_patterns(patterns: Array, x: Array | None = None) -> tuple[Array, Array | None]:
    """Fail unless the arrays are patterns and states of one dimension, without nan.

    Args:
      patterns: [d, n].
      x: [..., n], or None.

    Returns:
      Both as arrays of a floating dtype.

    Raises:
      InputError: says which array is of the wrong shape, or holds nan or infinities.

    >>> check_patterns(jnp.zeros((2, 3)), jnp.zeros(4))
    Traceback (most recent call last):
    olm.errors.InputError: states have 4 coordinates and patterns 3: give both in one space
    """
    patterns, x = _floats("patterns", patterns), None if x is None else _floats("states", x)
    if patterns.ndim != 2 or not all(patterns.shape):
        raise InputError(f"patterns have shape {patterns.shape}: give [d, n], one pattern a row")
    if x is not None and (x.ndim < 1 or x.shape[-1] != patterns.shape[1]):
        wide = x.shape[-1] if x.ndim else "no"
        raise InputError(f"states have {wide} coordinates and patterns {patterns.shape[1]}: give both in one space")
    return patterns, x


def _floats(name: str, array: Array) -> Array:
    array = jnp.asarray(array)
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    if not isinstance(array, jax.core.Tracer) and not bool(jnp.isfinite(array).all()):
        raise InputError(f"{name} hold nan or infinities: look for them where these arrays were made")
    return array


def _squared(x: Array, patterns: Array) -> Array:
    """[..., d]: from differences, as the Gram matrix would lose half of the digits where x is near a pattern."""
    return jnp.square(x[..., None, :] - patterns).sum(-1)


def nearest_energy(x: Array, patterns: Array) -> Array:
    """Squared distance to the nearest pattern, g(x) = min_i ‖x − ρ_i‖².

    Args:
      x: [..., n], states.
      patterns: [d, n].

    Returns:
      [...].

    Raises:
      InputError: shapes that do not match, nan.

    >>> float(nearest_energy(jnp.array([1.0, 0.0]), jnp.array([[0.0, 0.0], [1.0, 2.0]])))
    1.0

    Source: arXiv 2405.08707, section 4.
    """
    patterns, x = check_patterns(patterns, x)
    return _squared(x, patterns).min(-1)


def layer_energy(x: Array, patterns: Array) -> Array:
    """Energy of a layer, E(x) = −log Σ_i exp(−‖x − ρ_i‖²).

    Args:
      x: [..., n], states.
      patterns: [d, n].

    Returns:
      [...].

    Raises:
      InputError: shapes that do not match, nan.

    >>> round(float(layer_energy(jnp.zeros(2), jnp.zeros((3, 2)))), 4)  # −log 3
    -1.0986

    Source: arXiv 2405.08707, Eq. 4.
    """
    patterns, x = check_patterns(patterns, x)
    return -logsumexp(-_squared(x, patterns), axis=-1)


def hopfield_energy(x: Array, patterns: Array, beta: float = 2.0) -> Array:
    """Energy of the modern continuous Hopfield network.

    H(x) = −(1/β) log Σ_i exp(β ρ_i·x) + ‖x‖²/2 + (log d)/β + max_i ‖ρ_i‖²/2.

    Args:
      x: [..., n], states.
      patterns: [d, n].
      beta: inverse temperature, above 0.

    Returns:
      [...], at least 0.

    Raises:
      InputError: shapes that do not match, nan, a beta that is not positive.

    >>> float(hopfield_energy(jnp.array([3.0]), jnp.array([[3.0]])))  # one pattern, met
    0.0

    Source: arXiv 2008.02217, Eq. 1.
    """
    patterns, x = check_patterns(patterns, x)
    _check_beta(beta)
    norms = jnp.square(patterns).sum(-1)
    attracted = logsumexp(beta * (x @ patterns.T), axis=-1) / beta
    return -attracted + jnp.square(x).sum(-1) / 2 + jnp.log(len(patterns)) / beta + norms.max() / 2


def _check_beta(beta: float) -> None:
    if not isinstance(beta, jax.core.Tracer) and not 0 < beta < jnp.inf:
        raise InputError(f"beta is {beta}: give a number above 0")


def retrieve(x: Array, patterns: Array, beta: float = 2.0, values: Array | None = None) -> Array:
    """One retrieval, Σ_i softmax(β ρ_i·x)_i v_i: softmax attention with the patterns as keys.

    Args:
      x: [..., n], states (queries).
      patterns: [d, n] (keys).
      beta: inverse temperature; attention has 1/√n.
      values: [d, m]; None: the patterns, which makes it the update of the Hopfield network.

    Returns:
      [..., n], or [..., m].

    Raises:
      InputError: shapes that do not match, nan, a beta that is not positive.

    >>> retrieve(jnp.array([1.0, 0.0]), jnp.eye(2), beta=50.0).round(3).tolist()
    [1.0, 0.0]

    Source: arXiv 2008.02217, Eq. 3 and 10.
    """
    patterns, x = check_patterns(patterns, x)
    _check_beta(beta)
    if values is None:
        values = patterns
    elif jnp.ndim(values) != 2 or len(values) != len(patterns):
        raise InputError(f"values have shape {jnp.shape(values)} for {len(patterns)} patterns: give [d, m], one row for each")
    return jax.nn.softmax(beta * (x @ patterns.T), axis=-1) @ values


def global_energy(x: Array, layers: Sequence[Array]) -> Array:
    """Energy of layers together, G(x) = −log Σ_t exp(−E_t(x)).

    Args:
      x: [..., n], states.
      layers: for each layer its patterns, [d_t, n].

    Returns:
      [...]; at most each layer's energy, and at most log l below the least of them.

    Raises:
      InputError: no layer, shapes that do not match, nan.

    >>> one, two = jnp.zeros((1, 2)), jnp.ones((1, 2))
    >>> both = global_energy(jnp.zeros(2), [one, two])
    >>> bool(jnp.isclose(both, layer_energy(jnp.zeros(2), jnp.concatenate([one, two]))))
    True

    Source: arXiv 2405.08707, Eq. 7 and 8.
    """
    return -logsumexp(-jnp.stack([layer_energy(x, patterns) for patterns in _layers(layers)]), axis=0)


def _layers(layers: Sequence[Array]) -> list[Array]:
    if not len(layers):
        raise InputError("there is no layer: give the patterns of at least one")
    return list(layers)


def _within(aim: Array, centre: Array, radius: Array) -> Array:
    """``aim``, or the nearest point to it within ``radius`` of ``centre``: what minimises ‖y − aim‖² there."""
    away = aim - centre
    length = jnp.linalg.norm(away, axis=-1, keepdims=True)
    return jnp.where(length <= radius, aim, centre + away * (radius / jnp.maximum(length, jnp.finfo(aim.dtype).tiny)))


def _mean(x: Array, patterns: Array) -> Array:
    return jax.nn.softmax(-_squared(x, patterns), axis=-1) @ patterns


def descend(x: Array, layers: Sequence[Array], *, steps: int, radius: float | None = None) -> Descent:
    """Majorisation-minimisation of the global energy: x ← Σ_i w_i ρ_i, w the softmax of −‖x − ρ_i‖² over all patterns.

    Each step minimises a quadratic that lies above G and touches it at x, so that G(x) − G(x') ≥ ‖x − m‖² − ‖x' − m‖² ≥ 0.

    Args:
      x: [..., n], where it starts.
      layers: for each layer its patterns, [d_t, n].
      steps: how many.
      radius: the longest step, δ, above 0; None: as long as it wants.

    Returns:
      `Descent`.

    Raises:
      InputError: no layer, no step, shapes that do not match, nan, a radius that is not positive.

    >>> found = descend(jnp.array([0.4]), [jnp.array([[0.0], [3.0]])], steps=20)
    >>> abs(float(found.path[-1, 0])) < 1e-3, bool((jnp.diff(found.energy) <= 1e-6).all())
    (True, True)
    """
    check_whole("steps", steps, 1)
    patterns, x = check_patterns(jnp.concatenate(_same_width(layers)), x)
    path = _descend(x, patterns, _longest(radius), steps)
    return Descent(path, jax.lax.map(lambda state: -logsumexp(-_squared(state, patterns), axis=-1), path))


def _longest(radius: float | None) -> float:
    if radius is not None and not radius > 0:
        raise InputError(f"radius is {radius}: give a length above 0, or None")
    return jnp.inf if radius is None else radius


@functools.partial(jax.jit, static_argnames="steps")
def _descend(x: Array, patterns: Array, radius: Array, steps: int) -> Array:
    def step(x: Array, _: None) -> tuple[Array, Array]:
        new = _within(_mean(x, patterns), x, radius)
        return new, new

    return jnp.concatenate([x[None], jax.lax.scan(step, x, None, length=steps)[1]])


def descend_layers(x: Array, layers: Sequence[Array], *, radius: float | None = None, inner: int = 50) -> Descent:
    """The published iteration: layer after layer, x^(t) = argmin of E_t(x) over ‖x − x^(t−1)‖ ≤ δ.

    Each layer goes towards a minimum by majorisation within the ball, to a stationary point of E_t that is lower than where it
    began. That says nothing about G, which may rise.

    Args:
      x: [..., n], where it starts.
      layers: for each layer its patterns, [d_t, n].
      radius: δ, above 0; None: unbounded.
      inner: steps towards each layer's minimum.

    Returns:
      `Descent`, a step for each layer.

    Raises:
      InputError: no layer, shapes that do not match, nan, a radius that is not positive.

    >>> start, layers = jnp.array([0.1]), [jnp.array([[3.0]]), jnp.array([[0.0]])]
    >>> [round(float(e), 2) for e in descend_layers(start, layers, radius=1.0).energy]  # up to leave 0, and down again
    [0.01, 1.12, 0.01]

    Source: arXiv 2405.08707, Eq. 6.
    """
    check_whole("inner", inner, 1)
    widths = _same_width(layers)
    _, x = check_patterns(widths[0], x)
    path = [x]
    for patterns in widths:
        path.append(_lowered(path[-1], patterns, _longest(radius), inner))
    return Descent(jnp.stack(path), jnp.stack([global_energy(state, widths) for state in path]))


@functools.partial(jax.jit, static_argnames="inner")
def _lowered(centre: Array, patterns: Array, radius: Array, inner: int) -> Array:
    def step(x: Array, _: None) -> tuple[Array, None]:
        return _within(_mean(x, patterns), centre, radius), None

    return jax.lax.scan(step, centre, None, length=inner)[0]


def _same_width(layers: Sequence[Array]) -> list[Array]:
    checked = [check_patterns(patterns)[0] for patterns in _layers(layers)]
    if len({patterns.shape[1] for patterns in checked}) > 1:
        raise InputError(f"layers have patterns of {[p.shape[1] for p in checked]} coordinates: give all in one space")
    return checked


class Bounds(NamedTuple):
    """By how much a proposition is violated, 0 where it holds; the largest over all states.

    Attributes:
      nearest: proposition 1, g − log d ≤ E ≤ g.
      hopfield: proposition 2, |E − (2 H − log d)| ≤ max ‖ρ‖² − min ‖ρ‖², H at β = 2.
      nearest_hopfield: proposition 3, min ‖ρ‖² − max ‖ρ‖² ≤ g − (2 H − log d) ≤ max ‖ρ‖² − min ‖ρ‖² + log d.
      nearest_hopfield_printed: the same without the "− log d" beside 2 H.
    """

    nearest: Array
    hopfield: Array
    nearest_hopfield: Array
    nearest_hopfield_printed: Array


def violations(x: Array, patterns: Array) -> Bounds:
    """By how much the bounds between g, E and the Hopfield energy are violated.

    Args:
      x: [..., n], states.
      patterns: [d, n].

    Returns:
      `Bounds` of numbers, in the energies' unit.

    Raises:
      InputError: shapes that do not match, nan.

    >>> found = violations(jnp.array([[3.0, 0.0]]), jnp.eye(2))
    >>> float(found.nearest), float(found.nearest_hopfield), round(float(found.nearest_hopfield_printed), 2)
    (0.0, 0.0, 0.69)

    Source: arXiv 2405.08707, propositions 1 to 3. From propositions 1 and 2, g − 2 H lies in [min − max − log d, 0]: the third as
    printed fails near a pattern, where patterns have one norm and are two or more.
    """
    patterns, x = check_patterns(patterns, x)
    g, energy = nearest_energy(x, patterns), layer_energy(x, patterns)
    twice = 2 * hopfield_energy(x, patterns)
    norms, log_d = jnp.square(patterns).sum(-1), jnp.log(len(patterns))
    spread = norms.max() - norms.min()

    def outside(value: Array, low: Array, high: Array) -> Array:
        return jnp.maximum(0.0, jnp.maximum(low - value, value - high)).max()

    return Bounds(
        outside(energy, g - log_d, g),
        outside(energy - (twice - log_d), -spread, spread),
        outside(g - (twice - log_d), -spread, spread + log_d),
        outside(g - twice, -spread, spread + log_d),
    )
