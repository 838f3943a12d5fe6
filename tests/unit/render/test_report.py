"""The report: golden file, and what holds for any. And the order in which hooks are called."""

import json

import pytest
import torch
from msgspec.structs import replace
from torch import nn

import fxgrad
from fxgrad.cli import main
from fxgrad.graph import HookKind, NodeKind
from fxgrad.predict import predict
from fxgrad.render.document import format_document
from fxgrad.render.report import compose_report
from fxgrad.rules import explain


def report_of(program, *, width=100):
    graph = program.graph()
    return format_document(compose_report(graph, explain(graph)), width=width)


def test_lstm_cells_are_reported_as_in_the_golden_file(lstm_cells, repository, overwrite):
    path = repository / "tests" / "golden" / "report_lstm_cells.txt"
    if overwrite:
        path.write_text(report_of(lstm_cells), encoding="utf-8")
    assert report_of(lstm_cells) == path.read_text(encoding="utf-8")


def test_the_first_line_is_the_root_rule(linear):
    assert report_of(linear).splitlines()[0] == "roots: the output of forward"


def test_the_versions_and_the_device_come_next(linear):
    line = report_of(linear).splitlines()[1]
    assert line == "traced with fxgrad 0.1.0, torch 2.13.0 and Python 3.12.0, on cpu"


def test_notes_are_told(linear):
    linear.info = replace(linear.info, notes=("compiled modules ran eagerly",))
    assert "compiled modules ran eagerly\n" in report_of(linear)


def test_a_capture_says_why_it_has_no_calls(linear):
    linear.info = replace(linear.info, calls_reason="the forward is over")
    report = report_of(linear)
    assert "the forward is over\n" in report
    assert "module calls" not in report


def test_the_promise_and_its_limits_stand_at_the_end(linear):
    assert " ".join(report_of(linear).split()).endswith(
        "is right if every hook returns None and none starts a nested backward. "
        "What depends on values is reported as unknown, with the reason."
    )


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_longer_than_the_width(lstm_cells, width):
    assert [line for line in report_of(lstm_cells, width=width).splitlines() if len(line) > width] == []


def test_counts_are_those_of_the_records(lstm_cells):
    lines = [" ".join(line.split()) for line in report_of(lstm_cells).splitlines()]
    assert "nodes 19: 15 function and 4 accumulate grad" in lines
    assert "module calls 3; 1 of 1 module called" in lines
    assert "hooks 1, at 3 sites (a hook at one call, node or tensor)" in lines
    assert "entries 21: 19 tensors, 2 None, 0 unknown" in lines


def test_hooks_are_listed_as_they_were_registered(linear):
    linear.site(linear.hook(HookKind.TENSOR, "fc.weight", "second"), fires=False, reason="no root depends on it")
    lines = report_of(linear).splitlines()
    at, end = lines.index("hooks, in order of registration"), lines.index("firing order")
    rows = [line.split() for line in lines[at + 1 : end] if line.strip()]
    assert rows[0] == ["on", "kind", "function", "registered", "at", "node", "gets", "fires"]
    (legacy,) = [row for row in rows if row[:3] == ["fc", "non-full", "show"]]
    assert "AddmmBackward0_0" in legacy
    assert legacy[-1] == "once"
    assert [row[-1] for row in rows if row[:3] == ["fc.weight", "tensor", "second"]] == ["never"]


def test_what_does_not_fire_has_no_place_in_the_order(linear):
    linear.site(linear.hook(HookKind.TENSOR, "fc.weight", "second"), fires=False, reason="no root depends on it")
    report = report_of(linear)
    order = report[report.index("firing order") : report.index("findings")]
    assert "fc.weight" not in order


def test_parameters_without_a_gradient_are_listed_with_the_reason(linear):
    linear.module("unused", "Linear")
    linear.variable("unused.weight", 3, 3)
    linear.variable("fc.frozen", 2, requires_grad=False)
    report = report_of(linear)
    assert "  `unused.weight`  (3, 3)  no root depends on it: `unused` is never called\n" in report
    assert "  1 more parameter with requires_grad=False\n" in report


