"""The benchmarks' shared helpers: what they summarise is right, and a result file is whole or absent. No time is asserted."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import olm
from olm.train import inputs


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "_bench.py"
    spec = importlib.util.spec_from_file_location("_bench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_interval_is_students(bench) -> None:
    """For three values, half the width is t(.975, 2) = 4.302653 times s/√3."""
    found = bench.interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found["low"] + found["high"] == pytest.approx(4.0)
    assert bench.interval([5.0])["low"] is None


def test_geometric_interval_is_symmetric_in_ratio(bench) -> None:
    found = bench.interval([0.5, 2.0, 4.0], geometric=True)
    assert found["mean"] == pytest.approx(4 ** (1 / 3))
    assert found["mean"] / found["low"] == pytest.approx(found["high"] / found["mean"])
    with pytest.raises(ValueError, match="negative"):
        bench.interval([1.0, -1.0], geometric=True)
    zero = bench.interval([0.0, 4.0], geometric=True)
    assert (zero["mean"], zero["low"], zero["high"], zero["geometric"]) == (0.0, None, None, True)


def test_comparison_pairs_its_times(bench) -> None:
    """Pair ratios 1, 3, 2 have median 2; the medians 6 and 2 have ratio 3: the two are different statements."""
    found = bench.compare([2.0, 6.0, 8.0], [2.0, 2.0, 4.0])
    assert found["ratio"] == 3.0
    assert found["pair_ratio_quartiles"] == [1.5, 2.0, 2.5]
    with pytest.raises(ValueError, match="pairs"):
        bench.compare([1.0], [])


def test_pairs_alternate_and_swap(bench) -> None:
    calls = []
    found = bench.paired_ratio(lambda: calls.append("a"), lambda: calls.append("b"), 3, warmup=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert found["repeats"] == len(found["a_s"]) == 3


def test_saved_record_is_complete_and_strict_json(bench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(bench.ROOT / "benchmarks" / "demo.py"), "--seeds", "3", "4"])
    path = tmp_path / "deep" / "demo.json"
    args = bench.parser("demo").parse_args(["--seeds", "3", "4", "--output", str(path)])
    payload = {"array": np.arange(3, dtype=np.float32), "one": np.float64(0.5), "bad": [np.nan, np.inf], "yes": np.bool_(True)}
    assert bench.save("demo", payload, args) == path

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["array"] == [0.0, 1.0, 2.0] and record["one"] == 0.5 and record["yes"] is True
    assert record["bad"] == ["nan", "inf"]
    assert record["seeds"] == [3, 4] and record["settings"] == {"quick": False}
    assert record["command"] == "python benchmarks/demo.py --seeds 3 4"
    assert record["environment"]["versions"]["numpy"] == np.__version__
    assert [file.name for file in path.parent.iterdir()] == ["demo.json"]


def test_a_record_does_not_say_where_folders_lie_on_the_machine(bench, tmp_path, monkeypatch) -> None:
    words = ["--data", str(tmp_path / "tables"), "--runs", str(bench.ROOT / "runs" / "demo")]
    monkeypatch.setattr(sys, "argv", [str(bench.ROOT / "benchmarks" / "demo.py"), *words])
    parser = bench.parser("demo")
    for name in ("--data", "--runs"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args([*words, "--output", str(tmp_path / "demo.json")])
    record = json.loads(bench.save("demo", {}, args).read_text(encoding="utf-8"))
    assert record["settings"] == {"quick": False, "data": "FOLDER", "runs": "runs/demo"}
    assert record["command"] == "python benchmarks/demo.py --data FOLDER --runs runs/demo"


def test_failed_write_leaves_the_old_record(bench, tmp_path, monkeypatch) -> None:
    path = tmp_path / "demo.json"
    path.write_text("old", encoding="utf-8")
    args = bench.parser("demo").parse_args(["--output", str(path)])

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(bench.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        bench.save("demo", {"a": 1}, args)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_quick_run_is_not_recorded(bench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    assert bench.save("demo", {}, bench.parser("demo").parse_args(["--quick"])) is None
    assert not (tmp_path / "results").exists()


def test_table_aligns_its_columns(bench, capsys) -> None:
    rows = [{"what": "forward", "seconds": 0.25}, {"what": "back", "seconds": 11.0}, {"what": "none", "seconds": None}]
    expected = "what     seconds\nforward     0.25\nback          11\nnone           -"
    assert bench.table(rows) == expected
    assert capsys.readouterr().out == expected + "\n"


# --- costs that policies_compared states -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(bench: ModuleType) -> ModuleType:
    folder = str(bench.ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("policies_compared")
    finally:
        sys.path.remove(folder)


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    compiled = getattr(function, "lower", jax.jit(function).lower)(*arguments).compile()
    cost = compiled.cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def test_stated_costs_of_a_step_are_those_of_the_compiled_programs(compared) -> None:
    """Matrix products of a step's weights, counted by XLA in a deep network of equal layers, against `products`."""
    n, k, width, layers = 24, 40, 64, 12

    def losses(params: list[jax.Array], batch: jax.Array) -> jax.Array:
        for layer in params:
            batch = jnp.tanh(batch @ layer)
        return jnp.sum(batch**2, axis=1)

    params = list(0.1 * jax.random.normal(jax.random.key(0), (layers, width, width)))
    train, target = jnp.ones((n, width)), jnp.ones((k, width))
    task = olm.Task(lambda key: params, losses, train, target)
    setting = compared.Setting(task, 1, compared.gentle, 0.1, jax.random.key(0), {"target_draws": k}, None)
    unit = flops(losses, params, train) / n  # one product of one example
    key, steps, learner = jax.random.key(0), 3, setting.learner(0.1)  # XLA counts a loop's body once

    def counted(policy: olm.Policy) -> float:
        phi = policy.init(steps, n, n)
        curve = lambda zero: olm.train(task, learner, policy, phi, steps=steps, key=key).target + zero  # noqa: E731
        return flops(curve, 0.0) / unit

    uniform = counted(olm.policy.uniform())
    assert uniform == pytest.approx(compared.plain_run(setting), rel=0.03)
    for name, policy in (
        ("lookahead", compared.baselines.lookahead()),
        ("high loss", compared.baselines.high_loss(share=0.5)),
        ("RHO-loss", compared.baselines.rho_loss(share=0.5)),
        ("scorer, search", olm.policy.scorer()),
    ):
        assert counted(policy) / uniform == pytest.approx(compared.products(setting, name), rel=0.03), name
    # The guided run goes without a target loss.
    table = olm.policy.table()
    arguments, carry = inputs(task, learner, table, table.init(steps, n, n), steps, key)
    for memory in (0.0, 1.0):
        run = compared.baselines._guide(task._replace(train=None, target=None), learner, steps, memory > 0)
        guided = flops(run, arguments.aux, arguments.data, carry, *map(jnp.asarray, (0.1, 0.0, memory))) / unit
        assert (guided + k) / uniform == pytest.approx(compared.products(setting, "law-guided", memory), rel=0.03), memory


