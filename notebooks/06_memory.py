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
# # Associative memory
#
# [Niu et al.](https://arxiv.org/abs/2405.08707) explain why a language model's loss stops falling: a transformer is an associative memory, its
# training samples are patterns at the bottom of an energy, and the cross-entropy cannot go below 1. `olm.memory` computes that theory and measures what
# trained transformers do of it. This notebook does both on a small scale, one seed; three seeds with intervals are in
# [the results](../docs/results.md).
#
# A pattern $\rho_i\in\mathbb R^n$ is what is remembered. Three energies have their minima near patterns,
#
# $$g(x) = \min_i \|x-\rho_i\|^2,\qquad E(x) = -\log\sum_i e^{-\|x-\rho_i\|^2},\qquad
# H(x) = -\tfrac1\beta\log\sum_i e^{\beta\rho_i\cdot x} + \tfrac12\|x\|^2 + \tfrac1\beta\log d + \tfrac12\max_i\|\rho_i\|^2.$$

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

from olm import plots
from olm.data import questions
from olm.data import stories as story_data
from olm.memory import energy, experiment, measure, partition
from olm.memory.neighbours import nearest
from olm.models.transformer import TransformerConfig, init, logits
from olm.plots import memory as draw
from olm.tasks import sequence

line, plane = np.array([[-2.0], [0.0], [1.0]]), np.array([[-2.0, -0.5], [0.2, -0.3], [1.5, 1.5]])
x, y = np.linspace(-3, 2.5, 300), np.linspace(-2, 2.8, 150)
grid = np.stack(np.meshgrid(x, y), -1)
starts = np.array([[-0.9, 1.9], [-1.2, -1.6], [2.2, -0.9]])
paths = energy.descend(starts, [plane], steps=60, radius=0.25).path
curves = {f"Hopfield, β = {beta}": energy.hopfield_energy(x[:, None], line, beta) for beta in (1, 2)}
curves |= {"layer, E": energy.layer_energy(x[:, None], line), "nearest, g": energy.nearest_energy(x[:, None], line)}
with plots.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    draw.energy_curves(x, {name: np.asarray(values) for name, values in curves.items()}, line[:, 0], left)
    draw.energy_map(x, y, np.asarray(energy.layer_energy(grid, plane)), plane, [np.asarray(paths[:, i]) for i in range(3)], right)

# %% [markdown]
# The paths go down by *majorisation-minimisation*: with $w_i$ the softmax of $-\|x-\rho_i\|^2$, the quadratic $\sum_i w_i\|x-\rho_i\|^2$ plus a
# constant lies above $E$ and touches it at $x$, so that a step to its minimum, $\sum_i w_i\rho_i$, cannot go up. That step is softmax attention over the
# patterns. Several layers together have the energy $G(x) = -\log\sum_t e^{-E_t(x)}$, and the same step holds for it. The published iteration is
# another one: each layer goes to its own minimum. Nothing keeps $G$ from rising there.

# %%
rng = np.random.default_rng(0)
layers = [rng.standard_normal((6, 8)) for _ in range(6)]
states = rng.standard_normal((200, 8)) * 1.5
joint = np.diff(energy.descend(states, layers, steps=30).energy, axis=0)
own = np.diff(energy.descend_layers(states, layers, radius=1.0).energy, axis=0)
print(f"steps of the joint bound that raise the global energy: {(joint > 1e-5).mean():.1%}")
print(f"steps of the published iteration that raise it:         {(own > 1e-5).mean():.1%}, by up to {own.max():.2f}")

# %% [markdown]
# ## The bound and its constant
#
# Patterns are centres of disjoint balls of radius $r=\sqrt{n/2\pi e}$, the partition function is $Z = d\int_{\|x\|\le r}e^{-\|x\|^2}dx$, the loss
# $\log Z + 1/Z \ge 1$. From $Z=1$ follows how many patterns $d$ a model of $n$ dimensions keeps, and with it the data $D$ for $N$ parameters. The paper takes
# the ball's volume for the integral. That is an upper bound, and a far one:

# %%
print("    n    radius   log d by the volume   log d by the integral")
for n in (64, 1024, 16384):
    volume, integral = partition.patterns_stored(n), partition.patterns_stored(n, by="integral")
    print(f"{n:6}  {partition.radius(n):7.2f}   {volume:19.2f}   {integral:21.1f}")

# %% [markdown]
# By the volume $d\approx\sqrt{\pi n}$. With $n = T\cdot\text{width}$ this is the paper's $N\propto D^2$ as long as layers times width over $T^3$ is held; where the
# width grows alone, the same constants give $D\propto N^{1/4}$. By the integral $d\approx\sqrt{\pi n}\,e^{n/17}$, an exponential of the width: the law belongs to the
# bound, not to the energy.
#
# ## Learned by heart
#
# Two transformers learn stories whose entropy is known. One sees 262,144 tokens, the other 1% of them, 82 windows of 32 tokens.

