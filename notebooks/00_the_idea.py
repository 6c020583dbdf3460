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
# # The idea
#
# A model learns from examples. Which of them, how much, and when? A *learning policy* answers with a number: example $n$ has the
# weight $\gamma_{n,t}$ at training step $t$. With plain gradient descent one step is
#
# $$\theta_{t+1} = \theta_t - \eta \sum_n \gamma_{n,t}\, \nabla \ell_n(\theta_t), \qquad \gamma_{n,t} \ge 0,\quad \sum_n \gamma_{n,t} = 1 .$$
#
# Ordinary training is the policy $\gamma_{n,t} = 1/N$. A good policy makes the loss $L$ on the data one cares about fall early, so its
# learning curve has little area beneath it:
#
# $$\min_\gamma\; J(\gamma) = \frac1T \sum_{t=1}^{T} L(\theta_t) .$$
#
# Everything here is differentiable, $T$ training steps included. So we can find the policy as we find a model: by gradient descent.
# This notebook does that from end to end on the perceptron of *Towards Optimal Learning of Language Models*
# ([Gu et al. 2024](https://arxiv.org/abs/2402.17759)), made small enough for a minute on two cores.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import olm
from olm import plots
from olm.tasks.perceptron import perceptron

# %% [markdown]
# ## A task
#
# A teacher, a hyperplane through the origin, labels points. The student sees 512 of them, drawn from $N(0, 3I)$, but is judged on points
# from $N(\tfrac12 \mathbf 1, I)$. No label is wrong: an example is good or bad only by where it lies, for a student that is where
# it is.
#
# An `olm.Task` is that and no more: `init(key)`, `losses(params, batch)` with one loss an example, and three sets of examples. `train` is
# what a policy weighs, `target` a sample of what counts, and `test` is held out: it is reported, and nothing is ever chosen by it.

# %%
task = perceptron(jax.random.key(0), width=32, examples=512, targets=256, tests=4096)
learner = olm.Learner(optax.sgd(0.1))  # any optax optimiser; all examples at every step
steps, key = 500, jax.random.key(1)

print({name: jax.tree.map(jnp.shape, getattr(task, name)) for name in ("train", "target", "test")})

# %% [markdown]
# ## Ordinary training
#
# `olm.train` runs a policy and returns its learning curve: the loss at $\theta_0, \dots, \theta_T$. A policy is a set of pure functions
# beside parameters $\varphi$ that it reads. Here it is the largest there is: a table with a number for each step and example, where
# $\varphi$ *is* $\gamma$.

# %%
policy = olm.policy.table()
key_train, _ = jax.random.split(key)  # find_policy splits its key like this: for training, and for samples of the target
uniform = policy.init(steps, 512, 512)

curve = olm.train(task, learner, policy, uniform, steps=steps, key=key_train)
print(f"policy: {uniform.shape[0]} × {uniform.shape[1]} weights, all {uniform[0, 0]:.6f}")
print(f"held-out loss: {curve.test[0]:.4f} at first, {curve.test[-1]:.4f} after {steps} steps")
print(f"area under it: {olm.area_under_loss(curve.test):.4f} nats")

# %% [markdown]
# ## The gradient of a whole training run
#
# How does the area change when example $n$ weighs a little more at step $t$? The costate
# $\lambda_t$, the gradient of everything that is still to come with respect to $\theta_t$, tells. It runs backwards:
#
# $$\lambda_T = \tfrac1T \nabla L(\theta_T), \qquad
# \lambda_t = \lambda_{t+1} + \tfrac1T \nabla L(\theta_t) - \eta\, H_t \lambda_{t+1}, \qquad
# \frac{\partial J}{\partial \gamma_{n,t}} = -\eta\, \nabla \ell_n(\theta_t) \cdot \lambda_{t+1},$$
#
# with $H_t$ the Hessian of the weighted training loss ($\lambda_0$ needs no $\nabla L$, as $\theta_0$ is not in the area). One forward-mode
# derivative along $\lambda_{t+1}$ yields all $N$ inner products and the Hessian product at once, so this costs as much as a few training
# runs, whatever the number of weights. And it is exact. In float64 we may hold it against a finite difference along a random direction:

