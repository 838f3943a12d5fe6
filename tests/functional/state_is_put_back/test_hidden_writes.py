"""What writes to a weight where no mode of torch functions sees it is undone all the same; what nobody could undo is
reported."""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from changing_modules import DispatchMode, FunctionMode
from snapshots import changed_by
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

import fxgrad

Write = Callable[[nn.Parameter], Any]
WRITES: dict[str, Write] = {}


def write(function: Write) -> Write:
    WRITES[function.__name__] = function
    return function


class Model(nn.Module):
    """Its forward writes to a weight, then uses it."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.write = write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.write(self.linear.weight)
        return self.linear(x)


def doubled(weight: torch.Tensor) -> torch.Tensor:
    return weight.mul_(2)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions of torch advise against TorchScript
    scripted = torch.jit.script(doubled)


# Torch functions that a mode sees


@write
def an_operator_in_place(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight *= 2


@write
def an_item_set(weight: nn.Parameter) -> None:
    weight.data[0] = 3


@write
def a_view_of_a_view(weight: nn.Parameter) -> None:
    weight.detach().t()[1:].flatten()[:0].sum()
    weight.detach().view(9)[3:].fill_(2)


@write
def an_out_argument(weight: nn.Parameter) -> None:
    torch.add(torch.ones(3, 3), 1, out=weight.data)


@write
def an_argument_by_keyword(weight: nn.Parameter) -> None:
    nn.init.constant_(tensor=weight, val=3.0)


@write
def a_list_of_tensors(weight: nn.Parameter) -> None:
    torch._foreach_mul_([torch.ones(1), weight.data], 2)


@write
def a_flag_by_position(weight: nn.Parameter) -> None:
    F.elu(weight.data, 0.5, True)


@write
def a_max_norm(weight: nn.Parameter) -> None:
    F.embedding(torch.arange(3), weight.data, None, 0.01)


@write
def statistics_of_a_norm(weight: nn.Parameter) -> None:
    F.batch_norm(torch.randn(4, 3), weight.data[0], weight.data[1], training=True)


@write
def an_operator_of_aten(weight: nn.Parameter) -> None:
    torch.ops.aten.add_.Tensor(weight.data, torch.ones(3, 3))
    torch.ops.aten.max.dim_max(torch.ones(2, 3), 0, max=weight.data[0], max_values=torch.zeros(3, dtype=torch.long))


@torch.library.custom_op("fxgrad_tests::double_second", mutates_args=["written"])
def double_second(read: torch.Tensor, written: torch.Tensor) -> None:
    written.mul_(2)


@write
def a_custom_operator(weight: nn.Parameter) -> None:
    double_second(torch.ones(1), weight.data)


@write
def an_optimizer(weight: nn.Parameter) -> None:
    torch.optim.AdamW([weight], lr=0.1).step()


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        weight.data.mul_(2)
        return weight * 1

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


@write
def a_forward_of_a_function(weight: nn.Parameter) -> None:
    Doubling.apply(weight)


@write
def a_transform(weight: nn.Parameter) -> None:
    torch.func.vmap(lambda row: row.mul_(2))(weight.data)


@write
def a_jvp(weight: nn.Parameter) -> None:
    torch.func.jvp(lambda data: data.mul_(2), (weight.data,), (torch.ones(3, 3),))


# Memory that is handed out


@write
def an_array(weight: nn.Parameter) -> None:
    weight.detach().numpy()[0] = 5
    np.asarray(weight.detach())[1] = 6


@write
def an_exchanged_array(weight: nn.Parameter) -> None:
    torch.from_dlpack(weight.detach()).mul_(2)
    np.from_dlpack(weight.detach())[0] = 3


@write
def an_address(weight: nn.Parameter) -> None:
    ctypes.memset(weight.data_ptr(), 0, 12)


@write
def a_storage(weight: nn.Parameter) -> None:
    weight.untyped_storage().fill_(0)


# Code that no mode sees


@write
def a_backward(weight: nn.Parameter) -> None:
    (weight * 2).sum().backward()


@write
def a_backward_of_several(weight: nn.Parameter) -> None:
    torch.autograd.backward([(weight * 2).sum()])


@write
def a_hook_in_backward(weight: nn.Parameter) -> None:
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda grad: weight.data.zero_().sum() * grad)
    torch.autograd.grad(x * 2, x)


@write
def a_scripted_function(weight: nn.Parameter) -> None:
    scripted(weight.data)


@write
def a_thread(weight: nn.Parameter) -> None:
    thread = threading.Thread(target=weight.data.mul_, args=(2,))
    thread.start()
    thread.join()


@write
def where_torch_functions_are_disabled(weight: nn.Parameter) -> None:
    with torch._C.DisableTorchFunction():
        weight.data.mul_(2)


class Hiding(FunctionMode):
    """Writes in the middle of every operation."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            self.weight.mul_(2)
        return function(*args, **(kwargs or {}))


