"""What is said of parameters that get no gradient, held against the real backward: FXG201 and FXG206."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fxgrad
from fxgrad.errors import TargetError


class Takes(torch.autograd.Function):
    """Multiplies two tensors, and returns no gradient for the second."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(y)
        return x * y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y, None


Ways = Callable[[nn.Module, torch.Tensor], torch.Tensor]
WAYS: dict[str, Ways] = {
    "itself": lambda module, x: Takes.apply(x, module.weight),
    "computed from it": lambda module, x: Takes.apply(x, module.weight.exp().t()),
    "twice refused": lambda module, x: Takes.apply(Takes.apply(x, module.weight), module.weight * 2),
    "refused here, used there": lambda module, x: Takes.apply(x, module.weight) + module.weight,
    "part of a list": lambda module, x: Takes.apply(x, torch.cat([module.weight[:1], module.weight[1:]])),
    "one of two results": lambda module, x: torch._foreach_mul([x, module.weight], 2)[0],
    "first argument": lambda module, x: Takes.apply(module.weight, x),
}


class Layer(nn.Module):
    def __init__(self, way: Ways) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
        self._way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._way(self, x)


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_without_gradient_is_found(way: str) -> None:
    model, x = Layer(WAYS[way]), torch.ones(3, 3, requires_grad=True)
    found = [
        finding for finding in fxgrad.trace(model, (x,)).explain().findings if finding.code in ("FXG201", "FXG204")
    ]
    model(x).sum().backward()
    assert [finding.owner for finding in found] == (["weight"] if model.weight.grad is None else [])


def reentrant(function: Callable[..., torch.Tensor], *args: object) -> torch.Tensor:
    result = checkpoint(function, *args, use_reentrant=True)
    assert isinstance(result, torch.Tensor)
    return result


class Recompute(torch.autograd.Function):
    """A checkpoint of one's own: runs a module again in backward."""

    @staticmethod
    def forward(ctx, module, x, *others):
        ctx.module, ctx.others = module, len(others)
        ctx.save_for_backward(x)
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.module(x), grad)
        return None, x.grad, *[None] * ctx.others


CHECKPOINTS: dict[str, Ways] = {
    "no argument requires grad": lambda module, x: reentrant(module.inner, x) + module.bias,
    "an argument requires grad": lambda module, x: reentrant(module.inner, x * module.bias),
    "one of two requires grad": lambda module, x: reentrant(lambda one, two: module.inner(one) + two, x, module.bias),
    "a list holds what requires grad": lambda module, x: (
        reentrant(lambda some: module.inner(some[0]), [x * module.bias]) + module.bias
    ),
    "used outside as well": lambda module, x: reentrant(module.inner, x) + module.inner(x) + module.bias,
    "used in two of them": lambda module, x: reentrant(module.inner, x) + reentrant(module.inner, x * module.bias),
    "one in another": lambda module, x: reentrant(lambda y: reentrant(module.inner, y), x) + module.bias,
    "in a sequence": lambda module, x: (
        checkpoint_sequential(nn.Sequential(module.inner, nn.Tanh()), 2, x, use_reentrant=True) + module.bias
    ),
    "closed over": lambda module, x: reentrant(lambda y: module.inner(x * module.bias) + y, x) + module.bias,
    "Function like one": lambda module, x: Recompute.apply(module.inner, x) + module.bias,
    "Function like one, of what requires grad": lambda module, x: Recompute.apply(module.inner, x * module.bias),
    "Function like one, given the weight": lambda module, x: Recompute.apply(module.inner, x, module.inner.weight),
    "not reentrant": lambda module, x: checkpoint(module.inner, x, use_reentrant=False) + module.bias,
}


class Checkpointed(nn.Module):
    def __init__(self, way: Ways) -> None:
        super().__init__()
        self.inner, self.bias = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
        self._way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._way(self, x)


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of both
@pytest.mark.parametrize("way", CHECKPOINTS)
def test_a_checkpoint_without_grad_is_found(way: str) -> None:
    model, x = Checkpointed(CHECKPOINTS[way]), torch.ones(2, 3)
    fired = []
    model.inner.register_full_backward_hook(lambda module, grad_input, grad_output: fired.append(1))
    model.inner.weight.register_hook(lambda grad: fired.append(1))
    trace = fxgrad.trace(model, (x,))
    found = [finding.code for finding in trace.explain().findings if finding.code in ("FXG201", "FXG204", "FXG206")]
    never = [site.fires is False for site in trace.graph.sites]
    model(x).sum().backward()
    assert found == ([] if fired else ["FXG206"])
    assert all(never) is not bool(fired)


def test_where_nothing_requires_grad_the_checkpoint_is_told():
    model = Checkpointed(lambda module, x: reentrant(module.inner, x))
    with pytest.raises(TargetError, match="the reentrant checkpoint gets no tensor that requires grad"):
        fxgrad.trace(model, (torch.ones(2, 3),))


# A fix that is code is applied to the program that asked for it


