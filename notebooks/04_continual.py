# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Continual pre-training
#
# A model has been trained on one dataset and is to learn a second one. Trained on, it forgets the first; trained anew on both, it costs both
# budgets. [Ibrahim et al. 2024](https://arxiv.org/abs/2403.08763) ask how little it takes to have the result of the second way at the price
# of the first: raise the learning rate again, let it decay again, and read a share of old data in every batch. This notebook
# does that in small, and then asks for the numbers one has to choose: which share, which schedule. All losses are of held-out windows, in nats
# per token; test windows report, validation windows choose. It is one seed: differences of a few hundredths are not to be trusted.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

from olm import plots, schedules
from olm.continual.experiment import train_sequence
from olm.continual.forecast import choose_share, forecast_schedule
from olm.continual.plan import account, plan, union
from olm.continual.search import find_schedule, relaxed, settle
from olm.models.transformer import TransformerConfig
from olm.plots.continual import replay_tradeoff, searched_schedule, sequence_curves
from olm.scaling.curves import LossCurve, predict_curve
from olm.tasks import sequence

STEPS, BATCH, PEAK, FLOOR, WARMUP = 240, 16, 1e-2, 1e-3, 2
data = sequence.stories("strong", 0, rows=2 * STEPS * BATCH, validation=64, test=128)
model = TransformerConfig(vocabulary=256, length=32, width=32, layers=2, heads=4, score_scale="head", init="gpt2")
key, (old, new) = jax.random.key(0), (one.name for one in data)
for one in data:
    print(f"{one.name}: {len(one.train)} windows, no model is below {one.entropy:.3f} nats per token; begins {one.train[0, :10]}")

# %% [markdown]
# Two generated languages with the same token ids and other words: a *strong* shift, as from English to German. Their entropy is known,
# so one sees how far a loss is from the best one.
#
# ## Schedules
#
# A schedule is an optax schedule. *Re-warmed* rises to the peak for every dataset, *held* stays at the smallest rate; *infinite* and *WSD* warm
# up once and decay when there are no more data.

# %%
shapes = {
    "re-warmed": schedules.rewarmed(PEAK, FLOOR, [STEPS, STEPS], WARMUP),
    "held": schedules.held(PEAK, FLOOR, [STEPS, STEPS], WARMUP),
    "infinite": schedules.infinite(
        PEAK, 0.55 * PEAK, FLOOR, warmup=WARMUP, cooldown=STEPS // 2, steps=2 * STEPS, anneal=STEPS // 4
    ),
    "WSD": schedules.wsd(PEAK, FLOOR, 2 * STEPS, WARMUP, decay=STEPS // 4),
}
with plots.style():
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 1.9), layout="constrained", sharey=True)
    for ax, (name, shape) in zip(axes, shapes.items(), strict=True):
        ax.plot(schedules.rates(shape, 2 * STEPS))
        ax.axvline(STEPS, color="grey", lw=0.8)
        ax.set(title=name, xlabel="step")
    axes[0].set_ylabel("learning rate")

# %% [markdown]
# ## What a run reads
#
# Replay is *compute-equivalent*: what is read of the old dataset is not read of the new one. A plan holds rows, counts and rates of every
# step. A share below one example a batch is spread over the steps: 1% of 16 is one old window about every sixth step. `account` counts the
# tokens in the order itself.

# %%
again = schedules.warmup_cosine(PEAK, FLOOR, STEPS, WARMUP, start=FLOOR)  # the second half of "re-warmed"


def continued_plan(share, schedule=again):
    return plan(data, [STEPS], schedules.rates(schedule, STEPS), batch_size=BATCH, replay=share, first=1)


SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5)
for share in SHARES:
    made = continued_plan(share)
    tokens = account(made, data)[0]["tokens"]
    print(f"replay {share:4.0%}: {tokens[old]:6} old + {tokens[new]:6} new = {sum(tokens.values())} tokens", end="; ")
    print("old windows of the first steps", *made.counts[:12, 0])

# %% [markdown]
# ## The runs
#
# One model is trained on the first dataset. Every continued run begins with it. Beside them stand the *union*, both datasets at once for as
# many steps as both runs have, and the second dataset *from scratch*.

# %%
fresh = schedules.rates(schedules.warmup_cosine(PEAK, FLOOR, STEPS, WARMUP), STEPS)
first = train_sequence(data, model, plan(data, [STEPS], fresh, batch_size=BATCH), key=key, evaluate_every=10)


def continued(made, **options):
    return train_sequence(data, model, made, key=key, params=first.params, **options)


runs = {share: continued(continued_plan(share), evaluate_every=10 if share in (0.0, 0.25) else 50) for share in SHARES}
scratch = train_sequence(data, model, plan(data, [STEPS], fresh, batch_size=BATCH, first=1), key=key)
twice = schedules.rates(schedules.warmup_cosine(PEAK, FLOOR, 2 * STEPS, 2 * WARMUP), 2 * STEPS)
both = train_sequence(data, model, union(data, [STEPS, STEPS], twice, batch_size=BATCH), key=key)

