"""What stands in the boxes, on the arrows and in the tooltips: one small function per line of text.

Every text is one printable line (`fxgrad.graph.text`); lines in boxes are cut to a width, those of tooltips not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, Edge, HookKind, HookSite, ModuleCall, Node, Root
from fxgrad.graph.text import (
    count_noun,
    escape,
    escape_unprintable,
    format_backward_call,
    format_path,
    format_ranges,
    format_shape,
    name_registering_function,
)
from fxgrad.render.sentences import at_the_latest


class Line(NamedTuple):
    """One line of a box; ``hook`` is the kind of the hook that it names."""

    text: str
    bold: bool = False
    hook: HookKind | None = None


NAME_WIDTH = 44
PART_WIDTH = 32
HEADLINE_WIDTH = 100
MOST_HOOKS = 8
MOST_UNPLACED = 5


def node_lines(graph: BackwardGraph, node: Node) -> Iterator[Line]:
    """What a node is: its label, or for a leaf the variable's name and shape."""
    yield Line(shorten(_title(node), NAME_WIDTH), bold=True)
    if node.kind.is_leaf:
        yield Line(_leaf_text(graph, node))


def _title(node: Node) -> str:
    if node.kind.is_leaf and node.variable is not None:
        return escape(node.variable)
    return escape(node.label)


def _leaf_text(graph: BackwardGraph, node: Node) -> str:
    shape = format_shape(node.grad_outputs[0].shape) if node.grad_outputs else "shape unknown"
    variable = graph.variables_by_name.get(node.variable or "")
    return f"{shape} · {escape(variable.kind)}" if variable and variable.kind != "parameter" else shape


def place_text(call: ModuleCall, *, times: int) -> str:
    """The module call that a neighbour is in."""
    return f"in {call_title(call)}" + (f", call {call.index} of {times}" if times > 1 else "")


def hook_lines(sites: Iterable[HookSite]) -> Iterator[Line]:
    """One line for each different hook: ``print_sizes · register_backward_hook · layers.3``."""
    places = list(sites)
    by_hook: dict[_HookName, list[HookSite]] = {}
    for site in places:
        by_hook.setdefault(_identity(site), []).append(site)
    hooks = list(by_hook.items())
    for hook, alike in hooks[:MOST_HOOKS]:
        yield Line(_hook_text(hook, alike), hook=hook.kind)
    if len(hooks) > MOST_HOOKS:
        yield Line(f"and {len(hooks) - MOST_HOOKS} more hooks")


class _HookName(NamedTuple):
    function: str
    kind: HookKind
    owner: str


def _identity(site: HookSite) -> _HookName:
    return _HookName(site.hook.function, site.hook.kind, site.hook.owner)


def _hook_text(hook: _HookName, alike: Sequence[HookSite]) -> str:
    notes = [*([f"{len(alike)} times"] if len(alike) > 1 else []), _order_text(alike)]
    return " · ".join([_named(hook), *notes])


def _order_text(alike: Sequence[HookSite]) -> str:
    """The place in the firing order, from 1 as in the report."""
    orders = sorted(site.order + 1 for site in alike if site.order is not None)
    if not orders:
        return "never fires"
    if not any(site.fires for site in alike):
        return f"no. {format_ranges(orders)}, if it fires"
    return f"no. {format_ranges(orders)}{at_the_latest(alike)}"


def _named(hook: _HookName) -> str:
    owner = "every module" if hook.kind.is_global else escape(hook.owner) or "the model"
    function = shorten(escape(hook.function) or "hook", PART_WIDTH)
    return " · ".join([function, name_registering_function(hook.kind), shorten(owner, PART_WIDTH)])


def node_tooltip(
    graph: BackwardGraph, node: Node, sites: Iterable[HookSite], *, received: Sequence[str]
) -> Iterator[str]:
    """Everything known of a node that its box has no room for; ``received`` holds a status per gradient it gets."""
    yield escape(node.label)
    if node.variable is not None:
        yield from _variable_texts(graph, node.variable)
    yield f"schema: {escape(node.schema)}" if node.schema else f"no schema: {node.kind.value}"
    yield f"sequence number: {'none' if node.sequence_nr is None else node.sequence_nr}"
    yield f"receives: {', '.join(_received(node, received)) or 'nothing'}"
    if node.call is not None:
        yield f"made in the module call {escape(node.call)}"
    if node.source is not None:
        yield escape(f"{node.source.file}:{node.source.line}  {node.source.code}".rstrip())
    yield from (f"hook: {_full_hook_text(site)}" for site in sites)


def _variable_texts(graph: BackwardGraph, name: str) -> Iterator[str]:
    variable = graph.variables_by_name.get(name)
    yield f"leaf: {escape(name)}" if variable is None else f"{escape(variable.kind)}: {escape(name)}"
    if variable is not None and variable.aliases:
        yield f"also called: {', '.join(map(escape, variable.aliases))}"


def _received(node: Node, statuses: Sequence[str]) -> Iterator[str]:
    for slot, (meta, status) in enumerate(zip(node.grad_outputs, statuses, strict=True)):
        known = {"tensor": format_shape(meta.shape), "none": "None", "unknown": f"{format_shape(meta.shape)} or None"}
        yield f"{_slot_name(node, slot)} {known[status]}"


