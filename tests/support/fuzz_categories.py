"""The categories of fuzzed inputs: each tries the input of one seed, and returns how it came out."""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Callable
from typing import Any

import hostile_models
import misbehaviour
import torch
from damaged_traces import damaged
from drawn import dot_source
from fuzzing import all_modules, ask_everything, check_error, check_picture, is_harmless, rng_of, try_model, unchanged
from torch import nn
from torch.nn.modules import module as module_hooks

import fxgrad
from fxgrad.errors import FxgradError
from fxgrad.exchange.saved import from_json
from fxgrad.graph.check import GraphLintError
from fxgrad.graph.lookup import find_hook_kind
from fxgrad.observe.target.arguments import make_arguments, parse_init, parse_input
from fxgrad.observe.target.importing import parse_target
from fxgrad.result import Trace

Category = Callable[[int], str]


def _or_error(ask: Callable[[], Any]) -> str:
    """What cannot be answered is refused with an error of three parts."""
    try:
        ask()
    except FxgradError as error:
        check_error(error)
        return "refused"
    return "answered"


# Saved traces


def damaged_trace(seed: int) -> str:
    """Refused, or loaded: then every question has an answer or a refusal."""
    rng = rng_of("damaged", seed)
    text = damaged(rng)
    try:
        graph = from_json(text)
    except FxgradError as error:
        check_error(error)
        return "refused"
    assert from_json(Trace(graph).to_json()) == graph
    for ask in _questions(rng, Trace(graph)):
        _or_error(ask)
    return "loaded and explained"


def _questions(rng: random.Random, trace: Trace) -> list[Callable[[], Any]]:
    paths = [module.path for module in trace.graph.modules[:3]]
    names = [variable.name for variable in trace.graph.variables][:2]
    options = _picture_options(rng, paths)
    return [
        lambda: str(trace.graph) + str(trace.explain()) + str(trace.report()) + str(trace.order()),
        lambda: trace.to_markdown() + trace.explain().to_json(),
        trace.to_networkx,
        lambda: _linted(trace),
        lambda: dot_source(trace.graph, **options),
        lambda: str(trace.predict(inputs=names, after=rng.choice([None, "retained", "freed"])).report()),
        *[lambda path=path: str(trace.explain(path)) for path in paths],
    ]


def _linted(trace: Trace) -> None:
    try:
        trace.graph.lint()
    except GraphLintError as error:
        assert error.problems  # noqa: PT017


# Models


def hostile_model(seed: int) -> str:
    """Classes that answer Python's questions wrongly."""
    return _random_model(rng_of("hostile", seed), hostility=0.5)


def hostile_names(seed: int) -> str:
    """Plain classes; names of any Unicode on modules, tensors, hooks and arguments."""
    return _random_model(rng_of("names", seed), hostility=0.0)


def _random_model(rng: random.Random, *, hostility: float) -> str:
    try:
        model = hostile_models.model(rng, hostility=hostility)
        hostile_models.add_hooks(rng, all_modules(model))
        args = hostile_models.arguments(rng)
    except hostile_models.Boom:
        return "could not be built"
    return try_model(model, args)


def raising_forward(seed: int) -> str:
    """Forward raises half way."""
    rng = rng_of("raising", seed)
    raising = misbehaviour.Raising(misbehaviour.RAISING[rng.choice(list(misbehaviour.RAISING))])
    raising.inner.register_full_backward_hook(hostile_models.hook(rng))
    return try_model(nn.Sequential(raising, nn.Linear(3, 3)), _tensor(rng))


def interrupted_forward(seed: int) -> str:
    """KeyboardInterrupt passes, and leaves everything as it was."""
    rng = rng_of("interrupted", seed)
    model = nn.Sequential(misbehaviour.Raising(misbehaviour.raiser(KeyboardInterrupt)), nn.Linear(3, 3))
    args = _tensor(rng)
    with unchanged(model, args):
        try:
            fxgrad.trace(model, args)
        except KeyboardInterrupt:
            return "interrupted"
    raise AssertionError("the interrupt was swallowed")


def changing_forward(seed: int) -> str:
    """Forward changes the model, the process, or its input."""
    rng = rng_of("changing", seed)
    try:
        return try_model(misbehaviour.changing(rng), _tensor(rng))
    finally:  # what its own run, which shows whether it fails by itself, has left
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        for name, table in vars(module_hooks).items():
            if name.startswith("_global_") and isinstance(table, dict):
                table.clear()
        module_hooks._global_is_full_backward_hook = None


def acting_hooks(seed: int) -> str:
    """Hooks raise, remove themselves, return what they must not, register others, run a backward."""
    rng = rng_of("acting", seed)
    model, acts = misbehaviour.acting(rng)
    return try_model(model, _tensor(rng), wrong_allowed=bool({*acts} & {*misbehaviour.RETURNING}))


def _tensor(rng: random.Random) -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 3, requires_grad=rng.random() < 0.5),)


# Texts