@write
def a_mode_of_functions(weight: nn.Parameter) -> None:
    with Hiding(weight.data):
        torch.ones(1) + 1


class HidingDispatch(DispatchMode):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.weight.mul_(2)
        return function(*args, **(kwargs or {}))


@write
def a_mode_of_dispatch(weight: nn.Parameter) -> None:
    with HidingDispatch(weight.data):
        torch.ones(1) + 1


class Writing(torch.Tensor):
    weight: torch.Tensor

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.weight.mul_(2)
        return super().__torch_function__(function, types, args, kwargs)


@write
def a_class_of_tensors(weight: nn.Parameter) -> None:
    Writing.weight = weight.data
    torch.ones(1).as_subclass(Writing) + 1


def overridable(tensor: torch.Tensor, weight: torch.Tensor) -> None:
    if has_torch_function_unary(tensor):
        return handle_torch_function(overridable, (tensor,), tensor, weight)
    weight.mul_(2)
    return None


@write
def a_function_that_can_be_overridden(weight: nn.Parameter) -> None:
    overridable(torch.ones(1), weight.data)
    weight.data.mul_(2)


# Tests


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_weight_is_as_before_a_trace(write: Write) -> None:
    model, x = Model(write), torch.randn(4, 3)
    model.linear.weight.grad = torch.ones(3, 3)
    assert changed_by(lambda: fxgrad.trace(model, x), model, x) == []


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_each_write_changes_the_weight_or_its_gradient(write: Write) -> None:
    """Else the test above could not fail."""
    weight = nn.Parameter(torch.randn(3, 3))
    weight.grad = torch.ones(3, 3)
    before = weight.tolist()
    write(weight)
    assert (weight.tolist(), weight.grad.tolist()) != (before, torch.ones(3, 3).tolist())


@pytest.mark.parametrize("mode", [Hiding, HidingDispatch])
def test_weight_is_as_before_where_a_mode_of_the_caller_writes_to_it(mode: Callable[[torch.Tensor], Any]) -> None:
    class Doing(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            entered.weight = self.linear.weight.data
            result = super().forward(x)
            entered.weight = torch.ones(1)
            return result

    model, x = Doing(lambda weight: None), torch.randn(4, 3)

    with mode(torch.ones(1)) as entered:
        before = model.linear.weight.tolist()
        fxgrad.trace(model, x)
        assert model.linear.weight.tolist() == before


def test_part_of_a_complex_weight_is_as_before() -> None:
    """No mode sees it being set."""

    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.data.real = torch.zeros(3)
            return (x * self.weight).real

    model, x = Complex(), torch.randn(4, 3)
    assert changed_by(lambda: fxgrad.trace(model, x), model, x) == []


def multiply(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


@pytest.mark.parametrize("work", [multiply, lambda weight: weight.data.mul_(2)], ids=["counted", "not counted"])
def test_what_a_thread_writes_that_was_there_before_is_reported(work: Write) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # its thread runs
        model = Model(lambda weight: pool.submit(work, weight).result())
        with pytest.warns(UserWarning, match="fxgrad cannot put back the values of linear.weight: ") as caught:
            fxgrad.trace(model, torch.randn(4, 3))
    assert "trace a copy of the model" in str(caught[0].message)
