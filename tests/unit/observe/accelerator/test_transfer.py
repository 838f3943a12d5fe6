"""Copies of live tensors and modules on the emulated device."""

import dataclasses
from collections import OrderedDict, UserDict, namedtuple

import pytest
import torch
from torch import nn

from fxgrad.errors import UsageError
from fxgrad.observe.accelerator.transfer import fake_copy, move_module
from tests.support.emulation import arguments, emulated

Pair = namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Batch:
    tokens: torch.Tensor
    name: str


def described(tensor):
    traits = [
        str(tensor.dtype),
        str(tensor.device),
        tensor.requires_grad,
        tensor.is_leaf,
        isinstance(tensor, nn.Parameter),
    ]
    return [list(tensor.shape), list(tensor.stride()), *traits]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.randn(2, 3), [[2, 3], [3, 1], "torch.float32", "cuda:0", False, True, False]),
        (torch.randn(3, 2).t().requires_grad_(), [[2, 3], [1, 2], "torch.float32", "cuda:0", True, True, False]),
        (torch.arange(4), [[4], [1], "torch.int64", "cuda:0", False, True, False]),
        (nn.Parameter(torch.zeros(2)), [[2], [1], "torch.float32", "cuda:0", True, True, True]),
        (nn.Parameter(torch.zeros(2), requires_grad=False), [[2], [1], "torch.float32", "cuda:0", False, True, True]),
    ],
)
def test_a_copy_looks_like_its_original(tensor, expected):
    assert emulated(lambda device: described(fake_copy(tensor, device))) == expected


def test_containers_of_every_kind_are_copied_with_the_tensors_in_them():
    tensor = torch.zeros(2)
    given = {
        "list": [tensor, 1],
        "tuple": (tensor, "two"),
        "named": Pair(tensor, None),
        "ordered": OrderedDict(a=tensor),
        "user": UserDict(a=tensor),
        "batch": Batch(tensor, "name"),
        "nested": {"deep": [({"er": tensor},)]},
    }

    def program(device):
        copy = fake_copy(given, device)
        found = [
            copy["list"][0],
            copy["tuple"][0],
            copy["named"].left,
            copy["ordered"]["a"],
            copy["user"]["a"],
            copy["batch"].tokens,
            copy["nested"]["deep"][0][0]["er"],
        ]
        same_types = all(type(copy[key]) is type(value) for key, value in given.items())
        return [same_types, all(each is found[0] for each in found), str(found[0].device), copy["batch"].name]

    assert emulated(program) == [True, True, "cuda:0", "name"]


def test_what_holds_no_tensor_is_not_copied():
    given = [1, ("a", {"b": None}), object()]
    assert emulated(lambda device: fake_copy(given, device) is given)


def test_a_container_that_holds_itself_is_no_obstacle():
    given = [torch.zeros(2)]
    given.append(given)
    assert emulated(lambda device: str(fake_copy(given, device)[0].device)) == "cuda:0"


def test_a_memo_makes_the_same_copy_twice():
    tensor = torch.zeros(2)

    def program(device):
        memo = {}
        return fake_copy(tensor, device, memo=memo) is fake_copy([tensor], device, memo=memo)[0]

    assert emulated(program)


def test_hooks_stay_the_same_and_run():
    leaf = torch.zeros(3, requires_grad=True)
    seen = []
    leaf.register_hook(lambda grad: seen.append("tensor hook"))
    leaf.register_post_accumulate_grad_hook(lambda tensor: seen.append("post-accumulate hook"))

    def program(device):
        copy = fake_copy(leaf, device)
        kept = copy._backward_hooks is leaf._backward_hooks
        kept_after = copy._post_accumulate_grad_hooks is leaf._post_accumulate_grad_hooks
        (copy * 2).sum().backward()
        return [kept, kept_after, *seen]

    assert emulated(program) == [True, True, "tensor hook", "post-accumulate hook"]


