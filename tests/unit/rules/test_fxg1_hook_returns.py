"""What is said about a value that a hook returns, held against what backward does with it: FXG109 and FXG118."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.rules import explain, explain_error

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch warns of hooks on modules whose inputs require no grad

SEEN: list[Any] = []


def scaled(module, grad_input, grad_output):
    half = grad_output[0] / 2
    half *= 2
    with torch.no_grad():
        return (half.clamp(-1, 1),)


def guarded(module, grad_input, grad_output):
    if grad_input[0] is None:
        return None
    return (grad_input[0] * 2,)


def collected(module, grad_input, grad_output):
    grads = []
    for grad in grad_input:
        grads.append(grad)
    return tuple(grads)


FULL: dict[str, Callable[..., Any]] = {
    "unchanged": lambda module, grad_input, grad_output: grad_input,
    "one entry": lambda module, grad_input, grad_output: grad_input[0],
    "the last entry": lambda module, grad_input, grad_output: grad_input[-1],
    "of grad_output": lambda module, grad_input, grad_output: grad_output,
    "a list": lambda module, grad_input, grad_output: [grad.neg() for grad in grad_output],
    "a tuple of one": lambda module, grad_input, grad_output: (grad_output[0],),
    "a tuple of two": lambda module, grad_input, grad_output: (grad_output[0], None),
    "a tuple of None": lambda module, grad_input, grad_output: (None,),
    "an empty tuple": lambda module, grad_input, grad_output: (),
    "a part": lambda module, grad_input, grad_output: tuple(-grad for grad in grad_output[:1]),
    "twice": lambda module, grad_input, grad_output: (*grad_output, *grad_output),
    "a number": lambda module, grad_input, grad_output: 0,
    "print": lambda module, grad_input, grad_output: print(end=""),
    "append": lambda module, grad_input, grad_output: SEEN.append(1),
    "scaled": scaled,
    "guarded": guarded,
    "collected": collected,
}
NOT_PLAIN = ("twice", "collected")
"""The code does not say how many values there are."""


def raises(run: Callable[[], object]) -> bool:
    """Whether backward raises an error: then one that a rule explains, unless the code of a hook itself raises."""
    try:
        run()
    except (RuntimeError, TypeError) as error:
        raised: Exception = error
    else:
        return False
    assert explain_error(str(raised)) is not None or isinstance(raised, TypeError)
    return True


def headlines(model: nn.Module, x: torch.Tensor) -> list[str]:
    """What the findings about returned values say, without those that are only worth knowing."""
    found = explain(fxgrad.trace(model, (x,)).graph)
    return [each.headline for each in found if each.code in ("FXG109", "FXG118") and each.severity != "info"]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", FULL)
def test_a_full_hook(name: str, batch: int, requires_grad: bool) -> None:
    model = nn.Sequential(nn.Identity(), nn.Tanh())
    model[0].register_full_backward_hook(FULL[name])
    x = torch.ones(batch, 3, requires_grad=requires_grad)
    if not requires_grad:
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        model[0].register_full_backward_hook(FULL[name])
    found, raised = headlines(model, x), raises(lambda: model(x).sum().backward())
    assert [headline.startswith("backward raises") for headline in found] == [True] * (raised and name not in NOT_PLAIN)


SMALLER: dict[str, Callable[..., Any]] = {
    "grad_output": lambda module, grad_input, grad_output: grad_output,
    "an entry of it": lambda module, grad_input, grad_output: (grad_output[0],),
    "each entry of it": lambda module, grad_input, grad_output: tuple(grad for grad in grad_output),
    "each entry of it, scaled": lambda module, grad_input, grad_output: tuple(grad * 2 for grad in grad_output),
    "grad_input": lambda module, grad_input, grad_output: grad_input,
    "each mean": lambda module, grad_input, grad_output: tuple(grad.mean() for grad in grad_input),
    "each half": lambda module, grad_input, grad_output: [grad.half() for grad in grad_input],
}


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_backward_hook"])
@pytest.mark.parametrize("name", SMALLER)
def test_a_hook_on_a_module_whose_result_is_smaller_than_its_input(name: str, kind: str) -> None:
    model, x = Halved(), torch.ones(2, 4, requires_grad=True)
    getattr(model, kind)(SMALLER[name])
    found, raised = headlines(model, x), raises(lambda: model(x).sum().backward())
    is_plain = name != "each entry of it, scaled"  # the shape of what the code computes is not followed
    assert [headline.startswith("backward raises") for headline in found] == [True] * (raised and is_plain)


class Halved(nn.Module):
    """Returns the first two columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2]


PRE: dict[str, Callable[..., Any]] = {
    "unchanged": lambda module, grad_output: grad_output,
    "one entry": lambda module, grad_output: grad_output[0],
    "a list": lambda module, grad_output: [grad_output[0] * 2],
    "a tuple of two": lambda module, grad_output: (grad_output[0], grad_output[0]),
    "a number": lambda module, grad_output: 1.0,
}


