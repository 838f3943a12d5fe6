"""What the rules say of real models, held against what PyTorch does with them."""

import re

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.graph import HookKind
from fxgrad.rules.fxg1_full_hooks import name_grad_inputs, name_grad_outputs
from fxgrad.rules.fxg1_hook_returns import describe_return
from fxgrad.rules.subject import list_subjects

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of non-full hooks and of inputs without grad


def silent(*given):
    return None


def tensor(*shape, grad=True):
    return torch.ones(*shape, requires_grad=grad)


class Keywords(nn.Module):
    def forward(self, x, state, *, mask):
        return x * state[0] * mask, x * 2


class LeavesOut(nn.Module):
    """The second result is used inside only, as LSTMCell's cell state in the last step."""

    def forward(self, x, count, y):
        inside = x * y
        return inside * 2, inside, count


class Around(nn.Module):
    """Calls a module and starts backward from the first of its results."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        result = self.module(*args, **kwargs)
        return result[0] * 1 if isinstance(result, tuple) else result * 1


CASES = {
    "linear": (lambda: nn.Linear(3, 2), (tensor(4, 3),), {}),
    "linear without grad": (lambda: nn.Linear(3, 2), (tensor(4, 3, grad=False),), {}),
    "bilinear": (lambda: nn.Bilinear(3, 2, 5), (tensor(4, 3), tensor(4, 2, grad=False)), {}),
    "lstm cell": (lambda: nn.LSTMCell(3, 2), (tensor(4, 3), (tensor(4, 2), tensor(4, 2))), {}),
    "gru cell": (lambda: nn.GRUCell(3, 2), (tensor(4, 3), tensor(4, 2)), {}),
    "attention": (lambda: nn.MultiheadAttention(4, 2), (tensor(5, 1, 4),) * 3, {}),
    "keywords": (Keywords, (tensor(4, 3), [tensor(4, 3)]), {"mask": tensor(4, 3)}),
    "no tensor": (LeavesOut, (tensor(4, 3), 7, tensor(4, 3)), {}),
}


def full_hook_sees(make, args, kwargs):
    """The entries of a real full hook, None or not."""
    torch.manual_seed(0)
    module, seen = make(), []
    module.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append((grad_input, grad_output)))
    Around(module)(*args, **kwargs).sum().backward()
    (given,) = seen
    return [[entry is None for entry in entries] for entries in given]


def advice_for(make, args, kwargs):
    """What FXG101 bases its advice on."""
    torch.manual_seed(0)
    module = make()
    module.register_backward_hook(silent)
    (subject,) = list_subjects(fxgrad.trace(Around(module), args, kwargs).graph)
    (placed,) = subject.placed
    assert placed.call is not None
    return name_grad_inputs(placed.call), name_grad_outputs(subject, placed.call)


@pytest.mark.parametrize("case", CASES)
def test_the_advised_full_hook_has_as_many_entries_as_told(case):
    sees, told = full_hook_sees(*CASES[case]), advice_for(*CASES[case])
    assert [len(entries) for entries in told] == [len(entries) for entries in sees]


@pytest.mark.parametrize("case", CASES)
def test_the_advised_full_hook_gets_none_in_grad_input_exactly_where_told(case):
    sees, told = full_hook_sees(*CASES[case]), advice_for(*CASES[case])
    assert [name == "None" for name in told[0]] == sees[0]


@pytest.mark.parametrize("case", CASES)
def test_the_advised_full_hook_gets_none_in_grad_output_exactly_where_told(case):
    sees, told = full_hook_sees(*CASES[case]), advice_for(*CASES[case])
    assert [name == "None" for name in told[1]] == sees[1]


def test_the_calls_of_a_module_fire_in_the_order_told():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            first, second, third = (self.linear(x[: number + 1]) for number in range(3))
            return first.sum() + third.sum() + second.sum()

    model, batches = Steps(), []
    model.linear.register_full_backward_hook(
        lambda module, grad_input, grad_output: batches.append(len(grad_output[0]))
    )
    (found,) = [told for told in fxgrad.trace(model, tensor(3, 3)).explain().findings if told.code == "FXG111"]
    model(tensor(3, 3)).backward()
    assert batches == [3, 2, 1]
    assert "in this order: calls 3 to 1." in found.because


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 2), lambda: nn.LSTMCell(3, 2), nn.ReLU, lambda: nn.LayerNorm(3)])
def test_a_hook_must_return_as_many_entries_as_pytorch_expects(make):
    module = make()
    module.register_backward_hook(lambda *given: (None,) * 99)
    (site,) = fxgrad.trace(Around(module), tensor(4, 3)).sites_of(kind=HookKind.MODULE_BACKWARD)
    with pytest.raises(RuntimeError, match="got 99, but expected") as raised:
        Around(module)(tensor(4, 3)).sum().backward()
    (expected,) = re.findall(r"expected (\d+)", str(raised.value))
    assert f"a tuple of {expected} entr" in describe_return(site)


def test_a_removed_hook_is_found_and_does_fire():
    class Removes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.fired = nn.Linear(3, 3), 0

        def forward(self, x):
            handle = self.linear.register_full_backward_hook(self.count)
            result = self.linear(x)
            handle.remove()
            return result

        def count(self, *given):
            self.fired += 1

    model = Removes()
    codes = [told.code for told in fxgrad.trace(model, tensor(4, 3)).explain().findings]
    model(tensor(4, 3)).sum().backward()
    assert (codes, model.fired) == (["FXG110"], 1)


def test_a_model_without_anything_odd_gets_no_finding():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    for module in model:
        module.register_full_backward_hook(silent)
    assert fxgrad.trace(model, tensor(4, 3)).explain().findings == ()


def test_no_torch_is_needed_to_explain():
    import subprocess
    import sys

    program = "import sys, fxgrad.rules, fxgrad.render.report, fxgrad.render.markdown; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_tied_weight_is_named_as_the_graph_names_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[1].register_backward_hook(silent)
    (found,) = [told for told in fxgrad.trace(model, tensor(2, 3)).explain().findings if told.code == "FXG101"]
    assert "Further down is the gradient of `0.weight` (3, 3) at AccumulateGrad_" in found.because
