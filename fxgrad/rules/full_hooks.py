"""What full hooks do not see, or do not stand: FXG106, FXG107 and FXG108."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from fxgrad.graph import BackwardGraph, Explanation, HookKind, Module, ModuleCall
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_argument,
    format_path,
    join_words,
    name_forward,
    name_hook_function,
    name_module,
)
from fxgrad.rules.full_view import invisible, takes_full_hook
from fxgrad.rules.subject import Spot, Subject

_HOOKS_PY = "(torch/utils/hooks.py, BackwardHook)"
_INPLACE = re.compile(r"Output (\d+) of (\w+) is a view and is being modified inplace")
_MIXED = "Cannot use both regular backward hooks and full backward hooks"


def full_hook_misses_tensors(subject: Subject) -> Iterator[Explanation]:
    """FXG107: keyword arguments and nested tensors have no entry."""
    if subject.hook.kind.is_full:
        yield from _misses(subject, _hidden_inputs, _misses_inputs)
    if subject.hook.kind.is_full or subject.hook.kind.is_full_pre:
        yield from _misses(subject, _hidden_outputs, _misses_outputs)


_Names = Sequence[str]


def _misses(
    subject: Subject, hidden: Callable[[ModuleCall], _Names], say: Callable[[Spot, _Names], Explanation]
) -> Iterator[Explanation]:
    spots = (spot for spot in subject.spots if spot.site.fires is not False and hidden(spot.call))
    spot = next(spots, None)
    if spot is not None:
        yield say(spot, hidden(spot.call))


def _hidden_inputs(call: ModuleCall) -> _Names:
    return [format_argument(call.argument_names, ref.path) for ref in invisible(call.inputs)]


def _hidden_outputs(call: ModuleCall) -> _Names:
    return [format_path(ref.path) for ref in invisible(call.outputs)] if takes_full_hook(call) else []


def _misses_inputs(spot: Spot, names: _Names) -> Explanation:
    return Explanation(
        code="FXG107",
        severity="warning",
        headline=f"grad_input has no entry for {join_words(names)}",
        because=(
            f"grad_input has one entry for {_each(spot.call.n_args, 'positional argument')} of "
            f"{name_forward(spot.call)}, and a gradient only where that is a tensor itself: {join_words(names)} "
            f"came as a keyword argument or inside a container. {_HOOKS_PY}"
        ),
        fix=f"hand {_them(names)} over as {_positional(names)}, or put Tensor.register_hook on {_them(names)}",
        site=spot.site,
    )


def _misses_outputs(spot: Spot, names: _Names) -> Explanation:
    return Explanation(
        code="FXG107",
        severity="warning",
        headline=f"grad_output has no entry for {join_words(names)}",
        because=(
            f"grad_output has one entry for {_each(spot.call.n_results, 'result')} of "
            f"{name_forward(spot.call)}, and a gradient only where that is a tensor itself: {join_words(names)} "
            f"came inside a container. {_HOOKS_PY}"
        ),
        fix=f"return {_them(names)} in one flat tuple, or put Tensor.register_hook on {_them(names)}",
        site=spot.site,
    )


def _each(count: int, what: str) -> str:
    return f"the one {what}" if count == 1 else f"each of the {count_noun(count, what)}"


def _positional(names: _Names) -> str:
    return "a positional argument" if len(names) == 1 else "positional arguments"


def _them(names: _Names) -> str:
    return "it" if len(names) == 1 else "them"


def legacy_hook_beside_full_hooks(subject: Subject) -> Iterator[Explanation]:
    """FXG108: a non-full hook of a module that has full hooks too lands on the full hook's node."""
    if not subject.hook.kind.is_legacy:
        return
    spot = next((spot for spot in subject.spots if spot.node.id == spot.call.output_hook_node), None)
    if spot is not None:
        yield Explanation(
            code="FXG108",
            severity="warning",
            headline="the non-full hook sits on the node of a full hook",
            because=(
                f"{_full_hooks(subject, spot.call)} put {escape(spot.node.label)} behind the results of "
                f"{name_module(subject.path)}, and the non-full hook takes the grad_fn it finds there. Its grad_input "
                f"and grad_output are the gradients of the results, one each per top-level tensor. {_HOOKS_PY}"
            ),
            fix="use full hooks only",
            site=spot.site,
        )


