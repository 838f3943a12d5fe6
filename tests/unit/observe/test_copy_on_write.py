"""Which storages are copied before a call, and that it is those, and no others, that the call writes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from written_storages import Written

from fxgrad.observe.copy_on_write import find_writes

A, B, C = range(3)
Run = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]

WRITES: dict[str, tuple[Run, set[int]]] = {
    "in place": (lambda a, b, c: a.add_(b), {A}),
    "in place, by an operator": (lambda a, b, c: a.__imul__(b), {A}),
    "in place, by keyword": (lambda a, b, c: torch.relu_(input=b.neg_()), {B}),
    "an item": (lambda a, b, c: b.__setitem__(0, c[0]), {B}),
    "a view": (lambda a, b, c: a.detach()[1:].t().zero_(), {A}),
    "several": (lambda a, b, c: torch._foreach_copy_([a, b], [c, c]), {A, B}),
    "out": (lambda a, b, c: torch.mul(a, b, out=c), {C}),
    "several outs": (lambda a, b, c: torch.sort(a.flip(0), 0, out=(b, torch.empty(0, dtype=torch.long))), {B}),
    "an operator's out": (lambda a, b, c: torch.ops.aten.mul.out(a, b, out=c), {C}),
    "a flag": (lambda a, b, c: F.relu(c.neg_(), inplace=True), {C}),
    "a flag by position": (lambda a, b, c: F.leaky_relu(c.neg_(), 0.1, True), {C}),
    "initial values": (lambda a, b, c: nn.init.uniform_(tensor=b, a=1, b=2), {B}),
    "random values": (lambda a, b, c: b.random_(), {B}),
    "statistics": (lambda a, b, c: F.batch_norm(a * 1, b[0], c[0], training=True), {B, C}),
    "operands that change their shape": (lambda a, b, c: a.resize_(5, 3).fill_(2), {A}),
}
READS: dict[str, Run] = {
    "out of place": lambda a, b, c: torch.addmm(a, b, c).relu(),
    "a flag that is not set": lambda a, b, c: F.dropout(F.relu(a), 0.5, True, False),
    "an operator of aten": lambda a, b, c: torch.ops.aten.add.Tensor(a, b),
    "a packet of aten": lambda a, b, c: torch.ops.aten.mm(a, b),
    "an embedding": lambda a, b, c: F.embedding(torch.arange(3), a),
    "attention": lambda a, b, c: F.scaled_dot_product_attention(a[None], b[None], c[None]),
    "others": lambda a, b, c: (a @ b).add_(c).mul_(2),
    "what is no value": lambda a, b, c: (a.requires_grad_(), a.detach_(), a.shape, a.data, a.tolist()),
}


@pytest.mark.parametrize(("run", "written"), WRITES.values(), ids=WRITES)
def test_what_a_call_writes_to_is_copied_before_and_nothing_else(run: Run, written: set[int]) -> None:
    found = run_on_three(run)
    assert (found.changed, found.copied) == (written, written)


@pytest.mark.parametrize("run", READS.values(), ids=READS)
def test_nothing_is_copied_for_a_call_that_writes_to_nothing(run: Run) -> None:
    found = run_on_three(run)
    assert (found.changed, found.copied) == (set(), set())


def run_on_three(run: Run) -> Written:
    tensors = [torch.rand(3, 3) + 0.1 for _ in range(3)]
    found = Written(tensors, lambda: run(*tensors))
    assert found.error is None
    return found


def test_layers_in_training_copy_no_weight() -> None:
    layers = [nn.TransformerEncoderLayer(8, 2, 16), nn.LSTM(8, 8)]
    model, weights = nn.Sequential(*layers), [weight for layer in layers for weight in layer.parameters()]
    assert Written(weights, lambda: model(torch.randn(3, 2, 8))).copied == set()


def test_a_tensor_that_an_array_is_written_through_was_copied() -> None:
    assert run_on_three(lambda a, b, c: b.numpy().fill(0)).copied == {B}


def test_a_write_that_is_not_shown_is_found_to_be_unseen() -> None:
    """Else the oracle could not fail."""
    array = torch.rand(3, 3)
    alias = array.numpy()
    assert Written([array], lambda: alias.fill(0)).unseen == {0}


HOMES = (torch, torch.Tensor, torch._C._nn, torch._C._linalg, torch._C._special, torch._C._sparse, torch._VF)
WRITES_NO_VALUES = {"detach_", "record_stream", "requires_grad_", "retain_grad"}


def test_each_function_of_which_a_schema_says_that_it_writes_is_known() -> None:
    writing = {schema.name.removeprefix("aten::") for schema in torch._C._jit_get_all_schemas() if marked(schema)}
    functions = [(name, getattr(home, name)) for name in writing for home in HOMES if hasattr(home, name)]
    unknown = {name for name, function in functions if find_writes(function) is None}
    assert len(functions) > 400
    assert unknown - WRITES_NO_VALUES == set()


def marked(schema: Any) -> bool:
    arguments = [argument for argument in schema.arguments if "Tensor" in str(argument.type)]
    written = [each for each in arguments if each.alias_info is not None and each.alias_info.is_write]
    return schema.name.startswith("aten::") and any(not argument.kwarg_only for argument in written)
