"""Models whose backward starts another, under random hooks of every kind."""

from __future__ import annotations

import random
from functools import partial

import torch
from torch.autograd.graph import register_multi_grad_hook
from zoo_nested import WIDTH, Around

import fxgrad

CHANCE = 0.4
MULTI_GRAD_HOOKS = 2
PYTORCH_REFUSES = "backward raised RuntimeError: A leaf node was passed to _will_engine_execute_node"
"""An "all" hook on a leaf that a nested ``torch.autograd.grad`` asks for."""


class HookedAround(Around):
    """The same model; each tensor on the way, its node, and several tensors together may have hooks."""

    def __init__(self, way, seed):
        super().__init__(partial(self._hooked_way, way))
        if way.__name__ == "reversible_block":
            self.inside = torch.nn.Linear(WIDTH // 2, WIDTH // 2)
        self.seed = seed
        chance = random.Random(seed)
        for module in (self.before, self.inside, self.after, self.other):
            _hook_module(module, chance)

    def _hooked_way(self, way, _, hidden):
        self._hook(hidden)
        doubled = hidden * 2
        self._hook(doubled)
        result = way(self, doubled)
        self._hook(result)
        return result

    def forward(self, x):
        self.chance, self.made = random.Random(self.seed), []
        result = super().forward(x)
        self._hook(result)
        tensors = [*self.made, *self.parameters()]
        for mode in ("all", "any"):
            for _ in range(MULTI_GRAD_HOOKS):
                some = self.chance.sample(tensors, self.chance.randint(1, 3))
                register_multi_grad_hook(some, lambda gradients: None, mode=mode)
        return result

    def _hook(self, tensor):
        if not tensor.requires_grad:
            return
        self.made.append(tensor)
        if self.chance.random() < CHANCE:
            tensor.register_hook(lambda grad: None)
        if self.chance.random() < CHANCE:
            tensor.retain_grad()
        if self.chance.random() < CHANCE:
            tensor.grad_fn.register_hook(lambda grad_input, grad_output: None)
        if self.chance.random() < CHANCE:
            tensor.grad_fn.register_prehook(lambda grad_output: None)


def _hook_module(module, chance):
    register = (
        lambda: module.register_backward_hook(lambda *_: None),
        lambda: module.register_full_backward_hook(lambda *_: None),
        lambda: module.register_full_backward_pre_hook(lambda *_: None),
        lambda: None,
    )
    chance.choice(register)()
    if chance.random() < CHANCE:
        module.weight.register_hook(lambda grad: None)
    if chance.random() < CHANCE:
        module.bias.register_post_accumulate_grad_hook(lambda bias: None)


def verified(way, seed):
    """What `fxgrad.verify` finds; None where PyTorch itself raises."""
    model = HookedAround(way, seed)
    x = torch.ones(3, WIDTH, requires_grad=random.Random(seed).random() < CHANCE)
    try:
        return fxgrad.verify(model, (x,))
    except fxgrad.FxgradError as error:
        if PYTORCH_REFUSES in error.given:
            return None
        raise
