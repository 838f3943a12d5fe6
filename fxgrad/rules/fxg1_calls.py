"""Calls and in-place changes after a hook was registered: FXG110, FXG111, FXG112 and FXG115."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, HookSite, ModuleCall
from fxgrad.graph.backward_graph import PlacedSite
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_argument,
    format_meta,
    format_ranges,
    format_source,
    join_words,
    name_hook_function,
    name_module,
    pluralize,
    quote_code,
)
from fxgrad.rules.data_flow import begin_at, name_operation
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import Subject

# FXG110

_FXG110 = Page(
    code="FXG110",
    title="A removed hook still fires",
    what="""
    handle.remove() was called, and backward still calls the hook.
    """,
    why="""
    Each call of a module captures the hooks that the module has at that moment and puts them on nodes of the graph.
    handle.remove() removes the hook from the module, not from those nodes. Hooks on tensors and nodes are different:
    removing them works until backward reaches them.
    """,
    source="torch/nn/modules/module.py, Module._get_backward_hooks",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> handle = linear.register_full_backward_hook(lambda *given: print("fired"))
    >>> output = linear(torch.ones(4, 3, requires_grad=True))
    >>> handle.remove()
    >>> output.sum().backward()
    fired
    """,
    fix="""
    Remove it before forward, or have the hook return early when a flag is off.
    """,
)


def _explain_removed_hook(subject: Subject) -> Iterator[Explanation]:
    """A handle was removed, but calls made before still carry the hook."""
    carrying = [placed for placed in subject.placed if placed.site.fires is not False]
    if subject.hook.active or not carrying or not subject.hook.kind.is_module:
        return
    yield Explanation(
        code="FXG110",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} was removed but still fires",
        because=(
            "A module call captures the module's hooks when it runs; a later handle.remove() changes the module, not "
            f"the call. {_name_carriers(carrying)}. (torch/nn/modules/module.py, Module._get_backward_hooks)"
        ),
        fix="remove the handle before forward runs, or have the hook return early when a flag is off",
        site=carrying[0].site,
    )


def _name_carriers(carrying: Sequence[PlacedSite]) -> str:
    calls = [placed.call.index for placed in carrying if placed.call is not None]
    who = f"{pluralize(len(calls), 'call')} {format_ranges(calls)}" if calls else "this graph"
    verb = "carry" if len(calls) > 1 else "carries"
    return f"{who.capitalize()} still {verb} it, on {join_labels([placed.node for placed in carrying])}"


# FXG111

_FXG111 = Page(
    code="FXG111",
    title="One module, several calls: which one is this?",
    what="""
    A hook on a recurrent cell, or on a module that is used in several places, runs several times with similar
    gradients.
    """,
    why="""
    Each call puts the hook on nodes of its own, so it fires once per call, usually for the last call first. It gets the
    module and the gradients, but nothing that identifies the call.
    """,
    source="torch/nn/modules/module.py, Module._call_impl",
    example="""
    >>> import torch
    >>> cell = torch.nn.RNNCell(3, 3)
    >>> def show(module, grad_input, grad_output):
    ...     print(grad_output[0].max())
    >>> handle = cell.register_full_backward_hook(show)
    >>> first, second = (cell(torch.ones(1, 3, requires_grad=True)) for _ in range(2))
    >>> (1 * first + 2 * second).sum().backward()
    tensor(2.)
    tensor(1.)
    """,
    fix="""
    Count the hook's calls in the order that fxgrad shows. Or use a forward hook that registers a numbered hook on each
    result: output.register_hook(functools.partial(show, number)).
    """,
)

_MOST_GROUPS = 4
_SEVERAL = 2


