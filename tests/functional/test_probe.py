"""What a hook would get, held against really registering it and running backward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from needs import needs_emulation
from probed_hooks import GLOBAL, LOCAL, assert_as_in_reality
from torch import nn
from zoo import ZOO

import fxgrad
from fxgrad import HookKind, api
from fxgrad.errors import TargetError, UsageError
from fxgrad.graph import Gradient
from fxgrad.target_options import TargetOptions

LEGACY, FULL, PRE = LOCAL
REGISTER = {
    LEGACY: nn.Module.register_backward_hook,
    FULL: nn.Module.register_full_backward_hook,
    PRE: nn.Module.register_full_backward_pre_hook,
}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTMCell(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.inner(x)
        return self.inner(x, state)[0]


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))
        self.inner = nn.Bilinear(4, 4, 4)
        self.inner.forward = lambda x, y: x * 2  # type: ignore[method-assign]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, self.bias)


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)))


def tensor(*, requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(3, 4, requires_grad=requires_grad)


CASES: list[tuple[Callable[[], nn.Module], str]] = [
    (sequential, ""),
    (sequential, "0"),
    (sequential, "1"),
    (sequential, "2"),
    (Twice, "inner"),
    (Cell, "inner"),
]


def contents(sites: Any) -> list[object]:
    return [
        (
            site.call,
            site.fires,
            site.times,
            [(g.status, g.shape, g.dtype) for g in site.grad_input],
            [(g.status, g.shape, g.dtype) for g in site.grad_output],
        )
        for site in sites
    ]


# As in reality


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("kind", LOCAL, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("make", "path"), CASES)
def test_a_hook_gets_what_it_gets_when_it_is_registered(make, path: str, kind: HookKind, requires_grad: bool) -> None:
    model, x = make(), tensor(requires_grad=requires_grad)
    probe = fxgrad.probe(model, x, module=path, kind=kind)
    REGISTER[kind](model.get_submodule(path), lambda *arguments: None)
    verification = fxgrad.verify(model, x)
    assert probe.refused is None
    assert verification.ok
    assert contents(probe.sites) == contents(verification.graph.sites)


SAMPLE = ["lstm", "cells_unrolled", "residual", "checkpoint_with_dropout", "func_grad"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*LOCAL, *GLOBAL], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_model_of_the_zoo_is_probed_as_in_reality(name: str, kind: HookKind) -> None:
    """All of them, at each of their modules, are in tests/oracle/test_probe_zoo.py."""
    assert_as_in_reality(lambda _: ZOO[name](), "", kind, others=True)


# How a module and a kind are given


@pytest.mark.parametrize("module", ["2.0", "2[0]", "[2][0]", lambda model: model[2][0]])
def test_a_module_is_a_path_or_the_module_itself(module: Any) -> None:
    model = sequential()
    probe = fxgrad.probe(model, tensor(), module=module(model) if callable(module) else module, kind=FULL)
    assert [site.call for site in probe.sites] == ["2.0#1"]


@pytest.mark.parametrize(
    "kind", [PRE, "Module.register_full_backward_pre_hook", "Module.register_full_backward_pre_hook"[3:]]
)
def test_a_kind_is_a_member_or_the_name_of_its_function_or_an_end_of_it(kind: Any) -> None:
    (site,) = fxgrad.probe(sequential(), tensor(), module="0", kind=kind).sites
    assert site.hook.kind is PRE


def test_a_global_hook_has_a_site_at_every_call_of_every_module() -> None:
    probe = fxgrad.probe(sequential(), tensor(), module="", kind=HookKind.GLOBAL_FULL_BACKWARD)
    assert {site.call for site in probe.sites} == {"#1", "0#1", "1#1", "2#1", "2.0#1", "2.1#1"}


TARGET = """
import torch
from torch import nn

