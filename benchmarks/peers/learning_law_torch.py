"""The published search of a learning policy, written anew in PyTorch: the peer that olm is timed against.

Algorithm: Gu et al., "Towards Optimal Learning of Language Models" (arXiv 2402.17759), section 4.1 and appendix C, on the
perceptron of section 4.2, by the authors' means: every state of a run is stored; per-example gradients come from ``vmap(grad)``,
are held in memory and multiplied with the costate; Hessian products are forward over reverse, ``jvp(grad)``; the weights take a
plain gradient step and each training step's row is projected on the simplex by a quadratic programme (`simplex_qp`), or exactly
by `project_sort`. The objective is olm's, J = mean of the target loss over θ_1 ... θ_T, so that the gradients can be compared.

Not done: sharding over devices, the transformer, gradient clipping.

``python benchmarks/peers/learning_law_torch.py --check`` compares the costate gradient with autograd through the whole loop in
float64; without the flag it prints the seconds of 100 steps forward and backward for each number of threads and batching.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import NamedTuple

import numpy as np

try:
    import torch
    from torch.func import grad, jvp, vmap
    from torch.nn.functional import softplus
except ModuleNotFoundError:
    sys.exit("the PyTorch peer is not installed: run `make peer` first")


class Setting(NamedTuple):
    """Data and start of a run: params [D], inputs [N, D], labels [N], target inputs [K, D], target labels [K], learning rate."""

    start: torch.Tensor
    inputs: torch.Tensor
    labels: torch.Tensor
    target_inputs: torch.Tensor
    target_labels: torch.Tensor
    rate: float = 0.1


class Batching(NamedTuple):
    """Examples processed at once: training loss, target loss, per-example gradients. None: all of them."""

    train: int | None = None
    target: int | None = None
    gradients: int | None = None


PUBLISHED = Batching(512, 64, 512)  # the authors' script
WHOLE = Batching()
CANDIDATES = tuple((threads, batching) for threads in (1, 2) for batching in (PUBLISHED, Batching(2048, None, 2048), WHOLE))


def example_loss(params: torch.Tensor, inputs: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of one example [D], or of each of a batch [B, D]; faster to differentiate twice than torch's own."""
    logits = inputs @ params
    return softplus(logits) - label * logits