def _explain_several_calls(subject: Subject) -> Iterator[Explanation]:
    """The module has several calls, and the hook fires for each of them."""
    order = {site.call.id: (site.site.order, site) for site in subject.module_sites if site.site.order is not None}
    sites = [site for _, site in sorted(order.values(), key=lambda ranked: ranked[0])]
    if not subject.hook.kind.is_module or len(sites) < _SEVERAL:
        return
    calls = [site.call for site in sites]
    yield Explanation(
        code="FXG111",
        severity="info",
        headline=f"{name_module(subject.path)} is called {len(subject.calls)} times: which call is this?",
        because=(
            f"The hook fires for {count_noun(len(calls), 'call')} and cannot tell them apart. Backward reaches them "
            f"in this order: calls {format_ranges([call.index for call in calls])}. {_describe_inputs(calls)}"
        ),
        fix=(
            "count the hook's calls in that order, or use a forward hook that calls "
            "output.register_hook(functools.partial(hook, number))"
        ),
        site=sites[0].site,
    )


def _describe_inputs(calls: Sequence[ModuleCall]) -> str:
    """The inputs of the calls; calls with the same inputs together."""
    found: dict[str, list[int]] = {}
    for call in calls:
        found.setdefault(_join_inputs(call), []).append(call.index)
    if len(found) == 1:
        return f"Each got {_join_inputs(calls[0])}."
    groups = [f"{_count_calls(indices)} got {inputs}" for inputs, indices in list(found.items())[:_MOST_GROUPS]]
    more = ["other calls other tensors"] if len(found) > len(groups) else []
    text = "; ".join([*groups, *more])
    return f"{text[0].upper()}{text[1:]}."


def _count_calls(indices: Sequence[int]) -> str:
    return f"call {indices[0]}" if len(indices) == 1 else f"calls {format_ranges(indices)}"


def _join_inputs(call: ModuleCall) -> str:
    inputs = (f"{format_argument(call.argument_names, ref.path)} {format_meta(ref.meta)}" for ref in call.inputs)
    return join_words(inputs) or "no tensor"


# FXG112

_FXG112 = Page(
    code="FXG112",
    title="A tensor is modified in place after its hook was registered",
    what="""
    A hook of Tensor.register_hook gets a gradient that does not belong to the tensor's current value, or is never
    called.
    """,
    why="""
    Tensor.register_hook puts the hook on the grad_fn that the tensor has at that moment. An in-place operation gives
    the tensor a new grad_fn, but the hook stays on the old one, where it gets the gradient of the old value. If the
    tensor is a view, the old node is often no longer part of the graph, and the hook is not called. retain_grad() is
    different: it moves to the new grad_fn.
    """,
    source="torch/csrc/autograd/variable.cpp, rebase_history and VariableHooks::grad_fn",
    example="""
    >>> import torch
    >>> x = torch.ones(2, requires_grad=True) * 1
    >>> handle = x.register_hook(lambda grad: print(grad))
    >>> y = (x.mul_(10) * 3).sum()
    >>> y.backward()
    tensor([30., 30.])
    """,
    fix="""
    Register the hook after the in-place operation, or use an out-of-place one (x = x.mul(10)).
    """,
)


def _explain_changed_tensor(subject: Subject) -> Iterator[Explanation]:
    """The tensor of a hook is modified in place after the hook was registered."""
    change = subject.later_change
    if change is None:
        return
    silent, name, placed = subject.sites[0].fires is False, name_operation(change), subject.placed
    what = (
        f"never fires: it stays on the grad_fn that its tensor had before the in-place {name}"
        if silent
        else f"gets the gradient of its tensor's value before the in-place {name}"
    )
    stays = f"on {escape(placed[0].node.label)}" if placed else "on the node that it was on"
    sees = "which backward does not run" if silent else "and gets the gradient of the value before the change"
    yield Explanation(
        code="FXG112",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} {what}",
        because=(
            f"{begin_at(change.source)}, {name} modifies the tensor, or one that shares its memory, after the hook was "
            f"registered, and the tensor gets a new grad_fn. The hook stays {stays}, {sees}. "
            "(torch/csrc/autograd/variable.cpp, rebase_history)"
        ),
        fix=f"register it after {name}, or use an out-of-place operation there",
        site=subject.sites[0],
    )


# FXG115