@pytest.mark.parametrize("name", PRE)
def test_a_full_pre_hook(name: str) -> None:
    model = nn.Linear(3, 3)
    model.register_full_backward_pre_hook(PRE[name])
    found, raised = headlines(model, torch.ones(2, 3)), raises(lambda: model(torch.ones(2, 3)).sum().backward())
    assert [headline.startswith("backward raises") for headline in found] == [True] * raised


LEGACY: dict[str, Callable[..., Any]] = {
    "unchanged": lambda module, grad_input, grad_output: grad_input,
    "a list": lambda module, grad_input, grad_output: list(grad_input),
    "one": lambda module, grad_input, grad_output: (grad_input[0],),
    "one entry": lambda module, grad_input, grad_output: grad_input[0],
    "three": lambda module, grad_input, grad_output: (grad_input[0] * 2, None, grad_input[2]),
    "a tensor for None": lambda module, grad_input, grad_output: (grad_input[0], grad_output[0], grad_input[2]),
}


@pytest.mark.parametrize("name", LEGACY)
def test_a_non_full_hook(name: str) -> None:
    model = nn.Linear(3, 3)
    model.register_backward_hook(LEGACY[name])
    found, raised = headlines(model, torch.ones(2, 3)), raises(lambda: model(torch.ones(2, 3)).sum().backward())
    assert [headline.startswith("backward raises") for headline in found] == [True] * raised


TENSOR: dict[str, Callable[..., Any]] = {
    "itself": lambda grad: grad,
    "scaled": lambda grad: grad * 2,
    "a tuple": lambda grad: (grad,),
    "a list": lambda grad: [grad],
    "a number": lambda grad: True,
    "like it": lambda grad: torch.ones_like(grad) * 2,
    "its half": lambda grad: grad.half(),
    "its own dtype": lambda grad: grad.float(),
    "its double, cast back": lambda grad: grad.double().float(),
    "its mean": lambda grad: grad.mean(),
    "its norm in its place": lambda grad: grad / grad.norm(),
    "its rows' means": lambda grad: grad - grad.mean(0),
}


@pytest.mark.parametrize("name", TENSOR)
def test_a_hook_on_a_parameter(name: str) -> None:
    model = nn.Linear(3, 3)
    model.weight.register_hook(TENSOR[name])
    found, raised = headlines(model, torch.ones(2, 3)), raises(lambda: model(torch.ones(2, 3)).sum().backward())
    assert [headline.startswith("backward raises") for headline in found] == [True] * raised


def divides(weight):
    weight /= 2


def divides_an_entry(weight):
    weight[0] = 0


def steps(weight):
    weight.sub_(weight.grad, alpha=0.1)


def works_on_a_copy(weight):
    weight = weight.clone()
    weight /= 2


LEAF: dict[str, Callable[..., Any]] = {
    "divides": divides,
    "divides an entry": divides_an_entry,
    "divides its data": lambda weight: weight.data.div_(2),
    "steps": steps,
    "works on a copy": works_on_a_copy,
    "returns itself": lambda weight: weight,
    "returns a tuple": lambda weight: (weight,),
    "returns another": lambda weight: weight * 2,
    "looks": lambda weight: SEEN.append(weight.grad),
}


@pytest.mark.parametrize("name", LEAF)
def test_a_post_accumulate_hook(name: str) -> None:
    model = nn.Linear(3, 3)
    model.weight.register_post_accumulate_grad_hook(LEAF[name])
    found, before = headlines(model, torch.ones(2, 3)), model.weight.detach().clone()
    raised = raises(lambda: model(torch.ones(2, 3)).sum().backward())
    changed = not torch.equal(model.weight, before) and name != "steps"
    expected = "backward raises" if raised else "the function changes the weight" if changed else ""
    assert [("changes the weight" in each, each.startswith("backward raises")) for each in found] == (
        [("changes" in expected, "raises" in expected)] if expected else []
    )


def test_a_tensor_hook_cannot_put_a_tensor_in_the_place_of_none():
    used, unused = (torch.ones(4, requires_grad=True) * 2).split(2)
    unused.register_hook(lambda grad: torch.ones(2))
    told = [finding for finding in explain(fxgrad.capture(used.sum()).graph) if finding.code == "FXG109"]
    assert ["a tensor in place of a gradient that is None" in finding.headline for finding in told] == [True]
    assert "PyTorch does not replace None by a tensor. " in told[0].because
    with pytest.raises(RuntimeError, match="can't replace a None gradient with a non-None value"):
        used.sum().backward()


def test_a_non_full_hook_that_returns_a_number_is_refused_as_pytorch_does():
    linear = nn.Linear(3, 2)
    linear.register_backward_hook(lambda module, grad_input, grad_output: 0)
    (told,) = [each for each in fxgrad.trace(linear, torch.ones(2, 3)).explain().findings if each.code == "FXG109"]
    assert "no tuple in place of grad_input, a tuple of 3 entries" in told.headline
    assert "PyTorch takes only a tuple. " in told.because
    with pytest.raises(TypeError, match="expected tuple, but hook returned 'int'"):
        linear(torch.ones(2, 3)).sum().backward()
