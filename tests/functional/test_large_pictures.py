"""Whole graphs of large models: drawn in seconds, nothing overlaps or is cut, and none is a tower."""

import pytest

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.render.drawing import layout
from fxgrad.render.drawing.engine import LayoutTooSlow
from fxgrad.render.pictures.forward import compose_forward
from fxgrad.render.pictures.picture import compose_picture
from tests.support import large_models
from tests.support.svg_extents import Drawing

MODELS = {
    "two stages of residual blocks": lambda: large_models.residual(2, 2),
    "16 bottlenecks": lambda: large_models.residual(3, 4, 6, 3, bottleneck=True),
    "58 dense layers": lambda: large_models.dense(6, 12, 24, 16),
    "an encoder": lambda: large_models.attention(4),
    "windows": lambda: large_models.windows(2, 2, 6, 2),
    "60 steps of a cell": lambda: large_models.steps(60),
    "300 leaves of one node": lambda: large_models.leaves(300),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def graph(request):
    return fxgrad.trace(*request.param()).graph


@pytest.fixture(scope="module")
def drawing(graph):
    return draw(compose_picture(graph, everything=True))


def draw(picture):
    return Drawing(layout.draw_picture(picture, "svg", timeout=120).decode())


def test_nothing_overlaps_or_is_cut(drawing):
    assert drawing.problems() == []


def test_no_line_crosses_the_title_of_a_module(drawing):
    assert drawing.crossed() == []


def test_no_line_of_a_folded_picture_crosses_the_title_of_a_module(graph):
    assert draw(compose_picture(graph)).crossed() == []


@pytest.mark.parametrize("build", [lambda: large_models.attention(4), lambda: large_models.dense(12)])
def test_no_line_of_a_forward_crosses_the_title_of_a_module(build):
    """An arrow comes in from far to the side; many come into a frame whose inside is set in columns."""
    model, args = build()
    assert draw(compose_forward(fxgrad.trace(model, args).graph)).crossed() == []


def test_every_edge_is_drawn(graph, drawing):
    edges = {
        (f"n{node.id}", f"n{edge.next_node}")
        for node in graph.nodes
        for edge in node.edges
        if edge.next_node is not None
    }
    assert edges <= {line.ends for line in drawing.lines}


def test_every_line_leads_down_or_on_to_the_next_column(drawing):
    assert drawing.backward() == []


def test_it_is_neither_a_tower_nor_a_ribbon(drawing):
    width, height = drawing.page.right, drawing.page.bottom
    assert height < 4 * width
    assert width < 4 * height


@pytest.fixture
def blocks():
    return fxgrad.trace(*large_models.residual(1, 1))


def test_a_layout_that_takes_too_long_is_closed_further_and_says_so(blocks, monkeypatch):
    run, asked = layout.run_engine, []

    def fail_first(sources, format, **options):
        asked.append(options["timeout"])
        if len(asked) == 1:
            raise LayoutTooSlow("the layout took too long", "time", "wait")
        return run(sources, format, timeout=60)

    monkeypatch.setattr(layout, "run_engine", fail_first)
    drawing = Drawing(blocks.draw(all=True))
    assert 9 < asked[0] <= 10
    assert "Closed further than asked for: the layout took too long" in "".join(text.words for text in drawing.texts)


def test_a_layout_that_never_ends_in_time_is_an_error(blocks):
    with pytest.raises(LayoutTooSlow, match="the layout took too long"):
        blocks.draw(timeout=0.001)


def test_what_comes_from_a_line_links_to_it(blocks):
    assert 'href="https://host/tree/tests/support/large_models.py#L' in blocks.draw(link_base="https://host/tree/")
    assert "href" not in blocks.draw()


def test_a_link_leads_to_a_page_and_runs_nothing(blocks):
    with pytest.raises(UsageError, match='link_base "javascript:alert'):
        blocks.draw(link_base="javascript:alert(1)//")
