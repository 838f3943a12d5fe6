"""Makes the records: what was observed of a graph, and the hooks that are on it, become a BackwardGraph.

Nothing of what is returned refers to a live object (a node, a tensor, a module).
"""

from __future__ import annotations

import inspect
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import Node as AutogradNode
from torch.fx.node import map_aggregate
from torch.nn.modules import module as module_hooks

from fxgrad.graph import (
    BackwardGraph,
    FxNode,
    GraphInfo,
    Module,
    ModuleCall,
    Node,
    TensorRef,
    Value,
    Variable,
)
from fxgrad.graph.records import SCHEMA_VERSION, HeldBy, Taken
from fxgrad.graph.text import strip_addresses
from fxgrad.observe.accelerator.device import public_name
from fxgrad.observe.autograd.nested_backward import NestedBackward, find_nested_backward
from fxgrad.observe.autograd.node_records import NodeNotes, make_node_records
from fxgrad.observe.autograd.operands import Operands
from fxgrad.observe.autograd.provenance import Timeline
from fxgrad.observe.autograd.saved_tensors import find_lost_saved, find_saturated
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD, NO_SEQUENCE_NR, name_of, sequence_nr_of
from fxgrad.observe.hooks.records import HookRecords
from fxgrad.observe.hooks.search import describe_full_hook
from fxgrad.observe.hooks.tables import function_name
from fxgrad.observe.observed_graph import ObservedGraph
from fxgrad.observe.real_types import is_a, is_optimized
from fxgrad.observe.record.events import ModuleEvent, OpEvent, TensorSnapshot, find_backward_kind
from fxgrad.observe.record.forward_graph import ForwardGraph, FxOrigin
from fxgrad.observe.record.frames import find_stack_source
from fxgrad.observe.record.graph_modules import GraphModules, find_generated_code
from fxgrad.observe.record.names import NamedTensor, get_table, list_argument_names, takes_argument
from fxgrad.observe.record.operations import ASKS
from fxgrad.observe.record.recorder import Recorder
from fxgrad.observe.record.tensors import Origin, identify_memory, is_leaf, is_opaque, read_origin
from fxgrad.version import __version__

_LONGEST_ARGUMENTS = 2_000
_NOT_MADE = FxOrigin(None, False, (), None)
_TRACER = torch.fx.Tracer()


def build_graph(observed: ObservedGraph, hooks: HookRecords, info: GraphInfo) -> BackwardGraph:
    """All records, without sites."""
    modules = list(observed.module_names.modules.values())  # describing one runs code of the user's
    return BackwardGraph(
        roots=observed.roots,
        nodes=_make_nodes(observed, hooks),
        modules=tuple([_make_module(module, observed, hooks) for module in modules]),
        calls=tuple([_make_call(call, observed, hooks) for call in observed.call_ids]),
        variables=tuple(_make_variables(observed)),
        hooks=hooks.make_records(),
        sites=(),
        forward=() if observed.forward is None else tuple(_make_fx_nodes(observed, observed.forward)),
        info=info,
        unrecorded_calls=hooks.make_unrecorded_calls(),
    )


def make_graph_info(
    *,
    device: str,
    root_rule: str,
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
        emulated=False,
        root_rule=root_rule,
        skipped=skipped,
        notes=notes,
        calls_reason=calls_reason,
        global_backward_sticky=module_hooks._global_is_full_backward_hook,
    )


def device_of(tensors: Iterable[torch.Tensor]) -> str:
    """The device, or the devices, that tensors are on: "cpu", "cpu, cuda:0"."""
    return ", ".join(sorted({str(tensor.device) for tensor in tensors})) or "none"


# Nodes


def _make_nodes(observed: ObservedGraph, hooks: HookRecords) -> tuple[Node, ...]:
    """The records of the nodes, in id order: all that is known of one beforehand, so that each is made once."""
    walked, recorder, forward, ownership = observed.walked, observed.recorder, observed.forward, observed.ownership
    named = observed.tensor_names.named
    variables = {walked.ids[node]: named[leaf].name for leaf, node in observed.leaves.items()}
    variables |= {walked.ids[node]: named[leaf].name for leaf, nodes in observed.earlier.items() for node in nodes}
    if recorder is None or forward is None or ownership is None:
        return make_node_records(
            walked, NodeNotes(variables, hooks.ids_on_nodes(), find_lost_saved(walked), find_saturated(walked))
        )
    notes = NodeNotes(
        variables,
        hooks.ids_on_nodes(),
        find_lost_saved(walked),
        find_saturated(walked),
        dict(_list_nested_backwards(recorder)),
        Timeline(walked, recorder, ownership, observed.call_ids, forward.node_of_call),
        _make_operands(observed, recorder, forward),
    )
    return make_node_records(walked, notes)


