"""Random modules that also do what programs of users do: containers, replaced parameters, lost saved tensors, recomputation,
transforms of torch.func."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from random_modules import Box, Grammar, Pair, RandomModule, tensors_of
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

CONTAINERS = ("call_with_a_container", "call_with_one_tensor_twice")
REPLACED = (
    "replace_weight",
    "replace_weight_between_uses",
    "replace_data",
    "replace_data_by_another_shape",
    "set_weight",
    "parameter_made_in_forward",
    "tied_weight",
    "parametrized_weight",
    "freeze_weight",
)
LOST = (
    "change_what_was_saved",
    "change_a_result_that_was_saved",
    "change_weight",
    "change_unseen",
    "free_the_graph",
    "keep_the_graph",
    "go_on_from_the_last_run",
    "change_what_a_function_saved",
    "save_with_hooks",
)
RECOMPUTED = (
    "checkpointed",
    "checkpointed_reentrant",
    "checkpoint_without_grad",
    "checkpoint_reentrant_without_grad",
    "checkpoint_in_no_grad",
    "checkpoint_containers",
)
TRANSFORMED = (
    "vmap_over_function",
    "vmap_over_module",
    "grad_of_function",
    "grad_of_module",
    "call_functionally",
    "jvp_of_function",
    "vjp_of_function",
    "grad_inside_forward",
)


class MayRead(torch.autograd.Function):
    """Its backward reads what it saved, or not."""

    @staticmethod
    def forward(ctx, x, reads):
        ctx.save_for_backward(x)
        ctx.reads = reads
        return x * 3

    @staticmethod
    def backward(ctx, grad):
        if ctx.reads:
            (x,) = ctx.saved_tensors
            return grad * x, None
        return grad * 3, None


def runs_again() -> bool:
    """Whether a non-reentrant checkpoint is around: a backward that forward starts would run in backward again."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and "checkpoint" in hooks[0].__module__


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


