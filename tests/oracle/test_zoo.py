"""Whole models of every sort, under hooks of every kind on all that a hook can be on."""

import pytest
import torch
from module_cases import WAYS, Case, Hooks, hold
from tally import tally_of
from zoo import ZOO

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
LEAST = 0.9
"""Of the models, those that must be compared in each way."""


def zoo_case(name):
    def made():
        torch.manual_seed(0)
        return ZOO[name]()

    def build():
        model, args, kwargs = made()
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            for _ in range(3):  # TorchScript compiles anew after its first runs, which gives another graph
                model(*args, **kwargs)
        return model

    return Case(name, build, lambda: made()[1:], has_hooks=True)


@pytest.mark.parametrize("way", WAYS)
def test_no_hook_of_any_model_is_predicted_wrongly(way):
    tally = tally_of("every model of tests/support/zoo.py", way)
    for name in ZOO:
        hold(zoo_case(name), Hooks.of_kinds(*WAYS[way]), tally)
    tally.assert_nothing_is_wrong()
    assert tally.tried > LEAST * len(ZOO)
