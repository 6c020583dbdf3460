"""Does a transformer behave like an associative memory? The experiments of Niu et al. 2024 (arXiv 2405.08707), with controls.

Sections, every number over seeds with an interval, all losses on held-out windows or of the training set itself:

- ``shares``: one transformer on 100%, 1% and 0.1% of one corpus (generated stories of known entropy; the Python standard
  library's docstrings and code; or files of your own, --files). Does 0.1% overfit until the training loss vanishes; is 1%
  comparable with 100%, and if so for models near N ∝ D²?
- ``questions``: question formation with a vocabulary of 68 words, 6 and 10 layers, batch 8. The training loss settles; at the
  theory's bound of 1 nat, or at the entropy of the source? Controls: other vocabularies, the copied half left out, and a few
  lines read many times. The grammar is our own; the rate falls to zero within one epoch, so the plateau is a loss on new lines.
- ``data``: D*, the least data whose training loss is within 2% of the validation loss at the validation minimum (the best of
  twenty evaluations, in the middle of a schedule where data are few), for widths that make N 16 times apart and more: exponent of
  D* ∝ N^b against the theory's ½, and against what its constants give where width grows alone. Beside it the irreducible term of
  a law of the same runs, against the source's entropy and the theory's 1.
- ``retrieval``: inputs moved within the ball of their pattern: does the last layer come back to it, more often for samples that
  were stored than for held-out ones, and after training than before?
- ``policy``: what a found learning policy knows by heart, beside uniform weights, of the clean and of the corrupted half of its
  training set; and the radii of its patterns.

Every run is a file below --cells once it is done, so that an interrupted benchmark goes on and two processes may share the work:

    python benchmarks/memory.py --only questions & python benchmarks/memory.py --only shares data policy; wait
    python benchmarks/memory.py                  # reads what is there, runs what is not, writes results/memory.json
    python benchmarks/memory.py --preset gpu     # larger sizes, without ``policy``; writes results/memory_gpu.json
    python benchmarks/memory.py --quick          # all sections, tiny
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _bench
import jax
import numpy as np
import optax
from _memory_runs import PRESETS, Bench
from continual import verdict, within

import olm
from olm.data import corruption
from olm.data import stories as story_data
from olm.memory import measure, partition
from olm.memory.experiment import at_minimum, data_needed, exponent
from olm.scaling.fit import fit
from olm.tasks.language import Stories, stories

BOUND = 0.02
SECTIONS = ("shares", "questions", "data", "retrieval", "policy")
GPU_SECTIONS = SECTIONS[:3]  # the others are measured at one size


def per_seed(cell: dict[str, Any], of: str) -> list[float]:
    """A column of the last evaluation."""
    return [float(x) for x in cell["history"][-1][of]]


def column(values: Sequence[float]) -> dict[str, Any]:
    """Mean and interval over seeds."""
    return _bench.interval(list(values))


# --- 100%, 1%, 0.1% ---------------------------------------------------------------------------------------------------


def shares(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Rows of every corpus, width and share, and the statements of the seed."""
    p, found = bench.preset, {}
    for name in names:
        rows: dict[str, Any] = {}
        whole = p.corpus if name == "stories" else None
        for width in p.widths:
            total = p.corpus
            for share in p.shares:
                # The text has as many tokens as it has: the first run is on all of them, and says how many.
                tokens = round(share * total)
                cell = bench.on_corpus(name, tokens if whole or share < 1 else 10**12, width, p.steps, whole)
                if share == 1.0:
                    total = cell["tokens"]
                row = share_row(bench, cell, share)
                if share == min(p.shares):
                    row["telling_apart"] = column(bench.telling_apart(name, cell["tokens"], whole))
                rows[f"width {width}, {100 * share:g}%"] = row
        found[name] = {"rows": rows, "claims": share_claims(bench, rows)}
    return found


