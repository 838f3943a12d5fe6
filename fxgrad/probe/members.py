"""The tensors of a module call that a full hook sees: those directly among the positional arguments and the results.

Sources: torch/nn/modules/module.py (``_call_impl``), torch/utils/hooks.py (``BackwardHook._apply_on_tensors``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fxgrad.graph import FullHookSetup, ModuleCall, TensorRef

_DIRECT = 2
_TUPLES = ("tuple", "namedtuple", "struct sequence", "tuple subclass")

Identity = tuple[object, ...]


class Member(NamedTuple):
    """A tensor at one position of a call's positional arguments, or of its results."""

    position: int
    ref: TensorRef


def argument_members(call: ModuleCall) -> list[Member]:
    """The tensors directly among the positional arguments."""
    return _direct(call.inputs, "args")


def result_members(call: ModuleCall) -> list[Member]:
    """The tensor that the call returned, or those directly in the tuple that it returned."""
    alone = [ref for ref in call.outputs if ref.path == ("result",)]
    if alone:
        return [Member(0, ref) for ref in alone]
    return _direct(call.outputs, "result") if _is_tuple(call) else []


def _direct(refs: tuple[TensorRef, ...], place: str) -> list[Member]:
    return [
        Member(ref.path[1], ref)
        for ref in refs
        if len(ref.path) == _DIRECT and ref.path[0] == place and isinstance(ref.path[1], int)
    ]


def _is_tuple(call: ModuleCall) -> bool:
    if call.result_kind is not None:
        return call.result_kind in _TUPLES
    return call.result_type == "tuple" or call.n_results > 1


def has_only_tensors(call: ModuleCall) -> bool:
    """Whether every positional argument and every result is a tensor."""
    return len(result_members(call)) == call.n_results and len(argument_members(call)) == call.n_args


def full_hook_setup(call: ModuleCall) -> FullHookSetup:
    """What ``BackwardHook`` would do at this call; it never comes to the outputs where forward raised."""
    inputs = _positions(call, argument_members(call))
    if not call.completed:
        return FullHookSetup(call.n_args, inputs, -1, None)
    return FullHookSetup(call.n_args, inputs, call.n_results, _positions(call, result_members(call)))


def _positions(call: ModuleCall, members: list[Member]) -> tuple[int, ...] | None:
    if not call.grad_enabled or not any(member.ref.requires_grad for member in members):
        return None
    return tuple(member.position for member in members)


def identity(ref: TensorRef) -> Identity | None:
    """What all references to one tensor have in common; None where nothing is known that would tell."""
    if ref.node is not None:
        return ref.node, ref.slot
    if ref.is_leaf and ref.name is not None:
        return (ref.name,)
    if ref.sequence_nr is not None:
        return ref.node_name, ref.sequence_nr, ref.slot
    return None if ref.fx_node is None else (ref.fx_node, ref.fx_index, ref.node_name)


def same_arguments(call: ModuleCall) -> Iterator[tuple[int, int]]:
    """Pairs of positions at which a call gets one and the same tensor."""
    first: dict[Identity, int] = {}
    for position, ref in argument_members(call):
        tensor = identity(ref)
        if tensor is not None and first.setdefault(tensor, position) != position:
            yield first[tensor], position


def hidden_arguments(call: ModuleCall) -> list[TensorRef]:
    """References, in keyword arguments and containers, to tensors that are positional arguments as well."""
    direct = [ref for _, ref in argument_members(call)]
    tensors = {identity(ref) for ref in direct if ref.requires_grad} - {None}
    return [ref for ref in call.inputs if ref not in direct and ref.requires_grad and identity(ref) in tensors]


def repeated_results(call: ModuleCall) -> list[int]:
    """Ranks, among the tensors directly in the result, of those that are in the result more than once."""
    tensors = [identity(ref) for ref in call.outputs if ref.requires_grad]
    results = [identity(ref) if ref.requires_grad else None for _, ref in result_members(call)]
    return [rank for rank, tensor in enumerate(results) if tensor is not None and tensors.count(tensor) > 1]


def results_inside(call: ModuleCall) -> set[Identity | None]:
    """The tensors that are inside containers in the result, where a full hook does not see them."""
    direct = [ref for _, ref in result_members(call)]
    return {identity(ref) for ref in call.outputs if ref not in direct and ref.requires_grad}


def unreadable_members(call: ModuleCall) -> list[TensorRef]:
    """Tensors whose grad_fn a hook makes PyTorch look at, and of which it is not known which node that is.

    They are views whose base was changed in place: looking makes a node, or raises.
    """
    looked_at = [ref for _, ref in (*argument_members(call), *result_members(call))]
    looked_at += [] if call.legacy_tensor is None else [call.legacy_tensor]
    return [ref for ref in looked_at if ref.requires_grad and not ref.is_leaf and ref.node_name is None]
