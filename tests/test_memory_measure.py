"""What layers say, what is known by heart, whether moved inputs come back; and the experiments: seeds as one, floors, D*."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from olm.errors import DivergenceError, InputError
from olm.fitting import fit
from olm.memory import experiment, measure
from olm.memory.measure import Samples, samples
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.records import Run

CONFIG = TransformerConfig(vocabulary=12, length=7, width=16, layers=2, heads=2)
L = CONFIG.length
nan, inf = float("nan"), float("inf")


def drawn(seed: int, rows: int, length: int = L + 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocabulary, (rows, length)).astype(np.int32)


STORED, HELD_OUT = drawn(1, 8), drawn(2, 40)


@functools.cache
def fresh() -> Any:
    return transformer.init(CONFIG)(jax.random.key(0))


@pytest.fixture(scope="module")
def learned() -> Any:
    """A transformer that was shown eight random sequences again and again."""
    found = experiment.learn(
        CONFIG, [{"tokens": STORED}], {"tokens": HELD_OUT}, jax.random.split(jax.random.key(3), 1), steps=300, batch_size=8,
        peak=0.02, points=2,
    )  # fmt: skip
    return jax.tree.map(lambda leaf: leaf[0], found.params)


@functools.cache
def programs() -> dict[str, Any]:
    names = "activations", "hidden", "logits", "per_sequence_losses"
    return {name: jax.jit(getattr(transformer, name)(CONFIG)) for name in names}


# --- activations ------------------------------------------------------------------------------------------------------


def test_layers_are_what_the_transformer_passes_on() -> None:
    params, inputs = fresh(), HELD_OUT[:3, :5]
    kept = programs()["activations"](params, inputs)
    assert kept.shape == (4, 3, 5, 16)
    np.testing.assert_allclose(kept[-1], programs()["hidden"](params, inputs), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(kept[-1] @ params["head"], programs()["logits"](params, inputs), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kept[0], params["embedding"][inputs] + params["position"][:5])
    # The first block's output is that of a model which ends there.
    short = TransformerConfig(**{**CONFIG.__dict__, "layers": 1})
    first = {name: leaf for name, leaf in params.items() if name != "block_1"}
    np.testing.assert_allclose(jax.jit(transformer.activations(short))(first, inputs)[:2], kept[:2], rtol=1e-6, atol=1e-6)
    # The final norm reads what the last block says.
    last = np.asarray(kept[-2], np.float64)
    normed = last / np.sqrt((last**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(kept[-1], normed, rtol=1e-5, atol=1e-5)  # fresh: weights are 1, biases 0


def test_what_is_added_moves_the_first_layer_by_as_much_and_reaches_the_logits() -> None:
    params, inputs = fresh(), HELD_OUT[:3, :5]
    extra = np.random.default_rng(0).standard_normal((3, 5, 16)).astype(np.float32)
    kept = programs()["activations"](params, inputs)
    moved = programs()["activations"](params, inputs, extra=extra)
    np.testing.assert_array_equal(moved[0], params["embedding"][inputs] + extra + params["position"][:5])
    np.testing.assert_allclose(moved[0] - kept[0], extra, atol=1e-6)
    logits = programs()["logits"](params, inputs, extra=extra)
    np.testing.assert_allclose(moved[-1] @ params["head"], logits, rtol=1e-5, atol=1e-5)
    assert np.abs(moved[-1] - kept[-1]).max() > 0.1
    with pytest.raises(InputError, match="extra has shape"):
        transformer.activations(CONFIG)(params, inputs, extra=extra[:2])


def masked() -> Samples:
    """Masks that end early, begin late, hold one label, have a gap, count all."""
    mask = np.ones((10, L), bool)
    mask[0, 3:] = mask[1, 1:] = mask[2, :-1] = mask[3, 2:5] = mask[4, :3] = mask[5, 6:] = False
    return Samples(HELD_OUT[:10], mask)


def test_the_last_view_is_where_the_last_label_that_counts_is_predicted() -> None:
    part, params = masked(), fresh()
    every = np.asarray(programs()["activations"](params, part.tokens[:, :-1]))
    at = [max(np.flatnonzero(row)) for row in part.mask]
    assert at[:6] == [2, 0, 6, 6, 6, 5]
    wanted = every[:, np.arange(10), at]
    whole = every.reshape(4, 10, -1)
    extra = np.random.default_rng(1).standard_normal((10, L, 16))
    added = np.asarray(programs()["activations"](params, part.tokens[:, :-1], extra=extra.astype(np.float32)))
    for chunk in (1, 3, 256):
        last = measure.activations(CONFIG, params, part, chunk=chunk)
        assert last.shape == (4, 10, 16) and last.dtype == np.float32
        np.testing.assert_allclose(last, wanted, atol=2e-6)
        np.testing.assert_allclose(measure.activations(CONFIG, params, part, view="whole", chunk=chunk), whole, atol=2e-6)
        moved = measure.activations(CONFIG, params, part, view="whole", extra=extra, chunk=chunk)
        np.testing.assert_allclose(moved, added.reshape(4, 10, -1), atol=5e-6)
    assert measure.layer_names(CONFIG) == ["embedding", "block 1", "block 2", "norm"]


@pytest.mark.parametrize("leaf", ["embedding", "block_0", "block_1", "norm"])
def test_the_layer_that_diverged_is_named(leaf: str) -> None:
    params, part = dict(fresh()), samples(np.zeros((3, L + 1), np.int32))
    params[leaf] = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(nan), params[leaf])
    layer = {"block_0": "block 1", "block_1": "block 2"}.get(leaf, leaf)
    with pytest.raises(InputError, match=f"activations of {layer} hold nan or infinities: the model has diverged"):
        measure.activations(CONFIG, params, part)


# --- known by heart ---------------------------------------------------------------------------------------------------


def test_auc_is_the_share_of_pairs_with_ties_counted_half() -> None:
    rng = np.random.default_rng(0)
    pairs = (rng.integers(0, 5, 17), rng.integers(1, 6, 11)), (rng.standard_normal(9), rng.standard_normal(4))
    for positive, negative in pairs:
        wins = [1.0 if p < n else 0.5 if p == n else 0.0 for p in positive for n in negative]
        assert measure.auc(positive, negative) == pytest.approx(np.mean(wins), abs=1e-12)
    assert measure.auc(np.zeros(3), np.zeros(5)) == 0.5 and measure.auc(np.zeros(2), np.ones(2)) == 1.0
    assert measure.auc(np.ones(2), np.zeros(2)) == 0.0
    with pytest.raises(InputError, match="one of the two has no number"):
        measure.auc(np.ones(2), np.zeros(0))


@pytest.mark.parametrize(("held_out", "share"), [(19, 0.05), (38, 0.05), (59, 0.05), (100, 0.05), (4, 0.5), (18, 0.05)])
def test_no_more_than_a_share_of_new_samples_alarms(held_out: int, share: float) -> None:
    """Of M + 1 samples alike each is the new one as often: it is below the bound of the others k times, k/(M + 1) ≤ share."""
    every = np.random.default_rng(held_out).standard_normal(held_out + 1)
    alarms = sum(new < measure.alarm(np.delete(every, place), share) for place, new in enumerate(every))
    assert alarms == math.floor(share * (held_out + 1) + 1e-9) <= share * (held_out + 1)


def test_a_model_that_learned_eight_sequences_by_heart_writes_and_knows_them_alone(learned: Any) -> None:
    stored, held_out = samples(STORED), samples({"tokens": HELD_OUT})
    found = measure.measure(CONFIG, learned, stored, held_out, jax.random.key(0), retrieved=0)
    summary = found.summary()
    assert found.written["stored"].all() and not found.written["held_out"].any()
    assert (summary["written_stored"], summary["written_held_out"], summary["known"]) == (1.0, 0.0, 1.0)
    assert summary["known_above_chance"] == pytest.approx(0.95) and summary["loss_auc"] == 1.0
    alike = {"stored": np.array([0.0, 2.0, 1.0, 3.0]), "held_out": np.arange(1.0, 41.0)}
    assert dataclasses.replace(found, losses=alike).summary()["known"] == 0.5  # at the second least it is not below it
    losses = programs()["per_sequence_losses"]
    np.testing.assert_allclose(found.losses["stored"], losses(learned, {"tokens": STORED}), rtol=1e-5)
    np.testing.assert_allclose(found.losses["held_out"], losses(learned, {"tokens": HELD_OUT}), rtol=1e-5)
    assert summary["loss_stored"] < 0.5 < math.log(12) < summary["loss_held_out"]
    none = measure.measure(CONFIG, fresh(), stored, held_out, jax.random.key(0), retrieved=0).summary()
    assert none["written_stored"] == 0 and none["known"] < 0.4 and 0.2 < none["loss_auc"] < 0.8


def written(params: Any, tokens: np.ndarray, mask: np.ndarray) -> bool:
    """Greedy decoding one token at a time, from all up to half of the labels that count, to the last of them."""
    labels = np.flatnonzero(mask) + 1
    line = tokens[: labels[len(labels) // 2]].copy()
    while len(line) <= labels[-1]:
        padded = np.zeros((1, L), np.int32)
        padded[0, : len(line)] = line
        line = np.append(line, programs()["logits"](params, padded)[0, len(line) - 1].argmax())
    return bool((line == tokens[: len(line)]).all())


def test_written_is_what_greedy_decoding_writes(learned: Any) -> None:
    rng = np.random.default_rng(5)
    tokens, mask = np.concatenate([STORED, STORED, HELD_OUT[:24], STORED]), np.ones((48, L), bool)
    tokens[8:16, 6] = (tokens[8:16, 6] + 1) % 12  # near the end another token
    tokens[40:, 1] = (tokens[40:, 1] + 1) % 12  # another beginning, which the model may or may not mind
    for row in range(8, 48):
        mask[row, int(rng.integers(1, L + 1)) :] = False
        if mask[row].sum() > 2 and row % 3 == 0:
            mask[row, 0] = False  # a prompt
    continued = tokens[16:24]
    for row in range(8):  # what the model itself goes on with after a beginning it does not know
        for at in range(4, L + 1):
            padded = np.where(np.arange(L) < at, continued[row, :L], 0)[None]
            continued[row, at] = programs()["logits"](learned, padded)[0, at - 1].argmax()
    wanted = [written(learned, *pair) for pair in zip(tokens, mask, strict=True)]
    assert 12 < sum(wanted) < 44 and {True, False} == set(wanted[24:40])
    parts = Samples(tokens[:45], mask[:45]), Samples(tokens[45:], mask[45:])
    found = measure.measure(CONFIG, learned, *parts, jax.random.key(0), retrieved=0, chunk=7)
    assert [*found.written["stored"], *found.written["held_out"]] == wanted
    losses = programs()["per_sequence_losses"](learned, {"tokens": tokens, "mask": mask})
    np.testing.assert_allclose(np.concatenate([found.losses["stored"], found.losses["held_out"]]), losses, rtol=1e-5)


# --- radii ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["last", "whole"])
def test_the_summary_is_that_of_all_distances(view: Any) -> None:
    params = fresh()
    stored, held = samples(np.concatenate([STORED, STORED[:2], HELD_OUT[:9]])), samples(HELD_OUT[8:30])
    found = measure.measure(CONFIG, params, stored, held, jax.random.key(0), view=view, retrieved=0)
    summary, tables = found.summary(), found.tables()
    n = 16 * (L if view == "whole" else 1)
    assert summary["view"] == view and summary["theory_radius"] == pytest.approx(math.sqrt(n / (2 * math.pi * math.e)))
    assert summary["retrieval"] == {} == tables["retrieval"]
    patterns, others = (measure.activations(CONFIG, params, part, view=view).astype(float) for part in (stored, held))
    within = []
    for l, layer in enumerate(summary["layers"]):
        between = cdist(patterns[l], patterns[l])
        np.fill_diagonal(between, inf)
        apart, across = between.min(1), cdist(others[l], patterns[l])
        radii = apart / 2
        assert layer["layer"] == measure.layer_names(CONFIG)[l]
        # At the last position of the embedding there is a token and its place: many sequences end alike.
        assert layer["duplicates"] == (apart == 0).sum() and layer["duplicates"] >= 4
        quartiles = [layer[name] for name in ("radius", "radius_lower", "radius_upper")]
        np.testing.assert_allclose(quartiles, np.quantile(radii, [0.5, 0.25, 0.75]), rtol=1e-9, atol=1e-12)
        assert layer["radius_over_theory"] == pytest.approx(quartiles[0] / summary["theory_radius"])
        ball = radii[across.argmin(1)]
        inside = (across.min(1) <= ball) & (ball > 0)  # who equals another has no ball
        assert layer["held_out_inside"] == (pytest.approx(inside.mean()) if ball.any() else None)
        within.append(inside.sum())
        wins = (apart[:, None] < across.min(1)) + 0.5 * (apart[:, None] == across.min(1))
        assert layer["separation_auc"] == pytest.approx(wins.mean())
        ratio = layer["held_out_distance_over_stored"]
        median = np.median(apart)
        assert ratio is None if median == 0 else ratio == pytest.approx(np.median(across.min(1)) / median)
        np.testing.assert_allclose(tables["stored_distance"][l], apart, rtol=1e-9)
        np.testing.assert_allclose(tables["held_out_distance"][l], across.min(1), rtol=1e-9)
        np.testing.assert_allclose(tables["radii"][l], quartiles)
    for share, distances in tables["by_share"].items():
        few = patterns[-1][: {"25%": 4, "50%": 9, "75%": 14, "100%": 19}[share]]
        between = cdist(few, few)
        np.fill_diagonal(between, inf)
        np.testing.assert_allclose(distances, between.min(1), rtol=1e-9)
    assert summary["known"] == pytest.approx((found.losses["stored"] < np.sort(found.losses["held_out"])[0]).mean())
    assert summary["loss_auc"] == measure.auc(found.losses["stored"], found.losses["held_out"])
    assert max(within) > 0
    json.dumps(summary)


def test_a_longer_stream_changes_radii_and_no_logit(learned: Any) -> None:
    stored, held = samples(STORED), samples(HELD_OUT[:12])
    one = measure.measure(CONFIG, learned, stored, held, jax.random.key(0), retrieved=0, view="whole")
    for factor in (100.0, 0.05):
        longer = measure.rescaled(learned, factor)
        logits = [programs()["logits"](params, HELD_OUT[:, :-1]) for params in (learned, longer)]
        np.testing.assert_allclose(logits[0], logits[1], rtol=2e-3, atol=2e-4)
        other = measure.measure(CONFIG, longer, stored, held, jax.random.key(0), retrieved=0, view="whole")
        times = other.radii() / one.radii()
        np.testing.assert_allclose(times[:-1], factor, rtol=1e-4)
        np.testing.assert_allclose(times[-1], 1, rtol=1e-3)
        np.testing.assert_allclose(other.losses["held_out"], one.losses["held_out"], rtol=1e-3)
        assert other.theory == one.theory


# --- retrieval --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["last", "whole"])
@pytest.mark.parametrize("direction", ["random", "towards"])
def test_hardly_moved_inputs_are_recovered_and_far_ones_are_not(learned: Any, view: Any, direction: Any) -> None:
    part = samples(HELD_OUT[:20])
    fractions = (1e-3, 0.5, 0.99, 1.01, 40.0)
    key = jax.random.key(1)
    found = measure.retrieval(CONFIG, learned, part, key, view=view, direction=direction, fractions=fractions)
    assert found.recovered.shape == found.drawn.shape == (4, 5) and found.direction == direction
    assert (found.recovered[:, 0] == 1).all()
    if view == "whole":
        # Balls of half the distance to the nearest do not overlap, whatever the direction; towards it their border is met at 1.
        assert (found.recovered[0, :3] == 1).all()
        np.testing.assert_allclose(found.drawn[0], 1, rtol=1e-4)
        if direction == "towards":
            assert (found.recovered[0, 3:] == 0).all()
    assert (found.recovered[-1, -1] < 0.5).all()
    again = measure.retrieval(CONFIG, learned, part, jax.random.key(2), view=view, direction=direction, fractions=fractions)
    assert (again.drawn == found.drawn).all() == (direction == "towards")


@pytest.mark.parametrize("view", ["last", "whole"])
def test_retrieval_is_that_of_all_distances(learned: Any, view: Any) -> None:
    """Towards the nearest neighbour there is no chance: everything again with the transformer and all distances."""
    tokens = np.concatenate([HELD_OUT[:12], HELD_OUT[:2]])  # two are there twice, and have no ball
    part, fractions = samples(tokens), (0.7, 2.0)
    found = measure.retrieval(
        CONFIG, learned, part, jax.random.key(0), view=view, direction="towards", fractions=fractions, chunk=5
    )

    def layers(extra: Any, rows: Any) -> np.ndarray:
        kept = np.asarray(programs()["activations"](learned, tokens[rows, :-1], extra=extra), np.float64)
        return kept.reshape(4, len(rows), -1) if view == "whole" else kept[:, :, -1]

    every, kept = np.arange(14), np.arange(2, 12)
    zero = np.zeros((14, L, 16), np.float32)
    inputs = np.asarray(programs()["activations"](learned, tokens[:, :-1])[0], np.float64).reshape(14, -1)
    apart = cdist(inputs, inputs)
    np.fill_diagonal(apart, inf)
    to = inputs[apart.argmin(1)][kept] - inputs[kept]
    patterns, without = layers(zero, every), 0
    for f, fraction in enumerate(fractions):
        moved = layers((fraction / 2 * to).reshape(10, L, 16).astype(np.float32), kept)
        for l in range(4):
            distances, between = cdist(moved[l], patterns[l]), cdist(patterns[l], patterns[l])
            np.fill_diagonal(between, inf)
            own, radii = distances[np.arange(10), kept], between.min(1)[kept] / 2
            assert found.recovered[l, f] == pytest.approx((own <= distances.min(1) * (1 + 1e-6)).mean()), (l, f)
            ball = radii > 0
            np.testing.assert_allclose(found.drawn[l, f], np.median(own[ball] / radii[ball]) / fraction, rtol=1e-3)
            without = 10 - ball.sum() if l == 0 else without
    if view == "last":
        # Of the embedding's last position there are few patterns: some samples have no ball there.
        assert 0 < without < 10


def test_retrieval_is_measured_of_both_sets_in_both_directions(learned: Any) -> None:
    stored, held, key = samples(STORED), samples(HELD_OUT), jax.random.key(4)
    found = measure.measure(CONFIG, learned, stored, held, key, retrieved=6, fractions=(0.5, 2.0))
    summary, tables = found.summary()["retrieval"], found.tables()["retrieval"]
    assert list(summary) == ["stored, random", "stored, towards", "held out, random", "held out, towards"] == list(tables)
    for name, one in summary.items():
        tokens = (STORED if name.startswith("stored") else HELD_OUT)[:6]
        direct = measure.retrieval(
            CONFIG,
            learned,
            samples(tokens),
            key,
            direction=name.split(", ")[1],
            fractions=(0.5, 2.0),  # type: ignore[arg-type]
        )
        assert one["fractions"] == [0.5, 2.0] and one["recovered"] == direct.recovered[-1].tolist()
        assert one["drawn"] == direct.drawn[-1].tolist()
        np.testing.assert_array_equal(tables[name]["drawn"], direct.drawn)
    assert not measure.measure(CONFIG, learned, stored, samples(HELD_OUT[:1]), key).retrievals  # one sample has no neighbour


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: samples({"x": np.zeros((3, 4)), "y": np.zeros(3)}), "no sequences of tokens"),
        (lambda: samples(np.zeros((3, 4))), "no sequences of tokens"),
        (lambda: samples(np.zeros((0, 4), int)), "no sequences of tokens"),
        (lambda: samples(np.zeros((3, 1), int)), "no sequences of tokens"),
        (lambda: samples({"tokens": np.zeros((2, 4), int), "mask": np.ones((2, 4))}), r"mask has shape \(2, 4\)"),
        (lambda: samples({"tokens": np.zeros((2, 3), int), "mask": np.eye(2)[::-1] * [1, 0]}), "sequence 0 has no label"),
        (lambda: measure.activations(CONFIG, fresh(), samples(STORED + 5)), "beyond the model's vocabulary of 12"),
        (lambda: measure.activations(CONFIG, fresh(), samples(STORED - 1)), "beyond the model's vocabulary"),
        (lambda: measure.activations(CONFIG, fresh(), samples(STORED), view="first"), "view is 'first': give last or whole"),  # type: ignore[arg-type]
        (lambda: measure.activations(CONFIG, fresh(), samples(STORED), chunk=0), "chunk is 0"),
        (lambda: measure.activations(CONFIG, fresh(), samples(drawn(0, 3, 12))), "exceed the model's length 7"),
        (lambda: retrieve(direction="away"), "direction is 'away': give random or towards"),
        (lambda: retrieve(fractions=()), r"fractions are \(\)"),
        (lambda: retrieve(fractions=(1.0, 0.0)), r"fractions are \(1.0, 0.0\)"),
        (lambda: retrieve(fractions=(nan,)), "give numbers above 0"),
        (lambda: retrieve(fractions=(2e6,)), r"give numbers above 0, at most 1e\+06"),
        (lambda: retrieve(np.repeat(STORED[:1], 3, 0)), "all sequences are equal"),
        (lambda: measured(STORED[:1]), "one stored sample has no neighbour"),
        (lambda: measured(STORED, retrieved=-1), "retrieved is -1"),
        (lambda: measured(STORED, view="x"), "view is 'x'"),
        (lambda: measure.rescaled(fresh(), 0.0), "scale is 0.0"),
        (lambda: measure.rescaled(fresh(), nan), "scale is nan"),
        (lambda: measure.rescaled(fresh(), inf), "scale is inf"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def retrieve(tokens: np.ndarray = STORED, **settings: Any) -> Any:
    return measure.retrieval(CONFIG, fresh(), samples(tokens), jax.random.key(0), **settings)


def measured(tokens: np.ndarray, **settings: Any) -> Any:
    return measure.measure(CONFIG, fresh(), samples(tokens), samples(HELD_OUT), jax.random.key(0), **settings)


# --- experiments ------------------------------------------------------------------------------------------------------

SMALL = TransformerConfig(vocabulary=6, length=4, width=8, layers=1, heads=2)
SETTINGS: dict[str, Any] = {"steps": 9, "batch_size": 4, "peak": 0.02, "points": 3}


def small_sets() -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Two sets of ten masked sequences, and seven that nobody learns from."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 6, (rows, 5)).astype(np.int32) for rows in (10, 10, 7)]
    parts = [{"tokens": part, "mask": np.arange(4) < rng.integers(1, 5, (len(part), 1))} for part in tokens]
    return parts[:2], parts[2]


@pytest.mark.usefixtures("x64")
def test_seeds_trained_as_one_are_those_trained_alone() -> None:
    sets, held = small_sets()
    keys = jax.random.split(jax.random.key(0), 2)
    found = experiment.learn(SMALL, sets, held, keys, **SETTINGS, looked_at=6)
    assert [row["step"] for row in found.history] == [0, 3, 6, 9]
    losses, init = transformer.per_sequence_losses(SMALL), transformer.init(SMALL)
    mean = jax.jit(lambda params, part: losses(params, part).mean())
    alone = [
        fit(losses, init(keys[s]), jax.tree.map(jnp.asarray, sets[s]), steps=9, key=keys[0], batch_size=4, peak=0.02,
            adam=experiment.ADAM).params
        for s in range(2)
    ]  # fmt: skip
    seeds = [jax.tree.map(lambda leaf, s=s: leaf[s], found.params) for s in range(2)]
    for s in range(2):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), seeds[s], alone[s])
        start = init(keys[s])
        assert np.abs(seeds[s]["head"] - start["head"]).max() > 0.01
        for part, name in ((sets[s], "train"), (held, "validation")):
            few = {key: value[:6] for key, value in part.items()}
            for row, params in ((0, start), (-1, seeds[s])):
                assert found.history[row][name][s] == pytest.approx(float(mean(params, few)), rel=1e-10)
    assert found.history[-1]["loss"] == pytest.approx(np.mean(found.history[-1]["validation"]))
    assert np.abs(seeds[0]["head"] - seeds[1]["head"]).max() > 0.01
    chunked = experiment.learn(SMALL, sets, held, keys, **SETTINGS, looked_at=6, chunk=2)
    assert chunked.history[-1]["train"] == pytest.approx(found.history[-1]["train"], rel=1e-12)


def test_seeds_are_summed_and_their_gradients_do_not_mix() -> None:
    one = transformer.per_sequence_losses(SMALL)
    both = experiment.stacked(one)
    assert both is experiment.stacked(one)
    sets, _ = small_sets()
    params = experiment._init(SMALL)(jax.random.split(jax.random.key(0), 2))
    batch = {name: np.stack([part[name] for part in sets], 1) for name in ("tokens", "mask")}
    batch["mask"][:, 1] = False

    def slope(params: Any, batch: Any) -> Any:
        return jax.grad(lambda params: both(params, batch).sum())(params)

    found, alone = jax.jit(both)(params, batch), jax.jit(one)(jax.tree.map(lambda leaf: leaf[0], params), sets[0])
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    head = jax.jit(slope)(params, batch)["head"]
    assert np.abs(head[0]).max() > 0.01 and (head[1] == 0).all()


def test_the_mean_of_label_losses_is_a_ratio_of_sums() -> None:
    (part, _), _ = small_sets()
    params = transformer.init(SMALL)(jax.random.key(1))
    mean = part["mask"].sum() / len(part["mask"])
    logits = np.asarray(jax.jit(transformer.logits(SMALL))(params, part["tokens"][:, :-1]), np.float64)
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, part["tokens"][:, 1:, None], 2)[..., 0]
    found = jax.jit(experiment.label_losses(SMALL, float(mean)))(params, part)
    np.testing.assert_allclose(found, (nats * part["mask"]).sum(1) / mean, rtol=1e-5)
    assert float(found.mean()) == pytest.approx((nats * part["mask"]).sum() / part["mask"].sum(), rel=1e-5)
    by_line = jax.jit(transformer.per_sequence_losses(SMALL))(params, part)
    assert abs(float(found.mean()) - float(by_line.mean())) > 1e-3


def test_a_known_floor_shifts_both_losses_by_half_its_difference() -> None:
    sets, held = small_sets()
    keys = jax.random.split(jax.random.key(0), 2)
    losses = experiment.label_losses(SMALL, 2.5)
    rng = np.random.default_rng(3)
    floor = [rng.uniform(0, 1, 10), rng.uniform(0, 1, 10)], rng.uniform(1, 2, 7)
    floor[0][0][6:] = 1e6  # those that are not looked at do not count
    settings = {**SETTINGS, "losses": losses, "looked_at": 6}
    plain, known = (experiment.learn(SMALL, sets, held, keys, **settings, floor=one) for one in (None, floor))
    jax.tree.map(np.testing.assert_array_equal, plain.params, known.params)
    for row, other in zip(plain.history, known.history, strict=True):
        for s in range(2):
            of_train, of_held = floor[0][s][:6].mean(), floor[1][:6].mean()
            assert other["train"][s] == pytest.approx(row["train"][s] - (of_train - of_held) / 2, abs=1e-12)
            assert other["validation"][s] == pytest.approx(row["validation"][s] - (of_held - of_train) / 2, abs=1e-12)
        assert other["loss"] == pytest.approx(np.mean(other["validation"]))


def test_an_interrupted_experiment_goes_on_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, held = small_sets()
    keys = jax.random.split(jax.random.key(0), 2)
    whole = experiment.learn(SMALL, sets, held, keys, **SETTINGS)
    appended = Run.append_metrics

    def append(run: Run, row: dict[str, Any]) -> None:
        appended(run, row)
        if row["step"] == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, Run.create(tmp_path / "run", {}) as run:
        patch.setattr(Run, "append_metrics", append)
        with pytest.raises(KeyboardInterrupt):
            experiment.learn(SMALL, sets, held, keys, **SETTINGS, run=run)
    assert [row["step"] for row in Run.open(tmp_path / "run").metrics()] == [0, 3]
    steps: list[int] = []
    monkeypatch.setattr(Run, "append_metrics", lambda run, row: (appended(run, row), steps.append(row["step"])))
    with Run.resume(tmp_path / "run", {}) as run:
        found = experiment.learn(SMALL, sets, held, keys, **SETTINGS, run=run)
    assert steps == [6, 9] and found.history == whole.history == Run.open(tmp_path / "run").metrics()
    jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)


def test_the_minimum_is_of_the_validation_loss_of_one_seed() -> None:
    curves = [(0, (2.0, 2.0), (2.0, 2.5)), (5, (0.9, 1.5), (1.0, 2.0)), (9, (0.1, 1.2), (1.5, 1.6))]
    rows = [{"step": step, "train": list(t), "validation": list(v)} for step, t, v in curves]
    assert experiment.at_minimum(rows, 0) == (5, 0.9, 1.0, 0.1)
    assert experiment.at_minimum(rows, 1) == (9, 1.2, 1.6, 0.25)
    ties = [{"step": n, "train": [1.0], "validation": [1.0]} for n in (3, 4)]
    assert experiment.at_minimum(ties, 0).step == 3


@pytest.mark.parametrize(
    ("gaps", "tokens", "side"),
    [
        ([0.3, 0.03, 0.01, 0.0], math.sqrt(100 * 1000), "within"),
        ([0.3, 0.02, 0.01, 0.0], 100.0, "within"),  # at the bound is within it
        ([0.3, 0.01, 0.05, 0.01], 1000 * 10**0.75, "within"),  # the last crossing
        ([0.01, 0.03, -0.01, 0.0], 100 * 10**0.25, "within"),
        ([0.01, 0.0, 0.01, 0.02], nan, "below"),
        ([0.01, 0.0, 0.01, 0.021], nan, "above"),
        ([inf, 0.05, 0.01, 0.01], 100 * 10**0.75, "within"),
    ],
)
def test_data_needed_is_where_the_gap_stays_within_the_bound(gaps: list[float], tokens: float, side: str) -> None:
    found = experiment.data_needed([10, 100, 1000, 10_000], gaps)
    assert found.side == side and found.tokens == pytest.approx(tokens, rel=1e-9, nan_ok=True)
    assert experiment.data_needed([10, 1000], [0.3, 0.1], 0.2).tokens == pytest.approx(100)  # another bound, another crossing


def test_the_exponent_is_the_slope_of_logarithms() -> None:
    n = np.array([10.0, 100.0, 1000.0, 5000.0])
    assert experiment.exponent(n, 7 * n**0.5) == pytest.approx(0.5)
    assert experiment.exponent(n, [*(3 * n[:3] ** 1.2), nan]) == pytest.approx(1.2)
    rough = np.array([20.0, 90.0, 400.0, 500.0])
    x, y = np.log(n) - np.log(n).mean(), np.log(rough) - np.log(rough).mean()
    assert experiment.exponent(n, rough) == pytest.approx((x * y).sum() / (x * x).sum())
    assert math.isnan(experiment.exponent(n, [1.0, nan, nan, 2.0]))


def experimented(sets: list[Any] | None = None, keys: int = 2, **settings: Any) -> Any:
    known, held = small_sets()
    keys_of = jax.random.split(jax.random.key(0), keys)
    return experiment.learn(SMALL, known if sets is None else sets, held, keys_of, **{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: experimented([]), "0 training sets and 2 keys"),
        (lambda: experimented(keys=3), "2 training sets and 3 keys: give a key for each"),
        (lambda: experimented([{"tokens": STORED[:3]}, {"tokens": STORED[:4]}]), r"training sets have \[3, 4\] examples"),
        (lambda: experimented(points=0), "points is 0"),
        (lambda: experimented(looked_at=0), "looked_at is 0"),
        (lambda: experimented(chunk=0), "chunk is 0"),
        (lambda: experimented(steps=0), "steps is 0"),
        (lambda: experimented(floor=([np.zeros(10)], np.zeros(7))), "floor lacks sets or examples"),
        (lambda: experimented(floor=([np.zeros(10), np.zeros(9)], np.zeros(7))), "floor lacks"),
        (lambda: experimented(floor=([np.zeros(10)] * 2, np.zeros(6))), "floor lacks"),
        (lambda: experiment.label_losses(SMALL, 0.0), "labels is 0.0"),
        (lambda: experiment.label_losses(SMALL, nan), "labels is nan"),
        (lambda: experiment.at_minimum([], 0), "no evaluation"),
        (lambda: experiment.data_needed([10], [0.1]), "at least two sizes in rising order"),
        (lambda: experiment.data_needed([10, 10], [0.1, 0.1]), "rising order"),
        (lambda: experiment.data_needed([0, 10], [0.1, 0.1]), "rising order"),
        (lambda: experiment.data_needed([1, 10], [0.1]), "a gap for each"),
        (lambda: experiment.data_needed([1, 10], [nan, 0.1]), "a gap is nan"),
        (lambda: experiment.exponent([1, 2, 3], [1, 2]), "3 model sizes and 2 amounts of data"),
    ],
)
def test_experiments_refuse_what_they_cannot_do(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# --- fitting without anything frozen ----------------------------------------------------------------------------------


def _losses(params: Any, batch: Any) -> Any:
    theta = params["theta"] if isinstance(params, dict) else params
    return ((batch["x"] - theta) ** 2).sum(-1)


@pytest.mark.usefixtures("x64")
def test_parameters_need_no_frozen_part() -> None:
    """A dictionary with nothing frozen in it, one without the key, and an array are the same training."""
    batch = {"x": jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))}
    starts = {"theta": jnp.ones(3), "frozen": {}}, {"theta": jnp.ones(3)}, jnp.ones(3)
    found = [fit(_losses, start, batch, steps=5, key=jax.random.key(0), batch_size=2, peak=0.1).params for start in starts]
    assert found[1].keys() == {"theta"} and np.abs(found[2] - 1).max() > 0.1
    np.testing.assert_array_equal(found[1]["theta"], found[2])
    np.testing.assert_allclose(found[0]["theta"], found[2], rtol=1e-14)
    held = fit(_losses, {"theta": jnp.ones(3), "frozen": {"w": jnp.ones(2)}}, batch, steps=5, key=jax.random.key(0), peak=0.1)
    np.testing.assert_array_equal(held.params["frozen"]["w"], 1)  # and weight decay leaves it alone


@pytest.mark.parametrize("start", [{"theta": jnp.ones(3)}, jnp.ones(3)])
def test_parameters_that_are_not_finite_stop_a_fit_that_nobody_watches(start: Any) -> None:
    batch = {"x": jnp.ones((4, 3))}
    with pytest.raises(DivergenceError, match="not finite after step 1"):
        fit(lambda params, batch: jnp.log(-1.0) * _losses(params, batch), start, batch, steps=2, key=jax.random.key(0))
