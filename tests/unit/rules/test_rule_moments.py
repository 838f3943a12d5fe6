"""FXG112, FXG113, FXG115, FXG116: when a hook is called, for what, and how long it lives; held against PyTorch."""

import functools
import gc
import re
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.rules import explain

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of full hooks on modules whose inputs require no grad
HERE = r"tests/unit/rules/test_rule_moments.py:\d+"


def show(*given):
    return None


class Program(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def tensor(*, grad=True):
    return torch.ones(2, 3, requires_grad=grad)


def found(model, code, x=None):
    graph = fxgrad.trace(model, tensor() if x is None else x).graph
    return [told for told in explain(graph) if told.code == code]


def texts(told):
    return [re.sub(HERE, "HERE", text) for text in (told.headline, told.because, told.fix)]


# FXG112


def program_112(change, *, after=False, view=False):
    """A tensor hook and a change; the result is three times the tensor. Returns the gradients that the hook gets too."""
    seen = []

    def forward(model, x):
        hidden = model.linear(x)
        hooked = hidden[:1] if view else hidden
        if after:
            change(hooked, hidden)
        hooked.register_hook(lambda grad: seen.append(grad[0, 0].item()) or None)
        if not after:
            change(hooked, hidden)
        return hidden * 3

    return Program(forward), seen


def multiply(hooked, hidden):
    hooked.mul_(2)


def assign(hooked, hidden):
    hooked[0] = 0


def change_a_view(hooked, hidden):
    hidden[:1].mul_(2)


def change_nothing(hooked, hidden):
    hooked.mul(2)


def change_unseen_by_autograd(hooked, hidden):
    with torch.no_grad():
        hooked.mul_(2)
    hooked.detach().mul_(2)


@pytest.mark.parametrize(("change", "gradient"), [(multiply, 6), (assign, 0), (change_a_view, 6)])
def test_a_hook_gets_the_gradient_of_the_old_value_where_told(change, gradient):
    model, seen = program_112(change)
    (told,) = found(model, "FXG112")
    model(tensor()).sum().backward()
    assert (seen, told.site.fires) == ([gradient], True)


def test_a_hook_on_a_view_is_never_called_where_told():
    model, seen = program_112(multiply, view=True)
    (told,) = found(model, "FXG112")
    model(tensor()).sum().backward()
    assert (seen, told.site.fires) == ([], False)


@pytest.mark.parametrize("view", [False, True])
def test_registering_after_the_change_takes_the_finding_away_and_gives_the_gradient_of_the_new_value(view):
    model, seen = program_112(multiply, after=True)
    assert found(model, "FXG112") == []
    model(tensor()).sum().backward()
    assert seen == [3]


@pytest.mark.parametrize("change", [change_nothing, change_unseen_by_autograd])
def test_what_leaves_the_grad_fn_as_it_is_is_no_finding(change):
    model, seen = program_112(change)
    assert found(model, "FXG112") == []
    model(tensor()).sum().backward()
    assert seen == [3]


def test_a_hook_that_gets_an_old_gradient_is_told_with_the_change_and_its_node():
    def forward(model, x):
        hidden = model.linear(x)
        hidden.register_hook(show)
        return hidden.relu_()

    (told,) = found(Program(forward), "FXG112")
    assert told.severity == "warning"
    assert texts(told) == [
        "`show` gets the gradient of what its tensor was before `relu_` in place",
        "At HERE, `return hidden.relu_()`, `relu_` changes the tensor, or one that shares its memory, after the hook was "
        "registered, and the tensor gets a new grad_fn. The hook stays on AddmmBackward0_0, and sees the gradient there, "
        "before the change. (torch/csrc/autograd/variable.cpp, rebase_history)",
        "register it after `relu_`, or use an operation that is not in place there",
    ]


def test_a_hook_that_stays_on_a_dead_node_is_told():
    def forward(model, x):
        hidden = model.linear(x)
        view = hidden[:1]
        view.register_hook(show)
        view.relu_()
        return hidden * 2

    (told,) = found(Program(forward), "FXG112")
    assert texts(told) == [
        "`show` stays on the node that its tensor had before `relu_` in place",
        "At HERE, `view.relu_()`, `relu_` changes the tensor, or one that shares its memory, after the hook was "
        "registered, and the tensor gets a new grad_fn. The hook stays on the node that it was on, which backward does "
        "not run. (torch/csrc/autograd/variable.cpp, rebase_history)",
        "register it after `relu_`, or use an operation that is not in place there",
    ]


# FXG113


class Reader:
    """Notes whether .grad was there. The reads are plain to see in the code of the hooks."""

    def __init__(self):
        self.missing = []

    def weight(self, module, grad_input, grad_output):
        self.missing.append(module.weight.grad is None)

    def each(self, module, grad_input, grad_output):
        for parameter in module.parameters():
            self.missing.append(parameter.grad is None)


MODULES = {
    "linear": lambda: nn.Linear(3, 3),
    "layer norm": lambda: nn.LayerNorm(3),
    "batch norm": lambda: nn.BatchNorm1d(3),
    "linear without bias": lambda: nn.Linear(3, 3, bias=False),
}


class Around(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, x):
        return self.inner(x) * 2


@pytest.mark.parametrize("hook", ["weight", "each"])
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_backward_hook"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("make", MODULES)
def test_a_parameters_grad_is_missing_in_a_module_hook_exactly_where_told(make, grad, kind, hook):
    model, reader = Around(MODULES[make]()), Reader()
    getattr(model.inner, kind)(getattr(reader, hook))
    told = found(model, "FXG113", tensor(grad=grad))
    model(tensor(grad=grad)).sum().backward()
    assert bool(told) == any(reader.missing)
    if told and hook == "each":
        assert len(re.findall(r"`inner\.\w+`", told[0].headline)) == sum(reader.missing)


def test_a_read_before_backward_adds_is_told_with_both_nodes():
    model = Around(nn.Linear(3, 3))

    def hook(module, grad_input, grad_output):
        print(module.weight.grad)

    model.inner.register_full_backward_hook(hook)
    (told,) = found(model, "FXG113", tensor(grad=False))
    assert told.severity == "warning"
    assert told.headline.endswith("hook` reads .grad of `inner.weight` before backward adds to it")
    assert told.because == (
        "Its code reads `module.weight.grad`. The hook is called at BackwardHookFunctionBackward_0; AccumulateGrad_1, "
        "which adds into .grad, runs later. So it sees what was there before this backward: None at first. "
        "(torch/csrc/autograd/functions/accumulate_grad.cpp)"
    )
    assert told.fix == ("register_post_accumulate_grad_hook on `inner.weight`, which is called when .grad is there")


def test_the_hook_that_is_advised_finds_the_gradient():
    model, seen = Around(nn.Linear(3, 3)), []
    model.inner.weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad is None))
    assert found(model, "FXG113", tensor(grad=False)) == []
    model(tensor(grad=False)).sum().backward()
    assert seen == [False]