def weighted_loss(params: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over a batch of weight times loss."""
    return torch.dot(weights, example_loss(params, inputs, labels))


def mean_loss(params: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss of a batch."""
    return example_loss(params, inputs, labels).mean()


def forward(setting: Setting, weights: torch.Tensor, batching: Batching = WHOLE) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Gradient descent with weights [T, N]; returns the states θ_0 ... θ_T and the target losses [T+1]."""
    train_batches = _batches(batching.train, setting.inputs, setting.labels)
    gradient = grad(weighted_loss)
    states, losses = [setting.start], [_target_loss(setting, setting.start, batching)]
    for row in weights:
        params = states[-1]
        total = sum(gradient(params, x, y, w) for (x, y), w in zip(train_batches, _split(row, batching.train), strict=True))
        states.append(params - setting.rate * total)
        losses.append(_target_loss(setting, states[-1], batching))
    return states, torch.stack(losses)


def backward(setting: Setting, weights: torch.Tensor, states: list[torch.Tensor], batching: Batching = WHOLE) -> torch.Tensor:
    """∂J/∂weights [T, N] for J = mean_{t=1..T} L(θ_t), by the costates λ_t = λ_{t+1} + ∇L(θ_t)/T - η H_t λ_{t+1}."""
    steps = len(weights)
    train_batches = _batches(batching.train, setting.inputs, setting.labels)
    gradient_batches = _batches(batching.gradients, setting.inputs, setting.labels)
    per_example = vmap(grad(example_loss), in_dims=(None, 0, 0))
    weighted_gradient = grad(weighted_loss)
    result = torch.empty_like(weights)
    costate = _target_gradient(setting, states[steps], batching) / steps
    for t in reversed(range(steps)):
        params = states[t]
        products = [per_example(params, x, y) @ costate for x, y in gradient_batches]
        result[t] = -setting.rate * torch.cat(products)
        if t == 0:
            break
        parts = list(zip(train_batches, _split(weights[t], batching.train), strict=True))

        def train_gradient(point: torch.Tensor, parts: list = parts) -> torch.Tensor:
            return sum(weighted_gradient(point, x, y, w) for (x, y), w in parts)

        curvature = jvp(train_gradient, (params,), (costate,))[1]
        costate = costate + _target_gradient(setting, params, batching) / steps - setting.rate * curvature
    return result


def project_sort(rows: torch.Tensor) -> torch.Tensor:
    """Exact Euclidean projection of each row on the simplex: sort, find the threshold, clip (Held, Wolfe and Crowder 1974)."""
    ordered = rows.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    counts = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype)
    support = (ordered * counts > excess).sum(-1, keepdim=True)
    return (rows - excess.gather(-1, support - 1) / support).clamp_min_(0)


def random_setting(seed: int, examples: int, targets: int, width: int, dtype: torch.dtype = torch.float32) -> Setting:
    """A perceptron problem of the paper's kind, for the check and the tuning: inputs of variance 3, targets shifted by 1/2."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    teacher = normal(width)
    inputs, target_inputs = 3**0.5 * normal(examples, width), 0.5 + normal(targets, width)
    start = normal(width) / width**0.5
    return Setting(start, inputs, (inputs @ teacher > 0).to(dtype), target_inputs, (target_inputs @ teacher > 0).to(dtype))


def check(steps: int = 9) -> float:
    """Largest relative error, over batchings, of the costate gradient against autograd through the loop, in float64."""
    setting = random_setting(0, examples=12, targets=8, width=5, dtype=torch.float64)
    noise = torch.rand(steps, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = (noise / noise.sum(-1, keepdim=True)).requires_grad_()
    params, losses = setting.start, []
    for row in weights:
        point = params if params.requires_grad else params.clone().requires_grad_()
        (step,) = torch.autograd.grad(weighted_loss(point, setting.inputs, setting.labels, row), point, create_graph=True)
        params = point - setting.rate * step
        losses.append(mean_loss(params, setting.target_inputs, setting.target_labels))
    (expected,) = torch.autograd.grad(torch.stack(losses).mean(), weights)
    weights = weights.detach()
    worst = 0.0
    for batching in (WHOLE, Batching(3, 2, 4)):
        states, found_losses = forward(setting, weights, batching)
        found = backward(setting, weights, states, batching)
        worst = max(worst, float((found - expected).norm() / expected.norm()))
        worst = max(worst, float((found_losses[1:] - torch.stack(losses).detach()).abs().max()))
    return worst


def time_passes(setting: Setting, weights: torch.Tensor, batching: Batching, repeats: int) -> tuple[float, float]:
    """Median seconds of the forward and the backward pass."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        states, _ = forward(setting, weights, batching)
        middle = time.perf_counter()
        backward(setting, weights, states, batching)
        times.append((middle - start, time.perf_counter() - middle))
    one, two = np.median(times, axis=0)
    return float(one), float(two)


def _split(values: torch.Tensor, size: int | None) -> tuple[torch.Tensor, ...]:
    return (values,) if size is None else values.split(size)


def _batches(size: int | None, *arrays: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    return list(zip(*(_split(array, size) for array in arrays), strict=True))


def _target_loss(setting: Setting, params: torch.Tensor, batching: Batching) -> torch.Tensor:
    with torch.no_grad():
        batches = _batches(batching.target, setting.target_inputs, setting.target_labels)
        return sum(mean_loss(params, x, y) * len(y) for x, y in batches) / len(setting.target_labels)


def _target_gradient(setting: Setting, params: torch.Tensor, batching: Batching) -> torch.Tensor:
    gradient = grad(mean_loss)
    batches = _batches(batching.target, setting.target_inputs, setting.target_labels)
    return sum(gradient(params, x, y) * len(y) for x, y in batches) / len(setting.target_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with autograd in float64; exit status 1 above 1e-10")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.check:
        error = check()
        print(f"relative error against autograd through the loop: {error:.1e} (limit 1e-10)")
        sys.exit(0 if error <= 1e-10 else 1)
    setting = random_setting(0, examples=4096, targets=512, width=128)
    weights = torch.full((100, 4096), 1 / 4096)
    for threads, batching in CANDIDATES:
        torch.set_num_threads(threads)
        time_passes(setting, weights[:10], batching, 1)
        one, two = time_passes(setting, weights, batching, args.repeats)
        print(f"{threads} threads  {batching}: forward {one:.3f} s, backward {two:.3f} s per 100 steps")


if __name__ == "__main__":
    main()
