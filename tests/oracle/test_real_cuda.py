"""On a machine with a CUDA device: the emulated device makes the nodes that the real one makes, and predictions hold there."""

import pytest
import torch
from cuda_programs import emulated_graphs, graphs, moved_case
from module_cases import WAYS, Hooks, hold, module_cases
from tally import tally_of

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
NOT_COMPARED = 0.2
"""Of the programs: the emulated device says of some that it cannot know."""
PROFILED = ("zoo scripted_submodule",)
"""TorchScript compiles anew after its first runs, which gives another graph."""


def test_the_emulated_device_makes_the_nodes_of_the_real_one():
    real, emulated = graphs(torch.device("cuda")), emulated_graphs()
    assert real.keys() == emulated.keys()
    both = [name for name in real if isinstance(real[name], list) and isinstance(emulated[name], list)]
    assert len(both) > len(real) * (1 - NOT_COMPARED)
    assert {
        name: (real[name], emulated[name]) for name in both if real[name] != emulated[name] and name not in PROFILED
    } == {}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", WAYS)
def test_no_hook_of_any_module_on_cuda_is_predicted_wrongly(way, training):
    tally = tally_of("every input of every module of torch.nn, on CUDA", f"{way}, {'train' if training else 'eval'}")
    for _, case in module_cases(training=training):
        if case is not None:
            hold(moved_case(case, "cuda"), Hooks.of_kinds(*WAYS[way]), tally)
    tally.assert_nothing_is_wrong()
    assert not tally.unknown.total()
