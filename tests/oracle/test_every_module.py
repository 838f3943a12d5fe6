"""Every module of torch.nn with hooks on it and on all modules inside it, in every way to register them."""

import pytest
import torch
from module_hooks import Comparison, backward, compare
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import module_db

from fxgrad.graph import HookKind

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 6

REGISTER = {
    "legacy": lambda notebook, path, module: notebook.legacy(module, f"legacy {path}"),
    "full": lambda notebook, path, module: notebook.full(module, f"full {path}"),
    "pre": lambda notebook, path, module: notebook.full_pre(module, f"pre {path}"),
}


def with_grad(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.is_floating_point())
    return type(value)(map(with_grad, value)) if isinstance(value, (tuple, list)) else value


def models_and_inputs(info, *, training):
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for _, sample in zip(range(SAMPLES), samples, strict=False):
        made = sample.constructor_input
        if sample.forward_input is not None:
            yield info.module_cls(*made.args, **made.kwargs).to(torch.float64).train(training), sample.forward_input


def runs(model, args, kwargs):
    torch.manual_seed(1)
    try:
        backward(model(*args, **kwargs), None)
    except Exception:  # whatever the sample's own module raises with these hooks
        return False
    return True


def compared_module(notebook, model, given, register):
    kwargs = dict(given.kwargs)
    for path, module in model.named_modules():
        register(notebook, path, module)
    if not runs(model, with_grad(tuple(given.args)), kwargs):
        return Comparison()
    torch.manual_seed(1)
    _, comparison = compare(notebook, model, lambda: with_grad(tuple(given.args)), kwargs)
    return comparison


@pytest.mark.parametrize("way", [*REGISTER, "global full", "global legacy"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_no_hook_of_any_module_is_predicted_wrongly(notebook, way, training):
    entries, wrong = 0, []
    kinds = {"global full": HookKind.GLOBAL_FULL_BACKWARD, "global legacy": HookKind.GLOBAL_BACKWARD}
    if way in kinds:
        notebook.everywhere(way, kinds[way])
    for info in module_db:
        if issubclass(info.module_cls, LazyModuleMixin):
            continue
        for model, given in models_and_inputs(info, training=training):
            comparison = compared_module(notebook, model, given, REGISTER.get(way, lambda *_: None))
            entries += comparison.entries
            wrong += [f"{info.name}: {text}" for text in comparison.wrong]
    assert not wrong, "\n".join(wrong[:20])
    assert entries > 500
