"""By how much a policy improves the scaling laws over model sizes: Kaplan's L(N, S) and the Chinchilla law L(N, D) of two sides.

Each seed's curves at all sizes are fitted by themselves, baseline and policy apart, so that an interval over seeds can be given.
The coefficients that learning faster can change are those of steps or data: S_c and α_S of L(N, S) = (N_c/N)^α_N + (S_c/S)^α_S,
B and β of L(N, D) = E + A/N^α + B/D^β. Points of one curve are not runs of their own: the Chinchilla law asks for the end
points of runs whose schedule ended there, and along one run at a constant rate the two differ little; of a decaying schedule
only end points should be given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.scaling.fit import Fit, fit
from olm.scaling.steps import over_seeds, thinned
from olm.types import Array

__all__ = ["improvement_over_sizes"]

Curves = Mapping[float, Mapping[Any, tuple[Array, Array]]]
"""N → seed → (steps, losses)."""


def _rows(curves: Curves, seed: Any, from_share: float, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, S and loss of one seed's curves, points evenly spaced in ln S."""
    rows = []
    for size, by_seed in curves.items():
        steps, losses = thinned(*by_seed[seed], points)
        late = steps > from_share * steps[-1]
        rows.append(np.stack([np.full(late.sum(), float(size)), steps[late], losses[late]]))
    N, S, loss = np.concatenate(rows, axis=1)
    return N, S, loss


def _described(found: Fit) -> dict[str, Any]:
    return {**found.parameters, "r2": found.r2, "status": found.status, "at_bounds": list(found.at_bounds)}


def improvement_over_sizes(
    base: Curves,
    mine: Curves,
    *,
    tokens_per_step: float | None = None,
    E: float | None = None,
    from_share: float = 0.1,
    points: int = 32,
    check_units: bool = True,
) -> dict[str, Any]:
    """Fit both sides' curves over model sizes and compare the coefficients of steps and data.

    Args:
      base, mine: N (parameters) → seed → (steps [n], losses [n] in nats); the sizes and seeds that both have are used.
      tokens_per_step: tokens that a step reads; None: the Chinchilla law is not fitted.
      E: the irreducible loss of the Chinchilla law where it is known, so that B and β are comparable; None: each side's own.
      from_share: the first share of each run is left out.
      points: of each curve, at most.
      check_units: refuse N whose largest is below 10⁴, which is what sizes in billions look like.

    Returns:
      ``runs``: a dict a seed with the parameters, r², status and bounds of ``kaplan_ns_base``, ``kaplan_ns_mine`` (and
      ``chinchilla_…``) and the ratios mine / base ``kaplan_ns_S_c_ratio``, ``kaplan_ns_alpha_S_ratio`` (``chinchilla_D_c_ratio``,
      ``chinchilla_beta_ratio``); D_c = B^(1/β), the tokens at which B/D^β is 1 nat, which has a unit that does not change with β.
      ``summary``: the ratios over seeds (`over_seeds`, geometric). ``sizes`` and ``seeds`` that were used.

    Raises:
      InputError: fewer than two sizes, or no seed that every size has on both sides; as `olm.scaling.fit`.

    Source: Kaplan et al. 2020, equation 1.6; Hoffmann et al. 2022, Approach 3; the comparison follows Gu et al. 2024, section
      4.6.

    >>> def curve(N, S_c):
    ...     steps = np.arange(1, 400)
    ...     return steps, (5e3 / N) ** 0.5 + (S_c / steps) ** 0.7
    >>> base, mine = ({N: {0: curve(N, S_c)} for N in (1e4, 3e4, 1e5)} for S_c in (200.0, 100.0))
    >>> found = improvement_over_sizes(base, mine)
    >>> {name: round(value["mean"], 3) for name, value in found["summary"].items()}
    {'kaplan_ns_S_c_ratio': 0.5, 'kaplan_ns_alpha_S_ratio': 1.0}
    """
    sizes = sorted(size for size in base if size in mine)
    if len(sizes) < 2:
        raise InputError(f"{len(sizes)} model sizes on both sides: a law over sizes needs at least 2, and says little below 4")
    seeds = [seed for seed in base[sizes[0]] if all(seed in side[size] for side in (base, mine) for size in sizes)]
    if not seeds:
        raise InputError("no seed has curves of every model size on both sides: give each size the same seeds")
    sides = {"base": {size: base[size] for size in sizes}, "mine": {size: mine[size] for size in sizes}}
    changing = {"kaplan_ns": ("S_c", "alpha_S")}
    if tokens_per_step is not None:
        changing["chinchilla"] = ("D_c", "beta")
    runs = []
    for seed in seeds:
        row: dict[str, Any] = {"seed": seed}
        for side, curves in sides.items():
            N, S, loss = _rows(curves, seed, from_share, points)
            row[f"kaplan_ns_{side}"] = _described(fit(N=N, S=S, loss=loss, law="kaplan_ns", check_units=check_units))
            if tokens_per_step is not None:
                fixed = None if E is None else {"E": E}
                D = S * tokens_per_step  # counted here, so that few of them are no mistake of unit
                found = _described(fit(N, D, loss, law="chinchilla", fixed=fixed, check_units=False))
                with np.errstate(all="ignore"):  # β on its lower bound
                    row[f"chinchilla_{side}"] = found | {"D_c": float(np.float64(found["B"]) ** (1 / np.float64(found["beta"])))}
        for law, names in changing.items():
            for name in names:
                with np.errstate(all="ignore"):
                    row[f"{law}_{name}_ratio"] = float(np.divide(row[f"{law}_mine"][name], row[f"{law}_base"][name]))
        runs.append(row)
    ratios = [f"{law}_{name}_ratio" for law, names in changing.items() for name in names]
    values = {name: [row[name] for row in runs] for name in ratios}
    summary = {name: over_seeds(x, geometric=bool(np.isfinite(x).all())) for name, x in values.items()}
    return {"runs": runs, "summary": summary, "sizes": sizes, "seeds": seeds}
