"""Hooks on what torch.compile returns, and on modules whose flag tells no kind: PyTorch calls none of them."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

import fxgrad
from fxgrad.graph import HookKind

FULL, LEGACY, PRE = HookKind.MODULE_FULL_BACKWARD, HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD_PRE
REGISTER = {
    FULL: "register_full_backward_hook",
    LEGACY: "register_backward_hook",
    PRE: "register_full_backward_pre_hook",
}

pytestmark = pytest.mark.filterwarnings("ignore")  # Dynamo breaks graphs at hooks


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def compiled() -> nn.Module:
    made = torch.compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), backend="aot_eager")
    assert isinstance(made, nn.Module)
    return made


def tensor() -> torch.Tensor:
    return torch.ones(2, 3, requires_grad=True)


def on_wrapper(wrapper: nn.Module, kind: HookKind) -> list[str]:
    fired: list[str] = []
    getattr(wrapper, REGISTER[kind])(lambda *given: fired.append(kind.value))
    return fired


@pytest.mark.parametrize("place", ["the model", "inside a model"])
@pytest.mark.parametrize("kind", REGISTER)
def test_a_hook_on_the_wrapper_fires_as_predicted_compiled_and_traced(kind: HookKind, place: str) -> None:
    wrapper = compiled()
    model = wrapper if place == "the model" else nn.Sequential(wrapper, nn.Linear(3, 1))
    fired = on_wrapper(wrapper, kind)
    (site,) = fxgrad.trace(model, tensor()).sites
    assert (site.hook.kind, site.hook.owner) == (kind, "" if place == "the model" else "0")
    model(tensor()).sum().backward()
    assert len(fired) == site.times == (1 if kind is PRE else 0)


@pytest.mark.parametrize("kind", REGISTER)
def test_a_probe_of_the_wrapper_agrees_with_registering(kind: HookKind) -> None:
    probe = fxgrad.probe(compiled(), tensor(), module="", kind=kind)
    wrapper = compiled()
    on_wrapper(wrapper, kind)
    (site,) = fxgrad.trace(wrapper, tensor()).sites
    assert [(told.fires, told.times, told.reason) for told in probe.sites] == [(site.fires, site.times, site.reason)]
    assert probe.refused is None


def test_the_reason_names_the_module_inside_and_the_fix_makes_it_fire() -> None:
    wrapper = compiled()
    fired = on_wrapper(wrapper, FULL)
    trace = fxgrad.trace(wrapper, tensor())
    assert trace.sites[0].reason == (
        "torch.compile returned this module, and registering on it sets _is_full_backward_hook of _orig_mod, the "
        "module inside; no call captures the hooks of this module itself"
    )
    (told,) = [finding for finding in trace.explain().findings if finding.code == "FXG104"]
    assert told.fix == "register it on `_orig_mod`, the module inside, before the first call"
    inside = wrapper._orig_mod
    assert isinstance(inside, nn.Module)
    inside.register_full_backward_hook(lambda *given: fired.append("inside"))
    wrapper(tensor()).sum().backward()
    assert fired == ["inside"]


def test_registering_on_the_wrapper_changes_the_kind_of_the_hooks_inside() -> None:
    wrapper = compiled()
    fired: list[int] = []
    inside = wrapper._orig_mod
    assert isinstance(inside, nn.Module)
    inside.register_backward_hook(lambda module, grad_input, grad_output: fired.append(len(grad_input)))
    probe = fxgrad.probe(wrapper, tensor(), module="", kind=FULL)
    assert [(before.hook.kind, after.hook.kind) for before, after in probe.moved] == [(LEGACY, FULL)]
    on_wrapper(wrapper, FULL)
    assert [(site.hook.owner, site.hook.kind) for site in fxgrad.trace(wrapper, tensor()).sites] == [
        ("_orig_mod", FULL),
        ("", FULL),
    ]


def test_a_flag_that_was_set_back_leaves_hooks_that_no_call_takes_along() -> None:
    model, fired = nn.Linear(3, 2), []
    model.register_full_backward_hook(lambda *given: fired.append(1))
    model._is_full_backward_hook = None
    (site,) = fxgrad.trace(model, tensor()).sites
    assert (site.fires, site.reason) == (
        False,
        "its _is_full_backward_hook is None, so its calls capture neither full nor non-full hooks",
    )
    model(tensor()).sum().backward()
    assert fired == []


def test_a_global_flag_that_was_set_back_leaves_hooks_that_no_call_takes_along() -> None:
    fired: list[int] = []
    handle = module_hooks.register_module_full_backward_hook(lambda *given: fired.append(1))
    module_hooks._global_is_full_backward_hook = None
    try:
        model = nn.Linear(3, 2)
        (site,) = fxgrad.trace(model, tensor()).sites
        model(tensor()).sum().backward()
    finally:
        handle.remove()
    assert (site.fires, fired) == (False, [])
    assert site.reason == "_global_is_full_backward_hook is None, so calls capture neither full nor non-full hooks"