def build():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return model, (torch.ones(5, 4, requires_grad=True),)
"""
Shapes = list[tuple[int, ...] | None]


def really_called(path: str, kind: HookKind, inputs: str, called: str) -> list[tuple[Shapes, ...]]:
    """The shapes that the hook gets in each of its calls."""
    program: dict[str, Any] = {}
    exec(TARGET, program)
    model, args = program["build"]()
    calls: list[tuple[Shapes, ...]] = []
    REGISTER[kind](
        model.get_submodule(path),
        lambda _, *given: calls.append(
            tuple([None if each is None else tuple(each.shape) for each in gradients] for gradients in given)
        ),
    )
    loss, leaf = model(*args).sum(), model.get_parameter(inputs)
    if called == "grad":
        torch.autograd.grad(loss, [leaf])
    else:
        loss.backward(inputs=[leaf])
    return calls


def shape_of(gradient: Gradient) -> Any:
    assert gradient.status != "unknown"
    return gradient.shape if gradient.status == "tensor" else None


@pytest.mark.filterwarnings("ignore:Using (a )?non-full backward hook:FutureWarning")
@pytest.mark.parametrize("called", ["backward", "grad"])
@pytest.mark.parametrize("inputs", ["0.weight", "2.weight"])
@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("path", ["0", "1", "2"])
def test_a_target_is_probed_for_the_call_of_backward_that_is_asked_about(
    tmp_path: Path, path: str, kind: HookKind, inputs: str, called: str
) -> None:
    (tmp_path / "model.py").write_text(TARGET)
    options = TargetOptions(str(tmp_path / "model.py"), backward_inputs=(inputs,), backward_api=called)
    sites = api.probe_target(options, path, kind).sites
    predicted = [
        tuple([shape_of(gradient) for gradient in side] for side in (site.grad_input, site.grad_output) if side)
        for site in sites
        if site.fires
    ]
    assert {site.fires for site in sites} <= {True, False}
    assert predicted == really_called(path, kind, inputs, called)


def test_a_loss_decides_what_backward_reaches() -> None:
    model = nn.LSTM(4, 4)
    with_loss = fxgrad.probe(model, tensor(), module="", kind=FULL, loss=lambda output: output[1][0].sum())
    assert [site.fires for site in with_loss.sites] == [False]
    assert [site.fires for site in fxgrad.probe(model, tensor(), module="", kind=FULL).sites] == [True]


@needs_emulation
@pytest.mark.parametrize("module", ["inner", lambda model: model.inner])
def test_a_live_model_is_probed_on_a_device_that_is_not_there(module: Any) -> None:
    model = Cell()
    given = module(model) if callable(module) else module
    probe = fxgrad.probe(model, tensor(), module=given, kind=LEGACY, device="cuda")
    assert [len(site.grad_input) for site in probe.sites] == [5, 5]
    assert probe.explanations.graph.info.emulated
    assert model.inner._is_full_backward_hook is None


# What is refused


def test_a_legacy_hook_beside_a_full_one_is_refused_and_explained() -> None:
    model = sequential()
    model[0].register_full_backward_hook(lambda *arguments: None)
    probe = fxgrad.probe(model, tensor(), module="0", kind=LEGACY)
    assert probe.sites == probe.moved == probe.zeros == ()
    assert probe.refused is not None
    assert probe.refused in " ".join(str(probe).split())
    assert [told.code for told in probe.explanations.findings] == ["FXG108"]


def test_a_change_in_place_is_refused_and_explained() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    probe = fxgrad.probe(model, tensor(), module="0", kind=FULL)
    assert "is being modified inplace" in (probe.refused or "")
    assert [told.code for told in probe.explanations.findings] == ["FXG106"]
    assert not any(node.kind is fxgrad.NodeKind.BACKWARD_HOOK for node in probe.explanations.graph.nodes)


@pytest.mark.parametrize("kind", [kind for kind in HookKind if not kind.is_module], ids=lambda kind: kind.name)
def test_a_kind_that_is_not_registered_on_modules_is_refused_as_usage(kind: HookKind) -> None:
    with pytest.raises(UsageError) as raised:
        fxgrad.probe(sequential(), tensor(), module="", kind=kind)
    assert str(raised.value) == (
        f"what {kind.value} would get\n  allowed: a hook that is registered on modules: Module.register_backward_hook, "
        "Module.register_full_backward_hook, Module.register_full_backward_pre_hook, register_module_backward_hook, "
        "register_module_full_backward_hook, register_module_full_backward_pre_hook\n  try: register it and trace "
        "again: such a hook sits where you register it"
    )


def test_an_error_of_the_model_itself_says_why() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    model[0].register_full_backward_hook(lambda *arguments: None)
    with pytest.raises(TargetError, match="FXG106"):
        fxgrad.probe(model, tensor(), module="1", kind=PRE)


# What is shown


def test_the_text_says_what_is_supposed_then_the_sites_and_findings() -> None:
    probe = fxgrad.probe(Cell(), tensor(), module="inner", kind=LEGACY)
    lines = str(probe).splitlines()
    assert lines[:2] == [
        "roots: the output of forward",
        "not registered, only tried: register_backward_hook on `inner`",
    ]
    assert any(line.startswith("inner   LSTMCell(4, 4)   2 calls   register_backward_hook(hook)") for line in lines)
    assert {"FXG101", "FXG111"} <= {told.code for told in probe.explanations.findings}
    assert all(told.site in probe.sites for told in probe.explanations.findings)


def test_a_global_hook_is_supposed_on_every_module() -> None:
    probe = fxgrad.probe(nn.Linear(4, 4), tensor(), module="", kind=HookKind.GLOBAL_BACKWARD)
    assert "not registered, only tried: register_module_backward_hook on every module" in str(probe).splitlines()


def test_the_text_lists_the_hooks_that_it_moves() -> None:
    def watch(module, grad_input, grad_output):
        pass

    model = sequential()
    model[2].register_backward_hook(watch)
    probe = fxgrad.probe(model, tensor(), module="2.1", kind=FULL)
    assert len(probe.moved) == 1
    text = " ".join(str(probe).partition("other hooks it would move\n")[2].split())
    assert "2 register_backward_hook(watch) grad_input" in text
    assert text.endswith("at BackwardHookFunctionBackward_0")


def test_the_text_lists_what_gets_zeros() -> None:
    probe = fxgrad.probe(Unused(), tensor(), module="inner", kind=FULL)
    assert probe.zeros == ("bias",)
    assert "with the hook, the gradient of `bias` is zeros instead of None" in str(probe)


def test_the_findings_are_json() -> None:
    probe = fxgrad.probe(sequential(), tensor(), module="0", kind=LEGACY)
    assert [told["code"] for told in json.loads(probe.explanations.to_json())] == [
        told.code for told in probe.explanations.findings
    ]
