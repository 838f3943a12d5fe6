"""What pictures of large graphs show by default: how many boxes, and how long it takes to decide on them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

import fxgrad
from fxgrad.render.pictures.picture import compose_picture
from tests.benchmarks.shapes import MODELS

MOST_BOXES = 120


@pytest.mark.parametrize("name", MODELS)
def test_boxes_drawn_by_default(name: str, figure: Callable[[str], None]) -> None:
    torch.manual_seed(0)
    model, arguments = MODELS[name]()
    model(*arguments)  # lazy modules get their sizes
    graph = fxgrad.trace(model, arguments).graph
    start = time.process_time()
    picture = compose_picture(graph)
    took = time.process_time() - start
    figure(f"{len(graph.nodes):6,} nodes   {len(picture.boxes):3} boxes   {took:5.2f} s")
    assert len(picture.boxes) <= MOST_BOXES
