"""The boxes of a picture, and the frames around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fxgrad.graph import ModuleCall, Node
from fxgrad.graph.text import count_noun, escape
from fxgrad.render import theme
from fxgrad.render.drawing import labels
from fxgrad.render.drawing.shapes import Box, Cluster, Line
from fxgrad.render.drawing.view import View


def boxes(view: View) -> tuple[Box, ...]:
    """Every box: the roots, the nodes in id order, collapsed module calls, and where no gradient goes on."""
    alone = [view.graph.nodes[node] for node in view.scope.nodes if node not in view.groups]
    return (
        *_root_boxes(view),
        *(_node_box(view, node) for node in alone),
        *_group_boxes(view),
        *(_dead_end(view, node) for node in alone if dead_ends(view, node)),
    )


def clusters(view: View, drawn: Iterable[Box]) -> tuple[Cluster, ...]:
    """The module calls that have a box in them, each before those in it."""
    needed = {box.cluster for box in drawn}
    calls = [call for call in view.graph.calls if view.cluster_key(call.id) in needed]
    around = {one for call in calls for one in view.lineages[call.id]}
    frames = sorted(around, key=lambda call: (len(view.lineages[call]), view.call_ranks[call]))
    return tuple(_cluster(view, view.graph.calls_by_id[call]) for call in frames)


def _cluster(view: View, call: ModuleCall) -> Cluster:
    return Cluster(
        key=f"cluster{view.call_ranks[call.id]}",
        parent=view.cluster_key(call.parent),
        level=len(view.lineages[call.id]) - 1,
        title=labels.call_title(call),
        notes=tuple(labels.call_notes(call, times=view.call_counts[call.path])),
        tooltip=tuple(labels.call_tooltip(view.graph, call)),
    )


def root_key(rank: int) -> str:
    """The key of the box that stands above the rank-th root."""
    return f"r{rank}"


def dead_end_key(node: int) -> str:
    """The key of the box where a node's edges that lead nowhere end."""
    return f"x{node}"


def dead_ends(view: View, node: Node) -> tuple[int, ...]:
    """Which edges of a node are drawn as leading nowhere.

    A hook on the node gets a None for each. Elsewhere only those are worth ink behind which a tensor is known to stand:
    the others are mostly Python numbers and absent optional arguments.
    """
    if node.id in view.scope.stubs:
        return ()
    hooked = node.id in view.sites
    return tuple(
        index
        for index, edge in enumerate(node.edges)
        if edge.next_node is None and (hooked or (edge.operand is not None and edge.operand.shape != ()))
    )


def _root_boxes(view: View) -> Iterator[Box]:
    for rank, root in view.roots:
        title = labels.root_title(root)
        yield Box(root_key(rank), theme.ROOT, (Line(title, bold=True),), (f"root: {title}",), None)


def _node_box(view: View, node: Node) -> Box:
    sites = view.sites.get(node.id, [])
    tooltip = tuple(labels.node_tooltip(view.graph, node, sites, received=view.predictions[node.id].grad_outputs))
    if node.id in view.scope.stubs:
        lines = (*labels.node_lines(view.graph, node), *_place(view, node))
        return Box(view.key(node.id), theme.STUB, lines, tooltip, None)
    lines = (*labels.node_lines(view.graph, node), *labels.hook_lines(sites))
    return Box(view.key(node.id), theme.NODE_LOOKS[node.kind], lines, tooltip, view.cluster_key(view.homes[node.id]))


def _place(view: View, node: Node) -> Iterator[Line]:
    home = view.homes[node.id]
    if home is not None:
        call = view.graph.calls_by_id[home]
        yield Line(labels.place_text(call, times=view.call_counts[call.path]))


def _group_boxes(view: View) -> Iterator[Box]:
    members: dict[str, list[int]] = {}
    for node in view.scope.nodes:
        if node in view.groups:
            members.setdefault(view.groups[node], []).append(node)
    for group, nodes in members.items():
        yield _group_box(view, view.graph.calls_by_id[group], nodes)


def _group_box(view: View, call: ModuleCall, nodes: list[int]) -> Box:
    sites = [site for node in nodes for site in view.sites.get(node, [])]
    notes = [*labels.call_notes(call, times=view.call_counts[call.path]), count_noun(len(nodes), "node", zero="0")]
    return Box(
        key=view.group_key(call.id),
        look=theme.COLLAPSED,
        lines=(Line(labels.call_title(call), bold=True), Line(" · ".join(notes)), *labels.hook_lines(sites)),
        tooltip=tuple(labels.call_tooltip(view.graph, call)),
        cluster=view.cluster_key(call.parent),
    )


def _dead_end(view: View, node: Node) -> Box:
    reasons = dict.fromkeys(node.edges[index].null_reason or "" for index in dead_ends(view, node))
    return Box(
        key=dead_end_key(node.id),
        look=theme.NO_GRADIENT,
        lines=(Line("needs no gradient"),),
        tooltip=tuple(escape(reason) for reason in reasons if reason) or (theme.NO_GRADIENT.meaning,),
        cluster=view.cluster_key(view.homes[node.id]),
    )
