"""Makes the records: from what was seen of a run, or from tensors that exist already, to a BackwardGraph.

The live objects (nodes, tensors, modules) are in the hands of this module for as long as it works, and nothing of what
it returns refers to them.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.autograd.graph import Node as AutogradNode
from torch.autograd.graph import get_gradient_edge
from torch.fx.node import map_aggregate
from torch.nn.modules import module as module_hooks

from fxgrad.errors import TargetError
from fxgrad.graph import BackwardGraph, FxNode, GraphInfo, Module, Node, Path, Root, Value, Variable
from fxgrad.graph.records import SCHEMA_VERSION, Taken
from fxgrad.graph.text import format_path, strip_addresses
from fxgrad.observe.accelerator.device import public_name
from fxgrad.observe.autograd.nested_backward import with_nested_backward
from fxgrad.observe.autograd.operands import Operands, with_overwritten
from fxgrad.observe.autograd.provenance import Ownership, Timeline
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD, WalkedGraph, labels, name_of, node_records, walk
from fxgrad.observe.call_records import CallRecords
from fxgrad.observe.hooks.records import HookCollector
from fxgrad.observe.module_records import module_record
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import ModuleEvent, OpEvent
from fxgrad.observe.record.forward_graph import ForwardGraph, FxOrigin
from fxgrad.observe.record.frames import message_of, source_of
from fxgrad.observe.record.names import ModuleNames, NamedTensor, TensorNames
from fxgrad.observe.record.operations import ASKS
from fxgrad.observe.record.recorder import Recorder
from fxgrad.observe.record.tensors import MetaTable, Origin, is_leaf, origin_of
from fxgrad.version import __version__

Roots = Sequence[tuple[Path, torch.Tensor]]

_LONGEST_ARGUMENTS = 2_000
_NOT_MADE = FxOrigin(None, False, (), None)


class Observation:
    """One look at one backward graph. `recorder` and `forward` are there when the forward was recorded.

    ``upstream`` are the nodes that the recorded forward did not make; None: all of them, as nothing was recorded.
    """

    def __init__(
        self,
        roots: Roots,
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
        self.root_paths = list(roots)
        self.root_tensors = [tensor for _, tensor in roots]
        edges = [_gradient_edge(path, tensor) for path, tensor in roots]
        self.walked: WalkedGraph = walk([node for node, _ in edges], self.metas)
        self.roots = tuple(
            [Root(self.walked.ids[node], slot, path) for (node, slot), (path, _) in zip(edges, roots, strict=True)]
        )
        self.leaves = self._name_leaves()
        self.call_ids = self._number_calls()
        self._ownership = None if recorder is None else Ownership(recorder, [node for node, _ in edges])
        self.upstream = None if self._ownership is None else self._ownership.upstream

    def _name_leaves(self) -> dict[int, AutogradNode]:
        """The AccumulateGrad node of every leaf in the graph, by the leaf's identity; unnamed leaves get a name."""
        leaves: dict[int, AutogradNode] = {}
        for node, name in zip(self.walked.order, self.walked.names, strict=True):
            if name == ACCUMULATE_GRAD:
                variable = node.variable  # type: ignore[attr-defined]
                leaves[id(variable)] = node
                if id(variable) not in self.tensor_names.named:
                    self.tensor_names.add_leaf(variable)
        return leaves

    def _number_calls(self) -> dict[ModuleEvent, str]:
        counts: dict[str, int] = {}
        ids: dict[ModuleEvent, str] = {}
        for call in self.recorder.module_calls if self.recorder else ():
            path = self.module_names.path_of(call.module)
            counts[path] = counts.get(path, 0) + 1
            ids[call] = f"{path}#{counts[path]}"
        return ids

    # Questions

    def seen_tensors(self) -> Iterable[torch.Tensor]:
        """Every tensor that is known, once."""
        tensors = {key: named.tensor for key, named in self.tensor_names.named.items()}
        if self.recorder is not None:
            for function_call in self.recorder.function_calls:
                tensors.update((id(result.tensor), result.tensor) for result in function_call.results)
            for call in self.recorder.module_calls:
                tensors.update((id(seen.tensor), seen.tensor) for seen in (*call.inputs, *call.outputs))
            tensors.update((id(tensor), tensor) for tensor in self.recorder.ops.retained_inside)
        tensors.update((id(tensor), tensor) for tensor in self.root_tensors)
        return tensors.values()

    def tensor_name(self, tensor: torch.Tensor | None, origin: Origin | None) -> str:
        """How the owner of a tensor hook is called: by its name, its fx node, or its node and slot."""
        if id(tensor) in self.tensor_names.named:
            return self.tensor_names.named[id(tensor)].name
        made = None if self.forward is None or tensor is None else self.forward.maker_of(tensor)
        if made is not None:
            return made
        return "" if origin is None else f"{self.node_name(origin[0])}[{origin[1]}]"

    def node_name(self, node: AutogradNode) -> str:
        """The label of a node; its plain name where the roots do not reach it."""
        number = self.walked.ids.get(node)
        return name_of(node) if number is None else self._labels[number]

    @cached_property
    def _labels(self) -> list[str]:
        return labels(self.walked.names)

    # Records

    def graph(self, info: GraphInfo, hooks: HookCollector) -> BackwardGraph:
        """All records, without sites."""
        calls = CallRecords(self, hooks)
        return BackwardGraph(
            roots=self.roots,
            nodes=hooks.placed_on(self.nodes()),
            modules=tuple(self._modules(hooks)),
            calls=tuple([calls.record(call) for call in self.call_ids]),
            variables=tuple(self._variables()),
            hooks=hooks.records(),
            sites=(),
            forward=tuple(self._fx_nodes()),
            info=info,
            unrecorded_calls=hooks.unrecorded_calls(),
        )

    def nodes(self) -> tuple[Node, ...]:
        """The records of the nodes, in id order."""
        leaves = {self.walked.ids[node]: self.tensor_names.named[leaf].name for leaf, node in self.leaves.items()}
        if self.recorder is None or self.forward is None or self._ownership is None:
            return with_nested_backward(node_records(self.walked, leaves), self.walked, ())
        timeline = Timeline(self.walked, self.recorder, self._ownership, self.call_ids, self.forward.node_of_call)
        nodes = node_records(self.walked, leaves, timeline.provenance)
        nodes = self._operands(self.recorder, self.forward).with_operands(nodes, self.walked.order)
        nodes = with_nested_backward(nodes, self.walked, self.recorder.ops.nesting)
        return with_overwritten(nodes, self.walked.order, self._ownership.owner, self.recorder.function_calls)

    def _operands(self, recorder: Recorder, forward: ForwardGraph) -> Operands:
        calls = {node.name: recorder.function_calls[number] for number, node in forward.node_of_call.items()}
        operands = Operands(self.metas, calls, forward.value_of)
        for tensor_id, fx_node in forward.named_nodes():
            if tensor_id in self.tensor_names.named:
                operands.add(self.tensor_names.named[tensor_id].tensor, Value(fx_node.name))
        for number, seen in enumerate(recorder.function_calls):
            made_by = forward.node_of_call.get(number)
            if made_by is not None:
                for position, result in enumerate(seen.results):
                    operands.add(result.tensor, Value(made_by.name, position if len(seen.results) > 1 else None))
        return operands

    def _modules(self, hooks: HookCollector) -> Iterator[Module]:
        for module_id, module in list(self.module_names.modules.items()):
            paths = self.module_names.paths[module_id]
            yield module_record(module, paths, hooks.ids_on_module(module), self.module_names.path_of)

    def _variables(self) -> Iterator[Variable]:
        for named in self.tensor_names.named.values():
            tensor = named.tensor
            if self.listed(tensor) is None:
                continue
            node, slot = self._place(tensor)
            yield Variable(
                name=named.name,
                aliases=tuple(named.aliases),
                kind=named.kind,
                meta=self.metas.of_tensor(tensor) if self.recorder is None else self.recorder.log.first_meta(tensor),
                requires_grad=tensor.requires_grad,
                is_leaf=is_leaf(tensor),
                retains_grad=tensor.retains_grad,
                node=node,
                slot=slot,
            )

    def listed(self, tensor: torch.Tensor) -> NamedTensor | None:
        """The name of a tensor that is among the variables: an attribute that requires no grad is not."""
        named = self.tensor_names.named.get(id(tensor))
        if named is None or named.kind != "other leaf" or id(tensor) in self.leaves or tensor.requires_grad:
            return named
        return None

    def _place(self, tensor: torch.Tensor) -> tuple[int | None, int]:
        if id(tensor) in self.leaves:
            return self.walked.ids[self.leaves[id(tensor)]], 0
        origin = origin_of(tensor) if tensor.requires_grad else None
        number = None if origin is None else self.walked.ids.get(origin[0])
        return (None, 0) if origin is None or number is None else (number, origin[1])

    def _fx_nodes(self) -> Iterator[FxNode]:
        taken, asked = self._taken()
        for fx_node in () if self.forward is None else self.forward.graph.nodes:
            seen, is_call, results, window = self.forward.origins.get(fx_node, _NOT_MADE)  # type: ignore[union-attr]
            own = seen if is_call else None
            yield FxNode(
                name=fx_node.name,
                op=fx_node.op,
                target=fx_node._pretty_print_target(fx_node.target),
                args_text=_arguments_text(fx_node),
                modules=() if seen is None else tuple(self._stack(seen.module_call)),
                source=None if seen is None else source_of(seen.stack),
                meta=tuple([result.meta for result in results]),
                sequence_window=window,
                changes=() if own is None else tuple(self._values_before(fx_node, own)),
                aliases=() if own is None else tuple(self._shared_values(own)),
                grad_enabled=own is None or own.grad_enabled,
                inputs=tuple([argument.name for argument in fx_node.all_input_nodes]),
                requires_grad=tuple([result.requires_grad for result in results]),
                taken=tuple(taken[fx_node.name]),
                asked=tuple(asked[fx_node.name]),
            )

    def _taken(self) -> tuple[dict[str, list[Taken]], dict[str, list[Taken]]]:
        """By the name of an fx node, where Python took its results, and where it asked whether they are true."""
        taken: dict[str, list[Taken]] = defaultdict(list)
        asked: dict[str, list[Taken]] = defaultdict(list)
        if self.recorder is not None and self.forward is not None:
            for function, tensor, stack, call in self.recorder.ops.host_reads:
                value = self.forward.value_of(tensor)
                if value is not None:
                    told = Taken(function, source_of(stack), None if call is None else self.call_ids[call])
                    (asked if function == ASKS else taken)[value.fx_node].append(told)
        return taken, asked

    def _values_before(self, fx_node: torch.fx.Node, seen: OpEvent) -> Iterable[Value]:
        assert self.forward is not None
        for earlier in seen.changes:
            value = self.forward.value_of(earlier)
            if value is not None and value.fx_node != fx_node.name:
                yield value

    def _shared_values(self, seen: OpEvent) -> Iterable[Value | None]:
        assert self.forward is not None
        for result in seen.results:
            yield None if result.shares is None else self.forward.value_of(result.shares)

    def _stack(self, call: ModuleEvent | None) -> list[str]:
        stack = []
        while call is not None:
            stack.append(self.call_ids[call])
            call = call.parent
        return stack[::-1]


