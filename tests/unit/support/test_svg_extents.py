"""The reader of SVGs finds what it is for: each of these pictures is spoilt in one way."""

import re

import pytest

from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.parts import Arrow, Box, Cluster, Line, Picture
from fxgrad.render.pictures.theme import Flow
from tests.support.svg_extents import Drawing

LOOK = next(iter(theme.NODE_LOOKS.values()))
PICTURE = Picture(
    headline=("a headline",),
    boxes=(
        Box("upper", LOOK, (Line("upper box"),), (), "frame"),
        Box("lower", LOOK, (Line("lower box"),), (), None),
        Box("bottom", theme.NODE_LOOKS[list(theme.NODE_LOOKS)[-2]], (Line("octagon"),), (), None),
    ),
    arrows=(
        Arrow("upper", "lower", ("an arrow",), (), Flow.GRADIENT),
        Arrow("lower", "bottom", (), (), Flow.GRADIENT),
    ),
    clusters=(Cluster("frame", None, 0, "frame", (), ()),),
)


@pytest.fixture(scope="module")
def good():
    return draw_picture(PICTURE, "svg").decode()


def find(svg, words):
    return next(text for text in re.findall(r"<text [^>]*>[^<]*</text>", svg) if f">{words}<" in text)


def move(svg, words, *, x=0.0, y=0.0):
    """Move one text."""
    element = find(svg, words)
    moved = re.sub(r' x="([-\d.]+)"', lambda match: f' x="{float(match[1]) + x}"', element)
    moved = re.sub(r' y="([-\d.]+)"', lambda match: f' y="{float(match[1]) + y}"', moved)
    return svg.replace(element, moved)


def place(svg, words):
    """Where a text is."""
    element = re.search(r'x="([-\d.]+)" y="([-\d.]+)"', find(svg, words))
    return float(element[1]), float(element[2])


def move_onto(svg, words, other):
    (x1, y1), (x2, y2) = place(svg, words), place(svg, other)
    return move(svg, words, x=x2 - x1, y=y2 - y1)


def outline(svg, key):
    return re.search(rf'<g id="{key}".*?(<rect [^>]*>)', svg)[1]


def test_a_good_picture_has_no_problems(good):
    assert Drawing(good).problems() == []
    assert Drawing(good).crossed() == []


def test_everything_in_it_was_seen(good):
    drawing = Drawing(good)
    assert {text.words for text in drawing.texts} == {
        *("a headline", "frame", "upper box", "lower box", "octagon", "an arrow"),
        *("autograd node", "raises when backward reaches it", "a gradient: argument name, shape"),
    }
    assert [box.name for box in drawing.boxes] == ["upper", "lower", "bottom"]
    assert [frame.name for frame in drawing.frames] == ["frame"]
    assert {line.ends for line in drawing.lines} == {("upper", "lower"), ("lower", "bottom")}
    assert sum(line.tips for line in drawing.lines) == 2


def test_text_that_is_too_long_for_its_box_is_found(good):
    spoilt = good.replace(">upper box<", ">upper box with a long name<")
    assert '"upper box with a long name" leaves box upper' in Drawing(spoilt).problems()


def test_text_that_sits_too_low_in_its_box_is_found(good):
    assert '"upper box" leaves box upper' in Drawing(move(good, "upper box", y=15)).problems()


def test_text_in_the_corner_of_a_box_that_is_no_rectangle_is_found(good):
    assert '"octagon" leaves box bottom' in Drawing(move(good, "octagon", x=-12, y=-7)).problems()


def test_boxes_that_overlap_are_found(good):
    spoilt = good.replace(outline(good, "lower"), outline(good, "upper"))
    assert "boxes upper and lower overlap" in Drawing(spoilt).problems()


def test_a_box_that_leaves_its_frame_is_found(good):
    upper = outline(good, "upper")
    x = float(re.search(r' x="([-\d.]+)"', upper)[1])
    spoilt = good.replace(upper, upper.replace(f' x="{x:g}"', f' x="{x + 40:g}"'))
    assert "box upper crosses frame frame" in Drawing(spoilt).problems()


def test_texts_that_overlap_are_found(good):
    assert 'texts "an arrow" and "frame" overlap' in Drawing(move_onto(good, "an arrow", "frame")).problems()


def test_an_arrows_text_on_a_box_is_found(good):
    assert '"an arrow" lies on box lower' in Drawing(move_onto(good, "an arrow", "lower box")).problems()


def test_a_title_that_leaves_its_frame_is_found(good):
    assert '"frame" leaves frame frame' in Drawing(move(good, "frame", y=-30)).problems()


def test_what_the_page_cuts_is_found(good):
    assert '"an arrow" is cut' in Drawing(move(good, "an arrow", x=400)).problems()


def test_frames_that_cross_are_found(good):
    rect = re.search(r'x="([-\d.]+)" y="([-\d.]+)"', outline(good, "frame"))
    crossing = f'<g id="other" class="frame"><rect x="{float(rect[1]) - 9}" y="{rect[2]}" width="20" height="20"/></g>'
    spoilt = good.replace("</svg>", f"{crossing}</svg>")
    assert "frames other and frame cross" in Drawing(spoilt).problems()


def test_a_line_through_a_frames_title_is_found(good):
    x, y = place(good, "frame")
    spoilt = good.replace(
        "</svg>",
        f'<g id="a" class="line" data-tail="one" data-head="two"><path class="s0" d="M{x + 3} 0C{x + 3} {y} {x + 3} {y} '
        f'{x + 3} {2 * y}"/></g></svg>',
    )
    assert Drawing(spoilt).crossed() == ['"frame" is crossed by one->two']


def test_a_line_that_leads_up_is_found(good):
    assert Drawing(good).backward() == []
    turned = good.replace('data-tail="upper" data-head="lower"', 'data-tail="lower" data-head="upper"')
    assert Drawing(turned).backward() == [("lower", "upper")]
