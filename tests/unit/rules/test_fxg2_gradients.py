"""Parameters without a gradient: FXG201, FXG202 and FXG204."""

import re
import textwrap

import pytest
import torch
from lost_programs import (
    LOSSES,
    Program,
    data,
    detached,
    dropped,
    found,
    integers,
    item,
    no_grad,
    told_names,
    unused,
    without_derivative,
    without_grad,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.rules.fxg2_gradients import describe_lost_gradient, find_lost_gradients
from tests.support.targets import python

# Which parameters: held against what a real backward leaves in .grad


@pytest.mark.parametrize("forward", LOSSES)
def test_the_parameters_named_are_exactly_those_that_backward_leaves_without_a_gradient(forward):
    assert told_names(found(forward, "FXG201", "FXG204")) == without_grad(forward) != set()


def in_the_graph(model, x):
    buffer = torch.zeros(2, 3)
    buffer[0] = model.b(x)[0]
    return model.a(x) + buffer + model.c(x)


def detached_and_used(model, x):
    hidden = model.b(x)
    return model.a(x) * hidden.detach().sum().item() + hidden + model.c(x)


def watched(model, x):
    with torch.no_grad():
        print(end=f"{model.b(x).mean().item()}"[:0])
    return model.a(x) + model.b(x) + model.c(x)


@pytest.mark.parametrize("forward", [in_the_graph, detached_and_used, watched])
def test_a_parameter_that_gets_a_gradient_by_one_way_is_no_finding(forward):
    assert without_grad(forward) == set()
    assert found(forward, "FXG201", "FXG204") == []


def test_a_parameter_that_only_an_output_beside_the_loss_depends_on_is_told():
    def forward(model, x):
        return model.a(x) + model.c(x), model.b(x)

    (told,) = found(forward, "FXG201", loss=lambda result: result[0].sum())
    assert told_names([told]) == without_grad(forward, lambda result: result[0]) == {"b.weight", "b.bias"}
    assert told.because == (
        "An output of forward depends on them but gets no gradient from the roots: the result "
        "of the loss function <lambda>. Backward leaves .grad unchanged: None at first. "
        "(torch/csrc/autograd/functions/utils.h, compute_requires_grad)"
    )


def test_an_output_that_the_loss_detaches_is_told_likewise():
    def forward(model, x):
        return model.a(x) + model.c(x), model.b(x)

    (told,) = found(forward, "FXG201", loss=lambda result: result[0].sum() * result[1].detach().sum())
    assert (
        told.headline
        == "no gradient reaches `b.weight` and `b.bias`: no gradient reaches the output that depends on it"
    )


def test_distributed_data_parallel_raises_where_a_parameter_is_not_used_as_the_page_says():
    program = """
    import os, tempfile, torch
    from torch import nn
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 1), nn.Linear(3, 1)
        def forward(self, x):
            return self.one(x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
    models = []
    for unused in (False, True):
        model = nn.parallel.DistributedDataParallel(Heads(), find_unused_parameters=unused)
        models.append(model)
        try:
            for _ in range(2):
                model(torch.ones(4, 3)).sum().backward()
            print("fine", flush=True)
        except RuntimeError as error:
            print(str(error)[:53], flush=True)
    os._exit(0)  # the end of a model's process group waits for a thread, and that thread, now and then, for the GIL
    """
    done = python("-W", "ignore", "-c", textwrap.dedent(program))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert lines == ["Expected to have finished reduction in the prior iter", "fine"], done.stderr


# What is said of them, and what helps


def headline_because_fix(forward):
    (told,) = found(forward, "FXG201")
    line = "tests/support/lost_programs.py:"
    return [re.sub(rf"{line}\d+", "HERE", text) for text in (told.headline, told.because, told.fix)]


NAMES = "no gradient reaches `b.weight` and `b.bias`: "
LEAVES = (
    "Backward leaves .grad unchanged: None at first. (torch/csrc/autograd/functions/utils.h, compute_requires_grad)"
)
STOPS = "Forward uses them, but what it computes from them stops requiring grad on the way to the output."
FREEZE = "or freeze them with requires_grad_(False) if they should not be trained"


@pytest.mark.parametrize(
    ("forward", "short", "because", "fix"),
    [
        (
            detached,
            "`detach` at HERE cuts it off",
            f"{STOPS} At HERE, `return model.a(x) + model.b(x).detach() + model.c(x)`, the result of `detach` does not "
            "require grad.",
            "remove `detach` there",
        ),
        (
            data,
            "`.data` at HERE cuts it off",
            f"{STOPS} At HERE, `return model.a(x) + model.b(x).data + model.c(x)`, the result of `.data` does not "
            "require grad.",
            "remove `.data` there",
        ),
        (
            no_grad,
            "`b` is called with gradients disabled at HERE",
            "At HERE, `offset = model.b(x)`, `b` is called with gradients disabled (no_grad, inference_mode or "
            "set_grad_enabled(False)), so what is computed from them there requires no grad.",
            "make that call with gradients enabled",
        ),
        (
            integers,
            "`argmax` at HERE returns int64",
            f"{STOPS} At HERE, `return model.a(x) + model.b(x).argmax(-1, keepdim=True) + model.c(x)`, `argmax` "
            "returns int64, which cannot require grad.",
            "use the floating point values that `argmax` got",
        ),
        (
            item,
            "the value leaves torch at HERE",
            (
                "At HERE, `return model.a(x) * model.b(x).sum().item() + model.c(x)`, `item` passes its value to "
                "Python, where autograd does not follow. No recorded operation leads from there to the output."
            ),
            "use the tensor, without `item`",
        ),
        (
            dropped,
            "autograd sees no path to the output",
            (
                "At HERE, `model.b(x)`, `linear` is the last recorded operation on it. No recorded operation leads "
                "from there to the output."
            ),
            "use the result in the output",
        ),
    ],
)
def test_a_lost_gradient_is_told_with_its_line_and_what_to_change(forward, short, because, fix):
    assert headline_because_fix(forward) == [NAMES + short, f"{because} {LEAVES}", f"{fix}, {FREEZE}"]


def test_parameters_that_are_lost_on_one_line_are_told_together():
    def each_without_grad(model, x):
        hidden = model.a(x)
        with torch.no_grad():
            for linear in (model.b, model.c):
                hidden = hidden + linear(x)
        return model.a(hidden)

    (told,) = found(each_without_grad, "FXG201")
    assert told_names([told]) == without_grad(each_without_grad) == {"b.weight", "b.bias", "c.weight", "c.bias"}


def test_an_operation_that_has_no_derivative_by_an_argument_is_named():
    headline, because, fix = headline_because_fix(without_derivative)
    assert headline == f"{NAMES}`_flat_vmap` at HERE passes no gradient back"
    assert because == (
        "At HERE, `return added(model.a(x) + model.c(x), model.b(x))`, `_flat_vmap` uses them and returns no "
        f"gradient for them. {LEAVES}"
    )
    assert fix == f"replace `_flat_vmap` with an operation that is differentiable in this argument, {FREEZE}"


def test_the_finding_points_to_the_line_that_cuts():
    (told,) = found(detached, "FXG201")
    assert told.source is not None
    assert (told.owner, told.source.code) == ("b.weight", "return model.a(x) + model.b(x).detach() + model.c(x)")


def test_unused_parameters_are_listed_with_the_modules_that_never_ran():
    (told,) = found(unused, "FXG204")
    assert (told.severity, told.headline) == (
        "warning",
        "autograd sees no use of `b.weight` and `b.bias`: `b` is never called",
    )
    assert told.because == (
        "`b` is never called. No recorded operation uses them, so backward leaves .grad unchanged: None at first. "
        "DistributedDataParallel waits for the gradient of every parameter, and raises `Expected to have finished "
        "reduction in the prior iteration` in the next forward. (torch/nn/parallel/distributed.py)"
    )
    assert told.fix == f"use them, {FREEZE}; with DistributedDataParallel, pass find_unused_parameters=True"


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, module):
        return x + module.weight[0]

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def test_a_parameter_that_is_used_out_of_autograds_sight_is_not_said_to_be_unused():
    def forward(model, x):
        return Hidden.apply(model.a(x), model.b) + model.c(x)

    (told,) = found(forward, "FXG201", "FXG204")
    assert told.headline == "autograd sees no use of `b.weight` and `b.bias`: `b` is never called"
    assert told_names([told]) == without_grad(forward)


