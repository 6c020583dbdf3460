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
# # Differentiate training
#
# You have a model, a loss and a training loop in JAX. None of them knows of `olm`, and none has to: this notebook takes such code as it is,
# and learns from it what every training example is worth. The tool is the derivative of a whole training run,
#
# $$\frac{\partial}{\partial \varphi}\, F\big(\theta_T(\varphi)\big), \qquad
# \theta_{t+1} = \theta_t + u\Big(\sum_n \gamma_n(\varphi)\, \nabla \ell_n(\theta_t)\Big),$$
#
# exact, for any optimiser $u$ of optax, at the cost of a few runs.

# %%
import importlib.util

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

# %% [markdown]
# ## Someone's code
#
# Two moons, 600 points, labelled by three people. One is careful, one is careless, and one mostly says the opposite. Who labelled what is
# known; who is careful is not. Beside them there are 128 points with labels that were checked.

# %%
rng = np.random.default_rng(0)
mistakes = np.array([0.05, 0.4, 0.8])  # of the three people


def moons(n):
    side, angle = rng.integers(0, 2, n), rng.uniform(0, np.pi, n)
    arc = np.stack([np.cos(angle) + side - 0.5, (1 - 2 * side) * (np.sin(angle) - 0.25)], axis=1)
    x = arc + rng.normal(0, 0.2, (n, 2))
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(side, jnp.float32)}


clean, checked, test = moons(600), moons(128), moons(2000)
person = rng.integers(0, 3, 600)
wrong = rng.random(600) < mistakes[person]
train = {"x": clean["x"], "y": jnp.where(wrong, 1 - clean["y"], clean["y"])}
print(f"{wrong.mean():.0%} of the labels are wrong")

# %% [markdown]
# A small network, and a loop that anyone could have written:


# %%
def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(first, (2, 32)), "b": jnp.zeros(32)},
        "out": {"w": jax.random.normal(second, (32,)) / 6, "b": jnp.zeros(())},
    }


def logits(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def losses(params, batch):
    return optax.sigmoid_binary_cross_entropy(logits(params, batch["x"]), batch["y"])


optimiser = optax.adam(1e-2, eps_root=1e-8)


@jax.jit
def step(params, state, weights):
    gradient = jax.grad(lambda p: jnp.sum(weights * losses(p, train)))(params)
    updates, state = optimiser.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def fit(params, weights, steps=200):
    state = optimiser.init(params)
    for _ in range(steps):
        params, state = step(params, state, weights)
    return params


def accuracy(params, logits=logits):
    return float(jnp.mean((logits(params, test["x"]) > 0) == (test["y"] > 0.5)))


plain = fit(init(jax.random.key(0)), weights=jnp.full(600, 1 / 600))
print(f"accuracy on clean test points: {accuracy(plain):.1%}")

# %% [markdown]
# `eps_root` is the one thing here that training alone does not need. With 0 the derivative of Adam's update is infinite where a gradient
# entry is zero, and every policy gradient is NaN.
#
# ## A weight for every example
#
# Three lines. A `Task` names the pieces: how to start, a loss for each example, the examples to weigh, and those to be good at. `static` is the
# policy class with one weight an example, the same at all steps. Of the 128 checked points a quarter is kept back, out of every gradient, to decide
# whether what was found is better than uniform weights by more than chance.

# %%
import olm
from olm import plots

task = olm.Task(init, losses, train=train, target=checked, test=test)
learner, static = olm.Learner(optimiser), olm.policy.static()
solution = olm.find_policy(task, learner, steps=200, policy=static, evaluations=20, key=jax.random.key(1))
solution

# %% [markdown]
# The search was told nothing of people or mistakes. What do the weights say about them?

# %%
weights = np.asarray(solution.phi)
for name, who in zip(("careful", "careless", "contrary"), range(3), strict=True):
    mine = person == who
    print(
        f"{name:9} {wrong[mine].mean():4.0%} wrong; {weights[mine].sum():4.0%} of the weight, "
        f"{weights[mine & wrong].sum() / weights[mine].sum():3.0%} of that on wrong labels"
    )
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    bins = np.geomspace(5e-5, 20, 50)
    for label, colour, these in (("right", "tab:blue", ~wrong), ("wrong", "tab:orange", wrong)):
        axes[0].hist(np.maximum(600 * weights[these], 1e-4), bins, color=colour, alpha=0.6, label=f"{label} label")
        axes[1].scatter(*np.asarray(clean["x"])[these].T, s=600 * 8 * weights[these], color=colour, alpha=0.6, linewidths=0)
    axes[1].scatter(*np.asarray(clean["x"])[wrong].T, s=8, color="tab:orange", marker="x", linewidths=0.6, zorder=0)
    axes[0].set(xscale="log", xlabel="weight relative to uniform, N·γ (at least 1/10000)", ylabel="examples")
    axes[0].legend()
    axes[1].set(title="size: weight; crosses: wrong labels", xticks=[], yticks=[])

# %% [markdown]
# ## Back in the loop
#
# The weights belong to whoever wants them. Here they go into the loop from above, at starts that the search never saw:

# %%
for seed in range(3):
    start = init(jax.random.key(100 + seed))
    uniform, learned = (accuracy(fit(start, w)) for w in (jnp.full(600, 1 / 600), solution.phi))
    print(f"start {seed}: accuracy {uniform:.1%} with uniform weights, {learned:.1%} with learned ones")

# %% [markdown]
# ## A policy of one's own
#
# Six hundred weights from 96 checked points work here because the mistakes are gross. With few checked points it is safer to learn less: one
# number a person. A `Policy` is a NamedTuple of functions; this one gives each person's examples a weight and lets a softmax share it out.

# %%
person_of = jnp.asarray(person)


def weights_of(phi, t, index, features):
    return jax.nn.softmax(phi[person_of[index]])


people = olm.Policy(
    name="people",
    init=lambda steps, n_examples, batch: jnp.zeros(3),
    weights=weights_of,
    stepwise=False,  # the same numbers at every step
    feasible=olm.Free(),  # any numbers will do
)
shared = olm.find_policy(task, learner, steps=200, policy=people, evaluations=20, key=jax.random.key(1))
found = weights_of(shared.phi, None, jnp.arange(600), None)
print("shares of the weight:", [f"{found[person == who].sum():.0%}" for who in range(3)])
print(f"held-out area ratio {shared.area_ratio:.3f}, accuracy {accuracy(shared.curve.params):.1%}")

# %% [markdown]
# ## An objective of one's own
#
# `find_policy` is a loop around something that can be had alone: `olm.train` is an ordinary function of $\varphi$ that `jax.grad` differentiates
# and `jax.jit` compiles. The parameters after the last step are differentiable too. So any function of the curve and of $\theta_T$ will do
# as an objective, and any loop as a search. Here: the last loss on the checked points, with a price on trusting people unequally.


# %%
@jax.jit
@jax.value_and_grad
def objective(phi):
    curve = olm.train(task, learner, people, phi, steps=200, key=jax.random.key(1))
    return curve.target[-1] + 0.01 * jnp.sum(phi**2)


outer = optax.adam(0.3)
phi = jnp.zeros(3)
state = outer.init(phi)
for number in range(31):
    value, gradient = objective(phi)
    if number % 10 == 0:
        print(f"{number:2} objective {value:.4f}, φ = {np.array2string(np.asarray(phi), precision=2, suppress_small=True)}")
    updates, state = outer.update(gradient, state)
    phi = optax.apply_updates(phi, updates)

# %% [markdown]
# Memory: a run of $T$ steps keeps about $2\sqrt T$ states of the model and its optimiser (`adjoint=olm.adjoint.segmented()`), all of them
# (`olm.adjoint.direct()`, the fastest), or one stretch of them on the device and the rest on the host (`olm.offload.offloaded()`). All give the same gradient.
#
# ## Models of any library
#
# A `Task` asks for two functions, `init(key) -> params` and `losses(params, batch) -> [B]`. Parameters may be any tree of arrays, so a model of any
# library is two lines away. The same network in flax linen, flax nnx and equinox:

# %%
from flax import linen, nnx


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(jnp.tanh(linen.Dense(32)(x)))[..., 0]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(2, 32, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))[..., 0]


