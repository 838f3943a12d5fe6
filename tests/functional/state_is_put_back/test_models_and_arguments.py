"""Models and arguments of odd makes are as before a trace, but for what the README says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from changing_modules import ignored
from snapshots import changed_by
from torch import nn
from torch.nn.utils import parametrize

import fxgrad


class Careful(nn.Module):
    """Has attribute access of its own, is equal to everything and has no hash."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.kept: list[torch.Tensor] = []
        self.sealed = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return f"no {name}"

    def __setattr__(self, name: str, value: Any) -> None:
        if vars(self).get("sealed") and name != "seen":
            raise TypeError("sealed")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        self.kept.append(x)
        object.__setattr__(self, "__class__", Careless)
        return self.norm(x)


class Careless(nn.Module):
    """What a Careful module becomes."""


class WithoutDict(nn.Module):
    """Forward throws its whole ``__dict__`` away."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.linear(x)
        vars(self).clear()
        nn.Module.__init__(self)
        return result


def csr_buffer() -> nn.Module:
    module = nn.Linear(3, 3)
    module.register_buffer("table", torch.eye(3).to_sparse_csr())
    module.register_forward_pre_hook(lambda module, args: ignored(module.table.values().mul_(2)))
    return module


def hidden_in_attributes() -> nn.Module:
    """Its layer is in a dict in a tuple, where named_modules does not look."""
    module = nn.Linear(3, 3)
    module.layers = ({"norm": nn.BatchNorm1d(3)},)
    module.register_forward_hook(lambda module, args, result: module.layers[0]["norm"](result))
    return module


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attribute access of its own": Careful,
    "a __dict__ that is cleared": WithoutDict,
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral_norm, as it was": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "a cached parametrization": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
    "a scripted module": lambda: nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.BatchNorm1d(3))),
    "a compressed sparse buffer": csr_buffer,
    "a module in a dict in a tuple": hidden_in_attributes,
    "BatchNorm twice": lambda: nn.Sequential(*[nn.BatchNorm1d(3)] * 2),
    "dropout": nn.Dropout,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_model_is_as_before(make: Callable[[], nn.Module], verb: Callable[..., Any]) -> None:
    model, x = make(), torch.randn(4, 3, requires_grad=True)
    with parametrize.cached():
        assert changed_by(lambda: verb(model, x), model, x) == []


# Arguments


class AppendsToArguments(nn.Module):
    def forward(self, x: torch.Tensor, seen: list[Any], *, norm: nn.Module) -> torch.Tensor:
        seen.append(x)
        return norm(x)


def test_containers_and_modules_among_the_arguments_are_as_before() -> None:
    model, x, seen, norm = AppendsToArguments(), torch.randn(4, 3), [1], nn.BatchNorm1d(3)
    run = lambda: fxgrad.trace(model, (x, seen), {"norm": norm})  # noqa: E731
    assert changed_by(run, model, x, seen, norm) == []


# What is not put back, as the README says


class Counter:
    """An object of the user's."""

    count = 0


class Counting(nn.Module):
    """Counts its calls where a trace does not look."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counter.count += 1
        type(self).calls += 1
        return self.linear(x)


def test_objects_of_other_classes_and_classes_keep_what_forward_did() -> None:
    model = Counting()
    fxgrad.trace(model, torch.randn(4, 3))
    assert (model.counter.count, Counting.calls) == (1, 1)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(torch.full((3,), 2.0, requires_grad=True))


def test_leaf_that_is_changed_in_place_is_as_before() -> None:
    x = torch.ones(3)
    assert changed_by(lambda: fxgrad.trace(InPlace(), x), x) == []


def test_input_with_a_history_keeps_the_one_that_an_in_place_operation_gave_it() -> None:
    x = torch.ones(3, requires_grad=True) * 3
    fxgrad.trace(InPlace(), x)
    assert x.tolist() == [3, 3, 3]
    assert (x._version, x.grad_fn.name()) == (0, "MulBackward0")
    assert x.grad_fn.next_functions[0][0].name() == "MulBackward0"


def test_input_that_forward_tells_to_retain_its_gradient_retains_it() -> None:
    class Retaining(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.retain_grad()
            return x * 2

    x = torch.ones(3, requires_grad=True) * 3
    fxgrad.trace(Retaining(), x)
    assert x.retains_grad


class KeepsWhatVmapGave(nn.Linear):
    """Keeps a tensor of the inside of a transform, which most functions of torch refuse when that is over."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def keep(row: torch.Tensor) -> torch.Tensor:
            self.kept = row * 1.0
            return self.kept * 2

        return super().forward(torch.func.vmap(keep)(x))


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_tensor_that_escaped_from_vmap_is_no_obstacle_and_stays(verb: Callable[..., Any]) -> None:
    model, x = KeepsWhatVmapGave(3, 3), torch.randn(4, 3, requires_grad=True)
    model(x)
    kept = model.kept
    verb(model, x)
    assert model.kept is kept
