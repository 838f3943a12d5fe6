"""Programs whose modules return what they were given, or change it in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from module_hooks import FromFunction
from probed_hooks import Built
from torch import nn

from hooked_programs.making import around, given, inner, leaf, program, residual

# Identities


@program
def identity(notebook):
    return given(nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Tanh()), leaf())


@program
def identity_of_a_leaf(notebook):
    return given(nn.Sequential(nn.Identity(), nn.Tanh()), leaf())


@program
def identities_at_the_end(notebook):
    return given(nn.Sequential(nn.Tanh(), nn.Identity(), nn.Sequential(nn.Identity())), leaf())


@program
def identities_inside_one_another(notebook):
    inside = nn.Sequential(nn.Sequential(nn.Identity(), nn.Identity()), nn.Dropout())
    return given(nn.Sequential(nn.Tanh(), inside, nn.Tanh()).eval(), leaf())


@program
def identity_in_a_residual(notebook):
    model = residual(nn.Linear(3, 3), nn.Identity(), forward=lambda self, x: self.a(self.b(x)) + x)
    return given(nn.Sequential(nn.Tanh(), model), leaf())


@program
def identity_inside_a_module_in_a_residual(notebook):
    branch = nn.Sequential(nn.Identity(), nn.Linear(3, 3))
    return given(nn.Sequential(nn.Tanh(), around(branch, lambda self, x: self.m(x) + x)), leaf())


@program
def legacy_hooks_on_identities_of_a_leaf(notebook):
    model = nn.Sequential(nn.Identity(), nn.Identity())
    notebook.legacy(model, "legacy")
    notebook.legacy(model[0], "legacy 0")
    return given(model, leaf())


# In-place operations


@program
def relu_in_place(notebook):
    return given(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3)), leaf())


@program
def dropout_in_place(notebook):
    return given(nn.Sequential(nn.Linear(3, 3), nn.Dropout(inplace=True), nn.Linear(3, 3)), leaf())


@program
def dropout_in_place_in_eval(notebook):
    return given(nn.Sequential(nn.Linear(3, 3), nn.Dropout(inplace=True), nn.Linear(3, 3)).eval(), leaf())


@program
def relu_in_place_as_the_model(notebook):
    return given(nn.ReLU(inplace=True), inner())


def then(change: Callable[[torch.Tensor, torch.Tensor], Any]) -> Callable[..., Any]:
    """A forward that changes what its first child returned, and passes it to the second."""

    def forward(self, x):
        y = self.a(x)
        change(y, x)
        return self.b(y)

    return forward


def in_place(change: Callable[[torch.Tensor, torch.Tensor], Any]) -> Built:
    return given(residual(nn.Linear(3, 3), nn.Tanh(), forward=then(change)), leaf())


@program
def sum_in_place(notebook):
    return in_place(lambda y, x: y.add_(x))


@program
def view_in_place(notebook):
    return in_place(lambda y, _: y[0].mul_(2))


@program
def set_item(notebook):
    return in_place(lambda y, _: y.__setitem__(0, 1.0))


@torch.no_grad()
def double(y: torch.Tensor, _: torch.Tensor) -> None:
    y.mul_(2)


@program
def in_place_without_grad(notebook):
    return in_place(double)


@program
def detached_in_place(notebook):
    return in_place(lambda y, _: y.detach().mul_(2))


@program
def data_in_place(notebook):
    return in_place(lambda y, _: y.data.mul_(2))


@program
def in_place_without_grad_after_the_last_use(notebook):
    def forward(self, x):
        y = self.a(x)
        z = self.b(y)
        double(y, x)
        return z

    return given(residual(nn.Linear(3, 3), nn.Sigmoid(), forward=forward), leaf())


@program
def buffer_argument_that_gets_a_gradient(notebook):
    def forward(self, x, buffer):
        buffer.add_(x * self.weight)
        return buffer * 1

    return given(FromFunction(forward), leaf(), torch.zeros(2, 3))


@program
def buffer_argument_that_gets_none(notebook):
    def forward(self, x, buffer):
        buffer.add_(1.0)
        return buffer * x * self.weight

    return given(FromFunction(forward), leaf(), torch.zeros(2, 3))


@program
def running_statistics_as_arguments(notebook):
    def forward(self, x, mean, var):
        return F.batch_norm(x, mean, var, self.weight, training=True)

    return given(FromFunction(forward), leaf(), torch.zeros(3), torch.ones(3))


@program
def view_result(notebook):
    return given(around(FromFunction(lambda _, x: x.view(-1)[:3]), lambda self, x: self.m(x) * self.weight), inner())


def stale(self, x):
    base = x * 1
    view = base[:2]
    base.mul_(2)
    return base, view


@program
def stale_view(notebook):
    module = FromFunction(lambda self, x: stale(self, x)[1])
    return given(around(module, lambda self, x: self.m(x).sum() * self.weight), inner(4, 3))


@program
def base_and_stale_view(notebook):
    def forward(self, x):
        base, view = self.m(x)
        return base.sum() * view.sum() * self.weight

    return given(around(FromFunction(stale), forward), inner(4, 3))
