"""By how much a found policy improves the coefficients of the scaling law: the benchmark against baseline scaling laws.

Uniform weights and the policy that a search finds are compared on generated stories, half of the training sentences spoiled,
always on held-out ones, in both claims: (a) plain gradient descent at the paper's learning rate, (b) each side at its own best
rate, chosen on validation draws, gradients clipped.

- `ladder`: steps T, examples N and vocabulary V grow together, as in Table 2 of Gu et al. 2024. At every rung both test curves
  are fitted by L0 + (B/t)^β with one L0 and t0, by the published criterion and by least squares (`olm.scaling.steps`): ΔB, Δβ,
  r², acceleration.
- `sizes`: one rung at several widths. Kaplan's L(N, S) and the Chinchilla law L(N, D), D = S times the tokens of a step, are
  fitted to all of a side's curves. N counts all parameters, embeddings included. The Chinchilla E is fixed at the source's
  entropy, which is known here, so that the two sides' coefficients can be compared.

The ladder and the sizes have a result file each. Searches live in run folders under --runs: a stopped benchmark goes on where it
was, within an evaluation too for --preset paper, whose sweeps go segment by segment through host memory and disk. Matrix products
in float32 without TF32.

    python benchmarks/scaling_improvement.py                                  # CPU preset: rungs 1 to 3, sizes
    python benchmarks/scaling_improvement.py --rows 4 --claims a              # its longest rung, in a file of its own
    python benchmarks/scaling_improvement.py --preset paper --rows 1 --claims a --seeds 0    # a GPU: T = 1000, N = 4096
    python benchmarks/scaling_improvement.py --preset paper --rows 2 3 --claims a --seeds 0  # T = 2000, N = 8192; T = 4000, N =
    16384
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _bench
import jax
import numpy as np
import optax

import olm
from olm.data.stories import StoryConfig
from olm.errors import InputError
from olm.models.transformer import TransformerConfig
from olm.offload import offloaded
from olm.records import fingerprint, load_arrays, save_arrays
from olm.scaling import steps as step_law
from olm.scaling.sizes import improvement_over_sizes
from olm.search import best_rates
from olm.tasks.language import CPU, Language, Stories, stories
from olm.types import Learner


@dataclass(frozen=True)
class Rung:
    """One training setting.

    Attributes:
      steps, examples, vocabulary: T, N, V.
      model: the transformer; its vocabulary is the rung's.
      grammar: of the stories; its vocabulary is the rung's.
      rate: of plain gradient descent on all examples at once, in claim (a); the paper's 0.1.
      own_rate, clip: in claim (b) the rate at which the policy is searched, and the longest gradient, or None: at the rates
        where the area is least, unclipped descent has spikes.
      evaluations: of the search.
      draws: fresh targets an evaluation.
      tests: held-out sequences.
      chunk: sequences at once, or None.
      segment: steps of a segment that the host drives, or None: all states on the device.
    """

    steps: int
    examples: int
    vocabulary: int
    model: TransformerConfig = CPU.task.model
    grammar: StoryConfig = CPU.task.grammar
    rate: float = 0.1
    own_rate: float = CPU.rate
    clip: float | None = CPU.clip
    evaluations: int = 10
    draws: int = CPU.target_draws
    tests: int = 1024
    chunk: int | None = None
    segment: int | None = None

    @property
    def name(self) -> str:
        """What the rung is called in tables and folders."""
        return f"T={self.steps} N={self.examples} V={self.vocabulary} width={self.model.width}"

    def language(self, seed: int) -> Language:
        """The task of one seed."""
        grammar = dataclasses.replace(self.grammar, vocabulary=self.vocabulary)
        config = Stories(self.model, grammar, examples=self.examples, targets=self.draws, tests=self.tests)
        return stories(jax.random.key(seed), config)

    def plain(self, rate: float) -> Learner:
        """The optimiser of claim (a)."""
        return Learner(optax.sgd(rate), chunk_size=self.chunk)

    def clipped(self, rate: float) -> Learner:
        """The optimiser of claim (b)."""
        if self.clip is None:
            return self.plain(rate)
        return Learner(optax.chain(optax.clip_by_global_norm(self.clip), optax.sgd(rate)), chunk_size=self.chunk)


def _paper(steps: int, examples: int, vocabulary: int) -> Rung:
    model = TransformerConfig(vocabulary=vocabulary, length=64, width=128, layers=2, heads=8)
    grammar = StoryConfig(vocabulary=vocabulary, topics=8, names=16)
    return Rung(steps, examples, vocabulary, model, grammar, 0.1, 0.1, None, 15, 512, 512, chunk=512, segment=64)


def _wide(width: int) -> Rung:
    return Rung(100, 64, 192, dataclasses.replace(CPU.task.model, width=width))


USUAL_ROWS = {"cpu": (1, 2, 3)}
"""Rungs of a preset that are run unless --rows says otherwise; the others are all."""

PAPER = "L0 = 0.051, t0 = T/10"
"""The constants that the paper's own fit came to, for T = 4000."""