with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
    for ax, share in zip(axes, (0.0, 0.25), strict=True):
        rows = first.rows + [{**row, "step": STEPS + row["step"]} for row in runs[share].rows[1:]]
        losses = {one.name: [row["test"][one.name] for row in rows] for one in data}
        sequence_curves(
            [row["step"] for row in rows], losses, [row["rate"] for row in rows], [STEPS, 2 * STEPS], ax,
            entropies={one.name: one.entropy for one in data}, label=f"replay {share:.0%}: loss",
        )  # fmt: skip

# %% [markdown]
# A *final* loss is the mean over the evaluations of the last 100 steps. *Forgetting* is the rise of the old loss, *adaptation* the loss on the new data.

# %%
before = first.final["test"][-1][0]


def shown(run):
    old_loss, new_loss = run.final["test"][-1]
    return {"old": old_loss, "forgetting": old_loss - before, "new": new_loss, "mean": (old_loss + new_loss) / 2}


table = {f"replay {share:.0%}": shown(run) for share, run in runs.items()}
table |= {"from scratch": shown(scratch), "union (twice the steps)": shown(both)}
print(f"{'after the first dataset':24} old {before:6.3f}")
for name, row in table.items():
    print(f"{name:24}", "  ".join(f"{what} {value:6.3f}" for what, value in row.items()))
with plots.style():
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    points = {name: {x: {"mean": row[x], "low": None, "high": None} for x in ("old", "new")} for name, row in table.items()}
    replay_tradeoff(points, ax)
best = min(runs, key=lambda share: runs[share].final["validation"][-1].mean())
gone = {share: 1 - table[f"replay {share:.0%}"]["forgetting"] / table["replay 0%"]["forgetting"] for share in SHARES[1:]}
print("forgetting that replay takes away:", ", ".join(f"{share:.0%}: {part:.0%}" for share, part in gone.items()))
print("new loss less that without replay:", ", ".join(
    f"{share:.0%}: {table[f'replay {share:.0%}']['new'] - table['replay 0%']['new']:+.3f}" for share in SHARES[1:]
))  # fmt: skip
excess = table[f"replay {best:.0%}"]["mean"] - table["union (twice the steps)"]["mean"]
print(f"least mean loss on validation windows: replay {best:.0%}; on test windows {excess:+.3f} nats from the union's")

# %% [markdown]
# Without replay the old text becomes all but impossible: its words now mean others. One old window in a hundred takes away most of that, every
# further share less, and the new loss pays for it. On test windows the union ends lower than any of the continued runs, for twice
# their steps: runs as short as these are far from what the model can learn (the entropies), and more steps help everything.
#
# ## Which share?
#
# With a budget for the rise of the old loss the question has an answer: the least share that keeps it. `choose_share` fits $L(R) = a R^s + b$ to
# the validation losses of those runs and solves it; its interval is that of refits to resampled runs, widened for their number. The run at the
# share it names was not among them.

# %%
BUDGET, pilots = 0.05, [share for share in SHARES if share > 0]
choice = choose_share(
    pilots,
    [runs[share].final["validation"][-1][0] for share in pilots],
    before=first.final["validation"][-1][0],
    budget=BUDGET,
    new_losses=[runs[share].final["validation"][-1][1] for share in pilots],
)
checked = continued(continued_plan(choice.share))
print(f"share for a rise of {BUDGET:.0%}: {choice.share:.1%}, interval [{choice.low:.1%}, {choice.high:.1%}]")
print("to know:", choice.message or "nothing")
for part in ("validation", "test"):
    rise = checked.final[part][-1][0] / first.final[part][-1][0] - 1
    print(f"the run at that share: old loss {rise:+.1%} on {part} windows")
with plots.style():
    figure, ax = plt.subplots(figsize=(6.0, 3.0), layout="constrained")
    shares = np.geomspace(0.008, 0.6, 100)
    ax.plot(shares, choice.fit.predict(R=shares), lw=1, color="black", label="law")
    ax.plot(pilots, [runs[share].final["validation"][-1][0] for share in pilots], "o", color="black", label="runs")
    ax.plot(choice.share, checked.final["validation"][-1][0], "D", color="#D55E00", label="run at the share chosen")
    ax.axhline(choice.limit, color="#D55E00", lw=1, ls="--", label="limit")
    ax.axvspan(choice.low, choice.high, color="#D55E00", alpha=0.12, lw=0, label="interval")
    ax.set(xscale="log", xlabel="share of old data", ylabel="old loss (nats per token)")
    _ = ax.legend(fontsize=8)

# %% [markdown]
# ## Which schedule?
#
# A law for the whole loss curve is fitted to the runs under two schedules, here of the new loss at 25% replay, and foretells a third. That run is
# made as well; the fit has not seen it. The laws count from 0, so a loss after $s$ steps belongs to step $s - 1$. The first 30
# steps, in which the model finds out that the language is another one, are left out.

