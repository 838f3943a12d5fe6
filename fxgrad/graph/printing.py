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
    format_shape,
    format_value,
)

_NAMED_BY_LABEL = (NodeKind.FUNCTION, NodeKind.ACCUMULATE_GRAD)


def graph_text(graph: GraphRecords) -> str:
    """Print a graph: how it was made, its nodes in id order, then roots, module calls, variables, hooks and sites.

    `%3` is the node of id 3, `%3[0]` the first gradient that it receives. Works on any graph, also on one that
    `lint` refuses, and takes time proportional to its size.
    """
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: GraphRecords) -> Iterator[str]:
    yield from _info_lines(graph.info)
    yield from _section("nodes", [_node_line(graph, node) for node in graph.nodes])
    yield from _section("roots", [_root_line(graph, root) for root in graph.roots])
    yield from _section("module calls", [_call_line(graph, call) for call in graph.calls])
    yield from _section("unrecorded calls", [_unrecorded_line(graph, call) for call in graph.unrecorded_calls])
    yield from _section("variables", [_variable_line(graph, variable) for variable in graph.variables])
    yield from _section("hooks", [_hook_line(graph, hook) for hook in graph.hooks])
    yield from _section("sites", [line for site in graph.sites for line in _site_lines(graph, site)])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {line}" for line in lines)


def _info_lines(info: GraphInfo) -> Iterator[str]:
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


def _node_line(graph: GraphRecords, node: Node) -> str:
    return "   ".join(
        [
            f"%{node.id} {_title(node)} {_grad_outputs_text(graph, node)}",
            *(_edge_text(graph, edge, index) for index, edge in enumerate(node.edges)),
            *_node_notes(node),
            *_made_by(node),
        ]
    )


def _title(node: Node) -> str:
    """The label, the leaf that an AccumulateGrad adds into, and the kind where the label does not tell."""
    leaf = f"({escape(node.variable)})" if node.variable is not None else ""
    kind = f" <{node.kind.value}>" if node.kind not in _NAMED_BY_LABEL else ""
    return f"{escape(node.label)}{leaf}{kind}"


def _grad_outputs_text(graph: GraphRecords, node: Node) -> str:
    metas = [_meta_text(graph, meta) for meta in node.grad_outputs]
    if len(metas) == 1:
        return metas[0]
    names = [f"{escape(name)} " for name in node.output_names] + [""] * len(metas)
    return ", ".join(f"{name}{meta}" for name, meta in zip(names, metas, strict=False)) or "receives nothing"


def _edge_text(graph: GraphRecords, edge: Edge, index: int) -> str:
    argument = f"grad_input[{index}]" if edge.argument is None else escape(edge.argument)
    value = f"={format_value(edge.value)}" if edge.value is not None else ""
    return f"{argument}{value} -> {_end_text(graph, edge)}"


def _end_text(graph: GraphRecords, edge: Edge) -> str:
    if edge.next_node is None:
        operand = f" {_meta_text(graph, edge.operand)}" if edge.operand is not None else ""
        return f"none{operand}: {escape_unprintable(edge.null_reason or 'no reason given')}"
    place = f"%{edge.next_node}[{edge.input_nr}]"
    if not 0 <= edge.next_node < len(graph.nodes):
        return f"{place} (no such node)"
    next_node = graph.nodes[edge.next_node]
    if not 0 <= edge.input_nr < len(next_node.grad_outputs):
        return f"{place} {_title(next_node)} (no such slot)"
    return f"{place} {_title(next_node)} {format_shape(next_node.grad_outputs[edge.input_nr].shape)}"


def _node_notes(node: Node) -> Iterator[str]:
    if node.hooks:
        yield f"hooks {_listed(node.hooks)}"
    if node.prehooks:
        yield f"prehooks {_listed(node.prehooks)}"


def _made_by(node: Node) -> Iterator[str]:
    """The comment at the end of a node's line: module call, fx node and source line, those that are known."""
    names = [escape(name) for name in (node.call, node.fx_node) if name is not None]
    lines = [format_brief_source(node.source)] if node.source is not None else []
    if names or lines:
        yield f"# {'  '.join(names + lines)}"


def _root_line(graph: GraphRecords, root: Root) -> str:
    return f"{_place_text(graph, root.node, root.slot)} {format_path(root.path)}"


def _call_line(graph: GraphRecords, call: ModuleCall) -> str:
    inputs = ", ".join(_ref_text(graph, ref) for ref in call.inputs)
    outputs = ", ".join(_ref_text(graph, ref) for ref in call.outputs)
    notes = "".join(f"   {note}" for note in _call_notes(graph, call))
    return f"{escape(call.id)} {escape(call.type_name)}({inputs}) -> {escape(call.result_type)}({outputs}){notes}"


def _call_notes(graph: GraphRecords, call: ModuleCall) -> Iterator[str]:
    if call.parent is not None:
        yield f"in {escape(call.parent)}"
    yield from (note for note, applies in _call_states(call) if applies)
    if call.hooks:
        yield f"hooks {_listed(call.hooks)}"
    if call.legacy_reason is not None:
        yield f"no tensor for a non-full hook: {escape_unprintable(call.legacy_reason)}"
    yield from _hook_nodes(graph, call)
    if call.source is not None:
        yield f"# {format_brief_source(call.source)}"


def _hook_nodes(graph: GraphRecords, call: ModuleCall | UnrecordedCall) -> Iterator[str]:
    if call.input_hook_node is not None:
        yield f"inputs through {_place_text(graph, call.input_hook_node, None)}"
    if call.output_hook_node is not None:
        yield f"outputs through {_place_text(graph, call.output_hook_node, None)}"