class Encoded(nn.Module):
    """What `way` makes of what the encoder returns goes into the head."""

    def __init__(self, way: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 3), nn.Linear(3, 3)
        self._way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self._way(self, self.encoder(x)))


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        result = x.round()
        ctx.mark_non_differentiable(result)
        return result

    @staticmethod
    def backward(ctx, grad):
        return grad


class Rounded(Marked):
    @staticmethod
    def forward(ctx, x):
        return x.round()


class Listed(Marked):
    @staticmethod
    def forward(ctx, tensors):
        return tensors[0] * 2


def in_data(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
    padded = torch.zeros(2, 3)
    padded.data[:, 1:] = h[:, 1:]
    return padded


def in_itself(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
    padded = torch.zeros(2, 3)
    padded[:, 1:] = h[:, 1:]
    return padded


def as_data(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
    kept = torch.zeros(2, 3)
    kept.data = h * 2
    return kept


def weight_as_data(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
    model.head.weight.data = torch.outer(h.mean(0), h.std(0))
    return torch.ones(2, 3)


def weight_as_argument(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
    weight = torch.outer(h.mean(0), h.std(0))
    return torch.func.functional_call(model.head, {"weight": weight}, (torch.ones(2, 3),))


def straight_through(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
    """`argmax` has no derivative, but it is `detach` that is in the way."""
    chosen = nn.functional.one_hot(h.argmax(1), 3) * h
    return torch.ones(2, 3) + (chosen - h).detach()


def slope(model: nn.Module, h: torch.Tensor, create_graph: bool = False) -> torch.Tensor:
    return torch.autograd.grad(h.square().sum(), h, create_graph=create_graph, retain_graph=True)[0]


CONST = torch.ones(3)
TORCH_STACK = "write `torch.stack([...])` for `torch.tensor([...])`"
REWRITTEN = {
    "a list": (lambda m, h: torch.tensor([*h[0]]), TORCH_STACK, lambda m, h: torch.stack([*h[0]])),
    "a list, as a leaf": (
        lambda m, h: torch.tensor([*h[0]], requires_grad=True),
        TORCH_STACK,
        lambda m, h: torch.stack([*h[0]]),
    ),
    "as_tensor": (
        lambda m, h: torch.as_tensor([*h[0]]),
        "write `torch.stack([...])` for `torch.as_tensor([...])`",
        lambda m, h: torch.stack([*h[0]]),
    ),
    "new_tensor": (
        lambda m, h: h.new_tensor([*h[0]]),
        "write `torch.stack([...])` for `x.new_tensor([...])`",
        lambda m, h: torch.stack([*h[0]]),
    ),
    "lists in a list": (
        lambda m, h: torch.tensor([[*h[0]], [*h[1]]]),
        "write torch.stack for `torch.tensor`, of each inner list and of all of them",
        lambda m, h: torch.stack([torch.stack([*h[0]]), torch.stack([*h[1]])]),
    ),
    "one tensor": (
        lambda m, h: torch.tensor(h),
        "use the tensor itself, or its clone(), for `torch.tensor(...)`",
        lambda m, h: h.clone(),
    ),
    "the old constructor": (
        lambda m, h: torch.FloatTensor([*h[0]]),
        "keep it a tensor: torch.stack makes one tensor of several, and torch has the functions of math",
        lambda m, h: torch.stack([*h[0]]),
    ),
    "math": (
        lambda m, h: CONST * math.exp(h.sum()),
        "keep it a tensor: torch.stack makes one tensor of several, and torch has the functions of math",
        lambda m, h: CONST * torch.exp(h.sum()),
    ),
    "numpy": (
        lambda m, h: torch.from_numpy(numpy.tanh(h.detach().numpy())),
        "keep it a tensor, without `detach` and `numpy`: torch has most functions of numpy",
        lambda m, h: torch.tanh(h),
    ),
    "numpy of .data": (
        lambda m, h: torch.from_numpy(numpy.tanh(h.data.numpy())),
        "keep it a tensor, without `.data` and `numpy`: torch has most functions of numpy",
        lambda m, h: torch.tanh(h),
    ),
    "item": (lambda m, h: CONST * h.sum().item(), "use the tensor, without `item`", lambda m, h: CONST * h.sum()),
    "detach": (lambda m, h: h.detach(), "remove `detach` there", lambda m, h: h),
    "Variable": (
        lambda m, h: torch.autograd.Variable(h.data, requires_grad=True),
        "use the tensor itself, in place of torch.autograd.Variable(...) of it",
        lambda m, h: h,
    ),
    "Variable of a result": (
        lambda m, h: torch.autograd.Variable(h * 2, requires_grad=True),
        "use the tensor itself, in place of torch.autograd.Variable(...) of it",
        lambda m, h: h * 2,
    ),
    "detach behind argmax": (straight_through, "remove `detach` there", lambda m, h: h * 2),
    "into .data": (in_data, "write to the tensor itself, without `.data`", in_itself),
    "as .data": (
        as_data,
        "use the tensor that is assigned, in place of the one whose `.data` it becomes",
        lambda m, h: h * 2,
    ),
    "as .data of a parameter": (
        weight_as_data,
        "use the tensor itself, which torch.nn.functional and torch.func.functional_call take in place of a parameter",
        weight_as_argument,
    ),
    "grad": (slope, "pass create_graph=True to `grad`", lambda m, h: slope(m, h, create_graph=True)),
    "non-differentiable": (
        lambda m, h: Marked.apply(h),
        "pass tensors to `Marked.apply` one by one, and mark no result as non-differentiable that is to pass a gradient",
        lambda m, h: Rounded.apply(h),
    ),
    "a list for a Function": (
        lambda m, h: Listed.apply([h]),
        "pass tensors to `Listed.apply` one by one, and mark no result as non-differentiable that is to pass a gradient",
        lambda m, h: Rounded.apply(h),
    ),
    "indices of topk": (
        lambda m, h: h.topk(3, 1)[1].float(),
        "use a floating point result in place of `topk[1]`",
        lambda m, h: h.topk(3, 1)[0],
    ),
    "sample": (
        lambda m, h: torch.distributions.Normal(h, 1.0).sample(),
        "write `mean + std * torch.randn_like(std)` for `torch.normal(mean, std)`, `rsample()` for `sample()`",
        lambda m, h: torch.distributions.Normal(h, 1.0).rsample(),
    ),
    "categories": (
        lambda m, h: nn.functional.one_hot(torch.multinomial(h.softmax(1), 1)[:, 0], 3).float(),
        "write torch.nn.functional.gumbel_softmax for a draw from categories",
        lambda m, h: nn.functional.gumbel_softmax(h, hard=True),
    ),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of torch.tensor(h), and of conversions to numbers
@pytest.mark.parametrize("case", REWRITTEN)
def test_the_fix_of_a_lost_gradient_brings_it_back(case: str) -> None:
    way, fix, better = REWRITTEN[case]
    model, x = Encoded(way), torch.randn(2, 3)
    (finding,) = [each for each in fxgrad.trace(model, (x,)).explain().findings if each.severity != "info"]
    assert (finding.code, finding.owner) == ("FXG201", "encoder.weight")
    assert finding.fix == f"{fix}, or freeze them with requires_grad_(False) if they should not be trained"
    model(x).sum().backward()
    assert model.encoder.weight.grad is None
    model, x = Encoded(better), torch.randn(2, 3)
    if better is weight_as_argument:
        model.head.weight.requires_grad_(False)
    model(x).sum().backward()
    assert model.encoder.weight.grad is not None
    assert [each for each in fxgrad.trace(model, (x,)).explain().findings if each.severity != "info"] == []


@pytest.mark.parametrize("case", ["a list", "grad", "non-differentiable"])
def test_the_same_is_told_where_nothing_requires_grad(case: str) -> None:
    way, fix, _ = REWRITTEN[case]
    model = Encoded(way)
    model.head = nn.Identity()
    with pytest.raises(TargetError, match=re.escape(f"try: {fix}")):
        fxgrad.trace(model, (torch.randn(2, 3),))


def test_what_forward_makes_a_leaf_of_is_where_a_gradient_ends() -> None:
    model = Encoded(lambda m, h: torch.tensor([*h[0]], requires_grad=True))
    (finding,) = fxgrad.trace(model, (torch.randn(2, 3),)).explain().findings
    assert "`tensor` at" in finding.headline
    assert finding.headline.endswith("copies values without their history")


def test_a_result_that_depends_on_another_argument_is_no_cut() -> None:
    """`broadcast_tensors` returns two tensors; the second requires no grad."""
    model = Encoded(lambda m, h: torch.distributions.Normal(h, 1.0).sample())
    (finding,) = fxgrad.trace(model, (torch.randn(2, 3),)).explain().findings
    assert "`normal` at" in finding.headline
    assert finding.headline.endswith("runs with gradients disabled")


class Judged(nn.Module):
    """Trains the judge inside forward, by a backward of its own."""

    def __init__(self, *, detach: bool) -> None:
        super().__init__()
        self.body, self.judge, self.detach = nn.Linear(3, 3), nn.Linear(3, 1), detach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        judged = self.judge(x)
        if self.detach:
            judged = judged.detach().requires_grad_()
        judged.square().mean().backward()
        return self.body(x)


@pytest.mark.parametrize("detach", [False, True])
def test_what_a_backward_inside_forward_trains_has_its_gradient(detach: bool) -> None:
    model, x = Judged(detach=detach), torch.randn(2, 3)
    found = [each.owner for each in fxgrad.trace(model, (x,)).explain().findings if each.code in ("FXG201", "FXG204")]
    model(x).sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert found == without[:1]
    assert bool(without) is detach


@pytest.mark.parametrize("make", [torch.ones_like, torch.rand_like, lambda h: h.new_zeros(2, 3)])
def test_a_tensor_made_in_the_shape_of_another_is_no_cut(make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Encoded(lambda m, h: torch.where(h > 0, make(h), torch.ones(2, 3)))
    (finding,) = fxgrad.trace(model, (torch.randn(2, 3),)).explain().findings
    assert "`gt` at" in finding.headline
