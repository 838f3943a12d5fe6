"""Random models whose classes answer Python's questions wrongly, with names of any Unicode, and random hooks."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

NAMES = (
    *("a", "é", "名", "a b", "<b>", "&amp;", "\x1b[31m", "x\ny", "\u202e", "\ud800", "\\N", "{|}", "`", "*", "|", '"'),
    *(
        "'",
        "x" * 300,
        "0",
        "self",
        "🔥",
        "\x00",
        "\t",
        "a#1",
        "[0]",
        "%s",
        "{0}",
        "]]>",
        "-->",
        "\u2028",
        "\x7f",
        "\x9b",
    ),
    *("__class__", "forward", "\u0301", "\ufeff", "~", "$x", "\\", "</svg>", "```", "\r", "#", "result", "args"),
)
_QUESTIONS = (
    *("__repr__", "__str__", "__eq__", "__hash__", "__bool__", "__len__", "__getattr__", "__iter__", "__contains__"),
    *("__ne__", "__getitem__", "__format__", "__dir__", "__reduce__", "__index__", "__int__", "__lt__", "__class__"),
)


class Boom(Exception):
    """What the hostile classes raise; its text is hostile, too."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__("boom \x1b[31m\ud800")


def raising(*args: Any, **kwargs: Any) -> Any:
    raise Boom


def name(rng: random.Random) -> str:
    return rng.choice(NAMES) + (rng.choice(NAMES) if rng.random() < 0.3 else "")


def _answer(rng: random.Random) -> Callable[..., Any]:
    answers: list[Callable[..., Any]] = [
        raising,
        lambda *_: None,
        lambda *_: 3,
        lambda *_: "\x1b[31m\n<x>",
        lambda *_: object(),
        lambda self, *_: self,
        lambda *_: float("nan"),
        lambda *_: [],
    ]
    return rng.choice(answers)


def _attribute(rng: random.Random, base: type) -> Callable[..., Any]:
    if not issubclass(base, nn.Module):
        return rng.choice([raising, lambda self, key: 3, lambda self, key: lambda *_: 1])
    greedy = rng.random() < 0.5

    def __getattr__(self: Any, key: str) -> Any:
        tables = ("_parameters", "_buffers", "_modules")
        if not greedy or key.startswith("_") or any(key in vars(self).get(table, ()) for table in tables):
            return nn.Module.__getattr__(self, key)
        return 3

    return __getattr__


def hostile(rng: random.Random, base: type, *, most: int = 3, called: str = "Hostile") -> type:
    """A class derived from `base` that answers some of Python's questions wrongly."""
    answers: dict[str, Any] = {}
    for question in rng.sample(_QUESTIONS, rng.randint(1, most)):
        if question == "__class__":
            lies = [lambda _: int, lambda _: nn.Module, lambda _: torch.Tensor, lambda _: dict, raising]
            answers[question] = property(rng.choice(lies))
        elif question == "__getattr__":
            answers[question] = _attribute(rng, base)
        else:
            answers[question] = _answer(rng)
    try:
        return type(called, (base,), answers)
    except (TypeError, ValueError, UnicodeEncodeError):  # no such class can be made
        return base


class Chain(nn.Module):
    """Calls its modules one after the other."""

    def forward(self, x: Any, *rest: Any) -> Any:
        for module in list(vars(self)["_modules"].values()):
            x = module(x)
        return x


def model(rng: random.Random, *, hostility: float = 0.5, depth: int = 0) -> nn.Module:
    """A random model of width 3, its modules and tensors with random names."""
    if depth > 2 or rng.random() < 0.35:
        return _leaf(rng, hostility)
    chain = hostile(rng, Chain)() if rng.random() < hostility else Chain()
    for _ in range(rng.randint(1, 3)):
        _named(chain.add_module, rng, model(rng, hostility=hostility, depth=depth + 1))
    if rng.random() < 0.3:
        _named(chain.register_parameter, rng, nn.Parameter(torch.ones(3)))
        _named(chain.register_buffer, rng, torch.ones(3))
        vars(chain)["odd"] = _maybe(hostile(rng, rng.choice([object, dict, list, str, int])))
    return chain


def _leaf(rng: random.Random, hostility: float) -> nn.Module:
    makers: list[Callable[[], nn.Module]] = [
        lambda: nn.Linear(3, 3),
        nn.Tanh,
        nn.Identity,
        lambda: nn.LayerNorm(3),
        lambda: nn.Dropout(0.2),
    ]
    module = rng.choice(makers)()
    if rng.random() < hostility:
        object.__setattr__(module, "__class__", hostile(rng, type(module), called=name(rng)))
    return module


def _named(register: Callable[[str, Any], None], rng: random.Random, value: Any) -> None:
    for _ in range(5):
        try:
            return register(name(rng).replace(".", ""), value)
        except (KeyError, TypeError):  # the name is taken, or no name
            continue


def _maybe(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception:
        return None


class CallableObject:
    def __call__(self, *_: Any) -> None:
        pass

    def method(self, *_: Any) -> None:
        pass


def hook(rng: random.Random) -> Any:
    """A function, partial, callable object, bound method, builtin, or lambda without source."""

    def named(*_: Any) -> None:
        pass

    named.__name__ = named.__qualname__ = name(rng)
    odd = _maybe(hostile(rng, CallableObject))
    hooks = [
        named,
        functools.partial(named),
        eval("lambda *_: None"),
        CallableObject().method,
        CallableObject(),
        named.__call__,
        [].append if rng.random() < 0 else named,
    ]
    return rng.choice([*hooks, *([odd, functools.partial(odd)] if odd is not None else [])])


def add_hooks(rng: random.Random, modules: list[nn.Module]) -> None:
    """Hooks of every kind on some modules and parameters."""
    kinds = ("register_full_backward_hook", "register_full_backward_pre_hook", "register_backward_hook")
    for module in modules:
        for kind in kinds:
            if rng.random() < 0.25:
                try:
                    getattr(nn.Module, kind)(module, hook(rng))
                except RuntimeError:  # full and non-full hooks do not go together
                    continue
        for parameter in vars(module)["_parameters"].values():
            if parameter is not None and rng.random() < 0.3:
                parameter.register_hook(hook(rng))
                parameter.register_post_accumulate_grad_hook(hook(rng))


def arguments(rng: random.Random) -> tuple[Any, ...]:
    """A tensor, perhaps of a class of its own, perhaps with odd things beside it."""
    x = torch.randn(2, 3, requires_grad=rng.random() < 0.7)
    if rng.random() < 0.25:
        x = x.as_subclass(tensor_class(rng))
    odd = [None, 3, "\x1b[31m", [x], {"k": x}, (x, (x,)), {1.5: x}, {"\ud800": x}]
    odd += [_maybe(hostile(rng, rng.choice([object, dict, list, tuple, str]))) for _ in range(3)]
    return (x, *rng.sample(odd, rng.randint(0, 2)))


def tensor_class(rng: random.Random) -> type[torch.Tensor]:
    answers = {question: _answer(rng) for question in rng.sample(("__repr__", "__len__", "__bool__", "__hash__"), 2)}
    if rng.random() < 0.3:
        answers["__torch_function__"] = classmethod(raising)  # type: ignore[assignment]
    return type("Hostile", (torch.Tensor,), answers)