def _full_hook_text(site: HookSite) -> str:
    hook = site.hook
    return escape(f"{hook.function} · {hook.kind.value} · {hook.owner}".removesuffix(" · "))


def edge_lines(graph: BackwardGraph, edge: Edge) -> Iterator[str]:
    """The argument's name, the shape of its gradient, and which gradient of the next node it adds to, of several."""
    if edge.argument is not None:
        yield shorten(escape(edge.argument), PART_WIDTH)
    yield from shape_lines(graph, edge)


def shape_lines(graph: BackwardGraph, edge: Edge) -> Iterator[str]:
    """The shape of an edge's gradient, and which gradient of the next node it adds to, of several."""
    return iter(()) if edge.next_node is None else _slot_lines(graph.nodes[edge.next_node], edge.input_nr)


def _slot_lines(node: Node, slot: int) -> Iterator[str]:
    yield format_shape(node.grad_outputs[slot].shape)
    if len(node.grad_outputs) > 1:
        yield f"to {_slot_name(node, slot)}"


def _slot_name(node: Node, slot: int) -> str:
    return escape(node.output_names[slot]) if slot < len(node.output_names) else f"result {slot}"


def edge_tooltip(node: Node, index: int) -> Iterator[str]:
    """Which entry of grad_input goes along the edge, and why none does where none does."""
    edge = node.edges[index]
    name = f": {escape(edge.argument)}" if edge.argument else ""
    yield f"grad_input[{index}] of {escape(node.label)}{name}"
    if edge.next_node is None:
        yield escape(edge.null_reason or "no gradient goes there")


def root_lines(graph: BackwardGraph, root: Root) -> Iterator[str]:
    """The shape of the gradient that backward starts with, and which gradient of the node it is, of several."""
    return _slot_lines(graph.nodes[root.node], root.slot)


def root_title(root: Root) -> str:
    """Where the root was found: ``result[0]``."""
    return shorten(format_path(root.path) or "the output", NAME_WIDTH)


def call_title(call: ModuleCall) -> str:
    """The path of the called module; the model itself has none and goes by its type."""
    return shorten(escape(call.path or call.type_name), NAME_WIDTH)


def call_notes(call: ModuleCall, *, times: int) -> Iterator[str]:
    """The module's type, and which of its calls this is where there are several."""
    if call.path:
        yield shorten(escape(call.type_name), PART_WIDTH)
    if times > 1:
        yield f"call {call.index} of {times}"


def call_tooltip(graph: BackwardGraph, call: ModuleCall) -> Iterator[str]:
    """Everything known of a module call that its frame has no room for."""
    yield f"module call {escape(call.id)}"
    module = graph.modules_by_path.get(call.path)
    yield escape(module.description if module is not None and module.description else call.type_name)
    if call.source is not None:
        yield escape(f"{call.source.file}:{call.source.line}  {call.source.code}".rstrip())


def headline(graph: BackwardGraph, *, shown: int) -> Iterator[str]:
    """What the picture is of, and how it is read."""
    yield " · ".join(_headline_parts(graph, shown))
    yield "Backward runs from the roots at the top down to the leaves."
    yield f"roots: {shorten(escape_unprintable(graph.info.root_rule), HEADLINE_WIDTH)}"
    call = format_backward_call(graph.info.backward)
    if call:
        yield f"predicted for {shorten(call, HEADLINE_WIDTH)}"
    unplaced = list(_unplaced_hooks(graph))
    if unplaced:
        yield f"{count_noun(len(unplaced), 'hook')} on no node of this graph: {unplaced[0]}"
        yield from unplaced[1:MOST_UNPLACED]
    if len(unplaced) > MOST_UNPLACED:
        yield f"and {count_noun(len(unplaced) - MOST_UNPLACED, 'more hook')}"


def _headline_parts(graph: BackwardGraph, shown: int) -> Iterator[str]:
    outermost = next((call for call in graph.calls if call.parent is None), None)
    yield f"Backward graph of {shorten(escape(outermost.type_name), PART_WIDTH)}" if outermost else "Backward graph"
    nodes = count_noun(len(graph.nodes), "node", zero="0")
    yield nodes if shown == len(graph.nodes) else f"{shown:,} of {nodes}"
    if graph.hooks:
        yield count_noun(len(graph.hooks), "hook")
    yield f"emulated {escape(graph.info.device)}" if graph.info.emulated else escape(graph.info.device)


def _unplaced_hooks(graph: BackwardGraph) -> Iterator[str]:
    """The hooks that sit on no node: a picture that left them out would keep silent about them."""
    placed = {site.hook.id for site in graph.sites if site.node is not None}
    for hook in graph.hooks:
        if hook.id not in placed:
            yield _named(_HookName(hook.function, hook.kind, hook.owner))


def shorten(text: str, width: int) -> str:
    """Cut the text to at most that many characters; what goes is in the middle, because both ends of a name tell.

    >>> shorten("encoder.layers.0.self_attn.out_proj.weight", 20)
    'encoder.la…oj.weight'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
