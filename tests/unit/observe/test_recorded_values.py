"""What the records of a forward say of each operation: its inputs, whether its results require grad, who took them."""

import pytest
import torch
from torch import nn

import fxgrad


class Cuts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        hidden = self.linear(x)
        largest = hidden.argmax(-1)
        scale = hidden.detach().sum().item()
        return hidden * scale + largest[:, None]


def fx_nodes():
    return fxgrad.trace(Cuts(), torch.ones(2, 3)).graph.fx_nodes_by_name


def test_the_inputs_of_an_operation_are_the_operations_that_made_its_arguments():
    assert fx_nodes()["linear"].inputs == ("x", "linear_weight", "linear_bias")


def test_a_result_says_whether_it_required_grad_when_it_was_returned():
    made = fx_nodes()
    assert [made[name].requires_grad for name in ("linear", "argmax", "detach")] == [(True,), (False,), (False,)]


def test_what_python_takes_out_of_a_tensor_is_noted_with_its_line():
    (taken,) = fx_nodes()["sum_1"].taken
    assert taken.function == "item"
    assert taken.source is not None
    assert taken.source.code == "scale = hidden.detach().sum().item()"


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_module_says_whether_fx_would_call_it_as_a_whole_and_which_tool_made_it():
    scripted = torch.jit.script(nn.Linear(3, 3))
    model = nn.Sequential(Cuts(), nn.Linear(3, 3), scripted)
    model[1].compile(backend="eager")
    modules = fxgrad.capture(torch.ones(2, 3, requires_grad=True) * 1, model).graph.modules
    assert [(module.path, module.is_fx_leaf, module.made_by) for module in modules] == [
        ("", False, None),
        ("0", False, None),
        ("0.linear", True, None),
        ("1", True, "torch.compile"),
        ("2", False, "torch.jit"),
    ]