def test_frozen_parameters_are_told_once_and_are_no_warning():
    model = Program(unused)
    model.b.requires_grad_(False)
    (told,) = found(unused, "FXG201", "FXG204", model=model)
    assert (told.severity, told.headline) == ("info", "2 parameters are frozen")
    assert told.because == (
        "requires_grad is False for `b.weight` and `b.bias`: backward leaves .grad unchanged: None at first."
    )
    assert told.fix == "call requires_grad_(True) on them to train them"


def freezing(model):
    model.b.requires_grad_(False)
    return model


@pytest.mark.parametrize("forward", [detached, no_grad, integers, item, dropped, unused])
def test_freezing_what_is_not_to_be_trained_takes_the_warning_away(forward):
    told = found(forward, "FXG201", "FXG204", model=freezing(Program(forward)))
    assert [each.severity for each in told] == ["info"]


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * self.scale


def test_a_computed_tensor_in_the_place_of_a_parameter_is_told():
    model = Scaled(torch.ones(3, requires_grad=True) * 0.5)
    (told,) = found(None, "FXG201", model=model)
    model(torch.ones(2, 3)).sum().backward()
    with pytest.warns(UserWarning, match="The .grad attribute of a Tensor that is not a leaf Tensor is being accessed"):
        assert model.scale.grad is None
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        torch.optim.SGD([model.scale], lr=1)
    assert (told.severity, told.owner) == ("warning", "scale")
    assert told.headline.startswith("`scale` is not a leaf: its .grad stays None; through MulBackward0_")
    assert told.because == (
        "`scale` was computed before forward from tensors that require grad, by MulBackward0_1. Backward stores gradients only in "
        "leaves, and optimizers refuse other tensors. (torch/_tensor.py, Tensor.is_leaf)"
    )
    assert told.fix == (
        "compute it in forward, each time anew; or make it a leaf: `scale = scale.detach().requires_grad_()`, or an "
        "nn.Parameter; or call `scale`.retain_grad() before backward"
    )