# %%
length, seen = 32, (262_144, 2_624)
data = sequence.stories("none", 0, rows=seen[0] // length, validation=512, test=1, length=length, datasets=1)[0]
config = TransformerConfig(vocabulary=256, length=length, width=32, layers=2, heads=2, score_scale="head", init="gpt2")
tables = story_data.grammar(sequence.languages("none")[0])
floor = story_data.losses(tables, data.validation)
models, histories = {}, {}
for tokens in seen:
    windows = data.train[: tokens // length]
    fitted = experiment.learn(
        config, [{"tokens": windows}], {"tokens": data.validation}, jax.random.key(0)[None], steps=1200, peak=3e-3, points=15,
        looked_at=512, floor=([story_data.losses(tables, windows)], floor),
    )  # fmt: skip
    models[tokens], histories[tokens] = jax.tree.map(lambda leaf: leaf[0], fitted.params), fitted.history
shown = {
    f"{tokens:,} tokens": tuple(np.array([row[side][0] for row in rows]) for side in ("train", "validation"))
    for tokens, rows in histories.items()
}
with plots.style():
    figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
    draw.training_and_validation([row["step"] for row in histories[seen[0]]], shown, ax, floor=data.entropy, bound=1.0)
few = seen[1] // length
print(
    f"82 windows: training loss {histories[seen[1]][-1]['train'][0]:.3f}; telling {few} windows apart takes log({few})/{length} = {np.log(few) / length:.3f}"
)

# %% [markdown]
# Much data: both losses settle at the source's entropy, not at 1. Little data: the training loss goes through 1 without stopping, down to what
# it takes to find out from the first tokens which of the 82 windows this is; the rest is known.
#
# `measure` asks in several ways what is known by heart. *Known*: training windows of lower loss than 95% of held-out ones; *written*: windows whose second half
# the model writes from the first.

# %%
held = measure.samples(data.validation)
found = {}
for name, params, tokens in (
    ("262,144 tokens", models[seen[0]], seen[0]), ("2,624 tokens", models[seen[1]], seen[1]), ("untrained", init(config)(jax.random.key(5)), seen[1]),
):  # fmt: skip
    stored = measure.samples(data.train[: tokens // length], 512)
    found[name] = measure.measure(config, params, stored, held, jax.random.key(1), retrieved=64).summary()
    s = found[name]
    print(
        f"{name:15} known {s['known']:.2f} (chance .05)  written {s['written_stored']:.2f} (held out {s['written_held_out']:.2f})  "
        f"radius of the last layer over the theory's {s['layers'][-1]['radius_over_theory']:.2f}"
    )

# %% [markdown]
# ## Do the layers return to the pattern?
#
# In an associative memory, a state within the ball of a stored pattern falls back to it. So move a training window's embedding within its ball, towards its
# nearest neighbour, and see whether the last layer is still nearest to its own pattern. Held-out windows, which nobody stored, are the control, and so is a
# network that was never trained.

# %%
with plots.style():
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained", sharey=True)
    for ax, (name, s) in zip(axes, found.items(), strict=True):
        rates = {kind: kept["recovered"] for kind, kept in s["retrieval"].items() if "towards" in kind}
        draw.retrieval(s["retrieval"]["stored, towards"]["fractions"], rates, ax)
        ax.set_title(name, loc="left")

# %% [markdown]
# Windows that are known by heart and windows that were never seen fall off alike, trained or not; a gap like the one in the middle is what one seed scatters (over
# three seeds it is 0 within a tenth, [results](../docs/results.md)). And the radius itself has no
# unit: a pre-norm transformer's stream may be multiplied by any number, and not one prediction changes.

# %%
params, tokens = models[seen[0]], data.validation[:256]
for scale in (1.0, 10.0):
    other = measure.rescaled(params, scale)
    block = measure.activations(config, other, measure.samples(tokens))[-2]
    apart = float(np.abs(logits(config)(other, tokens[:, :-1]) - logits(config)(params, tokens[:, :-1])).max())
    print(f"stream × {scale:4.0f}: radius {np.median(nearest(block).distance) / 2:6.3f}, logits differ by at most {apart:.0e}")

# %% [markdown]
# ## A loss of about one
#
# The paper's second experiment trains on question formation with 68 words, where the loss settles near 1. The source itself has an entropy, and that is exact
# here: `olm.data.questions` is a grammar whose sentences, and whose questions, have a known probability. So change the source and see what the loss follows.

# %%
for words, copied in ((24, True), (68, True), (68, False)):
    exact = questions.entropy(questions.grammar(questions.QuestionConfig(vocabulary=words, copied=copied)))
    print(f"{words} words, {'sentence and copy or question' if copied else 'sentences alone':29}: {exact.rate:.3f} nats a label")

# %% [markdown]
# With 68 words and a copied half the entropy happens to be near 1. Two other sources, sentences alone, one of few words and one of all 68:

# %%
plateaus = []
for words, depth in ((22, 0), (68, 1)):
    language = questions.grammar(questions.QuestionConfig(vocabulary=words, copied=False, depth=depth))
    exact = questions.entropy(language)
    train, test = (questions.draw(language, jax.random.key(seed), size) for seed, size in ((0, 20_000), (1, 512)))
    floors = [questions.losses(language, part["tokens"][:512]) / exact.labels for part in (train, test)]
    small = TransformerConfig(len(language.words), language.length, 32, 2, 4, score_scale="head", init="gpt2")
    fitted = experiment.learn(
        small, [train], test, jax.random.key(0)[None], losses=experiment.label_losses(small, exact.labels), steps=1000, batch_size=16,
        peak=5e-3, points=5, looked_at=512, floor=(floors[:1], floors[1]),
    )  # fmt: skip
    loss = fitted.history[-1]["train"][0]
    plateaus.append({"name": f"{words} words", "entropy": exact.rate, "loss": loss, "low": None, "high": None})
    print(
        f"{words} words: training loss {loss:.3f}, held-out {fitted.history[-1]['validation'][0]:.3f}, entropy {exact.rate:.3f}"
    )
with plots.style():
    figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    draw.plateaus(plateaus, ax)

# %% [markdown]
# Each settles at the entropy of its source, one of them far below 1. Over five such sources and models of the paper's size the slope of the loss in the entropy
# is 1 within a hundredth, and the data needed to stay clear of overfitting grow much more slowly than $\sqrt N$:
# [docs/results.md](../docs/results.md), from `benchmarks/memory.py`. For a model of your own, `olm memory RUN` measures all of this on any run folder.