def _list_nested_backwards(
    recorder: Recorder,
) -> Iterator[tuple[AutogradNode, tuple[NestedBackward | None, Sequence[Origin]]]]:
    """The node of each Function whose backward may start another one, with what its context and its forward show."""
    for call in recorder.ops.nesting:
        if call.node is not None:
            modules = [inner.module for inner in call.calls]
            nested = find_nested_backward(call.function, vars(call.node), [*modules, *call.leaves])
            if nested is None:
                for inner in call.calls:
                    inner.checkpointed = None
            yield call.node, (nested, call.origins)


def _make_operands(observed: ObservedGraph, recorder: Recorder, forward: ForwardGraph) -> Operands:
    calls = {node.name: recorder.function_calls[number] for number, node in forward.node_of_call.items()}
    operands = Operands(observed.walked, observed.metas, calls, forward.value_of)
    for tensor_id, fx_node in forward.named_nodes():
        if tensor_id in observed.tensor_names.named:
            operands.add(observed.tensor_names.named[tensor_id].tensor, Value(fx_node.name))
    for number, event in enumerate(recorder.function_calls):
        made_by = forward.node_of_call.get(number)
        if made_by is not None:
            for position, result in enumerate(event.results):
                operands.add(result.tensor, Value(made_by.name, position if len(event.results) > 1 else None))
    return operands


# Modules and their calls


def _make_module(module: nn.Module, observed: ObservedGraph, hooks: HookRecords) -> Module:
    names = observed.module_names
    path, *aliases = names.paths[id(module)]
    prefix = f"{path}." if path else ""
    kind = find_backward_kind(module)
    parameters = get_table(module, "_parameters").items()
    return Module(
        path=path,
        aliases=tuple(aliases),
        type_name=type(module).__name__,
        training=module.training,
        full_backward_sticky=None if kind is None else kind.is_full,
        hooks=hooks.ids_on_module(module),
        parameters=tuple([prefix + name for name, parameter in parameters if parameter is not None]),
        description=_describe_module(module),
        is_fx_leaf=_TRACER.is_leaf_module(module, path),
        made_by=_find_maker(module),
        wraps=names.path_of(module._orig_mod) if is_optimized(module) else None,
        dropped=tuple(_list_dropped(module)),
        has_forward=inspect.getattr_static(module, "forward", None) is not nn.Module.forward,
    )


def _describe_module(module: nn.Module) -> str:
    """``LSTMCell(1000, 1000)``: what the module says of itself; its class alone where that raises."""
    try:
        extra = module.extra_repr()
    except Exception:  # the user's own code
        extra = ""
    name = type(module).__name__
    return f"{name}({strip_addresses(extra)})" if isinstance(extra, str) and "\n" not in extra else name


def _find_maker(module: nn.Module) -> str | None:
    if is_a(module, torch.jit.ScriptModule):
        return "torch.jit"
    if find_generated_code(module) is not None:
        return "torch.fx"
    is_compiled = is_optimized(module) or vars(module).get("_compiled_call_impl") is not None
    return "torch.compile" if is_compiled else None


def _list_dropped(module: nn.Module) -> Iterator[str]:
    """The backward hooks that torch.jit.script did not take over (torch/jit/_recursive.py, ignored_attributes): its forward
    wraps that of the module that was scripted."""
    written = (
        getattr(vars(module).get("forward"), "__wrapped__", None) if is_a(module, torch.jit.ScriptModule) else None
    )
    original = getattr(written, "__self__", None)
    if is_a(original, nn.Module):
        for table in ("_backward_pre_hooks", "_backward_hooks"):
            yield from map(function_name, get_table(original, table).values())


def _make_call(call: ModuleEvent, observed: ObservedGraph, hooks: HookRecords) -> ModuleCall:
    call_id = observed.call_ids[call]
    path, _, index = call_id.rpartition("#")
    return ModuleCall(
        id=call_id,
        path=path,
        type_name=type(call.module).__name__,
        index=int(index),
        parent=observed.call_id(call.parent),
        sequence_window=(call.start, call.end),
        inputs=tuple([_make_tensor_ref(seen, observed) for seen in call.inputs]),
        outputs=tuple([_make_tensor_ref(seen, observed) for seen in call.outputs]),
        n_args=len(call.args),
        n_results=len(call.result) if is_a(call.result, tuple) else 1,
        result_type=type(call.result).__name__,
        grad_enabled=call.grad_enabled,
        completed=call.completed,
        training=call.training,
        hooks=hooks.ids_of_call(call),
        legacy_tensor=None if call.legacy is None else _make_tensor_ref(call.legacy, observed),
        legacy_reason=call.legacy_reason,
        input_hook_node=observed.node_id(call.input_hook_node),
        output_hook_node=observed.node_id(call.output_hook_node),
        full_hook=None if call.backward_hook is None else describe_full_hook(call.backward_hook),
        checkpointed=call.checkpointed,
        gradless=None if call.gradless is None else find_stack_source(call.gradless),
        transforms=call.transforms,
        argument_names=list_argument_names(call.module, len(call.args)),
        source=find_stack_source(call.stack),
        on_source_line=call.stack.direct,
        compiled_before=hooks.list_compiled_before(call),
        is_named_tuple=is_a(call.result, tuple) and hasattr(type(call.result), "_fields"),
        is_opaque=call.completed and is_opaque(call.result),
        takes_return_dict=takes_argument(call.module, "return_dict"),
    )


