"""What a full hook sees of a call, what it does to it, and what it cannot be combined with: FXG106 to FXG108, FXG117."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from fxgrad.graph import BackwardGraph, Explanation, Module, ModuleCall, TensorRef
from fxgrad.graph.lookup import is_used_outside
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_argument,
    format_path,
    format_tuple,
    join_words,
    name_forward,
    name_hook_function,
    name_module,
    pluralize,
    quote_code,
)
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import ModuleSite, Subject

_HOOKS_PY = "(torch/utils/hooks.py, BackwardHook)"
_TOP_LEVEL = 2
_TENSOR = ("result",)


# What a full hook sees of a call: torch/utils/hooks.py, BackwardHook, packs it so


def takes_full_hook(call: ModuleCall) -> bool:
    """Whether forward returned a Tensor, a tuple or a named tuple, on which full hooks are sure to work."""
    return call.result_type == "tuple" or call.is_named_tuple or any(ref.path == _TENSOR for ref in call.outputs)


def advise_on_result(call: ModuleCall) -> str:
    """How a module whose result a full hook does not take can return one that it takes."""
    if call.takes_return_dict:
        return f"pass return_dict=False to {name_module(call.path)}, which then returns a tuple"
    return f"return a Tensor or a tuple of Tensors from {name_forward(call)}"


def is_visible(ref: TensorRef) -> bool:
    """Whether a full hook has an entry for the tensor: a positional argument, or a result, itself."""
    return ref.path == _TENSOR or (len(ref.path) == _TOP_LEVEL and ref.path[0] in ("args", "result"))


def _list_hidden(refs: tuple[TensorRef, ...]) -> tuple[TensorRef, ...]:
    """The tensors that carry a gradient and that a full hook has no entry for."""
    return tuple(ref for ref in refs if ref.requires_grad and not is_visible(ref))


def name_hidden_inputs(call: ModuleCall) -> list[str]:
    """The arguments that require grad and that a full hook has no entry for."""
    return [format_argument(call.argument_names, ref.path) for ref in _list_hidden(call.inputs)]


def _name_hidden_outputs(graph: BackwardGraph, call: ModuleCall) -> list[str]:
    """The results to which a gradient comes back and that a full hook has no entry for."""
    hidden = _list_hidden(call.outputs) if takes_full_hook(call) else ()
    return [format_path(ref.path) for ref in hidden if is_used_outside(graph, call, ref)]


def name_grad_inputs(call: ModuleCall) -> tuple[str, ...]:
    """One entry per positional argument, None if it is not a tensor; all None if none of them requires grad."""
    tops = {ref.path[1] for ref in call.inputs if is_visible(ref)}
    if not any(ref.requires_grad for ref in call.inputs if is_visible(ref)):
        return ("None",) * call.n_args
    return tuple(
        format_argument(call.argument_names, ("args", at)) if at in tops else "None" for at in range(call.n_args)
    )


def name_grad_outputs(subject: Subject, call: ModuleCall) -> tuple[str, ...]:
    """One entry per result, None where it is known that no gradient comes back."""
    tops = {ref.path: ref for ref in call.outputs if is_visible(ref)}
    if _TENSOR in tops:
        return (_name_result(subject, call, tops[_TENSOR]),)
    refs = (tops.get(("result", at)) for at in range(call.n_results))
    return tuple(_name_result(subject, call, ref) if ref else "None" for ref in refs)


def _name_result(subject: Subject, call: ModuleCall, ref: TensorRef) -> str:
    return format_path(ref.path) if ref.requires_grad and is_used_outside(subject.graph, call, ref) else "None"


def advise_input_grad(subject: Subject, call: ModuleCall) -> str | None:
    """How to get the gradient of a positional argument that requires no grad; None if none of them can require it."""
    refs = (ref for ref in call.inputs if is_visible(ref) and ref.meta.dtype.startswith(("float", "bfloat", "complex")))
    ref = next(refs, None)
    if ref is None:
        return None
    variable = subject.graph.variables_by_name.get(ref.name or "")
    name = format_argument(call.argument_names, ref.path) if variable is None else variable.name
    return f"for the input's gradient, call `{escape(name)}.requires_grad_()` before the module is called"


def advise_full_hook(subject: Subject, call: ModuleCall) -> str:
    """What to expect from a full hook at this call."""
    if not takes_full_hook(call):
        instead = (
            f"{advise_on_result(call)}, and use register_full_backward_hook; or " if call.takes_return_dict else ""
        )
        return (
            f"{instead}use Tensor.register_hook on the tensors themselves: a full hook needs a Tensor or a tuple as result, not "
            f"{escape(call.result_type)}"
        )
    names, hidden = name_grad_inputs(call), name_hidden_inputs(call)
    all_none = ", all None because none of them requires grad" if set(names) == {"None"} else ""
    asking = advise_input_grad(subject, call) if all_none and not hidden else None
    unseen = f" (it does not see {join_words(hidden)}, passed by keyword or inside a container)" if hidden else ""
    return (
        f"register_full_backward_hook: grad_input would be {format_tuple(names)}, one entry per positional argument"
        f"{all_none}{unseen}; grad_output {format_tuple(name_grad_outputs(subject, call))}, one per result"
        f"{'' if asking is None else f'; {asking}'}{_warn_of_repeated_arguments(call)}"
    )


def _warn_of_repeated_arguments(call: ModuleCall) -> str:
    repeated = list_repeated_arguments(call) if any(ref.requires_grad for ref in call.inputs if is_visible(ref)) else []
    if not repeated:
        return ""
    return (
        f"; {join_words(map(quote_code, repeated[0]))} are one tensor, and would be {len(repeated[0])} inside forward"
    )


# FXG106

_FXG106 = Page(
    code="FXG106",
    title="A full hook's output is a view and is modified in place",
    what="""
    With a full hook, forward raises "Output 0 of BackwardHookFunction is a view and is being modified inplace";
    without the hook, it works.
    """,
    why="""
    A full hook or full pre-hook passes the module's positional arguments and results through BackwardHookFunction,
    whose outputs are views of its inputs. Modifying such a view in place would put the change behind the hook's node,
    so autograd refuses it: for the result itself, for a view of it, and for an argument inside forward. It is allowed
    under no_grad, and if nothing requires grad.
    """,
    source="torch/nn/modules/_functions.py, BackwardHookFunction; torch/csrc/autograd/variable.cpp",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> handle = linear.register_full_backward_hook(lambda *given: None)
    >>> output = linear(torch.ones(4, 3))
    >>> output.relu_()
    Traceback (most recent call last):
        ...
    RuntimeError: Output 0 of BackwardHookFunction... is a view and is being modified inplace. ...
    >>> tuple(output.clone().relu_().shape)
    (4, 2)
    """,
    fix="""
    Make the operation out-of-place (ReLU(inplace=False), `x = x + y` for `x += y`), or apply it to a clone.
    """,
)

