"""Where samples come from when the base hardly ever meets the constraint: from what has been learned so far.

Every round draws half of its samples from the base and half from the guided model, q = p R_θ / Σ p R_θ, and goes on learning from
all samples so far. The label of a whole sequence and the Bellman equation R(y_<t) = Σ_v p_v R(y_<t v) hold whatever wrote the
sequence, so DiNADO's loss (label at the last token, divergence at the others) has the same optimum under any proposal; it may
take these samples as they are. Cross-entropy at every prefix (NADO) estimates R from p's own continuations and needs the weights
p(y) / (½ p(y) + ½ q(y)), which are exact and at most 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from olm.control import decode
from olm.control.model import Context, Model, compiled, log_likelihood
from olm.control.samples import Oracle, Samples, counted, label_all
from olm.errors import check_number, check_whole
from olm.fitting import ADAM, Fitted, Losses, fit, schedule
from olm.learner import Adam, examples, order
from olm.records import Run
from olm.types import Array, PyTree


def draw_mixture(
    base: Model,
    params: PyTree,
    proposal: Model,
    proposal_params: PyTree,
    oracle: Oracle,
    key: Array,
    context: Context,
    *,
    share: float = 0.5,
    end: int | None = None,
    keep_log_p: bool = True,
    chunk: int = 4096,
) -> Samples:
    """Samples of (1 − s) p + s q, labelled, with their exact weights p / ((1 − s) p + s q).

    Args:
      base, params: p.
      proposal, proposal_params: q.
      oracle: ``(tokens [B, T], context) -> [B]``.
      key: random key.
      context: arrays with a leading axis N.
      share: s, to the nearest of N rows; a random part of this size is drawn from q.
      end: the id that ends a sequence; None: all have T tokens.
      keep_log_p: keep the base's log-probabilities, N·T·V numbers.
      chunk: sequences drawn at once; some N·T·V numbers of as many are in memory in any case.

    Returns:
      `Samples`. Weights are not normalised: their mean is 1 in expectation.

    Raises:
      InputError: a share outside [0, 1), labels outside 0 … 1 or of another shape.

    No example: see `rounds`.
    """
    check_number("share", share, "give a number from 0 to below 1", 0, 1 - 1e-9)
    if (rows := examples(context, "context")) > check_whole("chunk", chunk, 1):
        several = [
            draw_mixture(
                base, params, proposal, proposal_params, oracle, jax.random.fold_in(key, begin),
                jax.tree.map(lambda x, begin=begin: x[begin : begin + chunk], dict(context)), share=share, end=end,
                keep_log_p=keep_log_p, chunk=chunk,
            )
            for begin in range(0, rows, chunk)
        ]  # fmt: skip
        batch = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(one.batch for one in several))
        weights = jnp.concatenate([one.weights for one in several])
        return Samples(batch, weights, float(jnp.mean(weights * batch["label"])))
    keys = jax.random.split(key, 3)
    of_base = decode.sample(base, params, keys[0], context)
    of_proposal = decode.sample(proposal, proposal_params, keys[1], context)
    n = of_base.tokens.shape[0]
    # The share that N rows can have, so that weights are those of what was drawn; of the base there is always one.
    of_q = min(round(share * n), n - 1)
    taken, share = jax.random.permutation(keys[2], n) < of_q, of_q / n
    tokens = jnp.where(taken[:, None], of_proposal.tokens, of_base.tokens)
    log_p_BxTxV = compiled(base)(params, tokens, context)
    mask = jnp.ones(tokens.shape, bool) if end is None else counted(tokens, end)

    def whole(log_p: Array) -> Array:
        return jnp.where(mask, log_likelihood(log_p, tokens), 0.0).sum(1)

    log_p = whole(log_p_BxTxV)
    log_q = whole(compiled(proposal)(proposal_params, tokens, context))
    weights = jnp.exp(log_p - jnp.logaddexp(jnp.log1p(-share) + log_p, jnp.log(share) + log_q))
    label = jnp.asarray(label_all(oracle, tokens, context), jnp.result_type(float))
    batch = {"tokens": tokens, "label": label, "context": dict(context)} | ({"log_p": log_p_BxTxV} if keep_log_p else {})
    if end is not None:
        batch["mask"] = mask
    return Samples(batch, weights, float(jnp.mean(weights * label)))


def rounds(
    losses: Losses,
    params: PyTree,
    first: Samples,
    draw: Callable[[PyTree, Array, int], Samples],
    *,
    number: int,
    steps: int,
    key: Array,
    weighted: bool,
    batch_size: int = 128,
    peak: float = 1e-3,
    adam: Adam = ADAM,
    watched: PyTree = None,
    measures: Callable[[PyTree], Mapping[str, float]] | None = None,
    run: Run | None = None,
    progress: bool = False,
) -> Fitted:
    """Learn, draw from what was learned, learn on from all samples, K times.

    Args:
      losses: ``(params, batch) -> [B]``.
      params: θ_0.
      first: samples of the first round; every later one draws as many.
      draw: ``(params, key, n) -> Samples`` from a mixture of base and guided model, see `draw_mixture`.
      number: K, rounds with the first.
      steps: of all rounds, as many in each, under one schedule of learning rates.
      key: random key.
      weighted: weigh samples by their exact weights; False: take them as they are.
      batch_size, peak, adam, watched, measures: as for `olm.fitting.fit`.
      run: an open run folder: a line of metrics for each evaluation, and the state after each round, from which a resumed run
        goes on; a round that was interrupted is made again.
      progress: show a bar for each round.

    Returns:
      `Fitted`; the history's "step" runs on over rounds, "round" and "rate" (the estimate of R(x)) are added.

    Raises:
      InputError, DivergenceError: as `olm.fitting.fit`.

    No example: see benchmarks/control.py.
    """
    check_whole("number", number, 1)
    each = check_whole("steps", steps, number) // number
    rates = schedule(peak, each * number)
    n, size = examples(first.batch, "samples"), min(batch_size, examples(first.batch, "samples"))
    # All rounds share arrays of one size, of which the rows to come are never drawn: so programs are compiled once.
    pool = jax.tree.map(lambda x: jnp.concatenate([x] + [jnp.zeros_like(x)] * (number - 1)), first.batch)
    weights = jnp.concatenate([first.weights, jnp.zeros(n * (number - 1))])
    history: list[dict[str, Any]] = []
    begun = 0
    if run is not None:
        if (saved := run.load_state((params, pool, weights))) is not None:
            (params, pool, weights), begun = jax.tree.map(jnp.asarray, saved[0]), int(saved[1]["round"])
        run.truncate_metrics(int(saved[1]["rows"]) if saved is not None else 0)
        history = run.metrics()
        run.begin()
    for index in range(begun, number):
        of_draw, of_order = jax.random.split(jax.random.fold_in(key, index))
        if index:
            more = draw(params, of_draw, n)
            pool = jax.tree.map(lambda a, b, at=index * n: a.at[at : at + n].set(b), pool, more.batch)
            weights = weights.at[index * n : (index + 1) * n].set(more.weights)
        found = fit(
            losses, params, pool, steps=each, key=of_order, batch_size=size, adam=adam,
            weights=weights if weighted else None, watched=watched, measures=measures, every=max(each // 2, 1),
            order=order(of_order, each, n * (index + 1), size),
            rates=rates[index * each : (index + 1) * each], progress=progress,
        )  # fmt: skip
        rate = float(jnp.sum(weights * pool["label"]) / jnp.sum(weights))
        rows = [{**row, "step": row["step"] + index * each, "round": index, "rate": rate} for row in found.history]
        params, history = found.params, history + rows
        if run is not None:
            for row in rows:
                run.append_metrics(row)
            run.save_state((params, pool, weights), {"round": index + 1, "rows": len(history)})
    return Fitted(params, history)