_FXG115 = Page(
    code="FXG115",
    title="Hooks under torch.utils.checkpoint",
    what="""
    A forward hook is called twice; a backward hook is called at an unexpected time; a parameter's hook is called
    several times.
    """,
    why="""
    A checkpoint runs its part of forward again when backward reaches it, until it has the tensors that it did not save.
    With use_reentrant=False, the hooks sit on the nodes of the first run and are called once; the nodes of the second
    run are discarded.

    A reentrant checkpoint (use_reentrant=True) runs forward with gradients disabled, so the hooks have no node. The
    second run, during backward, has gradients enabled, and a nested backward calls its hooks. It also adds to .grad of
    the parameters and calls their hooks, once per checkpoint.

    The backward of a custom Function that calls backward() or torch.autograd.grad, as in reversible blocks, does the
    same. fxgrad looks for such calls in the code of backward and of the functions that it names; it reports the hooks
    that a nested backward reaches as unknown.
    """,
    source="torch/utils/checkpoint.py, CheckpointFunction and _checkpoint_without_reentrant_generator",
    example="""
    >>> import torch
    >>> from torch.utils.checkpoint import checkpoint
    >>> linear = torch.nn.Linear(3, 3)
    >>> handle = linear.weight.register_hook(lambda grad: print("fired"))
    >>> x = torch.ones(4, 3, requires_grad=True)
    >>> def twice(x, reentrant):
    ...     for _ in range(2):
    ...         x = checkpoint(linear, x, use_reentrant=reentrant)
    ...     return x.sum()
    >>> twice(x, True).backward()
    fired
    fired
    >>> twice(x, False).backward()
    fired
    """,
    fix="""
    Use use_reentrant=False, as PyTorch recommends. Do not count calls in forward hooks.
    """,
)

_CHECKPOINT_PY = "(torch/utils/checkpoint.py)"
_IN_ITS_PLACE = "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) instead of the Function"


def _explain_checkpointed_module(subject: Subject) -> Iterator[Explanation]:
    """The module of a hook is called inside a checkpoint, or in the forward of a Function that is written like one."""
    if not subject.hook.active:
        return
    call = next((call for call in subject.calls if call.checkpointed is not None and call.gradless is None), None)
    if call is None or subject.hook.id not in call.hooks:
        return
    match call.checkpointed:
        case "reentrant":
            yield _explain_reentrant_checkpoint(subject)
        case "function":
            yield _explain_function_like_checkpoint(subject, call)
        case _:
            yield _explain_second_run(subject, call)


def _explain_reentrant_checkpoint(subject: Subject) -> Explanation:
    return Explanation(
        code="FXG115",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} is attached only when backward runs the checkpoint again",
        because=(
            f"A reentrant checkpoint runs {name_module(subject.path)} with gradients disabled in forward, so the hook "
            "has no node. Backward runs it again with gradients enabled; the hook is put on the nodes of that run and "
            f"called in a nested backward. {_CHECKPOINT_PY}"
        ),
        fix="checkpoint(..., use_reentrant=False), which puts the hook on the nodes of forward",
        site=subject.sites[0],
    )


def _explain_function_like_checkpoint(subject: Subject, call: ModuleCall) -> Explanation:
    hook, module = name_hook_function(subject.hook), name_module(subject.path)
    at = f", called at {format_source(call.source)}," if call.source is not None else ""
    return Explanation(
        code="FXG115",
        severity="warning",
        headline=f"{hook} is attached only if a Function's backward runs {module} again",
        because=(
            f"The forward of a custom Function runs {module}{at} and PyTorch records no graph there "
            "(torch/csrc/autograd/python_function.cpp, THPFunction_apply), so this backward calls no hook on what "
            "that forward makes. The Function's backward starts a nested backward, which calls the hooks that it "
            "reaches."
        ),
        fix=f"{_IN_ITS_PLACE}, which puts the hook on the nodes of forward",
        site=subject.sites[0],
    )


