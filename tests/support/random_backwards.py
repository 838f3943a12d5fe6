"""Custom Functions with a random backward: programs in Python text, of all that the reader of such code follows."""

from __future__ import annotations

import itertools
import linecache
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from random_statements import ARGUMENTS, Writer

_NUMBERS = itertools.count()
HEAD = """
import contextlib
import torch
from torch.autograd import Function

FLAG = {flag}

def maybe(value, wanted=True):
    return value if wanted else None

def either(first, *others, last=None):
    for other in others:
        if other is not None:
            return other
    return first if last is None else last

def fill(values):
    values[0] = None

def note(ctx):
    ctx.noted = None

def apply(function):
    function()

def gather(first, *others, last=None, **named):
    return (first, *others, last, *named.values())

def collect(value, into=[]):
    into.append(value)
    return into[-1]

def listed(value):
    result = [value]
    try:
        return result
    finally:
        result[0] = None if FLAG else value

def first_of(values):
    for value in values:
        if value is None:
            continue
        return value
    else:
        return None

class Kept:
    def __init__(self, value):
        self.value = value

    @property
    def doubled(self):
        return None if self.value is None else self.value * 2

    def call(self, wanted):
        return torch.ones(3) if wanted else None

class Settable:
    found = None

    def result(self):
        return torch.ones(3)

def changed(value, other):
    made = Settable()
    made.result = lambda: value
    made.found = other
    return made.result() if other is None else made.found
"""
FUNCTION = """
class Random(Function):
    @staticmethod
    def forward(ctx, a, b, c, d):
        ctx.set_materialize_grads({materialize})
        ctx.save_for_backward({saved})
        ctx.flag = {ctx_flag}
        ctx.kept = {kept}
        ctx.noted = a * 2
        return a * b, c * 3, {third}

    {decorator}@staticmethod
    {once}def backward(ctx, g, h, i):
        {body}
"""


@dataclass(frozen=True)
class RandomFunction:
    """The text of a program, the Function that it defines, and a way to change its module's global before backward."""

    text: str
    function: Any
    flip: Callable[[], None]


def random_backward(seed: int) -> str:
    """The text of a program with one Function, ``Random``."""
    rng = random.Random(seed)
    writer = Writer(rng)
    lines = [line for _ in range(rng.randint(0, 7)) for line in writer.statement(0)]
    lines.append(f"return {writer.returned()}")
    saved = rng.sample(["a", "b", "c", "None", "d"], rng.randint(1, 3))
    function = FUNCTION.format(
        materialize=rng.random() < 0.7,
        saved=", ".join(saved),
        ctx_flag=rng.random() < 0.5,
        kept=rng.choice(["None", "a.detach()", "c"]),
        third=rng.choice(["b * 1", "'text'", "(a > 0)"]),
        decorator="",
        once=rng.choice(["", "", "", "@torch.autograd.function.once_differentiable\n    "]),
        body="\n        ".join(lines),
    )
    return HEAD.format(flag=rng.random() < 0.5) + f"ARGUMENTS = {ARGUMENTS}\n" + function


@contextmanager
def loaded(text: str) -> Iterator[RandomFunction]:
    """The Function of a program, with its text where Python looks for it."""
    file = f"<random backward {next(_NUMBERS)}>"
    names: dict[str, Any] = {"__name__": "random_backward"}
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec", dont_inherit=True), names)  # the program under test

    def flip() -> None:
        names["FLAG"] = not names["FLAG"]

    try:
        yield RandomFunction(text, names["Random"], flip)
    finally:
        del linecache.cache[file]


def arguments(rng: random.Random) -> list[torch.Tensor]:
    """For each argument of forward a leaf, something made of one, or a tensor that requires no grad."""
    made = [
        lambda: torch.randn(3, requires_grad=True),
        lambda: torch.randn(3, requires_grad=True) * 2,
        lambda: torch.randn(3),
    ]
    values = [rng.choice(made)() for _ in range(ARGUMENTS)]
    return values if any(value.requires_grad for value in values) else [torch.randn(3, requires_grad=True), *values[1:]]
