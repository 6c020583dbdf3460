"""The page: what it shows of a run, as texts; its form is in ``page.html``."""

from __future__ import annotations

import base64
import json
import math
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from olm.records import atomic_write
from olm.report.figures import Facts, continues, draw, gather, mappings, scalar

__all__ = ["write_report"]


_TILES = (
    ("area_ratio", "area ratio", "area under the loss, found policy over uniform: below 1 is better"),
    ("final_ratio", "final-loss ratio", "last loss, found policy over uniform: below 1 is better"),
    ("step_length_ratio", "step-length ratio", "length of the path, found policy over uniform: 1 means no longer steps"),
)
_HEADS = {"a": "(a) the same learning rate", "b": "(b) each side at its own best"}
_CLAIM_NAMES = {
    "learning_rate": "learning rate η",
    "learning_rate_uniform": "η of uniform weights",
    "learning_rate_found": "η of the found policy",
    "acceleration": "acceleration",
    "acceleration_first": "acceleration, first crossing",
    "acceleration_least": "acceleration, to the baseline's least loss",
    "area_ratio": "area ratio (below 1 is better)",
    "final_ratio": "final-loss ratio (below 1 is better)",
    "step_length_ratio": "step-length ratio",
}
_MEMORY_FILES = {
    "memory.json": "what the model knows by heart, radii, retrieval, from olm memory",
    "memory.npz": "the same sequence by sequence, what its figures show",
}
_FILES = {
    "config.json": "every setting and the command",
    "metrics.jsonl": "one line an evaluation",
    "summary.json": "the final numbers",
    "policy.npz": "the policy that was kept; olm.policy.load reads it",
    "params.npz": "the parameters at the end of training with it",
    "curves.npz": "learning curves and weights, what the figures show",
    "law.json": "the Learning Law along the run: contributions, similarity, properties, from olm law",
    "law.npz": "the same step by step, what its figures show",
    **_MEMORY_FILES,
    "state.npz": "where the search continues from",
}
_SEQUENCE_FILES = {
    "params.npz": "the parameters at the end of the last phase",
    "curves.npz": "the loss of every dataset and the learning rate at each evaluation",
    "state.npz": "where the run continues from",
    **_MEMORY_FILES,
}
_ABOUT = "A learning policy, found by differentiating through whole training runs."
_SEQUENCE_ABOUT = "A model trained on a sequence of datasets, each of them measured all along."
_EVALUATION = ("evaluation", "objective", "validation", "rate", "accepted", "seconds", "message")


