"""Pictures of real models: everything can be read, nothing overlaps or is cut, and backward runs from top to bottom."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.api import trace_target
from fxgrad.cli import main
from fxgrad.errors import OutputError, UsageError
from fxgrad.graph import HookKind
from fxgrad.graph.text import name_registering_function
from fxgrad.render.drawing import layout
from fxgrad.target_options import TargetOptions
from tests.support.needs import needs_emulation
from tests.support.svg_extents import Drawing

SAMPLES = sorted(path.stem for path in (Path(__file__).parents[2] / "samples").glob("*.py"))


def print_sizes(module, grad_input, grad_output):
    pass


class LSTMStack(nn.Module):
    """Three steps through four cells, the question that started the project, in small."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTMCell(10, 10) for _ in range(4))

    def forward(self, x):
        states = [(torch.zeros(9, 10), torch.zeros(9, 10)) for _ in self.layers]
        for _ in range(3):
            hidden = x
            for number, cell in enumerate(self.layers):
                states[number] = cell(hidden, states[number])
                hidden = states[number][0]
        return hidden


class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.downsample = nn.Sequential(nn.Conv2d(3, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.relu = nn.ReLU()

    def forward(self, x):
        inside = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(inside + self.downsample(x))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class ManyOutputs(nn.Module):
    """Several roots, a list argument, a custom Function and an in-place change of a view."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        base = self.weight * 1
        base[0].mul_(2)
        parts = torch.cat([Double.apply(base), x, base @ x]).split([4, 8])
        return {"first": parts[0].max(dim=1).values, "rest": [parts[1].sum()]}


def lstm_stack():
    model = LSTMStack()
    model.layers[3].register_backward_hook(print_sizes)
    return model, (torch.ones(9, 10),)


def residual_block():
    model = ResidualBlock()
    model.bn1.register_full_backward_hook(print_sizes)
    model.conv2.register_full_backward_pre_hook(print_sizes)
    model.conv1.weight.register_hook(lambda grad: None)
    model.conv1.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return model, (torch.ones(2, 3, 8, 8),)


def transformer():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False)
    model.layers[1].linear1.register_full_backward_hook(print_sizes)
    model.layers[0].norm2.register_backward_hook(print_sizes)
    return model, (torch.ones(5, 3, 16),)


def many_outputs():
    model = ManyOutputs()
    model.register_full_backward_pre_hook(print_sizes)
    return model, (torch.ones(4, 4),)


MODELS = (lstm_stack, residual_block, transformer, many_outputs)
OPTIONS = {"default": {}, "whole": {"all": True}, "hooks only": {"hooks_only": True}, "depth 1": {"depth": 1}}
OPTIONS |= {"depth 0": {"depth": 0}, "forward": {"forward": True}, "forward, depth 1": {"forward": True, "depth": 1}}


@pytest.fixture(scope="module", params=MODELS, ids=lambda build: build.__name__)
def trace(request):
    model, args = request.param()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of non-full hooks
        return fxgrad.trace(model, args)


@pytest.fixture(
    scope="module",
    params=[
        *((sample, None) for sample in SAMPLES),
        pytest.param(("lstm_cell", "cuda"), marks=needs_emulation),
    ],
    ids=str,
)
def sample(request, repository):
    """The trace of a sample on a device."""
    name, device = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return trace_target(TargetOptions(str(repository / "samples" / f"{name}.py"), device=device))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_picture_of_a_sample_can_be_read(sample, options):
    drawing = Drawing(sample.draw(**options))
    assert drawing.problems() == []


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_no_line_of_a_sample_crosses_the_title_of_a_module(sample, options):
    assert Drawing(sample.draw(**options)).crossed() == []


def test_the_picture_of_each_hooked_module_of_a_sample_can_be_read(sample):
    hooked = {call.path for call in sample.calls if call.hooks}
    for path in hooked:
        drawing = Drawing(sample.draw(module=path))
        assert drawing.problems() == []


def test_the_picture_of_a_sample_names_every_hook(sample):
    words = "\n".join(text.words for text in Drawing(sample.draw()).texts)
    for hook in sample.graph.hooks:
        assert f"{name_registering_function(hook.kind)} · {hook.owner}" in words


def test_the_legend_of_a_sample_lists_the_kinds_of_hooks_that_occur_and_no_others(sample):
    words = {text.words for text in Drawing(sample.draw()).texts}
    kinds = {site.hook.kind for site in sample.sites if site.node is not None}
    assert {kind for kind in HookKind if kind.value in words} == kinds


@needs_emulation
def test_the_picture_in_the_readme_is_the_one_that_its_command_draws(repository, tmp_path, monkeypatch):
    """Its words: where they stand depends on the fonts of a machine."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`fxgrad (draw samples/lstm_cell.py .*?) -o samples/lstm_cell.svg`", readme)
    monkeypatch.chdir(repository)
    assert main([*shlex.split(command), "-o", str(tmp_path / "drawn.svg")]) == 0
    kept = Drawing((repository / "samples" / "lstm_cell.svg").read_text(encoding="utf-8"))
    drawn = Drawing((tmp_path / "drawn.svg").read_text(encoding="utf-8"))
    assert [text.words for text in kept.texts] == [text.words for text in drawn.texts]
    assert "ThnnFusedLstmCellBackward0_0" in {text.words for text in kept.texts}
    assert kept.problems() == []


def test_the_picture_of_forward_and_backward_of_a_sample_can_be_read(sample):
    assert Drawing(sample.draw(both=True, depth=0)).problems() == []


def test_the_picture_of_the_forward_of_a_sample_names_every_hook(sample):
    words = "\n".join(text.words for text in Drawing(sample.draw(forward=True)).texts)
    for hook in sample.graph.hooks:
        assert f"{name_registering_function(hook.kind)} · {hook.owner}" in words


def test_a_saved_trace_draws_its_forward_as_well(sample, tmp_path):
    sample.to_json(tmp_path / "trace.json")
    loaded = fxgrad.load(tmp_path / "trace.json")
    assert loaded.draw(both=True, depth=0) == sample.draw(both=True, depth=0)


def test_a_layout_that_fails_leaves_the_file_as_it_was(repository, tmp_path, monkeypatch, capsys):
    def fail(*args, **options):
        raise OutputError("the layout engine failed", "one that works", "another one")

    monkeypatch.setattr(layout, "run_engine", fail)
    (tmp_path / "old.svg").write_text("old")
    for name in ("old.svg", "new.svg", "new.png"):
        assert main(["draw", str(repository / "samples" / "linear_function.py"), "-o", str(tmp_path / name)]) != 0
        assert "the layout engine failed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old.svg"]
    assert (tmp_path / "old.svg").read_text() == "old"


