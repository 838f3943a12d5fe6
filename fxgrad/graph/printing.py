"""The whole graph as text, as torch.fx prints a Graph: one node a line, text before pictures.

Left out is what the program did not decide: sequence numbers and their windows count everything that the process ran
before. Files appear by their last name, for the same reason. The versions stand on the first line alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.records import (
    Edge,
    Gradient,
    GraphInfo,
    Hook,
    HookSite,
    ModuleCall,
    Node,
    NodeKind,
    Root,
    TensorMeta,
    TensorRef,
    UnrecordedCall,
    Variable,
)
from fxgrad.graph.text import (
    escape,
    escape_unprintable,
    format_backward_call,
    format_brief_source,
    format_path,
    format_script,
    format_shape,
    format_value,
)

_NAMED_BY_LABEL = (NodeKind.FUNCTION, NodeKind.ACCUMULATE_GRAD)


def format_graph(graph: GraphRecords) -> str:
    """Print a graph: how it was made, its nodes in id order, then roots, module calls, variables, hooks and sites.

    `%3` is the node of id 3, `%3[0]` the first gradient that it receives. Works on any graph, also on one that
    `lint` refuses, and takes time proportional to its size.
    """
    return "\n".join(_list_lines(graph)) + "\n"


def _list_lines(graph: GraphRecords) -> Iterator[str]:
    yield from _list_info(graph.info)
    yield from _format_section("nodes", [_format_node(graph, node) for node in graph.nodes])
    yield from _format_section("roots", [_format_root(graph, root) for root in graph.roots])
    yield from _format_section("module calls", [_format_call(graph, call) for call in graph.calls])
    yield from _format_section("unrecorded calls", [_format_unrecorded(graph, call) for call in graph.unrecorded_calls])
    yield from _format_section("variables", [_format_variable(graph, variable) for variable in graph.variables])
    yield from _format_section("hooks", [_format_hook(graph, hook) for hook in graph.hooks])
    yield from _format_section("sites", [line for site in graph.sites for line in _list_site(graph, site)])


def _format_section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {line}" for line in lines)


def _list_info(info: GraphInfo) -> Iterator[str]:
    versions = f"torch {info.torch}, Python {info.python}, fxgrad {info.fxgrad}, schema {info.schema_version}"
    yield escape_unprintable(f"backward graph of {versions}")
    yield escape_unprintable(f"device: {info.device}{' (emulated)' if info.emulated else ''}")
    yield escape_unprintable(f"roots: {info.root_rule}")
    if format_backward_call(info.backward):
        yield f"called as: {format_backward_call(info.backward)}"
    yield from (escape_unprintable(f"skipped: {skipped}") for skipped in info.skipped)
    yield from (escape_unprintable(f"note: {note}") for note in info.notes)
    if info.calls_reason is not None:
        yield escape_unprintable(f"no module calls: {info.calls_reason}")


def _format_node(graph: GraphRecords, node: Node) -> str:
    return "   ".join(
        [
            f"%{node.id} {_format_title(node)} {_format_grad_outputs(graph, node)}",
            *(_format_edge(graph, edge, index) for index, edge in enumerate(node.edges)),
            *_list_node_notes(node),
            *_list_origins(graph, node),
        ]
    )


def _format_title(node: Node) -> str:
    """The label, the leaf that an AccumulateGrad adds into, and the kind where the label does not tell."""
    leaf = f"({escape(node.variable)})" if node.variable is not None else ""
    kind = f" <{node.kind.value}>" if node.kind not in _NAMED_BY_LABEL else ""
    return f"{escape(node.label)}{leaf}{kind}"


def _format_grad_outputs(graph: GraphRecords, node: Node) -> str:
    metas = [_format_meta(graph, meta) for meta in node.grad_outputs]
    if len(metas) == 1:
        return metas[0]
    names = [f"{escape(name)} " for name in node.output_names] + [""] * len(metas)
    return ", ".join(f"{name}{meta}" for name, meta in zip(names, metas, strict=False)) or "receives nothing"


def _format_edge(graph: GraphRecords, edge: Edge, index: int) -> str:
    argument = f"grad_input[{index}]" if edge.argument is None else escape(edge.argument)
    value = f"={format_value(edge.value)}" if edge.value is not None else ""
    return f"{argument}{value} -> {_format_goal(graph, edge)}"


def _format_goal(graph: GraphRecords, edge: Edge) -> str:
    if edge.next_node is None:
        operand = f" {_format_meta(graph, edge.operand)}" if edge.operand is not None else ""
        return f"none{operand}: {escape_unprintable(edge.null_reason or 'no reason given')}"
    place = f"%{edge.next_node}[{edge.input_nr}]"
    if not 0 <= edge.next_node < len(graph.nodes):
        return f"{place} (no such node)"
    next_node = graph.nodes[edge.next_node]
    if not 0 <= edge.input_nr < len(next_node.grad_outputs):
        return f"{place} {_format_title(next_node)} (no such slot)"
    return f"{place} {_format_title(next_node)} {format_shape(next_node.grad_outputs[edge.input_nr].shape)}"


def _list_node_notes(node: Node) -> Iterator[str]:
    if node.hooks:
        yield f"hooks {_join_ids(node.hooks)}"
    if node.prehooks:
        yield f"prehooks {_join_ids(node.prehooks)}"


def _list_origins(graph: GraphRecords, node: Node) -> Iterator[str]:
    """The comment at the end of a node's line: module call, fx node and source line, those that are known."""
    fx_node = graph.fx_nodes_by_name.get(node.fx_node or "")
    names = [escape(name) for name in (node.call, node.fx_node) if name is not None]
    if fx_node is not None and fx_node.graph_node not in (None, fx_node.name):
        names[-1] += f" of the graph's {escape(fx_node.graph_node)}"
    if fx_node is not None and fx_node.traced_in:
        names.insert(-1, f"in {escape(fx_node.traced_in)}")
    lines = [format_brief_source(node.source)] if node.source is not None else []
    if names or lines:
        yield f"# {'  '.join(names + lines)}"
    if node.script is not None:
        yield f"TorchScript: {format_script(node.script)}"