TINY = TransformerConfig(length=8, width=8, layers=1, heads=2)
PRESETS = {
    "cpu": {
        "ladder": [Rung(50, 32, 160), Rung(100, 64, 192), Rung(200, 128, 224), Rung(400, 256, 256)],
        "sizes": [_wide(w) for w in (16, 24, 32, 48)],
    },
    "paper": {"ladder": [_paper(1000, 4096, 4000), _paper(2000, 8192, 4500), _paper(4000, 16384, 5000)], "sizes": []},
    "quick": {
        "ladder": [
            Rung(40, 16, 128, TINY, evaluations=3, draws=32, tests=64),
            Rung(60, 24, 160, TINY, evaluations=2, draws=32, tests=64),
        ],
        "sizes": [
            Rung(40, 16, 128, dataclasses.replace(TINY, width=w), evaluations=3, draws=32, tests=64) for w in (8, 16, 24, 32)
        ],
    },
}


def run(rung: Rung, seed: int, claim: str, folder: Path) -> dict[str, Any]:
    """Test curves of both sides in one claim, from ``folder`` where it has them already."""
    folder = folder / f"{rung.name.replace(' ', '-')}-seed={seed}-claim={claim}"
    done = folder / "curves.npz"
    settings = fingerprint(np.frombuffer(repr((rung, seed, claim)).encode(), np.uint8))
    if done.exists():
        kept = load_arrays(done)
        if bytes(kept["settings"]).decode() != settings:
            raise InputError(f"{folder} holds curves of other settings: remove it or choose another --runs")
        return {name: np.asarray(value) for name, value in kept.items() if name != "settings"}
    folder.mkdir(parents=True, exist_ok=True)
    language, key = rung.language(seed), jax.random.key(1000 + seed)
    adjoint = olm.adjoint.direct() if rung.segment is None else offloaded(segment=rung.segment, directory=folder / "sweep")

    def folder_of(rate: float) -> dict[str, Any]:
        search = folder / f"search-{rate:g}"
        return {"run_dir": search, "resume": (search / "config.json").exists()}

    shared: dict[str, Any] = {"steps": rung.steps, "key": key, "evaluations": rung.evaluations, "target_draws": rung.draws}
    shared |= {"adjoint": adjoint, "save_every": 0}
    if claim == "a":
        solution = olm.find_policy(language.task, rung.plain(rung.rate), progress=True, **folder_of(rung.rate), **shared)
        base, mine, rates = solution.baseline, solution.curve, (rung.rate, rung.rate)
    else:
        grid = best_rates(
            language.task, rung.clipped, learning_rate=rung.own_rate, search_rates=[rung.own_rate], on_search=folder_of, **shared
        )
        solution, base, mine = grid.solution, grid.baseline, grid.found
        rates = (grid.learning_rates["uniform"], grid.learning_rates["found"])
    found = {
        "base": base.test,
        "mine": mine.test,
        "path_length_ratio": mine.step_lengths.sum() / base.step_lengths.sum(),
        "rates": rates,
        "evaluation_seconds": [row["seconds"] for row in solution.history],
        "entropy": language.entropy,
        "parameters": sum(x.size for x in jax.tree.leaves(mine.params)),
    }
    result = {name: np.asarray(value) for name, value in found.items()}
    save_arrays(done, {**result, "settings": np.frombuffer(settings.encode(), np.uint8)})
    return result


