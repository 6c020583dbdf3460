"""Exactness of `olm.memory` against closed forms, quadrature, attention and Monte Carlo, and the cost of nearest neighbours.

- propositions 1 to 3 on random pattern sets of dimensions 2 to 512 (10,000 of them), and how often the third as printed fails;
- the integral over a ball against quadrature, n = 1 … 64, and against its asymptotic expansion at n = 10⁴;
- majorisation-minimisation: 1,000 trajectories, by joint bound and with a bounded step; the published step layer by layer, how
  often it raises the global energy;
- one retrieval against attention with the same keys;
- the entropy rate of the question grammar against 100,000 lines;
- 80,000 vectors of 1,024 coordinates: seconds, and a sample of neighbours against float64;
- radii under `rescaled`: the same logits, other radii.

    python benchmarks/memory_exactness.py [--quick]
"""

from __future__ import annotations

import time
from typing import Any

import _bench
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

from olm.data import questions as question_data
from olm.data.questions import QuestionConfig
from olm.memory import energy, measure, partition
from olm.memory.neighbours import nearest
from olm.models import transformer
from olm.models.transformer import TransformerConfig


def propositions(sets: int) -> dict[str, Any]:
    """The largest violations, and the share of sets on which the third as printed fails."""
    rng = np.random.default_rng(0)
    worst, failed, checked = dict.fromkeys(energy.Bounds._fields, 0.0), 0, 0
    # Few shapes, so that few programs are compiled; norms, counts and distances differ from set to set.
    dimensions = [2, 3, 8, 32, 128, 512]
    of = jax.jit(jax.vmap(energy.violations))
    for n in dimensions:
        for d in (2, 5, 40):
            many = -(-sets // (3 * len(dimensions)))
            scale = 10 ** rng.uniform(-2, 1.5, (many, 1, 1)) / np.sqrt(n)
            patterns = scale * rng.standard_normal((many, d, n)) * rng.choice([1.0, 0.0], (many, 1, 1))
            patterns += scale * (unit := rng.standard_normal((many, d, n))) / np.linalg.norm(unit, axis=-1, keepdims=True)
            x = np.concatenate([patterns[:, :1] + 1e-3 * scale, scale * rng.standard_normal((many, 3, n))], 1)
            found = of(jnp.asarray(x), jnp.asarray(patterns))
            for name in worst:
                worst[name] = max(worst[name], float(getattr(found, name).max()))
            failed += int((np.asarray(found.nearest_hopfield_printed) > 1e-9).sum())
            checked += many
    return {"sets": checked, **worst, "printed_fails_on": failed / checked}


def ball() -> dict[str, Any]:
    """Relative errors of the integral."""
    worst = 0.0
    for n in range(1, 65):
        log_area = np.log(2) + n / 2 * np.log(np.pi) - float(jax.scipy.special.gammaln(n / 2))
        for r in (0.1, partition.radius(n), 0.5 * np.sqrt(n), np.sqrt(n)):
            # Scaled by the integrand at r (or its peak), so that nothing underflows.
            peak = min(r, np.sqrt((n - 1) / 2)) or r
            top = (n - 1) * np.log(peak) - peak**2
            inside = lambda t, n=n, top=top: np.exp((n - 1) * np.log(t) - t * t - top) if t > 0 else float(n == 1) * np.exp(-top)  # noqa: E731
            value, _ = integrate.quad(inside, 0, r, epsabs=0, epsrel=1e-12, limit=200, points=[peak] if peak < r else None)
            worst = max(worst, abs(np.expm1(partition.log_ball_integral(n, r) - log_area - top - np.log(value))))
    n = 10_000
    a, r = n / 2, partition.radius(n)
    z = r * r / a
    # Σ_k x^k / ((a+1) … (a+k)) = Σ_k z^k (1 − k(k+1)/2a + …) = 1/(1−z) − z/(a (1−z)³) + O(a⁻²), with Stirling's series for Γ.
    series = 1 / (1 - z) - z / (a * (1 - z) ** 3)
    log_gamma = a * np.log(a) - a + 0.5 * np.log(2 * np.pi * a) + 1 / (12 * a)
    asymptotic = a * np.log(np.pi) + a * np.log(r * r) - r * r - log_gamma + np.log(series)
    return {
        "quadrature_relative_error": worst,
        "asymptotic_relative_error_n_10000": abs(float(np.expm1(partition.log_ball_integral(n, r) - asymptotic))),
        "log_integral_n_100000": partition.log_ball_integral(100_000, partition.radius(100_000)),
        "log_patterns_by_volume_n_1024": partition.patterns_stored(1024),
        "log_patterns_by_integral_n_1024": partition.patterns_stored(1024, by="integral"),
    }


def descent(trajectories: int) -> dict[str, Any]:
    """The largest rise of the global energy in a step, and how often the published step raises it."""
    rng, rows = np.random.default_rng(1), []
    rises = {"joint": -np.inf, "joint, bounded step": -np.inf}
    short, raised, steps, worst = np.inf, 0, 0, 0.0
    for n in (2, 8, 64, 256):
        layers = [jnp.asarray(rng.standard_normal((6, n)) * 2 / np.sqrt(n) ** 0.5) for _ in range(6)]
        x = jnp.asarray(rng.standard_normal((trajectories // 4, n)) * 3 / np.sqrt(n) ** 0.5)
        for name, radius in (("joint", None), ("joint, bounded step", 0.3)):
            found = energy.descend(x, layers, steps=40, radius=radius)
            rises[name] = max(rises[name], float(jnp.diff(found.energy, axis=0).max()))
            if radius is None:  # x' = m: the bound promises a fall of ‖x − m‖²
                promised = jnp.square(jnp.diff(found.path, axis=0)).sum(-1)
                short = min(short, float((-jnp.diff(found.energy, axis=0) - promised).min()))
        layerwise = energy.descend_layers(x, layers, radius=1.0)
        changes = np.asarray(jnp.diff(layerwise.energy, axis=0))
        raised, steps, worst = raised + int((changes > 1e-9).sum()), steps + changes.size, max(worst, float(changes.max()))
        rows.append(
            {"dimension": n, "published_step_raises": float((changes > 1e-9).mean()), "largest_rise": float(changes.max())}
        )
    return {
        "trajectories": 4 * (trajectories // 4),
        "largest_rise": rises["joint"],
        "largest_rise_bounded_step": rises["joint, bounded step"],
        "least_fall_beyond_the_promised": short,
        "published_step_raises": raised / steps,
        "published_step_largest_rise": worst,
        "by_dimension": rows,
    }


def attention() -> dict[str, Any]:
    """A retrieval and attention, float32 as models have it."""
    rng, worst = np.random.default_rng(2), 0.0
    for n, d in ((8, 16), (64, 128), (128, 512)):
        q, k, v = (jnp.asarray(rng.standard_normal((rows, n)), jnp.float32) for rows in (4, d, d))
        found = energy.retrieve(q, k, beta=1 / np.sqrt(n), values=v)
        flat = jax.nn.dot_product_attention(q[None, :, None], k[None, :, None], v[None, :, None])[0, :, 0]
        shaped = [x[None, :, None] for x in (jnp.concatenate([jnp.zeros((d - 1, n)), q[:1]]) / np.sqrt(n), k, v)]
        own = transformer.causal_attention(*shaped)[0, -1, 0]
        worst = max(worst, float(jnp.abs(found - flat).max()), float(jnp.abs(found[0] - own).max()))
    return {"largest_difference": worst}


def entropies(lines: int) -> list[dict[str, Any]]:
    """Exact rates beside Monte Carlo."""
    rows = []
    for words, copied in ((24, True), (68, True), (68, False), (272, True), (1088, True)):
        language = question_data.grammar(QuestionConfig(vocabulary=words, copied=copied))
        exact = question_data.entropy(language)
        drawn = question_data.draw(language, jax.random.key(words), lines)
        nats, labels = question_data.losses(language, drawn["tokens"]), drawn["mask"].sum(1)
        rate = nats.sum() / labels.sum()
        error = float(np.std(nats - rate * labels) / np.sqrt(lines) / labels.mean())  # of a ratio of means
        rows.append({"words": words, "copied": copied, "exact": exact.rate, "monte_carlo": float(rate), "standard_error": error,
                     "standard_errors_apart": abs(float(rate) - exact.rate) / error, "lines": lines})  # fmt: skip
    return rows


def neighbours(vectors: int, width: int) -> dict[str, Any]:
    """Seconds, and whether sampled neighbours are the true ones."""
    x = np.random.default_rng(3).standard_normal((vectors, width)).astype(np.float32)
    begun = time.perf_counter()
    found = nearest(x)
    seconds = time.perf_counter() - begun
    wrong, off = 0, 0.0
    for row in range(0, vectors, max(vectors // 100, 1)):
        squared = np.square(x.astype(np.float64) - x[row].astype(np.float64)).sum(1)
        squared[row] = np.inf
        wrong += int(squared.argmin() != found.which[row])
        off = max(off, abs(float(found.distance[row] - np.sqrt(squared.min()))))
    return {"vectors": vectors, "width": width, "seconds": seconds, "rescored_pairs": found.rescored, "wrong_of_sampled": wrong,
            "largest_error": off}  # fmt: skip


def gauge() -> dict[str, Any]:
    """One function, two radii."""
    config = TransformerConfig(width=64, heads=4, length=32)
    params = transformer.init(config)(jax.random.key(0))
    tokens = np.asarray(jax.random.randint(jax.random.key(1), (256, 33), 0, 256))
    other = measure.rescaled(params, 10.0)
    one, two = (measure.activations(config, p, measure.samples(tokens)) for p in (params, other))
    logits = [transformer.logits(config)(p, tokens[:, :-1]) for p in (params, other)]
    ratio = [
        float(np.median(nearest(b).distance) / np.median(nearest(a).distance)) for a, b in zip(one[1:], two[1:], strict=True)
    ]
    return {"largest_difference_of_logits": float(jnp.abs(logits[0] - logits[1]).max()),
            "radius_ratio": dict(zip(measure.layer_names(config)[1:], ratio, strict=True))}  # fmt: skip


def main() -> None:
    """Measure all, print, save."""
    arguments = _bench.parser(__doc__).parse_args()
    quick = arguments.quick
    with jax.enable_x64(True):
        found: dict[str, Any] = {"propositions": propositions(180 if quick else 10_008), "ball": ball(),
                                 "descent": descent(40 if quick else 1000)}  # fmt: skip
    found["attention"] = attention()
    found["entropies"] = entropies(2_000 if quick else 100_000)
    found["gauge"] = gauge()
    found["neighbours"] = neighbours(*((2_000, 64) if quick else (80_000, 1024)))
    for name, rows in found.items():
        print(f"\n{name}")
        _bench.table(rows if isinstance(rows, list) else [{k: v for k, v in rows.items() if not isinstance(v, list)}])
    _bench.save("memory_exactness", found, arguments)


if __name__ == "__main__":
    main()
