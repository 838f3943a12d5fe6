"""Random differentiable programs: shared leaves, views, in-place changes, lists, custom Functions, unused results."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from real_backward import Bench

SIZE = 3


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


class Stop(torch.autograd.Function):
    """A backward that returns None although the edge is there."""

    @staticmethod
    def forward(ctx, x, y):
        return x + y, x - y

    @staticmethod
    def backward(ctx, a, b):
        return a + b, None


@dataclass
class Program:
    """What a random program made: its leaves, all its values, and those chosen as roots."""

    leaves: list[torch.Tensor]
    values: list[torch.Tensor]
    roots: list[torch.Tensor]


def program(rng: random.Random, *, custom: bool = True) -> Program:
    leaves = [torch.randn(SIZE, requires_grad=True) for _ in range(rng.randint(2, 9))]
    values = list(leaves)
    for _ in range(rng.randint(3, 25)):
        values += _step(rng, leaves, values, custom=custom)
    candidates = [value for value in values[-rng.randint(1, 6) :] if value.requires_grad]
    roots = [value for value in candidates if value.grad_fn is not None or rng.random() < 0.3]
    if roots and rng.random() < 0.2:
        roots.append(rng.choice(roots))
    return Program(leaves, [value for value in values if value.requires_grad], roots)


def _step(
    rng: random.Random, leaves: Sequence[torch.Tensor], values: Sequence[torch.Tensor], *, custom: bool
) -> list[torch.Tensor]:
    def pick() -> torch.Tensor:
        return rng.choice(values)

    kind = rng.random()
    if kind < 0.3:
        return [pick() * pick()]
    if kind < 0.4:
        return [pick().sin()]
    if kind < 0.5:
        return [pick() + torch.randn(SIZE)]
    if kind < 0.65:
        return [torch.stack([pick() for _ in range(rng.randint(2, 7))]).sum(0)]
    if kind < 0.75:
        return [torch.cat([rng.choice([*leaves, torch.ones(SIZE)]) for _ in range(rng.randint(2, 6))])[:SIZE]]
    if kind < 0.83:
        return list(torch.stack([pick(), pick()]).unbind(0))
    if kind < 0.91 or not custom:
        base = pick() * 1
        base[:1].mul_(rng.choice(leaves)[:1])
        return [base]
    return list(Stop.apply(pick(), pick())) if kind < 0.95 else [Scale.apply(pick(), 2.0)]


def bench_with_hooks(rng: random.Random, made: Program) -> Bench:
    """Hooks of every kind that needs no module, in random order of registration."""
    bench = Bench(made.roots, made_by="torch.Tensor.mul_")
    tensors = [value for value in made.values if bench.place(value)[0] is not None]
    for node in range(len(bench.walked.order)):
        if rng.random() < 0.8:
            bench.on_node(node)
        if rng.random() < 0.3:
            bench.before_node(node)
    for _ in range(rng.randint(0, 12)):
        _one_more_hook(rng, bench, tensors, made)
    return bench


def _one_more_hook(rng: random.Random, bench: Bench, tensors: Sequence[torch.Tensor], made: Program) -> None:
    kind = rng.random()
    tensor = rng.choice(tensors)
    leaf = rng.choice(made.leaves)
    if kind < 0.5:
        bench.on_tensor(tensor)
    elif kind < 0.6:
        if not tensor.is_leaf and not tensor.retains_grad:
            bench.retain(tensor)
    elif kind < 0.75:
        if bench.place(leaf)[0] is not None:
            bench.after_accumulation(leaf)
    elif kind < 0.8:
        bench.on_node(rng.randrange(len(bench.walked.order)))
    else:
        chosen = rng.choices(made.values, k=rng.randint(1, 4))
        bench.on_several(chosen, rng.choice(["all", "any"]))


def inputs_of(rng: random.Random, made: Program) -> list[torch.Tensor]:
    """What could stand in ``inputs=``: leaves and others, roots too."""
    pool = rng.choice([made.leaves, made.values])
    return rng.sample(pool, k=min(len(pool), rng.randint(1, 3)))


@contextmanager
def ignored_refusals() -> Iterator[None]:
    """``autograd.grad`` raises where an "all" hook is on a leaf in ``inputs=``: what was called before that counts."""
    try:
        yield
    except RuntimeError as error:
        if "A leaf node was passed" not in str(error):
            raise