def test_a_hook_that_reads_no_grad_is_no_finding():
    model = Around(nn.Linear(3, 3))
    model.inner.register_full_backward_hook(lambda module, grad_input, grad_output: print(module.weight.shape))
    assert found(model, "FXG113", tensor(grad=False)) == []


# FXG115


def checkpointed(*, reentrant):
    def forward(model, x):
        for _ in range(2):
            x = checkpoint(model.linear, x, use_reentrant=reentrant)
        return x

    return Program(forward)


def test_without_reentrance_a_hook_fires_once_a_call_though_the_module_runs_twice():
    model, runs, fired = checkpointed(reentrant=False), [], []
    model.linear.register_forward_pre_hook(lambda *given: runs.append(1))
    model.linear.register_full_backward_hook(lambda *given: fired.append(1))
    model(tensor()).sum().backward()
    assert (len(runs), len(fired)) == (4, 2)


def test_a_hook_in_a_checkpoint_is_told():
    model = checkpointed(reentrant=False)
    model.linear.register_full_backward_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "info"
    assert texts(told) == [
        "`linear` runs twice, and `show` is called for the first run",
        "A checkpoint runs `linear` again in backward, with the hooks of its forward, until it has what it did not save. "
        "The second run puts the hook on nodes that backward never runs. (torch/utils/checkpoint.py)",
        "nothing, if it counts no runs of forward: do not count in forward hooks",
    ]


def test_in_a_reentrant_checkpoint_a_hook_is_called_inside_a_backward_of_its_own():
    model, depth = checkpointed(reentrant=True), []
    model.linear.register_full_backward_hook(
        lambda *given: depth.append(torch._C._current_graph_task_id())  # of the backward that runs
    )
    result = model(tensor()).sum()
    result.register_hook(lambda grad: depth.append(torch._C._current_graph_task_id()))
    result.backward()
    outermost, *inner = depth
    assert len({outermost, *inner}) == 3


def test_a_hook_in_a_reentrant_checkpoint_is_a_warning_that_the_advice_takes_away():
    model = checkpointed(reentrant=True)
    model.linear.register_full_backward_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "warning"
    assert texts(told) == [
        "`show` is attached only when backward runs the checkpoint again",
        "A reentrant checkpoint runs `linear` without gradients in forward: the hook finds no node. Backward runs it "
        "again, with gradients; the hook is put on the nodes of that run, and called in a backward inside of backward. "
        "(torch/utils/checkpoint.py)",
        "checkpoint(..., use_reentrant=False), where the hook is on the nodes of the forward",
    ]
    mended = checkpointed(reentrant=False)
    mended.linear.register_full_backward_hook(show)
    assert [told.severity for told in found(mended, "FXG115")] == ["info"]


@pytest.mark.parametrize(("reentrant", "times"), [(True, 2), (False, 1)])
def test_a_parameters_hook_is_called_once_for_each_reentrant_checkpoint(reentrant, times):
    model, fired = checkpointed(reentrant=reentrant), []
    model.linear.weight.register_hook(lambda grad: fired.append(1))
    told = found(model, "FXG115")
    model(tensor()).sum().backward()
    assert (len(fired), bool(told)) == (times, reentrant)


