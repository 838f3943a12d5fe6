"""A slice of the fuzz suite (tests/oracle/test_fuzz.py), and proof that it can fail."""

import pytest
import torch
from fuzz_categories import CATEGORIES, Wide
from fuzzing import check_error, failures, is_harmless, try_model, unchanged
from tally import forget_outcomes
from torch import nn

from fxgrad.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")
SLICE = 100_000
"""The first seed: others than those of the long run."""
SLOW = ("large and circular models",)


@pytest.mark.parametrize("category", [name for name in CATEGORIES if name not in SLOW])
def test_some_inputs_are_answered_or_refused_and_change_nothing(category):
    try_one, count = CATEGORIES[category]
    assert failures(category, try_one, range(SLICE, SLICE + max(5, count // 50))) == []


def test_a_model_that_holds_itself_is_traced():
    try_one, _ = CATEGORIES["large and circular models"]
    assert try_one(0) == "holds itself"


def test_a_change_is_found():
    model = nn.Linear(3, 3)
    with pytest.raises(AssertionError), unchanged(model), torch.no_grad():
        model.weight.add_(1)


def test_an_attribute_that_is_left_behind_is_found():
    model = nn.Linear(3, 3)
    with pytest.raises(AssertionError), unchanged(model):
        model.seen = True


def test_a_failure_names_its_seed():
    (found,) = failures("nothing", lambda seed: 1 // seed, range(1))
    assert found.startswith("seed 0: ZeroDivisionError")
    assert forget_outcomes("nothing") == {"failed": 1}


def test_a_terminal_s_commands_are_found():
    assert not is_harmless("\x1b[31m")
    with pytest.raises(AssertionError):
        check_error(UsageError("\x1b[31m", "nothing", "something else"))


def test_wrong_predictions_are_found():
    class Returning(nn.Linear):
        pass

    model = Returning(3, 3)
    model.weight.register_hook(lambda grad: None)
    model.register_full_backward_pre_hook(lambda module, grad_output: (None,))
    with pytest.raises(AssertionError):
        try_model(model, (torch.ones(2, 3),))


def test_the_wide_model_has_10_000_children():
    assert len(list(Wide().children())) == 10_000
