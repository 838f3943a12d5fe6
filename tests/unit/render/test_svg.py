"""The SVG: any name is shown as it is, scripts find their way in it, and nothing in it runs or loads anything."""

import re
import xml.etree.ElementTree as ET

import pytest
from msgspec.structs import replace

from fxgrad.graph import FxNode, HookKind, Source
from fxgrad.graph.text import escape
from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.pictures.forward import compose_forward
from fxgrad.render.pictures.parts import Box, Line, Picture
from fxgrad.render.pictures.picture import compose_picture
from fxgrad.render.pictures.theme import (
    DARK_PAGE,
    NODE_LOOKS,
    PAGE,
    contrast,
    darken_fill,
    lighten_line,
    pick_text_colour,
)
from tests.support.svg_extents import Drawing

HOSTILE = [
    'a "quoted" name',
    "<script>alert(1)</script>",
    "two\nlines",
    "back\\slash \\N",
    'ends in a backslash and a quote \\"',
    "&lt;entity&gt; &amp; &#65;",
    "party \N{PARTY POPPER} \u65e5\u672c\u8a9e",
    "reversed \u202e here, null \x00, escape \x1b[31m",
    "half of a pair \ud800",
    "tab\tand ]]> --> }",
    " ",
    "",
]


@pytest.fixture
def draw(program):
    def make(name):
        program.call(name, name)
        program.node("MulBackward0_0", (3,), arguments=[(name, "AccumulateGrad_0")], call=f"{name}#1", schema=name)
        program.leaf("AccumulateGrad_0", name, 3)
        program.site(program.hook(HookKind.MODULE_BACKWARD, name, name), f"{name}#1", "MulBackward0_0")
        return program.graph()

    return make


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("format", ["svg", "png"])
def test_any_name_can_be_drawn(draw, name, format):
    assert draw_picture(compose_picture(draw(name)), format)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_shown_as_it_is(draw, name):
    root = ET.fromstring(draw_picture(compose_picture(draw(name)), "svg"))
    labels = {group.get("data-label") for group in root.iter() if group.get("data-kind") == "leaf"}
    assert labels == ({escape(name)} if name else labels)
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(f"parameter: {escape(name)}" in title for title in titles)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "style", "defs", "marker", "rect", "path", "g", "title", "text"}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_in_the_forward_can_be_drawn(draw, name):
    graph = draw(name)
    run = FxNode("relu", "call_function", name, name, (f"{name}#1",), Source(name, 3, name), (), None, inputs=("x",))
    given = FxNode("x", "placeholder", "x", "", (), None, (), None)
    ET.fromstring(draw_picture(compose_forward(replace(graph, forward=(given, run))), "svg"))


def test_nothing_is_loaded(draw):
    svg = draw_picture(compose_picture(draw("model")), "svg").decode()
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    own = {f"#{name}" for name in re.findall(r'<marker id="([^"]*)"', svg)}
    assert own
    assert set(re.findall(r"url\(([^)]*)\)", svg)) == own


def test_every_id_is_there_once(draw):
    ids = re.findall(r' id="([^"]*)"', draw_picture(compose_picture(draw("model")), "svg").decode())
    assert len(set(ids)) == len(ids)


def test_in_the_dark_text_reads_and_lines_show(draw):
    """WCAG 2, 1.4.3 and 1.4.11."""
    svg = draw_picture(compose_picture(draw("model")), "svg").decode()
    fills = set(re.findall(r"[;{]fill:(#[0-9A-F]{6})", svg.split("@media")[0])) | {PAGE}
    assert all(contrast(pick_text_colour(darken_fill(fill)), darken_fill(fill)) >= 4.5 for fill in fills)
    lines = set(re.findall(r"stroke:(#[0-9A-F]{6})", svg.split("@media")[0]))
    assert all(contrast(lighten_line(line), page) >= 3 for line in lines for page in (DARK_PAGE, darken_fill(PAGE)))


def test_the_engine_draws_what_is_longer_than_its_longest_string(draw):
    picture = compose_picture(draw("model"))
    long = picture.headline[0] * 40
    drawn = draw_picture(picture.__class__((long,) * 20, picture.boxes, picture.arrows, picture.clusters), "pdf")
    assert drawn.startswith(b"%PDF-")


LONG = {
    "one word": "x" * 10_000,
    "wide letters": "\u65e5" * 10_000,
    "quotation marks": 'a"' * 5_000,
    "backslashes": "a" * 3_995 + "\\" * 100 + "b" * 4_000,
    "combining marks": "e\u0301\u0323" * 2_000,
    "right to left": "\u05d0\u05d1 " * 2_000,
    "a family": "\N{MAN}\u200d\N{GIRL}" * 500,
}


@pytest.mark.parametrize("format", ["svg", "pdf"])
@pytest.mark.parametrize("name", LONG.values(), ids=LONG)
def test_a_box_may_have_a_long_line(name, format):
    look = next(iter(NODE_LOOKS.values()))
    box = Box("n0", look, (Line(escape(name)),), (), None)
    drawn = draw_picture(Picture(("headline",), (box,), (), ()), format)
    if format == "svg":
        assert escape(name) in {element.text for element in ET.fromstring(drawn).iter()}
    else:
        assert drawn.startswith(b"%PDF-")


@pytest.mark.parametrize("lines", [0, 1, 500])
def test_a_box_may_have_any_number_of_lines(lines):
    box = Box("n0", next(iter(NODE_LOOKS.values())), tuple(Line(f"line {at}") for at in range(lines)), (), None)
    drawing = Drawing(draw_picture(Picture(("headline",), (box,), (), ()), "svg").decode())
    assert len(drawing.boxes[0].texts) == lines
    assert drawing.problems() == []


@pytest.mark.parametrize("format", ["svg", "pdf", "dot"])
def test_a_picture_may_be_empty(format):
    assert draw_picture(Picture((), (), (), ()), format)
