"""Random models: modules that call one another several times, in every style of arguments and results, with hooks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from module_hooks import Notebook
from probed_hooks import Build, Built
from torch import nn
from torch.utils.checkpoint import checkpoint
from zoo_nested import ByHelper

PURE = ("times_weight", "plus", "tanh", "view", "slice", "unbind", "double", "no_grad", "detached")
HOOKS = ("tensor_hook", "node_hook", "retain_grad", "keep")
IN_PLACE = ("times_in_place", "plus_in_place", "view_in_place", "in_place_without_grad", "detached_in_place")
NEW_RESULTS = ("one new", "two new")
RUN_AGAIN = ("checkpointed", "checkpointed_reentrant", "by_function")
RESULTS = ("one", "two", "mixed", "nested", "list", "dict", *NEW_RESULTS)
NESTED_RESULTS = ("data class", "named tuple", "deep", "list of two")


@dataclass(frozen=True)
class Grammar:
    """What forward may do, and what it may return; whether hooks return values, and how backward may be called."""

    steps: tuple[str, ...]
    results: tuple[str, ...]
    hooks_return: bool = False
    calls: tuple[str, ...] = ("plain",)


class Pair(NamedTuple):
    """Two values with names."""

    first: Any
    second: Any


@dataclass
class Box:
    """A value, and others in a container."""

    content: Any
    others: Any = ()


GRAMMARS = {
    "pure": Grammar(PURE, ("one", *NEW_RESULTS)),
    "everything": Grammar((*PURE, *HOOKS), RESULTS),
    "in place": Grammar((*PURE, *IN_PLACE), ("one", *NEW_RESULTS)),
    "everything in place": Grammar((*PURE, *HOOKS, *IN_PLACE), RESULTS),
    "runs again in backward": Grammar((*PURE, *HOOKS, *RUN_AGAIN), RESULTS),
}


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        return x * 2, y + 1

    @staticmethod
    def backward(ctx, a, b):
        return a * 2, b


class RandomModule(nn.Module):
    """Its forward follows a script: each step takes two of the tensors seen so far, and adds what it makes."""

    def __init__(self, rng: random.Random, grammar: Grammar, depth: int, notebook: Notebook) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3), requires_grad=rng.random() > 0.15)
        self.inner = nn.ModuleList(
            [type(self)(rng, grammar, depth - 1, notebook) for _ in range(rng.randint(0, 2) if depth else 0)]
        )
        self.notebook = notebook
        # a list that modules hold: what a traced forward adds is taken out again, so each run gives the same names
        self.named: list[str] = vars(notebook).setdefault("named", [])
        self.result = rng.choice(grammar.results)
        steps = (*grammar.steps, *["call"] * (4 * len(self.inner)))
        self.script = [(rng.choice(steps), *self._numbers(rng)) for _ in range(rng.randint(0, 4) + len(self.inner))]
        self.picks = self._numbers(rng)

    @staticmethod
    def _numbers(rng: random.Random) -> tuple[int, int, int]:
        return rng.randrange(100), rng.randrange(100), rng.randrange(100)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        seen = list(tensors_of((args, kwargs)))
        for step, first, second, number in self.script:
            a, b = seen[-1 - first % min(3, len(seen))], seen[second % len(seen)]
            seen += self._call(a, b, number) if step == "call" else getattr(self, step)(a, b)
        picked = [seen[-1], *[seen[pick % len(seen)] for pick in self.picks[1:]]]
        return make_result(self.result, picked)

    def _call(self, a: torch.Tensor, b: torch.Tensor, number: int) -> list[torch.Tensor]:
        module = self.inner[number % len(self.inner)]
        styles: list[Callable[[], Any]] = [
            lambda: module(a, b),
            lambda: module(a, (b,)),
            lambda: module(a, y=b),
            lambda: module(a, 5, b, None),
            lambda: module((a,), b),
            lambda: module(a),
        ]
        return list(tensors_of(styles[number % len(styles)]()))

    def times_weight(self, a, b):
        return [a * self.weight]

    def plus(self, a, b):
        return [a + b]

    def tanh(self, a, b):
        return [torch.tanh(a)]

    def view(self, a, b):
        return [a.view(3)]

    def slice(self, a, b):
        return [a[:3]]

    def unbind(self, a, b):
        return list(torch.stack([a, b]).unbind(0))

    def double(self, a, b):
        return list(Double.apply(a, b))

    @torch.no_grad()
    def no_grad(self, a, b):
        return [a * 2]

    def detached(self, a, b):
        return [a.detach()]

    def times_in_place(self, a, b):
        a.mul_(2.0)
        return []

    def plus_in_place(self, a, b):
        a.add_(b)
        return []

    def view_in_place(self, a, b):
        a[0].add_(1.0)
        return []

    @torch.no_grad()
    def in_place_without_grad(self, a, b):
        a.add_(1.0)
        return []

    def detached_in_place(self, a, b):
        a.detach().add_(1.0)
        return []

    def tensor_hook(self, a, b):
        made = a * 1.0
        if is_hookable(made):
            made.register_hook(self.notebook.tensor(self._next_name("tensor")))
        return [made]

    def node_hook(self, a, b):
        made = a * 1.0
        if is_hookable(made):
            made.grad_fn.register_hook(self.notebook.on_node(self._next_name("node")))
        return [made]

    def retain_grad(self, a, b):
        made = a * 1.0
        if is_hookable(made):
            made.retain_grad()
        return [made]

    def keep(self, a, b):
        self.kept = a
        return []

    def checkpointed(self, a, b):
        return [checkpoint(self._run_again, a, use_reentrant=False)]

    def checkpointed_reentrant(self, a, b):
        return [checkpoint(self._run_again, a, use_reentrant=True)]

    def by_function(self, a, b):
        return [ByHelper.apply(a, self._run_again)]

    def _run_again(self, a):
        results = list(tensors_of(self.inner[0](a))) if self.inner else []
        return (results[0] if results else a.tanh()) * self.weight

    def _next_name(self, kind: str) -> str:
        self.named.append(kind)
        return f"{kind} {len(self.named)}"


def is_hookable(tensor: torch.Tensor) -> bool:
    """Whether a tensor takes hooks, and not only because backward runs forward again: nobody foresees those."""
    return tensor.requires_grad and torch._C._current_graph_task_id() == -1


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from tensors_of(member)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))
    elif is_dataclass(value):
        yield from tensors_of([getattr(value, member.name) for member in fields(value)])


def make_result(style: str, picked: list[torch.Tensor]) -> Any:
    first, second, third = picked
    return {
        "one": lambda: first,
        "two": lambda: (first, second),
        "mixed": lambda: (first, 3, None, second),
        "nested": lambda: (first, (second, third)),
        "list": lambda: [first],
        "dict": lambda: {"a": first, "b": second},
        "one new": lambda: first * 1.5,
        "two new": lambda: (first * 1.5, second * 1.5),
        "data class": lambda: Box(first, (second,)),
        "named tuple": lambda: Pair(first, second),
        "deep": lambda: (first, {"a": [second, Pair(third, None)]}),
        "list of two": lambda: [first, (second, third)],
    }[style]()


def random_model(seed: int, grammar: Grammar) -> Build:
    """A builder that makes the same model each time."""

    def build(notebook: Notebook) -> Built:
        rng = random.Random(seed)
        torch.manual_seed(seed)
        model = RandomModule(rng, grammar, rng.randint(1, 3), notebook)
        for path, module in model.named_modules():
            if isinstance(module, RandomModule):
                _add_hooks(rng, notebook, path, module)
        return model, [_argument(rng, notebook, index) for index in range(rng.randint(1, 3))], {}

    return build


def _add_hooks(rng: random.Random, notebook: Notebook, path: str, module: RandomModule) -> None:
    dice = rng.random()
    if dice < 0.12:
        notebook.legacy(module, f"legacy {path}")
    elif dice < 0.2:
        notebook.full(module, f"full {path}")
    elif dice < 0.26:
        notebook.full_pre(module, f"pre {path}")
    if rng.random() < 0.5 and module.weight.requires_grad:
        module.weight.register_hook(notebook.tensor(f"weight {path}"))


def _argument(rng: random.Random, notebook: Notebook, index: int) -> torch.Tensor:
    made = torch.randn(3, requires_grad=rng.random() < 0.6)
    if rng.random() < 0.5:
        made = made * 1
    if made.requires_grad and rng.random() < 0.6:
        made.register_hook(notebook.tensor(f"argument {index}"))
    return made


def paths_of(build: Build) -> list[str]:
    """The modules of a random model that a hook may be probed at."""
    notebook = Notebook()
    model, _, _ = build(notebook)
    notebook.close()
    return [path for path, module in model.named_modules() if isinstance(module, RandomModule)]
