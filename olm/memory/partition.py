"""What a layer's partition function says about size and loss: balls, their integrals, radius, cross-entropy, N against D.

Patterns are the centres of disjoint balls of radius r in Rⁿ (Niu et al. 2024, arXiv 2405.08707, section 5). With the volume
V_n(r) = π^(n/2) rⁿ / Γ(1 + n/2) and P the regularised lower incomplete gamma function,

    I_n(r) = ∫_{‖x‖ ≤ r} exp(−‖x‖²) dx = π^(n/2) P(n/2, r²),      exp(−r²) V_n(r) ≤ I_n(r) ≤ V_n(r),
    Z = d · I_n(r),        L ≈ log Z + 1/Z ≥ 1,        r = √(n / 2πe).

The paper prints I_n with γ(n, r), an integral over exp(−t), and the lower bound with exp(−r); both are put right here. It
matters: at that radius the volume is 1/√(πn) to first order, while I_n is smaller by about exp(−n/17.1). Z = 1 by the *upper*
bound asks for √(πn) patterns, by the integral itself for √(πn)·exp(n/17.1) of them (`patterns_stored` says either). With n =
T·width and N = A·l·width², the first gives N = A l width/(π T³) · D²: N ∝ D² where l·width/T³ is held, as the paper has it,
and D ∝ N^¼ where width grows alone. The second would give an exponential of n for D. So what is proposed is a law of the
bound, not of the energy.

Host functions in float64, all logarithms, for n up to 10⁵ and more. Not done: balls that overlap, radii that differ.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import special

from olm.errors import InputError, check_whole

_LIMIT = 1e-17  # of a sum of positive terms, below rounding


def _dimension(n: Any) -> int:
    return check_whole("n", n, 1)


def _positive(name: str, value: float, *, zero: bool = False) -> float:
    if not (0 <= value < math.inf if zero else 0 < value < math.inf):
        raise InputError(f"{name} is {value}: give a number {'of at least' if zero else 'above'} 0")
    return float(value)


def log_ball_volume(n: int, r: float) -> float:
    """log V_n(r), V the volume of a ball: log V = (n/2) log π + n log r − log Γ(1 + n/2).

    Args:
      n: dimension.
      r: radius, above 0.

    Returns:
      A number.

    Raises:
      InputError: a dimension below 1, a radius that is not positive.

    >>> round(math.exp(log_ball_volume(3, 1.0)), 6)  # 4π/3
    4.18879
    """
    n, r = _dimension(n), _positive("r", r)
    return n / 2 * math.log(math.pi) + n * math.log(r) - math.lgamma(1 + n / 2)


def log_ball_integral(n: int, r: float) -> float:
    """log ∫_{‖x‖ ≤ r} exp(−‖x‖²) dx = (n/2) log π + log P(n/2, r²).

    Args:
      n: dimension.
      r: radius, above 0.

    Returns:
      A number.

    Raises:
      InputError: a dimension below 1, a radius that is not positive.

    >>> round(math.exp(log_ball_integral(2, 1.0)), 6)  # π (1 − 1/e)
    1.985865

    Source: arXiv 2405.08707, Eq. 13, with t² in the exponent.
    """
    n, r = _dimension(n), _positive("r", r)
    return n / 2 * math.log(math.pi) + _log_gamma_p(n / 2, r)


def _log_gamma_p(a: float, r: float) -> float:
    """log P(a, x) at x = r². Below the bulk P underflows, and is xᵃ e^(−x) / Γ(a + 1) times Σ_k x^k / ((a + 1) … (a + k))."""
    x = r * r
    if x > a + 1:
        return math.log1p(-float(special.gammaincc(a, x)))
    total = term = 1.0
    k = 1
    while term > _LIMIT * total:
        term *= x / (a + k)
        total += term
        k += 1
    return 2 * a * math.log(r) - x - math.lgamma(a + 1) + math.log(total)


def log_ball_integral_bounds(n: int, r: float) -> tuple[float, float]:
    """Logarithms of exp(−r²) V_n(r) ≤ I_n(r) ≤ V_n(r).

    Args:
      n: dimension.
      r: radius, above 0.

    Returns:
      (lower, upper).

    Raises:
      InputError: a dimension below 1, a radius that is not positive.

    >>> low, high = log_ball_integral_bounds(64, radius(64))
    >>> low < log_ball_integral(64, radius(64)) < high
    True

    Source: arXiv 2405.08707, Eq. 14, with r² in the exponent.
    """
    volume = log_ball_volume(n, r)
    return volume - r * r, volume


def radius(n: int) -> float:
    """The radius at which V_n(r) stays near 1, r = √(n / 2πe).

    Args:
      n: dimension.

    Returns:
      A length, in the unit in which the energy is ‖x − ρ‖².

    Raises:
      InputError: a dimension below 1.

    >>> round(radius(1024), 2)
    7.74

    Source: arXiv 2405.08707, section 5. V_n(r) is 1/√(πn) there, to first order.
    """
    return math.sqrt(_dimension(n) / (2 * math.pi * math.e))


def log_partition(patterns: float, n: int, r: float | None = None) -> float:
    """log Z, Z = d · I_n(r) the partition function of a layer of d disjoint balls.

    Args:
      patterns: d, above 0.
      n: dimension.
      r: radius; None: √(n / 2πe).

    Returns:
      A number.

    Raises:
      InputError: a dimension below 1, d or a radius that is not positive.

    >>> round(log_partition(1, 2, 1.0), 6)
    0.686055

    Source: arXiv 2405.08707, Eq. 13.
    """
    d = _positive("patterns", patterns)
    return math.log(d) + log_ball_integral(n, radius(n) if r is None else r)


def cross_entropy(log_z: float | np.ndarray) -> float | np.ndarray:
    """The theory's loss, log Z + 1/Z ≥ 1, equal to 1 at Z = 1.

    Args:
      log_z: log Z, a number or an array.

    Returns:
      Nats, of the same shape; infinite where 1/Z is beyond float64.

    >>> cross_entropy(0.0), round(cross_entropy(1.0), 4), cross_entropy(-1e5)
    (1.0, 1.3679, inf)

    Source: arXiv 2405.08707, proposition 4. A bound on nats of whatever a pattern is: token, byte or sentence alike.
    """
    log_z = np.asarray(log_z, np.float64)
    with np.errstate(over="ignore"):
        loss = log_z + np.exp(-log_z)
    return loss if loss.ndim else float(loss)


def patterns_stored(n: int, r: float | None = None, *, by: Literal["volume", "integral"] = "volume") -> float:
    """log of the number of patterns d at which Z = 1, where the theory's loss is least.

    Args:
      n: dimension.
      r: radius; None: √(n / 2πe).
      by: "volume": Z ≈ d V_n(r), as the paper has it, d ≈ √(πn); "integral": Z = d I_n(r), what its definition says.

    Returns:
      log d.

    Raises:
      InputError: a dimension below 1, a radius that is not positive, another word for ``by``.

    >>> round(math.exp(patterns_stored(1024)), 1), round(patterns_stored(1024, by="integral"), 1)
    (56.7, 63.9)

    Source: arXiv 2405.08707, proposition 5.
    """
    if by not in ("volume", "integral"):
        raise InputError(f"by is {by!r}: give volume or integral")
    r = radius(n) if r is None else r
    return -(log_ball_volume(n, r) if by == "volume" else log_ball_integral(n, r))


class Prediction(NamedTuple):
    """What the theory says of a transformer.

    Attributes:
      dimension: n = T · D, coordinates of a pattern.
      radius: √(n / 2πe).
      parameters: N ≈ A l D², attention and network alone.
      log_patterns: log d at Z = 1 by the volume.
      tokens: T · d, the data at which N is optimal.
      constant: N / tokens², so that N = constant · D².
      log_patterns_integral: log d at Z = 1 by the integral itself.
    """

    dimension: int
    radius: float
    parameters: float
    log_patterns: float
    tokens: float
    constant: float
    log_patterns_integral: float


def prediction(width: int, length: int, layers: int, per_layer: float = 12.0) -> Prediction:
    """N = O(D²) with its constant, A·l·width/(π T³) to first order, which is one only as long as these are held.

    Args:
      width: D, length of a token's vector.
      length: T, tokens of a sample.
      layers: l.
      per_layer: A, parameters of a layer over D²: 4 of attention and twice the network's width over D; 12 for the usual 4.

    Returns:
      `Prediction`.

    Raises:
      InputError: sizes below 1.

    >>> found = prediction(width=954, length=1024, layers=8, per_layer=10)
    >>> f"{found.constant:.1e}"  # the paper's own runs measure 8.7e-10
    '2.3e-05'

    Source: arXiv 2405.08707, Eq. 2 and proposition 5.
    """
    sizes = {"width": width, "length": length, "layers": layers}
    for name, size in sizes.items():
        check_whole(name, size, 1)
    n = width * length
    parameters = _positive("per_layer", per_layer) * layers * width**2
    log_d = patterns_stored(n)
    tokens = length * math.exp(log_d)
    return Prediction(n, radius(n), parameters, log_d, tokens, parameters / tokens**2, patterns_stored(n, by="integral"))
