"""Every sample input of every module of torch.nn, under hooks of every kind on all that a hook can be on."""

import pytest
from module_cases import WAYS, Hooks, hold, module_cases
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

OPEN = "the backward of GeneratedBackwardFor_torch_nn__linear_cross_entropy_batch_chunked"
"""With what each reason begins why something is left open: ``LinearCrossEntropyLoss`` alone has Functions whose backward
is Python code. They put gradients into a list, which is not followed."""
LEAST = 1_700
"""Inputs that must be compared in each way, in train and eval together, of the 3,618 that there are."""


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", WAYS)
def test_no_hook_of_any_module_is_predicted_wrongly_or_left_open(way, training):
    tally = tally_of("every input of every module of torch.nn", f"{way}, {'train' if training else 'eval'}")
    hooks = Hooks.of_kinds(*WAYS[way])
    for _, case in module_cases(training=training):
        if case is None:
            tally.skip("there is nothing to call the module with")
        else:
            hold(case, hooks, tally)
    tally.assert_nothing_is_wrong()
    assert [reason for reason in tally.unknown if not reason.startswith(OPEN)] == []
    assert tally.tried > LEAST
