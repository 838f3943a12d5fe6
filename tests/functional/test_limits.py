"""What cannot be known before backward: each row of the README's table, shown in a real backward.

A test here runs what the row speaks of and shows that PyTorch really behaves so, beside what fxgrad says of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.rules import explain
from tests.support.targets import python

README = Path(__file__).parents[2] / "README.md"
TABLE = README.read_text(encoding="utf-8").partition("## What you can rely on")[2].partition("\n## ")[0]
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in re.findall(r"^\|.*\|$", TABLE, re.M)[2:]]
NOT_MEASURED = "not measured"


def test_the_table_has_rows():
    assert len(ROWS) > 5


@pytest.mark.parametrize(("what", "told", "shown_by"), ROWS)
def test_each_row_names_a_case_that_is_there(what, told, shown_by, repository):
    cases = re.findall(r"`([^`]*)`", shown_by)
    assert told == NOT_MEASURED or cases
    for case in cases:
        file, _, name = case.partition("::")
        source = (repository / file).read_text(encoding="utf-8")
        assert not file.startswith("tests/") or f"def {name}(" in source


def test_a_hook_that_returns_something_is_named_and_verify_tells_what_it_changed():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].register_full_backward_hook(lambda module, grad_input, grad_output: (None,))
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    x = torch.ones(2, 3, requires_grad=True)
    trace = fxgrad.trace(model, x)
    assert [told.site.hook.owner for told in explain(trace.graph) if told.code == "FXG109"] == ["1"]
    assert [entry.status for entry in trace.sites_of("0")[0].grad_output] == ["tensor"]
    assert not fxgrad.verify(model, x).ok


def test_a_backward_that_a_hook_starts_through_a_list_of_functions_calls_a_multi_grad_hook_once_more():
    x, functions = torch.ones(2, requires_grad=True), [lambda root: root.backward(retain_graph=True)]
    doubled, trebled, calls = x * 2, x * 3, []
    side, product = doubled.sum(), doubled * trebled
    torch.autograd.graph.register_multi_grad_hook((doubled, trebled), calls.append)
    product.register_hook(lambda grad: functions[0](side))
    root = product.sum()
    sites = fxgrad.capture(root).sites
    root.backward()
    assert [site.times for site in sites if site.hook.targets] == [1]
    assert len(calls) == 2


class WithSide(nn.Module):
    """Its input has a way around its result."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        self.side = x * 3
        return x * self.weight


def test_how_often_a_hook_is_called_is_unknown_where_a_backward_runs_code_that_its_context_holds():
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, start):
            ctx.start = start
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.start(grad)
            return 2 * grad, None

    x, calls = torch.ones(2, requires_grad=True), []
    x.register_hook(calls.append)
    total = x.sum()
    root = Hidden.apply(x, lambda grad: total.backward()).sum()
    (site,) = fxgrad.capture(root).sites
    root.backward()
    assert (site.times, len(calls)) == (None, 2)


def test_a_backward_that_an_unpack_hook_starts_is_not_foreseen():
    x, calls = torch.ones(2, requires_grad=True), []
    x.register_hook(calls.append)
    total = x.sum()

    def unpack(tensor):
        total.backward(retain_graph=True)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        root = x.exp().sum()
    (site,) = fxgrad.capture(root).sites
    root.backward()
    assert (site.times, len(calls)) == (1, 2)


def test_a_backward_inside_a_non_reentrant_checkpoint_runs_again_and_is_not_foreseen():
    weight, calls = torch.ones(2, requires_grad=True), []

    def inside(x):
        hidden = x * weight
        hidden.sum().backward(retain_graph=True)
        return hidden.exp()

    root = checkpoint(inside, torch.ones(2, requires_grad=True) * 1, use_reentrant=False).sum()
    weight.register_hook(calls.append)
    (site,) = fxgrad.capture(root).sites
    root.backward()
    assert (site.times, len(calls)) == (1, 2)


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def test_how_often_a_checkpoint_attaches_a_non_full_hook_is_not_known():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x):
            return checkpoint(lambda x: self.same(x).tanh(), x * 2, use_reentrant=False)

    model, x, calls = Checkpointed(), torch.ones(2, requires_grad=True), []
    model.same.register_backward_hook(lambda *_: calls.append(1))
    (traced,) = fxgrad.trace(model, x).sites
    root = model(x).sum()
    (captured,) = fxgrad.capture(root, model, node_hooks=True).sites
    root.backward()
    sees_checkpoints = hasattr(torch._C._autograd.SavedTensor, "unpack_hook")
    assert (traced.times, captured.times, len(calls)) == (None, None if sees_checkpoints else 1, 2)


def test_what_a_checkpoint_closes_over_is_seen_by_trace_and_not_by_capture():
    class Closes(nn.Module):
        def forward(self, x, kept):
            shift = kept + 1
            shift.register_hook(calls.append)
            return checkpoint(lambda y: y + shift, x, use_reentrant=True) + shift

    calls = []
    x, kept = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    assert [site.times for site in fxgrad.trace(Closes(), (x, kept)).sites] == [None]
    root = Closes()(x, kept).sum()
    assert [site.times for site in fxgrad.capture(root).sites] == [1]
    root.backward()
    assert len(calls) == 2


