"""Builds the model that a TARGET stands for, with the arguments of its forward, and runs it while fxgrad records it."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal, NamedTuple, cast

import torch

from fxgrad.errors import TargetError, UsageError
from fxgrad.graph import BackwardGraph, HookKind
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.graph.text import escape
from fxgrad.observe.execution import CompiledRun, Executed, execute, execute_compiled
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.probing import observe_with_hook
from fxgrad.observe.record.frames import user_code
from fxgrad.observe.record.names import read_signature
from fxgrad.observe.run import TracedRun, check_surroundings, observe_forward, unpack_exported
from fxgrad.observe.target.arguments import Arguments, Input, make_arguments, parse_init, parse_input
from fxgrad.observe.target.devices import parse_device
from fxgrad.observe.target.importing import (
    DEFAULT_FACTORY,
    TargetText,
    find_name,
    format_choices,
    import_target,
    list_callables,
    parse_target,
    run_as_program,
    split_name,
)
from fxgrad.target_options import TargetOptions

_RETURNS = "a factory that returns (model, args), (model, args, kwargs) or fxgrad.Target(model, args, kwargs, loss)"
_MEND = "fix what the traceback shows; --debug shows all frames"
_EXAMPLES = {"--init": '--init "1000, 1000"', "--input": "--input 'f32[9,1000]', once for each argument"}


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is traced: a model, the arguments of its forward, and what makes a loss of its output.

    ``args``    the positional arguments of ``model.forward``, a tuple; a factory may return a single tensor alone
    ``kwargs``  its keyword arguments
    ``loss``    called with the model's output; backward starts from what it returns
    """

    model: torch.nn.Module
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] | None = None
    loss: Callable[..., object] | None = None


