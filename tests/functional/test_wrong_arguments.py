"""What the library says to arguments that it cannot work with: what was given, what is allowed, what to try."""

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.errors import UsageError

X = torch.ones(2, 3)


def refusal(call):
    with pytest.raises(UsageError) as caught:
        call(nn.Linear(3, 3))
    return caught.value


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_a_second_argument_that_is_not_in_the_tuple(verb):
    assert str(refusal(lambda model: verb(model, X, X))) == (
        "Tensor as kwargs\n  allowed: a mapping of keyword arguments, after a tuple of positional ones\n  try: "
        "trace(model, (x, y), {'mask': mask})"
    )


@pytest.mark.parametrize("model", [nn.Linear, None, torch.relu, 3])
@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_what_is_no_module(verb, model):
    error = refusal(lambda _: verb(model, X))
    assert error.given.endswith(" as the model")
    assert error.allowed == "a torch.nn.Module"


@pytest.mark.parametrize(
    "question",
    [
        lambda model: fxgrad.probe(model, X, module="", kind="full"),
        lambda model: fxgrad.trace(model, X).sites_of("", "full"),
    ],
)
def test_a_kind_of_hook_that_there_is_not(question):
    error = refusal(question)
    assert error.given == "no kind of hook is called 'full'"
    assert "Module.register_full_backward_hook" in error.allowed


@pytest.mark.parametrize("module", ["first", 3, nn.Linear(3, 3)])
def test_a_module_that_the_model_does_not_hold(module):
    error = refusal(lambda model: fxgrad.trace(model, X).explain(module))
    assert "module" in error.given
