"""FXG203: what a node saved is changed in place; held against whether a real backward raises."""

import re
from contextlib import nullcontext

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.rules import explain, explain_error
from fxgrad.verification import compare
from tests.support.needs import needs_saved_tensors


class Program(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.run = forward

    def forward(self, x):
        return self.run(self.linear(x), x)


def found(forward):
    graph = fxgrad.trace(Program(forward), torch.ones(2, 3, requires_grad=True)).graph
    return [told for told in explain(graph) if told.code == "FXG203"]


def raises(forward):
    result = Program(forward)(torch.ones(2, 3, requires_grad=True))
    try:
        result.sum().backward()
    except RuntimeError as error:
        return "has been modified by an inplace operation" in str(error)
    return False


def result_changed(hidden, x):
    made = hidden.exp()
    made.mul_(2)
    return made


def factor_changed(hidden, x):
    made = hidden * x.sigmoid()
    hidden.add_(1)
    return made + hidden


def changed_through_a_view(hidden, x):
    made = hidden.tanh()
    made[:1] = 0
    return made


def changed_through_a_detached_tensor(hidden, x):
    made = hidden.sigmoid()
    made.detach().mul_(2)
    return made


def changed_without_gradients(hidden, x):
    made = hidden.exp()
    with torch.no_grad():
        made.add_(1)
    return made


def several_outputs(hidden, x):
    made = hidden.softmax(-1)
    parts = made.split(1, -1)
    with torch.no_grad():
        parts[0].add_(1)
    return made


RAISING = [
    result_changed,
    factor_changed,
    changed_through_a_view,
    changed_through_a_detached_tensor,
    changed_without_gradients,
    several_outputs,
]


def nothing_saved(hidden, x):
    made = hidden + x
    made.mul_(2)
    return made


def not_needed(hidden, x):
    made = hidden.detach() * x
    made.add_(1)
    return made + hidden


def saved_after_the_change(hidden, x):
    hidden.mul_(2)
    return hidden.exp()


def made_but_not_run(hidden, x):
    made = hidden.exp()
    made.mul_(2)
    return hidden + x


def saves_its_own_result(hidden, x):
    return hidden.relu_().sigmoid_()


def buffer_written_between(hidden, x):
    buffer = torch.zeros(2, 3)
    made = hidden.exp()
    buffer.add_(1)
    return made + buffer


@needs_saved_tensors
@pytest.mark.parametrize("forward", RAISING)
def test_a_node_that_raises_is_told(forward):
    assert raises(forward)
    assert [told.severity for told in found(forward)] == ["error"]


@needs_saved_tensors
@pytest.mark.parametrize(
    "forward",
    [
        nothing_saved,
        not_needed,
        saved_after_the_change,
        made_but_not_run,
        saves_its_own_result,
        buffer_written_between,
    ],
)
def test_a_change_that_raises_nothing_is_no_finding(forward):
    assert raises(forward) == bool(found(forward))


@pytest.mark.filterwarnings("ignore")
def test_batch_norm_in_training_is_no_finding():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    graph = fxgrad.trace(model, torch.randn(4, 3)).graph
    assert [told.code for told in explain(graph)] == []


@needs_saved_tensors
def test_it_is_told_with_the_node_the_saved_tensor_and_both_lines():
    (told,) = found(result_changed)
    texts = [
        re.sub(r"tests/unit/rules/test_fxg2_saved_tensors.py:\d+", "HERE", text) for text in (told.because, told.fix)
    ]
    assert told.headline == "backward raises at ExpBackward0_0: `mul_` changed its result, which it saved"
    assert texts == [
        "aten::exp, at HERE, saved its result for backward. At HERE, `made.mul_(2)`, `mul_` modifies that in place. "
        "Backward compares version counters, and raises `one of the variables needed for gradient computation has been "
        "modified by an inplace operation`. (torch/csrc/autograd/saved_variable.cpp)",
        "replace `mul_` with an out-of-place operation, or apply it to a clone",
    ]
    assert told.source is not None
    assert (told.owner, told.source.code) == ("ExpBackward0_0", "made.mul_(2)")


@pytest.mark.parametrize("mend", [lambda made: made.mul(2), lambda made: made.clone().mul_(2)])
def test_what_is_advised_takes_the_finding_away(mend):
    assert found(lambda hidden, x: mend(hidden.exp())) == []
    assert not raises(lambda hidden, x: mend(hidden.exp()))


def test_saved_tensors_hooks_are_not_run():
    unpacked = []

    def forward(hidden, x):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda kept: unpacked.append(1) or kept):
            made = hidden.exp()
        made.mul_(2)
        return made

    assert found(forward) == []
    assert unpacked == []


def test_a_change_through_data_raises_nothing_and_gives_a_wrong_gradient_as_the_page_says():
    x = torch.zeros(2, requires_grad=True)
    made = x.exp()
    made.data.mul_(2)
    made.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2]