def _format_root(graph: GraphRecords, root: Root) -> str:
    return f"{_format_slot(graph, root.node, root.slot)} {format_path(root.path)}"


def _format_call(graph: GraphRecords, call: ModuleCall) -> str:
    inputs = ", ".join(_format_ref(graph, ref) for ref in call.inputs)
    outputs = ", ".join(_format_ref(graph, ref) for ref in call.outputs)
    notes = "".join(f"   {note}" for note in _list_call_notes(graph, call))
    return f"{escape(call.id)} {escape(call.type_name)}({inputs}) -> {escape(call.result_type)}({outputs}){notes}"


def _list_call_notes(graph: GraphRecords, call: ModuleCall) -> Iterator[str]:
    if call.parent is not None:
        yield f"in {escape(call.parent)}"
    yield from (note for note, applies in _list_call_states(call) if applies)
    if call.hooks:
        yield f"hooks {_join_ids(call.hooks)}"
    if call.legacy_reason is not None:
        yield f"no tensor for a non-full hook: {escape_unprintable(call.legacy_reason)}"
    yield from _list_hook_nodes(graph, call)
    for passed in call.compiled_before:
        when = "before" if passed.certain else "perhaps before"
        yield f"{escape(passed.function)} compiled {when} hook {passed.hook} was registered"
    if call.source is not None:
        yield f"# {format_brief_source(call.source)}"


def _list_hook_nodes(graph: GraphRecords, call: ModuleCall | UnrecordedCall) -> Iterator[str]:
    if call.input_hook_node is not None:
        yield f"inputs through {_format_slot(graph, call.input_hook_node, None)}"
    if call.output_hook_node is not None:
        yield f"outputs through {_format_slot(graph, call.output_hook_node, None)}"


def _format_unrecorded(graph: GraphRecords, call: UnrecordedCall) -> str:
    numbers = f"{call.full_hook.n_inputs} -> {call.full_hook.n_outputs}"
    return "   ".join([f"{escape(call.path)} {numbers}", *_list_hook_nodes(graph, call)])


def _list_call_states(call: ModuleCall) -> tuple[tuple[str, bool], ...]:
    return (
        ("raised", not call.completed),
        ("no grad", not call.grad_enabled),
        ("eval", not call.training),
        (f"{call.checkpointed} checkpoint", call.checkpointed is not None),
    )


def _format_ref(graph: GraphRecords, ref: TensorRef) -> str:
    name = f" {escape(ref.name)}" if ref.name is not None else ""
    return f"{format_path(ref.path)}{name} {_format_meta(graph, ref.meta)} {_format_ref_goal(graph, ref)}"


def _format_ref_goal(graph: GraphRecords, ref: TensorRef) -> str:
    if ref.node is not None:
        return _format_slot(graph, ref.node, ref.slot)
    if ref.node_name is not None:
        return f"{escape(ref.node_name)} (not in the graph)"
    return "requires grad" if ref.requires_grad else "no grad"