# %%
with jax.enable_x64(True):
    small = perceptron(jax.random.key(0), width=8, examples=32, targets=16, tests=16)
    start = policy.init(50, 32, 32)
    value, gradient = olm.policy_gradient(small, learner, policy, start, steps=50, key=key_train)

    def area(phi):
        return olm.area_under_loss(olm.train(small, learner, policy, phi, steps=50, key=key_train).target)

    direction = jax.random.normal(jax.random.key(2), start.shape)
    step = 1e-5
    difference = float(area(start + step * direction) - area(start - step * direction)) / (2 * step)
    exact = float(jnp.vdot(gradient, direction))
    error = abs(exact / difference - 1)
    print(f"{gradient.size} weights; along the direction: exact {exact:.8f}, by difference {difference:.8f}")
assert error < 1e-6

# %% [markdown]
# ## The search
#
# `olm.find_policy` goes down that gradient. Its rows stay on the simplex by mirror descent ($\gamma_t$ is a softmax of accumulated scores),
# it finds its own step size, and takes a step back when one went too far. One *evaluation* is one training run with its gradient.
#
# A table of a quarter of a million weights could learn a few hundred target examples by heart. So every evaluation draws new ones
# (this task can), and one more draw, which no gradient sees, decides which policy is returned.

# %%
solution = olm.find_policy(task, learner, steps=steps, key=key, evaluations=40, target_draws=2048)
solution

# %%
print(f"acceleration      {solution.acceleration:.2f}×")
print(f"area ratio        {solution.area_ratio:.3f}")
print(f"final-loss ratio  {solution.final_ratio:.3f}")
print(f"step-length ratio {solution.step_length_ratio:.2f}")

# %% [markdown]
# The curves are those of the held-out examples. The acceleration is $T / t^*$, where $t^*$ is the step (the dot) from which the found curve stays
# at or below the baseline's last loss.
#
# ## Is it only longer steps?
#
# The step-length ratio should make one suspicious: the found policy moves further at each step than uniform weights do. A larger learning
# rate does that too, and needs no search. So the claim that counts lets both sides choose: uniform weights at the learning rate where *their*
# area is least, and the policy likewise, on a grid of factors of two and by validation examples. A policy may be replayed at another
# rate than it was found at.

# %%
grid = olm.search.best_rates(
    task, lambda rate: olm.Learner(optax.sgd(rate)), learning_rate=0.1, steps=steps, key=key,
    searches=3, evaluations=20, target_draws=2048,
)  # fmt: skip
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    plots.learning_rate_grid(grid.rows, axes[0])
    plots.loss_curves(grid.baseline.test, grid.found.test, axes[1], label="held-out loss")
print(f"best learning rate: uniform {grid.learning_rates['uniform']:g}, found {grid.learning_rates['found']:g}")
print(f"area ratio {grid.claim['area_ratio']:.3f}, final-loss ratio {grid.claim['final_ratio']:.3f}")

# %% [markdown]
# Both sides want steps a hundred times longer than 0.1, and the policy is ahead there too. At such rates the baseline is near its last loss
# after a few steps, so that the acceleration says little and the ratio of the areas is the number to read. The area was asked for, not
# the last loss, and so the found curve may rise late (`objective=olm.objective.final()` asks for the other).
#
# ## What the policy does
#
# Back at $\eta = 0.1$: which examples does it choose, and when? Left: orange is more than $1/N$, blue less. Right: each curve is one step;
# where it meets the left edge is the share of the examples that weigh next to nothing. The policy begins with a few examples, adds more,
# and ends where it began its search: what the last steps do hardly shows in the area.

# %%
found = np.asarray(solution.phi)
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    plots.weights_heatmap(found, axes[0])
    plots.weights_distribution(found, ax=axes[1])

