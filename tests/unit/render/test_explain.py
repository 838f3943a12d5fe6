"""The text of `explain`: golden files, read by eye, and what holds for any of them."""

from io import StringIO

import pytest
import torch
from msgspec.structs import replace
from rich.console import Console
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.graph import HookKind, NodeKind, Source
from fxgrad.render.document import format_document, render_document
from fxgrad.render.explain import compose_explanation
from fxgrad.render.report import compose_report
from fxgrad.rules import explain


def text_of(program, *, width=100, module=None):
    graph = program.graph()
    return format_document(compose_explanation(graph, explain(graph), module=module), width=width)


@pytest.fixture
def golden(repository, overwrite):
    """Compares a text with a file of tests/golden, or writes the file with --overwrite."""

    def check(name, text):
        path = repository / "tests" / "golden" / name
        if overwrite:
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


def test_linear_is_explained_as_in_the_golden_file(linear, golden):
    golden("explain_linear.txt", text_of(linear))


def test_lstm_cells_are_explained_as_in_the_golden_file(lstm_cells, golden):
    golden("explain_lstm_cells.txt", text_of(lstm_cells))


def test_lstm_cells_are_explained_in_80_columns_as_in_the_golden_file(lstm_cells, golden):
    golden("explain_lstm_cells_80.txt", text_of(lstm_cells, width=80))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_longer_than_the_width(lstm_cells, width):
    assert [line for line in text_of(lstm_cells, width=width).splitlines() if len(line) > width] == []


def test_the_first_line_says_what_backward_starts_from(linear):
    assert text_of(linear).splitlines()[0] == "roots: the output of forward"


def test_calls_that_say_the_same_are_told_once(lstm_cells):
    lstm_cells.sites[2] = replace(
        lstm_cells.sites[1], call="layers.3#1", node=lstm_cells.sites[2].node, order=lstm_cells.sites[2].order
    )
    text = text_of(lstm_cells)
    assert "calls 2 and 1 of 3  →  ThnnFusedLstmCellBackward0_1 and _2   alike; shown is call 2" in text
    assert text.count("grad_output[1] result 1") == 1


def test_a_full_hook_is_shown_with_the_line_that_calls_the_module(program, entries):
    machinery = Source("/x/site-packages/torch/utils/hooks.py", 195, "res = fn(args)")
    node = program.node("BackwardHookFunctionBackward_0", (3,), kind=NodeKind.BACKWARD_HOOK, source=machinery)
    program.module("fc", "Linear")
    call = program.call("fc", "Linear", source=Source("model.py", 12, "y = self.fc(x)"))
    hook = program.hook(HookKind.MODULE_FULL_BACKWARD, "fc")
    program.site(hook, call, node, grad_input=entries(("input", (3,))), grad_output=entries(("result", (3,))))
    assert "    called at model.py:12: `y = self.fc(x)`\n" in text_of(program)
    assert "hooks.py" not in text_of(program)


def test_an_entry_that_stands_for_another_tensor_is_a_difference(lstm_cells):
    gates, *others = lstm_cells.sites[1].grad_input
    lstm_cells.sites[1] = replace(lstm_cells.sites[1], grad_input=(replace(gates, expression="mm(elsewhere)"), *others))
    assert "    grad_input[0] input_gates  (9, 4000)  mm(elsewhere)\n" in text_of(lstm_cells)


def test_calls_on_different_functions_are_told_in_full(lstm_cells):
    lstm_cells.sites[1] = replace(lstm_cells.sites[1], node=lstm_cells.number("MmBackward0_2"))
    text = text_of(lstm_cells)
    assert "one per differentiable argument of aten::mm" in text


def test_a_site_without_a_node_says_why(linear):
    linear.sites[0] = replace(
        linear.sites[0],
        node=None,
        fires=False,
        order=None,
        grad_input=(),
        grad_output=(),
        reason="result requires no grad",
    )
    text = text_of(linear)
    assert "on no node of the graph   result requires no grad\n    never fires\n" in text
    assert "grad_input   " not in text


def test_a_site_of_which_only_backward_decides_says_so(linear):
    linear.sites[0] = replace(linear.sites[0], fires=None, times=None, order=None)
    assert "    only backward decides whether it fires\n" in text_of(linear)


def test_an_unknown_entry_shows_the_shape_that_it_would_have(linear):
    entry = replace(linear.sites[0].grad_input[0], status="unknown", reason="backward decides")
    linear.sites[0] = replace(linear.sites[0], grad_input=(entry,))
    assert "[0] self  unknown, (20,) if a tensor  fc.bias: backward decides" in text_of(linear)


def test_an_unusual_dtype_is_shown(linear):
    entry = replace(linear.sites[0].grad_input[0], dtype="bfloat16")
    linear.sites[0] = replace(linear.sites[0], grad_input=(entry,))
    assert "[0] self  (20,) bfloat16  fc.bias" in text_of(linear)


