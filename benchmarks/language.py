"""What the search finds on language with the CPU preset: 2 layers, width 32, 256 training sequences of 16 tokens, T = 300.

Rows: generated stories with fresh target draws, both sides at one learning rate (claim (a)) and each side at its own area-best
one (claim (b)); their source's entropy is known, so the areas above it are compared too. Then the same two claims on text
files with fixed targets, a quarter of them kept back: half of the training files is Python source, half is prose, and the
targets are other prose (the interpreter's own library and its help topics). Half of the training sentences are spoiled in
both. Ten evaluations a search; everything is measured on held-out sequences. Presets and grids are in LOG.md.

    python benchmarks/language.py [--quick] [--seeds 0 1 2 3 4] [--only stories files]
"""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from typing import Any

import _bench
import jax
import optax
from perceptron import found

import olm
from olm.data.corruption import Corruption
from olm.models.transformer import TransformerConfig
from olm.search import above_entropy, best_rates
from olm.tasks.language import CPU, Language, Stories, stories, text

SEARCH = {"evaluations": 10, "target_draws": CPU.target_draws, "adjoint": olm.adjoint.direct()}
TINY = TransformerConfig(vocabulary=64, length=8, width=8, layers=1, heads=2)


def learner(rate: float) -> olm.Learner:
    """The preset's optimiser at another rate."""
    return olm.Learner(optax.chain(optax.clip_by_global_norm(CPU.clip), optax.sgd(rate)))


def generated(seed: int, quick: bool) -> Language:
    """The preset's stories, or a few of them."""
    config = Stories(TINY, examples=32, targets=32, tests=32) if quick else CPU.task
    return stories(jax.random.key(seed), config)


def prose_and_source(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files written to ``folder``: training on Python source and prose in equal parts, targets on other prose."""
    import argparse
    import json.decoder
    import pydoc_data.topics
    import textwrap as wrap

    topics = [topic for _, topic in sorted(pydoc_data.topics.topics.items())]
    prose = {"train": "\n\n".join(topics[::2]), "target": "\n\n".join(topics[1::2])}
    source = "\n\n".join(inspect.getsource(module) for module in (argparse, json.decoder, wrap))
    size = min(len(source), len(prose["train"]))
    files = {"source.txt": source[:size], "prose.txt": prose["train"][:size], "target.txt": prose["target"]}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / "source.txt", folder / "prose.txt"], [folder / "target.txt"]


def files(seed: int, quick: bool) -> Language:
    """Text files: fixed targets, as many sequences as the preset has."""
    sizes = {"examples": 32, "targets": 32, "tests": 32} if quick else {"examples": 256, "targets": 256, "tests": 1024}
    with tempfile.TemporaryDirectory() as folder:
        train, target = prose_and_source(Path(folder))
        model = TINY if quick else CPU.task.model
        return text(
            jax.random.key(seed), train, target, model=model, corruption_of_train=Corruption(), seed=seed, vocabulary=512, **sizes
        )


def claims(language: Language, steps: int, key: jax.Array) -> dict[str, dict[str, Any]]:
    """Both claims, (b) with the grid's rows: one search at the preset's rate, whose policy is then replayed at others."""
    grid = best_rates(language.task, learner, learning_rate=CPU.rate, steps=steps, key=key, search_rates=[CPU.rate], **SEARCH)
    same = grid.solution
    names = ("acceleration", "acceleration_first", "area_ratio", "final_ratio", "step_length_ratio")
    own = {name: grid.claim[name] for name in names} | above_entropy(grid.claim, language.entropy)
    own |= {f"{what}_{side}": grid.claim[what][side] for what in ("area", "final") for side in ("baseline", "found")}
    own |= {f"{what}_fall": own[f"{what}_baseline"] - own[f"{what}_found"] for what in ("area", "final")}
    own |= {f"rate_{side}": rate for side, rate in grid.learning_rates.items()} | {"grid": grid.rows}
    seconds = {"seconds": same.summary()["seconds"]}
    history = [row["validation"] for row in same.history]
    return {
        "claim (a)": {**found(same), **above_entropy(same.measures, language.entropy), **seconds, "validation_areas": history},
        "claim (b)": own,
    }


DATA = {"stories": generated, "files": files}


def main() -> None:
    """Run what was asked for, print tables, save one JSON for each kind of data."""
    parser = _bench.parser(__doc__, seeds=(0, 1, 2, 3, 4))
    parser.add_argument("--only", nargs="+", choices=list(DATA), default=list(DATA), help="data to measure on")
    arguments = parser.parse_args()
    steps = 10 if arguments.quick else CPU.steps
    for data in arguments.only:
        runs: list[dict[str, Any]] = []
        for seed in arguments.seeds[:1] if arguments.quick else arguments.seeds:
            language = DATA[data](seed, arguments.quick)
            runs.append(claims(language, steps, jax.random.key(1000 + seed)))
            for claim, row in runs[-1].items():
                print(f"{claim}, seed {seed}: { ({name: x for name, x in row.items() if isinstance(x, float)}) }", flush=True)
            # After every seed, each of which takes minutes: what is done is not lost.
            summary = _bench.summarise(runs)
            done = {"run_seeds": arguments.seeds[: len(runs)], "entropy": language.entropy, "summary": summary, "runs": runs}
            _bench.save(f"language_{data}", done, arguments)


if __name__ == "__main__":
    main()
