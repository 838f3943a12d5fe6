"""From a graph to the boxes and arrows that show it."""

from __future__ import annotations

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph
from fxgrad.predict import predict_nodes
from fxgrad.render.drawing import labels, scope
from fxgrad.render.drawing.arrows import arrows
from fxgrad.render.drawing.boxes import boxes, clusters
from fxgrad.render.drawing.flow import edge_flows
from fxgrad.render.drawing.shapes import Picture
from fxgrad.render.drawing.view import view


def picture(
    graph: BackwardGraph, *, module: str | None = None, hooks_only: bool = False, depth: int | None = None
) -> Picture:
    """Decide what to draw of a graph; the options are those of `fxgrad.render.dot.dot_source`.

    Raises `UsageError` for a negative depth and for a module that was not called.
    """
    if depth is not None and depth < 0:
        raise UsageError(f"depth {depth}", "a depth of 0 or more", "leave depth out to draw everything")
    predictions = predict_nodes(graph)
    flows = edge_flows(predictions)
    drawn = scope.whole(graph, flows) if module is None else scope.of_module(graph, flows, module)
    seen = view(graph, predictions, scope.only_hooks(graph, drawn) if hooks_only else drawn, depth)
    drawn_boxes = boxes(seen)
    return Picture(
        headline=tuple(labels.headline(graph, shown=len(seen.scope.nodes))),
        boxes=drawn_boxes,
        arrows=arrows(seen),
        clusters=clusters(seen, drawn_boxes),
    )
