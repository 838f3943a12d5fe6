"""Tensors that require grad although no root depends on them: a full hook makes the roots depend on them.

The records hold no node for them. A leaf has an AccumulateGrad node, which is all there is behind it; of any other
tensor only its own node is known, and not what lies behind that.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Hook, ModuleCall, Node, NodeKind, TensorMeta, TensorRef, Variable
from fxgrad.probe.members import Identity, identity

Place = tuple[int, int]
"""A node and one of its gradients: where the gradient of a tensor goes."""

NOT_RECORDED = "no root depends on it without the hook, so it was not recorded"
_ACCUMULATE_GRAD = "torch::autograd::AccumulateGrad"
_LEAF = "a leaf's: made once, shared by every call that uses it"
_UNKNOWN_VIEW = "a view that was changed in place"


class Outside:
    """Makes such nodes, each once, at the end of `nodes`."""

    def __init__(self, graph: BackwardGraph, nodes: list[Node], done: bytearray) -> None:
        self._graph = graph
        self._nodes = nodes
        self._done = done
        self._places: dict[Identity, Place] = {}
        self._new_leaves: list[Variable] = []
        self._places_of_names: dict[str, Place] = {}

    def known_place(self, ref: TensorRef) -> Place | None:
        """The place of a tensor that was asked for before."""
        tensor = identity(ref)
        return None if tensor is None or not ref.requires_grad else self._places.get(tensor)

    def place(self, ref: TensorRef) -> Place:
        """The node that a tensor's gradient goes to, and its slot."""
        known = self.known_place(ref)
        if known is not None:
            return known
        node = self._leaf(ref) if ref.is_leaf else self._unexplored(ref)
        self._nodes.append(node)
        self._done.append(True)
        place = self._places[identity(ref) or (ref,)] = (node.id, ref.slot)
        name = node.variable or ref.name
        if name is not None:
            self._places_of_names.setdefault(name, place)
        return place

    def place_of_name(self, name: str) -> Place | None:
        """The place of a variable that was in no graph before."""
        return self._places_of_names.get(name)

    def place_of_owner(self, hook: Hook) -> Place | None:
        """The place of the variable that a hook is on."""
        return None if hook.kind.is_module else self.place_of_name(hook.owner)

    def variables(self) -> Iterator[Variable]:
        """All variables, with the places that they have now."""
        for variable in (*self._graph.variables, *self._new_leaves):
            place = self.place_of_name(variable.name)
            yield variable if place is None else replace(variable, node=place[0], slot=place[1])

    def completed(self, call: ModuleCall) -> ModuleCall:
        """A call whose references lead to the nodes that were made."""
        inputs, outputs = map(self._reached, call.inputs), map(self._reached, call.outputs)
        return replace(call, inputs=tuple(inputs), outputs=tuple(outputs))

    def _reached(self, ref: TensorRef) -> TensorRef:
        place = None if ref.node is not None else self.known_place(ref)
        return ref if place is None else replace(ref, node=place[0], sequence_nr=None)

    def _leaf(self, ref: TensorRef) -> Node:
        return Node(
            len(self._nodes),
            "",
            _ACCUMULATE_GRAD,
            NodeKind.ACCUMULATE_GRAD,
            None,
            None,
            (_gradient_meta(ref.meta),),
            ("result",),
            (),
            variable=ref.name or self._new_leaf(ref),
            call_reason=_LEAF,
            fx_reason=_LEAF,
        )

    def _new_leaf(self, ref: TensorRef) -> str:
        """Name it as `fxgrad.observe` names leaves that have no name."""
        known = (*self._graph.variables, *self._new_leaves)
        name = f"leaf {sum(variable.kind == 'other leaf' for variable in known)}"
        self._new_leaves.append(Variable(name, (), "other leaf", ref.meta, requires_grad=True, is_leaf=True))
        return name

    def _unexplored(self, ref: TensorRef) -> Node:
        slots = (*[TensorMeta(None, ref.meta.dtype, ref.meta.device)] * ref.slot, _gradient_meta(ref.meta))
        names = ("result",) if len(slots) == 1 else tuple([f"result {slot}" for slot in range(len(slots))])
        return Node(
            len(self._nodes),
            "",
            ref.node_name or _UNKNOWN_VIEW,
            NodeKind.OPAQUE,
            None,
            ref.sequence_nr,
            slots,
            names,
            (),
            call_reason=NOT_RECORDED,
            fx_node=ref.fx_node,
            fx_reason=NOT_RECORDED if ref.fx_node is None else None,
        )


def _gradient_meta(meta: TensorMeta) -> TensorMeta:
    return TensorMeta(meta.shape, meta.dtype, meta.device)
