"""What of controlled generation has to be exact, in float64, and what guidance costs.

The exact engine against enumeration of sequences and paths (`tests/test_posterior.py`); NADO and every form of DiNADO where a
table holds the optimum (`tests/test_nado.py`), from all sequences weighted by p and from samples alone; GeLaTo over the chain
itself against q* computed token by token in numpy, and whether its samples meet constraints that hold with R(x) down to 1e-6;
merged against unmerged LoRA; and the time of guided over unguided decoding of a transformer with its key-value cache. The last
two are in float32.

    python benchmarks/control_exactness.py
"""

from __future__ import annotations

import math
import sys
from typing import Any

import _bench
import jax
import jax.numpy as jnp
import numpy as np

sys.path[:0] = [str(_bench.ROOT / "tests"), str(_bench.ROOT)]

import test_nado as tables  # noqa: E402
import test_posterior as brute  # noqa: E402

from olm import fitting  # noqa: E402
from olm.control import automata, decode, nado, network, posterior  # noqa: E402
from olm.control.automata import Automaton  # noqa: E402
from olm.control.model import compiled, guided, hmm, transformer  # noqa: E402
from olm.control.nado import Nado  # noqa: E402
from olm.learner import Adam  # noqa: E402
from olm.models import hmm as hmms  # noqa: E402
from olm.models import lora  # noqa: E402
from olm.models import transformer as transformers  # noqa: E402
from olm.models.transformer import TransformerConfig  # noqa: E402

FORMS = {
    "NADO, λ = 0": Nado(consistency=0.0),
    "NADO, KL(E ‖ R)": Nado(),
    "NADO, KL(R ‖ E)": Nado(direction="value"),
    "DiNADO-Soft, KL(E ‖ R)": Nado("soft", "last"),
    "DiNADO-Soft, KL(R ‖ E)": Nado("soft", "last", direction="value"),
    "DiNADO-Hard, last": Nado("hard", "last", consistency=0.0),
    "DiNADO-Hard, prefixes": Nado("hard", "prefixes", consistency=0.0),
}
# Two clauses whose rates under a chain of four tokens lie between 1e-1 and 1.
CLAUSES = [[[2, 2], [1, 3]], [[0]]]


def engine(count: int) -> list[dict[str, Any]]:
    """Largest errors of R(x), R(y_≤t), q*(y) over random automata and the meaningful ones of the tests, S = 3, V = 4, T = 5."""
    rng, rows = np.random.default_rng(1), []
    several = list(brute.constraints())
    for i in range(count - 20):
        n = 2 + i % 7
        several.append(Automaton(rng.integers(0, n, (n, brute.V)).astype(np.int32), rng.random(n) < 0.4))
    for kind in ("stationary", "zeros", "positions"):
        chain = brute.chain_of(kind, seed=2)
        lookahead = posterior.lookahead(chain, several, brute.T)
        p, at = brute.enumerated(chain), brute.TOKENS[..., None]
        error = {"R(x)": 0.0, "R(prefix)": 0.0, "log q*": 0.0}
        met_at_all = 0
        for x, automaton in enumerate(several):
            met, context = brute.accepted(automaton, brute.TOKENS), {"which": jnp.full(len(p), x)}
            log_p = compiled(hmm(brute.V, brute.T))(lookahead.hmm, brute.TOKENS, context)
            log_r = np.asarray(_GUIDED(lookahead, brute.TOKENS, context, log_p))
            wanted = brute.rates(p, met)
            known = ~np.isnan(wanted)
            error["R(x)"] = max(error["R(x)"], abs(float(jnp.exp(lookahead.log_rate[x])) - p @ met))
            error["R(prefix)"] = max(error["R(prefix)"], float(abs(np.exp(log_r) - wanted)[known].max()))
            sure = (p > 0) & met
            if not sure.any():
                continue
            met_at_all += 1
            log_q = compiled(posterior.exact(brute.V, brute.T))(posterior.exact_params(lookahead), brute.TOKENS, context)
            found = np.take_along_axis(np.asarray(log_q), at, 2).sum((1, 2))[sure]
            error["log q*"] = max(error["log q*"], float(abs(found - np.log(p[sure] / (p @ met))).max()))
        rows.append({"chain": kind, "automata": len(several), "satisfiable": met_at_all, **error})
    return rows


_GUIDED = jax.jit(posterior.GUIDE.whole)


