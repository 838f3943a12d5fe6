"""Finds the parts of a picture by what is written in them."""

from __future__ import annotations

from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.pictures.picture import compose_picture


def dot_source(graph, **options):
    """The DOT text of a picture, without a layout."""
    return draw_picture(compose_picture(graph, **options), "dot").decode()


def texts(box):
    return [line.text for line in box.lines]


def by_title(drawn):
    """The boxes of nodes by their labels, all others by their first line."""
    return {box.identity.label if box.identity.kind == "node" else box.lines[0].text: box for box in drawn.boxes}


def box_of(drawn, title):
    return by_title(drawn)[title]


def arrows_between(drawn, tail, head):
    boxes = by_title(drawn)
    return [arrow for arrow in drawn.arrows if (arrow.tail, arrow.head) == (boxes[tail].key, boxes[head].key)]


def arrow_between(drawn, tail, head):
    (arrow,) = arrows_between(drawn, tail, head)
    return arrow


def frame_of(drawn, title):
    """The titles of the frames around a box, outermost first."""
    frames = {frame.key: frame for frame in drawn.clusters}
    found = []
    key = box_of(drawn, title).cluster
    while key is not None:
        found.insert(0, frames[key].title)
        key = frames[key].parent
    return found
