# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The Learning Law, measured
#
# *Under an optimal learning policy every example that has weight contributes equally to the fall of the loss that counts.* That is the
# Learning Law of [Gu et al. 2024](https://arxiv.org/abs/2402.17759), Theorem 3.1:
#
# $$\mathrm{CT}_{n,t} = \nabla L(\theta_t) \cdot \nabla \ell_n(\theta_t) = -\frac{dL}{dt} \quad \text{wherever } \gamma_{n,t} > 0 .$$
#
# It is a necessary condition, derived for infinitely small steps. This notebook looks for it along real training runs: how alike do contributions
# become, which examples lose their weight, and how much of that is left on data that no search has seen? `olm.law.study` measures all of it
# in one sweep forward and backward; [The idea](00_the_idea.ipynb) shows the same quantities written out.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import olm
from olm import law, plots
from olm.plots import law as law_plots
from olm.tasks.perceptron import perceptron

task = perceptron(jax.random.key(0), width=32, examples=512, targets=256, tests=4096)
learner = olm.Learner(optax.sgd(0.1))
steps, key = 500, jax.random.key(1)
key_train, _ = jax.random.split(key)  # find_policy splits its key like this: for training, and for samples of the target
run = {"steps": steps, "key": key_train, "adjoint": olm.adjoint.direct(), "keep": 256, "every": 1}

# %% [markdown]
# ## A path to a good policy
#
# The law speaks of the optimum; a search passes through policies on its way there. A search of 4 evaluations returns the best of the
# first four that a longer one with the same key would see, or the step after them, so searches of growing length are points of one path. As in the paper, they
# descend the loss of a fixed target sample.

# %%
counts = [1, 2, 4, 8, 16, 32, 64]
studies = [law.study(task, learner, olm.policy.uniform(), (), **run)]
for count in counts:
    solution = olm.find_policy(task, learner, steps=steps, key=key, evaluations=count, target_draws=0, validation_fraction=0)
    studies.append(law.study(task, learner, solution.policy, solution.phi, **run))
uniform, found = studies[0], studies[-1]
solution

# %% [markdown]
# ## Do contributions become alike?
#
# $\mathrm{SIM}_t$ is the weighted mean of the contributions over their spread among the examples that have weight. It is infinite where the
# law holds to the letter. Left: $\mathrm{SIM}_t$ against the loss at the same step (training runs from left to right), one line a policy.
# Right: its mean over the run, against the compression ratio $\mathrm{CR} = \log|V| / J$. The paper fits
# $\mathrm{SIM} = c \log(a / (b - \mathrm{CR}))$, which grows without bound towards the best compression $b$.

# %%
rows = {name: law.trend(studies, name) for name in ("target", "test")}
ratios, similar = ([row[column] for row in rows["target"]] for column in ("compression_ratio", "similarity"))
fit = law.fit_similarity(ratios, similar)
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    law_plots.similarity_against_loss(
        [s.curves["target"][:-1] for s in studies], [s.similarity() for s in studies], ratios, axes[0]
    )
    law_plots.similarity_trend(ratios, similar, axes[1], fit=(fit.a, fit.b, fit.c))
for count, target, test in zip([0, *counts], rows["target"], rows["test"], strict=True):
    print(
        f"{count:3} evaluations: CR {target['compression_ratio']:.2f} on target, {test['compression_ratio']:.2f} held out; "
        f"mean SIM {target['similarity']:.3f}, {test['similarity']:.3f}; gap {target['gap']:.1e} nats"
    )
print("the fit went to the end of its range: these points have no asymptote" if fit.at_bound else f"asymptote at CR {fit.b:.2f}")

# %% [markdown]
# On the target sample, which the search descends, contributions at one and the same loss become more alike the further the search has come
# (left), as in the paper's Figure 6. Their mean over a run more than doubles within eight evaluations and then stays: similarity falls
# along every run, and a better policy spends more of its steps at low losses. So the paper's curve, which grows without bound, does not fit
# this path. And against the gradient on held-out examples contributions become *less* alike, although the held-out curve is much
# better too: equal contributions are a property of the sample that was optimised. (Steps where a single example has all the weight have no
# similarity and are left out of the means.)
#
# ## The exact condition
#
# What the optimum of this very run equalises is not $\nabla L \cdot \nabla \ell_n$, which looks at the next step only, but
# $-\partial J / \partial \gamma_{n,t}$, which looks at all that is to come. These do become alike, from where more than one example has
# weight (about step 15) to nearly the last step. The gap
# $\sum_n \gamma_{n,t} (G_{n,t} - \min_m G_{m,t})$ with $G = \partial J / \partial \gamma$ is zero at an optimum, and how far it has fallen
# says how far a search has come.

# %%
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    pair = {"uniform": uniform, "found": found}
    looks = {"uniform": {"color": "black", "linestyle": "--"}, "found": {"color": "tab:blue", "linestyle": "-"}}
    law_plots.over_steps(uniform.at, {n: s.similarity("costate") for n, s in pair.items()}, axes[0], looks=looks)
    law_plots.over_steps(
        uniform.at, {n: s.seen["gap"] for n, s in pair.items()}, axes[1], log_y=True, ylabel="gap (nats)", looks=looks
    )
    axes[0].set_title("similarity of −∂J/∂γ", loc="left")
    axes[1].set_title("distance from an optimum", loc="left")