def test_a_parameters_hook_under_a_reentrant_checkpoint_is_told():
    model = checkpointed(reentrant=True)
    model.linear.weight.register_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "info"
    assert texts(told) == [
        "`show` is called once more for each reentrant checkpoint that uses its tensor",
        "CheckpointFunctionBackward_0 and _1 runs a backward of its own for what it recomputes. It adds into .grad of "
        "`linear.weight` if it uses that, and calls the hook with its part of the gradient. (torch/utils/checkpoint.py)",
        "checkpoint(..., use_reentrant=False), with which the hook is called once, with the sum",
    ]


# FXG116


class Token:
    """Something that a graph keeps alive."""


def lives_on(register, *, mend=False):
    """Whether a graph lives on when nothing but a hook refers to it; and what is told of it meanwhile."""
    model, token = nn.Linear(3, 3), Token()
    output = model(tensor())
    output.grad_fn.metadata["token"] = token
    loss = output * 2
    register(model, output.detach() if mend else output, output, loss.detach() if mend else loss, loss)
    told = [each for each in explain(fxgrad.capture(loss.sum(), model, node_hooks=True).graph) if each.code == "FXG116"]
    reference = weakref.ref(token)
    del token, output, loss
    gc.collect()
    return reference() is not None, told, model


def on_the_module(model, held, output, held_loss, loss):
    model.register_full_backward_hook(functools.partial(show, held))


def on_a_parameter(model, held, output, held_loss, loss):
    def hook(grad):
        print(held)

    model.weight.register_hook(hook)


def on_a_parameter_when_accumulated(model, held, output, held_loss, loss):
    def hook(parameter, held=held):
        print(held)

    model.weight.register_post_accumulate_grad_hook(hook)


def on_itself(model, held, output, held_loss, loss):
    output.register_hook(lambda grad: print(held))


def on_what_it_is_made_of(model, held, output, held_loss, loss):
    output.register_hook(lambda grad: print(held_loss))


def on_its_node(model, held, output, held_loss, loss):
    output.grad_fn.register_hook(lambda grad_input, grad_output: print(held_loss))


def on_what_is_made_of_it(model, held, output, held_loss, loss):
    loss.register_hook(lambda grad: print(held))


LONG = [on_the_module, on_a_parameter, on_a_parameter_when_accumulated]
CIRCLES = [on_itself, on_what_it_is_made_of, on_its_node]


@pytest.mark.parametrize("register", [*LONG, *CIRCLES])
def test_a_graph_that_a_hook_keeps_alive_is_told(register):
    alive, told, _ = lives_on(register)
    assert alive
    assert [each.severity for each in told] == ["warning"]


@pytest.mark.parametrize("register", [*LONG, *CIRCLES])
def test_holding_a_detached_tensor_frees_the_graph_and_takes_the_finding_away(register):
    alive, told, _ = lives_on(register, mend=True)
    assert (alive, told) == (False, [])


def test_a_hook_that_holds_what_is_behind_its_tensor_keeps_nothing_alive():
    alive, told, _ = lives_on(on_what_is_made_of_it)
    assert (alive, told) == (False, [])


def test_a_hook_on_a_module_that_holds_a_graph_is_told_with_what_it_holds():
    (told,) = lives_on(on_the_module)[1]
    assert texts(told) == [
        "`partial(show)` keeps a graph alive by `argument 0 of partial`",
        "Its function refers to `argument 0 of partial`, with a graph and its saved tensors behind. The hook is on the "
        "model, which lives on: so does the graph, until the handle is removed. (torch/utils/hooks.py)",
        "let the function hold `argument 0 of partial` detached, or what it needs of it; or remove the handle after "
        "backward",
    ]


def test_a_hook_in_a_circle_is_told_with_its_node():
    (told,) = lives_on(on_its_node)[1]
    headline, because, fix = texts(told)
    assert headline.endswith(" keeps its own graph alive by `held_loss`")
    assert because == (
        "Its function refers to `held_loss`, whose graph has the node that the hook is on, AddmmBackward0_0. The node "
        "holds the hook, in C++: no garbage collector sees this circle, and the graph is not freed before the handle is "
        "removed. (torch/csrc/autograd/python_hook.cpp)"
    )
    assert (
        fix == "let the function hold `held_loss` detached, or what it needs of it; or remove the handle after backward"
    )


def test_a_list_of_tensors_is_no_warning_as_it_may_be_emptied():
    model, kept = nn.Linear(3, 3), []
    model.register_forward_hook(lambda module, args, output: kept.append(output))
    model.register_full_backward_hook(lambda module, grad_input, grad_output: print(len(kept)))
    (told,) = found(model, "FXG116")
    assert told.severity == "info"
    assert ", until the handle is removed, or what it holds is emptied." in told.because