def test_a_second_backward_is_explained():
    loss = torch.ones(3, requires_grad=True).exp().sum()
    loss.backward()
    with pytest.raises(RuntimeError) as raised:
        loss.backward()
    told = explain_error(str(raised.value))
    assert told is not None
    assert (told.code, told.headline) == (
        "FXG203",
        "backward reached a part of the graph that an earlier backward freed",
    )
    assert told.because == (
        "A backward frees the saved tensors of its nodes. A tensor that is kept from one step to the next with "
        "its graph, or computed once and used in each step, leads the next backward there again. "
        "(torch/csrc/autograd/saved_variable.cpp)"
    )
    assert told.fix == (
        "keep it detached (hidden = hidden.detach()), compute it in each step, or call backward(retain_graph=True)"
    )


def test_verify_compares_what_ran_before_backward_raised():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), Doubling())
    model[0].weight.register_hook(lambda grad: None)
    verification = fxgrad.verify(model, torch.ones(2, 3))
    assert verification.ok
    assert verification.raised is not None
    assert "has been modified by an inplace operation" in verification.raised
    assert f"backward raised, as predicted: {verification.raised}" in str(verification)


def test_a_backward_that_raises_unexpectedly_is_a_difference_and_so_is_one_that_ends():
    graph = fxgrad.trace(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), Doubling()), torch.ones(2, 3)).graph
    (ends,) = compare(graph, ()).differences
    assert (ends.site, ends.what, ends.got) == (None, "raises", "it ends")
    mended = replace(graph, nodes=tuple(replace(node, overwritten=()) for node in graph.nodes))
    (raises,) = compare(mended, (), "modified").differences
    assert (raises.predicted, raises.got) == ("backward ends", "it raises: modified")
    assert "wrong raises: backward: predicted backward ends" in str(compare(mended, (), "modified"))


@pytest.mark.parametrize(
    "message", ["has been modified by an inplace operation", "Trying to backward through the graph a"]
)
def test_the_error_of_a_backward_that_comes_to_it_is_explained(message):
    told = explain_error(f"{message} second time: [torch.FloatTensor [3]]")
    assert told is not None
    assert (told.code, "torch/csrc/autograd/saved_variable.cpp" in told.because) == ("FXG203", True)


