"""Every sample input of every module of torch.nn, under hooks of every kind on all that a hook can be on."""

import pytest
from module_cases import Hooks, hold, module_cases
from tally import tally_of

from fxgrad.graph import HookKind

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

ON_TENSORS_AND_NODES = [kind for kind in HookKind if not kind.is_module]
FULL = [kind for kind in HookKind if kind.is_full or kind.is_full_pre]
WAYS = {
    **{kind.value: [kind] for kind in HookKind if kind.is_module},
    "all six kinds on tensors and nodes": ON_TENSORS_AND_NODES,
    "those, and full hooks and pre-hooks, global ones, too": [*FULL, *ON_TENSORS_AND_NODES],
}
"""A kind on modules alone, as each changes the graph; the others together, so that their order is seen."""
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
    assert not tally.open_by_torch
    assert tally.tried > LEAST
