"""Makes the records: from what was seen of a run, or from tensors that exist already, to a BackwardGraph.

The live objects (nodes, tensors, modules) are in the hands of this module for as long as it works, and nothing of what
it returns refers to them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules import module as module_hooks

from fxgrad import __version__
from fxgrad.graph import (
    BackwardGraph,
    FullHookSetup,
    FxNode,
    GraphInfo,
    Module,
    ModuleCall,
    Node,
    Path,
    Root,
    TensorRef,
    Value,
    Variable,
)
from fxgrad.graph.records import SCHEMA_VERSION
from fxgrad.observe.forward import ForwardRecorder
from fxgrad.observe.frames import source_of
from fxgrad.observe.fx_graph import ForwardGraph, argument_names
from fxgrad.observe.hooked import HookCollector
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.names import ModuleNames, NamedTensor, named_tensors, shown_path
from fxgrad.observe.provenance import Operands, Timeline
from fxgrad.observe.seen import Origin, SeenFunctionCall, SeenModuleCall, SeenTensor, backward_kind, origin_of
from fxgrad.observe.walk import NO_SEQUENCE_NR, NodeRecorder, WalkedGraph, labels, name_of, sequence_nr_of, walk

Roots = Sequence[tuple[Path, torch.Tensor]]


class Observation:
    """One look at one backward graph.

    `model` and `args` name what they hold; `recorder` and `forward` are there when the forward was recorded.
    """

    def __init__(
        self,
        roots: Roots,
        model: nn.Module | None,
        *,
        inputs: Sequence[tuple[Path, torch.Tensor]] = (),
        recorder: ForwardRecorder | None = None,
        forward: ForwardGraph | None = None,
        module_names: ModuleNames | None = None,
        metas: MetaTable | None = None,
    ) -> None:
        self.model = model
        self.recorder = recorder
        self.forward = forward
        self.metas = metas or MetaTable()
        self.module_names = module_names or ModuleNames(model)
        n_args = 1 + max([int(path[1]) for path, _ in inputs if path[0] == "args"], default=-1)
        self.input_names = () if model is None else argument_names(model, n_args)
        shown = [(shown_path(self.input_names, path), tensor) for path, tensor in inputs]
        self.named = named_tensors(model, shown)
        edges = [(path, *_gradient_edge(tensor)) for path, tensor in roots]
        self.walked: WalkedGraph = walk([node for _, node, _ in edges])
        self.roots = tuple([Root(self.walked.ids[node], slot, path) for path, node, slot in edges])
        self.root_paths = list(roots)
        self.root_tensors = [tensor for _, tensor in roots]
        self.leaves = self._name_leaves()
        self.call_ids = self._number_calls()

    def _name_leaves(self) -> dict[int, AutogradNode]:
        """The AccumulateGrad node of every leaf in the graph, by the leaf's identity; unnamed leaves get a name."""
        leaves: dict[int, AutogradNode] = {}
        for node in self.walked.order:
            variable = getattr(node, "variable", None)
            if variable is None or node.next_functions:
                continue
            leaves[id(variable)] = node
            if id(variable) not in self.named:
                count = sum(named.kind == "other leaf" for named in self.named.values())
                self.named[id(variable)] = NamedTensor(f"leaf {count}", "other leaf", variable)
        return leaves

    def _number_calls(self) -> dict[SeenModuleCall, str]:
        counts: dict[str, int] = {}
        ids: dict[SeenModuleCall, str] = {}
        for call in self.recorder.module_calls if self.recorder else ():
            path = self.module_names.path_of(call.module)
            counts[path] = counts.get(path, 0) + 1
            ids[call] = f"{path}#{counts[path]}"
        return ids

    def tensor_name(self, tensor: torch.Tensor, origin: Origin | None) -> str:
        """How the owner of a tensor hook is called: by its name, its fx node, or its node and slot."""
        if id(tensor) in self.named:
            return self.named[id(tensor)].name
        if self.forward is not None and self.forward.made(tensor) is not None:
            return str(self.forward.made(tensor))
        return "" if origin is None else f"{self.node_name(origin[0])}[{origin[1]}]"

    def node_name(self, node: AutogradNode) -> str:
        """The label of a node; its plain name where the roots do not reach it."""
        rank = self.walked.ids.get(node)
        return name_of(node) if rank is None else self._labels[rank]

    @cached_property
    def _labels(self) -> list[str]:
        return labels([name_of(node) for node in self.walked.order])

    # Records

    def graph(self, info: GraphInfo, hooks: HookCollector) -> BackwardGraph:
        """All records, without sites."""
        nodes = hooks.placed_on(self.nodes())
        return BackwardGraph(
            roots=self.roots,
            nodes=nodes,
            modules=tuple(self._modules(hooks)),
            calls=tuple([self._module_call(call, hooks) for call in self.call_ids]),
            variables=tuple(self._variables()),
            hooks=hooks.records(),
            sites=(),
            forward=tuple(self._fx_nodes()),
            info=info,
        )

    def nodes(self) -> tuple[Node, ...]:
        """The records of the nodes, in id order."""
        variables = {node: self.named[leaf].name for leaf, node in self.leaves.items()}
        node_recorder = NodeRecorder(self.walked, self.metas, variables)
        if self.recorder is None or self.forward is None:
            return node_recorder.records()
        timeline = Timeline(self.recorder, self.call_ids, self.forward.node_of_call)
        nodes = node_recorder.records(timeline.provenance)
        return self._operands().with_operands(nodes, self.walked.order)

    def _operands(self) -> Operands:
        operands = Operands(self.metas)
        assert self.recorder is not None
        assert self.forward is not None
        for tensor_id, fx_node in self.forward.named_nodes():
            if tensor_id in self.named:
                operands.add(self.named[tensor_id].tensor, Value(fx_node.name))
        for number, seen in enumerate(self.recorder.function_calls):
            made_by = self.forward.node_of_call.get(number)
            if made_by is not None:
                for position, (_, tensor) in enumerate(seen.results):
                    operands.add(tensor, Value(made_by.name, position if len(seen.results) > 1 else None))
        return operands

    def _modules(self, hooks: HookCollector) -> Iterable[Module]:
        for module_id, module in self.module_names.modules.items():
            path, *aliases = self.module_names.paths[module_id]
            prefix = f"{path}." if path else ""
            yield Module(
                path=path,
                aliases=tuple(aliases),
                type_name=type(module).__name__,
                training=module.training,
                full_backward_sticky=None if backward_kind(module) is None else backward_kind(module).is_full,  # type: ignore[union-attr]
                hooks=hooks.ids_on_module(module),
                parameters=tuple(prefix + name for name, _ in module.named_parameters(recurse=False)),
                description=_description(module),
            )

    def _variables(self) -> Iterable[Variable]:
        for tensor_id, named in self.named.items():
            tensor = named.tensor
            if not self._is_listed(tensor_id, named):
                continue
            node, slot = self._place(tensor)
            yield Variable(
                name=named.name,
                aliases=tuple(named.aliases),
                kind=named.kind,
                meta=self.metas.of_tensor(tensor),
                requires_grad=tensor.requires_grad,
                is_leaf=tensor.is_leaf,
                retains_grad=tensor.retains_grad,
                node=node,
                slot=slot,
            )

    def _is_listed(self, tensor_id: int, named: NamedTensor) -> bool:
        """Whether a named tensor is among the variables: an attribute that requires no grad is not."""
        return named.kind != "other leaf" or tensor_id in self.leaves or named.tensor.requires_grad

    def _place(self, tensor: torch.Tensor) -> tuple[int | None, int]:
        if id(tensor) in self.leaves:
            return self.walked.ids[self.leaves[id(tensor)]], 0
        if tensor.is_leaf or not tensor.requires_grad:
            return None, 0
        return self.walked.ids.get(tensor.grad_fn), tensor.output_nr  # type: ignore[arg-type]

    def _module_call(self, call: SeenModuleCall, hooks: HookCollector) -> ModuleCall:
        call_id = self.call_ids[call]
        path, _, index = call_id.rpartition("#")
        legacy = next((seen for seen in call.outputs if seen.tensor is call.legacy_tensor), None)
        return ModuleCall(
            id=call_id,
            path=path,
            type_name=type(call.module).__name__,
            index=int(index),
            parent=None if call.parent is None else self.call_ids[call.parent],
            sequence_window=(call.start, call.end),
            thread=0,
            inputs=tuple([self.reference(seen) for seen in call.inputs]),
            outputs=tuple([self.reference(seen) for seen in call.outputs]),
            n_args=len(call.args),
            n_results=len(call.result) if isinstance(call.result, tuple) else 1,
            result_type=type(call.result).__name__,
            grad_enabled=call.grad_enabled,
            completed=call.completed,
            training=call.training,
            hooks=hooks.ids_of_call(call),
            legacy_tensor=None if legacy is None else self.reference(legacy),
            legacy_reason=call.legacy_reason,
            input_hook_node=self.walked.ids.get(call.input_hook_node),  # type: ignore[arg-type]
            output_hook_node=self.walked.ids.get(call.output_hook_node),  # type: ignore[arg-type]
            full_hook=_full_hook_setup(call),
            checkpointed=call.checkpointed,
            argument_names=argument_names(call.module, len(call.args)),
            source=source_of(call.frames),
            on_source_line=call.on_source_line,
            forward_start=call.forward_start,
            result_kind=_result_kind(call.result) if call.completed else None,
        )

    def reference(self, seen: SeenTensor) -> TensorRef:
        """The record of a tensor as it was at one moment of the run."""
        node, slot, node_name, sequence_nr = None, 0, None, None
        if seen.requires_grad and seen.is_leaf:
            node_name = "torch::autograd::AccumulateGrad"
            if id(seen.tensor) in self.leaves:
                node = self.walked.ids[self.leaves[id(seen.tensor)]]
        elif (origin := _origin_now(seen)) is not None:
            live, slot = origin
            node, node_name = self.walked.ids.get(live), name_of(live)
            sequence_nr = sequence_nr_of(live) if node is None else None
        named = self.named.get(id(seen.tensor))
        if named is not None and not self._is_listed(id(seen.tensor), named):
            named = None
        value = None if self.forward is None else self.forward.value_of(seen)
        return TensorRef(
            path=seen.path,
            meta=self.metas.of_tensor(seen.tensor),
            requires_grad=seen.requires_grad,
            is_leaf=seen.is_leaf,
            node=node,
            slot=slot,
            node_name=node_name,
            name=None if named is None else named.name,
            fx_node=None if value is None else value.fx_node,
            fx_index=None if value is None else value.index,
            sequence_nr=None if sequence_nr == NO_SEQUENCE_NR else sequence_nr,
        )

    def _fx_nodes(self) -> Iterable[FxNode]:
        if self.forward is None:
            return
        for fx_node in self.forward.graph.nodes:
            seen = self.forward.stack_of_node.get(fx_node)
            yield FxNode(
                name=fx_node.name,
                op=fx_node.op,
                target=fx_node._pretty_print_target(fx_node.target),
                args_text=_arguments_text(fx_node),
                modules=() if seen is None else tuple(self._stack(seen.module_call)),
                source=None if seen is None else source_of(seen.frames),
                meta=() if seen is None else tuple(seen.metas or [self.metas.of_tensor(t) for _, t in seen.results]),
                sequence_window=None if seen is None else seen.window,
                changes=() if seen is None else tuple(self._values_before(fx_node, seen)),
                aliases=() if seen is None else tuple(self._shared_values(seen)),
                grad_enabled=seen is None or seen.grad_enabled,
            )

    def _values_before(self, fx_node: torch.fx.Node, seen: SeenFunctionCall) -> Iterable[Value]:
        assert self.forward is not None
        for earlier in seen.changes:
            value = self.forward.value_of(earlier)
            if value is not None and value.fx_node != fx_node.name:
                yield value

    def _shared_values(self, seen: SeenFunctionCall) -> Iterable[Value | None]:
        assert self.forward is not None
        for earlier in seen.aliases:
            yield None if earlier is None else self.forward.value_of(earlier)

    def _stack(self, call: SeenModuleCall | None) -> list[str]:
        stack = []
        while call is not None:
            stack.append(self.call_ids[call])
            call = call.parent
        return stack[::-1]