def _text(value: Any) -> str:
    """A number or any other value as a reader wants it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value:
            return "not a number"
        return (f"{value:.4g}" if math.isfinite(value) else f"{value}".replace("inf", "∞")).replace("-", "−")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _times(value: Any) -> str:
    return f"{value:.3g}×" if scalar(value) is not None else _text(value)


def _duration(value: Any) -> str:
    seconds = scalar(value)
    if seconds is None:
        return _text(value)
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _headline(facts: Facts) -> list[tuple[str, str, str]]:
    """(what, value, remark) of the numbers at the top; absent ones are left out."""
    if continues(facts):
        return _sequence_headline(facts)
    summary = facts.summary
    tiles = []
    if "acceleration" in summary:
        remark = "steps of the baseline for one of the policy, until it stays at or below the baseline's last loss"
        if summary.get("acceleration_first") is not None:
            remark += f"; {_times(summary['acceleration_first'])} to the first crossing"
        tiles.append(("acceleration", _times(summary["acceleration"]), remark))
    tiles += [(name, _text(summary[key]), remark) for key, name, remark in _TILES if key in summary]
    ratio = summary.get("compression_ratio")
    if isinstance(ratio, Mapping) and "found" in ratio:
        remark = "log|V| over the area under the loss" + (f", {ratio['unit']}" if ratio.get("unit") else "")
        tiles.append(("compression ratio", f"{_text(ratio.get('baseline'))} → {_text(ratio['found'])}", remark))
    count, best = summary.get("evaluations", len(facts.history)), summary.get("best_evaluation")
    if count:
        after = isinstance(best, int) and best > len(facts.history) > 0
        which = "the step after the last" if after else f"number {best}" if best else "the start"
        kept = "" if best is None else f"; kept: {which}"
        tiles.append(("evaluations", _text(count), f"training runs with their gradient{kept}"))
    if "seconds" in summary:
        tiles.append(("time", _duration(summary["seconds"]), "wall clock of the search"))
    return tiles


def _sequence_headline(facts: Facts) -> list[tuple[str, str, str]]:
    """The same of a run over a sequence of datasets; losses are those of test data."""
    summary, phases = facts.summary, mappings(facts.summary.get("account"))
    tiles = []
    if "adaptation" in summary:
        new = f"{_text(phases[-1]['new'])}, the last new dataset" if phases and "new" in phases[-1] else "the last new dataset"
        tiles.append(("adaptation", _text(summary["adaptation"]), f"nats per token: the test loss of {new}; lower is better"))
    forgetting = summary.get("forgetting")
    for name, rise in forgetting.items() if isinstance(forgetting, Mapping) else ():
        remark = "nats per token that its test loss is above what it was once learned, or at the start; below 0 it has improved"
        tiles.append((f"forgetting of {name}", _text(rise), remark))
    if "mean" in summary:
        tiles.append(("mean loss", _text(summary["mean"]), "nats per token, of the datasets seen, on test data; lower is better"))
    tokens: dict[str, int] = {}
    replayed = []
    for phase in phases:
        read, shares = (part if isinstance(part, Mapping) else {} for part in (phase.get("tokens"), phase.get("share")))
        tokens = {
            name: tokens.get(name, 0) + int(scalar(count) or 0) for name, count in {**dict.fromkeys(tokens), **read}.items()
        }
        replayed.append(sum(scalar(share) or 0.0 for name, share in shares.items() if name != phase.get("new")))
    tiles += [(f"tokens of {name}", f"{count:,}", "read in training") for name, count in tokens.items() if count]
    if replayed:
        remark = "of the tokens" + (" of each phase" if len(replayed) > 1 else "") + " were not of the new dataset"
        tiles.append(("replay share", " → ".join(f"{100 * share:.3g}%" for share in replayed), remark))
    if done := [row["step"] for row in facts.history if isinstance(row.get("step"), int)]:
        tiles.append(("steps", f"{done[-1]:,}", f"done, with {len(done)} evaluations"))
    return tiles


def _best_of(grid: list[Mapping[str, Any]], uniform: bool) -> Mapping[str, Any] | None:
    """The row of one side with the least validation area."""
    side = [row for row in grid if (row.get("side") in ("uniform", "baseline")) == uniform]
    return min(
        (row for row in side if scalar(row.get("area_validation")) is not None),
        key=lambda row: row["area_validation"],
        default=None,
    )


def _claims(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The two claims: as recorded, else (a) from the headline numbers and (b) from the grid, where there is one."""
    if isinstance(summary.get("claims"), Mapping):
        return {str(name): dict(claim) for name, claim in summary["claims"].items() if isinstance(claim, Mapping)}
    grid = mappings(summary.get("grid"))
    uniform, found = _best_of(grid, True), _best_of(grid, False)
    if uniform is None or found is None:
        return {}
    same = {key: summary[key] for key in ("acceleration", *(key for key, _, _ in _TILES)) if key in summary}
    own = {"learning_rate_uniform": uniform.get("learning_rate"), "learning_rate_found": found.get("learning_rate")}
    for name, column in (("area_ratio", "area_test"), ("final_ratio", "final_test")):
        below, above = scalar(uniform.get(column)), scalar(found.get(column))
        if below and above is not None:
            own[name] = above / below
    return {"a": same, "b": own}