def share_row(bench: Bench, cell: dict[str, Any], share: float) -> dict[str, Any]:
    """One run, at its end and at its validation minimum."""
    least = [at_minimum(cell["history"], s) for s in range(len(bench.seeds))]
    train, validation = per_seed(cell, "train"), per_seed(cell, "validation")
    p = bench.preset
    theory = partition.prediction(cell["width"], p.length, p.layers)
    memory = {
        name: column([one[name] for one in cell["memory"]])
        for name in ("known", "loss_auc", "written_stored", "written_held_out")
    }
    last = [one["layers"][-1] for one in cell["memory"]]
    count = cell["tokens"] // p.length
    return {
        "share": share,
        "samples": count,
        "width": cell["width"],
        "tokens": cell["tokens"],
        "layer_parameters": cell["layer_parameters"],
        "entropy": cell["entropy"],
        "theory_tokens": theory.tokens,
        "theory_parameters": theory.constant * cell["tokens"] ** 2,
        "train": column(train),
        # Without the source's own scatter taken off, which tells nothing of samples known by heart.
        "train_as_it_is": column([one["loss_stored"] for one in cell["memory"]]),
        "validation": column(validation),
        "gap": column([v - t for t, v in zip(train, validation, strict=True)]),
        "least_validation": column([m.validation for m in least]),
        "gap_at_least": column([m.validation - m.train for m in least]),
        "steps_at_least": [m.step for m in least],
        **memory,
        "radius_over_theory": column([layer["radius_over_theory"] for layer in last]),
        "separation_auc": column([layer["separation_auc"] for layer in last]),
        "held_out_inside": column([layer["held_out_inside"] for layer in last]),
        "history": cell["history"],
    }


def share_claims(bench: Bench, rows: dict[str, Any]) -> dict[str, Any]:
    """What the seed document says of 0.1% and 1%."""
    found = {}
    p = bench.preset
    by = {(row["width"], row["share"]): row for row in rows.values()}
    smallest = min(p.shares)
    for width in p.widths:
        few, all_ = by[width, smallest], by[width, max(p.shares)]
        rise = np.array(few["validation"]["values"]) - np.array(few["least_validation"]["values"])
        found[f"width {width}: {100 * smallest:g}% overfits, its validation loss rises from its minimum, nats"] = verdict(
            rise, 0.0, below=False
        )
        # Whoever knows all samples by heart still has to learn from the first tokens which one it is.
        excess = np.array(few["train_as_it_is"]["values"]) - np.array(few["telling_apart"]["values"])
        found[
            f"width {width}: the training loss of {100 * smallest:g}% vanishes, but for what telling samples apart takes, nats"
        ] = within(excess, 0.01)
        for share in sorted(set(p.shares) - {smallest, max(p.shares)}):
            part = by[width, share]
            ratio = np.array(part["least_validation"]["values"]) / np.array(all_["least_validation"]["values"]) - 1
            found[
                f"width {width}: {100 * share:g}% is within {100 * BOUND:g}% of 100% at the validation minimum "
                f"(N is {theory_share(part):.2g} of the theory's for this D)"
            ] = within(ratio, BOUND)
    near = min(rows.values(), key=lambda row: abs(np.log(theory_share(row))))
    all_ = by[near["width"], max(p.shares)]
    ratio = np.array(near["least_validation"]["values"]) / np.array(all_["least_validation"]["values"]) - 1
    found[
        f"nearest to the theory's N for its D ({theory_share(near):.2g} of it), width {near['width']}, {100 * near['share']:g}%: "
        f"within {100 * BOUND:g}% of 100% at the validation minimum"
    ] = within(ratio, BOUND)
    return found


def theory_share(row: dict[str, Any]) -> float:
    """A run's parameters over those that the theory gives its data."""
    return row["layer_parameters"] / row["theory_parameters"]


# --- question formation -----------------------------------------------------------------------------------------------


