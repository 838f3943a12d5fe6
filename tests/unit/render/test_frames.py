"""Frames are put together from plans made by hand: no layout engine runs."""

from itertools import pairwise

import pytest

from fxgrad.render.drawing.columns import arrange, cut_pane
from fxgrad.render.drawing.frames import lay_out
from fxgrad.render.drawing.panes import BORDER, Child, End, Pane, Plan, Stroke, Wire, make_line
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.parts import Arrow, Box, Cluster, Line, Picture
from fxgrad.render.pictures.theme import Flow

LOOK = next(iter(theme.NODE_LOOKS.values()))


def stack(pane):
    """Children below each other, ports at 10, 20, ... and straight lines."""
    places, y = [], 20.0
    for child in pane.children:
        places.append((0.0, y))
        y += child.height + 20
    tops = tuple(10.0 * (port + 1) for port in range(pane.tops))
    bottoms = tuple(10.0 * (port + 1) for port in range(pane.bottoms))

    def find(end, *, is_tail):
        if end.child == BORDER:
            return (tops[end.port], 0.0) if is_tail else (bottoms[end.port], y)
        (left, top), child = places[end.child], pane.children[end.child]
        ports = child.bottoms if is_tail else child.tops
        return (left + (ports[end.port] if end.port >= 0 else child.width / 2), top + (child.height if is_tail else 0))

    strokes = [
        (Stroke(make_line(find(wire.tail, is_tail=True), find(wire.head, is_tail=False)), wire.tip),)
        for wire in pane.wires
    ]
    labels = [None if wire.label is None else strokes[at][0].points[0] for at, wire in enumerate(pane.wires)]
    width = max((child.width for child in pane.children), default=0)
    return Plan(width, y, tuple(places), tuple(strokes), tuple(labels), tops, bottoms)


def place(boxes, arrows, frames=(), *, solve_one=stack):
    """Boxes are "name" or "frame/name", arrows "tail head", frames "name" or "parent/name"."""
    asked = []

    def solve(panes):
        asked.extend(panes)
        return [solve_one(pane) for pane in panes]

    clusters = [
        Cluster(
            name.split("/")[-1], "/".join(name.split("/")[:-1]).split("/")[-1] or None, name.count("/"), name, (), ()
        )
        for name in frames
    ]
    picture = Picture(
        (),
        tuple(
            Box(name.split("/")[-1], LOOK, (Line(name),), (), "".join(name.split("/")[:-1]) or None) for name in boxes
        ),
        tuple(Arrow(*arrow.split(), (arrow,), (), Flow.GRADIENT) for arrow in arrows),
        tuple(clusters),
    )
    placement = lay_out(
        picture,
        box_sizes={box.key: (60, 30) for box in picture.boxes},
        title_sizes={cluster.key: (40, 15) for cluster in clusters},
        measure_label=lambda words: (20, 10),
        solve=solve,
    )
    return placement, asked


def join(placement, arrow):
    """The strokes of an arrow, from its upper end."""
    strokes = [stroke for line in placement.lines if arrow in line.arrows for stroke in line.strokes]
    return sorted(strokes, key=lambda stroke: stroke.points[0][1])


def test_a_box_stands_in_its_frame_and_that_in_the_one_around_it():
    placement, _ = place(["c/a"], [], ["b", "b/c"])
    (left, top), (width, height), _ = placement.frames["c"]
    (outer_left, outer_top), (outer_width, outer_height), _ = placement.frames["b"]
    x, y = placement.boxes["a"]
    assert left <= x
    assert x + 60 <= left + width
    assert top <= y
    assert y + 30 <= top + height
    assert outer_left <= left
    assert left + width <= outer_left + outer_width
    assert outer_top <= top
    assert top + height <= outer_top + outer_height


def test_the_pieces_of_an_arrow_through_two_borders_meet():
    placement, _ = place(["one/a", "two/b"], ["a b"], ["one", "two"])
    out, between, into = join(placement, 0)
    assert out.points[-1] == pytest.approx(between.points[0])
    assert between.points[-1] == pytest.approx(into.points[0])
    assert [stroke.tip for stroke in (out, between, into)] == [0, 0, 1]


def test_the_words_stand_on_the_piece_in_the_frame_around_both_ends():
    placement, _ = place(["one/a", "two/b"], ["a b"], ["one", "two"])
    assert [line.words for line in placement.lines if not line.is_shared] == [("a b",)]
    assert {line.words for line in placement.lines if line.is_shared} == {()}


def test_arrows_from_one_box_share_the_way_out():
    placement, _ = place(["one/a", "b", "c"], ["a b", "a c"], ["one"])
    assert [line.arrows for line in placement.lines if line.is_shared] == [(0, 1)]


def test_arrows_to_one_box_share_the_way_in():
    placement, _ = place(["a", "b", "one/c"], ["a c", "b c"], ["one"])
    assert [line.arrows for line in placement.lines if line.is_shared] == [(0, 1)]


def test_arrows_of_many_boxes_to_one_outside_share_the_port_of_that():
    placement, asked = place(["one/a", "one/b", "one/c", "d"], ["a d", "b d", "c d"], ["one"])
    assert asked[0].bottoms == 1
    between = [line for line in placement.lines if not line.is_shared]
    assert [(line.arrows, line.words) for line in between] == [((0, 1, 2), ("3 gradients",))]


def test_two_arrows_between_two_boxes_stay_two():
    placement, _ = place(["a", "b"], ["a b", "a b"])
    assert [line.arrows for line in placement.lines] == [(0,), (1,)]


