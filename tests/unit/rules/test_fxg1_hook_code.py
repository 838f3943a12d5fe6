"""What the code of a hook does; held against what PyTorch does: FXG109, FXG113 and FXG116."""

import functools
import gc
import re
import weakref

import pytest
import torch
from ruled_programs import found, show, tensor, texts
from torch import nn

import fxgrad
from fxgrad.rules import explain

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch warns of much that is done here

# FXG109: what a hook that returns something changes, held against what it changes in a real backward


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
        self.register = None

    def forward(self, x):
        hidden = self.second(self.first(x))
        if self.register is not None:
            self.register(hidden)
        return self.third(hidden).tanh()


def doubled(grads):
    return tuple(None if grad is None else grad * 2 for grad in grads)


def non_full(model):
    model.second.register_backward_hook(lambda module, grad_input, grad_output: doubled(grad_input))


def full(model):
    model.second.register_full_backward_hook(lambda module, grad_input, grad_output: doubled(grad_input))


def full_on_the_first(model):
    model.first.register_full_backward_hook(lambda module, grad_input, grad_output: doubled(grad_input))


def full_pre(model):
    model.second.register_full_backward_pre_hook(lambda module, grad_output: doubled(grad_output))


def on_a_parameter(model):
    model.second.weight.register_hook(lambda grad: grad * 2)


def on_a_tensor(model):
    model.register = lambda hidden: hidden.register_hook(lambda grad: grad * 2)


def on_a_node(model):
    model.register = lambda hidden: hidden.grad_fn.register_hook(lambda grad_input, grad_output: doubled(grad_input))


def before_a_node(model):
    model.register = lambda hidden: hidden.grad_fn.register_prehook(doubled)


def made(register, *, hooked=True):
    torch.manual_seed(0)
    model = Stack()
    if hooked:
        register(model)
    return model


def gradients(register, *, hooked):
    model, x = made(register, hooked=hooked), torch.ones(2, 3, requires_grad=True)
    model(x).sum().backward()
    return {"x": x.grad} | {name: parameter.grad for name, parameter in model.named_parameters()}


def finding(register):
    graph = fxgrad.trace(made(register), torch.ones(2, 3, requires_grad=True)).graph
    (told,) = [told for told in explain(graph) if told.code == "FXG109"]
    return told


@pytest.mark.parametrize(
    "register",
    [non_full, full, full_on_the_first, full_pre, on_a_parameter, on_a_tensor, on_a_node, before_a_node],
)
def test_the_leaves_named_are_exactly_those_whose_gradients_change(register):
    before, after = gradients(register, hooked=False), gradients(register, hooked=True)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    (sentence,) = re.findall(r"That changes \.grad of (.*?), and of no other leaf\.", finding(register).because)
    assert set(re.findall(r"`([^`]+)`", sentence)) == changed != set()


def test_a_hook_that_may_return_is_told_with_what_it_replaces_and_what_it_must_return():
    told = finding(full)
    assert told.severity == "info"
    assert told.headline.endswith(" may return something other than None")
    assert told.because == (
        "What it returns replaces grad_input at BackwardHookFunctionBackward_1. That changes .grad of `first.bias`, "
        "`x` and `first.weight`, and of no other leaf. fxgrad's predictions for this graph assume that it returns "
        "None."
    )
    assert told.fix == "return None, or a tuple of 1 entry in place of grad_input: ((2, 3),)"


@pytest.mark.parametrize(
    ("register", "replaced"),
    [
        (non_full, "grad_input"),
        (full, "grad_input"),
        (on_a_node, "grad_input"),
        (full_pre, "grad_output"),
        (before_a_node, "grad_output"),
        (on_a_tensor, "the gradient"),
    ],
)
def test_what_is_replaced_is_what_the_kind_of_hook_replaces(register, replaced):
    assert f"replaces {replaced} at " in finding(register).because


def test_a_full_hook_without_an_input_that_requires_grad_can_change_nothing():
    model = made(full_on_the_first)
    graph = fxgrad.trace(model, torch.ones(2, 3)).graph
    (told,) = [told for told in explain(graph) if told.code == "FXG109"]
    assert "No leaf gets its gradient from there, so no .grad changes." in told.because
    assert told.fix == (
        "return None, or a tuple of 1 entry in place of grad_input: (None,) (with None where an entry is None)"
    )
    model.first._backward_hooks.clear()
    model.first.register_full_backward_hook(lambda module, grad_input, grad_output: (torch.ones(2, 3),))
    with pytest.raises(RuntimeError, match="no input requires gradient should always return None"):
        model(torch.ones(2, 3)).sum().backward()


def test_leaves_behind_a_reentrant_checkpoint_are_not_counted():
    from torch.utils.checkpoint import checkpoint

    model = made(full_pre)
    model.second.register_forward_pre_hook(lambda module, args: (checkpoint(model.third, *args, use_reentrant=True),))
    graph = fxgrad.trace(model, torch.ones(2, 3, requires_grad=True)).graph
    (told,) = [told for told in explain(graph) if told.code == "FXG109"]
    assert "what a nested backward behind it uses." in told.because


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
        "which adds to .grad, runs later. So it sees .grad from before this backward: None at first. "
        "(torch/csrc/autograd/functions/accumulate_grad.cpp)"
    )
    assert told.fix == ("register_post_accumulate_grad_hook on `inner.weight`, which is called when .grad is ready")


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


def held_by_a_parameter(model, held, output, held_loss, loss):
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


LONG = [on_the_module, held_by_a_parameter, on_a_parameter_when_accumulated]
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
        "`partial(show)` keeps a graph alive through `argument 0 of partial`",
        "Its function refers to `argument 0 of partial`, and so to a graph and its saved tensors. The hook is on the "
        "model, which lives on, so the graph does too, until the handle is removed. (torch/utils/hooks.py)",
        "hold `argument 0 of partial` detached, or only what the hook needs; or remove the handle after backward",
    ]


def test_a_hook_in_a_circle_is_told_with_its_node():
    (told,) = lives_on(on_its_node)[1]
    headline, because, fix = texts(told)
    assert headline.endswith(" keeps its own graph alive through `held_loss`")
    assert because == (
        "Its function refers to `held_loss`, whose graph has the node that the hook is on, AddmmBackward0_0. That "
        "node holds the hook in C++, where the garbage collector does not see the reference cycle: the graph is "
        "not freed before the handle is removed. (torch/csrc/autograd/python_hook.cpp)"
    )
    assert fix == "hold `held_loss` detached, or only what the hook needs; or remove the handle after backward"


def test_a_list_of_tensors_is_no_warning_as_it_may_be_emptied():
    model, kept = nn.Linear(3, 3), []
    model.register_forward_hook(lambda module, args, output: kept.append(output))
    model.register_full_backward_hook(lambda module, grad_input, grad_output: print(len(kept)))
    (told,) = found(model, "FXG116")
    assert told.severity == "info"
    assert ", until the handle is removed, or what it holds is emptied." in told.because