def _make_tensor_ref(seen: TensorSnapshot, observed: ObservedGraph) -> TensorRef:
    """The record of a tensor as it was at one moment of the run."""
    seen.settle()
    node, slot, node_name, sequence_nr = None, 0, None, None
    if seen.origin is not None:
        live, slot = seen.origin
        node, node_name = observed.node_id(live), name_of(live)
        sequence_nr = sequence_nr_of(live) if node is None else None
    elif seen.requires_grad and seen.is_leaf:
        node_name = ACCUMULATE_GRAD
        node = observed.node_id(observed.leaves.get(id(seen.tensor)))
    value = None if observed.forward is None else observed.forward.value_of(seen)
    return TensorRef(
        path=seen.path,
        meta=seen.meta,
        requires_grad=seen.requires_grad,
        is_leaf=seen.is_leaf,
        node=node,
        slot=slot,
        node_name=node_name,
        name=observed.variable_name(seen.tensor),
        fx_node=None if value is None else value.fx_node,
        fx_index=None if value is None else value.index,
        sequence_nr=None if sequence_nr == NO_SEQUENCE_NR else sequence_nr,
    )


# Variables


def _make_variables(observed: ObservedGraph) -> Iterator[Variable]:
    made = _find_leaves_made_in_forward(observed)
    unsharded = {id(each.sharded): id(each.unsharded) for each in observed.tensor_names.sharded}
    for named in filter(observed.is_variable, observed.tensor_names.named.values()):
        tensor, origin = named.tensor, made.get(id(named.tensor))
        event, made_from = (None, None) if origin is None else origin
        gathered = observed.tensor_names.named.get(unsharded.get(id(tensor), 0))
        has_node = tensor.requires_grad and id(tensor) not in observed.leaves
        node, slot = observed.find_slot(tensor, read_origin(tensor) if has_node else None)
        yield Variable(
            name=named.name,
            aliases=tuple(named.aliases),
            kind=named.kind,
            meta=observed.metas.of_tensor(tensor)
            if observed.recorder is None
            else observed.recorder.log.first_meta(tensor),
            requires_grad=tensor.requires_grad,
            is_leaf=is_leaf(tensor),
            retains_grad=tensor.retains_grad,
            node=node,
            slot=slot,
            held_by=_find_holder(named, event),
            made_at=None if event is None else find_stack_source(event.stack),
            made_from=made_from,
            replaces=named.replaces,
            left=named.left,
            unsharded=None if gathered is None else gathered.name,
            earlier=tuple([observed.walked.ids[node] for node in observed.earlier.get(id(tensor), ())]),
        )


def _find_holder(named: NamedTensor, made: OpEvent | None) -> HeldBy | None:
    """A leaf of forward's own that is no nn.Parameter is not meant to be trained: a gradient is asked for there."""
    if made is None:
        return named.held_by
    return "forward" if is_a(named.tensor, nn.Parameter) else None


def _find_leaves_made_in_forward(observed: ObservedGraph) -> dict[int, tuple[OpEvent, str | None]]:
    """By the identity of a leaf, the recorded call that returned the memory that it is in, and its fx node: torch makes an
    nn.Parameter out of a tensor's memory."""
    if observed.recorder is None or observed.forward is None:
        return {}
    named, knows = observed.tensor_names.named, observed.forward.is_attribute
    kinds = ("parameter", "other leaf")
    wanted = {
        identify_memory(leaf): id(leaf)
        for leaf in observed.leaf_tensors
        if named[id(leaf)].kind in kinds and not knows(leaf)
    }
    calls, fx_nodes = observed.recorder.function_calls if wanted else (), observed.forward.node_of_call
    found = [
        (wanted[memory], (event, fx_nodes[number].name if number in fx_nodes else None))
        for number, event in enumerate(calls)
        for result in event.results
        if result.shares is None and (memory := identify_memory(result.tensor)) in wanted
    ]
    return dict(reversed(found))


