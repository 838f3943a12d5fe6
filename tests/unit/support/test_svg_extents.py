"""The reader of SVGs finds what it is for: each of these pictures is spoilt in one way."""

import re

import pytest

from fxgrad.render.layout import render_dot
from tests.support.svg_extents import Drawing

SOURCE = """
digraph {
  node [shape=box, fontname="sans-serif"]
  edge [fontname="sans-serif"]
  subgraph cluster_frame { label="frame"; fontname="sans-serif"; upper [label="upper box"] }
  lower [label="lower box"]
  upper -> lower [label="an arrow"]
}
"""


@pytest.fixture(scope="module")
def good():
    return render_dot(SOURCE, "svg").decode()


def move(svg, words, *, x=0.0, y=0.0):
    """Move one text."""
    element = next(text for text in re.findall(r"<text [^>]*>[^<]*</text>", svg) if f">{words}<" in text)
    moved = re.sub(r' x="([-\d.]+)"', lambda match: f' x="{float(match[1]) + x}"', element)
    moved = re.sub(r' y="([-\d.]+)"', lambda match: f' y="{float(match[1]) + y}"', moved)
    return svg.replace(element, moved)


def place(svg, words):
    """Where a text is."""
    element = re.search(rf'x="([-\d.]+)" y="([-\d.]+)"[^>]*>{words}<', svg)
    return float(element[1]), float(element[2])


def test_a_good_picture_has_no_problems(good):
    assert Drawing(good).problems() == []


def test_everything_in_it_was_seen(good):
    drawing = Drawing(good)
    assert {text.words for text in drawing.texts} == {"frame", "upper box", "lower box", "an arrow"}
    assert [box.name for box in drawing.boxes] == ["upper", "lower"]
    assert [frame.name for frame in drawing.frames] == ["cluster_frame"]


def test_text_that_is_too_long_for_its_box_is_found(good):
    spoilt = good.replace(">upper box<", ">upper box with a long name<")
    assert '"upper box with a long name" leaves box upper' in Drawing(spoilt).problems()


def test_text_that_sits_too_low_in_its_box_is_found(good):
    assert '"upper box" leaves box upper' in Drawing(move(good, "upper box", y=15)).problems()


def test_text_in_the_corner_of_a_box_that_is_no_rectangle_is_found():
    svg = render_dot(
        'digraph { a [shape=octagon, width=2, height=2, label="corner", fontname="sans-serif"] }', "svg"
    ).decode()
    assert Drawing(svg).problems() == []
    assert '"corner" leaves box a' in Drawing(move(svg, "corner", x=-40, y=-60)).problems()


def test_boxes_that_overlap_are_found(good):
    points = re.search(r'<title>lower</title>\s*<polygon[^>]*points="([^"]*)"', good)[1]
    upper = re.search(r'<title>upper</title>\s*<polygon[^>]*points="([^"]*)"', good)[1]
    assert "boxes upper and lower overlap" in Drawing(good.replace(points, upper)).problems()


def test_texts_that_overlap_are_found(good):
    (x1, y1), (x2, y2) = place(good, "an arrow"), place(good, "frame")
    spoilt = move(good, "an arrow", x=x2 - x1, y=y2 - y1)
    assert 'texts "frame" and "an arrow" overlap' in Drawing(spoilt).problems()


def test_an_arrows_text_on_a_box_is_found(good):
    (x1, y1), (x2, y2) = place(good, "an arrow"), place(good, "lower box")
    spoilt = move(good, "an arrow", x=x2 - x1, y=y2 - y1)
    assert '"an arrow" lies on box lower' in Drawing(spoilt).problems()


def test_a_title_that_leaves_its_frame_is_found(good):
    assert '"frame" leaves frame cluster_frame' in Drawing(move(good, "frame", y=-30)).problems()


def test_what_the_page_cuts_is_found(good):
    assert '"an arrow" is cut' in Drawing(move(good, "an arrow", x=200)).problems()


def test_frames_that_cross_are_found(good):
    crossing = (
        '<g id="clust2" class="cluster"><title>other</title><polygon points="60,-60 20,-60 20,-100 60,-100"/></g>'
    )
    spoilt = good.replace("</svg>", f"{crossing}</svg>")
    assert "frames cluster_frame and other cross" in Drawing(spoilt).problems()


def test_an_arrow_through_a_frames_title_is_found(good):
    assert Drawing(good).crossed() == []
    line = re.search(r'<path fill="none"[^>]* d="([^"]*)"', good)[1]
    (x, y), start = place(good, "frame"), re.match(r"M(-?[\d.]+),(-?[\d.]+)C", line)
    spoilt = move(good, "frame", x=float(start[1]) - x, y=float(start[2]) + 10 - y)
    assert Drawing(spoilt).crossed() == ['"frame" is crossed by upper->lower']


def test_an_arrow_that_leads_up_is_found():
    svg = render_dot("digraph { node [shape=box] a -> b; b -> a [constraint=false] }", "svg").decode()
    assert Drawing(svg).upward() == ["b->a"]
