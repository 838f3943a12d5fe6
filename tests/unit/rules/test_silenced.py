"""A hook that is silent with its parameters is told of once, where these are; one with a reason of its own by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxgrad


def show(module, grad_input, grad_output):
    pass


class Two(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self._way = way

    def forward(self, x):
        return self._way(self, x)


def detached(model, x):
    return model.second(model.first(x).detach())


def without_grad(model, x):
    with torch.no_grad():
        y = model.first(x)
    return model.second(y)


def not_called(model, x):
    return model.second(x)


def by_forward(model, x):
    return model.second(model.first.forward(x))


def bias_used_elsewhere(model, x):
    return model.second(model.first(x).detach()) + model.first.bias


def tell(way):
    model = Two(way)
    model.first.register_full_backward_hook(show)
    found = fxgrad.trace(model, torch.ones(2, 3, requires_grad=True)).explain().findings
    return {finding.code: finding for finding in found if finding.code in ("FXG104", "FXG201", "FXG204")}


@pytest.mark.parametrize(("way", "code"), [(detached, "FXG201"), (without_grad, "FXG201"), (not_called, "FXG204")])
def test_a_hook_that_is_silent_with_all_parameters_of_its_module_is_told_of_with_them(way, code):
    found = tell(way)
    assert "`first.weight` and `first.bias`, and the hook on `first` never fires: " in found[code].headline
    assert (found[code].severity, found["FXG104"].severity) == ("warning", "info")


@pytest.mark.parametrize("way", [by_forward, bias_used_elsewhere])
def test_a_hook_whose_parameters_get_gradients_is_told_of_by_itself(way):
    found = tell(way)
    assert found["FXG104"].severity == "warning"
    assert not any("the hook" in finding.headline for code, finding in found.items() if code != "FXG104")


def test_a_hook_that_fires_for_one_call_is_not_said_to_be_silent():
    found = tell(lambda model, x: model.first(x) + model.second(model.first(x).detach()))
    assert found["FXG104"].severity == "warning"
    assert "FXG201" not in found


def test_hooks_on_a_parameter_are_told_of_with_it():
    model = Two(detached)
    model.first.weight.register_hook(lambda grad: None)
    findings = fxgrad.trace(model, torch.ones(2, 3)).explain().findings
    (lost,) = (finding for finding in findings if finding.code == "FXG201")
    assert ", and the hook on `first.weight` never fires: `detach` at " in lost.headline
    assert [finding.severity for finding in findings if finding.code == "FXG104"] == ["info"]


def test_a_hook_that_is_silent_only_for_calls_without_gradients_is_no_warning():
    def way(model, x):
        with torch.no_grad():
            start = model.first(x)
        return model.second(model.first(start))

    assert tell(way)["FXG104"].severity == "info"


def test_a_hook_that_is_silent_for_one_call_is_told_what_cuts_that_off():
    found = tell(lambda model, x: model.first(torch.tensor(model.first(x).tolist())))
    assert "does not fire for call 1 of 2: the value leaves torch at " in found["FXG104"].headline


def test_a_hook_on_a_tensor_in_forward_is_told_what_cuts_that_off():
    def way(model, x):
        hidden = model.first(x)
        hidden.register_hook(lambda grad: None)
        return model.second(hidden.detach())

    findings = fxgrad.trace(Two(way), torch.ones(2, 3)).explain().findings
    (told,) = (finding for finding in findings if finding.code == "FXG104")
    assert " never fires: `detach` at " in told.headline
