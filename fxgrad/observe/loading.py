"""A TARGET of the command line becomes a model with the arguments of its forward."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal, cast

import torch

from fxgrad.errors import TargetError, UsageError
from fxgrad.graph.text import escape
from fxgrad.observe.devices import torch_device
from fxgrad.observe.importing import as_program, find_name, import_target, listed, public_callables
from fxgrad.observe.inputs import Input, make_arguments, parse_input
from fxgrad.observe.literals import Arguments, parse_init
from fxgrad.observe.target_text import DEFAULT_FACTORY, TargetText, parse_target, split_name
from fxgrad.observe.tracebacks import user_code
from fxgrad.target_options import TargetOptions

RETURNS = "a factory that returns (model, args), (model, args, kwargs) or fxgrad.Target(model, args, kwargs, loss)"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is traced: a model, the arguments of its forward, and what makes a loss of its output.

    ``args``    the positional arguments of ``model.forward``, a tuple
    ``kwargs``  its keyword arguments
    ``loss``    called with the model's output; backward starts from what it returns
    """

    model: torch.nn.Module
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] | None = None
    loss: Callable[..., object] | None = None


def load_target(options: TargetOptions) -> Target:
    """The model and the arguments that a TARGET stands for. Runs the user's code.

    The TARGET is ``file.py[:name]`` or ``package.module[:name]``, where the name is that of a factory (by default
    ``build``) or of a module class, which ``init`` and ``inputs`` of the options then build. ``loss`` names a callable
    that overrides the factory's. ``seed`` sets torch's and random's generators first. The model is built under
    ``torch.device(device)``, and put into ``mode``.

    Raises UsageError where a text is wrong or names nothing, TargetError where the user's code fails or returns
    something else. Parameters land on a device by ``torch.utils._device.DeviceContext``.

    >>> target = load_target(TargetOptions("torch.nn:Linear", init="4, 2", inputs=("f32[3,4]",)))
    >>> target.model(*target.args).shape
    torch.Size([3, 2])
    """
    target = parse_target(options.text)
    init = None if options.init is None else parse_init(options.init)
    inputs = [parse_input(each) for each in options.inputs]
    on_device = nullcontext() if options.device is None else torch_device(options.device)
    if options.seed is not None:
        torch.manual_seed(options.seed)
        random.seed(options.seed)
    with as_program(target), on_device:
        module = import_target(target)
        built = _build(target, module, init, inputs)
        if options.loss is not None:
            built = replace(built, loss=_load_loss(options.loss, target, module))
        if options.mode is not None:
            _set_mode(built.model, options.mode, shown=options.text)
    return built


def _build(target: TargetText, module: ModuleType, init: Arguments | None, inputs: Sequence[Input]) -> Target:
    name = target.name or DEFAULT_FACTORY
    found = find_name(module, name, shown=target.origin)
    shown = f"{escape(target.origin)}:{name}"
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        return _instance(found, init or Arguments((), {}), inputs, shown=shown)
    _refuse_class_options(shown, init=init is not None, inputs=bool(inputs))
    return _call_factory(_factory(found, module, shown=shown), shown=shown)


def _instance(kind: type[torch.nn.Module], init: Arguments, inputs: Sequence[Input], *, shown: str) -> Target:
    _check_call(kind, init, shown=shown, called=kind.__name__, option="--init")
    with user_code(f"making {shown}", allowed="arguments that its constructor takes", advice=_other_init):
        model = kind(*init.args, **init.kwargs)
    made = make_arguments(inputs)
    _check_call(model.forward, made, shown=shown, called="forward", option="--input")
    return Target(model, made.args, made.kwargs or None)


def _other_init(_: BaseException) -> str:
    return "other arguments in --init, or a factory, file.py:build, that makes it"


def _check_call(function: Callable[..., object], given: Arguments, *, shown: str, called: str, option: str) -> None:
    """Raise UsageError where a signature does not take the arguments."""
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(*given.args, **given.kwargs)
    except TypeError as error:
        example = {"--init": '--init "1000, 1000"', "--input": "--input 'f32[9,1000]', once for each argument"}[option]
        raise UsageError(f"{option} of {shown}: {error}", f"{called}({_parameters(signature)})", example) from error