class StrangeModule(RandomModule):
    """One with more steps and results; each step takes two tensors and returns those that it makes."""

    def __init__(self, rng: random.Random, grammar: Grammar, depth: int, notebook: Any) -> None:
        super().__init__(rng, grammar, depth, notebook)
        self.numbers = self._numbers(rng)

    # Containers

    def call_with_a_container(self, a, b):
        styles: list[Callable[[nn.Module], Any]] = [
            lambda module: module(Pair(a, b)),
            lambda module: module({"x": a, "y": [b]}),
            lambda module: module(a, Box(b, (a,))),
            lambda module: module(a, options={"k": (b, [a])}),
            lambda module: module([a, (b, {"z": a})], b),
            lambda module: module(Box(a), Pair(b, None)),
        ]
        return self._call_inner(styles[self.numbers[0] % len(styles)])

    def call_with_one_tensor_twice(self, a, b):
        styles: list[Callable[[nn.Module], Any]] = [
            lambda module: module(a, a),
            lambda module: module(a, y=a),
            lambda module: module(self.weight, self.weight),
            lambda module: module(a, (a, a)),
        ]
        return self._call_inner(styles[self.numbers[0] % len(styles)])

    def _call_inner(self, call):
        return list(tensors_of(call(self.inner[self.numbers[1] % len(self.inner)]))) if len(self.inner) else []

    # Parameters

    def replace_weight(self, a, b):
        self.weight = nn.Parameter(torch.randn(3))
        return [a * self.weight]

    def replace_weight_between_uses(self, a, b):
        first = a * self.weight
        self.weight = nn.Parameter(self.weight.detach() * 2)
        return [first, b * self.weight]

    def replace_data(self, a, b):
        first = a * self.weight
        self.weight.data = torch.randn(3)
        return [first, b * self.weight]

    def replace_data_by_another_shape(self, a, b):
        self.weight.data = torch.randn(1)
        return [a * self.weight]

    def set_weight(self, a, b):
        with torch.no_grad():
            self.weight.set_(torch.randn(3))
        return [a * self.weight]

    def parameter_made_in_forward(self, a, b):
        return [a * nn.Parameter(torch.ones(3))]

    def tied_weight(self, a, b):
        self.other = self.weight
        return [a * self.other]

    def parametrized_weight(self, a, b):
        if not parametrize.is_parametrized(self):
            parametrize.register_parametrization(self, "weight", Doubled())
        return [a * self.weight]

    def freeze_weight(self, a, b):
        first = a * self.weight
        if self.weight.is_leaf:
            self.weight.requires_grad_(False)
        return [first]

    # Saved tensors

    def change_what_was_saved(self, a, b):
        made = a * 1.0
        kept = made.sin()
        made.add_(1.0)
        return [kept]

    def change_a_result_that_was_saved(self, a, b):
        made = a.sigmoid()
        return [made.mul_(2.0)]

    def change_weight(self, a, b):
        made = a * self.weight
        with torch.no_grad():
            self.weight.add_(1.0)
        return [made]

    def change_unseen(self, a, b):
        made = a * 1.0
        kept = made.sin()
        made.data.add_(1.0)
        return [kept]

    def free_the_graph(self, a, b):
        made = a.exp()
        if made.requires_grad and not runs_again():
            torch.autograd.backward(made, torch.ones_like(made))
        return [made, made * 1.0]

    def keep_the_graph(self, a, b):
        made = a.exp()
        if made.requires_grad and not runs_again():
            torch.autograd.backward(made, torch.ones_like(made), retain_graph=True)
        return [made * 1.0]

    def go_on_from_the_last_run(self, a, b):
        made = a * self.state if hasattr(self, "state") else a
        self.state = made.tanh()
        return [self.state]

    def change_what_a_function_saved(self, a, b):
        made = a * 1.0
        kept = MayRead.apply(made, self.numbers[0] % 2)
        made.add_(1.0)
        return [kept]

    def save_with_hooks(self, a, b):
        made = a * 1.0
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.clone(), lambda saved: saved):
            kept = made.sin()
        made.add_(1.0)
        return [kept]

    # Recomputation

    def checkpoint_without_grad(self, a, b):
        return [checkpoint(self._run_again, a.detach(), use_reentrant=False)]

    def checkpoint_reentrant_without_grad(self, a, b):
        return [checkpoint(self._run_again, a.detach(), use_reentrant=True)]

    def checkpoint_in_no_grad(self, a, b):
        with torch.no_grad():
            return [checkpoint(self._run_again, a, use_reentrant=self.numbers[0] % 2 == 0)]

    def checkpoint_containers(self, a, b):
        pair = Pair(a, [b])
        reentrant = self.numbers[0] % 2 == 0
        return [checkpoint(lambda both: self._run_again(both.first) + both.second[0], pair, use_reentrant=reentrant)]

    # Transforms

    def vmap_over_function(self, a, b):
        return list(torch.func.vmap(lambda row: row * self.weight)(torch.stack([a, b])).unbind(0))

    def vmap_over_module(self, a, b):
        return list(torch.func.vmap(self._run_again)(torch.stack([a, b])).unbind(0))

    def grad_of_function(self, a, b):
        return [torch.func.grad(lambda x: (x * self.weight).sin().sum())(a)]

    def grad_of_module(self, a, b):
        return [torch.func.grad(lambda x: self._run_again(x).sum())(a)]

    def call_functionally(self, a, b):
        return self._call_inner(lambda module: torch.func.functional_call(module, {"weight": b * 1.0}, (a,)))

    def jvp_of_function(self, a, b):
        return list(torch.func.jvp(lambda x: x * self.weight, (a,), (b.detach(),)))

    def vjp_of_function(self, a, b):
        result, pull = torch.func.vjp(lambda x: x * self.weight, a)
        return [result, pull(torch.ones(3))[0]]

    def grad_inside_forward(self, a, b):
        made = (a * self.weight).tanh()
        if runs_again() or not (made.requires_grad and self.weight.requires_grad):
            return [made]
        return [made, *torch.autograd.grad(made.sum(), [self.weight], create_graph=True)]