def _unrecorded_line(graph: GraphRecords, call: UnrecordedCall) -> str:
    numbers = f"{call.full_hook.n_inputs} -> {call.full_hook.n_outputs}"
    return "   ".join([f"{escape(call.path)} {numbers}", *_hook_nodes(graph, call)])


def _call_states(call: ModuleCall) -> tuple[tuple[str, bool], ...]:
    return (
        ("raised", not call.completed),
        ("no grad", not call.grad_enabled),
        ("eval", not call.training),
        (f"{call.checkpointed} checkpoint", call.checkpointed is not None),
    )


def _ref_text(graph: GraphRecords, ref: TensorRef) -> str:
    name = f" {escape(ref.name)}" if ref.name is not None else ""
    return f"{format_path(ref.path)}{name} {_meta_text(graph, ref.meta)} {_gradient_goes(graph, ref)}"


def _gradient_goes(graph: GraphRecords, ref: TensorRef) -> str:
    if ref.node is not None:
        return _place_text(graph, ref.node, ref.slot)
    if ref.node_name is not None:
        return f"{escape(ref.node_name)} (not in the graph)"
    return "requires grad" if ref.requires_grad else "no grad"


def _variable_line(graph: GraphRecords, variable: Variable) -> str:
    also = "".join(f", also {escape(alias)}" for alias in variable.aliases)
    states = "".join(f", {state}" for state, applies in _variable_states(variable) if applies)
    place = f" -> {_place_text(graph, variable.node, variable.slot)}" if variable.node is not None else ""
    meta = _meta_text(graph, variable.meta)
    return f"{escape(variable.name)}{also}: {escape(variable.kind)} {meta}{states}{place}"


def _variable_states(variable: Variable) -> tuple[tuple[str, bool], ...]:
    return (
        ("requires grad", variable.requires_grad),
        ("not a leaf", not variable.is_leaf),
        ("retains grad", variable.retains_grad),
        ("not in the graph", variable.node is None),
    )


def _hook_line(graph: GraphRecords, hook: Hook) -> str:
    notes = "".join(f", {note}" for note in _hook_notes(graph, hook))
    return f"{hook.id} {hook.kind.value}{_owner_text(hook)}: {escape(hook.function)}{notes}"


def _owner_text(hook: Hook) -> str:
    if hook.owner:
        return f" on {escape(hook.owner)}"
    return " on the root module" if hook.kind.is_module and not hook.kind.is_global else ""


def _hook_notes(graph: GraphRecords, hook: Hook) -> Iterator[str]:
    if hook.targets:
        yield f"{hook.mode} of {' and '.join(map(escape, hook.targets))}"
    if hook.source is not None:
        yield f"defined at {format_brief_source(hook.source)}"
    if hook.registered is not None:
        yield f"registered at {format_brief_source(hook.registered)}"
    if hook.observed is not None:
        yield f"seen on {_place_text(graph, *hook.observed)}"
    yield from (note for note, applies in _hook_states(hook) if applies)
    if hook.unplaced is not None:
        yield f"on no node: {escape_unprintable(hook.unplaced)}"


def _hook_states(hook: Hook) -> tuple[tuple[str, bool], ...]:
    return (
        ("prepended", hook.prepend),
        ("removed", not hook.active),
        ("may return a value", hook.may_return is True),
    )


def _site_lines(graph: GraphRecords, site: HookSite) -> Iterator[str]:
    order = "-" if site.order is None else str(site.order)
    hook = f"hook {site.hook.id} {escape(site.hook.function)}"
    yield f"{order}. {hook} {_site_place(graph, site)}, {_fires_text(site)}: {escape_unprintable(site.reason)}"
    yield from (f"     {_gradient_text('grad_output', gradient)}" for gradient in site.grad_output)
    yield from (f"     {_gradient_text('grad_input', gradient)}" for gradient in site.grad_input)


def _site_place(graph: GraphRecords, site: HookSite) -> str:
    call = f", call {escape(site.call)}" if site.call is not None else ""
    place = "nowhere" if site.node is None else f"at {_place_text(graph, site.node, site.slot)}"
    return f"{place}{call}"


def _fires_text(site: HookSite) -> str:
    if site.fires is None:
        return "only backward decides whether it fires"
    if not site.fires:
        return "never fires"
    return {None: "fires", 1: "fires once"}.get(site.times, f"fires {site.times} times")


def _gradient_text(name: str, gradient: Gradient) -> str:
    argument = f" {escape(gradient.argument)}" if gradient.argument is not None else ""
    tensor = f" for {escape_unprintable(gradient.expression)}" if gradient.expression is not None else ""
    return f"{name}[{gradient.index}]{argument}{tensor}: {_status_text(gradient)}"


def _status_text(gradient: Gradient) -> str:
    if gradient.status == "tensor":
        return f"{format_shape(gradient.shape)} {escape(gradient.dtype or 'dtype unknown')}"
    status = "None" if gradient.status == "none" else escape(gradient.status)
    return f"{status}, {escape_unprintable(gradient.reason or 'no reason given')}"


def _place_text(graph: GraphRecords, node: int, slot: int | None) -> str:
    place = f"%{node}" if slot is None else f"%{node}[{slot}]"
    if not 0 <= node < len(graph.nodes):
        return f"{place} (no such node)"
    return f"{place} {_title(graph.nodes[node])}"


def _meta_text(graph: GraphRecords, meta: TensorMeta) -> str:
    """Shape and dtype; device and layout only where they are not those of the whole graph, and strided."""
    device = f" {meta.device}" if meta.device != graph.info.device else ""
    layout = f" {meta.layout}" if meta.layout != "strided" else ""
    return f"{format_shape(meta.shape)} {escape(f'{meta.dtype}{device}{layout}')}"


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids))