# The recorded forward


def _make_fx_nodes(observed: ObservedGraph, forward: ForwardGraph) -> Iterator[FxNode]:
    taken, asked = _list_host_reads(observed, forward)
    numbers = {fx_node: number for number, fx_node in forward.node_of_call.items()}
    for fx_node in forward.graph.nodes:
        origin: FxOrigin = forward.origins.get(fx_node, _NOT_MADE)
        event = origin.event
        own = event if origin.is_call else None
        number = numbers.get(fx_node, -1)
        yield FxNode(
            name=fx_node.name,
            op=fx_node.op,
            target=_name_target(fx_node, own),
            args_text=_format_arguments(fx_node),
            modules=() if event is None else tuple(_list_running_calls(event.module_call, observed)),
            source=None if event is None else find_stack_source(event.stack),
            meta=tuple([result.meta for result in origin.results]),
            sequence_window=origin.window,
            changes=() if own is None else tuple(_list_values_before(fx_node, own, forward)),
            aliases=() if own is None else tuple(_list_shared_values(own, forward)),
            grad_enabled=own is None or own.grad_enabled,
            inputs=tuple([argument.name for argument in fx_node.all_input_nodes]),
            requires_grad=tuple([result.requires_grad for result in origin.results]),
            taken=tuple(taken[fx_node.name]),
            asked=tuple(asked[fx_node.name]),
            gradless=None if own is None or own.gradless is None else find_stack_source(own.gradless),
            unseen=() if own is None else tuple(_name_variables(own.unseen, observed)),
            graph_node=_name_graph_node(forward.traced, number),
            traced_in=forward.traced.find_module_path(number, observed.module_names.path_of),
        )


def _name_variables(tensors: Iterable[torch.Tensor], observed: ObservedGraph) -> Iterator[str]:
    """The names of those that have one, each once."""
    names = dict.fromkeys(map(observed.variable_name, tensors))
    return (name for name in names if name is not None)


def _name_target(fx_node: fx.Node, event: OpEvent | None) -> str:
    """What is called; a custom Function by its class, not by the function that calls its ``apply`` in the torch.fx.Graph."""
    if event is not None and is_a(event.target, type) and fx_node.op == "call_function":
        return f"{event.target.__module__}.{event.target.__name__}.apply"
    target: str = fx_node._pretty_print_target(fx_node.target)
    return target


def _name_graph_node(traced: GraphModules, number: int) -> str | None:
    return traced.nodes[number].node.name if number in traced.nodes else None


def _list_host_reads(
    observed: ObservedGraph, forward: ForwardGraph
) -> tuple[dict[str, list[Taken]], dict[str, list[Taken]]]:
    """By the name of an fx node, where Python took its results, and where it asked whether they are true."""
    taken: dict[str, list[Taken]] = defaultdict(list)
    asked: dict[str, list[Taken]] = defaultdict(list)
    for function, tensor, stack, call in () if observed.recorder is None else observed.recorder.ops.host_reads:
        value = forward.value_of(tensor)
        if value is not None:
            read = Taken(function, find_stack_source(stack), observed.call_id(call))
            (asked if function == ASKS else taken)[value.fx_node].append(read)
    return taken, asked


def _list_values_before(fx_node: fx.Node, event: OpEvent, forward: ForwardGraph) -> Iterator[Value]:
    for earlier in event.changes:
        value = forward.value_of(earlier)
        if value is not None and value.fx_node != fx_node.name:
            yield value


def _list_shared_values(event: OpEvent, forward: ForwardGraph) -> Iterator[Value | None]:
    for result in event.results:
        yield None if result.shares is None else forward.value_of(result.shares)


def _list_running_calls(call: ModuleEvent | None, observed: ObservedGraph) -> list[str]:
    """The ids of a module call and of those around it, the outermost first."""
    stack = []
    while call is not None:
        stack.append(observed.call_ids[call])
        call = call.parent
    return stack[::-1]


def _format_arguments(fx_node: fx.Node) -> str:
    args, kwargs = map_aggregate((fx_node.args, fx_node.kwargs), _as_the_user_names_it)
    keywords = [f"{name}={value}" for name, value in kwargs.items()]
    text = strip_addresses(", ".join([*map(str, args), *keywords]))
    return text if len(text) <= _LONGEST_ARGUMENTS else text[:_LONGEST_ARGUMENTS] + "…"


def _as_the_user_names_it(argument: Any) -> Any:
    return torch.device(public_name(argument)) if is_a(argument, torch.device) else argument
