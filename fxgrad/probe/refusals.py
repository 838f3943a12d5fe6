"""Why PyTorch would refuse the hook: when it is registered, or in forward whatever that computes. A sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import BackwardGraph, Hook, ModuleCall
from fxgrad.graph.names import name_call
from fxgrad.graph.text import escape
from fxgrad.probe.members import Member, argument_members, result_members
from fxgrad.probe.registration import takes_along
from fxgrad.probe.sentences import line_text

_LAYOUTS = ("strided", "jagged")
"""Layouts of tensors that can be viewed (``_view_as_self_with_no_grad`` in torch/csrc/autograd/custom_function.cpp)."""
_QUANTIZED = ("quint", "qint")


def refused_registration(graph: BackwardGraph, hook: Hook) -> str | None:
    """Whether registering raises: PyTorch keeps the kind of the first hook (torch/nn/modules/module.py), and takes none
    on modules of TorchScript (torch/jit/_script.py, ``_make_fail``)."""
    if not hook.kind.is_global and graph.modules_by_path[hook.owner].made_by == "torch.jit":
        return f"{hook.kind.value} raises RuntimeError: {escape(hook.owner) or 'the model'} is a module of TorchScript"
    if hook.kind.is_full_pre:
        return None
    if hook.kind.is_global:
        sticky, owner = graph.info.global_backward_sticky, "this process"
    else:
        module = graph.modules_by_path[hook.owner]
        sticky, owner = module.full_backward_sticky, escape(module.path) or "the model"
    if sticky is None or sticky == hook.kind.is_full:
        return None
    known = f"{'full' if sticky else 'non-full'} backward hook{' for all modules' if hook.kind.is_global else ''}"
    return f"{hook.kind.value} raises RuntimeError: {owner} has had a {known}, and PyTorch never mixes the two"


def refused_forward(graph: BackwardGraph, hook: Hook, calls: Sequence[ModuleCall]) -> str | None:
    """Whether forward raises at a call; `calls` are those that get BackwardHookFunctions."""
    if hook.kind.is_legacy:
        taking = [call for call in graph.calls if takes_along(call, hook)]
        return next((sentence for call in taking for sentence in _legacy_refusal(graph, call)), None)
    return next((sentence for call in calls for sentence in _full_refusals(graph, call)), None)


def _legacy_refusal(graph: BackwardGraph, call: ModuleCall) -> Iterator[str]:
    if call.completed and call.legacy_reason is not None:
        yield f"forward does not get through {_called(graph, call)}: {call.legacy_reason}"


def _full_refusals(graph: BackwardGraph, call: ModuleCall) -> Iterator[str]:
    setup = call.full_hook
    if setup is None:
        return
    arguments = [] if setup.input_positions is None else argument_members(call)
    results = [] if setup.output_positions is None else result_members(call)
    if (arguments or results) and call.transformed:
        yield (
            f"forward raises RuntimeError at {_called(graph, call)}: a transform of torch.func runs it, and does not go "
            "through the BackwardHookFunction of a full hook, which has no setup_context"
        )
    if results and call.result_kind == "struct sequence":
        result = f"{escape(call.result_type)}(*results)"
        yield f"forward raises TypeError at {_called(graph, call)}: a full hook makes the result anew as {result}"
    yield from _unviewable(graph, call, "argument", arguments)
    yield from _unviewable(graph, call, "result", results)


def _unviewable(graph: BackwardGraph, call: ModuleCall, what: str, members: Sequence[Member]) -> Iterator[str]:
    for member in members:
        problem = _no_view_reason(member)
        if problem is not None:
            yield f"a full hook makes a view of {what} {member.position} of {_called(graph, call)}: {problem}"


def _no_view_reason(member: Member) -> str | None:
    meta = member.ref.meta
    if meta.layout not in _LAYOUTS:
        return f"forward raises, since a tensor of layout {escape(meta.layout)} cannot be viewed"
    if meta.shape is None:
        return "forward raises RuntimeError, since the sizes of a strided nested tensor cannot be read"
    if meta.dtype.startswith(_QUANTIZED):
        return f"backward raises NotImplementedError, since there are no zeros of dtype {escape(meta.dtype)}"
    return None


def _called(graph: BackwardGraph, call: ModuleCall) -> str:
    return f"{escape(name_call(graph, call))}{line_text(call.source)}"
