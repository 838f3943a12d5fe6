"""No warning is untrue: modules of torch.nn without hooks, against what backward leaves without a gradient."""

from __future__ import annotations

import pytest
import torch
from module_hooks import backward
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_leaves

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.rules import explain
from fxgrad.rules.fxg2_gradients import find_lost_gradients

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
INFOS = [info for info in module_db if not issubclass(info.module_cls, LazyModuleMixin)]
SAMPLES = 8


def with_grad(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.is_floating_point())
    return type(value)(map(with_grad, value)) if isinstance(value, (tuple, list)) else value


def models_and_inputs(info, *, training):
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for _, sample in zip(range(SAMPLES), samples, strict=False):
        made, given = sample.constructor_input, sample.forward_input
        if given is not None:
            model = info.module_cls(*made.args, **made.kwargs).to(torch.float64).train(training)
            yield model, tuple(given.args), dict(given.kwargs)


def without_grad(model, args, kwargs):
    """The parameters that require grad and that a real backward leaves without one; None where none can be run."""
    torch.manual_seed(1)
    try:
        backward(model(*with_grad(args), **kwargs), None)
    except (RuntimeError, TargetError):
        return None
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None}


def gets_zeros(model, args, kwargs):
    """Whether a real backward leaves nothing but zeros at a parameter or an input."""
    torch.manual_seed(1)
    given = with_grad(args)
    backward(model(*given, **kwargs), None)
    leaves = [*model.parameters(), *tree_leaves((given, kwargs))]
    grads = [leaf.grad for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.grad is not None]
    return any(grad.numel() and not grad.any() for grad in grads)


def observed(model, args, kwargs):
    torch.manual_seed(1)
    return fxgrad.trace(model, with_grad(args), kwargs).graph


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_a_module_of_torch_without_hooks_is_warned_of_exactly_for_parameters_that_get_no_gradient(info, training):
    for model, args, kwargs in models_and_inputs(info, training=training):
        missing = without_grad(model, args, kwargs)
        if missing is not None:
            graph = observed(model, args, kwargs)
            warned = {told.code for told in explain(graph) if told.severity != "info"}
            assert {lost.parameter.name for lost in find_lost_gradients(graph)} == missing
            assert "FXG205" not in warned or gets_zeros(model, args, kwargs)
            assert warned - {"FXG205"} <= ({"FXG201", "FXG204"} if missing else set())
