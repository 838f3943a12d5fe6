"""The boxes, arrows and frames that show a graph, before any notation for them.

DOT is one notation (`fxgrad.render.dot`). All text is one printable line each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, HookKind, ModuleCall, Node
from fxgrad.graph.text import count_noun, escape
from fxgrad.predict import predict_nodes
from fxgrad.render import labels, scope, theme
from fxgrad.render.labels import Line
from fxgrad.render.scope import Link, View, find_edge_flows, find_node_flows, make_view, pick_strongest
from fxgrad.render.theme import Flow, Look

# What a picture is made of


class Box(NamedTuple):
    """One box: ``cluster`` is the key of the cluster that it is drawn in, ``tooltip`` is shown line by line."""

    key: str
    look: Look
    lines: tuple[Line, ...]
    tooltip: tuple[str, ...]
    cluster: str | None

    @property
    def hook_kinds(self) -> tuple[HookKind, ...]:
        """The kinds of the hooks named in it, each once."""
        return tuple(dict.fromkeys(line.hook for line in self.lines if line.hook is not None))


class Arrow(NamedTuple):
    """One arrow between the boxes of these keys."""

    tail: str
    head: str
    lines: tuple[str, ...]
    tooltip: tuple[str, ...]
    flow: Flow


class Cluster(NamedTuple):
    """A frame around boxes: ``parent`` is the key of the frame around it, ``level`` how many there are around it."""

    key: str
    parent: str | None
    level: int
    title: str
    notes: tuple[str, ...]
    tooltip: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """What is drawn; each cluster stands before those in it."""

    headline: tuple[str, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    clusters: tuple[Cluster, ...]


def compose_picture(
    graph: BackwardGraph, *, module: str | None = None, hooks_only: bool = False, depth: int | None = None
) -> Picture:
    """Decide what to draw of a graph, from the roots at the top to the leaves at the bottom.

    ``module`` draws only what belongs to the module of that path, with its direct neighbours as stubs. ``hooks_only``
    draws only the nodes that carry hooks, the roots and the leaves, joined by the paths between them. ``depth`` makes
    one box of each module call whose path has more than that many components.

    Raises `UsageError` for a negative depth and for a module that was not called.
    """
    if depth is not None and depth < 0:
        raise UsageError(f"depth {depth}", "a depth of 0 or more", "leave depth out to draw everything")
    predictions = predict_nodes(graph)
    flows = find_edge_flows(predictions)
    drawn = scope.select_all(graph, flows) if module is None else scope.select_module(graph, flows, module)
    seen = make_view(graph, predictions, scope.select_hooked(graph, drawn) if hooks_only else drawn, depth)
    drawn_boxes = make_boxes(seen)
    return Picture(
        headline=tuple(labels.headline(graph, shown=len(seen.scope.nodes))),
        boxes=drawn_boxes,
        arrows=make_arrows(seen),
        clusters=make_clusters(seen, drawn_boxes),
    )


# Boxes and frames


def make_boxes(view: View) -> tuple[Box, ...]:
    """Every box: the roots, the nodes in id order, collapsed module calls, and where no gradient goes on."""
    alone = [view.graph.nodes[node] for node in view.scope.nodes if node not in view.groups]
    return (
        *_root_boxes(view),
        *(_node_box(view, node) for node in alone),
        *_group_boxes(view),
        *(_dead_end(view, node) for node in alone if dead_ends(view, node)),
    )


def make_clusters(view: View, drawn: Iterable[Box]) -> tuple[Cluster, ...]:
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


# Arrows


def make_arrows(view: View) -> tuple[Arrow, ...]:
    """Every arrow: from the roots, between the nodes, and to where no gradient goes on."""
    return (*_root_arrows(view), *_links(view), *_dead_end_arrows(view))


def _root_arrows(view: View) -> Iterator[Arrow]:
    for rank, root in view.roots:
        lines = tuple(labels.root_lines(view.graph, root))
        yield Arrow(root_key(rank), view.key(root.node), lines, (theme.ROOT.meaning,), Flow.GRADIENT)


def _links(view: View) -> Iterator[Arrow]:
    bundles: dict[tuple[str, str], list[Link]] = {}
    for link in view.scope.links:
        bundles.setdefault((view.key(link.tail), view.key(link.head)), []).append(link)
    for (tail, head), links in bundles.items():
        if tail == head:
            continue
        if len(links) > 1 and (links[0].tail in view.groups or links[0].head in view.groups):
            yield _bundle(view, tail, head, links)
        else:
            yield from (_link(view, tail, head, link) for link in links)


def _bundle(view: View, tail: str, head: str, links: list[Link]) -> Arrow:
    tooltip = tuple(line for link in links for line in _tooltip(view, link))
    flow = pick_strongest(*(link.flow for link in links))
    return Arrow(tail, head, (count_noun(len(links), "edge"),), tooltip, flow)


def _link(view: View, tail: str, head: str, link: Link) -> Arrow:
    return Arrow(tail, head, tuple(_lines(view, link)), tuple(_tooltip(view, link)), link.flow)


def _lines(view: View, link: Link) -> Iterator[str]:
    if link.edge is None:
        yield f"{count_noun(link.between, 'node')} between"
        return
    edge = view.graph.nodes[link.tail].edges[link.edge]
    # an argument is its node's: without the node in sight its name says nothing
    yield from (labels.shape_lines if link.tail in view.groups else labels.edge_lines)(view.graph, edge)


def _tooltip(view: View, link: Link) -> Iterator[str]:
    if link.edge is None:
        yield from _lines(view, link)
    else:
        yield from labels.edge_tooltip(view.graph.nodes[link.tail], link.edge)


def _dead_end_arrows(view: View) -> Iterator[Arrow]:
    for node_id in view.scope.nodes:
        node = view.graph.nodes[node_id]
        flows = find_node_flows(view.predictions[node_id])
        for index in () if node_id in view.groups else dead_ends(view, node):
            lines = tuple(labels.edge_lines(view.graph, node.edges[index]))
            tooltip = tuple(labels.edge_tooltip(node, index))
            yield Arrow(view.key(node_id), dead_end_key(node_id), lines, tooltip, flows[index])


# The legend


LOOKS = (
    theme.ROOT,
    *theme.NODE_LOOKS.values(),
    theme.COLLAPSED,
    theme.STUB,
    theme.NO_GRADIENT,
)


class Entry(NamedTuple):
    """A sample and what it means: a box, filled in a hook kind's colour or not, or a line."""

    meaning: str
    look: Look
    hook: HookKind | None = None
    flow: Flow | None = None


def list_legend(picture: Picture) -> Iterator[Entry]:
    """Of everything that a picture can show, what this one does: boxes, then hooks, then lines."""
    looks = {box.look for box in picture.boxes}
    yield from (Entry(look.meaning, look) for look in LOOKS if look in looks)
    hooks = {hook for box in picture.boxes for hook in box.hook_kinds}
    yield from (Entry(f"carries a hook: {kind.value}", theme.HOOKED, hook=kind) for kind in HookKind if kind in hooks)
    if any(len(box.hook_kinds) > 1 for box in picture.boxes):
        yield Entry("carries hooks of several kinds: one coloured line each", theme.HOOKED)
    flows = {arrow.flow for arrow in picture.arrows}
    yield from (Entry(theme.FLOW_MEANINGS[flow], theme.PLAIN, flow=flow) for flow in Flow if flow in flows)