_INPLACE = re.compile(r"Output (\d+) of (\w+) is a view and is being modified inplace")


def _explain_inplace_error(message: str) -> Explanation | None:
    """Explain the RuntimeError about modifying in place what a full hook wraps; None for any other message.

    `message` is PyTorch's (torch/csrc/autograd/variable.cpp, handle_view_on_rebase).
    """
    found = _INPLACE.search(message)
    marked = "BackwardHookFunction" in message
    if found is None or not (marked or "created inside a custom Function" in message):
        return None
    number, function = found.groups()
    marks = (
        "Full hooks and full pre-hooks pass a module's positional arguments and results through BackwardHookFunction, "
        "whose outputs are views of its inputs. Autograd refuses to modify such a view in place"
    )
    if marked:
        because = f"{marks}: here output {number} of BackwardHookFunction. {_HOOKS_PY}"
    else:
        because = (
            f"{marks}, or a view of it: here output {number} of {escape(function)}. A custom Function that returns an "
            f"input unchanged raises the same error without any hook. {_HOOKS_PY}"
        )
    return Explanation(
        code="FXG106",
        severity="error",
        headline="a tensor that a full backward hook wraps was modified in place",
        because=because,
        fix=(
            "make the operation that raised out-of-place (inplace=False, `x = x + y` for `x += y`), or apply it to "
            "`.clone()` of the module's result"
        ),
    )


