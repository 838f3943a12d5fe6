"""The records of BackwardHookFunction nodes, as `fxgrad.observe` makes them of real ones.

Sources: torch/nn/modules/_functions.py (``BackwardHookFunction``), torch/csrc/autograd/custom_function.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fxgrad.graph import Edge, ModuleCall, Node, NodeKind, TensorMeta, TensorRef
from fxgrad.probe.members import Member
from fxgrad.probe.outside import Place

_NAME = "BackwardHookFunctionBackward"
_NO_FX_NODE = "put there by PyTorch for a full module hook; it stands for no operation of forward"
_NO_GRAD = "it required no grad when it was made or used"


def hook_function(
    node: int, sequence_nr: int, call: ModuleCall, *, members: Sequence[Member], places: Sequence[Place | None]
) -> Node:
    """A node that hands on the gradients of `members` to `places`, None for a tensor that requires no grad."""
    slots = range(len(members))
    return Node(
        node,
        f"{_NAME}_{node}",
        _NAME,
        NodeKind.BACKWARD_HOOK,
        None,
        sequence_nr,
        tuple([_gradient_meta(ref) for _, ref in members]),
        ("result",) if len(slots) == 1 else tuple([f"result {slot}" for slot in slots]),
        tuple([_edge(slot, place) for slot, place in zip(slots, places, strict=True)]),
        call=call.id,
        fx_reason=_NO_FX_NODE,
        values=(None,) * len(slots),
        source=call.source,
        needs_input_grad=tuple([ref.requires_grad for _, ref in members]),
    )


def passed_through(ref: TensorRef, place: Place) -> TensorRef:
    """What the node returned in place of a tensor: no leaf, and no parameter."""
    return replace(ref, node=place[0], slot=place[1], node_name=_NAME, is_leaf=False, name=None, sequence_nr=None)


def _edge(slot: int, place: Place | None) -> Edge:
    if place is None:
        return Edge(f"args[{slot}]", "args", None, 0, _NO_GRAD)
    return Edge(f"args[{slot}]", "args", *place)


def _gradient_meta(ref: TensorRef) -> TensorMeta:
    """``_input_metadata`` says ``((), float32)`` of a tensor that requires no grad."""
    if not ref.requires_grad:
        return TensorMeta((), "float32", ref.meta.device)
    return TensorMeta(ref.meta.shape, ref.meta.dtype, ref.meta.device)
