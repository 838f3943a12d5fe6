"""What a picture says of nodes, hooks, edges and module calls. Lines in boxes are cut to a width, those of tooltips are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from fxgrad.graph import BackwardGraph, Edge, Hook, HookKind, HookSite, ModuleCall, Node, NodeKind, Root, Source
from fxgrad.graph.names import name_node_function
from fxgrad.graph.text import (
    count_noun,
    escape,
    escape_unprintable,
    format_path,
    format_ranges,
    format_script,
    format_shape,
    name_registering_function,
)
from fxgrad.render.pictures.inner_modules import is_inner_module
from fxgrad.render.pictures.parts import Identity, Line
from fxgrad.render.sentences import qualify_place

NAME_WIDTH = 44
PART_WIDTH = 32
_MOST_HOOKS = 8
_REASON_WIDTH = 64
_MOST_UNPLACED = 5


def shorten(text: str, width: int) -> str:
    """Cut the text to at most that many characters; the middle is left out, because both ends of a name matter.

    >>> shorten("encoder.layers.0.self_attn.out_proj.weight", 20)
    'encoder.la…oj.weight'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


# Nodes


def format_node(graph: BackwardGraph, node: Node, *, title: str | None = None) -> Iterator[Line]:
    """What a node is: its function and its label, or for a leaf the variable's name and shape."""
    if node.schema is not None or node.kind is NodeKind.CUSTOM_FUNCTION:
        yield Line(shorten(_name_function(node), NAME_WIDTH), bold=True)
        yield Line(shorten(escape(node.label), NAME_WIDTH))
        return
    yield Line(shorten(title or _title_node(node), NAME_WIDTH), bold=True)
    if node.kind.is_leaf:
        yield Line(_format_leaf(graph, node))


def _name_function(node: Node) -> str:
    """The function as people write it: ``addmm``, without namespace and overload."""
    name = name_node_function(node)
    return name.removeprefix("aten::").partition(".")[0] if node.schema is not None else name.removesuffix(".forward")


def _title_node(node: Node) -> str:
    if node.kind.is_leaf and node.variable is not None:
        return escape(node.variable)
    return escape(node.label)


def _format_leaf(graph: BackwardGraph, node: Node) -> str:
    shape = format_shape(node.grad_outputs[0].shape) if node.grad_outputs else "shape unknown"
    variable = graph.variables_by_name.get(node.variable or "")
    return f"{shape} · {escape(variable.kind)}" if variable and variable.kind != "parameter" else shape


def describe_node(
    graph: BackwardGraph, node: Node, sites: Iterable[HookSite], *, received: Sequence[str]
) -> Iterator[str]:
    """Everything known of a node that its box has no room for; ``received`` holds a status per gradient it gets."""
    yield escape(node.label)
    if node.variable is not None:
        yield from describe_variable(graph, node.variable)
    yield f"schema: {escape(node.schema)}" if node.schema else f"no schema: {node.kind.value}"
    yield f"sequence number: {'none' if node.sequence_nr is None else node.sequence_nr}"
    yield f"receives: {', '.join(_format_received(node, received)) or 'nothing'}"
    if node.call is not None:
        yield f"made in the {_name_call(graph.calls_by_id[node.call])}"
    if node.source is not None:
        yield escape(f"{node.source.file}:{node.source.line}  {node.source.code}".rstrip())
    if node.script is not None:
        yield f"TorchScript: {format_script(node.script)}"
    yield from (f"hook: {_describe_hook(site)}" for site in sites)


def describe_variable(graph: BackwardGraph, name: str) -> Iterator[str]:
    """What sort of variable it is, and its other names."""
    variable = graph.variables_by_name.get(name)
    yield f"leaf: {escape(name)}" if variable is None else f"{escape(variable.kind)}: {escape(name)}"
    if variable is not None and variable.aliases:
        yield f"also called: {', '.join(map(escape, variable.aliases))}"


def _format_received(node: Node, statuses: Sequence[str]) -> Iterator[str]:
    for slot, (meta, status) in enumerate(zip(node.grad_outputs, statuses, strict=True)):
        known = {"tensor": format_shape(meta.shape), "none": "None", "unknown": f"{format_shape(meta.shape)} or None"}
        yield f"{_name_slot(node, slot)} {known[status]}"


def _describe_hook(site: HookSite) -> str:
    hook = site.hook
    return escape(f"{hook.function} · {hook.kind.value} · {hook.owner}".removesuffix(" · "))


# Hooks


def format_hooks(sites: Iterable[HookSite]) -> Iterator[Line]:
    """One line for each different hook: ``print_sizes · register_backward_hook · layers.3``."""
    alike: dict[tuple[str, HookKind, str], list[HookSite]] = {}
    for site in sites:
        alike.setdefault((site.hook.function, site.hook.kind, site.hook.owner), []).append(site)
    groups = list(alike.values())
    for group in groups[:_MOST_HOOKS]:
        times = [f"{len(group)} times"] if len(group) > 1 else []
        text = " · ".join([format_hook_name(group[0].hook), *times, _format_order(group)])
        never = all(site.fires is False for site in group)
        yield Line(text, hook=None if never else group[0].hook.kind)
        if never and group[0].reason:
            yield Line(shorten(escape_unprintable(group[0].reason), _REASON_WIDTH))
    if len(groups) > _MOST_HOOKS:
        yield Line(f"and {len(groups) - _MOST_HOOKS} more hooks")