def forms(steps: int, draws: int) -> list[dict[str, Any]]:
    """KL(q* ‖ q), largest error of R and inconsistency of each form: V = 4, T = 5, a chain whose state is the last token."""
    one, rows = tables.tabular(3, 4, 5, CLAUSES), []
    rng = np.random.default_rng(0)
    # Samples, as a count for each sequence: full batches of all distinct ones are those of the samples.
    shares = {"enumerated": one.p, f"{draws} samples": rng.multinomial(draws, one.p) / draws}
    for name, settings in FORMS.items():
        for source, weights in shares.items():
            start = nado.start(one.network, jax.random.key(0))
            found = fitting.fit(
                nado.losses(settings, one.network), start, one.batch, steps=steps, key=jax.random.key(1),
                batch_size=len(one.p), weights=jnp.asarray(weights), peak=1.0,
                adam=Adam(b2=0.99, weight_decay=0.0, clip=None),
            )  # fmt: skip
            rows.append({"form": name, "learned from": source, "steps": steps, **tables.errors(one, settings, found.params)})
    rows.append({"form": "R(x) of the constraint", "learned from": "exact", "r": math.exp(one.log_rate)})
    # The optimum of any method that counts: the posterior of the sampled distribution itself.
    share = shares[f"{draws} samples"] * one.label
    sure = np.isfinite(one.log_q)
    with np.errstate(divide="ignore"):
        missing = np.log(share[sure] / share.sum())
    rows.append(
        {
            "form": "samples alone, no R",
            "learned from": f"{draws} samples",
            "kl": float(np.exp(one.log_q[sure]) @ (one.log_q[sure] - missing)),
            "r": abs(share.sum() - math.exp(one.log_rate)),
        }
    )
    return rows


def filtered_posterior(chain: Any, automaton: Automaton, rate: float, tokens: np.ndarray) -> np.ndarray:
    """log q*(y) = log p(y) + log C(y) − log R(x), p by a forward pass in numpy, [B]."""
    initial, move, emit = (np.exp(np.asarray(part, np.float64)) for part in chain)
    alpha, log_p = np.broadcast_to(initial, (len(tokens), len(initial))), np.zeros(len(tokens))
    for column in tokens.T:
        seen = alpha * emit[:, column].T
        log_p += np.log(seen.sum(1))
        alpha = seen / seen.sum(1, keepdims=True) @ move
    return np.where(brute.accepted(automaton, tokens), log_p - rate, -np.inf)


def dense_rate(chain: Any, automaton: Automaton, length: int) -> float:
    """log R(x) forwards, over pairs of states: nothing in common with the engine's recursion from the end."""
    initial, move, emit = (np.exp(np.asarray(part, np.float64)) for part in chain)
    transition, accepting = map(np.asarray, automaton)
    mass = np.zeros((len(initial), len(transition)))
    mass[:, 0] = initial
    for t in range(length):
        after = np.zeros_like(mass)
        for state, row in enumerate(transition):
            np.add.at(after.T, row, (mass[:, state, None] * emit).T)
        mass = move.T @ after if t < length - 1 else after
    return float(np.log(mass[:, accepting].sum()))


def gelato(samples: int) -> list[dict[str, Any]]:
    """The chain as its own base, S = 16, V = 64, T = 24: keys of one and two tokens, from the likeliest to the rarest."""
    chain, vocabulary, length = hmms.random(jax.random.key(7), 16, 64), 64, 24
    ranked = np.argsort(-np.exp(np.asarray(hmms.predict(chain, hmms.start(chain, 1), 0)))[0])
    likeliest, rarest = ranked[:6], ranked[::-1][:8]
    cases = {
        "one frequent": [[[likeliest[0]]]],
        "three frequent": [[[v]] for v in likeliest[:3]],
        "two mid, alternatives": [[[ranked[20]], [ranked[21]]], [[ranked[22]], [ranked[23]]]],
        "two strings": [[[likeliest[0], likeliest[1]]], [[ranked[16], ranked[17]], [ranked[18]]]],
        "two rare": [[[rarest[0]]], [[rarest[1]]]],
        "three rare": [[[v]] for v in rarest[:3]],
        "two rare strings": [[[rarest[0], rarest[1]]], [[rarest[2], rarest[3]]]],
    }
    rows = []
    for name, keys in cases.items():
        automaton = automata.clauses([[[int(v) for v in key] for key in clause] for clause in keys], vocabulary)
        lookahead = posterior.lookahead(chain, automaton, length)
        model, params = guided(hmm(vocabulary, length), posterior.GUIDE), posterior.exact_params(lookahead)
        context = {"which": jnp.zeros(samples, int)}
        drawn = decode.sample(model, params, jax.random.key(3), context)
        tokens = np.asarray(drawn.tokens)
        rate = dense_rate(chain, automaton, length)
        first = {"which": context["which"][:2000]}
        log_q = np.asarray(compiled(model)(params, drawn.tokens[:2000], first))
        along = np.take_along_axis(log_q, tokens[:2000, :, None], 2)
        wanted = filtered_posterior(chain, automaton, rate, tokens)
        rows.append(
            {
                "constraint": name,
                "R(x)": math.exp(rate),
                "|log R(x)| error": abs(float(lookahead.log_rate[0]) - rate),
                "|log q − log q*|": float(
                    max(abs(np.asarray(drawn.log_p) - wanted).max(), abs(along.sum((1, 2)) - wanted[:2000]).max())
                ),
                "samples": samples,
                "satisfied": float(brute.accepted(automaton, tokens).mean()),
            }
        )
    return rows


