"""Modules that run without being called have frames, too: inside of TorchScript, and traced by torch.fx or torch.export."""

import warnings

import pytest
import torch
from torch import fx, nn

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.render.pictures.picture import compose_picture


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return torch.tanh(self.linear(x)).sin()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        return self.second(self.first(x)).sum()


X = torch.ones(2, 3)


def scripted():
    return torch.jit.script(Model())


def exported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export itself
        return torch.export.export(Model(), (X,))


def symbolically_traced():
    return fx.symbolic_trace(Model())


def list_frames(model):
    """What each box stands for, and the path of the module that its frame stands for."""
    picture = compose_picture(fxgrad.trace(model, X).graph, everything=True)
    paths = {frame.key: frame.identity.module for frame in picture.clusters}
    return sorted((box.identity.label, paths.get(box.cluster, "")) for box in picture.boxes)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("form", [scripted, exported])
def test_each_node_is_in_the_frame_that_it_has_in_the_model_itself(form):
    assert list_frames(form()) == list_frames(Model())


def test_a_module_that_torch_fx_has_inlined_has_a_frame_around_those_that_are_called():
    picture = compose_picture(fxgrad.trace(symbolically_traced(), X).graph, everything=True)
    frames = {frame.title: frame for frame in picture.clusters}
    assert frames["first"].notes == ("traced away",)
    assert [box.identity.label for box in picture.boxes if box.cluster == frames["first"].key] == [
        "SinBackward0_1",
        "TanhBackward0_1",
    ]
    assert frames["first.linear"].notes == ("Linear",)
    assert frames["first.linear"].parent == frames["first"].key


def test_a_tooltip_says_that_it_is_no_call():
    picture = compose_picture(fxgrad.trace(symbolically_traced(), X).graph, everything=True)
    frame = next(frame for frame in picture.clusters if frame.title == "first")
    box = next(box for box in picture.boxes if box.identity.label == "TanhBackward0_1")
    assert frame.tooltip[0] == "module first (traced away, in #1)"
    assert "made in the module first (traced away, in #1)" in box.tooltip


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("form", [scripted, exported, symbolically_traced])
def test_such_a_module_is_drawn_by_itself_and_closed(form):
    graph = fxgrad.trace(form(), X).graph
    alone = compose_picture(graph, module="second")
    assert "TanhBackward0_0" in {box.identity.label for box in alone.boxes}
    closed = compose_picture(graph, depth=0)
    assert {"first", "second"} <= {box.identity.module for box in closed.boxes}


def test_a_path_that_is_none_of_the_models_is_still_refused():
    with pytest.raises(UsageError, match="third"):
        compose_picture(fxgrad.trace(exported(), X).graph, module="third")
