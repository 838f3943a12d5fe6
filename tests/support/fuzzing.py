"""What each fuzzed input must bear: an error with its three parts, or a right answer; and nothing changed.

`try_model` traces a model, asks the trace everything and verifies it. `failures` counts what was tried.
"""

from __future__ import annotations

import json
import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import torch
from drawn import dot_source
from tally import count_outcome
from torch import nn
from torch.nn.modules import module as module_hooks

import fxgrad
from fxgrad.errors import FxgradError, TargetError
from fxgrad.exchange.saved import from_json
from fxgrad.result import Trace


def failures(category: str, try_one: Callable[[int], str], seeds: range) -> list[str]:
    """Try each seed; what went wrong, with the seed. Outcomes are counted."""
    found = []
    for seed in seeds:
        try:
            outcome = try_one(seed)
        except Exception as error:
            outcome = "failed"
            found.append(f"seed {seed}: {type(error).__name__}\n{''.join(traceback.format_exception(error)[-8:])}")
        count_outcome(category, outcome)
    return found


# Answers


def is_harmless(text: str) -> bool:
    """Whether a terminal only shows the text: nothing in it moves the cursor, rings or reorders a line."""
    return all(char.isprintable() or char == "\n" for char in text)


def check_error(error: FxgradError) -> None:
    """An error has its three parts, and shows as they are."""
    assert error.given
    assert error.allowed
    assert error.suggestion
    assert is_harmless(str(error)), ascii(str(error))


def ask_everything(trace: Trace) -> None:
    """Every text of a trace is harmless and can be encoded; its JSON gives an equal graph."""
    texts = (str(trace.graph), trace.explain(), trace.report(), trace.order(), trace.to_markdown())
    for text in map(str, texts):
        assert is_harmless(text)
        text.encode()
    trace.graph.lint()
    assert is_harmless(dot_source(trace.graph).replace("\t", ""))
    assert from_json(trace.to_json()) == trace.graph
    json.loads(trace.explain().to_json())
    trace.to_networkx()


def check_picture(trace: Trace, **options: Any) -> None:
    """The SVG is XML, and what it shows is harmless."""
    svg = trace.draw(**options)
    assert is_harmless(svg.replace("\t", ""))
    ElementTree.fromstring(svg)


# Models


def all_modules(model: nn.Module) -> list[nn.Module]:
    """Every module once, whatever it says of its own equality, hash or length."""
    found: dict[int, nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = module
            waiting.extend(child for child in vars(module)["_modules"].values() if child is not None)
    return list(found.values())


def snapshot(model: nn.Module, args: tuple[Any, ...] = ()) -> list[Any]:
    """What tracing must leave as it is: by identity, so that no method of the user's is asked."""
    state: list[Any] = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().tolist()]
    state.append([list(vars(module_hooks)[name]) for name in sorted(vars(module_hooks)) if name.endswith("_hooks")])
    for module in all_modules(model):
        held = {name: list(map(id, value.values())) for name, value in vars(module).items() if type(value) is dict}
        state.append((id(module), type(module), module.training, sorted(map(str, vars(module))), held))
        tensors = [each for table in ("_parameters", "_buffers") for each in vars(module)[table].values()]
        state += [_tensor_state(tensor) for tensor in tensors if tensor is not None]
    return [*state, *(_tensor_state(arg) for arg in args if issubclass(type(arg), torch.Tensor))]


def _tensor_state(tensor: torch.Tensor) -> tuple[Any, ...]:
    with torch._C.DisableTorchFunctionSubclass():
        grad = tensor.grad if tensor.is_leaf else None
        hooks = [len(getattr(tensor, name) or ()) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")]
        values = tensor.detach().tolist()
        return (
            id(tensor),
            tensor._version,
            tensor.requires_grad,
            values,
            hooks,
            grad if grad is None else grad.tolist(),
        )


@contextmanager
def unchanged(model: nn.Module, args: tuple[Any, ...] = ()) -> Iterator[None]:
    """Whatever runs inside, the model is afterwards as it was."""
    before = snapshot(model, args)
    yield
    after = snapshot(model, args)
    assert len(after) == len(before)
    for now, then in zip(after, before, strict=True):
        assert now == then


def try_model(model: nn.Module, args: tuple[Any, ...], *, wrong_allowed: bool = False) -> str:
    """Trace, ask everything, verify. ``wrong_allowed``: its hooks break the promise that predictions are given on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with unchanged(model, args):
                trace = fxgrad.trace(model, args)
        except FxgradError as error:
            check_error(error)
            _must_not_run(model, args, error)
            return "refused"
        ask_everything(trace)
        try:
            with unchanged(model, args):
                verification = fxgrad.verify(model, args)
        except FxgradError as error:
            check_error(error)
            _must_not_run(model, args, error, backward=True)
            return "traced; backward raises"
        assert is_harmless(str(verification))
        assert wrong_allowed or verification.ok, str(verification)
        return "traced and verified"


def _must_not_run(model: nn.Module, args: tuple[Any, ...], refusal: FxgradError, *, backward: bool = False) -> None:
    """Only what does not run by itself may be called a target that fails."""
    if isinstance(refusal, TargetError):
        assert not runs(model, args, backward=backward), f"refused, but it runs: {refusal}"


def runs(model: nn.Module, args: tuple[Any, ...], *, backward: bool) -> bool:
    """Whether the model itself runs, and has something to differentiate."""
    try:
        result = model(*args)
        results = result if type(result) in (tuple, list) else [result]
        roots = [each for each in results if issubclass(type(each), torch.Tensor) and each.requires_grad]
        if backward:
            torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    except BaseException:
        return False
    return bool(roots)


def rng_of(category: str, seed: int) -> random.Random:
    """The random choices for one input."""
    torch.manual_seed(seed)
    return random.Random(f"{category} {seed}")
