"""The rules about numbers that belong together: a name for each gradient, an entry for each edge, positions of slots.

Asked only of a graph whose references lead somewhere (`structure`); no reader of a saved graph needs to check again.
"""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.hook_kinds import HookArguments
from fxgrad.graph.records import FullHookSetup, HookSite, ModuleCall, Node, TensorRef, UnrecordedCall
from fxgrad.graph.text import escape, format_path

_WHOLE_NODE = (HookArguments.NODE_GRADIENTS, HookArguments.NODE_GRAD_OUTPUT)
_STARTS = {"inputs": ("args", "kwargs"), "outputs": ("result",)}
_INSIDE = {"inputs": 2, "outputs": 1}
"""The shortest path: an argument has a position or a name, a result may be the whole."""


def length_problems(graph: GraphRecords) -> Iterator[str]:
    """Find what breaks these rules, each as a sentence that names the record."""
    for node in graph.nodes:
        yield from _node_problems(node)
    for call in graph.calls:
        yield from _call_problems(call, graph)
    for index, unrecorded in enumerate(graph.unrecorded_calls):
        yield from _setup_problems(unrecorded, unrecorded.full_hook, graph, unrecorded_text(unrecorded, index))
    for index, site in enumerate(graph.sites):
        if site.node is not None and site.fires is not False:
            yield from _site_problems(site, index, graph.nodes[site.node])


def _node_problems(node: Node) -> Iterator[str]:
    where = node_text(node)
    if len(node.output_names) != len(node.grad_outputs):
        yield f"{where}: {len(node.output_names)} output_names for {len(node.grad_outputs)} grad_outputs"
    if node.values and len(node.values) != len(node.grad_outputs):
        yield f"{where}: {len(node.values)} values for {len(node.grad_outputs)} grad_outputs"


def node_text(node: Node) -> str:
    """Name a node in a sentence."""
    return f"node {node.id} ({escape(node.label)})"


def _call_problems(call: ModuleCall, graph: GraphRecords) -> Iterator[str]:
    where = call_text(call)
    for field, refs in (("inputs", call.inputs), ("outputs", call.outputs)):
        yield from (f"{where}, {field}[{index}]: {text}" for index, text in _path_problems(refs, field))
    if call.full_hook is not None:
        yield from _setup_problems(call, call.full_hook, graph, f"{where}, full_hook")


def call_text(call: ModuleCall) -> str:
    """Name a module call in a sentence."""
    return f'call "{escape(call.id)}"'


def unrecorded_text(call: UnrecordedCall, index: int) -> str:
    """Name a module call that was not watched in a sentence."""
    return f'unrecorded_calls[{index}] ("{escape(call.path)}")'


def _path_problems(refs: tuple[TensorRef, ...], field: str) -> Iterator[tuple[int, str]]:
    for index, ref in enumerate(refs):
        if len(ref.path) < _INSIDE[field] or ref.path[0] not in _STARTS[field]:
            yield index, f"its path is {format_path(ref.path) or 'empty'}, which leads into no {field}"
        elif ref.path[0] == "args" and not isinstance(ref.path[1], int):
            yield index, f"its path is {format_path(ref.path)}, but positional arguments have numbers"


def _setup_problems(
    call: ModuleCall | UnrecordedCall, setup: FullHookSetup, graph: GraphRecords, where: str
) -> Iterator[str]:
    sides = (
        ("input", call.input_hook_node, setup.input_positions, setup.n_inputs),
        ("output", call.output_hook_node, setup.output_positions, setup.n_outputs),
    )
    for side, node, positions, most in sides:
        if any(not 0 <= position < most for position in positions or ()):
            yield f"{where}: {side}_positions are {positions}, but there are {most} {side}s"
        if node is not None and positions is not None and len(positions) != len(graph.nodes[node].edges):
            yield f"{where}: {len(positions)} {side}_positions for the {len(graph.nodes[node].edges)} edges of its node"


def _site_problems(site: HookSite, index: int, node: Node) -> Iterator[str]:
    """What each kind of hook is given: torch/csrc/autograd/engine.cpp, ``call_pre_hooks`` and ``call_post_hooks``."""
    where, kind = site_text(site, index), site.hook.kind
    if kind.arguments is HookArguments.NODE_GRADIENTS and len(site.grad_input) != len(node.edges):
        yield f"{where}: {len(site.grad_input)} grad_input for the {len(node.edges)} edges of {node_text(node)}"
    if kind.arguments in _WHOLE_NODE and len(site.grad_output) != len(node.grad_outputs):
        yield f"{where}: {len(site.grad_output)} grad_output for the {len(node.grad_outputs)} of {node_text(node)}"
    if not kind.gets_grad_input and site.grad_input:
        yield f"{where}: {kind.value} gets no grad_input, but it has {len(site.grad_input)}"
    if kind.arguments is HookArguments.LEAF and site.grad_output:
        yield f"{where}: {kind.value} gets the leaf, but it has {len(site.grad_output)} grad_output"
    if kind.arguments is HookArguments.GRADIENT and (site.slot is None or len(site.grad_output) != 1):
        yield f"{where}: {kind.value} sees one slot, but slot is {site.slot}, with {len(site.grad_output)} grad_output"


def site_text(site: HookSite, index: int) -> str:
    """Name a site in a sentence."""
    return f"sites[{index}] (hook {site.hook.id}, {escape(site.hook.function)})"
