"""FXG205 and FXG207: gradients that are zero, and leaves that the optimizer does not know, held against real backward."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchgen
from torch import Tensor, nn
from torch.nn import functional as F

import fxgrad
from fxgrad.graph import Explanation
from fxgrad.observe.autograd import saved_tensors
from fxgrad.predict import formulas
from fxgrad.rules import explain


class Around(nn.Module):
    """A parameter in front of a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], value: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.weight * x)


def find(model: nn.Module, code: str) -> list[Explanation]:
    trace = fxgrad.trace(model, torch.ones(3))
    return [finding for finding in explain(trace.graph) if finding.code == code]


def is_zero_in_backward(model: Around) -> bool:
    model(torch.ones(3)).sum().backward()
    assert model.weight.grad is not None
    return not model.weight.grad.any()


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (torch.round, 0.5),
        (lambda x: torch.round(x, decimals=2), 0.5),
        (lambda x: x.clone().floor_(), 0.5),
        (torch.ceil, 0.5),
        (lambda x: torch.round(F.layer_norm(x.exp().tanh().reshape(1, 3).t(), (1,))), 0.5),
        (torch.trunc, 0.5),
        (torch.sign, 0.5),
        (torch.sgn, 0.5),
        (torch.bernoulli, 0.5),
        (torch.poisson, 0.5),
        (lambda x: torch.div(x, 3, rounding_mode="trunc"), 0.5),
        (lambda x: torch.div(3, x, rounding_mode="floor"), 0.5),
        (lambda x: x.clone().gt_(0), 0.5),
        (lambda x: x.clone().zero_(), 0.5),
        (F.relu, -1.0),
        (F.relu6, 7.0),
        (F.hardtanh, 2.0),
        (F.hardsigmoid, 4.0),
        (F.hardshrink, 0.1),
        (F.softshrink, 0.1),
        (torch.sigmoid, 100.0),
        (torch.tanh, 100.0),
        (lambda x: F.threshold(x, 1.0, 0.0), 0.5),
        (lambda x: x.clamp(0, 1), -2.0),
        (lambda x: x.clamp(max=1), 2.0),
        (lambda x: x.clamp_min(0), -2.0),
    ],
)
def test_zeros_are_told_where_backward_gives_zeros(function: Callable[[Tensor], Tensor], value: float) -> None:
    model = Around(function, value)
    assert [finding.owner for finding in find(model, "FXG205")] == ["weight"]
    assert is_zero_in_backward(model)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (lambda x: x + (x.round() - x).detach(), 0.5),
        (lambda x: x.round() + x, 0.5),
        (torch.frac, 0.5),
        (lambda x: torch.div(x, 3), 0.5),
        (F.relu, 1.0),
        (F.leaky_relu, -1.0),
        (lambda x: x.clamp(0, 1), 0.5),
        (torch.sigmoid, 10.0),
        (F.hardtanh, 0.5),
        (lambda x: F.relu(x * torch.tensor([1.0, -1.0, -1.0])), 1.0),
        (F.relu, float("nan")),  # backward passes on what arrives
        (lambda x: torch.round(x.sqrt()), 0.0),  # 0 times the infinite derivative of sqrt is NaN
        (lambda x: torch.round(torch.hypot(x, x)), 0.0),
    ],
)
def test_nothing_is_said_where_a_gradient_arrives(function: Callable[[Tensor], Tensor], value: float) -> None:
    model = Around(function, value)
    assert not find(model, "FXG205")
    assert not is_zero_in_backward(model)


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_nothing_is_said_at_the_borders_of_a_clamp(border: float) -> None:
    """Before torch 2.14 they pass the gradient on."""
    assert not find(Around(lambda x: x.clamp(0, 1), border), "FXG205")


def test_a_hook_that_returns_something_may_replace_the_zeros() -> None:
    model = Around(torch.round)
    model.weight.register_hook(lambda grad: grad + 1)
    assert not find(model, "FXG205")