def questions(bench: Bench) -> dict[str, Any]:
    """Plateaus beside entropies, and which of the two explanations stands."""
    p = bench.preset
    wanted = [(68, True, depth) for depth in p.depths]
    wanted += [(words, True, p.depths[0]) for words in p.words] + [(68, False, p.depths[0])]
    rows = {}
    for words, copied, layers in wanted:
        cell = bench.questions(words, copied, layers)
        late = [row for row in cell["history"] if row["step"] > 0.9 * cell["history"][-1]["step"]]
        # Both carry half of the scatter of the lines looked at (see `experiment.learn`), which is known exactly here.
        scatter = np.array(bench.question_scatter(words, copied))
        train, validation = (np.array([row[of] for row in late]).mean(0) - scatter for of in ("train", "validation"))
        kind = "sentence and copy or question" if copied else "sentences alone"
        rows[f"{words} words, {kind}, {layers} layers"] = {
            "words": words,
            "copied": copied,
            "layers": layers,
            "parameters": cell["parameters"],
            "tokens": cell["tokens"],
            "epochs": cell["history"][-1]["step"] * p.question_batch * cell["labels"] / cell["tokens"],
            "entropy": cell["entropy"],
            "train": column(train),
            "validation": column(validation),
            "train_less_entropy": column(train - cell["entropy"]),
            "validation_less_entropy": column(validation - cell["entropy"]),
            "train_less_one": column(train - 1.0),
            "history": cell["history"],
        }
    few = max(p.lines // 45, p.question_batch)
    cell = bench.questions(68, True, p.depths[0], few)
    last = cell["history"][-1]
    again = {
        "lines": few,
        "epochs": last["step"] * p.question_batch / few,
        "train": column(last["train"]),
        "validation": column(last["validation"]),
        "entropy": cell["entropy"],
        "history": cell["history"],
    }
    claims: dict[str, Any] = {}
    values = np.array([row["train"]["values"] for row in rows.values()])
    entropies = np.array([row["entropy"] for row in rows.values()])
    slopes = [float(np.polyfit(entropies, values[:, s], 1)[0]) for s in range(values.shape[1])]
    published = np.array([row["train"]["values"] for row in rows.values() if row["words"] == 68 and row["copied"]])
    claims["68 words, a grammar of our own: the training loss settles within 0.1 of 1 nat"] = within(published.mean(0) - 1.0, 0.1)
    claims["in all controls the training loss is at least 1 nat, as the bound has it: the least of them"] = verdict(
        values.min(0), 1.0, below=False
    )
    claims["in all controls the training loss is within 0.05 nats of the source's entropy: the farthest of them"] = within(
        np.abs(values - entropies[:, None]).max(0), 0.05
    )
    claims["slope of the training loss over the entropy (0 if it settles at 1, 1 if at the entropy) is within 0.1 of 1"] = within(
        np.array(slopes) - 1.0, 0.1
    )
    claims[f"68 words, {few:,} lines read again and again: the training loss stays at 1 nat or above"] = verdict(
        last["train"], 1.0, below=False
    )
    return {"rows": rows, "again": again, "claims": claims, "slope": column(slopes)}


# --- D* against N -----------------------------------------------------------------------------------------------------


def data(bench: Bench) -> dict[str, Any]:
    """The least data without overfitting, and the law of the same runs."""
    p, seeds = bench.preset, range(len(bench.seeds))
    rows: dict[str, Any] = {}
    table, last, runs = [], [], []
    for width, sizes in p.grid:
        cells = []
        for tokens in sizes:
            steps = max(p.grid_steps, p.epochs * tokens // (p.batch * p.length))
            cells.append(bench.on_corpus("stories", tokens, width, steps, tokens))
        least = [[at_minimum(cell["history"], s) for s in seeds] for cell in cells]
        at = [cell["tokens"] for cell in cells]
        needed = [data_needed(at, [m[s].gap for m in least], BOUND) for s in seeds]
        ends = [[1 - per_seed(cell, "train")[s] / per_seed(cell, "validation")[s] for s in seeds] for cell in cells]
        at_end = [data_needed(at, [row[s] for row in ends], BOUND) for s in seeds]
        theory = partition.prediction(width, p.length, p.layers)
        known = [one.tokens for one in needed]
        rows[f"width {width}"] = {
            "width": width,
            "parameters": cells[0]["parameters"],
            "layer_parameters": cells[0]["layer_parameters"],
            "tokens": at,
            "gaps": [column([m.gap for m in row]) for row in least],
            "losses": [column([m.validation for m in row]) for row in least],
            "steps_at_least": [[m.step for m in row] for row in least],
            "steps": [cell["history"][-1]["step"] for cell in cells],
            "needed": known,
            "needed_sides": [one.side for one in needed],
            "gaps_at_end": [column(row) for row in ends],
            "needed_at_end": [one.tokens for one in at_end],
            "needed_at_end_sides": [one.side for one in at_end],
            "theory_tokens": theory.tokens,
            "known": [column([one["known"] for one in cell["memory"]]) for cell in cells],
            "radius_over_theory": [column([one["layers"][-1]["radius_over_theory"] for one in cell["memory"]]) for cell in cells],
        }
        table.append(known)
        last.append([one.tokens for one in at_end])
        runs += [(cells[0]["parameters"], tokens, [m.validation for m in row]) for tokens, row in zip(at, least, strict=True)]
    entropy, found = cells[0]["entropy"], {"rows": rows, "entropy": cells[0]["entropy"], "claims": {}}
    for what in ("layer_parameters", "parameters"):
        sizes_N = [row[what] for row in rows.values()]
        b = [exponent(sizes_N, [known[s] for known in table]) for s in seeds]
        found[f"exponent_{what}"] = column(b)
        found[f"exponent_at_end_{what}"] = column([exponent(sizes_N, [known[s] for known in last]) for s in seeds])
        # ½ is for l·width/T³ held; width alone grows here, where the theory's own constants say another exponent.
        own = exponent(sizes_N, [row["theory_tokens"] for row in rows.values()])
        found[f"exponent_theory_{what}"] = own
        for where, power in (
            ("at the validation minimum", b),
            ("at the end of training", [exponent(sizes_N, [k[s] for k in last]) for s in seeds]),
        ):
            words = f"D* ∝ N^b {where}, N the {what.replace('_', ' ')}"
            for name, value in (
                ("½", 0.5),
                (f"{own:.2f}, the theory's with its constants at these sizes,", own),
                ("Akaike's 1", 1.0),
            ):
                found["claims"][f"{words}: b is within 0.05 of {name} b − {value:.2f}"] = within(np.array(power) - value, 0.05)
    found["needed_over_theory"] = [column(np.array(row["needed"]) / row["theory_tokens"]) for row in rows.values()]
    for bound in (0.01, 0.04):
        other = [
            [data_needed(row["tokens"], [gap["values"][s] for gap in row["gaps"]], bound).tokens for s in seeds]
            for row in rows.values()
        ]
        sizes_N = [row["layer_parameters"] for row in rows.values()]
        found[f"exponent_layer_parameters_bound_{bound}"] = column([exponent(sizes_N, [one[s] for one in other]) for s in seeds])
    found["law"] = law(runs, entropy, len(bench.seeds))
    floor = np.array(found["law"]["irreducible"]["values"])
    found["claims"]["irreducible term of L = E + B/D^β, largest model: within 0.02 nats of the source's entropy; E − H"] = within(
        floor - entropy, 0.02
    )
    found["claims"]["the same is the theory's 1 within 0.02; E − 1"] = within(floor - 1.0, 0.02)
    return found


def law(runs: Sequence[tuple[float, float, list[float]]], entropy: float, seeds: int) -> dict[str, Any]:
    """Laws of the losses at the validation minimum, a fit for each seed.

    L = E + A/N^α + B/D^β of all sizes, whose E is not identified where the loss hardly depends on N (α at its bound 0), and
    L = E + B/D^β of the largest model alone.
    """
    whole, alone = [], []
    largest = max(n for n, _, _ in runs)
    for s in range(seeds):
        n, d, loss = (np.array(x, float) for x in zip(*((n, d, losses[s]) for n, d, losses in runs), strict=True))
        whole.append(fit(n, d, loss, check_units=False))
        one = n == largest
        # With A = 10⁻³⁰ nothing of N is left.
        alone.append(fit(n[one], d[one], loss[one], check_units=False, fixed={"A": 1e-30, "alpha": 0.5}))
    floor = [float(one.parameters["E"]) for one in alone]
    return {
        "irreducible": column(floor),
        "irreducible_less_entropy": column([x - entropy for x in floor]),
        "irreducible_less_one": column([x - 1.0 for x in floor]),
        "beta": column([float(one.parameters["beta"]) for one in alone]),
        "status": [one.status for one in alone],
        "all_sizes": [{name: float(x) for name, x in one.parameters.items()} for one in whole],
        "all_sizes_status": [one.status for one in whole],
    }


# --- retrieval --------------------------------------------------------------------------------------------------------


def retrieval(bench: Bench) -> dict[str, Any]:
    """Recovered after a move, stored and held out, by what the model was trained on."""
    rows, claims = {}, {}
    for share in (None, *sorted(bench.preset.shares)):
        cell = bench.retrieval(share)
        name = "untrained" if share is None else f"trained on {100 * share:g}%"
        row: dict[str, Any] = {"patterns": cell["patterns"], "known": column([one["known"] for one in cell["memory"]])}
        for direction in ("random", "towards"):
            sides = {
                side: np.array([one["retrieval"][f"{side}, {direction}"]["recovered"] for one in cell["memory"]])
                for side in ("stored", "held out")
            }
            moved = cell["memory"][0]["retrieval"][f"stored, {direction}"]["fractions"]
            for place, fraction in enumerate(moved):
                for side, values in sides.items():
                    row[f"{side}, {direction}, {fraction:g} radii"] = column(values[:, place])
                difference = (sides["stored"] - sides["held out"])[:, place]
                row[f"stored less held out, {direction}, {fraction:g} radii"] = column(difference)
                if share is not None and share < 1 and fraction in (0.5, 1.0):
                    claims[
                        f"{name}, moved {fraction:g} radii {direction}: stored samples come back more often than held-out ones, "
                        "difference of shares"
                    ] = verdict(difference, 0.0, below=False)
        rows[name] = row
    return {"rows": rows, "claims": claims}


# --- the found policy -------------------------------------------------------------------------------------------------


def policy(bench: Bench, quick: bool) -> dict[str, Any]:
    """Memory after training with the found policy and with uniform weights."""
    # Searches differ more than other runs: twice as many seeds.
    seeds = bench.seeds[:1] if quick else [*bench.seeds, *(max(bench.seeds) + 1 + i for i in range(len(bench.seeds)))]
    runs = [bench.cell(f"policy_{seed}", lambda seed=seed: policy_run(seed, quick)) for seed in seeds]
    rows: dict[str, Any] = {}
    for part in ("clean", "corrupted"):
        for side in ("uniform", "found"):
            rows[f"{part}, {side}"] = {name: column([run[part][side][name] for run in runs]) for name in runs[0][part][side]}
        rows[f"{part}, found less uniform"] = {
            name: column([run[part]["found"][name] - run[part]["uniform"][name] for run in runs])
            for name in runs[0][part]["found"]
        }
    claims = {
        "the found policy knows less of the corrupted half by heart: difference in share": verdict(
            rows["corrupted, found less uniform"]["known"]["values"], 0.0, below=True
        ),
        "the found policy knows less of the clean half by heart: difference in share": verdict(
            rows["clean, found less uniform"]["known"]["values"], 0.0, below=True
        ),
        "radii of the last layer are within 10% of those of uniform weights: log of the ratio, clean half": within(
            [np.log(run["clean"]["found"]["radius"] / run["clean"]["uniform"]["radius"]) for run in runs], 0.1
        ),
    }
    return {"rows": rows, "claims": claims, "acceleration": column([run["acceleration"] for run in runs]),
            "area_ratio": column([run["area_ratio"] for run in runs])}  # fmt: skip


def policy_run(seed: int, quick: bool) -> dict[str, Any]:
    """One search at the rate where the area of uniform weights is least; half of the held-out sets is corrupted as well."""
    config = Stories(examples=32 if quick else 256, targets=32, tests=64 if quick else 1024)
    built = stories(jax.random.key(seed), config)
    learner = olm.Learner(optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.6)))
    solution = olm.find_policy(
        built.task, learner, steps=10 if quick else 300, evaluations=2 if quick else 10, target_draws=32 if quick else 256,
        key=jax.random.key(1000 + seed), adjoint=olm.adjoint.direct(),
    )  # fmt: skip
    tables, length = built.grammar, built.model.length
    clean = np.asarray(story_data.draw(tables, jax.random.key(70_000 + seed), config.tests, length))
    spoiled = corruption.corrupt(
        jax.random.key(80_000 + seed), clean, vocabulary=built.model.vocabulary, how=corruption.Corruption(fraction=1.0)
    )
    held = {"clean": measure.samples(clean), "corrupted": measure.samples({"tokens": spoiled.tokens, "mask": spoiled.mask})}
    train = measure.samples(built.task.train)
    wrong = np.asarray(built.corrupted, bool)
    found: dict[str, Any] = {"acceleration": solution.acceleration, "area_ratio": solution.area_ratio}
    for part, rows in (("clean", ~wrong), ("corrupted", wrong)):
        stored = measure.Samples(train.tokens[rows], train.mask[rows])
        found[part] = {}
        for side, curve in (("uniform", solution.baseline), ("found", solution.curve)):
            seen = measure.measure(
                built.model, curve.params, stored, held[part], jax.random.key(seed), retrieved=64 if quick else 512
            ).summary()
            last = seen["layers"][-1]
            found[part][side] = {
                **{name: seen[name] for name in ("loss_stored", "loss_held_out", "known", "loss_auc", "written_stored")},
                **{name: last[name] for name in ("radius", "radius_over_theory", "separation_auc", "held_out_inside")},
                **{f"recovered_{name.replace(', ', '_').replace(' ', '_')}_at_1": kept["recovered"][kept["fractions"].index(1.0)]
                   for name, kept in seen["retrieval"].items()},
            }  # fmt: skip
    return found