def test_a_table_that_is_built_is_judged_by_a_run_of_its_own(compared) -> None:
    setting = compared.perceptrons(0, quick=True)
    side = compared.Side(compared.with_draws(setting), "law-guided")
    side.runs = {(0, 0.1): 1.0, (0, 0.2): 1.0}
    assert side.cost() == pytest.approx(2 * (side.run_cost(0) + 1)) and side.run_cost(0) > 1
    assert side.targets_seen(side.cost()) == 2 * setting.search["target_draws"]


def test_settings_compete_at_other_rates_only_if_they_did_well(compared) -> None:
    side = compared.Side(compared.with_draws(compared.perceptrons(0, quick=True)), "RHO-loss")
    areas = [0.5, 0.2, 0.3, 0.4, 0.6]
    side.area = lambda which, rate: areas[which] if rate == 0.1 else [0.0, 0.9, 0.1, 0.8, 0.0][which]
    assert side.choose(0.1) == 1 and side.choose(0.2) == 2


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("control")


def test_a_seed_without_a_number_leaves_a_claim_open(control: ModuleType) -> None:
    assert control.verdict([-0.7, -0.71, -0.69])["verdict"] == "held"
    assert control.verdict([0.7, 0.71, 0.69])["verdict"] == "not held"
    for lost in (None, float("inf"), float("nan")):
        assert control.verdict([-0.7, -0.71, lost])["verdict"] == "open"
    history = [{"consistency": 0.1}]
    runs = [
        {"sparse-0.1": {name: {"kl": kl, "history": history} for name, kl in (("NADO", 1.0), ("DiNADO-Soft", one))}}
        for one in (0.5, 0.51, None)
    ]
    found = control.statements(runs)["DiNADO-Soft below NADO, samples of the base, 0.1"]
    assert found["verdict"] == "open" and found["values"][2] is None


def test_samples_needed_are_where_the_curve_stays_below(control: ModuleType) -> None:
    def seed(own: list[float]) -> dict[str, Any]:
        budgets = (2500, 5000, 10_000, 20_000)
        cells = {"NADO, 20000": {"samples": 20_000, "kl": 0.1}, "NADO, explored, 20000": {"samples": 20_000, "kl": 0.2}}
        return {"budget": cells | {f"DiNADO-Soft, {n}": {"samples": n, "kl": kl} for n, kl in zip(budgets, own, strict=True)}}

    at_once, later, back_up, never = ([0.09, 0.05, 0.05, 0.05], [0.4, 0.2, 0.05, 0.05], [0.05, 0.4, 0.025, 0.02], [1.0] * 4)
    found = {name: control.needed([seed(own)] * 2)["DiNADO-Soft"] for name, own in
             (("at once", at_once), ("later", later), ("back up", back_up), ("never", never))}  # fmt: skip
    assert found["at once"]["ratios"] == pytest.approx([0.125] * 2) and found["at once"]["least"] == 0.125
    assert found["later"]["mean"] == pytest.approx(2**-1.5)  # half-way between 5,000 and 10,000, in logarithms
    assert found["back up"]["mean"] == pytest.approx(2**-1.5)
    assert found["never"]["ratios"] == [float("inf")] * 2 and "mean" not in found["never"]