def test_a_long_tuple_is_cut_and_says_so(linear):
    entry = linear.sites[0].grad_input[0]
    linear.sites[0] = replace(linear.sites[0], grad_input=(entry,) * 1000)
    text = text_of(linear)
    assert "grad_input   1,000 entries" in text
    assert "and 960 entries more" in text


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (HookKind.POST_ACCUMULATE_GRAD, "receives `fc.weight` itself, once AccumulateGrad has run"),
        (HookKind.RETAIN_GRAD, "stores the gradient in `fc.weight`.grad"),
        (HookKind.TENSOR, "the gradient  (20, 10)  fc.weight"),
    ],
)
def test_hooks_on_tensors_say_what_they_get(program, entries, kind, line):
    program.leaf("AccumulateGrad_0", "fc.weight", 20, 10)
    hook = program.hook(kind, "fc.weight")
    received = () if kind is HookKind.POST_ACCUMULATE_GRAD else entries(("variable", (20, 10), "fc.weight"))
    program.site(hook, None, "AccumulateGrad_0", slot=0, grad_output=received, reason="it is its leaf")
    text = text_of(program)
    assert "fc.weight   parameter (20, 10)" in text
    assert line in text


def test_a_module_is_picked_with_the_hooks_on_its_parameters(linear):
    linear.module("other", "Other")
    linear.site(linear.hook(HookKind.MODULE_BACKWARD, "other", "elsewhere"), fires=False, reason="never called")
    linear.site(linear.hook(HookKind.TENSOR, "fc.weight", "on_weight"), fires=False, reason="never reached")
    text = text_of(linear, module="fc")
    assert ("(show)" in text, "(on_weight)" in text, "(elsewhere)" in text) == (True, True, False)


def test_a_module_without_hooks_says_what_to_ask_instead(linear):
    linear.module("other", "Other")
    assert "no hook is registered on `other` or its parameters (no calls)" in text_of(linear, module="other")


def test_an_unknown_module_is_refused(linear):
    with pytest.raises(UsageError, match="no module 'fcc'"):
        text_of(linear, module="fcc")


def test_a_graph_without_hooks_says_so(program):
    program.leaf("AccumulateGrad_0", "w", 2)
    assert "no hook is registered on any module, tensor or node of this graph" in text_of(program)


def test_names_from_the_program_cannot_break_a_line_or_colour_it(linear):
    linear.hooks[0] = replace(linear.hooks[0], function="show\n\x1b[31m")
    linear.sites[0] = replace(linear.sites[0], hook=linear.hooks[0], reason="a\tb\u202e")
    text = text_of(linear)
    assert r"register_backward_hook(show\n\x1b[31m)" in text
    assert [line for line in text.splitlines() if not line.isprintable()] == []


def test_the_terminal_gets_the_same_words(lstm_cells):
    graph = lstm_cells.graph()
    console = Console(width=100, record=True, file=StringIO())
    console.print(render_document(compose_explanation(graph, explain(graph))))
    shown = console.export_text().split()
    expected = text_of(lstm_cells).replace("`", "").split()
    assert shown == expected


def test_a_name_that_looks_like_markup_stays_a_name_on_the_terminal(linear):
    linear.hooks[0] = replace(linear.hooks[0], function="[bold]show[/bold] :smile:")
    linear.sites[0] = replace(linear.sites[0], hook=linear.hooks[0])
    graph = linear.graph()
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_document(compose_report(graph, explain(graph))))
    assert "[bold]show[/bold] :smile:" in console.export_text()


def test_how_often_a_hook_is_called_that_an_inner_backward_may_call_too_is_left_to_backward():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(self.linear, self.linear(x), use_reentrant=True)

    model = Twice()
    model.linear.weight.register_hook(lambda grad: None)
    graph = fxgrad.trace(model, torch.ones(2, 3, requires_grad=True)).graph
    assert (
        "    fires, only backward decides how often, number 1 in the firing order at the latest\n"
        in format_document(compose_explanation(graph, explain(graph)))
    )


def explain_encoder(layers):
    stack = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(layers)])
    for layer in stack:
        layer[0].register_full_backward_hook(lambda *given: None)
        layer[1].register_full_backward_hook(lambda *given: None)
    graph = fxgrad.trace(stack, torch.ones(2, 4, requires_grad=True)).graph
    return format_document(compose_explanation(graph, explain(graph)))


def test_equal_modules_are_told_once_and_then_listed():
    text = explain_encoder(12)
    assert len(text.splitlines()) < 80
    assert "11.1 … 1.1 (11 modules)" in text
    assert text.count(" modules)") == 2
    assert "\n  6.0   BackwardHookFunctionBackward_" in text
    assert "and 5 more: see `trace.sites`" in text


def test_modules_whose_hooks_get_other_shapes_are_told_apart():
    narrow = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    for layer in narrow:
        layer.register_full_backward_hook(lambda *given: None)
    graph = fxgrad.trace(narrow, torch.ones(2, 4, requires_grad=True)).graph
    text = format_document(compose_explanation(graph, explain(graph)))
    assert "0   Linear(in_features=4, out_features=3, bias=True)" in text
    assert "grad_input   1 entry" in text
