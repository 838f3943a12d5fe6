"""Titles that arrows cross are turned to the side where fewer do, and nothing else moves."""

import re

import pytest

from fxgrad.render import layout as drawing
from fxgrad.render.dot import write_dot
from fxgrad.render.layout import find_crossed_titles, read_positions, render_dot
from fxgrad.render.picture import compose_picture
from tests.support.svg_extents import Drawing


def layout(*arrows):
    """A frame from (0, 0) to (300, 100) with its title from 10 to 110 at the top left, and arrows of straight lines."""
    frame = {"name": "cluster0", "bb": "0,0,300,100", "lp": "110,80", "lwidth": f"{200 / 72}", "lheight": f"{20 / 72}"}
    edges = [{"pos": f"e,{x2},{y2} {x1},{y1} {x1},{y1} {x2},{y2} {x2},{y2}"} for x1, y1, x2, y2 in arrows]
    return {"objects": [frame, {"name": "n0"}], "edges": edges}


def test_a_title_that_an_arrow_crosses_is_turned():
    assert find_crossed_titles(layout((50, 200, 50, 0))) == {"cluster0"}


@pytest.mark.parametrize("arrow", [(150, 200, 150, 0), (50, 200, 50, 95), (50, 65, 50, 0), (250, 200, 250, 0)])
def test_a_title_that_no_arrow_crosses_stays(arrow):
    assert find_crossed_titles(layout(arrow)) == frozenset()


def test_a_title_stays_where_as_many_arrows_cross_on_the_other_side():
    assert find_crossed_titles(layout((50, 200, 50, 0), (250, 200, 250, 0))) == frozenset()


def test_a_title_is_turned_to_where_fewer_arrows_cross():
    assert find_crossed_titles(layout((50, 200, 50, 0), (60, 200, 60, 0), (250, 200, 250, 0))) == {"cluster0"}


def test_an_arrow_that_was_not_drawn_crosses_nothing():
    assert find_crossed_titles({**layout(), "edges": [{"tail": 0, "head": 1}]}) == frozenset()


def three_calls(program):
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


def test_turning_moves_titles_only_and_out_of_the_way(program):
    shown = three_calls(program)
    before = write_dot(shown)
    turned = find_crossed_titles(read_positions(before))
    assert turned
    crossed, free = Drawing(render_dot(before, "svg")), Drawing(render_dot(write_dot(shown, turned=turned), "svg"))
    assert [box.rect for box in crossed.boxes] == [box.rect for box in free.boxes]
    assert [frame.rect for frame in crossed.frames] == [frame.rect for frame in free.frames]
    assert crossed.lines == free.lines
    assert len(free.crossed()) < len(crossed.crossed())
    assert free.problems() == []


def test_a_large_picture_is_laid_out_once(program, monkeypatch):
    three_calls(program)
    monkeypatch.setattr(drawing, "_MOST_BOXES", 3)
    monkeypatch.setattr(drawing, "read_positions", None)
    assert drawing.draw_graph(program.graph(), "svg")


def test_dot_is_not_laid_out(program, monkeypatch):
    three_calls(program)
    monkeypatch.setattr(drawing, "read_positions", None)
    assert re.match(b"digraph", drawing.draw_graph(program.graph(), "dot"))
