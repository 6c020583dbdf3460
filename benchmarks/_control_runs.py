"""The runs of `control.py`: presets, methods, and each run as a file once it is done."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _bench
import jax
import jax.numpy as jnp
import numpy as np

from olm import fitting
from olm.control import baselines, decode, explore, nado, network, posterior, samples, tasks
from olm.control.model import Model, compiled, guided, transformer
from olm.control.nado import Nado
from olm.models import hmm as hmms
from olm.models import transformer as transformers
from olm.models.transformer import TransformerConfig
from olm.records import load_arrays, save_arrays


@dataclass(frozen=True)
class Preset:
    """Everything that a table depends on."""

    vocabulary: int = 32
    states: int = 8
    length: int = 16
    samples: int = 20_000
    rounds: int = 5
    steps: int = 3000
    batch: int = 64
    peak: float = 4e-3
    peak_copy: float = 1e-3
    width: int = 32
    copy_width: int = 48
    judged: int = 512
    em_steps: int = 40


FULL = Preset()
EPOCHS = 4  # of fine-tuning and prompt tuning, over accepted samples
QUICK = Preset(vocabulary=16, states=4, length=8, samples=400, rounds=2, steps=40, width=8, copy_width=8, judged=32, em_steps=3)


@dataclass(frozen=True)
class Method:
    """How R, or q itself, is learned.

    Attributes:
      settings: form and loss of the NADO family; "likelihood": fine-tuning on accepted samples; "fudge".
      network: "small", "copy", "lora", "prompted".
      explored: rounds that draw from what was learned; else all samples come from the base at once.
      weighted: exact weights of samples that are not the base's.
      temperature: of the first round.
      width: of a small network; None: the preset's.
    """

    settings: Nado | str
    network: str = "small"
    explored: bool = False
    weighted: bool = False
    temperature: float = 1.0
    width: int | None = None


NADO, SOFT, HARD = nado.NADO, nado.DINADO_SOFT, nado.DINADO_HARD
METHODS: dict[str, Method] = {
    "NADO": Method(NADO),
    "NADO, tempered": Method(NADO, weighted=True, temperature=1.5),
    "NADO, explored": Method(NADO, explored=True, weighted=True, temperature=2.0),
    "DiNADO-Soft": Method(SOFT),
    "DiNADO-Soft, explored": Method(SOFT, explored=True, temperature=2.0),
    "DiNADO-Hard": Method(HARD),
    "DiNADO-Hard, explored": Method(HARD, explored=True, temperature=2.0),
    "DiNADO-Merge, explored": Method(SOFT, "copy", explored=True, temperature=2.0),
    "DiNADO-Merge by LoRA, explored": Method(SOFT, "lora", explored=True, temperature=2.0),
    "NADO's form, DiNADO's loss, explored": Method(Nado("nado", "last"), explored=True, temperature=2.0),
    "DiNADO's form, NADO's loss, explored": Method(Nado("soft"), explored=True, weighted=True, temperature=2.0),
    "FUDGE": Method("fudge"),
    "fine-tuning": Method("likelihood", "copy"),
    "prompt tuning": Method("likelihood", "prompted"),
}


def config(p: Preset, symbols: int, width: int, room: int = 0) -> TransformerConfig:
    """A transformer for sequences of the preset's length and ``room`` inputs before and behind them."""
    return TransformerConfig(symbols, p.length + room, width, 2, 4 if width >= 16 else 2, score_scale="head", init="gpt2")


@functools.cache
def imitation(model: Model) -> Any:
    """Σ_t KL(p(· | y_<t) ‖ model) of samples that bring "log_p", [B]."""

    def losses(params: Any, batch: Any) -> Any:
        return posterior.divergences(batch["log_p"], model.whole(params["theta"], batch["tokens"], batch["context"])).sum(1)

    return losses


@functools.cache
def terms(settings: Nado, net: network.Network) -> Any:
    """Means of the loss's two terms over a batch."""
    of = nado.parts(settings, net)
    return jax.jit(lambda params, batch: {name: of(params, batch)[name].mean() for name in ("label", "consistency")})