def _explain_second_run(subject: Subject, call: ModuleCall) -> Explanation:
    hook, module = name_hook_function(subject.hook), name_module(subject.path)
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{module} runs twice, and {hook} is called for the first run",
        because=(
            f"A checkpoint runs {module} again in backward, forward hooks included, until it has the tensors that it "
            f"did not save. The second run puts the hook on nodes that backward never runs. {_CHECKPOINT_PY}"
        ),
        fix="nothing, unless a forward hook counts calls: do not count in forward hooks",
        site=next((site for site in subject.sites if site.call == call.id), subject.sites[0]),
    )


def _explain_backward_in_a_hook(subject: Subject) -> Iterator[Explanation]:
    """The code of another hook starts a backward, which may come to a module's hook."""
    starting = subject.graph.nesting_hooks
    site = next((site for site in subject.sites if site.fires is None), None)
    if site is None or not starting or not subject.hook.active or not subject.hook.kind.is_module:
        return
    node, other = next(iter(starting.items()))
    names = name_hook_function(subject.hook), name_hook_function(other)
    at = f" ({format_source(other.source)})" if other.source is not None else ""
    yield Explanation(
        code="FXG115",
        severity="warning",
        headline=f"{names[0]} may be called by a backward that {names[1]} starts",
        because=(
            f"{names[1]}{at} is a hook on {escape(subject.graph.nodes[node].label)}, and its code starts a backward of its "
            f"own, as implicit layers do. That calls the hooks of the nodes that it executes, once for each time that "
            "it executes them. (torch/csrc/autograd/engine.cpp, Engine::execute: reentrant backward)"
        ),
        fix="nothing, if it is to fire there as well; else use Tensor.register_hook on the result of the call that is meant",
        site=site,
    )


def _explain_inner_backward(subject: Subject) -> Iterator[Explanation]:
    """A reentrant checkpoint, or a Function like it, runs a nested backward that calls hooks on leaves."""
    if not subject.graph.nesting or not subject.hook.kind.is_called_for_leaf or not subject.hook.active:
        return
    undecided = [site for site in subject.sites if site.fires is None or (site.fires and site.times is None)]
    if undecided and subject.graph.nests_in_checkpoints:
        yield _explain_leaf_in_checkpoint(subject, undecided[0])
    elif undecided:
        yield _explain_leaf_in_function(subject, undecided[0])


def _explain_leaf_in_checkpoint(subject: Subject, site: HookSite) -> Explanation:
    nesting, hook = subject.graph.nesting, name_hook_function(subject.hook)
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{hook} is called once more for each reentrant checkpoint that uses its tensor",
        because=(
            f"{join_labels(nesting)} {pluralize(len(nesting), 'runs', plural='each run')} a nested backward for what "
            f"it recomputes. If that uses {quote_code(subject.path)}, it adds to its .grad and calls the hook with its "
            f"part of the gradient. {_CHECKPOINT_PY}"
        ),
        fix="checkpoint(..., use_reentrant=False), which calls the hook once, with the sum",
        site=site,
    )


def _explain_leaf_in_function(subject: Subject, site: HookSite) -> Explanation:
    hook = name_hook_function(subject.hook)
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{hook} may be called once more by a nested backward",
        because=(
            f"The code behind {join_labels(subject.graph.nesting)} starts a nested backward. If that reaches "
            f"{quote_code(subject.path)}, it calls the hook with its part of the gradient, not with the sum. "
            "(torch/csrc/autograd/engine.cpp, Engine::execute: reentrant backward)"
        ),
        fix=(
            "reach only what the hook asks for: torch.autograd.grad(…, inputs)"
            if subject.graph.nesting_hooks
            else f"{_IN_ITS_PLACE}, which calls the hook once, with the sum"
        ),
        site=site,
    )


RULES = (
    Rule(_FXG110, hook_rules=(_explain_removed_hook,)),
    Rule(_FXG111, hook_rules=(_explain_several_calls,)),
    Rule(_FXG112, hook_rules=(_explain_changed_tensor,)),
    Rule(_FXG115, hook_rules=(_explain_checkpointed_module, _explain_backward_in_a_hook, _explain_inner_backward)),
)