def test_equal_frames_are_laid_out_once():
    _, asked = place(["one/a", "two/b", "three/c"], [], ["one", "two", "three"])
    assert len(asked) == 2


def test_no_port_is_behind_a_title():
    placement, _ = place(["a", "one/b"], ["a b"], ["one"])
    (left, _), _, (title, _) = placement.frames["one"]
    line = next(line for line in placement.lines if line.is_shared)
    x = line.strokes[0].points[0][0]
    assert not title <= x <= title + 40, left


def test_a_hundred_frames_in_each_other_need_no_recursion():
    frames = ["/".join(f"f{level}" for level in range(depth + 1)) for depth in range(1_200)]
    picture_frames = [frame.split("/")[-2:] for frame in frames]
    clusters = [
        Cluster(pair[-1], pair[0] if len(pair) > 1 else None, depth, "", (), ())
        for depth, pair in enumerate(picture_frames)
    ]
    picture = Picture((), (Box("a", LOOK, (), (), "f1199"),), (), tuple(clusters))
    placement = lay_out(
        picture,
        box_sizes={"a": (60, 30)},
        title_sizes={cluster.key: (1, 1) for cluster in clusters},
        measure_label=lambda words: (20, 10),
        solve=lambda panes: [stack(pane) for pane in panes],
    )
    assert len(placement.frames) == 1_200


# Columns


def chain(length, *, height=200, extra=()):
    wires = [Wire(End(at), End(at + 1), None, 1) for at in range(length - 1)]
    return Pane(tuple([Child(100, height)] * length), (*wires, *extra))


def set_in_columns(pane):
    cut = cut_pane(pane)
    assert cut is not None
    return cut, arrange(pane, cut, [stack(part) for part in cut.parts])


def test_what_is_not_tall_stays_whole():
    assert cut_pane(chain(4)) is None


def test_a_long_chain_is_set_in_columns():
    cut, plan = set_in_columns(chain(40))
    assert plan.height < 4 * plan.width
    assert [child for children in cut.members for child in children] == list(range(40))
    assert len({place[0] for place in plan.places}) == len(cut.parts)


def test_a_wire_to_the_next_column_meets_its_ends():
    cut, plan = set_in_columns(chain(40))
    last = len(cut.members[0]) - 1
    strokes = plan.strokes[last]
    assert strokes[0].points[0] == (plan.places[last][0] + 50, plan.places[last][1] + 200)
    assert strokes[-1].points[-1] == (plan.places[last + 1][0] + 50, plan.places[last + 1][1])
    assert [stroke.tip for stroke in strokes] == [0, 0, 1]
    for before, after in pairwise(strokes):
        assert before.points[-1] == pytest.approx(after.points[0])


def test_no_wire_between_columns_leads_through_a_child():
    skips = [Wire(End(at), End(at + 13), None, 1) for at in range(0, 26, 5)]
    _, plan = set_in_columns(chain(40, extra=skips))
    ways = [point for strokes in plan.strokes for stroke in strokes[1:-1] for point in stroke.points]
    assert ways
    for x, y in ways:
        assert not any(left < x < left + 100 and top < y < top + 200 for left, top in plan.places)


def test_wires_to_one_child_share_their_way():
    ends = [Wire(End(at), End(39), None, 1) for at in range(0, 38, 4)]
    cut, plan = set_in_columns(chain(40, extra=ends))
    long = [strokes for strokes in plan.strokes for stroke in strokes if len(stroke.points) > 13]
    assert len(cut.parts) - 1 <= len(long) <= 2 * len(cut.parts)


def test_of_all_wires_between_two_children_in_different_columns_one_draws_something():
    """All else of a way may be shared: a picture says of each line between which two it leads."""
    pairs = [Wire(End(low), End(high), None, 1) for high in range(39, 0, -1) for low in reversed(range(high))]
    _, plan = set_in_columns(Pane(tuple([Child(100, 200)] * 40), tuple(pairs)))
    assert [wire for wire, strokes in zip(pairs, plan.strokes, strict=True) if not strokes] == []


def stack_in_columns(pane):
    cut = cut_pane(pane)
    return arrange(pane, cut, [stack(part) for part in cut.parts]) if cut else stack(pane)


@pytest.mark.parametrize("leaves", [False, True], ids=["into", "out of"])
def test_one_line_for_each_column_meets_the_border_of_the_frame(leaves):
    """The others begin or end on it, or they would lead right across boxes to the border."""
    chain_of = [f"{at} {at + 1}" for at in range(79)]
    many = [f"{at} end" if leaves else f"start {at}" for at in range(0, 80, 2)]
    placement, _ = place(
        ["start", "end", *(f"one/{at}" for at in range(80))], [*chain_of, *many], ["one"], solve_one=stack_in_columns
    )
    end, (_, top), (_, height) = -1 if leaves else 0, *placement.frames["one"][:2]
    border = top + height if leaves else top
    strokes = [stroke for line in placement.lines if line.is_shared for stroke in line.strokes]
    columns = {placement.boxes[str(at)][0] for at in range(80)}
    assert len(columns) > 1
    assert len([stroke for stroke in strokes if stroke.points[end][1] == border]) == len(columns)


def test_what_dot_cannot_do_in_time_is_cut_into_what_it_can():
    pairs = [Wire(End(low), End(high), None, 1) for low in range(49) for high in range(low + 1, 49)]
    cut = cut_pane(Pane(tuple([Child(100, 40)] * 49), tuple(pairs)))
    assert cut is not None
    assert max(len(part.wires) for part in cut.parts) < 400