def _full_hooks(subject: Subject, call: ModuleCall) -> str:
    hooks = (subject.graph.hooks[number] for number in call.hooks)
    names = [name_hook_function(hook) for hook in hooks if hook.kind.is_full or hook.kind.is_full_pre]
    return f"{join_words(names) or 'A full hook'}, registered for full hooks,"


def module_refuses_the_other_kind(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG108: a module keeps its kind of hooks after the last of them was removed."""
    for module in graph.modules:
        if module.full_backward_sticky is not None and not _has_hooks(graph, module):
            yield _refuses(module)


def _has_hooks(graph: BackwardGraph, module: Module) -> bool:
    kinds = (HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD)
    return any(graph.hooks[number].kind in kinds for number in module.hooks)


def _refuses(module: Module) -> Explanation:
    had, refused = ("full", "non-full") if module.full_backward_sticky else ("non-full", "full")
    return Explanation(
        code="FXG108",
        severity="info",
        headline=f"{name_module(module.path)} has no backward hook and still refuses {refused} ones",
        because=(
            f"A {had} backward hook was registered on it once. That set _is_full_backward_hook, which stays when the "
            f"handle is removed: registering a {refused} hook raises RuntimeError. "
            "(torch/nn/modules/module.py, register_backward_hook)"
        ),
        fix="make a new module; or set its _is_full_backward_hook to None, knowing that no hook is left on it",
        owner=module.path,
    )


def inplace_error_help(message: str) -> Explanation | None:
    """Explain the RuntimeError of an in-place change of what a full hook has marked; None for any other message.

    `message` is PyTorch's (torch/csrc/autograd/variable.cpp, handle_view_on_rebase).
    """
    found = _INPLACE.search(message)
    marked = "BackwardHookFunction" in message
    if found is None or not (marked or "created inside a custom Function" in message):
        return None
    return Explanation(
        code="FXG106",
        severity="error",
        headline="a tensor that a full backward hook marks was changed in place",
        because=_inplace_because(found, marked=marked),
        fix=(
            "make the operation that raised out-of-place (inplace=False, `x = x + y` for `x += y`), or give it "
            "`.clone()` of the module's result"
        ),
    )


def _inplace_because(found: re.Match[str], *, marked: bool) -> str:
    number, function = found.groups()
    marks = (
        "Full hooks and full pre-hooks pass a module's positional arguments and results through BackwardHookFunction, "
        "whose outputs are views of its inputs. Autograd refuses an in-place change of such a view"
    )
    if marked:
        return f"{marks}: here of output {number} of BackwardHookFunction. {_HOOKS_PY}"
    return (
        f"{marks}, also through a further view: here of output {number} of {escape(function)}. A custom Function of "
        f"your own that returns an input as it is raises the same, without any hook. {_HOOKS_PY}"
    )


def mixed_hooks_help(message: str) -> Explanation | None:
    """Explain the RuntimeError about full and non-full hooks on one module; None for any other message."""
    if _MIXED not in message:
        return None
    shared = "global Module hook" in message
    owner = "the process (global module hooks)" if shared else "the module"
    return Explanation(
        code="FXG108",
        severity="error",
        headline="full and non-full backward hooks do not go together",
        because=(
            f"The first backward hook that is registered decides the kind for {owner}, and the choice stays when its "
            "handle is removed. (torch/nn/modules/module.py, register_backward_hook)"
        ),
        fix="use full hooks only; where a non-full one was registered once, make a new module",
    )