def test_what_an_unpack_hook_would_see_is_not_read() -> None:
    model, packed = Around(F.relu, -1.0), []
    with torch.autograd.graph.saved_tensors_hooks(packed.append, lambda _: pytest.fail("it was unpacked")):
        trace = fxgrad.trace(model, torch.ones(3))
    assert packed
    assert not any(node.saturated for node in trace.graph.nodes)


def test_without_a_sign_of_unpack_hooks_only_what_is_zero_everywhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on torch 2.9, whose SavedTensor does not show its hooks: nothing that was saved is read."""
    monkeypatch.setattr(saved_tensors, "may_run_unpack_hook", lambda _: True)
    assert not find(Around(F.relu, -1.0), "FXG205")
    assert find(Around(torch.round), "FXG205")


def test_the_families_of_zeros_are_those_of_derivatives_yaml() -> None:
    """A family counts if each derivative of each of its functions is plain zeros."""
    path = Path(torchgen.__file__).parent / "packaged" / "autograd" / "derivatives.yaml"
    families: dict[str, list[bool]] = {}
    for entry in path.read_text(encoding="utf-8").split("\n- name: ")[1:]:
        head, *lines = entry.split("\n")
        given = [line.strip().partition(": ") for line in lines if re.match(r"  \w+(, \w+)*: ", line)]
        derivatives = [
            text for name, _, text in given if name not in ("result", "output_differentiability", "dispatch")
        ]
        name = re.split(r"[.(]", head)[0].strip("_")
        family = "".join(part.capitalize() for part in name.split("_"))
        zeros = all(re.match(r"(at::)?zeros(_like|_symint)\(", text) for text in derivatives)
        if derivatives and "output_differentiability: [False]" not in entry:
            families.setdefault(family, []).append(zeros)
    assert {family for family, zeros in families.items() if all(zeros)} == formulas._ZEROS


def test_the_families_that_keep_zeros_are_names_of_nodes() -> None:
    path = Path(torchgen.__file__).parent / "packaged" / "autograd" / "derivatives.yaml"
    names = re.findall(r"^- name: (\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    families = {"".join(part.title() for part in name.strip("_").split("_")) for name in names}
    assert formulas._KEEP_ZEROS - families == set()


class Held(nn.Module):
    def __init__(self, hold: Callable[[nn.Linear], object]) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)
        self.held = hold(nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        held = self.held
        while isinstance(held, (dict, list, tuple, nn.ModuleList)):
            held = next(iter(held.values() if isinstance(held, dict) else held))
        return self.last(held(x))


@pytest.mark.parametrize(
    ("hold", "fix"),
    [
        (lambda layer: [layer], "make `held` an nn.ModuleList"),
        (lambda layer: (layer,), "make `held` an nn.ModuleList"),
        (lambda layer: {"a": layer}, "make `held` an nn.ModuleDict"),
        (lambda layer: [{"a": layer}], "make `held` an nn.ModuleList"),
        (lambda layer: [nn.Sequential(layer, nn.ReLU())], "make `held` an nn.ModuleList"),
    ],
)
def test_modules_in_a_container_are_unknown_to_the_optimizer(hold: Callable[[nn.Linear], object], fix: str) -> None:
    model = Held(hold)
    assert [finding.fix for finding in find(model, "FXG207")] == [fix]
    model(torch.ones(3)).backward()
    assert len(list(model.parameters())) == 2


@pytest.mark.parametrize("hold", [nn.Sequential, lambda layer: nn.ModuleList([layer])])
def test_registered_modules_are_known(hold: Callable[[nn.Linear], object]) -> None:
    assert not find(Held(hold), "FXG207")


def test_a_layer_that_is_also_registered_is_known() -> None:
    model = Held(lambda layer: [layer])
    model.shared = model.held[0]  # type: ignore[index,assignment]
    assert not find(model, "FXG207")


class Function(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def replace_weight(model: nn.Module, x: Tensor) -> Tensor:
    model.weight = nn.Parameter(model.weight * 2)  # type: ignore[operator]
    return x * model.weight


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x * nn.Parameter(torch.ones(3)),
        lambda _, x: nn.Linear(3, 3, bias=False)(x),
        lambda _, x: nn.Sequential(nn.Linear(3, 3, bias=False))(x),
        replace_weight,
    ],
)
def test_parameters_made_in_forward_are_unknown_to_the_optimizer(
    function: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    (finding,) = find(Function(function), "FXG207")
    assert "made in forward" in finding.headline
    assert finding.source is not None


@pytest.mark.parametrize(
    ("bias", "told"), [(True, "are made in forward: no optimizer knows them"), (False, "knows it")]
)
def test_parameters_that_one_line_makes_are_told_together(bias: bool, told: str) -> None:
    (finding,) = find(Function(lambda _, x: nn.Linear(3, 3, bias=bias)(x)), "FXG207")
    assert finding.headline.endswith(told)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x * torch.ones(3, requires_grad=True),  # a gradient is asked for there
        lambda model, x: x * model.weight.detach().requires_grad_(),
        lambda model, x: (x * model.weight).detach().requires_grad_() ** 2,
    ],
)
def test_a_leaf_of_forward_that_is_no_parameter_is_no_finding(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert not find(Function(function), "FXG207")


def test_a_second_model_of_a_recorded_program_is_no_finding() -> None:
    generator, critic = nn.Linear(3, 3), nn.Linear(3, 1)
    with fxgrad.record(generator) as recording:
        loss = critic(generator(torch.ones(3)))
    assert not [finding for finding in explain(recording.trace(loss).graph) if finding.code == "FXG207"]


class Remaking(nn.Module):
    """Makes the weight of a layer of what `remake` computes from its own weight."""

    def __init__(self, remake: Callable[[Remaking], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.layer = nn.Linear(3, 3, bias=False)
        self.remake = remake

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight = nn.Parameter(self.remake(self))
        return self.layer(x)


@pytest.mark.parametrize(
    "remake",
    [
        lambda model: model.weight * 2,
        lambda model: (model.weight * 2).t(),
        lambda model: model.weight.exp().detach(),
        lambda model: model.weight.exp().data,
    ],
    ids=["a product", "a view of it", "detached", "its data"],
)
def test_a_parameter_made_of_what_was_computed_is_where_gradients_end(remake: Callable[[Remaking], Tensor]) -> None:
    model = Remaking(remake)
    (finding,) = find(model, "FXG201")
    assert re.fullmatch(
        r"no gradient reaches `weight`: the nn\.Parameter made of `(mul|exp)` at \S+:\d+ has no history",
        finding.headline,
    )
    assert "what forward makes `layer.weight (parameter)` of" in finding.because
    assert not find(model, "FXG204")
    (made,) = find(model, "FXG207")
    assert "Forward puts it in the place of `layer.weight`." in made.because
    replaced = model.layer.weight
    model(torch.ones(3)).sum().backward()
    assert (model.weight.grad, replaced.grad) == (None, None)
    assert model.layer.weight.grad is not None


def test_a_parameter_made_of_something_else_is_not_why_a_gradient_is_lost() -> None:
    def remake(model: Remaking) -> Tensor:
        model.weight.exp()
        return torch.ones(3, 3)

    (finding,) = find(Remaking(remake), "FXG201")
    assert finding.headline == "no gradient reaches `weight`: autograd sees no path to the output"


def test_a_new_parameter_replaces_none_where_only_an_argument_has_its_name() -> None:
    class Adding(nn.Module):
        def forward(self, extra: Tensor) -> Tensor:
            self.extra = nn.Parameter(extra * 2)
            return self.extra * extra

    trace = fxgrad.trace(Adding(), torch.ones(3))
    assert [variable.replaces for variable in trace.graph.variables] == [None, None]
