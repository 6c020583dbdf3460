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
# # Scaling laws
#
# A scaling law says how a loss falls with model size $N$, data $D$ or steps $t$. Two questions are asked of one here: what its coefficients
# are, with intervals one can believe, and by how much a learning policy improves them. The first is asked of a problem whose exponents
# are known, so that the answer can be checked.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import olm
from olm import scaling
from olm.scaling import steps as step_law
from olm.tasks.perceptron import perceptron

# %% [markdown]
# ## A table of runs
#
# Linear regression with a power-law spectrum: $x_i \sim \mathcal N(0, i^{-a})$, $i \le 512$, $y = \sum_i x_i + \varepsilon$. A model of size $N$ sees the
# first $N$ coordinates and cannot get below $\tfrac12\sigma^2 + \tfrac12\sum_{i>N} i^{-a}$, so that $\alpha = a - 1$. Gradient descent at rate $\eta$ has
# learned coordinate $i$ when $\eta\, i^{-a} t \gg 1$, which leaves $t^{-(a-1)/a}$ after $t$ steps: $\beta = (a-1)/a$ as long as the size is no limit. With
# $a = 1.5$: $\alpha = 1/2$, $\beta = 1/3$. The runs are real: one pass over the data, measured on held-out examples.

# %%
DIMENSIONS, BATCH, STEPS, A, NOISE = 512, 32, 1500, 1.5, 0.5
SIZES = [2, 4, 8, 16, 32, 64]


def sample(key, n):
    inputs, noise = jax.random.split(key)
    x = jax.random.normal(inputs, (n, DIMENSIONS)) * jnp.arange(1, DIMENSIONS + 1) ** (-A / 2)
    return {"x": x, "y": x.sum(1) + NOISE * jax.random.normal(noise, (n,))}


def losses(w, batch):
    return 0.5 * (batch["y"] - batch["x"][:, : w.size] @ w) ** 2


keys = jax.random.split(jax.random.key(0), 3)
train, target, test = sample(keys[0], BATCH * STEPS), sample(keys[1], 8), sample(keys[2], 8192)
learner = olm.Learner(optax.sgd(0.5), batch_size=BATCH)
rows, curves = [], {}
for size in SIZES:
    task = olm.Task(lambda key, size=size: jnp.zeros(size), losses, train, target, test)
    curve = olm.train(task, learner, olm.policy.uniform(), (), steps=STEPS, key=jax.random.key(1))
    curves[size] = np.asarray(curve.test, np.float64)
    at, values = step_law.thinned(np.arange(STEPS + 1), curves[size], 16)
    rows += [(size, step * BATCH, value) for step, value in zip(at, values, strict=True)]
N, D, loss = np.array(rows).T
lacking = 0.5 * np.sum(np.arange(DIMENSIONS + 1, 10**6) ** -A)  # what a spectrum without end would add to every loss
print(f"{len(rows)} rows, {len(SIZES)} sizes; losses from {loss.max():.3f} to {loss.min():.3f}")
print(f"E = {NOISE**2 / 2 - lacking:.3f}: the noise, less the tail of the spectrum that 512 coordinates lack")

# %% [markdown]
# ## Approach 3, and which rows it is given
#
# Minimised is $\sum_i \mathrm{Huber}_\delta(\ln \hat L_i - \ln L_i)$, $\delta = 10^{-3}$, from the published grid of 4,500 starts, all at once. The
# fit says how it went: how many starts converged, how many share the best optimum, and which parameters ended on a bound.
#
# `check_units=False` says that a model of 64 parameters is meant; else such an $N$ is refused as one in billions.

# %%
found = scaling.fit(N, D, loss, law="chinchilla", check_units=False)
print(found)

# %% [markdown]
# $\alpha$ is too high and $\beta$ twice what it should be, with intervals that exclude the truth. Nothing is wrong with the minimiser: the law is.
# It adds a term of $N$ and a term of $D$; here a small model is limited by its size early, and more data then change nothing. The rows
# decide what comes out, which is why a fit should be repeated on parts of the table before anyone quotes it:

# %%
noise = {"E": NOISE**2 / 2 - lacking}
for name, kept, fixed in (
    ("all rows", D > 0, {}),
    ("first 30 steps left out", D >= 30 * BATCH, {}),
    ("first 100 steps left out", D >= 100 * BATCH, {}),
    ("last point of each run", D == D.max(), {"B": 1e-6, "beta": 1.0}),
    ("last points, E known", D == D.max(), {"B": 1e-6, "beta": 1.0, **noise}),
    ("largest size, steps 3 to 100", (N == N.max()) & (D >= 3 * BATCH) & (D <= 100 * BATCH), {"A": 1e-6, "alpha": 1.0}),
):
    part = scaling.fit(N[kept], D[kept], loss[kept], law="chinchilla", fixed=fixed, check_units=False)
    values, limits = part.parameters, part.intervals
    shown = [f"{x} {values[x]:.3f} [{limits[x][0]:.3f}, {limits[x][1]:.3f}]" for x in ("alpha", "beta", "E") if x not in fixed]
    print(f"{name:28} {kept.sum():3} rows  {'  '.join(shown)}")