def merged() -> list[dict[str, Any]]:
    """Logits of merged and unmerged adapters in float32, V = 1000, D = 128, for random adapters that change the logits."""
    config = TransformerConfig(vocabulary=1000, length=32, width=128, layers=2, heads=4)
    params, forward = transformers.init(config)(jax.random.key(0)), jax.jit(transformers.logits(config))
    tokens, rows = jax.random.randint(jax.random.key(1), (8, 32), 0, 1000), []
    for rank, alpha in ((4, 8.0), (8, 16.0), (32, 32.0)):
        adapters = lora.init(jax.random.key(rank), params, rank=rank, targets=("qkv", "out", "up", "down", "head"))
        keys = iter(jax.random.split(jax.random.key(rank + 1), 100))
        adapters = jax.tree.map(lambda leaf: leaf + 0.02 * jax.random.normal(next(keys), leaf.shape), adapters)  # noqa: B023
        apart = forward(params, tokens, adapters=lora.scaled(adapters, alpha))
        one = forward(lora.merge(params, adapters, alpha), tokens)
        rows.append(
            {
                "rank": rank,
                "alpha": alpha,
                "largest logit": float(abs(one).max()),
                "change by adapters": float(abs(one - forward(params, tokens)).max()),
                "merged − unmerged": float(abs(one - apart).max()),
                "relative": float(abs(one - apart).max() / abs(one).max()),
            }
        )
    return rows


def speed(repeats: int) -> list[dict[str, Any]]:
    """Guided over unguided sampling of whole sequences in one jitted loop: V = 1000, D = 128, 2 layers, T = 32, B = 64."""
    vocabulary, length, batch = 1000, 32, 64
    config = TransformerConfig(vocabulary=vocabulary, length=length, width=128, layers=2, heads=4)
    base, params = transformer(config, length, begin=0), transformers.init(config)(jax.random.key(0))
    chain, rng = hmms.random(jax.random.key(1), 64, vocabulary), np.random.default_rng(0)
    keys = {
        "3 clauses of 3 tokens": [[[int(v)] for v in rng.choice(vocabulary, 3, replace=False)] for _ in range(3)],
        "3 clauses of 3 strings of 2–3 tokens": [
            [[int(v) for v in rng.choice(vocabulary, int(rng.integers(2, 4)), replace=False)] for _ in range(3)] for _ in range(3)
        ],
    }
    context, key = {"which": jnp.zeros(batch, int)}, jax.random.key(2)
    sides: dict[str, tuple[Any, Any, dict[str, int]]] = {}
    for name, clauses in keys.items():
        automaton = automata.clauses(clauses, vocabulary)
        lookahead = posterior.lookahead(chain, automaton, length)
        sizes = {"states": automaton.transition.shape[0], "successors": lookahead.successors.shape[2]}
        sides[f"GeLaTo, {name}"] = posterior.GUIDE, lookahead, sizes
        sides[f"mask, {name}"] = posterior.MASK, posterior.support(automaton, length), {"states": sizes["states"]}
    small = TransformerConfig(vocabulary=vocabulary + 1, length=length, width=32, layers=1, heads=2)
    for name, settings in (("NADO", nado.NADO), ("DiNADO-Soft", nado.DINADO_SOFT), ("DiNADO-Hard", nado.DINADO_HARD)):
        net = network.small(small, vocabulary, begin=vocabulary)
        start = nado.start(net, jax.random.key(0))
        theta = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), start["theta"])
        sides[f"{name}, D = 32"] = nado.guide(settings, net), {"theta": theta, "frozen": {}}, {}
    rows = []
    for name, (guide, given, sizes) in sides.items():
        model, both = guided(base, guide), {"base": params, "guide": given}

        def with_guide(model: Any = model, both: Any = both) -> Any:
            return decode.sample(model, both, key, context)

        def without() -> Any:
            return decode.sample(base, params, key, context)

        found = _bench.paired_ratio(with_guide, without, repeats)
        low, middle, high = found["pair_ratio_quartiles"]
        rows.append(
            {
                "guide": name,
                **sizes,
                "guided ms a token": 1e3 * found["a_median_s"] / length,
                "unguided ms a token": 1e3 * found["b_median_s"] / length,
                "ratio": found["ratio"],
                "quartiles": [low, middle, high],
                "repeats": repeats,
            }
        )
    return rows


def main() -> None:
    """Measure and record."""
    args = _bench.parser(__doc__.splitlines()[0]).parse_args()
    found: dict[str, Any] = {}
    parts = {
        "speed": lambda: speed(3 if args.quick else 20),
        "lora": merged,
        "engine": lambda: engine(30 if args.quick else 70),
        "gelato": lambda: gelato(1000 if args.quick else 10_000),
        "forms": lambda: forms(200 if args.quick else 1000, 10_000 if args.quick else 50_000),
    }
    for name, measure in parts.items():
        with jax.enable_x64(name not in ("speed", "lora")):
            found[name] = measure()
        print(f"\n{name}", flush=True)
        _bench.table(found[name])
    _bench.save("control_exactness", found, args)


if __name__ == "__main__":
    main()
