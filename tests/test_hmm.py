"""Hidden Markov models against enumeration of all sequences and all paths, and EM's laws."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.errors import InputError
from olm.models import hmm as hmms
from olm.models.hmm import HMM

S, V, T = 3, 4, 5
ALL = np.array(list(itertools.product(range(V), repeat=T)))
PATHS = np.array(list(itertools.product(range(S), repeat=T)))


def model(kind: str) -> HMM:
    """S=3, V=4: the same emissions everywhere, one matrix for each of the T positions, or entries that are impossible."""
    hmm = hmms.random(jax.random.key(0), S, V)
    if kind == "positions":
        return hmm._replace(log_emission=jnp.stack([hmms.random(jax.random.key(t), S, V).log_emission for t in range(T)]))
    if kind == "zeros":
        return ended(hmm)
    return hmm


def ended(hmm: HMM, end: int = 0) -> HMM:
    """The last state absorbing, the only one to emit ``end``, and no start."""

    def logs(log_rows: jax.Array, possible: np.ndarray) -> jax.Array:
        return jax.nn.log_softmax(jnp.where(possible, log_rows, -jnp.inf), axis=-1)

    states, vocabulary = hmm.log_emission.shape
    last, ends = np.arange(states) == states - 1, np.arange(vocabulary) == end
    return HMM(
        logs(hmm.log_initial, ~last),
        logs(hmm.log_transition, ~last[:, None] | last),
        logs(hmm.log_emission, last[:, None] == ends),
    )


def joint(hmm: HMM, tokens: np.ndarray) -> np.ndarray:
    """Pr(y, z) [N, paths], a product of table entries."""
    initial, transition, emission = (np.exp(np.asarray(leaf)) for leaf in hmm)
    emission = np.broadcast_to(emission, (T, *emission.shape[-2:]))
    value = np.broadcast_to(initial[PATHS[:, 0]], (len(tokens), len(PATHS))).copy()
    for t in range(T):
        value *= emission[t][PATHS[None, :, t], tokens[:, None, t]]
        if t:
            value *= transition[PATHS[:, t - 1], PATHS[:, t]]
    return value


kinds = pytest.mark.parametrize("kind", ["stationary", "positions", "zeros"])


@pytest.mark.usefixtures("x64")
@kinds
def test_likelihoods_filters_and_predictions_are_those_of_the_enumerated_joint(kind: str) -> None:
    hmm = model(kind)
    hmms.check(hmm)
    both = joint(hmm, ALL)
    p = both.sum(1)
    assert (p == 0).any() == (kind == "zeros")
    np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
    np.testing.assert_allclose(np.exp(hmms.log_likelihood(hmm, ALL)), p, rtol=1e-12)
    tree = p.reshape([V] * T)
    conditionals = np.exp(hmms.log_probabilities(hmm, ALL))
    log_f = np.exp(hmms.filtered(hmm, ALL))
    assert log_f.shape == (len(ALL), T + 1, S)
    possible = p > 0
    for t in range(T):
        prefix = tree.sum(axis=tuple(range(t + 1, T)))
        at = tuple(ALL[possible, :t].T)
        before = np.asarray(prefix.sum(-1)[at]) * np.ones(possible.sum())
        np.testing.assert_allclose(conditionals[possible, t], prefix[at] / before[:, None], rtol=1e-12, atol=1e-15)
        # Pr(z_t, y_<t): sum over paths through each state and over what follows.
        through = np.stack([both[:, PATHS[:, t] == z].sum(1).reshape([V] * T) for z in range(S)], -1)
        state = through.sum(axis=tuple(range(t, T)))[at]
        np.testing.assert_allclose(log_f[possible, t], state / before[:, None], rtol=1e-12, atol=1e-15)
    last = np.stack([both[:, PATHS[:, -1] == z].sum(1) for z in range(S)], -1) @ np.exp(hmm.log_transition)
    np.testing.assert_allclose(log_f[possible, T], last[possible] / p[possible, None], rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
@kinds
def test_the_filter_by_steps_is_the_filter_of_the_sequence(kind: str) -> None:
    hmm = model(kind)
    tokens = np.asarray(hmms.sample(hmm, jax.random.key(3), 6, T))
    log_f, whole, predictions = hmms.start(hmm, 6), hmms.filtered(hmm, tokens), hmms.log_probabilities(hmm, tokens)
    advance = jax.jit(hmms.advance)
    for t in range(T):
        np.testing.assert_allclose(np.exp(log_f), np.exp(whole[:, t]), atol=1e-14)
        np.testing.assert_allclose(np.exp(hmms.predict(hmm, log_f, t)), np.exp(predictions[:, t]), atol=1e-14)
        log_f = advance(hmm, log_f, tokens[:, t], t)
    np.testing.assert_allclose(np.exp(log_f), np.exp(whole[:, T]), atol=1e-14)
    np.testing.assert_allclose(np.exp(log_f).sum(1), 1, atol=1e-13)


@kinds
def test_samples_have_the_models_frequencies(kind: str) -> None:
    """Pearson's statistic over all sequences that are expected at least five times, and none that is impossible."""
    hmm, n = model(kind), 40_000
    y = jax.jit(hmms.sample, static_argnums=(2, 3))(hmm, jax.random.key(7), n, T)
    assert y.shape == (n, T) and y.dtype == jnp.int32
    found = np.bincount(np.asarray(y) @ V ** np.arange(T)[::-1], minlength=V**T)
    expected = n * joint(hmm, ALL).sum(1)
    assert found[expected == 0].sum() == 0
    often = expected >= 5
    observed, wanted = np.append(found[often], found[~often].sum()), np.append(expected[often], expected[~often].sum())
    statistic, freedom = ((observed - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum(), len(wanted) - 1
    assert freedom > 10
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_samples_of_a_vocabulary_that_is_no_square() -> None:
    hmm = hmms.random(jax.random.key(1), 1, 11)
    y = np.asarray(hmms.sample(hmm, jax.random.key(2), 5000, 4))
    p = np.exp(np.asarray(hmm.log_emission[0]))
    assert np.all(np.abs(np.bincount(y.ravel(), minlength=11) / y.size - p) < 4 * np.sqrt(p / y.size) + 1e-6)


@pytest.mark.usefixtures("x64")
def test_an_impossible_token_shows_in_the_likelihood_and_leaves_the_filter_as_predicted() -> None:
    hmm = model("zeros")
    tokens = np.array([[1, 0, 2, 0, 0], [1, 0, 0, 0, 0]])  # token 2 behind the end
    assert np.isneginf(hmms.log_likelihood(hmm, tokens)).tolist() == [True, False]
    log_f = np.asarray(hmms.filtered(hmm, tokens))
    assert not np.isnan(log_f).any()
    np.testing.assert_allclose(np.exp(log_f[0]), np.exp(log_f[1]), atol=1e-15)  # the absorbing state stays
    f = np.array([0.2, 0.8, 0.0])
    unseen = hmms.advance(hmm, jnp.log(jnp.asarray(f))[None], jnp.array([0]), 0)  # states 0 and 1 never emit 0
    np.testing.assert_allclose(np.exp(unseen[0]), f @ np.exp(hmm.log_transition), rtol=1e-13)
    outside = jax.jit(hmms.log_likelihood)(hmm, jnp.array([[1, V, 1], [1, -1, 1], [1, 1, 1]]))
    assert np.isneginf(outside).tolist() == [True, True, False]


def test_long_sequences_in_float32_stay_finite_and_exact() -> None:
    hmm = hmms.random(jax.random.key(0), 16, 50, emission=0.05, transition=0.05)
    tokens = hmms.sample(hmm, jax.random.key(1), 8, 512)
    got, log_f = hmms.log_likelihood(hmm, tokens), hmms.filtered(hmm, tokens)
    assert got.dtype == jnp.float32 and not np.isnan(log_f).any()
    np.testing.assert_allclose(jnp.exp(log_f).sum(-1), 1, atol=1e-5)
    counts, _ = hmms._counts(hmm, tokens)
    assert all(np.isfinite(leaf).all() for leaf in counts)
    np.testing.assert_allclose([leaf.sum() for leaf in counts], [8, 8 * 511, 8 * 512], rtol=1e-4)
    with jax.enable_x64(True):
        exact = hmms.log_likelihood(HMM(*(np.asarray(leaf, np.float64) for leaf in hmm)), np.asarray(tokens))
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_a_surprising_token_in_float32_keeps_its_counts() -> None:
    """State 1 is predicted with 1e-30, and only it emits token 1: its posterior is one all the same."""
    small = 1e-30
    rows = [[1.0, small], [small, 1.0]]
    hmm = HMM(*(jnp.log(jnp.array(rows_, jnp.float32)) for rows_ in ([1.0, small], rows, [[1.0, 0.0], [0.0, 1.0]])))
    counts, log_likelihoods = hmms._counts(hmm, jnp.array([[0, 1, 0], [1, 1, 0]]))
    np.testing.assert_allclose(counts.log_transition, [[0, 1], [2, 1]], rtol=1e-5)
    np.testing.assert_allclose(counts.log_emission, [[3, 0], [0, 3]], rtol=1e-5)
    np.testing.assert_allclose(log_likelihoods, [2 * np.log(small), 2 * np.log(small)], rtol=1e-6)


# --- EM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@kinds
def test_counts_are_those_of_enumerated_paths_in_blocks_of_any_size(kind: str) -> None:
    hmm = model(kind)
    tokens = np.asarray(hmms.sample(hmm, jax.random.key(4), 7, T))
    both = joint(hmm, tokens)
    posterior = both / both.sum(1, keepdims=True)
    initial, transition, emission = np.zeros(S), np.zeros((S, S)), np.zeros((T, S, V))
    for weights, y in zip(posterior, tokens, strict=True):
        np.add.at(initial, PATHS[:, 0], weights)
        for t in range(T):
            np.add.at(emission[t], (PATHS[:, t], y[t]), weights)
            if t:
                np.add.at(transition, (PATHS[:, t - 1], PATHS[:, t]), weights)
    wanted = (initial, transition, emission if kind == "positions" else emission.sum(0))
    for block in (None, 3):  # 7 is no multiple of 3
        counts, log_likelihoods = hmms._counts(hmm, jnp.asarray(tokens), block)
        for got, want in zip(counts, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(np.exp(log_likelihoods), both.sum(1), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_one_step_is_the_normalised_counts_and_zeros_stay() -> None:
    hmm = ended(hmms.random(jax.random.key(2), S, V))
    tokens = hmms.sample(hmm, jax.random.key(3), 50, T)
    counts, log_likelihoods = hmms._counts(hmm, tokens)
    fitted = hmms.fit(tokens, start=hmm, steps=1, pseudocount=0.5, held_out=tokens)
    for new, old, count in zip(fitted.hmm, hmm, counts, strict=True):
        raised = np.where(np.isneginf(old), 0, np.asarray(count) + 0.5)
        np.testing.assert_allclose(np.exp(new), raised / raised.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(fitted.log_likelihoods, [np.asarray(log_likelihoods).mean() / T], rtol=1e-12)
    np.testing.assert_allclose(fitted.held_out, [hmms.log_likelihood(fitted.hmm, tokens).mean() / T], rtol=1e-12)
    assert np.isneginf(fitted.hmm.log_transition[-1]).tolist() == [True, True, False]


@pytest.mark.usefixtures("x64")
def test_full_batches_never_lower_the_likelihood() -> None:
    truth = hmms.random(jax.random.key(5), 4, 8)
    tokens = hmms.sample(truth, jax.random.key(6), 200, 8)
    said: list[tuple[int, float, float | None]] = []
    fitted = hmms.fit(
        tokens, states=4, key=jax.random.key(0), steps=30, pseudocount=0.0, on_step=lambda *values: said.append(values)
    )
    assert fitted.held_out is None and fitted.log_likelihoods.shape == (30,)
    assert np.diff(fitted.log_likelihoods).min() > -1e-13
    assert fitted.log_likelihoods[-1] > fitted.log_likelihoods[0] + 0.01
    assert said == [(step, value, None) for step, value in enumerate(fitted.log_likelihoods)]
    hmms.check(fitted.hmm)


def test_batches_come_in_order_and_round_again() -> None:
    truth = hmms.random(jax.random.key(5), 4, 8)
    tokens = np.asarray(hmms.sample(truth, jax.random.key(6), 10, 8))
    start = hmms.random(jax.random.key(1), 4, 8)
    fitted = hmms.fit(tokens, start=start, steps=3, batch_size=4, pseudocount=0.1)
    hmm = start
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]):
        hmm = hmms.fit(tokens[rows], start=hmm, steps=1, pseudocount=0.1).hmm
    for got, want in zip(fitted.hmm, hmm, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_row_that_nothing_reaches_stays() -> None:
    start = HMM(*(jnp.log(jnp.array(rows)) for rows in ([1.0, 0.0], [[1.0, 0.0], [0.3, 0.7]], [[0.5, 0.5], [0.1, 0.9]])))
    fitted = hmms.fit(np.array([[0, 1, 1, 1]]), start=start, steps=2, pseudocount=0.0)
    np.testing.assert_allclose(np.exp(fitted.hmm.log_transition), [[1, 0], [0.3, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(fitted.hmm.log_emission), [[0.25, 0.75], [0.1, 0.9]], rtol=1e-6)


def test_fitting_finds_a_well_separated_model() -> None:
    """Each state has five tokens of its own and mostly moves to the next state: held-out nats come within 0.01 of the truth's."""
    states = 4
    move = 0.8 * np.roll(np.eye(states), 1, axis=1) + 0.2 / states
    emit = 0.95 * np.kron(np.eye(states), np.full(5, 0.2)) + 0.05 / (5 * states)
    truth = HMM(*(jnp.log(jnp.array(rows, jnp.float32)) for rows in (np.full(states, 0.25), move, emit)))
    tokens, others = (hmms.sample(truth, jax.random.key(seed), 1000, 16) for seed in (0, 1))
    best = float(hmms.log_likelihood(truth, others).mean()) / 16
    fitted = hmms.fit(tokens, states=states, vocabulary=20, key=jax.random.key(2), steps=20, held_out=others)
    assert fitted.held_out is not None
    assert -np.log(20) < best - 0.5
    assert best - 0.01 < fitted.held_out[-1] < best + 0.001


def test_the_starting_point_ends_sequences_and_fits_better_than_single_tokens() -> None:
    truth = ended(hmms.random(jax.random.key(9), 6, 12))
    tokens = np.asarray(hmms.sample(truth, jax.random.key(1), 400, 9))
    start = hmms.starting_point(jax.random.key(0), tokens, 5, 12, end=0)
    hmms.check(start)
    fitted = hmms.fit(tokens, start=start, steps=3)
    for hmm in (start, fitted.hmm):
        initial, transition, emission = (np.exp(np.asarray(leaf)) for leaf in hmm)
        assert initial[-1] == 0 and np.all(initial[:-1] > 0)
        assert transition[-1].tolist() == [0, 0, 0, 0, 1] and np.all(transition[:-1] > 0)
        assert np.all(emission[:-1, 0] == 0) and emission[-1].tolist() == [1] + [0] * 11 and np.all(emission[:-1, 1:] > 0)
    frequency = np.bincount(tokens.ravel(), minlength=12) / tokens.size
    assert fitted.log_likelihoods[0] > (frequency * np.log(np.maximum(frequency, 1e-9))).sum()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"log_initial": np.zeros(2)},
            r"log_initial \[2\], log_transition \[3, 3\], log_emission \[3, 4\]: give \[S\], \[S, S\]",
        ),
        ({"log_emission": np.zeros((2, 4))}, r"log_emission \[2, 4\]: give"),
        ({"log_transition": np.full((3, 3), np.nan)}, "log_transition has NaN: give log-probabilities"),
        ({"log_emission": np.ones((3, 4), int)}, "log_emission has dtype int64: give log-probabilities"),
        ({"log_initial": np.log([0.5, 0.25, 0.125])}, "log_initial sums to 0.875: give log-probabilities"),
        ({"log_emission": np.zeros((3, 4))}, r"log_emission\[0\] sums to 4: give"),
    ],
)
def test_check_says_what_is_wrong(change: dict, message: str) -> None:
    hmm = hmms.random(jax.random.key(0), 3, 4)
    with pytest.raises(InputError, match=message):
        hmms.check(hmm._replace(**change))


def test_bad_arguments_are_named() -> None:
    hmm, key, tokens = model("stationary"), jax.random.key(0), np.array([[1, 2], [3, 0]])

    def fails(message: str, call: object, *args: object, **named: object) -> None:
        with pytest.raises(InputError, match=message):
            call(*args, **named)  # type: ignore[operator]

    fails("states is 0: give a whole number", hmms.random, key, 0, 4)
    fails("emission is 0: give a positive concentration", hmms.random, key, 2, 4, emission=0)
    fails("tokens are 0 … 4: give numbers from 0 to 3", hmms.log_likelihood, hmm, tokens + np.array([[0, 0], [1, 0]]))
    fails(r"tokens have shape \(2,\), dtype int64: give whole", hmms.filtered, hmm, np.array([1, 2]))
    fails("dtype float64: give whole", hmms.filtered, hmm, np.ones((1, 2)))
    fails("length 6 exceeds the 5 positions", hmms.sample, model("positions"), key, 2, 6)
    fails("length 6 exceeds the 5 positions", hmms.log_probabilities, model("positions"), np.zeros((1, 6), int))
    fails("neither a start nor both states and key", hmms.fit, tokens, states=2)
    fails("leave out states, vocabulary and key", hmms.fit, tokens, start=hmm, states=2)
    fails("batch_size 3 exceeds the 2 sequences: choose 1 to 2", hmms.fit, tokens, start=hmm, batch_size=3)
    fails("pseudocount is -1: give a number of at least 0", hmms.fit, tokens, start=hmm, pseudocount=-1)
    fails("sequence 1 has probability zero at step 0", hmms.fit, np.array([[1, 0], [0, 1]]), start=model("zeros"))
    fails("sequence 1 starts with end 0", hmms.starting_point, key, np.array([[1, 0], [0, 0]]), 2, 4, 0)
    fails("sequence 0 starts with end 0 or goes on behind it", hmms.starting_point, key, np.array([[1, 0, 1]]), 2, 4, 0)
    fails("end 4 is no token: give one of 0 to 3", hmms.starting_point, key, tokens, 2, 4, 4)
    fails("states is 1: give a whole number of at least 2", hmms.starting_point, key, tokens, 1, 4, 0)