# %%
second = {
    "re-warmed cosine": again,
    "WSD": schedules.wsd(PEAK, FLOOR, STEPS, WARMUP, decay=STEPS // 4),
    "infinite": schedules.infinite(PEAK, 0.55 * PEAK, FLOOR, warmup=WARMUP, cooldown=STEPS // 2, steps=STEPS, anneal=STEPS // 4),
}
curves = {}
for name, shape in second.items():
    run = runs[0.25] if shape is again else continued(continued_plan(0.25, shape), evaluate_every=10)
    rows = [row for row in run.rows if row["step"] >= 30]
    curves[name] = LossCurve(
        np.array([row["step"] for row in rows]) - 1,
        np.array([row["test"][new] for row in rows]),
        np.asarray(schedules.rates(shape, STEPS), np.float64),
        name,
    )
*seen, third = curves.values()
foretold = forecast_schedule(seen, third, law="annealing")
print(f"{third.name}, last loss: foretold {foretold.final:.3f}, measured {third.losses[-1]:.3f}", end="; ")
print(f"mean error along the curve {np.abs(foretold.losses - third.losses).mean():.3f} nats")
print(f"error at the end of a curve left out: {foretold.error:.3f} nats; to know: {foretold.message or 'nothing'}")
for name, curve in curves.items():
    print(f"{name:16} ends at {curve.losses[-1]:.3f}, the law says {predict_curve(foretold.fit, curve)[-1]:.3f}")
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.0), layout="constrained")
    for (name, curve), color in zip(curves.items(), ("black", "#0072B2", "#D55E00"), strict=True):
        law = foretold.losses if curve is third else predict_curve(foretold.fit, curve)
        axes[0].plot(curve.rates, color=color, label=name)
        axes[1].plot(curve.steps + 1, curve.losses, "o", ms=3, color=color)
        axes[1].plot(curve.steps + 1, law, "--" if curve is third else "-", color=color, lw=1)
    axes[0].set(xlabel="step", ylabel="learning rate")
    axes[0].legend(fontsize=8)
    axes[1].set(xlabel="step", ylabel="new loss (nats per token)", title="dots: runs, lines: law, dashed: foretold")

# %% [markdown]
# The law misses what the short decay of WSD brings, though that run was fitted: two curves of one seed, and this few steps, say little about
# annealing. The foretold end is nearer than the error at left-out curves let one expect; that error is the number to trust, and, as the message
# says, it is larger than all differences between these schedules. Laws of this kind were made for runs of many thousands of steps.
#
# ## A search by gradient descent
#
# Share and rate can be differentiated through the whole run, AdamW included (`relaxed` makes a run whose batches hold a fixed number of old
# examples with a *weight* that is the share). In long runs at a good rate that gradient is exact and of no use: training is chaotic, and
# derivatives through all steps reach sizes that no change of the loss has (`benchmarks/results/continual.json` has them for 750 steps). So `find_schedule` goes
# through the last 30% of the steps only (`olm.adjoint.truncated`), in four pieces of their own, and what holds at the beginning of that
# stretch holds before it. The best point and the mean of the best two are made plain, whole examples in every batch, and run again by the loop above, as is the
# start; `settle` keeps the run that ends lowest on validation.

# %%
setting = {"batch_size": BATCH, "replay": 0.25}
ended = relaxed(data, model, again, STEPS, **setting)
found = find_schedule(ended, params=first.params, key=key, evaluations=3, keep=2)
chosen, again_run, _ = settle(found, lambda plain: continued(plain.plan))
for number, row in enumerate(found.solution.history, 1):
    print(f"evaluation {number}: objective {row['objective']:.4f} {row['message']}")
start, after = shown(runs[0.25]), shown(again_run)
print(f"old share of the plan: {account(chosen.plan, data)[0]['share'][old]:.1%}; start 25%")
for what in ("old", "new", "mean"):
    print(f"{what:4} test loss: start {start[what]:.3f}, found {after[what]:.3f} ({after[what] - start[what]:+.3f})")
simple = table[f"replay {best:.0%}"]["mean"]
print(
    f"found less the best of the {len(SHARES)} shares at the same rates (replay {best:.0%}): {after['mean'] - simple:+.3f} nats"
)
with plots.style():
    figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    searched_schedule(chosen.shares[:, 0], chosen.rates, np.asarray(schedules.rates(again, STEPS)), ax, base_shares=0.25)

# %% [markdown]
# A step that raised the objective is taken again at half its size. One seed and three evaluations settle nothing: whether such a search beats a grid
# of shares and rates at the grid's own cost is measured over seeds in `benchmarks/continual.py`.

# %% [markdown]
# For text files of your own: `olm continue text --files OLD.txt NEW.txt --replay 0.25`, which can be interrupted and goes on with the same bits. The
# published table over seeds, two model sizes and a weak shift is `benchmarks/continual.py`.
