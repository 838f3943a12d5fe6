"""DOT source of a picture, written by the graphviz package.

The same graph gives the same bytes: everything is written in the order of the records, and names in DOT are counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fxgrad.graph import BackwardGraph
from fxgrad.render import theme
from fxgrad.render.drawing.compose import picture
from fxgrad.render.drawing.legend import Entry, entries
from fxgrad.render.drawing.shapes import Arrow, Box, Cluster, Picture
from fxgrad.render.escaping import tooltip_text
from fxgrad.render.markup import (
    BOX_SIZE,
    HEADLINE_SIZE,
    SMALL_SIZE,
    arrow_label,
    box_label,
    cluster_label,
    entry_label,
    headline_label,
)
from fxgrad.render.theme import Look

if TYPE_CHECKING:
    import graphviz

LEGEND = "cluster_legend"
LEGEND_COLUMNS = 4


def dot_source(
    graph: BackwardGraph, *, module: str | None = None, hooks_only: bool = False, depth: int | None = None
) -> str:
    """Write a graph as DOT text, from the roots at the top to the leaves at the bottom, with a legend.

    ``module`` draws only what belongs to the module of that path, with its direct neighbours as stubs. ``hooks_only``
    draws only the nodes that carry hooks, the roots and the leaves, joined by the paths between them. ``depth`` makes
    one box of each module call whose path has more than that many components.

    Raises `UsageError` for a negative depth and for a module that was not called in this graph.
    """
    return written(picture(graph, module=module, hooks_only=hooks_only, depth=depth))


def written(drawn: Picture, *, turned: frozenset[str] = frozenset()) -> str:
    """Write a picture as DOT text. The titles of the ``turned`` clusters, by key, stand on the right."""
    import graphviz

    homes = {box.key: box.cluster for box in drawn.boxes}
    dot = graphviz.Digraph("backward", graph_attr=_GRAPH, node_attr=_NODE, edge_attr=_EDGE)
    _write_legend(dot, drawn)
    _write_boxes(dot, drawn, turned)
    for arrow in drawn.arrows:
        inside = homes[arrow.tail] == homes[arrow.head]
        dot.edge(arrow.tail, arrow.head, weight="8" if inside else "1", **_arrow_attributes(arrow))
    return str(dot.source)


_GRAPH = {
    "bgcolor": "transparent",
    "fontname": theme.FONT,
    "newrank": "true",
    "nodesep": "0.3",
    "rankdir": "TB",
    "ranksep": "0.35",
    "tooltip": " ",
}
_NODE = {"fontname": theme.FONT, "fontsize": str(BOX_SIZE), "margin": "0.12,0.06", "height": "0.4"}
_EDGE = {"fontname": theme.FONT, "fontsize": str(SMALL_SIZE), "color": theme.EDGE_LINE, "arrowsize": "0.7"}


def _write_boxes(dot: graphviz.Digraph, drawn: Picture, turned: frozenset[str]) -> None:
    """Write each box into its frame and each frame into the one around it, innermost first."""
    frames = {cluster.key: _frame(cluster, is_turned=cluster.key in turned) for cluster in drawn.clusters}
    for box in drawn.boxes:
        frames.get(box.cluster or "", dot).node(box.key, **_box_attributes(box))
    for cluster in sorted(drawn.clusters, key=lambda cluster: -cluster.level):
        frames.get(cluster.parent or "", dot).subgraph(frames[cluster.key])


def _frame(cluster: Cluster, *, is_turned: bool) -> graphviz.Digraph:
    import graphviz

    return graphviz.Digraph(cluster.key, graph_attr=_cluster_attributes(cluster, is_turned=is_turned))


def _cluster_attributes(cluster: Cluster, *, is_turned: bool) -> dict[str, str]:
    return {
        "color": theme.MODULE_LINE,
        "fillcolor": theme.MODULE_FILLS[cluster.level % len(theme.MODULE_FILLS)],
        "fontsize": str(BOX_SIZE),
        "label": cluster_label(cluster, is_turned=is_turned),
        "labeljust": "r" if is_turned else "l",
        "margin": "14",
        "style": "rounded,filled",
        "tooltip": _tooltip(cluster.tooltip),
    }


def _box_attributes(box: Box) -> dict[str, str]:
    kinds = box.hook_kinds
    fill = theme.HOOK_FILLS[kinds[0]] if len(kinds) == 1 else box.look.fill
    return {
        **_look_attributes(box.look, fill),
        "label": box_label(box.lines, fill),
        "penwidth": "2" if kinds else "1.2",
        "tooltip": _tooltip(box.tooltip),
    }


def _look_attributes(look: Look, fill: str) -> dict[str, str]:
    return {
        "color": look.line,
        "fillcolor": fill,
        "fontcolor": theme.text_on(fill),
        "peripheries": str(look.outlines),
        "shape": look.shape,
        "style": look.style,
    }


def _arrow_attributes(arrow: Arrow) -> dict[str, str]:
    tooltip = _tooltip(arrow.tooltip)
    label = {"label": arrow_label(arrow.lines)} if arrow.lines else {}
    return {**label, "labeltooltip": tooltip, "style": arrow.flow.value, "tooltip": tooltip}


def _write_legend(dot: graphviz.Digraph, drawn: Picture) -> None:
    """Write the legend as rows of samples above everything that nothing leads to."""
    import graphviz

    rows = list(_rows(list(entries(drawn))))
    legend = graphviz.Digraph(LEGEND, graph_attr=_LEGEND | {"label": headline_label(drawn.headline)})
    for rank, row in enumerate(rows):
        with legend.subgraph() as line:
            line.attr(rank="same")
            for column, entry in enumerate(row):
                line.node(f"l{rank}_{column}", **_entry_attributes(entry))
    for rank, row in enumerate(rows[1:]):
        for column in range(len(row)):
            legend.edge(f"l{rank}_{column}", f"l{rank + 1}_{column}", style="invis", weight="100")
    dot.subgraph(legend)
    for top in _tops(drawn):
        dot.edge(f"l{len(rows) - 1}_0", top, style="invis")


_LEGEND = {
    "color": theme.MODULE_LINE,
    "fillcolor": theme.LEGEND_FILL,
    "fontsize": str(HEADLINE_SIZE),
    "margin": "14",
    "style": "rounded,filled",
}


def _rows(all_entries: list[Entry]) -> Iterator[list[Entry]]:
    for start in range(0, len(all_entries), LEGEND_COLUMNS):
        yield all_entries[start : start + LEGEND_COLUMNS]


def _entry_attributes(entry: Entry) -> dict[str, str]:
    fill = theme.HOOK_FILLS[entry.hook] if entry.hook else entry.look.fill
    return {**_look_attributes(entry.look, fill), "label": entry_label(entry), "tooltip": _tooltip((entry.meaning,))}


def _tops(drawn: Picture) -> Iterator[str]:
    heads = {arrow.head for arrow in drawn.arrows}
    return (box.key for box in drawn.boxes if box.key not in heads)


def _tooltip(lines: Iterable[str]) -> str:
    import graphviz

    text: str = graphviz.nohtml(tooltip_text(lines))
    return text
