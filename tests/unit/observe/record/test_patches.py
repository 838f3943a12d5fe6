"""What compiles itself, or is compiled, while a forward is recorded."""

import pytest
import torch
from torch import nn

import fxgrad
from tests.support.targets import python

pytestmark = pytest.mark.filterwarnings("ignore")  # Dynamo's, of what it has to do twice


@pytest.fixture(autouse=True)
def dynamo():
    yield
    torch._dynamo.reset()


class WithOperator(nn.Module):
    """Calls an operator that takes functions; one of these uses a parameter that it is not given."""

    def __init__(self, operator):
        super().__init__()
        self.linear, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
        self.operator = operator
        self.scale.register_hook(lambda grad: None)
        self.linear.register_full_backward_hook(lambda module, grad_input, grad_output: None)

    def forward(self, x):
        return self.operator(self.linear(x), self.scale)


def conditional(x, scale):
    return torch.cond(x.sum() > 0, lambda y: y * scale, lambda y: y + scale, (x,))


def mapped(x, scale):
    from torch._higher_order_ops.map import map as map_rows

    return map_rows(lambda row, other: row * other, x, scale)


def scanned(x, scale):
    from torch._higher_order_ops.scan import scan

    return scan(lambda carried, row: (carried + row, carried * row), scale * 1, x)[1]


OPERATORS = [conditional, mapped, scanned]


def names_of_nodes(output):
    return sorted(node.name for node in fxgrad.capture(output).graph.nodes)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_graph_of_an_operator_that_compiles_itself_is_the_real_one(operator):
    model, x = WithOperator(operator), torch.randn(3, 3)
    assert sorted(node.name for node in fxgrad.trace(model, x).graph.nodes) == names_of_nodes(model(x))


@pytest.mark.parametrize("operator", OPERATORS)
def test_its_hooks_are_called_as_predicted(operator):
    verified = fxgrad.verify(WithOperator(operator), torch.randn(3, 3))
    assert verified.ok, str(verified)
    assert [site.fires for site in verified.graph.sites] == [True, True]


@pytest.mark.parametrize("operator", OPERATORS)
def test_its_call_is_one_node_of_the_recorded_forward_which_cannot_run_again(operator):
    model, x = WithOperator(operator), torch.randn(3, 3)
    trace = fxgrad.trace(model, x)
    trace.forward.lint()
    made_by = [node.fx_node for node in trace.graph.nodes if node.kind is fxgrad.NodeKind.CUSTOM_FUNCTION]
    assert made_by
    assert set(made_by) <= {node.name for node in trace.forward.nodes}
    with pytest.raises(fxgrad.UsageError, match="a function that may hold tensors of the run"):
        trace.forward_module(model)


IN_A_FRESH_PROCESS = """
import sys, warnings
warnings.simplefilter("ignore")
import torch, fxgrad
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
    def forward(self, x):
        {forward}

assert "torch._dynamo" not in sys.modules
nodes = fxgrad.trace(Model(), torch.randn(3, 3)).graph.nodes
assert "torch._dynamo" in sys.modules
print([node.label for node in nodes])
print(torch._dynamo.eval_frame._stance.stance, torch.compile.__module__)
"""


@pytest.mark.parametrize(
    ("forward", "first"),
    [
        ("return torch.cond(x.sum() > 0, lambda y: self.linear(y), torch.sin, (x,))", "CondAutogradOpBackward_0"),
        ("return torch.compile(torch.sin, backend='aot_eager')(self.linear(x))", "SinBackward0_0"),
    ],
)
def test_the_compiler_may_be_imported_while_forward_runs(forward, first):
    ran = python("-c", IN_A_FRESH_PROCESS.format(forward=forward))
    assert ran.stderr == ""
    labels, left = ran.stdout.splitlines()
    assert labels.startswith(f"['{first}'")
    assert left == "default torch"


def test_a_stance_that_the_program_has_chosen_is_there_again_after_a_trace():
    with torch.compiler.set_stance("eager_on_recompile"):
        fxgrad.trace(WithOperator(mapped), torch.randn(3, 3))
        assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_function_modes_that_the_program_has_entered_see_the_call_and_stay_in_order():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            with Mode() as mode:
                result = mapped(x, self.scale)
                assert torch.overrides._get_current_function_mode() is mode
            return result

    with Mode() as around:
        fxgrad.trace(Inside(), torch.randn(3, 3, requires_grad=True))
        assert torch.overrides._get_current_function_mode() is around