def _origin_now(seen: SeenTensor) -> Origin | None:
    """Where a tensor is; of a view that was stale then, now that forward is over, if nothing has changed it since."""
    if seen.stale and seen.tensor._version == seen.version:
        return origin_of(seen.tensor)
    return seen.origin


def _gradient_edge(tensor: torch.Tensor) -> tuple[AutogradNode, int]:
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _full_hook_setup(call: SeenModuleCall) -> FullHookSetup | None:
    hook = call.backward_hook
    if hook is None:
        return None
    return FullHookSetup(
        n_inputs=hook.n_inputs,
        input_positions=None if hook.input_tensors_index is None else tuple(hook.input_tensors_index),
        n_outputs=hook.n_outputs,
        output_positions=None if hook.output_tensors_index is None else tuple(hook.output_tensors_index),
    )


def _result_kind(result: object) -> str:
    """What ``BackwardHook`` (torch/utils/hooks.py) would have to build again from its members."""
    if isinstance(result, torch.Tensor):
        return "tensor"
    if not isinstance(result, tuple):
        return "other"
    if type(result) is tuple:
        return "tuple"
    if hasattr(type(result), "n_sequence_fields"):  # PyStructSequence
        return "struct sequence"
    return "namedtuple" if hasattr(type(result), "_fields") else "tuple subclass"


def _arguments_text(fx_node: torch.fx.Node) -> str:
    keywords = [f"{name}={value}" for name, value in fx_node.kwargs.items()]
    return ", ".join([*map(str, fx_node.args), *keywords])


def _description(module: nn.Module) -> str:
    """``LSTMCell(1000, 1000)``: what the module says of itself; its class alone where that raises."""
    try:
        extra = module.extra_repr()
    except Exception:  # the user's own code
        extra = ""
    return (
        f"{type(module).__name__}({extra})" if isinstance(extra, str) and "\n" not in extra else type(module).__name__
    )


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
