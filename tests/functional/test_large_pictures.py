"""Whole graphs of large models: drawn in seconds, nothing overlaps or is cut, and none is a tower."""

import pytest

import fxgrad
from fxgrad.render import layout
from fxgrad.render.picture import compose_picture
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
def drawing(request):
    model, args = request.param()
    picture = compose_picture(fxgrad.trace(model, args).graph, everything=True)
    return Drawing(layout.draw_picture(picture, "svg", timeout=120).decode())


def test_nothing_overlaps_or_is_cut(drawing):
    assert drawing.problems() == []


def test_it_is_neither_a_tower_nor_a_ribbon(drawing):
    width, height = drawing.page.right, drawing.page.bottom
    assert height < 4 * width
    assert width < 4 * height