def test_a_capture_has_no_forward_to_draw():
    captured = fxgrad.capture(torch.ones(3, requires_grad=True) * 2)
    with pytest.raises(UsageError, match="captured from existing tensors: forward was not recorded"):
        captured.draw(forward=True)


@pytest.mark.parametrize("which", ["forward", "both"])
@pytest.mark.parametrize("option", ["hooks_only", "all"])
def test_some_options_are_of_the_backward_graph(which, option):
    trace = fxgrad.trace(nn.Linear(2, 3), (torch.ones(2),))
    with pytest.raises(UsageError, match=f"{option} with {which}\n  allowed: {option} for the backward graph alone"):
        trace.draw(**{option: True, which: True})


def test_modules_are_opened_by_path_or_by_the_module_itself():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(size, size + 1), nn.Tanh()) for size in range(2, 40)))
    trace = fxgrad.trace(model, (torch.ones(2, 2),))
    assert "TanhBackward0_5" not in list_words(trace.draw())
    for wanted in ("32", [model[32], "31"]):
        assert "TanhBackward0_5" in list_words(trace.draw(expand=wanted))


def list_words(svg):
    return {text.words for text in Drawing(svg).texts}


def test_forward_alone_and_both_are_two_pictures():
    with pytest.raises(UsageError, match="forward with both\n  allowed: one of them"):
        fxgrad.trace(nn.Linear(2, 3), (torch.ones(2),)).draw(forward=True, both=True)


@pytest.fixture(scope="module", params=OPTIONS.values(), ids=OPTIONS)
def options(request):
    return request.param


@pytest.fixture(scope="module")
def drawing(trace, options):
    return Drawing(trace.draw(**options))


@pytest.fixture(scope="module")
def whole(trace):
    return Drawing(trace.draw(all=True))


def test_nothing_overlaps_or_is_cut(drawing):
    assert drawing.problems() == []


def test_no_line_crosses_the_title_of_a_module(drawing):
    assert drawing.crossed() == []


def test_every_line_leads_down_in_a_picture_without_columns(trace, options, monkeypatch):
    monkeypatch.setattr(layout, "cut_pane", lambda pane: None)
    drawing = Drawing(trace.draw(**options))
    heights = {box.name: box.rect for box in drawing.boxes}
    ends = {line.ends for line in drawing.lines if line.ends[0] != line.ends[1]}
    assert {(tail, head) for tail, head in ends if heights[tail].bottom > heights[head].top} == set()


def test_every_line_leads_down_or_on_to_the_next_column(trace, options):
    """But for those that lead back to the next of several equal ones, which only a folded picture has."""
    folded = not options or "depth" in options
    drawing = Drawing(trace.draw(**options))
    assert [ends for ends in drawing.backward() if not (folded and ends[0] == ends[1])] == []


def test_every_node_is_drawn(trace, whole):
    assert {f"n{node.id}" for node in trace.graph.nodes} <= {box.name for box in whole.boxes}


def test_every_call_of_the_forward_is_a_box_or_the_arrow_from_what_it_picks_from(trace):
    boxes = {box.name for box in Drawing(trace.draw(forward=True)).boxes}
    left = [each for rank, each in enumerate(trace.graph.forward) if f"f{rank}" not in boxes]
    assert all(not each.inputs or each.target == "operator.getitem" for each in left)
    assert not {each.name for each in left} & {node.fx_node for node in trace.graph.nodes}


def test_every_edge_is_drawn(trace, whole):
    drawn = {line.ends for line in whole.lines}
    edges = [(node.id, edge.next_node) for node in trace.graph.nodes for edge in node.edges]
    assert {(f"n{tail}", f"n{head}") for tail, head in edges if head is not None} <= drawn