def test_no_section_is_written_for_nothing(linear):
    report = report_of(linear)
    assert "parameters that no gradient" not in report
    assert "outputs that backward does not start from" not in report


def test_skipped_outputs_are_listed(linear):
    linear.info = replace(linear.info, skipped=("result[1]: it does not require grad",))
    assert "outputs that backward does not start from\n  result[1]: it does not require grad\n" in report_of(linear)


def test_warnings_come_before_infos(lstm_cells):
    report = report_of(lstm_cells)
    assert report.index("warning: ") < report.index("info: ")


def with_a_second(linear, path, *, n_args=1):
    """A second module with a non-full hook on the same node."""
    first = linear.sites[0]
    linear.module(path, "Linear")
    inputs = [linear.ref(("args", position), 8, 10, requires_grad=False) for position in range(n_args)]
    outputs = [linear.ref(("result",), 8, 20, node="AddmmBackward0_0")]
    call = linear.call(path, "Linear", inputs=inputs, outputs=outputs, argument_names=("input",))
    hook = linear.hook(HookKind.MODULE_BACKWARD, path, "second")
    linear.sites.append(replace(first, hook=hook, call=call, order=len(linear.sites)))


def test_findings_with_one_code_and_fix_are_told_once_and_then_listed(linear):
    with_a_second(linear, "other")
    report = " ".join(report_of(linear).split())
    assert report.count("one per differentiable argument of aten::addmm") == 1
    assert "the same code on kind function finding other non-full second PyTorch put `second` on" in report


def test_findings_with_one_code_and_other_fixes_are_each_told_in_full(linear):
    with_a_second(linear, "other", n_args=2)
    report = " ".join(report_of(linear).split())
    assert report.count("fix register_full_backward_hook: grad_input would be (None,), one entry") == 1
    assert report.count("fix register_full_backward_hook: grad_input would be (None, None), one entry") == 1
    assert "the same code on" not in report


def test_findings_with_ever_other_fixes_are_listed_in_the_end(linear):
    for number in range(2, 20):
        with_a_second(linear, f"other{number}", n_args=number)
    report = " ".join(report_of(linear).split())
    assert report.count("fix register_full_backward_hook:") == 8
    assert report.count("the same code on") == 1
    assert all(f"other{number}" in report.partition("findings")[2] for number in range(2, 20))


def test_long_tables_are_cut_and_say_so(linear):
    for number in range(200):
        linear.site(linear.hook(HookKind.TENSOR, f"x{number}", "f"), fires=False, reason="no use")
    assert "and 101 more: see the saved trace (`--json`)" in report_of(linear)


def test_weights_under_a_reentrant_checkpoint_are_not_said_to_get_no_gradient(program):
    program.node("CheckpointFunctionBackward_0", (3, 8), kind=NodeKind.CHECKPOINT, nested_backward=())
    program.module("", "Net")
    program.module("inner", "Linear", parameters=("inner.weight",))
    program.variable("inner.weight", 8, 8)
    program.call("inner", "Linear", checkpointed="reentrant")
    report = format_document(compose_report(program.graph(), ()))
    assert "only backward decides: a reentrant checkpoint runs `inner` again then" in " ".join(report.split())


# The order of calls


def lines_of(order):
    return [" ".join(line.split()) for line in str(order).splitlines()]


def test_every_kind_at_one_leaf_comes_in_the_order_of_the_engine():
    weight = torch.ones(3, requires_grad=True)
    weight.register_post_accumulate_grad_hook(lambda leaf: None)
    node = torch.autograd.graph.get_gradient_edge(weight).node
    node.register_hook(lambda grad_input, grad_output: None)
    node.register_prehook(lambda grad_output: None)
    weight.register_hook(lambda grad: None)
    kinds = [site.hook.kind for site in fxgrad.capture(weight * 2).order().calls]
    assert kinds == [HookKind.TENSOR, HookKind.NODE_PRE, HookKind.POST_ACCUMULATE_GRAD, HookKind.NODE]


