"""DOT source of a picture, written by the graphviz package.

The same graph gives the same bytes: everything is written in the order of the records, and names in DOT are counters.
What is the user's has passed through `fxgrad.graph.text.escape` before: it is one line and prints.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from fxgrad.render.drawing.blocks import fill_box, fill_cluster
from fxgrad.render.drawing.frames import order_ends
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.parts import Arrow, Box, Cluster, Entry, Line, Picture, list_legend
from fxgrad.render.pictures.theme import Flow, Look

if TYPE_CHECKING:
    import graphviz


BOX_SIZE = 11
SMALL_SIZE = 10
HEADLINE_SIZE = 13
BOLD = 1.14
"""How much wider bold letters are."""
ENTRY_WIDTH = 30
LEFT = ' ALIGN="LEFT"'
LEGEND = "cluster_legend"
LEGEND_COLUMNS = 4


def write_dot(drawn: Picture) -> str:
    """Write a picture as DOT text, which plain dot draws."""
    import graphviz

    homes = {box.key: box.cluster for box in drawn.boxes}
    dot = graphviz.Digraph("backward", graph_attr=_GRAPH, node_attr=_NODE, edge_attr=_EDGE)
    _write_legend(dot, drawn)
    _write_boxes(dot, drawn)
    for arrow in drawn.arrows:
        short = homes[arrow.tail] == homes[arrow.head] or arrow.flow is Flow.PAIR
        above, below = order_ends(arrow)
        dot.edge(above, below, weight="8" if short else "1", **_arrow_attributes(arrow))
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


def _write_boxes(dot: graphviz.Digraph, drawn: Picture) -> None:
    """Write each box into its frame and each frame into the one around it, innermost first."""
    frames = {cluster.key: _make_frame(cluster) for cluster in drawn.clusters}
    for box in drawn.boxes:
        frames.get(box.cluster or "", dot).node(box.key, **_box_attributes(box))
    for cluster in sorted(drawn.clusters, key=lambda cluster: -cluster.level):
        frames.get(cluster.parent or "", dot).subgraph(frames[cluster.key])


def _make_frame(cluster: Cluster) -> graphviz.Digraph:
    import graphviz

    return graphviz.Digraph(cluster.key, graph_attr=_cluster_attributes(cluster))


def _cluster_attributes(cluster: Cluster) -> dict[str, str]:
    kinds = cluster.hook_kinds
    return {
        "color": theme.HOOK_FILLS[kinds[0]] if len(kinds) == 1 else theme.MODULE_LINE,
        "fillcolor": fill_cluster(cluster),
        "fontsize": str(BOX_SIZE),
        "label": format_cluster(cluster),
        "labeljust": "l",
        "margin": "14",
        "penwidth": "3" if kinds else "1",
        "style": "rounded,filled",
        "tooltip": _format_tooltip(cluster.tooltip),
    }


def _box_attributes(box: Box) -> dict[str, str]:
    fill = fill_box(box)
    return {
        **_look_attributes(box.look, fill),
        "label": format_box(box.lines, fill),
        "penwidth": "2" if box.hook_kinds else "1.2",
        "tooltip": _format_tooltip(box.tooltip),
    }


def _look_attributes(look: Look, fill: str) -> dict[str, str]:
    return {
        "color": look.line,
        "fillcolor": fill,
        "fontcolor": theme.pick_text_colour(fill),
        "peripheries": str(look.outlines),
        "shape": look.shape,
        "style": look.style,
    }


def _arrow_attributes(arrow: Arrow) -> dict[str, str]:
    tooltip = _format_tooltip(arrow.tooltip)
    return {
        **({"color": arrow.flow.colour} if arrow.flow.colour != theme.EDGE_LINE else {}),
        **({"label": format_arrow(arrow.lines)} if arrow.lines else {}),
        **({"dir": "back"} if arrow.upward else {}),
        **(_PAIR if arrow.flow is Flow.PAIR else {}),
        "labeltooltip": tooltip,
        "style": arrow.flow.style,
        "tooltip": tooltip,
    }


_PAIR = {"dir": "none", "minlen": "0"}
"""A line from side to side."""


def _write_legend(dot: graphviz.Digraph, drawn: Picture) -> None:
    """Write the legend as rows of samples above everything that nothing leads to."""
    import graphviz

    rows = list(_split_rows(list(list_legend(drawn))))
    legend = graphviz.Digraph(LEGEND, graph_attr=_LEGEND | {"label": format_headline(drawn.headline)})
    for rank, row in enumerate(rows):
        with legend.subgraph() as line:
            line.attr(rank="same")
            for column, entry in enumerate(row):
                line.node(f"l{rank}_{column}", **_entry_attributes(entry))
    for rank, row in enumerate(rows[1:]):
        for column in range(len(row)):
            legend.edge(f"l{rank}_{column}", f"l{rank + 1}_{column}", style="invis", weight="100")
    dot.subgraph(legend)
    for top in _find_tops(drawn):
        dot.edge(f"l{len(rows) - 1}_0", top, style="invis")


_LEGEND = {
    "color": theme.MODULE_LINE,
    "fillcolor": theme.LEGEND_FILL,
    "fontsize": str(HEADLINE_SIZE),
    "margin": "14",
    "style": "rounded,filled",
}


def _split_rows(all_entries: list[Entry]) -> Iterator[list[Entry]]:
    for start in range(0, len(all_entries), LEGEND_COLUMNS):
        yield all_entries[start : start + LEGEND_COLUMNS]


def _entry_attributes(entry: Entry) -> dict[str, str]:
    fill = theme.HOOK_FILLS[entry.hook] if entry.hook else entry.look.fill
    return {
        **_look_attributes(entry.look, fill),
        "label": format_entry_label(entry),
        "tooltip": _format_tooltip((entry.meaning,)),
    }


def _find_tops(drawn: Picture) -> Iterator[str]:
    below = {order_ends(arrow)[1] for arrow in drawn.arrows}
    return (box.key for box in drawn.boxes if box.key not in below)


def _format_tooltip(lines: Iterable[str]) -> str:
    import graphviz

    text: str = graphviz.nohtml(quote_tooltip(lines))
    return text


# Labels in the HTML-like notation of Graphviz: boxes are wide enough for any font


def format_box(lines: Iterable[Line], fill: str) -> str:
    """The lines of a box below each other; a hook's line stands on its kind's colour."""
    return _format_table(_format_row(line, fill) for line in lines)


def _format_row(line: Line, fill: str, *, attributes: str = "") -> str:
    background = fill if line.hook is None else theme.HOOK_FILLS[line.hook]
    text = quote_html(line.text)
    colour = f'<FONT COLOR="{theme.pick_text_colour(background)}">{f"<B>{text}</B>" if line.bold else text}</FONT>'
    chip = f' BGCOLOR="{background}" STYLE="ROUNDED"' if background != fill else ""
    width = measure_ems(line.text) * BOX_SIZE * (BOLD if line.bold else 1)
    return _format_cell(colour, width=width, attributes=chip + attributes)


def format_arrow(lines: Iterable[str]) -> str:
    """The lines on an arrow, on a plate that keeps them readable over anything but leaves the arrow itself free."""
    plate = _format_table(
        (_format_cell(quote_html(line), width=measure_ems(line) * SMALL_SIZE) for line in lines),
        attributes=f' BGCOLOR="{theme.LABEL_FILL}" STYLE="ROUNDED"',
    )
    return _format_table([f"<TD>{plate[1:-1]}</TD>"])


def format_cluster(cluster: Cluster) -> str:
    """Format the path of a module in bold, and below it its type and which call this is; then
    its hooks, each on its kind's colour.

    As much room again is left free beside it, where most arrows come in: they are drawn over it.
    """
    notes = " · ".join(cluster.notes)
    width = max(measure_ems(cluster.title) * BOLD, *map(measure_ems, (notes, *(line.text for line in cluster.hooks))))
    rows = [_format_cell(f"<B>{quote_html(cluster.title)}</B>", width=2 * width * BOX_SIZE, attributes=LEFT)]
    if notes:
        rows.append(_format_cell(quote_html(notes), width=0, attributes=LEFT))
    rows += [_format_row(line, fill_cluster(cluster), attributes=LEFT) for line in cluster.hooks]
    return _format_table(rows)


def format_headline(lines: Iterable[str]) -> str:
    """Format the lines above the legend."""
    return _format_table(_format_cell(quote_html(line), width=measure_ems(line) * HEADLINE_SIZE) for line in lines)


def format_entry_label(entry: Entry) -> str:
    """A legend sample's meaning; a line's stands beside a piece of the line."""
    words = textwrap.wrap(entry.meaning, ENTRY_WIDTH, break_long_words=False)
    fill = theme.HOOK_FILLS[entry.hook] if entry.hook else entry.look.fill
    label = format_box([Line(line) for line in words], fill)
    return label if entry.flow is None else _put_beside(_draw_sample(entry.flow), label)


def _put_beside(left: str, right: str) -> str:
    return _format_table([f"<TD>{left[1:-1]}</TD><TD>{right[1:-1]}</TD>"])


def _draw_sample(flow: Flow) -> str:
    """A piece of line: the lower border of an empty cell."""
    style = f' STYLE="{flow.style.upper()}"' if flow.style in ("dashed", "dotted") else ""
    line = f'<TD SIDES="B" BORDER="2" COLOR="{flow.colour}" WIDTH="34" HEIGHT="8"{style}></TD>'
    return _format_table([line, '<TD HEIGHT="8"></TD>'])


def _format_cell(content: str, *, width: float, attributes: str = "") -> str:
    return f'<TD WIDTH="{math.ceil(width)}"{attributes}>{content}</TD>'


def _format_table(rows: Iterable[str], *, attributes: str = "") -> str:
    inside = "".join(f"<TR>{row}</TR>" for row in rows)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="1" CELLPADDING="2"{attributes}>{inside}</TABLE>>'


# Text in DOT: quoted for its two notations, HTML-like labels and tooltips, and measured


NOTHING = "&#160;"
"""Graphviz refuses a label with an empty ``<B></B>`` in it."""
FULL_WIDTH_EM = 1.05
WIDE, WIDE_EM = frozenset("@%mwMW…—"), 1.0
NARROW, NARROW_EM = frozenset(" !'(),-./:;I[]`fijlrt|·"), 0.42
CAPITAL_EM = 0.77
USUAL_EM = 0.64


def quote_html(text: str) -> str:
    r"""Write the text as character data of an HTML-like label, in which Graphviz still expands ``\N`` and its like.

    >>> print(quote_html("<lambda> & 'x' of \\N"))
    &lt;lambda&gt; &amp; &#x27;x&#x27; of \\N
    """
    return html.escape(text.replace("\\", r"\\")) or NOTHING


def quote_tooltip(lines: Iterable[str]) -> str:
    r"""Write the lines as one tooltip, in which ``&`` starts a character entity and a backslash an escape.

    Graphviz expands escapes of tooltips twice, line breaks first, then ``\\N`` and its like (lib/common/emit.c:
    interpretCRNL, strdup_and_subst_obj), so a backslash takes four.

    >>> print(quote_tooltip(["C:\\new", "b &lt; c"]))
    C:\\\\new\nb &amp;lt; c
    """
    return r"\n".join(line.replace("&", "&amp;").replace("\\", r"\\\\") for line in lines)


def measure_ems(text: str) -> float:
    """Estimate how wide the text is in DejaVu Sans, a wide sans-serif font, in units of the font's size.

    A picture made with one font is looked at with another: boxes are at least this wide, whatever the font here is.

    >>> round(measure_ems("AddmmBackward0"), 2)
    10.08
    """
    return sum(map(_measure_em, text))


def _measure_em(character: str) -> float:
    if character in NARROW:
        return NARROW_EM
    if character in WIDE:
        return WIDE_EM
    if east_asian_width(character) in "WF":
        return FULL_WIDTH_EM
    return CAPITAL_EM if character.isupper() else USUAL_EM