# each entry: init(key) -> params, and logits(params, x)
network = Linen()
structure = nnx.graphdef(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))))
models = {
    "flax linen": (lambda key: network.init(key, train["x"]), network.apply),
    "flax nnx": (lambda key: nnx.state(Nnx(nnx.Rngs(key))), lambda params, x: nnx.merge(structure, params)(x)),
}

if importlib.util.find_spec("equinox"):
    import equinox as eqx

    def perceptron(key):
        return eqx.nn.MLP(2, "scalar", 32, depth=1, activation=jnp.tanh, key=key)

    _, static_part = eqx.partition(perceptron(jax.random.key(0)), eqx.is_inexact_array)
    models["equinox"] = (
        lambda key: eqx.filter(perceptron(key), eqx.is_inexact_array),
        lambda params, x: jax.vmap(eqx.combine(params, static_part))(x),
    )


def task_of(init, logits):
    def losses(params, batch):
        return optax.sigmoid_binary_cross_entropy(logits(params, batch["x"]), batch["y"])

    return olm.Task(init, losses, train, checked, test)


accuracies_of = {}
for name, (start, forward) in models.items():
    there = olm.find_policy(task_of(start, forward), learner, steps=200, policy=static, evaluations=10, key=jax.random.key(1))
    accuracies_of[name] = before, after = [accuracy(curve.params, forward) for curve in (there.baseline, there.curve)]
    print(f"{name:10} area ratio {there.area_ratio:.3f}, accuracy {before:.1%} → {after:.1%}")

# %% [markdown]
# ## One step, in your own loop
#
# If the loop is to stay yours to the last line, take `olm.weighted_gradient`. It is the gradient of the weighted loss, and reverse mode through it
# knows the cheap way: one forward-mode pass yields the derivative for all weights and for the parameters. No gradient of a single example is ever
# held in memory.

# %%
gradient_of = olm.weighted_gradient(losses)


@jax.jit
@jax.grad
def by_hand(weights):
    def step(params, _):
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient_of(params, weights, train)), None

    params, _ = jax.lax.scan(step, init(jax.random.key(0)), length=50)
    return jnp.mean(losses(params, checked))


slope = by_hand(jnp.full(600, 1 / 600))
harm = [np.mean(slope[these] > 0) for these in (wrong, ~wrong)]
print(f"a little more weight raises the loss for {harm[0]:.0%} of the wrong labels, {harm[1]:.0%} of the right ones")
