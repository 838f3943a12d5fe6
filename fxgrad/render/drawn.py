"""A graph as a drawn picture."""

from __future__ import annotations

from fxgrad.graph import BackwardGraph
from fxgrad.render.dot import written
from fxgrad.render.drawing.compose import picture
from fxgrad.render.layout import positions, render
from fxgrad.render.titles import crossed_titles

_MOST_BOXES = 400
"""Up to here a picture is laid out twice, so that arrows do not cross titles."""


def drawn(
    graph: BackwardGraph,
    format: str,
    *,
    module: str | None = None,
    hooks_only: bool = False,
    depth: int | None = None,
) -> bytes:
    """Draw a graph in a format of `fxgrad.render.layout.FORMATS`; the options are those of `dot_source`."""
    shown = picture(graph, module=module, hooks_only=hooks_only, depth=depth)
    source = written(shown)
    if format == "dot" or len(shown.boxes) > _MOST_BOXES or not shown.clusters:
        return render(source, format)
    turned = crossed_titles(positions(source))
    return render(written(shown, turned=turned) if turned else source, format)