# FXG107

_FXG107 = Page(
    code="FXG107",
    title="Keyword arguments and nested tensors are missing",
    what="""
    grad_input or grad_output of a full hook has None, or no entry, for a tensor that does get a gradient.
    """,
    why="""
    A full hook sees only positional arguments, and elements of the result, that are tensors themselves. A tuple, list
    or dict of tensors has one entry, None; a keyword argument has no entry.
    """,
    source="torch/utils/hooks.py, BackwardHook._apply_on_tensors",
    example="""
    >>> import torch
    >>> cell = torch.nn.LSTMCell(4, 3)
    >>> def show(module, grad_input, grad_output):
    ...     print([None if grad is None else tuple(grad.shape) for grad in grad_input])
    >>> handle = cell.register_full_backward_hook(show)
    >>> x, h, c = (torch.ones(5, size, requires_grad=True) for size in (4, 3, 3))
    >>> hidden, state = cell(x, (h, c))
    >>> hidden.sum().backward()
    [(5, 4), None]
    """,
    fix="""
    Pass the tensors one by one as positional arguments, return them in one flat tuple, or use Tensor.register_hook on
    them.
    """,
)


def _explain_missing_entries(subject: Subject) -> Iterator[Explanation]:
    """Keyword arguments and nested tensors have no entry."""
    kind = subject.hook.kind
    if kind.is_full and (inputs := _find_hidden(subject, _name_inputs_without_entry)):
        yield _explain_hidden_inputs(*inputs)
    name_outputs = partial(_name_hidden_outputs, subject.graph)
    if (kind.is_full or kind.is_full_pre) and (outputs := _find_hidden(subject, name_outputs)):
        yield _explain_hidden_outputs(*outputs)


def _name_inputs_without_entry(call: ModuleCall) -> list[str]:
    """The same as `name_hidden_inputs`, but none where no positional argument requires grad: FXG105 names them there."""
    all_none = call.full_hook is not None and call.full_hook.input_positions is None
    return [] if all_none else name_hidden_inputs(call)


def _find_hidden(
    subject: Subject, name_hidden: Callable[[ModuleCall], list[str]]
) -> tuple[ModuleSite, list[str]] | None:
    """The first site whose call hides tensors from the hook, with their names."""
    sites = (site for site in subject.module_sites if site.site.fires is not False)
    return next(((site, names) for site in sites if (names := name_hidden(site.call))), None)


def _explain_hidden_inputs(site: ModuleSite, names: Sequence[str]) -> Explanation:
    positional = "a positional argument" if len(names) == 1 else "positional arguments"
    them, are = ("it", "is") if len(names) == 1 else ("them", "are")
    return Explanation(
        code="FXG107",
        severity="warning",
        headline=f"grad_input has no entry for {join_words(names)}",
        because=(
            f"grad_input has one entry for {_count_each(site.call.n_args, 'positional argument')} of "
            f"{name_forward(site.call)}, and a gradient only if that is a tensor itself: {join_words(names)} {are} "
            f"passed by keyword or inside a container. {_HOOKS_PY}"
        ),
        fix=f"pass {them} as {positional}, or use Tensor.register_hook on {them}",
        site=site.site,
    )


def _explain_hidden_outputs(site: ModuleSite, names: Sequence[str]) -> Explanation:
    them, are = ("it", "is") if len(names) == 1 else ("them", "are")
    return Explanation(
        code="FXG107",
        severity="warning",
        headline=f"grad_output has no entry for {join_words(names)}",
        because=(
            f"grad_output has one entry for {_count_each(site.call.n_results, 'result')} of {name_forward(site.call)}, "
            f"and a gradient only if that is a tensor itself: {join_words(names)} {are} inside a container. {_HOOKS_PY}"
        ),
        fix=f"return {them} in one flat tuple, or use Tensor.register_hook on {them}",
        site=site.site,
    )