def _gradient_edge(path: Path, tensor: torch.Tensor) -> Origin:
    """Where backward starts for a root. PyTorch may refuse to tell the grad_fn of a view that was changed since
    (torch/csrc/autograd/variable.cpp, ``check_inplace``), and so to run a backward from it; and the node of a leaf of
    which it cannot take a view (torch/autograd/graph.py, ``_get_grad_fn_or_grad_acc``)."""
    try:
        edge = get_gradient_edge(tensor)
    except RuntimeError as error:
        raise TargetError(
            f"backward cannot start from {format_path(path)}: {message_of(error)}",
            "outputs of which PyTorch tells the grad_fn",
            "return a clone() of it" if is_leaf(tensor) else "change a clone() of it instead of itself",
        ) from error
    return edge.node, edge.output_nr


def _arguments_text(fx_node: torch.fx.Node) -> str:
    args, kwargs = map_aggregate((fx_node.args, fx_node.kwargs), _as_the_user_names_it)
    keywords = [f"{name}={value}" for name, value in kwargs.items()]
    text = strip_addresses(", ".join([*map(str, args), *keywords]))
    return text if len(text) <= _LONGEST_ARGUMENTS else text[:_LONGEST_ARGUMENTS] + "…"


def _as_the_user_names_it(argument: Any) -> Any:
    return torch.device(public_name(argument)) if is_a(argument, torch.device) else argument


def graph_info(
    *,
    device: str,
    root_rule: str,
    emulated: bool = False,
    skipped: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    calls_reason: str | None = None,
) -> GraphInfo:
    """How a graph was made, with the versions of this process."""
    return GraphInfo(
        schema_version=SCHEMA_VERSION,
        fxgrad=__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        device=device,
        emulated=emulated,
        root_rule=root_rule,
        skipped=skipped,
        notes=notes,
        calls_reason=calls_reason,
        global_backward_sticky=module_hooks._global_is_full_backward_hook,
    )


def device_of(tensors: Iterable[torch.Tensor]) -> str:
    """The device, or the devices, that tensors are on: "cpu", "cpu, cuda:0"."""
    return ", ".join(sorted({str(tensor.device) for tensor in tensors})) or "none"