def curves(runs: dict[int, dict[str, Any]], name: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """seed → (steps, losses) of one side in one claim."""
    return {seed: (np.arange(len(r[name])), np.asarray(r[name], np.float64)) for seed, r in runs.items()}


def compared(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """`olm.scaling.steps.improvement` of one rung, also with L0 at the source's entropy, and the curves, thinned."""
    base, mine = (curves(runs, side) for side in ("base", "mine"))
    entropy = float(next(iter(runs.values()))["entropy"])
    result = step_law.improvement(base, mine)
    known = step_law.improvement(base, mine, L0=entropy)
    result["summary"]["L0 = entropy"] = known["summary"][step_law.CORRELATION]
    for one, other in zip(result["runs"], known["runs"], strict=True):
        one["L0 = entropy"] = other[step_law.CORRELATION]
        one["path_length_ratio"] = float(runs[one["seed"]]["path_length_ratio"])
    # ΔB and Δβ of the first seed for every L0 one might assume, the paper's 0.051 among them.
    first, least = next(iter(runs)), min(losses[1:].min() for of in (base, mine) for _, losses in of.values())
    levels = np.unique(np.r_[0.051, np.linspace(0, 0.99 * least, 23)])
    result["along_L0"] = step_law.along_L0(base[first], mine[first], levels)
    end = max(losses.size for _, losses in base.values()) - 1
    paper = step_law.improvement(base, mine, L0=0.051, t0=end / 10)
    result["summary"][PAPER] = paper["summary"][step_law.CORRELATION]
    kept = {}
    for side, of in (("base", base), ("mine", mine)):
        steps = step_law.thinned(*next(iter(of.values())))[0]
        kept["steps"] = steps.astype(int)
        kept[side] = {seed: losses[kept["steps"]].round(5) for seed, (_, losses) in of.items()}
    more = {seed: {name: r[name] for name in ("evaluation_seconds", "rates")} for seed, r in runs.items()}
    return {**result, "entropy": entropy, "curves": kept, "seconds_and_rates": more}


def show(rung: str, claim: str, result: dict[str, Any]) -> None:
    """Print a rung's summary."""
    print(f"\n{rung}, claim ({claim})")
    fitted = (
        "L0",
        "delta_B_percent",
        "delta_beta_percent",
        "beta_base",
        "beta_mine",
        "r2_base",
        "r2_mine",
        "acceleration_predicted",
    )
    accelerations = ("acceleration", "acceleration_first", "acceleration_least", "acceleration_of_baseline")
    measured = (*accelerations, "area_ratio", "final_ratio")
    criteria = (step_law.CORRELATION, step_law.LEAST_SQUARES, "L0 = entropy", PAPER)
    wanted = {"measured": measured, **dict.fromkeys(criteria, fitted)}
    _bench.table(
        {"fit": part, "measure": name, **{k: result["summary"][part][name].get(k) for k in ("mean", "low", "high", "min", "max")}}
        for part, names in wanted.items()
        for name in names
        if name in result["summary"][part]
    )


def over_sizes(rungs: dict[str, dict[int, dict[str, Any]]], settings: dict[str, Rung]) -> dict[str, Any]:
    """`olm.scaling.sizes.improvement_over_sizes` with E at the source's entropy."""
    first = settings[next(iter(rungs))]
    size = {name: float(next(iter(runs.values()))["parameters"]) for name, runs in rungs.items()}
    base, mine = ({size[name]: curves(runs, side) for name, runs in rungs.items()} for side in ("base", "mine"))
    entropy = float(next(iter(next(iter(rungs.values())).values()))["entropy"])
    return improvement_over_sizes(base, mine, tokens_per_step=first.examples * first.model.length, E=entropy)


def main() -> None:
    """Run what was asked for, print tables, save the JSON."""
    parser = _bench.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--preset", choices=["cpu", "paper"], default="cpu", help="sizes")
    parser.add_argument("--rows", type=int, nargs="+", default=None, help="these rungs of the ladder alone, from 1, no sizes")
    parser.add_argument("--only", nargs="+", choices=["ladder", "sizes"], default=["ladder", "sizes"], help="parts")
    parser.add_argument("--claims", choices=["a", "ab"], default="ab", help="a: one learning rate; ab: also each side at its own")
    parser.add_argument("--runs", type=Path, default=_bench.ROOT / "runs" / "scaling_improvement", help="folder of the searches")
    arguments = parser.parse_args()
    preset = PRESETS["quick" if arguments.quick else arguments.preset]
    if arguments.rows is not None and not set(arguments.rows) <= set(range(1, len(preset["ladder"]) + 1)):
        parser.error(f"--rows {arguments.rows}: the ladder has rungs 1 to {len(preset['ladder'])}")
    rows = arguments.rows or USUAL_ROWS.get("quick" if arguments.quick else arguments.preset, range(1, len(preset["ladder"]) + 1))
    chosen = {"ladder": [preset["ladder"][row - 1] for row in rows]}
    if arguments.rows is None:
        chosen["sizes"] = preset["sizes"]
    found_so_far: dict[str, dict[str, Any]] = {part: {} for part in chosen}
    name = "scaling_improvement" + ("" if arguments.preset == "cpu" else f"_{arguments.preset}")
    if arguments.rows is not None:  # some rungs have a file of their own, and never stand in the place of all
        name += "_rows_" + "_".join(map(str, arguments.rows))
    # TF32 keeps ten bits: too few for a costate that is carried back through the whole run.
    with jax.default_matmul_precision("highest"):
        for claim, part in ((claim, part) for claim in arguments.claims for part in arguments.only if chosen.get(part)):
            rungs: dict[str, dict[int, dict[str, Any]]] = {rung.name: {} for rung in chosen[part]}
            for seed in arguments.seeds:
                for rung in chosen[part]:
                    begun = time.perf_counter()
                    rungs[rung.name][seed] = run(rung, seed, claim, arguments.runs)
                    print(f"claim ({claim}), {rung.name}, seed {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
                    # A learning rate is a constant of its program: hundreds take more memory maps than Linux gives a process.
                    jax.clear_caches()
            found = {rung: compared(runs) for rung, runs in rungs.items()}
            for rung, result in found.items():
                show(rung, claim, result)
            record = {"rungs": found}
            if part == "sizes":
                record |= {"laws": over_sizes(rungs, {rung.name: rung for rung in chosen[part]})}
                print(f"\nscaling laws over sizes, claim ({claim}): mine / base")
                _bench.table({"ratio": ratio, **value} for ratio, value in record["laws"]["summary"].items())
            found_so_far[part][claim] = {part: record}
            # After every part, each of which takes many minutes, and into a file for each.
            _bench.save(name if part == "ladder" else f"{name}_{part}", {"claims": found_so_far[part]}, arguments)


if __name__ == "__main__":
    main()