def _format_order(alike: Sequence[HookSite]) -> str:
    """The place in the firing order, from 1 as in the report."""
    orders = sorted(site.order + 1 for site in alike if site.order is not None)
    if not orders:
        return "never fires"
    if not any(site.fires for site in alike):
        return f"no. {format_ranges(orders)}, if it fires"
    return f"no. {format_ranges(orders)}{qualify_place(alike)}"


def format_hook_name(hook: Hook) -> str:
    """Name a hook by its function, kind and owner."""
    owner = "every module" if hook.kind.is_global else escape(hook.owner) or "the model"
    function = shorten(escape(hook.function) or "hook", PART_WIDTH)
    return " · ".join([function, name_registering_function(hook.kind), shorten(owner, PART_WIDTH)])


def list_hooks_left_out(graph: BackwardGraph, shown: Collection[int], *, where: str) -> Iterator[str]:
    """Name the hooks that are not among the ids ``shown``: a picture that left them out would keep silent about them."""
    names = [format_hook_name(hook) for hook in graph.hooks if hook.id not in shown]
    if names:
        yield f"{count_noun(len(names), 'hook')} {where}: {names[0]}"
        yield from names[1:_MOST_UNPLACED]
    if len(names) > _MOST_UNPLACED:
        yield f"and {count_noun(len(names) - _MOST_UNPLACED, 'more hook')}"


# Edges and roots


def format_edge(graph: BackwardGraph, edge: Edge) -> Iterator[str]:
    """The argument's name, the shape of its gradient, and which gradient of the next node it adds to, of several."""
    if edge.argument is not None:
        yield shorten(escape(edge.argument), PART_WIDTH)
    yield from format_edge_shape(graph, edge)


def format_edge_shape(graph: BackwardGraph, edge: Edge) -> Iterator[str]:
    """The shape of an edge's gradient, and which gradient of the next node it adds to, of several."""
    return iter(()) if edge.next_node is None else _format_slot(graph.nodes[edge.next_node], edge.input_nr)


def _format_slot(node: Node, slot: int) -> Iterator[str]:
    yield format_shape(node.grad_outputs[slot].shape)
    if len(node.grad_outputs) > 1:
        yield f"to {_name_slot(node, slot)}"


def _name_slot(node: Node, slot: int) -> str:
    return escape(node.output_names[slot]) if slot < len(node.output_names) else f"result {slot}"


def describe_edge(node: Node, index: int) -> Iterator[str]:
    """Which entry of grad_input goes along the edge, and why none does where none does."""
    edge = node.edges[index]
    name = f": {escape(edge.argument)}" if edge.argument else ""
    yield f"grad_input[{index}] of {escape(node.label)}{name}"
    if edge.next_node is None:
        yield escape(edge.null_reason or "no gradient goes there")


def format_root(graph: BackwardGraph, root: Root) -> Iterator[str]:
    """The shape of the gradient that backward starts with, and which gradient of the node it is, of several."""
    return _format_slot(graph.nodes[root.node], root.slot)


def title_root(root: Root) -> str:
    """Where the root was found: ``result[0]``."""
    return shorten(format_path(root.path) or "the output", NAME_WIDTH)


# Module calls


def title_call(call: ModuleCall) -> str:
    """The path of the called module; the model itself has none and goes by its type."""
    return shorten(escape(call.path or call.type_name), NAME_WIDTH)


def note_call(call: ModuleCall, *, times: int) -> Iterator[str]:
    """The module's type, and which of its calls this is where there are several."""
    if call.path:
        yield shorten(escape(call.type_name), PART_WIDTH)
    if times > 1:
        yield f"call {call.index} of {times}"


def describe_call(graph: BackwardGraph, call: ModuleCall) -> Iterator[str]:
    """Everything known of a module call that its frame has no room for."""
    yield _name_call(call)
    module = graph.modules_by_path.get(call.path)
    yield escape(module.description if module is not None and module.description else call.type_name)
    if call.source is not None:
        yield escape(f"{call.source.file}:{call.source.line}  {call.source.code}".rstrip())


def _name_call(call: ModuleCall) -> str:
    return f"{'module' if is_inner_module(call) else 'module call'} {escape(call.id)}"


def format_place(call: ModuleCall, *, times: int) -> str:
    """The module call that a neighbour is in."""
    return f"in {title_call(call)}" + (f", call {call.index} of {times}" if times > 1 else "")


def identify_call(call: ModuleCall) -> Identity:
    """A frame or a box that stands for a module call."""
    return Identity("module", call.id, call.path, *locate(call.source))


def locate(source: Source | None) -> tuple[str | None, int | None]:
    """The file and the line, for an `Identity`."""
    return (None, None) if source is None else (source.file, source.line)
