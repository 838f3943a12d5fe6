"""Each model of the zoo: its recorded forward against the model, and what is predicted against real backward."""

import pytest
import torch
from recorded_forward import recorded_forward_problems
from zoo import ZOO

import fxgrad

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=ZOO)
def entry(request):
    """A model, and a function that makes its arguments anew, the same each time."""
    make = ZOO[request.param]

    def arguments():
        torch.manual_seed(0)
        return make()[1:]

    torch.manual_seed(0)
    return make()[0], arguments


def test_the_recorded_forward_of_a_whole_model_gives_what_the_model_gives(entry):
    assert recorded_forward_problems(*entry) == []


def note(*_):
    """A hook that returns nothing."""


def test_what_hooks_of_a_whole_model_will_get_is_what_backward_gives_them(entry):
    model, arguments = entry
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(note)
            parameter.register_post_accumulate_grad_hook(note)
    args, kwargs = arguments()
    verification = fxgrad.verify(model, args, kwargs)
    assert verification.ok, str(verification)
