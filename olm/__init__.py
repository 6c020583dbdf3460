"""olm finds the learning policy that makes a model learn fastest.

A policy gives example n the weight γ[n,t] at step t; one step is θ' = θ + u(Σ_n γ[n,t] ∇ℓ_n(θ)), u any optax optimiser.
The objective is the area under the loss on the data one cares about, J(γ) = (1/T) Σ_t L(θ_t); least area is the highest
compression ratio. `policy_gradient` differentiates J through the whole run, exactly and at the price of a few runs;
`find_policy` descends it; `law` tests the Learning Law along a run; `scaling` fits scaling laws, and says by how much
a policy improves them. Reading order: objective, policy, learner, train, weighted, adjoint, search, law.

>>> import jax, optax
>>> from olm.tasks.perceptron import perceptron
>>> task = perceptron(jax.random.key(0), width=8, examples=64, targets=16, tests=64)
>>> solution = find_policy(task, Learner(optax.sgd(0.1)), steps=20, evaluations=3, target_draws=256, key=jax.random.key(1))
>>> solution.area_ratio < 1
True
"""

from olm import adjoint, baselines, errors, law, learner, objective, offload, policy, records, scaling, search, simplex, weighted
from olm.objective import acceleration_first, acceleration_least, acceleration_ratio, area_under_loss, compression_ratio
from olm.search import Solution, find_policy
from olm.train import Curve, policy_gradient, train
from olm.types import Box, Free, Learner, Policy, Simplex, Task, Time
from olm.weighted import weighted_gradient

__all__ = [
    "Box",
    "Curve",
    "Free",
    "Learner",
    "Policy",
    "Simplex",
    "Solution",
    "Task",
    "Time",
    "acceleration_first",
    "acceleration_least",
    "acceleration_ratio",
    "adjoint",
    "area_under_loss",
    "baselines",
    "compression_ratio",
    "errors",
    "find_policy",
    "law",
    "learner",
    "objective",
    "offload",
    "policy",
    "policy_gradient",
    "records",
    "scaling",
    "search",
    "simplex",
    "train",
    "weighted",
    "weighted_gradient",
]