def test_hooks_are_numbered_across_nodes():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].register_full_backward_hook(first)
    model[1].register_full_backward_hook(second)
    model[1].bias.register_hook(third)
    trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True))
    assert lines_of(trace.order())[2:] == [
        "hook calls, in order",
        "no. node gradient kind on function",
        "1 AccumulateGrad_0 [0] result tensor 1.bias third",
        "2 BackwardHookFunctionBackward_1 full 1 second",
        "3 BackwardHookFunctionBackward_3 full 0 first",
    ]


def first(module, grad_input, grad_output):
    pass


def second(module, grad_input, grad_output):
    pass


def third(grad):
    pass


def test_the_hooks_of_one_module_keep_their_numbers():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for module in model:
        module.register_full_backward_hook(first)
    trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True))
    assert lines_of(trace.order("0"))[4:] == ["2 BackwardHookFunctionBackward_3 full 0 first"]


def test_hooks_that_are_not_called_come_last_with_why():
    model = nn.Linear(3, 4)
    model.register_full_backward_hook(first)
    trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True)).predict(inputs="weight")
    assert trace.order().calls == ()
    assert lines_of(trace.order())[3] == "hooks that never fire"


def test_an_all_hook_that_is_called_twice_comes_twice():
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    tensors = [x, x, (x * y)]
    loss = tensors[2].sum() + x.sum()
    torch.autograd.graph.register_multi_grad_hook(tensors[:1] * 2, lambda grads: None)
    trace = fxgrad.capture(loss)
    assert [site.times for site in trace.sites] == [trace.order().calls.count(trace.sites[0])]


def test_global_hooks_come_before_a_module_s_own_and_prepended_ones_first():
    model = nn.Linear(3, 4)
    model.register_full_backward_hook(first)
    model.register_full_backward_hook(second, prepend=True)
    handle = nn.modules.module.register_module_full_backward_hook(everywhere)
    try:
        trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True))
    finally:
        handle.remove()
        nn.modules.module._global_is_full_backward_hook = None
    assert [site.hook.function for site in trace.order().calls] == ["everywhere", "second", "first"]


def everywhere(module, grad_input, grad_output):
    pass


def test_on_several_devices_there_is_no_order_between_them(linear):
    graph = linear.graph()
    node, *nodes = graph.nodes
    metas = tuple([meta.__class__(meta.shape, meta.dtype, "cuda:0") for meta in node.grad_outputs])
    there = predict(replace(graph, nodes=(replace(node, grad_outputs=metas), *nodes)))
    assert (
        "this order holds only within each device's thread: each device (cuda:0, cpu) has its own thread, so there is no order between them"
        in " ".join(str(fxgrad.result.Trace(there).order()).split())
    )


def test_json_holds_the_calls():
    weight = torch.ones(3, requires_grad=True)
    weight.register_hook(third)
    (call,) = json.loads(fxgrad.capture(weight * 2).order().to_json())
    assert call["hook"]["function"] == "third"


def test_the_command_line_shows_the_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weight = torch.ones(3, requires_grad=True)
    weight.register_hook(third)
    fxgrad.capture(weight * 2).to_json("trace.json")
    assert main(["explain", "trace.json", "--order"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "hook calls, in order"


def test_the_command_line_shows_what_grad_calls(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fxgrad.trace(nn.Linear(3, 4), torch.ones(5, 3)).to_json("trace.json")
    assert main(["explain", "trace.json", "--inputs", "weight", "--inputs", "bias", "--api", "grad"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "predicted for autograd.grad(inputs=[weight, bias])"


def test_the_command_line_refuses_an_order_of_supposed_hooks(tmp_path, monkeypatch, capsys):
    assert main(["explain", "trace.json", "--order", "--hook", "register_full_backward_hook"]) == 2
    assert "--order with --hook" in capsys.readouterr().err