def test_a_tensor_that_was_computed_from_several_has_no_one_leaf_that_gets_its_gradient():
    a, b = (torch.ones(3, requires_grad=True) for _ in range(2))
    (told,) = found(None, "FXG201", model=Scaled(a * b))
    assert told.headline == "`scale` is not a leaf: its .grad stays None"


@pytest.mark.parametrize(
    "mend",
    [
        lambda scale: scale.detach().requires_grad_(),
        nn.Parameter,
        lambda scale: scale.retain_grad() or scale,
    ],
)
def test_what_is_advised_for_a_computed_tensor_takes_the_finding_away(mend):
    scale = torch.ones(3, requires_grad=True) * 0.5
    assert found(None, "FXG201", model=Scaled(mend(scale))) == []


def test_an_input_that_is_no_leaf_is_no_warning():
    x = torch.ones(2, 3, requires_grad=True) * 1
    findings = [told for told in fxgrad.trace(nn.Linear(3, 2), x).explain().findings if told.code == "FXG201"]
    assert [(told.severity, told.owner) for told in findings] == [("info", "input")]


class Nested(nn.Module):
    """A parameter that is used nowhere, or only inside of what a node runs again in backward."""

    def __init__(self, way, *, used):
        super().__init__()
        self.inside, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.way, self.hidden = way, self.inside if used else nn.Linear(4, 4)

    def forward(self, x):
        return self.way(self, x)


def reentrant(model, x):
    return checkpoint(model.hidden, x, use_reentrant=True)


def reentrant_beside_a_detached_one(model, x):
    return reentrant(model, x) + model.other(x).detach()


def of_a_function(model, x):
    return Again.apply(x, model.hidden)