_ALPHABETS = (
    string.printable,
    "f32[9,1000]i64:x=(),.*- ",
    "()[]{},'\"\\0123456789-+*=:.eE_ \n#",
    "".join(hostile_models.NAMES),
    "torch.nn:LSTMCell/\\.py",
)
_SEEDS = ("f32[9,1000]", "i64[2,16]:30522", "x=f32[]", "(f32[9,4],f32[9,4])", "1000, 1000, bias=False", "{'a': (1, 2)}")
_MORE_SEEDS = (
    "torch.nn:Linear",
    "samples/lstm_cell.py:build",
    "C:\\m.py",
    "Module.register_backward_hook",
    "[[[[",
    "-1",
)


def random_text(rng: random.Random) -> str:
    """Random characters, or a good text with some characters changed."""
    alphabet = rng.choice(_ALPHABETS)
    if rng.random() < 0.5:
        return "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
    text = list(rng.choice((*_SEEDS, *_MORE_SEEDS)))
    for _ in range(rng.randint(1, 3)):
        text[rng.randint(0, len(text)) :][:1] = []
        text.insert(rng.randint(0, len(text)), rng.choice(alphabet))
    return "".join(text)


def argument_text(seed: int) -> str:
    """What --init, --input, TARGET, --hook and names of tensors and modules may be given as."""
    rng = rng_of("text", seed)
    text = random_text(rng)
    trace = _small_trace()
    readers: list[Callable[[], Any]] = [
        lambda: parse_init(text),
        lambda: parse_input(text),
        lambda: make_arguments([_small_input(text)]),
        lambda: parse_target(text),
        lambda: find_hook_kind(text),
        lambda: trace.explain(text),
        lambda: trace.predict(inputs=text, roots=[text]),
        lambda: trace.draw(module=text),
    ]
    return _or_error(rng.choice(readers))


def _small_input(text: str) -> Any:
    """An input that has room in memory: shapes of any size are read, not made."""
    read = parse_input(text)
    digits = [int(run) for run in "".join(char if char.isdecimal() else " " for char in text).split()]
    if any(digit > 50 for digit in digits):
        raise fxgrad.UsageError("a large input", "small ones", "fewer")
    return read


_TRACES: list[Trace] = []


def _small_trace() -> Trace:
    if not _TRACES:
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        model[0].register_full_backward_hook(lambda *_: None)
        _TRACES.append(fxgrad.trace(model, torch.ones(2, 3)))
    return _TRACES[0]


# Pictures


def picture(seed: int) -> str:
    """Hostile names in SVG, with random options."""
    rng = rng_of("picture", seed)
    model = hostile_models.model(rng, hostility=0.0)
    hostile_models.add_hooks(rng, all_modules(model))
    try:
        trace = fxgrad.trace(model, (torch.randn(2, 3, requires_grad=True),))
    except FxgradError as error:
        check_error(error)
        return "refused"
    paths = [module.path for module in trace.graph.modules]
    return _or_error(lambda: check_picture(trace, **_picture_options(rng, paths)))


def _picture_options(rng: random.Random, paths: list[str]) -> dict[str, Any]:
    return {
        "depth": rng.choice([None, None, 0, 1, 3, -1]),
        "hooks_only": rng.random() < 0.5,
        "module": rng.choice([None, None, hostile_models.name(rng), *paths[:3]]),
    }


# Sizes


def large_model(seed: int) -> str:
    """Modules that hold themselves, 10,000 children, 1,000 levels."""
    build = (_holds_itself, _wide, _deep)[seed % 3]
    limit = sys.getrecursionlimit()
    try:
        model = build()
        with unchanged(model):
            trace = fxgrad.trace(model, (torch.ones(2, 1),))
    finally:
        sys.setrecursionlimit(limit)
    ask_everything(trace)
    assert is_harmless(dot_source(trace.graph, depth=2).replace("\t", ""))
    return build.__name__.strip("_").replace("_", " ")


def _holds_itself() -> nn.Module:
    outer, inner = nn.Sequential(nn.Linear(1, 1)), nn.Linear(1, 1)
    outer[0].add_module("outer", outer)
    inner.add_module("again", inner)
    outer.append(inner)
    return outer


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for number in range(10_000):
            self.add_module(f"c{number}", nn.Linear(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *_, last = vars(self)["_modules"].values()
        return first(last(x))


def _wide() -> nn.Module:
    return Wide()


def _deep() -> nn.Module:
    sys.setrecursionlimit(20_000)
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(1_000):
        model = nn.Sequential(model)
    return model


CATEGORIES: dict[str, tuple[Category, int]] = {
    "damaged saved traces": (damaged_trace, 2_000),
    "hostile classes": (hostile_model, 900),
    "names of any Unicode": (hostile_names, 500),
    "forward that raises": (raising_forward, 250),
    "forward that is interrupted": (interrupted_forward, 50),
    "forward that changes the model": (changing_forward, 400),
    "hooks that misbehave": (acting_hooks, 400),
    "texts of options and names": (argument_text, 4_000),
    "pictures": (picture, 200),
    "large and circular models": (large_model, 3),
}
"""Each with how many inputs the long run tries."""