class Doubling(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_the_backward_that_is_named_is_the_one_that_freed_the_graph():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            loss, other = self.a(x).square().sum(), self.b(x).square().sum()
            self.of_the_loss = torch.autograd.grad(loss, self.a.weight)
            self.of_the_other = torch.autograd.grad(other, self.b.weight)
            return loss

    (told,) = [each for each in explain(fxgrad.trace(Two(), torch.ones(2, 3)).graph) if each.code == "FXG203"]
    assert told.source is not None
    assert told.source.code.startswith("self.of_the_loss = ")


class Checkpointed(nn.Module):
    """Inside a checkpoint, `change` is called with what was passed to it."""

    def __init__(self, change):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.change = change

    def forward(self, x):
        return checkpoint(self.inside, x * 1, use_reentrant=False)

    def inside(self, x):
        self.change(x)
        return self.linear(x).sigmoid()


@needs_saved_tensors
def test_a_checkpoint_whose_argument_is_changed_in_place_cannot_run_again_in_backward():
    graph = fxgrad.trace(Checkpointed(torch.relu_), torch.ones(2, 3, requires_grad=True)).graph
    (told,) = [each for each in explain(graph) if each.code == "FXG203"]
    assert told.headline == (
        "backward raises at SigmoidBackward0_0: an in-place operation changed an argument of the checkpoint around it"
    )
    assert told.fix.startswith("pass the checkpoint a clone")
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        Checkpointed(torch.relu_)(torch.ones(2, 3, requires_grad=True)).sum().backward()


@needs_saved_tensors
def test_hooks_behind_a_checkpoint_that_cannot_run_again_are_not_called():
    model = Checkpointed(torch.relu_)
    model.linear.weight.register_hook(lambda grad: None)
    verification = fxgrad.verify(model, torch.ones(2, 3, requires_grad=True))
    assert verification.ok
    (site,) = verification.graph.sites
    assert site.reason.endswith(
        "SigmoidBackward0_0 raises, as what it saved cannot be computed again: an argument of its checkpoint was changed "
        "in place"
    )


@needs_saved_tensors
def test_a_checkpoint_whose_argument_stays_as_it_is_runs_again():
    model = Checkpointed(torch.relu)
    assert [each for each in explain(fxgrad.trace(model, torch.ones(2, 3)).graph) if each.code == "FXG203"] == []
    model(torch.ones(2, 3, requires_grad=True)).sum().backward()


def changed_slice() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A leaf, what is written into a slice, and what is computed from the whole."""
    leaf = torch.ones(3, requires_grad=True)
    part = (leaf * leaf).sum()
    whole = torch.zeros(3)
    whole[0] = part
    return leaf, part, whole.sum()


def test_an_earlier_backward_may_have_freed_what_copy_slices_hides() -> None:
    _, part, loss = changed_slice()
    loss.backward()
    called = []
    part.register_hook(called.append)
    trace = fxgrad.capture(loss)
    assert [(told.severity, told.headline) for told in explain(trace.graph) if told.code == "FXG203"] == [
        ("warning", "backward may raise at CopySlices_0: an earlier backward may have freed the function in it"),
        ("error", "backward raises at MulBackward0_0: an earlier backward freed what it saved"),
    ]
    (site,) = trace.sites
    assert (site.fires, site.reason) == (
        None,
        "CopySlices_0 raises before that if an earlier backward, which freed other nodes of this graph, executed it as well",
    )
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        loss.backward()
    assert not called


def test_copy_slices_that_no_earlier_backward_executed_does_not_raise() -> None:
    leaf, part, loss = changed_slice()
    torch.autograd.grad(part, leaf)
    called = []
    part.register_hook(called.append)
    assert [site.fires for site in fxgrad.capture(loss).sites] == [None]
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        loss.backward()
    assert len(called) == 1


class Sums(nn.Module):
    """Adds up its losses, each with its graph."""

    def __init__(self):
        super().__init__()
        self.linear, self.total = nn.Linear(3, 3), torch.zeros(())

    def forward(self, x):
        self.total = self.total + self.linear(x).square().mean()
        return self.total


@pytest.mark.parametrize("retain", [True, False])
def test_what_an_attribute_held_before_forward_is_named_by_it(retain):
    model, x = Sums(), torch.ones(2, 3)
    model(x).backward(retain_graph=retain)
    graph = fxgrad.trace(model, (x,)).graph
    assert [each.name for each in graph.variables if each.left == "total"] == ["total (before forward)"]
    told = [each.headline for each in explain(graph) if each.severity != "info"]
    where = "backward raises at PowBackward0_0: an earlier backward freed what it saved, and `total` leads there"
    assert told == ([] if retain else [where])
    with nullcontext() if retain else pytest.raises(RuntimeError, match="backward through the graph a second time"):
        model(x).backward()


def test_what_an_attribute_held_and_backward_does_not_reach_is_no_variable():
    model, x = Sums(), torch.ones(2, 3)
    model(x)
    model.total = model.total.detach()
    assert [each.left for each in fxgrad.trace(model, (x,)).graph.variables] == [None] * 4


class Caches(nn.Module):
    """Keeps a view of what it computes, in a dict."""

    def __init__(self):
        super().__init__()
        self.linear, self.cache = nn.Linear(3, 3), {}

    def forward(self, x):
        keys = torch.cat([*self.cache.values(), self.linear(x)[:1]])
        self.cache = {"keys": keys[:]}
        return keys.square().sum()


def test_a_view_in_a_dict_is_named_as_well():
    model, x = Caches(), torch.ones(2, 3)
    model(x).backward()
    (told,) = [each for each in explain(fxgrad.trace(model, (x,)).graph) if each.severity != "info"]
    assert told.headline.endswith("freed what it saved, and `cache['keys']` leads there")
    assert told.fix.startswith("detach `cache['keys']` before forward uses it again")
    model.cache = {name: kept.detach() for name, kept in model.cache.items()}
    assert [each for each in explain(fxgrad.trace(model, (x,)).graph) if each.severity != "info"] == []


class Centred(nn.Module):
    """Multiplies by a buffer that it changes afterwards."""

    def __init__(self, *, clone=False):
        super().__init__()
        self.linear, self.clone = nn.Linear(3, 3), clone
        self.register_buffer("centre", torch.ones(3))

    def forward(self, x):
        product = self.linear(x) * (self.centre.clone() if self.clone else self.centre)
        self.centre.mul_(0.9)
        return product


@needs_saved_tensors
def test_a_changed_buffer_is_named():
    (told,) = [each for each in explain(fxgrad.trace(Centred(), torch.ones(2, 3)).graph) if each.severity != "info"]
    assert told.headline == "backward raises at MulBackward0_0: `mul_` changed `centre`, which it saved"
    assert "saved `other`, which is `centre`, for backward" in told.because
    assert told.fix == "replace `mul_` with an out-of-place operation, or apply it to a clone"
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Centred()(torch.ones(2, 3)).sum().backward()
    mended = Centred(clone=True)
    assert [each for each in explain(fxgrad.trace(mended, torch.ones(2, 3)).graph) if each.severity != "info"] == []
    mended(torch.ones(2, 3)).sum().backward()


class Renormed(nn.Module):
    """An embedding with max_norm changes its weight when it is called."""

    def __init__(self, *, clone=False):
        super().__init__()
        self.embed, self.clone = nn.Embedding(3, 3, max_norm=1.0), clone

    def forward(self, indices):
        weight = self.embed.weight.clone() if self.clone else self.embed.weight
        return weight.square().sum() + self.embed(indices).sum()


@needs_saved_tensors
def test_a_clone_keeps_the_old_values_of_a_parameter():
    indices = torch.tensor([0, 1])
    (told,) = [each for each in explain(fxgrad.trace(Renormed(), indices).graph) if each.severity != "info"]
    assert told.headline == "backward raises at PowBackward0_0: `embedding` changed embed.weight, which it saved"
    assert told.fix.endswith("; or use a clone() of the parameter where the old values are meant")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Renormed()(indices).backward()
    assert explain(fxgrad.trace(Renormed(clone=True), indices).graph) == ()
    Renormed(clone=True)(indices).backward()