class Again(torch.autograd.Function):
    """Runs a module without gradients, and again, with them, in its backward."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            ctx.module(x).backward(grad)
        return x.grad, None


@pytest.mark.parametrize(
    ("way", "used", "expected"),
    [
        (reentrant, True, "only backward decides: a reentrant checkpoint runs `inside` again then"),
        (reentrant, False, "autograd sees no use of it: `other` is never called"),
        (
            reentrant_beside_a_detached_one,
            False,
            "no root depends on it, outside of what a reentrant checkpoint runs again in backward",
        ),
        (of_a_function, True, "only backward decides: AgainBackward_0 may run `inside` again then"),
        (
            of_a_function,
            False,
            "no root depends on it, outside of what AgainBackward_0 may run in a nested backward",
        ),
    ],
)
def test_of_a_parameter_that_a_backward_inside_of_backward_may_use_only_backward_decides(way, used, expected):
    graph = fxgrad.trace(Nested(way, used=used), torch.ones(2, 4, requires_grad=True)).graph
    lost = {each.parameter.name: describe_lost_gradient(graph, each) for each in find_lost_gradients(graph)}
    assert lost["inside.weight" if used else "other.weight"] == expected


# FXG202: where the way to the parameters is cut, so that nothing requires grad


def refusal(forward, loss=None, model=None):
    with pytest.raises(TargetError) as raised:
        fxgrad.trace(model or Program(forward), torch.ones(2, 3), loss=loss)
    return re.sub(r"tests/unit/rules/test_fxg2_gradients.py:\d+", "HERE", str(raised.value)).splitlines()


def accuracy(output):
    return (output > 0).float().mean()


def test_the_cut_nearest_to_the_loss_is_named_where_nothing_requires_grad():
    assert refusal(unused, accuracy) == [
        "nothing in the result of the loss function accuracy requires grad (result: does not require grad). At HERE, "
        "`return (output > 0).float().mean()`, `gt` returns bool, which cannot require grad. (FXG202)",
        "  allowed: at least one tensor that requires grad, in nested tuples, lists, dicts or dataclasses",
        "  try: use the floating point values that `gt` got",
    ]


def test_what_was_taken_out_of_torch_on_the_way_to_the_loss_is_named():
    def number(output):
        return torch.tensor(output.sum().item())

    given, _, advice = refusal(unused, number)
    assert given.endswith(
        "At HERE, `return torch.tensor(output.sum().item())`, `item` passes its value to Python, where autograd "
        "does not follow. (FXG202)"
    )
    assert advice == "  try: use the tensor, without `item`"


def test_a_forward_without_gradients_is_named_by_its_last_operation_with_a_parameter():
    with torch.no_grad():
        given, _, _ = refusal(unused)
    assert "`linear` runs with gradients disabled (no_grad, inference_mode or set_grad_enabled(False))." in given


def test_a_frozen_model_has_no_cut():
    given, _, advice = refusal(unused, model=Program(unused).requires_grad_(False))
    assert given.endswith(
        "Forward uses nothing that requires grad to compute its output: the 4 parameters it uses are frozen. (FXG202)"
    )
    assert advice == "  try: make a parameter that forward uses, or an input, require grad"


def test_what_forward_makes_without_a_parameter_is_no_parameter():
    def forward(model, x):
        return model.a(x) + torch.ones(3)

    given, _, _ = refusal(forward, model=Program(forward).requires_grad_(False))
    assert given.endswith("the 2 parameters it uses are frozen. (FXG202)")


def test_a_loss_of_ones_own_program_is_explained_as_well():
    model = Program(unused)
    with fxgrad.record(model) as recording:
        loss = model(torch.ones(2, 3)).sum().detach()
    with pytest.raises(TargetError, match=r"the result of `detach` does not require grad. \(FXG202\)"):
        recording.trace(loss)


def test_the_models_state_is_put_back_where_nothing_requires_grad():
    model = nn.BatchNorm1d(3).requires_grad_(False)
    with pytest.raises(TargetError):
        fxgrad.trace(model, torch.ones(2, 3))
    assert int(model.num_batches_tracked) == 0


def test_of_a_loss_that_was_not_recorded_nothing_is_said_about_forward():
    model = nn.Linear(3, 1)
    with fxgrad.record(model) as recording, torch.no_grad():
        output = model(torch.ones(2, 3))
    with pytest.raises(TargetError) as caught:
        recording.trace(output.sum())
    assert "No recorded operation computes it." in str(caught.value)
    assert "compute the loss inside of it" in str(caught.value)


class CallsTwoOfThree(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.cut, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x) + self.cut(x).detach()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_of_modules_inside_a_script_it_is_not_said_that_they_are_never_called():
    report = str(fxgrad.trace(torch.jit.script(CallsTwoOfThree()), torch.ones(2, 3)).report())
    assert "`cut.weight`" in report
    assert "`unused.weight`" in report
    assert "never called" not in report
    assert "1 of 4 modules called, 3 inside of TorchScript, which calls them unseen" in report