def _claim_table(claims: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    present = {key for claim in claims.values() for key in claim}
    keys = [key for key in _CLAIM_NAMES if key in present] + sorted(present - set(_CLAIM_NAMES))
    rows = [
        (_CLAIM_NAMES.get(key, key.replace("_", " ")), [_text(claim[key]) if key in claim else "" for claim in claims.values()])
        for key in keys
    ]
    return {"heads": [_HEADS.get(name, name) for name in claims], "rows": rows} if rows else None


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Dotted names and values, numbers at full precision."""
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, json.dumps(value) if scalar(value) is not None else _text(value))]


def _table(rows: list[Mapping[str, Any]], columns: tuple[str, ...]) -> dict[str, Any] | None:
    """Rows of dicts as texts, with the columns that occur, the named ones first."""
    present = dict.fromkeys(key for row in rows for key in row)
    heads = [key for key in columns if key in present] + [key for key in present if key not in columns]
    cells = [[_text(row.get(head, "")) for head in heads] for row in rows]
    return {"heads": [head.replace("_", " ") for head in heads], "rows": cells} if rows else None


def _sequence_table(rows: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The evaluations of a run over a sequence of datasets, with a column for every loss and count of each dataset."""
    flat: list[Mapping[str, Any]] = []
    for row in rows:
        plain = {key: row[key] for key in ("step", "phase", "new", "rate") if key in row}
        parts = {part: row[part] for part in ("test", "validation", "tokens") if isinstance(row.get(part), Mapping)}
        flat.append(plain | {f"{part} {name}": value for part, values in parts.items() for name, value in values.items()})
    heads = list(dict.fromkeys(key for row in flat for key in row))
    table = _table(flat, ())
    return table and table | {"heads": heads}  # names of datasets as they are, underscores and all


def write_report(run_path: str | os.PathLike[str], on_missing: Callable[[str], None] | None = None) -> Path:
    """Write ``report.html`` into a run folder: headline numbers, claims, figures, settings, versions, messages, commands.

    Args:
      run_path: a run folder, finished or not.
      on_missing: called with each line of the page's list of what is absent or damaged.

    Returns:
      The path of the page.

    Raises:
      InputError: not a run folder, or one that cannot be written to.
      StorageError: the disk is full.

    >>> import tempfile
    >>> from olm.records import Run
    >>> with Run.create(tempfile.mkdtemp() + "/run", {"task": "perceptron"}) as run:
    ...     path = run.write_summary({"acceleration": 5.5})
    >>> "5.5×" in write_report(run.path).read_text(encoding="utf-8")
    True
    """
    import jinja2

    facts = gather(run_path)
    run, summary = facts.run, facts.summary
    figures = [(drawn.title, drawn.caption, base64.b64encode(drawn.svg.read_bytes()).decode("ascii")) for drawn in draw(facts)]
    if on_missing is not None:
        for line in facts.missing:
            on_missing(line)
    sequence = continues(facts)
    command, files = ("continue", _FILES | _SEQUENCE_FILES) if sequence else ("search", _FILES)
    rows = mappings(facts.history)
    task = run.config.get("task")
    name = task.get("name") if isinstance(task, dict) else task
    said = [(row.get("evaluation", place), row.get("message")) for place, row in enumerate(facts.history)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).render(
        title=f"{name}: {run.path.resolve().name}" if isinstance(name, str) else run.path.resolve().name,
        status=_text(summary.get("status") or ("finished" if summary else "unfinished")),
        finished=bool(summary),
        message=_text(summary["message"]) if summary.get("message") else "",
        tiles=_headline(facts),
        claims=_claim_table(_claims(summary)),
        figures=figures,
        missing=facts.missing,
        messages=[(evaluation, _text(message)) for evaluation, message in said if message],
        about=_SEQUENCE_ABOUT if sequence else _ABOUT,
        history=_sequence_table(rows) if sequence else _table(rows, _EVALUATION),
        grid=_table(
            mappings(summary.get("grid")), ("side", "learning_rate", "searched_at", "area_validation", "area_test", "final_test")
        ),
        config=_flat(run.config),
        versions=_flat(summary["versions"]) if isinstance(summary.get("versions"), dict) else [],
        reproduce=shlex.join(run.command) if run.command else "",
        resume="" if run.config.get("kind") == "train" else shlex.join(["olm", command, "--resume", str(run.path)]),
        resume_about="Go on where the run was stopped" if sequence else "Continue the search, with more evaluations if wanted",
        rebuild=shlex.join(["olm", "report", str(run.path)]),
        files=[(file, about) for file, about in files.items() if (run.path / file).exists()],
    )
    return atomic_write(run.path / "report.html", lambda file: file.write(page.encode("utf-8", "backslashreplace")))