@pytest.mark.parametrize("partial", [False, True])
def test_a_full_hook_that_waits_since_an_earlier_backward_fires_in_a_later_one(partial):
    model, seen = WithSide(), []
    model.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output))
    result = model(torch.ones(3, requires_grad=True))
    if partial:
        result.sum().backward(inputs=[model.weight], retain_graph=True)
    root = model.side.sum()
    (site,) = fxgrad.capture(root, model).sites
    root.backward()
    assert len(seen) == partial
    assert site.fires is not True


def test_a_second_backward_calls_hooks_up_to_the_node_whose_tensors_are_gone():
    x, seen = torch.ones(3, requires_grad=True), []
    powers = x.exp()
    powers.register_hook(lambda grad: seen.append("first"))
    x.register_hook(lambda grad: seen.append("second"))
    root = powers.sum()
    predicted = [site.hook.owner for site in fxgrad.capture(root).sites]
    root.backward()
    assert len(predicted) == len(seen) == 2
    with pytest.raises(RuntimeError, match="a second time"):
        root.backward()
    assert seen == ["first", "second", "first"]


def test_a_hook_that_another_registers_during_backward_is_not_foreseen():
    x, seen = torch.ones(3, requires_grad=True), []
    doubled = x * 2
    doubled.register_hook(lambda grad: (x.register_hook(seen.append), None)[1])
    root = doubled.sum()
    assert len(fxgrad.capture(root).sites) == 1
    root.backward()
    assert len(seen) == 1


def test_a_hook_on_a_tensor_that_nobody_holds_is_seen_by_record_and_not_by_capture():
    x, seen = torch.ones(3, requires_grad=True), []

    def forward():
        doubled = x * 2
        doubled.register_hook(seen.append)
        return doubled.sum()

    root = forward()
    assert fxgrad.capture(root).sites == ()
    root.backward()
    assert len(seen) == 1
    with fxgrad.record(nn.Identity()) as recording:
        root = forward()
    assert len(recording.trace(root).sites) == 1


def test_a_hook_on_a_tensor_that_is_held_far_away_is_seen_by_record_and_not_by_capture():
    x, seen = torch.ones(3, requires_grad=True), []

    def forward():
        doubled = x * 2
        doubled.register_hook(seen.append)
        yield doubled.sum()
        yield doubled  # the generator holds it until then

    run = forward()
    root = next(run)
    captured = fxgrad.capture(root)
    assert captured.sites == ()
    assert any("fxgrad.record around forward finds all" in note for note in captured.graph.info.notes)
    with fxgrad.record(nn.Identity()) as recording:
        again = next(forward())
    assert len(recording.trace(again).sites) == 1
    root.backward()
    assert len(seen) == 1


class GivesMore(torch.autograd.Function):
    """Its backward gives a gradient of any shape where none is needed."""

    @staticmethod
    def forward(ctx, x, constant):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, torch.ones(7)


def test_what_a_python_backward_gives_where_none_is_needed_has_a_shape_of_its_own():
    seen = []
    result = GivesMore.apply(torch.ones(3, requires_grad=True), torch.ones(3))
    result.grad_fn.register_hook(lambda grad_input, grad_output: seen.append(grad_input[1].shape))
    (site,) = fxgrad.capture(result, node_hooks=True).sites
    result.sum().backward()
    assert seen == [(7,)]
    assert (site.grad_input[1].status, site.grad_input[1].shape) == ("tensor", None)


class TakesTwice(torch.autograd.Function):
    """Its backward decides by what ``ctx`` holds."""

    @staticmethod
    def forward(ctx, x):
        ctx.wanted = True
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 if ctx.wanted else None


def test_a_context_that_other_code_changes_after_forward_is_taken_as_forward_left_it():
    seen = []
    result = TakesTwice.apply(torch.ones(3, requires_grad=True))
    result.grad_fn.register_hook(lambda grad_input, grad_output: seen.append(grad_input[0]))
    (site,) = fxgrad.capture(result, node_hooks=True).sites
    result.grad_fn.wanted = False
    result.sum().backward()
    assert seen == [None]
    assert site.grad_input[0].status == "tensor"


PARALLEL = """
import os, sys, torch, fxgrad
store = torch.distributed.FileStore(sys.argv[1], 1)
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2), gradient_as_bucket_view=True)
root = model(torch.ones(4, 3)).sum()
print(fxgrad.capture(root, model).sites)
root.backward()
weight, bias = model.module.weight.grad, model.module.bias.grad
print(weight.untyped_storage().data_ptr() == bias.untyped_storage().data_ptr(), flush=True)
os._exit(0)  # the end of the process group waits for a thread, and that thread, now and then, for the GIL
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_hooks_that_swap_tensors_leaves_with_the_other_tensor_are_taken_to_have_stayed():
    """As Module.to does under torch.__future__.set_swap_module_params_on_conversion, and for tensor subclasses."""
    model, called = nn.Linear(3, 3), []
    model.weight.register_hook(lambda grad: called.append("hook"))
    torch.utils.swap_tensors(model.weight, nn.Parameter(torch.ones(3, 3)))
    (site,) = fxgrad.trace(model, torch.ones(2, 3)).sites
    assert (site.hook.owner, site.fires) == ("weight", True)
    model(torch.ones(2, 3)).sum().backward()
    assert called == []
    verification = fxgrad.verify(model, torch.ones(2, 3))
    assert [difference.what for difference in verification.differences] == ["fires"]


def test_the_hooks_of_distributed_data_parallel_are_not_seen(tmp_path):
    done = python("-c", PARALLEL, str(tmp_path / "store"))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert (done.returncode, lines) == (0, ["()", "True"]), done.stderr
