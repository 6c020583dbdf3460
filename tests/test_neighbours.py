"""Nearest neighbours against all distances in float64, whatever the data look like and however they are cut into blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from olm.errors import InputError
from olm.memory import neighbours
from olm.memory.neighbours import nearest, separation

N, WIDTH = 50, 12
BLOCK = 16  # 50 is three blocks and a bit, 48 three
nan, inf = float("nan"), float("inf")


def data(kind: str, rows: int = N) -> np.ndarray:
    rng = np.random.default_rng(rows)
    plain = rng.standard_normal((rows, WIDTH))
    match kind:
        case "clustered":  # neighbours are 10⁻³ apart, and 50 from the mean: float32 cannot tell them
            return 50 * plain[: rows // 5].repeat(5, 0)[rng.permutation(rows - rows % 5)] + 1e-3 * plain[: rows - rows % 5]
        case "offset":
            return plain + 1e6 * (1 + np.arange(WIDTH))
        case "duplicates":
            return plain[rng.integers(0, rows // 2, rows)]
        case "equal":
            return np.full((rows, WIDTH), 0.1)
        case "outlier":
            return np.where(np.arange(rows)[:, None] == 3, 1e8, plain)
        case "far outlier" | "farther outlier":  # beside it squares of all others are at the least float32, or below it
            return np.where(np.arange(rows)[:, None] == 3, -1e30 if kind == "farther outlier" else 1e19, plain)
        case "long" | "short" | "shorter":  # squares beyond float32
            return plain * {"long": 1e25, "short": 1e-19, "shorter": 1e-30}[kind]
        case "grid":  # many ties, all exact
            return rng.integers(0, 2, (rows, WIDTH)).astype(float)
    return plain


OUTLIERS = ("outlier", "far outlier", "farther outlier")
KINDS = ("plain", "clustered", "offset", "duplicates", "equal", *OUTLIERS, "long", "short", "shorter", "grid")


def check(found: neighbours.Neighbours, distances: np.ndarray, exact: bool = False) -> None:
    """The least of each row of all distances, at its first place."""
    rows = np.arange(len(distances))
    least = distances.min(1)
    assert found.distance.dtype == np.float64 and found.distance.shape == found.which.shape == least.shape
    np.testing.assert_allclose(found.distance, least, rtol=1e-12, atol=0)
    np.testing.assert_allclose(distances[rows, found.which], least, rtol=1e-12, atol=0)
    if exact:
        np.testing.assert_array_equal(found.which, distances.argmin(1))
    assert found.duplicates == (least == 0).sum()


def others(x: np.ndarray) -> np.ndarray:
    distances = cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    return distances


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "block"), [(50, BLOCK), (48, BLOCK), (17, BLOCK), (50, 2048), (50, 50)])
def test_neighbours_are_those_of_all_distances(kind: str, rows: int, block: int) -> None:
    x = data(kind, rows)
    before = x.copy()
    found = nearest(x, block=block)
    check(found, others(x), exact=kind in ("duplicates", "equal", "grid", "plain"))
    np.testing.assert_array_equal(x, before)
    if kind == "equal":
        assert found.which.tolist() == [1] + [0] * (rows - 1) and found.duplicates == rows and found.rescored == 0


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_among_others_are_those_of_all_distances(kind: str) -> None:
    """Some of the vectors are among those looked through, at distance 0."""
    among = data(kind, 40)
    x = np.concatenate([data(kind, 30)[:25], among[5:13]])
    for block in (BLOCK, 2048):
        found = nearest(x, among, block=block)
        check(found, cdist(x, among), exact=kind in ("duplicates", "equal", "grid", "plain"))
        assert found.duplicates >= 8
    check(nearest(among[:3], among[7:8], block=BLOCK), cdist(among[:3], among[7:8]))


def test_of_several_at_one_distance_the_first_is_told_across_blocks() -> None:
    """Small whole numbers: ties and duplicates everywhere, all of them exact."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 3, (33, 4)).astype(np.float32)
        check(nearest(x, block=BLOCK), others(x), exact=True)
        among = rng.integers(0, 3, (40, 4))
        check(nearest(x, among, block=BLOCK), cdist(x, among), exact=True)
    signed = np.zeros((20, 4))
    signed[::2] *= -1  # −0 equals 0
    found = nearest(signed, block=BLOCK)
    assert found.duplicates == 20 and found.rescored == 0