# --- all --------------------------------------------------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    """Tables of rows, then verdicts."""
    rows = []
    for name, row in found["rows"].items():
        figures = {key: value for key, value in row.items() if isinstance(value, float | int)}
        figures |= {key: value["mean"] for key, value in row.items() if isinstance(value, dict) and "mean" in value}
        rows.append({"row": name, **figures})
    _bench.table(rows)
    for claim, one in found["claims"].items():
        ends = "" if one["low"] is None else f" [{one['low']:.3g}, {one['high']:.3g}]"
        print(f"{one['verdict']}: {claim}: {one['mean']:.3g}{ends}")


def main() -> None:
    """Run what was asked for, print tables, save one JSON."""
    parser = _bench.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--preset", choices=["cpu", "gpu"], default="cpu", help="sizes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections; all are needed to record")
    parser.add_argument("--files", type=Path, nargs="+", default=None, help="text files in place of the library")
    parser.add_argument("--cells", type=Path, default=_bench.ROOT / "runs" / "memory", help="where finished runs are kept")
    parser.add_argument("--progress", action="store_true", help="show a bar with the time left")
    arguments = parser.parse_args()
    name = "quick" if arguments.quick else arguments.preset
    seeds = arguments.seeds[:2] if arguments.quick else arguments.seeds
    bench = Bench(PRESETS[name], seeds, arguments.cells, arguments.progress)
    texts = list(bench.preset.corpora)
    if arguments.files:
        texts = [os.pathsep.join(map(str, arguments.files)) if text == "library" else text for text in texts]
    sections = {
        "shares": lambda: shares(bench, texts),
        "questions": lambda: questions(bench),
        "data": lambda: data(bench),
        "retrieval": lambda: retrieval(bench),
        "policy": lambda: policy(bench, arguments.quick),
    }
    wanted = [section for section in arguments.only if name != "gpu" or section in GPU_SECTIONS]
    found: dict[str, Any] = {}
    for section in wanted:
        found[section] = sections[section]()
        parts = found[section] if section == "shares" else {section: found[section]}
        for title, part in parts.items():
            print(f"\n{section}: {title}")
            show(part)
    if set(arguments.only) == set(SECTIONS) or arguments.output is not None:
        settings = {"preset_name": name, "preset": vars(bench.preset), "runs_on": bench.made()}
        _bench.save("memory" if name != "gpu" else "memory_gpu", {**settings, **found}, arguments)


if __name__ == "__main__":
    main()