@dataclass
class Bench:
    """One seed: its tasks, samples and finished runs."""

    preset: Preset
    folder: Path
    seed: int
    _tasks: dict[Any, Any] = field(default_factory=dict)

    def key(self, *path: int) -> Any:
        """A random key for a purpose."""
        key = jax.random.key(1000 + self.seed)
        for number in path:
            key = jax.random.fold_in(key, number)
        return key

    def cell(self, group: str, name: str, run: Any) -> dict[str, Any]:
        """A finished run from its file, or run now."""
        path = _bench.kept_below(self.folder, self.preset) / f"seed-{self.seed}" / group / f"{name}.json"
        return _bench.cell(path, f"seed {self.seed}, {group}: {name}", run)

    def sparse(self, rate: float) -> tasks.Exact:
        """The task whose R(x) is about ``rate``."""
        p = self.preset
        if rate not in self._tasks:
            self._tasks[rate] = tasks.lexical(self.seed, rate=rate, vocabulary=p.vocabulary, states=p.states, length=p.length)
        return self._tasks[rate]

    def rare(self) -> tasks.Exact:
        """Two clauses of rare tokens."""
        p = self.preset
        return self._tasks.setdefault(
            "rare",
            tasks.lexical(self.seed, clauses=2, kind="rare", vocabulary=p.vocabulary, states=p.states, length=p.length),
        )

    @functools.cached_property
    def reference(self) -> Any:
        """A transformer that imitates the chain, from whose parameters copies start."""
        p = self.preset
        path = _bench.kept_below(self.folder, p) / f"seed-{self.seed}" / "reference.npz"
        task = self.sparse(0.1)
        # The first token stands before y_1 as well: at place 0 it can be told from a written one.
        shape, n = config(p, p.vocabulary, p.copy_width), p.samples
        model = transformer(shape, p.length, begin=0)

        def run() -> dict[str, Any]:
            drawn = samples.draw(task.base, task.tables.hmm, task.oracle, self.key(1), task.context(np.zeros(n, int)), chunk=n)
            params = {"theta": transformers.init(shape)(self.key(2)), "frozen": {}}
            found = fitting.fit(
                imitation(model), params, drawn.batch, steps=p.steps, key=self.key(3), batch_size=p.batch,
                peak=p.peak,
            )  # fmt: skip
            save_arrays(path, found.params["theta"])
            tokens = decode.sample(task.base, task.tables.hmm, self.key(4), task.context(np.zeros(p.judged, int))).tokens
            context = task.context(np.zeros(p.judged, int))
            log_p = compiled(task.base)(task.tables.hmm, tokens, context)
            losses = jax.jit(imitation(model))(found.params, {"tokens": tokens, "context": context, "log_p": log_p})
            return {"kl": float(losses.mean())}

        found = self.cell("reference", "reference", run)
        return jax.tree.map(jnp.asarray, load_arrays(path)), shape, found["kl"]

    def made(self, method: Method, task: tasks.Exact, seed: int = 0) -> tuple[Any, Any, Any, Any]:
        """(losses, parameters before training, guide, network or None) of a method on a task."""
        p, key = self.preset, self.key(10, seed)
        room = task.prompts.shape[1]
        if method.settings == "fudge":
            made = baselines.fudge(config(p, task.symbols, method.width or p.width, room + 1), task.base.vocabulary, task.begin)
            return made.losses, {"theta": made.init(key), "frozen": {}}, made.guide, None
        frozen = {}
        if method.network == "small":
            net = network.small(config(p, task.symbols, method.width or p.width, room), task.base.vocabulary, task.begin)
        else:
            reference, shape, _ = self.reference
            frozen = {"reference": reference}
            if method.network == "prompted":
                longer = config(p, shape.vocabulary, shape.width, 8)
                net = network.prompted(longer, 0, 8)
                frozen = {"reference": _longer(reference, longer)}
            else:
                net = network.copy(shape, 0, rank=8 if method.network == "lora" else None)
        params = nado.start(net, key, **frozen)
        if method.settings == "likelihood":
            return baselines.likelihood(net), params, baselines.tilt(net), net
        return nado.losses(method.settings, net), params, nado.guide(method.settings, net), net

    def run(
        self,
        method: Method,
        task: tasks.Exact,
        *,
        n: int | None = None,
        init: int = 0,
        steps: int | None = None,
        train_on: Any = (0,),
        test_on: Any = (0,),
        keep: bool = False,
    ) -> dict[str, Any]:
        """Train a method on ``n`` labelled samples and judge it."""
        p, base = self.preset, task.tables.hmm
        n = n or p.samples
        losses, params, guide, net = self.made(method, task, init)
        model = guided(task.base, guide)
        number = p.rounds if method.explored else 1
        each = n // number

        def context(count: int) -> Any:
            return task.context(np.resize(np.asarray(train_on), count))

        first = samples.draw(
            task.base, base, task.oracle, self.key(5), context(each), temperature=method.temperature, chunk=max(each, 1)
        )
        held = samples.draw(task.base, base, task.oracle, self.key(6), context(min(2000, n)), chunk=n)

        def more(params: Any, key: Any, count: int) -> Any:
            both = {"base": base, "guide": params}
            return explore.draw_mixture(task.base, base, model, both, task.oracle, key, context(count))

        if method.settings == "likelihood":
            keep_rows = np.flatnonzero(np.asarray(first.batch["label"]) > 0.5)
            if not len(keep_rows):
                return {"accepted": 0, "samples": n, "rate": 0.0, "kl": None}
            pool = jax.tree.map(lambda x: x[np.resize(keep_rows, max(len(keep_rows), p.batch))], first.batch)
            first = samples.Samples(pool, jnp.ones(len(pool["label"])), first.rate)
            # More epochs than a few learn the accepted samples by heart.
            steps = min(max(EPOCHS * len(keep_rows) // p.batch, 50), p.steps)
        seen = terms(method.settings, net) if isinstance(method.settings, Nado) else None

        def measures(params: Any) -> dict[str, float]:
            return {} if seen is None else {name: float(value) for name, value in seen(params, held.batch).items()}

        peak = p.peak_copy if method.network in ("copy", "lora") else p.peak
        found = explore.rounds(
            losses, params, first, more, number=number, steps=steps or p.steps, key=self.key(7, init), weighted=method.weighted,
            batch_size=p.batch, peak=10 * peak if method.network == "prompted" else peak, measures=measures,
        )  # fmt: skip
        both = {"base": base, "guide": found.params}
        result = {
            "samples": n,
            "accepted": float(first.batch["label"].sum()),
            "rate": found.history[-1]["rate"],
            "history": found.history,
            **tasks.judge(task, model, both, self.key(8), which=test_on, n=max(p.judged // len(test_on), 8)),
        }
        if isinstance(method.settings, Nado):
            result |= tasks.value_error(task, guide, found.params, self.key(9), which=test_on, n=max(p.judged // len(test_on), 8))
        if keep:
            result["_params"], result["_guide"] = found.params, guide
        return result

    def untrained(self, name: str, task: tasks.Exact) -> dict[str, Any]:
        """What needs no training: the base, masking, GeLaTo with a chain fitted to samples, rejection."""
        p, base = self.preset, task.tables.hmm

        def judged(guide: Any, params: Any) -> dict[str, Any]:
            return tasks.judge(task, guided(task.base, guide), {"base": base, "guide": params}, self.key(8), n=p.judged)

        if name == "base":
            return tasks.judge(task, task.base, base, self.key(8), n=p.judged)
        if name == "masking":
            return judged(posterior.MASK, posterior.support(_single(task.tables.automaton), p.length))
        if name.startswith("GeLaTo"):
            states = int(name.split()[-2])
            tokens = decode.sample(task.base, base, self.key(5), task.context(np.zeros(p.samples, int))).tokens
            fitted = hmms.fit(tokens, states=states, vocabulary=p.vocabulary, key=self.key(11), steps=p.em_steps)
            tables = posterior.lookahead(fitted.hmm, _single(task.tables.automaton), p.length)
            return judged(posterior.GUIDE, tables)
        # 64 tries for each of the judged sequences.
        drawn, used = baselines.reject(
            task.base, base, task.oracle, self.key(12), task.context(np.zeros(p.judged, int)), tries=64
        )
        met = float(task.oracle(drawn.tokens, task.context(np.zeros(p.judged, int))).mean())
        return {"satisfaction": met, "tries": float(jnp.minimum(used, 64).mean())}


def _longer(params: Any, shape: TransformerConfig) -> Any:
    """Parameters of a longer model: a learned prompt takes the first places, so all positions move behind it."""
    extra = shape.length - params["position"].shape[0]
    return {**params, "position": jnp.concatenate([jnp.zeros((extra, shape.width)), params["position"]])}


def _single(stacked: Any) -> Any:
    return type(stacked)(stacked.transition[0], stacked.accepting[0])