# %% [markdown]
# ## Which examples are dropped?
#
# Three properties follow from the law (sections 4.1 to 4.3 of the paper). An example that would *raise* the target loss, $\mathrm{CT} \le 0$, should weigh nothing;
# so should one that is perfectly learned; and of linearly dependent ones, at least one. A fraction alone says little: if
# nine of ten weights are zero, so will be most of the harmful ones'. So the share of *all* weights stands beside each. And mirror
# descent makes no exact zeros, so "zero" needs a threshold.

# %%
properties = {"uniform": uniform.properties(), "found": found.properties()}
for place, threshold in enumerate(properties["found"]["thresholds"]):
    noisy = {name: properties["found"]["noisy"][name]["zero"][place] for name in found.names}
    print(
        f"weight ≤ {threshold:5g}/N: {properties['found']['zero'][place]:6.1%} of all weights; of those of examples harmful "
        f"to the target now {noisy['target']:6.1%}, to held-out data {noisy['test']:6.1%}, in the long run {noisy['costate']:6.1%}"
    )
for name, part in properties.items():
    weight = {which: part["noisy"][which]["weight"] for which in ("target", "costate")}
    print(f"{name:8} weight on examples that do harm: {weight['target']:.1%} now, {weight['costate']:.1%} in the long run")

with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    lines = {
        f"{z:g} of 1/N": ([row[f"harmful_zero@{z:g}"] for row in rows["target"]], [row[f"zero@{z:g}"] for row in rows["target"]])
        for z in (0.001, 0.01, 0.1)
    }
    law_plots.dropped_examples(ratios, lines, axes[0])
    kept = found.seen["kept"]
    law_plots.learned_weights(kept["weights"], kept["losses"], axes[1], limit=1e-4, largest=found.seen["largest"])

# %% [markdown]
# Left: along the path, more and more of the harmful examples weigh nothing, as the paper reports. But so do as many of *all* examples (thin
# lines): at the level of single steps the found policy concentrates its weight without much regard to the sign of
# $\nabla L \cdot \nabla \ell_n$. It is the sign in the long run, that of $\partial J / \partial \gamma$, that it obeys: next to nothing of its weight is on examples
# that harm there. Right: the weights of learned examples, here those up to $10^{-4}$ nats. Nearly all of them are small, and so are nine
# tenths of all weights.
#
# Redundant examples are many here: 512 inputs of length 32 are linearly dependent. Below are the weights of the examples that *would* help at
# a step, left with mirror descent, right with projected gradient, which makes exact zeros. Blue ones would help, and weigh nothing.

# %%
projected = olm.find_policy(
    task, learner, steps=steps, key=key, evaluations=64, target_draws=0, validation_fraction=0,
    method=olm.search.projected_gradient(rate=0.1),
)  # fmt: skip
sparse = law.study(task, learner, projected.policy, projected.phi, **run)
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    for ax, (name, one) in zip(axes, {"mirror descent": found, "projected gradient": sparse}.items(), strict=True):
        part = one.seen["kept"]
        law_plots.redundant_weights(part["weights"], part["target"], ax, steps=one.at, n_examples=512)
        ax.set_title(name, loc="left")
exact = sparse.properties()
print(
    f"projected gradient: {exact['zero'][0]:.1%} of all weights are exactly 0, {exact['noisy']['target']['zero'][0]:.1%} of the harmful ones"
)
print(f"area ratio: mirror descent {solution.area_ratio:.3f}, projected gradient {projected.area_ratio:.3f} (held out)")

# %% [markdown]
# Projected gradient, the paper's method, does look at the sign: it drops 23% of the harmful examples and 5% of all. Its policy is the weaker
# one all the same, after as many evaluations.

# %% [markdown]
# ## Corrupted examples
#
# Where examples are known to be spoiled one can ask what becomes of them. `group` tells the study who they are; here a third of the
# labels are wrong. Dashed: what uniform weights do.

# %%
wrong = jax.random.bernoulli(jax.random.key(5), 1 / 3, (512,))
labels = task.train["y"]
spoiled = task._replace(train={**task.train, "y": jax.numpy.where(wrong, 1 - labels, labels)})
cleaned = olm.find_policy(spoiled, learner, steps=steps, key=key, evaluations=40, target_draws=2048)
groups = {
    name: law.study(spoiled, learner, policy, phi, group=wrong, **run).groups()
    for name, (policy, phi) in {"uniform": (olm.policy.uniform(), ()), "found": (cleaned.policy, cleaned.phi)}.items()
}
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    for ax, (column, label) in zip(
        axes, {"weight": "weight relative to uniform", "test": "mean contribution, held out"}.items(), strict=True
    ):
        law_plots.by_group(found.at, groups["found"][column], ax, baseline_Sx2=groups["uniform"][column], ylabel=label)
share = np.asarray(groups["found"]["weight"]).mean(axis=0)
print(f"mean weight relative to uniform: {share[0]:.2f} clean, {share[1]:.2f} corrupted")

# %% [markdown]
# ## Where to go from here
#
# - `olm law RUN` does this for the folder of any search, and leaves the tables (`law.npz`), the numbers (`law.json`) and the figures there.
# - `benchmarks/law.py` measures it at the paper's size, over seeds, on target and held-out data.
# - A clipped update does not depend on the gradient's length, so the weighted mean of $\partial J / \partial \gamma$ is zero at such a
#   step, and with it the similarity of those contributions. Read the gap there.