def load_target(options: TargetOptions) -> Target:
    """Import what a TARGET names, and make the model and its arguments with it. Runs the user's code.

    The TARGET is ``file.py[:name]`` or ``package.module[:name]``, where the name is that of a factory (by default
    ``build``) or of a module class, which ``init`` and ``inputs`` of the options then build; or a file of a `KeptForm`,
    which holds the model, for ``inputs``. ``loss`` names a callable
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
    on_device = nullcontext() if options.device is None else parse_device(options.device)
    if options.seed is not None:
        torch.manual_seed(options.seed)
        random.seed(options.seed)
    with run_as_program(target), on_device:
        module = None if target.form is not None else import_target(target)
        built = (
            _load_kept(target, init, inputs, options.device) if module is None else _build(target, module, init, inputs)
        )
        if options.loss is not None:
            built = replace(built, loss=_load_loss(options.loss, target, module))
        if options.mode is not None and target.form is not None and not target.form.has_mode:
            raise UsageError(
                f"--{options.mode} with {escape(target.origin)}, a program of {target.form.name}",
                "a model that has the mode in its Python; this has that in which it was exported",
                f"omit --{options.mode}, or export the model in that mode",
            )
        if options.mode is not None:
            _set_mode(built.model, options.mode, shown=options.text)
    return built


def _load_kept(target: TargetText, init: Arguments | None, inputs: Sequence[Input], device: str | None) -> Target:
    assert target.form is not None
    shown = escape(target.origin)
    if init is not None:
        raise UsageError(
            f"--init with {shown}, a program of {target.form.name} that has been built already",
            "--input alone",
            "omit --init",
        )
    model, args, kwargs = target.form.load(target.origin, device)
    if (args or kwargs) and not inputs:
        return Target(model, args, kwargs or None)
    return _with_inputs(model, inputs, shown=shown)


def _build(target: TargetText, module: ModuleType, init: Arguments | None, inputs: Sequence[Input]) -> Target:
    name = target.name or DEFAULT_FACTORY
    found = find_name(module, name, shown=target.origin)
    shown = f"{escape(target.origin)}:{name}"
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        return _build_instance(found, init or Arguments((), {}), inputs, shown=shown)
    options = [option for option, given in (("--init", init is not None), ("--input", inputs)) if given]
    if options:
        raise UsageError(
            f"{' and '.join(options)} with {shown}, which is not a module class",
            "--init and --input with a module class, such as torch.nn:LSTMCell",
            f"omit {' and '.join(options)}: a factory returns the model with its arguments",
        )
    if isinstance(found, torch.nn.Module) or not callable(found):
        raise UsageError(
            f"{shown} is {_describe(found)}, not a factory",
            format_choices(list_callables(module)),
            f"def {DEFAULT_FACTORY}(): return model, (x,)",
        )
    return _call_factory(found, shown=shown)


def _build_instance(kind: type[torch.nn.Module], init: Arguments, inputs: Sequence[Input], *, shown: str) -> Target:
    _check_option("--init", init, kind, called=kind.__name__, shown=shown)
    with user_code(
        f"making {shown}",
        allowed="arguments that its constructor accepts",
        advice=lambda _: "other arguments in --init, or a factory, file.py:build, that builds it",
    ):
        model = kind(*init.args, **init.kwargs)
    return _with_inputs(model, inputs, shown=shown)


def _with_inputs(model: torch.nn.Module, inputs: Sequence[Input], *, shown: str) -> Target:
    made = make_arguments(inputs)
    _check_option("--input", made, model.forward, called="forward", shown=shown)
    return Target(model, made.args, made.kwargs or None)


def _check_option(option: str, given: Arguments, function: Callable[..., object], *, called: str, shown: str) -> None:
    """Raise UsageError where the function that is called does not take what an option gives it."""
    mismatch = _find_mismatch(function, given)
    if mismatch is not None:
        raise UsageError(
            f"{option} of {shown}: {mismatch.reason}", f"{called}({mismatch.parameters})", _EXAMPLES[option]
        )


class _Mismatch(NamedTuple):
    """Why a function cannot be called with some arguments, and its parameters, those with a default in brackets."""

    reason: str
    parameters: str


def _find_mismatch(function: Callable[..., object], given: Arguments) -> _Mismatch | None:
    try:
        signature = read_signature(function)
    except (TypeError, ValueError):  # a builtin that has none: calling it will tell
        return None
    try:
        signature.bind(*given.args, **given.kwargs)
    except TypeError as error:
        return _Mismatch(str(error), ", ".join(map(_format_parameter, signature.parameters.values())))
    return None


def _format_parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"[*{parameter.name}]"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"[**{parameter.name}]"
    return parameter.name if parameter.default is parameter.empty else f"[{parameter.name}]"


def _call_factory(factory: Callable[..., object], *, shown: str) -> Target:
    mismatch = _find_mismatch(factory, Arguments((), {}))
    if mismatch is not None:
        raise TargetError(
            f"{shown}({mismatch.parameters}): {mismatch.reason}",
            "a factory that needs no arguments",
            "give every parameter a default value",
        )
    with user_code(f"calling {shown}()", allowed=_RETURNS, advice=lambda _: _MEND):
        returned = factory()
    return _check_returned(returned, shown=shown)


def _check_returned(returned: object, *, shown: str) -> Target:
    """What a factory returned, as a Target. Raises TargetError for anything else, and for a Target of wrong parts."""
    if isinstance(returned, Target):
        target = returned
    elif isinstance(returned, tuple) and len(returned) in (2, 3):
        target = Target(*returned)
    else:
        raise TargetError(f"{shown} returned {_describe(returned)}", _RETURNS, _suggest_return(returned))
    target = replace(target, model=unpack_exported(target.model))
    if isinstance(target.args, torch.Tensor):  # as for fxgrad.trace, a single argument
        target = replace(target, args=(target.args,))
    model, args, kwargs, loss = target.model, target.args, target.kwargs, target.loss
    has_names = isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)
    for is_right, problem, suggestion in (
        (isinstance(model, torch.nn.Module), f"{_describe(model)} as the model", _suggest_return(model)),
        (isinstance(args, tuple), f"{_describe(args)} as args", "return model, (x,): args is a tuple"),
        (kwargs is None or has_names, f"{_describe(kwargs)} as kwargs", "a dict of forward's keyword arguments"),
        (loss is None or callable(loss), f"{_describe(loss)} as loss", "a function of the model's output"),
    ):
        if not is_right:
            raise TargetError(f"{shown} returned {problem}", _RETURNS, suggestion)
    return target


def _describe(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _suggest_return(value: object) -> str:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that it was never awaited
        return "a plain function: def, not async def"
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return f"an instance: return {value.__name__}(...), (x,)"
    if isinstance(value, torch.nn.Module):
        return "return model, (x,) with the positional arguments of forward, or return model, () if it takes none"
    return "return model, (x,), the model first"


def _load_loss(text: str, target: TargetText, module: ModuleType | None) -> Callable[..., object]:
    if not split_name(text)[1]:
        allowed = "package.module:function or file.py:function"
        raise UsageError(
            f"--loss {text or repr(text)} names no function", allowed, "--loss torch:sum, or --loss file.py:loss"
        )
    named = parse_target(text)
    assert named.name is not None
    with run_as_program(named):
        holder = module if module is not None and _is_same(named, target) else import_target(named)
        found = find_name(holder, named.name, shown=named.origin)
    if not callable(found) or (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        allowed = "a function of the model's output"
        raise UsageError(f"--loss {text} is {_describe(found)}", allowed, "--loss torch:sum")
    return cast("Callable[..., object]", found)


def _is_same(one: TargetText, other: TargetText) -> bool:
    """Whether both name one file or module, so that the user's code need not run twice."""
    if one.is_file and other.is_file:
        return os.path.samefile(one.origin, other.origin)
    return one.origin == other.origin