def test_what_is_on_the_device_already_stays_as_it_is():
    def program(device):
        tensor = torch.zeros(2)
        return fake_copy([tensor], device)[0] is tensor

    assert emulated(program)


def test_a_fake_tensor_of_another_device_is_copied():
    def program(device):
        parameter = nn.Parameter(torch.zeros(2, device="cpu"))
        copy = fake_copy(parameter, device)
        return [str(parameter.device), str(copy.device), isinstance(copy, nn.Parameter)]

    assert emulated(program) == ["cpu", "cuda:0", True]


def test_a_model_on_the_meta_device_can_be_moved():
    model = nn.Linear(3, 4, device="meta")

    def program(device):
        move_module(model, device)
        return arguments(model(torch.randn(2, 3)))[0]

    assert emulated(program) == "AddmmBackward0"


def test_attributes_that_were_put_on_a_tensor_are_there():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.no_weight_decay = True
    assert emulated(lambda device: fake_copy(parameter, device).no_weight_decay)


@pytest.mark.parametrize(
    ("tensor", "given"),
    [
        (torch.zeros(3, requires_grad=True) * 2, "a tensor of shape (3,) that is a result of MulBackward0"),
        (torch.zeros(3, 3).to_sparse(), "a tensor of layout torch.sparse_coo"),
        (nn.LazyLinear(3).weight, "a lazy parameter, which has no shape yet"),
    ],
)
def test_a_tensor_that_cannot_be_copied_is_refused_with_the_reason(tensor, given):
    with pytest.raises(UsageError) as caught:
        emulated(lambda device: str(fake_copy(tensor, device)))
    assert caught.value.given == given


def test_a_tensor_of_a_subclass_with_its_own_behaviour_is_refused():
    from torch.testing._internal.two_tensor import TwoTensor

    with pytest.raises(UsageError, match="a tensor of type TwoTensor"):
        emulated(lambda device: str(fake_copy(TwoTensor(torch.zeros(2), torch.zeros(2)), device)))


class Stateful(nn.Module):
    """Holds tensors in every place that a module can."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.cell = nn.LSTMCell(4, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(4))
        self.states = [torch.zeros(2, 4), torch.zeros(2, 4)]
        self.bias = torch.zeros(5)
        self.alias = self.head
        self.last = (torch.zeros(1, requires_grad=True) * 2,)

    def forward(self, tokens):
        hidden, cell = self.cell(self.embedding(tokens) * self.scale, tuple(self.states))
        self.states = [hidden, cell]
        return self.alias(hidden) + self.bias


def test_a_moved_module_runs_on_the_device_with_everything_that_it_holds():
    model, tokens = Stateful(), torch.tensor([1, 2])

    def program(device):
        memo = {}
        move_module(model, device, memo=memo)
        output = model(fake_copy(tokens, device, memo=memo))
        output.sum().backward()
        tied = model.head.weight is model.embedding.weight
        return [str(output.device), tied, list(model.embedding.weight.grad.shape), str(model.last[0].device)]

    assert emulated(program) == ["cuda:0", True, [5, 4], "cpu"]


def test_a_moved_recurrent_layer_uses_its_moved_weights():
    model = nn.LSTM(3, 4)

    def program(device):
        move_module(model, device)
        output, _ = model(torch.randn(5, 2, 3))
        weight = output.grad_fn.next_functions[1][0].variable
        return [arguments(output)[0], weight is model.weight_ih_l0]

    assert emulated(program) == ["CudnnRnnBackward0", True]


def test_module_hooks_run_on_the_moved_module():
    model = nn.LSTMCell(3, 4)
    seen = []
    model.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(len(grad_output)))

    def program(device):
        move_module(model, device)
        model(torch.randn(2, 3, requires_grad=True))[0].sum().backward()
        return seen

    assert emulated(program) == [2]


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_script_module_is_refused():
    model = torch.jit.trace(nn.Linear(3, 4), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="a ScriptModule"):
        emulated(lambda device: move_module(model, device))