def _format_variable(graph: GraphRecords, variable: Variable) -> str:
    also = "".join(f", also {escape(alias)}" for alias in variable.aliases)
    states = "".join(f", {state}" for state, applies in _list_variable_states(variable) if applies)
    place = f" -> {_format_slot(graph, variable.node, variable.slot)}" if variable.node is not None else ""
    meta = _format_meta(graph, variable.meta)
    return f"{escape(variable.name)}{also}: {escape(variable.kind)} {meta}{states}{place}"


def _list_variable_states(variable: Variable) -> tuple[tuple[str, bool], ...]:
    return (
        ("requires grad", variable.requires_grad),
        ("not a leaf", not variable.is_leaf),
        ("retains grad", variable.retains_grad),
        ("not in the graph", variable.node is None),
    )


def _format_hook(graph: GraphRecords, hook: Hook) -> str:
    notes = "".join(f", {note}" for note in _list_hook_notes(graph, hook))
    return f"{hook.id} {hook.kind.value}{_format_owner(hook)}: {escape(hook.function)}{notes}"


def _format_owner(hook: Hook) -> str:
    if hook.owner:
        return f" on {escape(hook.owner)}"
    return " on the root module" if hook.kind.is_module and not hook.kind.is_global else ""


def _list_hook_notes(graph: GraphRecords, hook: Hook) -> Iterator[str]:
    if hook.targets:
        yield f"{hook.mode} of {' and '.join(map(escape, hook.targets))}"
    if hook.source is not None:
        yield f"defined at {format_brief_source(hook.source)}"
    if hook.registered is not None:
        yield f"registered at {format_brief_source(hook.registered)}"
    if hook.observed is not None:
        yield f"seen on {_format_slot(graph, *hook.observed)}"
    yield from (note for note, applies in _list_hook_states(hook) if applies)
    if hook.unplaced is not None:
        yield f"on no node: {escape_unprintable(hook.unplaced)}"


def _list_hook_states(hook: Hook) -> tuple[tuple[str, bool], ...]:
    return (
        ("prepended", hook.prepend),
        ("removed", not hook.active),
        ("PyTorch's own", hook.by_torch),
        ("may return a value", hook.may_return is True),
    )


def _list_site(graph: GraphRecords, site: HookSite) -> Iterator[str]:
    order = "-" if site.order is None else str(site.order)
    hook = f"hook {site.hook.id} {escape(site.hook.function)}"
    yield f"{order}. {hook} {_format_place(graph, site)}, {_format_fires(site)}: {escape_unprintable(site.reason)}"
    for side, gradients in (("grad_output", site.grad_output), ("grad_input", site.grad_input)):
        if gradients is None:
            yield f"     {side}: number of entries unknown"
        yield from (f"     {_format_gradient(side, gradient)}" for gradient in gradients or ())


def _format_place(graph: GraphRecords, site: HookSite) -> str:
    call = f", call {escape(site.call)}" if site.call is not None else ""
    place = "nowhere" if site.node is None else f"at {_format_slot(graph, site.node, site.slot)}"
    return f"{place}{call}"


def _format_fires(site: HookSite) -> str:
    if site.fires is None:
        return "only backward decides whether it fires"
    if not site.fires:
        return "never fires"
    return {None: "fires", 1: "fires once"}.get(site.times, f"fires {site.times} times")


def _format_gradient(name: str, gradient: Gradient) -> str:
    argument = f" {escape(gradient.argument)}" if gradient.argument is not None else ""
    tensor = f" for {escape_unprintable(gradient.expression)}" if gradient.expression is not None else ""
    return f"{name}[{gradient.index}]{argument}{tensor}: {_format_status(gradient)}"


def _format_status(gradient: Gradient) -> str:
    if gradient.status == "tensor":
        return f"{format_shape(gradient.shape)} {escape(gradient.dtype or 'dtype unknown')}"
    status = "None" if gradient.status == "none" else escape(gradient.status)
    return f"{status}, {escape_unprintable(gradient.reason or 'no reason given')}"


def _format_slot(graph: GraphRecords, node: int, slot: int | None) -> str:
    place = f"%{node}" if slot is None else f"%{node}[{slot}]"
    if not 0 <= node < len(graph.nodes):
        return f"{place} (no such node)"
    return f"{place} {_format_title(graph.nodes[node])}"


def _format_meta(graph: GraphRecords, meta: TensorMeta) -> str:
    """Shape and dtype; device and layout only where they are not those of the whole graph, and strided."""
    device = f" {meta.device}" if meta.device != graph.info.device else ""
    layout = f" {meta.layout}" if meta.layout != "strided" else ""
    return f"{format_shape(meta.shape)} {escape(f'{meta.dtype}{device}{layout}')}"


def _join_ids(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids))