def _set_mode(model: torch.nn.Module, mode: Literal["train", "eval"], *, shown: str) -> None:
    with user_code(f"calling {mode}() of the model of {escape(shown)}", allowed=_RETURNS, advice=lambda _: _MEND):
        model.train() if mode == "train" else model.eval()


# Runs of a target


_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def observe_target(options: TargetOptions) -> tuple[TracedRun, torch.nn.Module]:
    """Load the target and trace its forward; also returns its model."""
    with _load(options) as (target, watch):
        observed = observe_forward(
            target.model, tuple(target.args), dict(target.kwargs or {}), loss=target.loss, watch=watch
        )
    return observed, target.model


def execute_target(options: TargetOptions, called: Callable[[BackwardGraph], BackwardGraph]) -> Executed:
    """Load the target and run its forward and backward. `called` puts into the graph how backward is called."""
    with _load(options) as (target, watch):
        return execute(
            target.model, tuple(target.args), dict(target.kwargs or {}), loss=target.loss, watch=watch, called=called
        )


def execute_compiled_target(options: TargetOptions) -> CompiledRun:
    """Load the target and run it without torch.compile and with it."""
    with _load(options) as (target, watch):
        args, kwargs = tuple(target.args), dict(target.kwargs or {})
        return execute_compiled(target.model, args, kwargs, loss=target.loss, watch=watch)


def observe_target_with_hook(options: TargetOptions, module: str, kind: HookKind) -> ProbeRun:
    """Load the target and run its forward without a hook of `kind` on `module` and with it."""
    with _load(options) as (target, watch):
        args, kwargs = tuple(target.args), dict(target.kwargs or {})
        return observe_with_hook(target.model, args, kwargs, module=module, kind=kind, loss=target.loss, watch=watch)


@contextmanager
def _load(options: TargetOptions) -> Iterator[tuple[Target, RegistrationWatch]]:
    """The target, with the places where it registered its hooks; inside, it runs as a program of its own would."""
    watch = RegistrationWatch()
    with run_as_program(parse_target(options.text)):
        with watch.watching():
            target = load_target(options)
        check_surroundings()  # importing it may have entered a mode
        with _find_autocast(options):
            yield target, watch


def _find_autocast(options: TargetOptions) -> AbstractContextManager[object]:
    if options.autocast is None:
        return nullcontext()
    kind = "cpu" if options.device is None else torch.device(options.device).type
    return torch.autocast(kind, dtype=_AUTOCAST_DTYPES[options.autocast])
