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
# Linear regression with a power-law spectrum: $x_i \sim \mathcal N(0, i^{-a})$, $y = \sum_i x_i + \varepsilon$. A model of size $N$ sees the first
# $N$ coordinates, so that it cannot get below $\tfrac12\sum_{i>N} i^{-a} \sim N^{-(a-1)}$. Gradient descent at rate $\eta$ has learned coordinate $i$ when
# $\eta\, i^{-a} t \gg 1$, which leaves $t^{-(a-1)/a}$ after $t$ steps. With $a = 1.5$: $\alpha = 0.5$, $\beta = 1/3$, and $E = \tfrac12\sigma^2$ is the noise. The
# runs are real: one pass over the data, measured on held-out examples.

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
    rows += [(size, step * BATCH, value) for step, value in zip(at, values, strict=True) if step >= 4]
N, D, loss = np.array(rows).T
print(f"{len(rows)} rows, {len(SIZES)} sizes; losses from {loss.max():.3f} to {loss.min():.3f}, E = {NOISE**2 / 2}")

# %% [markdown]
# ## Approach 3
#
# Minimised is $\sum_i \mathrm{Huber}_\delta(\ln \hat L_i - \ln L_i)$, $\delta = 10^{-3}$, from the published grid of 4,500 starts, all at once. The
# fit says how it went: how many starts converged, how many share the best optimum, and which parameters ended on a bound.

# %%
found = scaling.fit(N, D, loss, law="chinchilla")
print(found)