# %% [markdown]
# ## The Learning Law
#
# A step along example $n$ lowers the loss that counts at the rate of its *contribution* $\nabla L(\theta_t) \cdot \nabla \ell_n(\theta_t)$. The
# law of Gu et al. says that under an optimal policy all examples with weight contribute the same,
#
# $$\nabla L \cdot \nabla \ell_n = -\frac{dL}{dt} \quad\text{wherever } \gamma_{n,t} > 0 ,$$
#
# or else it would pay to shift weight from one to another. Their measure of it is the similarity $\mathrm{SIM}_t$: the weighted mean of
# the contributions over their spread.
#
# The law holds for infinitely small steps. The optimum of the run that we have obeys the same with all that is to come in place of the
# present: $\lambda_{t+1} \cdot \nabla \ell_n$ is the same for all examples with weight, and no greater for the rest. How far from it are
# we? The gap $\sum_n \gamma_{n,t} \left(G_{n,t} - \min_m G_{m,t}\right)$, $G = \partial J / \partial \gamma$, is zero at an optimum.
#
# Both need all of $\theta_0, \dots, \theta_T$, so here is the training loop itself: `olm.weighted_gradient` in a scan.

# %%
gradient_of = olm.weighted_gradient(task.losses)
theta_0 = task.init(jax.random.split(key_train)[0])  # olm.train splits its key too: the start, and the order of mini-batches
judged = task.draw(jax.random.key(3), 8192)  # target examples that no search has seen


@jax.jit
def run(weights_TxN):
    """θ_T and the contributions at every step [T, N]."""

    def step(theta, weights):
        contributions = olm.law.contributions(task, theta, task.train, judged)
        change = gradient_of(theta, weights, task.train)
        return jax.tree.map(lambda p, g: p - 0.1 * g, theta, change), contributions

    return jax.lax.scan(step, theta_0, weights_TxN)


similarity, gap, policy_gradients = {}, {}, {}
for name, weights in {"uniform": uniform, "found": solution.phi}.items():
    theta, contributions = run(weights)
    similarity[name] = olm.law.similarity(contributions, weights)
    _, gradient = olm.policy_gradient(task._replace(target=judged), learner, policy, weights, steps=steps, key=key_train)
    gap[name] = olm.law.stationarity(gradient, weights)
    policy_gradients[name] = gradient
    against = jnp.sum(weights * (gradient > 0), axis=1).mean()
    print(
        f"{name:8} SIM {jnp.nanmean(similarity[name]):.3f}, gap {gap[name].sum():.3f} nats, "
        f"weight on examples that do harm in the long run {against:.1%}"
    )
np.testing.assert_allclose(theta["w"], solution.curve.params["w"], rtol=1e-2, atol=1e-4)  # the loop above is olm.train's

# %%
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for name, look in {"uniform": {"color": "black", "linestyle": "--"}, "found": {"color": "tab:blue"}}.items():
        axes[0].plot(similarity[name], label=name, **look)
        axes[1].semilogy(gap[name], label=name, **look)
    axes[0].set(xlabel="training step", ylabel="SIM", title="contributions become alike")
    axes[1].set(ylim=(1e-6, 1e-2), xlabel="training step", ylabel="gap (nats)", title="the distance from an optimum shrinks")
    axes[0].legend()

# %% [markdown]
# Example by example at one step: to the right are those that help the rest of the run most. With uniform weights they weigh as much as
# those that do harm; the policy has drawn its weight together where they are.

# %%
at = 100
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", sharey=True)
    for ax, (name, weights) in zip(axes, {"uniform": uniform, "found": solution.phi}.items(), strict=True):
        plots.contributions(-policy_gradients[name][at], weights[at], ax)
        ax.set(xlabel="fall of the area for more weight, −∂J/∂γ (nats)", title=f"{name}, step {at}")

# %% [markdown]
# ## Where to go from here
#
# - [Differentiate training](01_differentiate_training.ipynb): the same in code that is not olm's, with models of any library.
# - `olm search perceptron` and `olm search language` do all this from the command line, `--preset paper` at the paper's sizes, and write a report.
# - Few target examples and no way to draw more: `find_policy(..., target_draws=0)` keeps a part of them back, and returns uniform weights
#   unless the policy beats them on that part by more than chance.
