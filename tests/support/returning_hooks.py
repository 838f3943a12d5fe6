"""Hooks that note what they get and then return something, right or wrong, in code that fxgrad can read."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from module_hooks import Notebook

SIGNATURES = {
    "both": ("module, grad_input, grad_output", "grad_input"),
    "pre": ("module, grad_output", "grad_output"),
    "on_node": ("grad_input, grad_output", "grad_input"),
    "before_node": ("grad_output", "grad_output"),
    "tensor": ("grad", "grad"),
    "leaf": ("leaf", "leaf"),
}
"""For each sort of hook: its arguments, and the one that its result replaces."""
TUPLES = {
    "nothing": "None",
    "the same": "{given}",
    "scaled": "tuple(g if g is None else g * 2 for g in {given})",
    "fresh": "tuple(None if g is None else torch.ones_like(g) for g in {given})",
    "the same or nothing": "{given} if len({given}) > 1 else None",
    "None for each": "(None,) * len({given})",
    "one entry less": "{given}[:-1]",
    "the first entry": "{given}[0]",
    "the first entry in a tuple": "({given}[0],)",
    "a number": "5",
    "an error": "int('no number')",
    "a list": "list({given})",
    "another shape": "tuple(g if g is None else torch.ones(7) for g in {given})",
}
TENSORS = {
    "nothing": "None",
    "the same": "{given}",
    "scaled": "{given} if {given} is None else {given} * 2",
    "fresh": "None if {given} is None else torch.ones_like({given})",
    "a tensor": "torch.ones(3)",
    "a tuple": "({given},)",
    "a number": "5",
    "an error": "int('no number')",
    "another shape": "torch.ones(7)",
}
NOTHING = {"nothing": "None", "the leaf": "{given}", "a number": "5", "an error": "int('no number')"}
ANSWERS = {"tensor": TENSORS, "leaf": NOTHING}
"""What hooks of a sort return, where that is no tuple."""
RIGHT = ("nothing", "the same", "scaled", "fresh")
CHANCE_OF_ANY = 0.15
"""How often an answer may be a wrong one."""


@cache
def compiled(sort: str, answer: str) -> Callable[..., Any]:
    """What makes a hook of a sort, with a text of its own for each answer."""
    arguments, given = SIGNATURES[sort]
    text = ANSWERS.get(sort, TUPLES)[answer].format(given=given)
    names: dict[str, Any] = {"torch": torch}
    lines = [
        "def make(note, check):",
        f"    def hook({arguments}):",
        f"        note({arguments})",
        f"        check({given}, {text})",
        f"        return {text}",
        "    return hook",
    ]
    exec(compile("\n".join(lines), f"<{sort}: {answer}>", "exec"), names)  # hooks under test
    return names["make"]


class ReturningNotebook(Notebook):
    """Its hooks return what their names draw. ``broken`` is the first hook whose result is no other gradient for each
    that it got, and how many calls were noted by then: what follows is not what hooks that return None lead to."""

    def __init__(self, seed: float) -> None:
        super().__init__()
        self.seed = seed
        self.broken: tuple[str, int] | None = None

    def forget_calls(self) -> None:
        super().forget_calls()
        self.broken = None

    def _answering(self, sort: str, name: str, function: Callable[..., None]) -> Callable[..., None]:
        rng = random.Random(f"{self.seed} {name}")
        table = ANSWERS.get(sort, TUPLES)
        is_any = rng.random() < CHANCE_OF_ANY
        answer = rng.choice([text for text in table if is_any or text in RIGHT])

        def check(given: Any, result: Any) -> None:
            if self.broken is None and not (result is None if sort == "leaf" else replaces(given, result)):
                self.broken = name, len(self.log)

        return self._named(name, compiled(sort, answer)(function, check))

    def both(self, name: str) -> Callable[..., None]:
        return self._answering("both", name, super().both(name))

    def pre(self, name: str) -> Callable[..., None]:
        return self._answering("pre", name, super().pre(name))

    def tensor(self, name: str) -> Callable[..., None]:
        return self._answering("tensor", name, super().tensor(name))

    def on_node(self, name: str) -> Callable[..., None]:
        return self._answering("on_node", name, super().on_node(name))

    def before_node(self, name: str) -> Callable[..., None]:
        return self._answering("before_node", name, super().before_node(name))

    def leaf(self, name: str) -> Callable[..., None]:
        return self._answering("leaf", name, super().leaf(name))


def replaces(given: Any, result: Any) -> bool:
    """Whether a result stands for what a hook got, a tensor for each tensor, so that nothing else changes."""
    if result is None:
        return True
    if not isinstance(given, tuple):
        return _replaces_one(given, result)
    if not isinstance(result, tuple) or len(result) != len(given):
        return False
    return all(_replaces_one(one, other) for one, other in zip(given, result, strict=True))


def _replaces_one(given: Any, result: Any) -> bool:
    if given is None or result is None:
        return given is result
    return isinstance(result, torch.Tensor) and result.shape == given.shape
