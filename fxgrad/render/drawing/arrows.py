"""The arrows of a picture: one per edge of the graph, or one per pair of boxes where one stands for many nodes."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph.text import count_noun
from fxgrad.render import theme
from fxgrad.render.drawing import labels
from fxgrad.render.drawing.boxes import dead_end_key, dead_ends, root_key
from fxgrad.render.drawing.flow import node_flows, strongest
from fxgrad.render.drawing.scope import Link
from fxgrad.render.drawing.shapes import Arrow
from fxgrad.render.drawing.view import View
from fxgrad.render.theme import Flow


def arrows(view: View) -> tuple[Arrow, ...]:
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
    flow = strongest(*(link.flow for link in links))
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
        flows = node_flows(view.predictions[node_id])
        for index in () if node_id in view.groups else dead_ends(view, node):
            lines = tuple(labels.edge_lines(view.graph, node.edges[index]))
            tooltip = tuple(labels.edge_tooltip(node, index))
            yield Arrow(view.key(node_id), dead_end_key(node_id), lines, tooltip, flows[index])
