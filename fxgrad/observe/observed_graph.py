"""The live graph of one run, and what is asked of it: the id of a node, the slot of a tensor, the name of either.

`fxgrad.observe.hooks` finds the hooks on it, and `fxgrad.observe.build` makes its records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.autograd.graph import Node as AutogradNode
from torch.autograd.graph import get_gradient_edge

from fxgrad.errors import TargetError
from fxgrad.graph import Path, Root
from fxgrad.graph.text import format_path
from fxgrad.observe.autograd.provenance import Ownership
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD, WalkedGraph, name_of, walk
from fxgrad.observe.record.events import ModuleEvent
from fxgrad.observe.record.forward_graph import ForwardGraph
from fxgrad.observe.record.frames import format_message
from fxgrad.observe.record.names import ModuleNames, NamedTensor, TensorNames, get_table
from fxgrad.observe.record.recorder import Recorder
from fxgrad.observe.record.tensors import MetaTable, Origin, is_leaf, read_origin

_DisableTorchFunction = torch._C.DisableTorchFunction  # it is monkey-patched while a forward is recorded


class ObservedGraph:
    """The nodes behind some roots, with the names of modules, tensors and calls.

    ``recorder`` and ``forward`` are there when the forward was recorded, and then ``ownership`` says what made each node.
    ``upstream`` are the nodes that the recorded forward did not make; None: all of them, as nothing was recorded.
    ``leaves`` are the AccumulateGrad nodes by the identity of their leaf, ``earlier`` those of them, and others, that their
    leaf has no more. ``call_ids`` are the ids of the module calls.
    """

    def __init__(
        self,
        roots: Sequence[tuple[Path, torch.Tensor]],
        module_names: ModuleNames,
        tensor_names: TensorNames,
        *,
        recorder: Recorder | None = None,
        forward: ForwardGraph | None = None,
        metas: MetaTable | None = None,
    ) -> None:
        self.recorder = recorder
        self.forward = forward
        self.metas = metas or MetaTable()
        self.module_names = module_names
        self.tensor_names = tensor_names
        self.root_paths = [path for path, _ in roots]
        self.root_tensors = [tensor for _, tensor in roots]
        edges = [_find_gradient_edge(path, tensor) for path, tensor in roots]
        self.walked: WalkedGraph = walk([node for node, _ in edges], self.metas)
        self.roots = tuple(
            [Root(self.walked.ids[node], slot, path) for (node, slot), (path, _) in zip(edges, roots, strict=True)]
        )
        self.leaves = self._name_leaves()
        self.call_ids = self._number_calls()
        self.ownership = None if recorder is None else Ownership(recorder, [node for node, _ in edges])
        self.upstream = None if self.ownership is None else self.ownership.upstream

    def _name_leaves(self) -> dict[int, AutogradNode]:
        """Find the leaves of the graph; those without a name get one. Of several nodes of one, its own is the last made."""
        found: dict[int, list[AutogradNode]] = {}
        unregistered = {
            id(tensor): f"{path}.{name}"
            for path, module in self.module_names.unregistered
            for name, tensor in get_table(module, "_parameters").items()
        }
        for node, name in zip(self.walked.order, self.walked.names, strict=True):
            if name == ACCUMULATE_GRAD:
                variable = node.variable  # type: ignore[attr-defined]
                found.setdefault(id(variable), []).append(node)
                if id(variable) not in self.tensor_names.named:
                    self.tensor_names.add_leaf(variable, unregistered.get(id(variable)))
        leaves: dict[int, AutogradNode] = {}
        self.earlier: dict[int, list[AutogradNode]] = {}
        for key, nodes in found.items():
            own = _find_accumulator(nodes[0].variable) or nodes[-1]  # type: ignore[attr-defined]
            leaves[key] = own if own in nodes else nodes[-1]
            if nodes != [own]:
                self.earlier[key] = [node for node in nodes if node is not own]
        return leaves

    def _number_calls(self) -> dict[ModuleEvent, str]:
        counts: dict[str, int] = {}
        ids: dict[ModuleEvent, str] = {}
        for call in self.recorder.module_calls if self.recorder else ():
            path = self.module_names.path_of(call.module)
            counts[path] = counts.get(path, 0) + 1
            ids[call] = f"{path}#{counts[path]}"
        return ids

    @property
    def leaf_tensors(self) -> list[torch.Tensor]:
        """The leaves of the graph."""
        return [node.variable for node in self.leaves.values()]  # type: ignore[attr-defined]

    def call_id(self, call: ModuleEvent | None) -> str | None:
        """The id of a module call; None for none."""
        return None if call is None else self.call_ids[call]

    def node_id(self, node: AutogradNode | None) -> int | None:
        """The id of a node; None where the roots do not reach it."""
        return None if node is None else self.walked.ids.get(node)

    def find_slot(self, tensor: torch.Tensor | None, origin: Origin | None) -> tuple[int | None, int]:
        """The node and slot that the gradient of a tensor goes to: those of its `origin`, or of the leaf that it is.

        (None, 0) where the roots do not reach the node.
        """
        if origin is None:
            return self.node_id(self.leaves.get(id(tensor))), 0
        number = self.walked.ids.get(origin[0])
        return (None, 0) if number is None else (number, origin[1])

    def node_name(self, node: AutogradNode) -> str:
        """The label of a node; its plain name where the roots do not reach it."""
        number = self.walked.ids.get(node)
        return name_of(node) if number is None else self.walked.labels[number]

    def tensor_name(self, tensor: torch.Tensor | None, origin: Origin | None) -> str:
        """How the owner of a tensor hook is called: by its name, its fx node, or its node and slot."""
        if id(tensor) in self.tensor_names.named:
            return self.tensor_names.named[id(tensor)].name
        made = None if self.forward is None or tensor is None else self.forward.name_of(tensor)
        if made is not None:
            return made
        return "" if origin is None else f"{self.node_name(origin[0])}[{origin[1]}]"

    def variable_name(self, tensor: torch.Tensor) -> str | None:
        """The name of a tensor that is among the variables; None for others."""
        named = self.tensor_names.named.get(id(tensor))
        return None if named is None or not self.is_variable(named) else named.name

    def is_variable(self, named: NamedTensor) -> bool:
        """Whether a named tensor is among the variables: an attribute that requires no grad is not, nor one that was left
        and that the roots do not reach."""
        tensor = named.tensor
        if named.left is not None:
            origin = read_origin(tensor)
            return origin is not None and origin[0] in self.walked.ids
        return named.kind != "other leaf" or id(tensor) in self.leaves or tensor.requires_grad

    def known_tensors(self) -> Iterable[torch.Tensor]:
        """Every tensor that has a name or was seen in the recorded run, once."""
        tensors = {key: named.tensor for key, named in self.tensor_names.named.items()}
        if self.recorder is not None:
            for function_call in self.recorder.function_calls:
                tensors.update((id(result.tensor), result.tensor) for result in function_call.results)
            for call in self.recorder.module_calls:
                tensors.update((id(seen.tensor), seen.tensor) for seen in (*call.inputs, *call.outputs))
            tensors.update((id(tensor), tensor) for tensor in self.recorder.ops.retained_inside)
        tensors.update((id(tensor), tensor) for tensor in self.root_tensors)
        return tensors.values()


def _find_accumulator(leaf: torch.Tensor) -> AutogradNode | None:
    """The AccumulateGrad that a leaf has now, as PyTorch finds it: a view leads to it. None for a class of the user's."""
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter):
        return None
    with _DisableTorchFunction(), torch._C._DisableTorchDispatch():  # the user's modes do not see the view being made
        try:
            return get_gradient_edge(leaf).node
        except (AttributeError, RuntimeError):  # as of a sparse one
            return None


def _find_gradient_edge(path: Path, tensor: torch.Tensor) -> Origin:
    """Where backward starts for a root. PyTorch may raise for the grad_fn of a view that was changed since
    (torch/csrc/autograd/variable.cpp, ``check_inplace``), and so to run a backward from it; and the node of a leaf of
    which it cannot take a view, or none with a grad_fn (torch/autograd/graph.py, ``_get_grad_fn_or_grad_acc``)."""
    try:
        edge = get_gradient_edge(tensor)
    except (AttributeError, RuntimeError) as error:
        raise TargetError(
            f"backward cannot start from {format_path(path)}: {format_message(error)}",
            "outputs whose grad_fn PyTorch can compute",
            "return a clone() of it" if is_leaf(tensor) else "modify a clone() of it instead",
        ) from error
    return edge.node, edge.output_nr
