"""olm finds the learning policy that makes a model learn fastest.

A policy gives example n the weight γ[n,t] at step t; one step is θ' = θ + u(Σ_n γ[n,t] ∇ℓ_n(θ)), u any optax optimiser.
The objective is the area under the loss on the data one cares about, J(γ) = (1/T) Σ_t L(θ_t); least area is the highest
compression ratio. `policy_gradient` differentiates J through the whole run, exactly and at the price of a few runs;
`find_policy` descends it. Reading order: objective, policy, learner, train, weighted, adjoint, search, law.
"""

from olm import adjoint, errors, learner, objective, policy, search, simplex, weighted
from olm.objective import acceleration_first, acceleration_ratio, area_under_loss, compression_ratio
from olm.search import Solution, find_policy
from olm.train import Curve, policy_gradient, train
from olm.types import Box, Free, Learner, Policy, Simplex, Task
from olm.weighted import weighted_gradient