def _signature(function: Callable[..., object]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _parameters(signature: inspect.Signature) -> str:
    """The parameters' names, those that may be left out in brackets."""
    return ", ".join(_parameter(parameter) for parameter in signature.parameters.values())


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"[*{parameter.name}]"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"[**{parameter.name}]"
    return parameter.name if parameter.default is parameter.empty else f"[{parameter.name}]"


def _refuse_class_options(shown: str, *, init: bool, inputs: bool) -> None:
    options = [option for option, given in (("--init", init), ("--input", inputs)) if given]
    if options:
        raise UsageError(
            f"{' and '.join(options)} with {shown}, which is not a module class",
            "--init and --input with a module class, such as torch.nn:LSTMCell",
            f"leave {' and '.join(options)} out: a factory returns the model with its arguments",
        )


def _factory(found: object, module: ModuleType, *, shown: str) -> Callable[[], object]:
    if isinstance(found, torch.nn.Module) or not callable(found):
        raise UsageError(
            f"{shown} is {_described(found)}, not a factory",
            listed(public_callables(module)),
            f"def {DEFAULT_FACTORY}(): return model, (x,)",
        )
    return cast("Callable[[], object]", found)


def _call_factory(factory: Callable[[], object], *, shown: str) -> Target:
    _check_needs_nothing(factory, shown=shown)
    with user_code(f"calling {shown}()", allowed=RETURNS, advice=_mend_factory):
        returned = factory()
    return _checked(returned, shown=shown)


def _check_needs_nothing(factory: Callable[[], object], *, shown: str) -> None:
    signature = _signature(factory)
    if signature is None:
        return
    try:
        signature.bind()
    except TypeError as error:
        raise TargetError(
            f"{shown}({_parameters(signature)}): {error}",
            "a factory that can be called without arguments",
            "give every parameter a default value",
        ) from error


def _mend_factory(_: BaseException) -> str:
    return "mend what the traceback shows; --debug shows all of its frames"


def _checked(returned: object, *, shown: str) -> Target:
    """The Target that a factory returned; TargetError says what else it returned."""
    if isinstance(returned, Target):
        target = returned
    elif isinstance(returned, tuple) and len(returned) in (2, 3):
        target = Target(*returned)
    else:
        raise TargetError(f"{shown} returned {_described(returned)}", RETURNS, _instead_of(returned))
    for wrong, problem, suggestion in _problems(target):
        if wrong:
            raise TargetError(f"{shown} returned {problem}", RETURNS, suggestion)
    return target


def _problems(target: Target) -> list[tuple[bool, str, str]]:
    """What can be wrong with a Target: whether it is, what was found, and what to try."""
    model, args, kwargs, loss = target.model, target.args, target.kwargs, target.loss
    has_names = isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)
    return [
        (not isinstance(model, torch.nn.Module), f"{_described(model)} as the model", _instead_of(model)),
        (not isinstance(args, tuple), f"{_described(args)} as args", "return model, (x,): args is a tuple"),
        (not (kwargs is None or has_names), f"{_described(kwargs)} as kwargs", "a dict of forward's keyword arguments"),
        (not (loss is None or callable(loss)), f"{_described(loss)} as loss", "a function of the model's output"),
    ]


def _described(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _instead_of(value: object) -> str:
    if inspect.iscoroutine(value):
        value.close()
        return "a plain function: def, not async def"
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return f"an instance: return {value.__name__}(...), (x,)"
    if isinstance(value, torch.nn.Module):
        return "return model, (x,) with the positional arguments of forward, or return model, () where it takes none"
    return "return model, (x,), the model first"


def _load_loss(text: str, target: TargetText, module: ModuleType) -> Callable[..., object]:
    if not split_name(text)[1]:
        allowed = "package.module:function or file.py:function"
        raise UsageError(
            f"--loss {text or repr(text)} names no function", allowed, "--loss torch:sum, or --loss file.py:loss"
        )
    named = parse_target(text)
    assert named.name is not None
    with as_program(named):
        holder = module if _is_same(named, target) else import_target(named)
        found = find_name(holder, named.name, shown=named.origin)
    if not callable(found) or (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        allowed = "a function of the model's output"
        raise UsageError(f"--loss {text} is {_described(found)}", allowed, "--loss torch:sum")
    return cast("Callable[..., object]", found)


def _is_same(one: TargetText, other: TargetText) -> bool:
    """Whether both name one file or module, so that the user's code need not run twice."""
    if one.is_file and other.is_file:
        return os.path.samefile(one.origin, other.origin)
    return one.origin == other.origin


def _set_mode(model: torch.nn.Module, mode: Literal["train", "eval"], *, shown: str) -> None:
    with user_code(f"calling {mode}() of the model of {escape(shown)}", allowed=RETURNS, advice=_mend_factory):
        model.train() if mode == "train" else model.eval()
