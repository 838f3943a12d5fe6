"""The recorded forward of every module of torch.nn, with every input that PyTorch's own tests give it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recorded_forward import REFUSED, Inputs, recorded_forward_problems
from tally import Tally, tally_of
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.utils._pytree import tree_map

import fxgrad

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
CHUNKS = 8
FORWARD = "forward"
"""What is compared: lint, metadata, nodes, and what running it again gives."""


def copied(value: Any) -> Any:
    def copy_of(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone().requires_grad_(leaf.requires_grad)
        return copy.deepcopy(leaf)

    return tree_map(copy_of, value)


def samples(info: ModuleInfo, *, training: bool) -> Iterator[tuple[nn.Module, Inputs]]:
    for sample in info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    ):
        made = sample.constructor_input
        model = info.module_cls(*made.args, **made.kwargs).to(torch.float64).train(training)
        given = sample.forward_input
        yield model, ((), {}) if given is None else (tuple(given.args), dict(given.kwargs))


def check(info: ModuleInfo, model: nn.Module, inputs: Inputs, tally: Tally) -> None:
    if isinstance(model, LazyModuleMixin):
        torch.manual_seed(0)
        model(*copied(inputs)[0], **copied(inputs)[1])  # lazy modules are refused until they have run once
    refusal = own_failure(model, inputs)
    if refusal is not None:
        tally.skip(refusal)
        return
    tally.tried += 1
    try:
        found = recorded_forward_problems(model, lambda: copied(inputs))
    except Exception as error:  # reported with the input it came from
        found = [f"{type(error).__name__}: {error}"]
    tally.unknown.update(text for text in found if text.startswith(REFUSED))
    found = [text for text in found if not text.startswith(REFUSED)]
    tally.wrong[FORWARD] += len(found)
    tally.texts += [f"{info.name}{tuple(inputs[0])!s:.60} {model.extra_repr()}: {text}" for text in found]


def own_failure(model: nn.Module, inputs: Inputs) -> str | None:
    """Why the module itself gives nothing to record: PyTorch raises, or nothing requires grad."""
    args, kwargs = copied(inputs)
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    try:
        result = twin(*args, **kwargs)
    except Exception as error:  # PyTorch's own
        return f"{type(error).__name__} for these arguments"
    if not any(tensor.requires_grad for _, tensor in fxgrad.observe.record.tensors.find_tensor_routes(result)):
        return "nothing that it returns requires grad"
    return None


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_recorded_forward_of_a_module_gives_what_the_module_gives(chunk, training):
    row = f"{'train' if training else 'eval'}, modules {chunk + 1} of {CHUNKS}"
    tally = tally_of("the recorded forward of every module of torch.nn", row, properties=[FORWARD])
    for info in module_db[chunk::CHUNKS]:
        torch.manual_seed(0)
        for model, inputs in samples(info, training=training):
            check(info, model, inputs, tally)
    tally.assert_nothing_is_wrong()
    assert tally.tried > 0
    assert not tally.unknown, "a module of torch.nn that no GraphModule can repeat"