def _count_each(count: int, what: str) -> str:
    return f"the one {what}" if count == 1 else f"each of the {count_noun(count, what)}"


# FXG108

_FXG108 = Page(
    code="FXG108",
    title="Full and non-full hooks on one module",
    what="""
    Registering a hook raises "Cannot use both regular backward hooks and full backward hooks", even after the
    other hook was removed; or a non-full hook beside a full pre-hook gets the gradients of the results twice.
    """,
    why="""
    A module keeps all its backward hooks in one dict, with a flag, _is_full_backward_hook, that says which kind they
    are. The first registration sets the flag; removing the handle does not reset it. The same holds for global hooks.

    A global hook beside a local one, and a full pre-hook beside a non-full hook, are allowed. The full one then puts
    its BackwardHookFunction on the results before the non-full one looks for their grad_fn.
    """,
    source="torch/nn/modules/module.py, register_backward_hook and register_full_backward_hook",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> linear.register_full_backward_hook(lambda *given: None).remove()
    >>> linear.register_backward_hook(lambda *given: None)
    Traceback (most recent call last):
        ...
    RuntimeError: Cannot use both regular backward hooks and full backward hooks on a single Module. ...
    """,
    fix="""
    Use only full hooks. If a non-full one was ever registered, create a new module, or set its _is_full_backward_hook
    to None once no hook is left on it.
    """,
)

_MIXED = "Cannot use both regular backward hooks and full backward hooks"


def _explain_hook_beside_full_hooks(subject: Subject) -> Iterator[Explanation]:
    """A non-full hook of a module that also has full hooks sits on the full hook's node."""
    if not subject.hook.kind.is_legacy:
        return
    site = next((site for site in subject.module_sites if site.node.id == site.call.output_hook_node), None)
    if site is not None:
        hooks = (subject.graph.hooks[number] for number in site.call.hooks)
        full = [name_hook_function(hook) for hook in hooks if hook.kind.is_full or hook.kind.is_full_pre]
        yield Explanation(
            code="FXG108",
            severity="warning",
            headline="the non-full hook sits on the node of a full hook",
            because=(
                f"{_name_full_hooks(full)} put {escape(site.node.label)} on the results of "
                f"{name_module(subject.path)}, and the non-full hook sits on the grad_fn that it finds there. Its "
                "grad_input and grad_output are the gradients of the results, one each per top-level tensor. "
                f"{_HOOKS_PY}"
            ),
            fix="use only full hooks",
            site=site.site,
        )


def _name_full_hooks(names: Sequence[str]) -> str:
    return f"The full {pluralize(len(names), 'hook')} {join_words(names)}" if names else "A full hook"


def _explain_refusal(graph: BackwardGraph) -> Iterator[Explanation]:
    """A module keeps its kind of hooks after the last of them was removed."""
    for module in graph.modules:
        kinds = [graph.hooks[hook].kind for hook in module.hooks]
        if module.full_backward_sticky is not None and not any(kind.is_legacy or kind.is_full for kind in kinds):
            yield _refuse_other_kind(module)


def _refuse_other_kind(module: Module) -> Explanation:
    had, refused = ("full", "non-full") if module.full_backward_sticky else ("non-full", "full")
    return Explanation(
        code="FXG108",
        severity="info",
        headline=f"{name_module(module.path)} has no backward hook but still refuses {refused} ones",
        because=(
            f"A {had} backward hook was registered on it once. That set _is_full_backward_hook, which stays when the "
            f"handle is removed: registering a {refused} hook raises RuntimeError. (torch/nn/modules/module.py, "
            "register_backward_hook)"
        ),
        fix="create a new module, or set its _is_full_backward_hook to None once no hook is left on it",
        owner=module.path,
    )


def _explain_mixed_hooks_error(message: str) -> Explanation | None:
    """Explain the RuntimeError about full and non-full hooks on one module; None for any other message."""
    if _MIXED not in message:
        return None
    shared = "global Module hook" in message
    owner = "the process (global module hooks)" if shared else "the module"
    return Explanation(
        code="FXG108",
        severity="error",
        headline="full and non-full backward hooks cannot be mixed",
        because=(
            f"The first backward hook that is registered decides the kind for {owner}; removing its handle does not "
            "undo that. (torch/nn/modules/module.py, register_backward_hook)"
        ),
        fix="use only full hooks; if a non-full one was ever registered, create a new module",
    )


# FXG117

_FXG117 = Page(
    code="FXG117",
    title="A full hook makes several tensors of an argument that is given twice",
    what="""
    With a full hook on it, a module runs other operations than without: self-attention, for example, no longer takes its
    branch for `query is key`.
    """,
    why="""
    A full hook passes the positional arguments through BackwardHookFunction, which returns a new tensor for each of them,
    also where two are the same object. So `is` is False for them inside forward. The gradients are the same up to rounding;
    each position has its own part in grad_input.
    """,
    source="torch/utils/hooks.py, BackwardHook._apply_on_tensors; torch/nn/functional.py, _in_projection_packed",
    example="""
    >>> import torch
    >>> class Compare(torch.nn.Module):
    ...     def forward(self, one, other):
    ...         print(one is other)
    ...         return one * other
    >>> compare, x = Compare(), torch.ones(3, requires_grad=True)
    >>> y = compare(x, x)
    True
    >>> handle = compare.register_full_backward_hook(lambda *given: None)
    >>> y = compare(x, x)
    False
    """,
    fix="""
    Use tensor hooks on the arguments and results, which change nothing in forward.
    """,
)


def list_repeated_arguments(call: ModuleCall) -> list[tuple[str, ...]]:
    """The names of the positional arguments that are one tensor, for each tensor that is given more than once."""
    names: dict[tuple[object, ...], list[str]] = {}
    for ref in call.inputs:
        if ref.path[0] == "args" and is_visible(ref):
            same = (ref.node, ref.slot) if ref.node is not None else (ref.fx_node, ref.fx_index, ref.name)
            if same != (None, None, None):
                names.setdefault((ref.requires_grad, *same), []).append(format_argument(call.argument_names, ref.path))
    return [tuple(each) for each in names.values() if len(each) > 1]


def _splits_inputs(call: ModuleCall) -> bool:
    """Whether PyTorch passed the positional arguments through a BackwardHookFunction."""
    return call.full_hook is not None and call.full_hook.input_positions is not None


def _explain_repeated_arguments(subject: Subject) -> Iterator[Explanation]:
    """A full hook splits an argument that is given more than once."""
    if not subject.hook.kind.is_full and not subject.hook.kind.is_full_pre:
        return
    pairs = [
        (site, call) for site in subject.sites if (call := subject.call(site)) is not None and _splits_inputs(call)
    ]
    found = next(((site, call, given[0]) for site, call in pairs if (given := list_repeated_arguments(call))), None)
    if found is None:
        return
    site, call, repeated = found
    names = join_words(map(quote_code, repeated))
    yield Explanation(
        code="FXG117",
        severity="warning",
        headline=f"the full hook makes {len(repeated)} tensors of one: {names}",
        because=(
            f"This call gets one tensor as {names}. The full hook passes each through BackwardHookFunction, so they are "
            f"different objects inside {name_forward(call)}: where it compares them with `is`, it takes another branch "
            f"than without the hook. grad_input has the part of each. {_HOOKS_PY}"
        ),
        fix="use Tensor.register_hook on the arguments and results, which changes nothing in forward",
        site=site,
    )


RULES = (
    Rule(_FXG106, error_rules=(_explain_inplace_error,)),
    Rule(_FXG107, hook_rules=(_explain_missing_entries,)),
    Rule(
        _FXG108,
        hook_rules=(_explain_hook_beside_full_hooks,),
        graph_rules=(_explain_refusal,),
        error_rules=(_explain_mixed_hooks_error,),
    ),
    Rule(_FXG117, hook_rules=(_explain_repeated_arguments,)),
)