@pytest.mark.parametrize("rows", [5, 16, 17, 48, 50])
def test_each_pair_of_blocks_is_computed_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    least = neighbours._least

    def counted(a: Any, b: Any, a_norm: Any, b_norm: Any, same: bool) -> Any:
        calls.append(same)
        return least(a, b, a_norm, b_norm, same)

    monkeypatch.setattr(neighbours, "_least", counted)
    nearest(data("plain", rows), block=BLOCK)
    blocks = -(-rows // BLOCK)
    assert len(calls) == blocks * (blocks + 1) // 2 and sum(calls) == blocks
    calls.clear()
    nearest(data("plain", rows), data("offset", 40), block=BLOCK)
    assert len(calls) == blocks * 3 and not any(calls)


def test_float32_alone_is_wrong_where_neighbours_are_near_and_the_second_pass_is_not() -> None:
    x = data("clustered")
    centred = (x - x.mean(0)).astype(np.float32)
    norms = np.square(centred).sum(1)
    squared = norms[:, None] + norms - 2 * centred @ centred.T
    np.fill_diagonal(squared, np.inf)
    true = others(x)
    assert (squared.argmin(1) != true.argmin(1)).mean() > 0.2
    for block in (BLOCK, 2048):
        found = nearest(x, block=block)
        np.testing.assert_array_equal(found.which, true.argmin(1))
        assert N < found.rescored <= N * 4  # the clusters, and no more
        np.testing.assert_array_equal(nearest(x, x + 1e-9, block=block).which, np.arange(N))
    # Where neighbours are far apart hardly any pair is looked at again.
    assert N <= nearest(data("plain"), block=BLOCK).rescored <= N + 5
    assert N <= nearest(data("offset"), block=BLOCK).rescored <= N + 5
    # One that is far from all others does not make them all coarse.
    assert N <= nearest(data("outlier"), block=BLOCK).rescored <= 2 * N + 5


@pytest.mark.parametrize("kind", ["clustered", "grid", "outlier"])
def test_pairs_are_looked_at_again_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearest(data(kind), block=BLOCK)
    for numbers in (7 * WIDTH, 1):
        monkeypatch.setattr(neighbours, "_NUMBERS", numbers)
        for one, other in zip(whole, nearest(data(kind), block=BLOCK), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_separation_is_the_least_distance_of_patterns_that_differ() -> None:
    for kind in ("plain", "clustered", "offset", "long"):
        assert separation(data(kind)) == pytest.approx(others(data(kind)).min(), rel=1e-12)
    twice = np.concatenate([data("plain", 5), data("plain", 5)[3:4] + 0.0])
    with pytest.raises(InputError, match="patterns 3 and 5 are equal, their separation is 0"):
        separation(twice)


def test_two_vectors_whole_numbers_and_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    found = nearest(np.array([[0, 0], [3, 4]]), progress=True)
    assert found.distance.tolist() == [5, 5] and found.which.tolist() == [1, 0] and found.duplicates == 0
    assert "neighbours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(np.array([[0.0], [1.0], [nan]])), "vectors hold nan or infinities, first in row 2"),
        (lambda: nearest(np.array([[inf], [1.0]])), "first in row 0"),
        (lambda: nearest(np.zeros((2, 1)), np.array([[0.0], [nan]])), "among hold nan or infinities, first in row 1"),
        (lambda: nearest(np.zeros(3)), r"vectors have shape \(3,\): give \[N, n\]"),
        (lambda: nearest(np.zeros((0, 3))), r"vectors have shape \(0, 3\)"),
        (lambda: nearest(np.zeros((3, 0))), r"vectors have shape \(3, 0\)"),
        (lambda: nearest(np.zeros((2, 3)), np.zeros((0, 3))), r"among have shape \(0, 3\)"),
        (lambda: nearest(np.zeros((2, 3)), np.zeros((2, 4))), "vectors have 3 coordinates and among 4"),
        (lambda: nearest(np.zeros((1, 3))), "one vector has no neighbour"),
        (lambda: nearest(np.zeros((2, 3)), block=0), "block is 0"),
        (lambda: separation(np.zeros((1, 3))), "one vector has no neighbour"),
    ],
)
def test_what_has_no_neighbour_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
