"""From a picture to a file."""

import re

import pytest

from fxgrad.errors import UsageError
from fxgrad.render.drawing import engine
from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.files import FORMATS
from fxgrad.render.pictures.picture import compose_picture
from tests.support.svg_extents import Drawing

BEGINS = {"svg": b"<svg", "png": b"\x89PNG\r\n", "pdf": b"%PDF-", "dot": b"digraph"}


@pytest.fixture
def shown(program):
    """A node with arrows to three calls of one module beside each other."""
    program.call("", "Net")
    calls = [program.call("linear", "Linear", parent="#1") for _ in range(3)]
    arguments = [(f"tensors[{number}]", f"AddmmBackward0_{number}") for number in range(3)]
    program.node("StackBackward0_0", (8, 3, 20), arguments=arguments, call="#1")
    for number, call in enumerate(calls):
        leaf = [("self", "AccumulateGrad_0")]
        program.node(f"AddmmBackward0_{number}", (8, 20), arguments=leaf, call=call)
    program.leaf("AccumulateGrad_0", "linear.bias", 20)
    return compose_picture(program.graph())


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_is_drawn_in_every_format(shown, format):
    assert draw_picture(shown, format).startswith(BEGINS[format])


def test_an_unknown_format_is_refused_before_anything_runs(shown):
    with pytest.raises(UsageError, match='format "gif"\n  allowed: svg, png, pdf or dot'):
        draw_picture(shown, "gif")


def test_dot_needs_no_engine(shown, monkeypatch):
    monkeypatch.setattr(engine, "_find_engine", None)
    assert re.match(b"digraph", draw_picture(shown, "dot"))


def test_no_line_crosses_a_title(shown):
    drawing = Drawing(draw_picture(shown, "svg").decode())
    assert drawing.problems() == []
    assert drawing.crossed() == []


def test_equal_frames_look_the_same(shown):
    frames = Drawing(draw_picture(shown, "svg").decode()).frames[1:]
    assert len({(frame.rect.right - frame.rect.left, frame.rect.bottom - frame.rect.top) for frame in frames}) == 1


def test_the_same_picture_gives_the_same_bytes(shown):
    assert draw_picture(shown, "svg") == draw_picture(shown, "svg")
