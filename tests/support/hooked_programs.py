"""Programs to suppose hooks in: each makes a model and its arguments, with the hooks that are there already.

`PROGRAMS` has them by name. `INEXACT` names those whose records do not tell everything about the graph with a full
hook, and what the answer says about that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from module_hooks import FromFunction, Notebook
from supposed_hooks import Build, Built
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from fxgrad.graph import HookKind

PROGRAMS: dict[str, Build] = {}
INEXACT = {
    "identity_in_a_residual": "returned a tensor that was there before",
    "same_tensor_as_keyword": "is a positional argument as well",
    "self_attention": "are one tensor",
    "transformer_layer": "are one tensor",
    "transformer_decoder": "are one tensor",
    "one_tensor_twice_in": "are one tensor",
    "one_tensor_twice_out": "is in the result more than once",
    "one_tensor_inside_the_result": "is in the result more than once",
    "unused_result_of_one_call": "on which no root depends without it",
    "unused_second_result": "on which no root depends without it",
    "unused_argument_with_history": "on which no root depends without it",
    "unused_result_with_hooks": "on which no root depends without it",
    "stale_view": "is the grad_fn of a view whose base was changed in place",
    "base_and_stale_view": "is the grad_fn of a view whose base was changed in place",
}


def program(build: Build) -> Build:
    PROGRAMS[build.__name__] = build
    return build


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3), requires_grad=True)


def inner(*shape: int) -> torch.Tensor:
    return leaf(*shape) * 1


def given(model: nn.Module, *args: Any, **kwargs: Any) -> Built:
    return model, args, kwargs


def around(module: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A module that calls another, which is its ``m``."""
    parent = FromFunction(forward)
    parent.m = module
    return parent


def residual(*modules: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A module with the children a, b and c."""
    parent = FromFunction(forward)
    for name, module in zip("abc", modules, strict=False):
        parent.add_module(name, module)
    return parent


def nested() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2), nn.Tanh()))


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        return x * factor, x + 1

    @staticmethod
    def backward(ctx, a, b):
        return a * 2 + b, None


# Containers and layers


@program
def linear(notebook):
    return given(nn.Linear(3, 2), torch.randn(4, 3))


@program
def sequential(notebook):
    return given(nested(), leaf())


@program
def sequential_with_legacy_hooks(notebook):
    model = nested()
    for path, module in model.named_modules():
        notebook.legacy(module, f"legacy {path}")
    return given(model, inner())


@program
def sequential_with_full_hooks(notebook):
    model = nested()
    notebook.full(model, "full")
    notebook.full(model[2], "full 2")
    notebook.full_pre(model[0], "pre 0")
    notebook.legacy(model[2][1], "legacy 2.1")
    return given(model, inner())


@program
def convolutions(notebook):
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2)
    return given(nn.Sequential(*layers), torch.randn(2, 2, 4, 4))


@program
def convolutions_in_eval(notebook):
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2)
    return given(nn.Sequential(*layers).eval(), inner(2, 2, 4, 4))


@program
def embedding(notebook):
    return given(nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)), torch.tensor([[1, 2], [3, 4]]))


@program
def frozen_first_layer(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    model[0].requires_grad_(False)
    return given(model, torch.randn(2, 3))


@program
def loss_module(notebook):
    model = residual(nn.Linear(3, 3), nn.MSELoss(), forward=lambda self, x, target: self.b(self.a(x), target))
    return given(model, torch.randn(2, 3), torch.randn(2, 3))


@program
def lstm(notebook):
    return given(nn.LSTM(3, 4, 2), torch.randn(5, 2, 3))


@program
def lstm_of_packed_sequences(notebook):
    def forward(self, x):
        return pad_packed_sequence(self.m(pack_padded_sequence(x, [3, 2]))[0])[0]

    return given(around(nn.LSTM(3, 4), forward), leaf(3, 2, 3))


@program
def lstm_cell_three_times(notebook):
    def forward(self, steps):
        hidden = cell = torch.zeros(2, 4)
        for step in steps:
            hidden, cell = self.m(step, (hidden, cell))
        return hidden

    return given(around(nn.LSTMCell(3, 4), forward), torch.randn(3, 2, 3))


@program
def gru_cell_three_times_with_a_legacy_hook(notebook):
    def forward(self, steps):
        hidden = torch.zeros(2, 4)
        for step in steps:
            hidden = self.m(step, hidden)
        return hidden

    model = around(nn.GRUCell(3, 4), forward)
    notebook.legacy(model.m, "legacy")
    return given(model, leaf(3, 2, 3))


@program
def attention(notebook):
    return given(nn.MultiheadAttention(4, 2), inner(3, 2, 4), inner(3, 2, 4), inner(3, 2, 4))


@program
def self_attention(notebook):
    x = inner(3, 2, 4)
    return given(nn.MultiheadAttention(4, 2), x, x, x)


@program
def transformer_layer(notebook):
    return given(nn.TransformerEncoderLayer(4, 2, 8), inner(3, 2, 4))


@program
def transformer_decoder(notebook):
    return given(nn.TransformerDecoderLayer(4, 2, 8), inner(3, 2, 4), inner(5, 2, 4))


@program
def custom_function(notebook):
    return given(nn.Sequential(FromFunction(lambda self, x: Scale.apply(x * self.weight, 3)[0]), nn.ReLU()), inner(3))


@program
def shared_module(notebook):
    layer = nn.Linear(3, 3)
    return given(nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), layer), leaf())


@program
def module_never_called(notebook):
    return given(residual(nn.Linear(3, 3), nn.Linear(3, 3), forward=lambda self, x: self.a(x)), leaf())


@program
def module_under_no_grad(notebook):
    def forward(self, x):
        with torch.no_grad():
            target = self.a(x)
        return self.b(x) * target

    return given(residual(nn.Linear(3, 3), nn.Linear(3, 3), forward=forward), leaf())


@program
def module_that_raises(notebook):
    def broken(self, x):
        self.seen = x * self.weight
        raise ValueError

    def forward(self, x):
        try:
            self.m(x)
        except ValueError:
            return x * 2

    return given(around(FromFunction(broken), forward), inner(3))


# Arguments


@program
def keyword_and_nested_arguments(notebook):
    return given(FromFunction(lambda self, x, *, y, z: x * self.weight + y + z[0]), inner(3), y=inner(3), z=(leaf(3),))


@program
def keyword_arguments_only(notebook):
    return given(FromFunction(lambda self, *, y: y * self.weight), y=inner(3))


@program
def same_tensor_as_keyword(notebook):
    module = FromFunction(lambda self, x, y: x * self.weight + y)
    return given(around(module, lambda self, x: self.m(x, y=x)), inner(3))


@program
def one_tensor_twice_in(notebook):
    module = FromFunction(lambda self, x, y: x * y * self.weight)
    return given(around(module, lambda self, x: self.m(x, x)), inner(3))


@program
def arguments_without_grad(notebook):
    return given(FromFunction(lambda self, x, y: x * self.weight * y), torch.randn(3), torch.arange(3))


@program
def unused_leaf(notebook):
    unused = leaf(3)
    unused.register_hook(notebook.tensor("unused"))
    unused.register_post_accumulate_grad_hook(notebook.leaf("unused, after"))
    return given(FromFunction(lambda self, x, y: x * self.weight), leaf(3), unused)


@program
def unused_leaf_of_an_inner_module(notebook):
    module = FromFunction(lambda self, x, y: x * self.weight)
    return given(around(module, lambda self, x, y: self.m(x, y)), leaf(3), leaf(3))


@program
def unused_argument_with_history(notebook):
    module = FromFunction(lambda self, x, y: x * self.weight)
    model = residual(module, nn.Linear(3, 3), forward=lambda self, x, y: self.a(x, self.b(y)))
    notebook.legacy(model.b, "legacy")
    notebook.full_pre(model.b, "pre")
    return given(model, leaf(3), leaf(3))


# Results


@program
def tuple_with_no_tensors(notebook):
    module = FromFunction(lambda self, x: (x * self.weight, 7, None, x * 2))
    return given(around(module, lambda self, x: operator.add(*self.m(x)[::3])), inner(3))


@program
def unused_result_of_one_call(notebook):
    module = FromFunction(lambda self, x, y: (x * self.weight, y * 2, 7, None))
    return given(around(module, lambda self, x: self.m(x, x.detach())[0] + self.m(x, x * 2)[1]), inner(3))


@program
def unused_second_result(notebook):
    module = FromFunction(lambda self, x: (x * self.weight, x * 2))
    return given(residual(module, nn.Tanh(), forward=lambda self, x: self.a(self.b(x))[0]), inner(3))


@program
def unused_result_with_hooks(notebook):
    module = FromFunction(lambda self, x: (x * self.weight, self.m(x).mean()))
    module.m = nn.Linear(3, 3)
    notebook.legacy(module.m, "legacy")
    return given(around(module, lambda self, x: self.m(x)[0]), leaf(3))


@program
def list_result(notebook):
    return given(around(FromFunction(lambda self, x: [x * self.weight, x]), lambda self, x: sum(self.m(x))), inner(3))


@program
def dict_result(notebook):
    module = FromFunction(lambda self, x: {"a": x * self.weight, "b": x})
    return given(around(module, lambda self, x: sum(self.m(x).values())), inner(3))


@program
def dict_without_tensors(notebook):
    return given(around(FromFunction(lambda self, x: {"a": 1}), lambda self, x: (self.m(x), x * 2)[1]), inner(3))


@program
def none_result(notebook):
    return given(around(FromFunction(lambda self, x: None), lambda self, x: (self.m(x), x * 2)[1]), inner(3))


@program
def integer_result(notebook):
    return given(around(FromFunction(lambda self, x: x.argmax()), lambda self, x: (self.m(x), x * 2)[1]), inner(3))


@program
def struct_sequence(notebook):
    module = FromFunction(lambda self, x: torch.max(x * self.weight, 0))
    return given(around(module, lambda self, x: self.m(x).values), inner())


@program
def packed_sequence(notebook):
    module = FromFunction(lambda self, x: pack_padded_sequence(x * 2, [3, 2]))
    return given(around(module, lambda self, x: self.m(x).data * 2), leaf(3, 2, 3))


@program
def chunks(notebook):
    module = FromFunction(lambda self, x: (x * self.weight).chunk(2))
    return given(around(module, lambda self, x: self.m(x)[1] * 2), inner())


@program
def parameter_as_result(notebook):
    return given(around(FromFunction(lambda self: self.weight), lambda self, x: self.m() * x), inner(3))


def twice(self, x):
    product = x * self.weight
    return product, product


@program
def one_tensor_twice_out(notebook):
    return given(around(FromFunction(twice), lambda self, x: self.m(x)[1] * 2), inner(3))


@program
def one_tensor_twice_out_of_the_model(notebook):
    return given(FromFunction(twice), inner(3))


def with_state(self, x):
    product = x * self.weight
    return product, (product, product * 2)


@program
def one_tensor_inside_the_result(notebook):
    return given(around(FromFunction(with_state), lambda self, x: self.m(x)[1][0] * 2), inner(3))


@program
def one_tensor_inside_the_result_of_the_model(notebook):
    return given(FromFunction(with_state), inner(3))


@program
def results_kept_in_attributes(notebook):
    def keep(self, x):
        self.kept = x * self.weight
        return self.kept

    def forward(self, x):
        self.kept = self.m(x)
        return self.kept * 2

    return given(around(FromFunction(keep), forward), inner(3))


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


# Hooks that are there


def tensor_hooks(notebook: Notebook) -> nn.Module:
    """Hooks that forward registers inside and outside of a module, on its argument and on its result."""

    def module(self, x):
        product = x * self.weight
        product.register_hook(notebook.tensor("result, inside"))
        product.retain_grad()
        x.register_hook(notebook.tensor("argument, inside"))
        return product

    def forward(self, x):
        x.register_hook(notebook.tensor("argument, before"))
        y = self.m(x)
        y.register_hook(notebook.tensor("result, outside"))
        y.grad_fn.register_hook(notebook.on_node("node of the result"))
        x.register_hook(notebook.tensor("argument, after"))
        return y * 2

    return around(FromFunction(module), forward)


@program
def hooks_on_tensors_and_nodes(notebook):
    return given(tensor_hooks(notebook), inner(3))


@program
def legacy_hooks_beside_hooks_on_nodes(notebook):
    model = tensor_hooks(notebook)
    notebook.legacy(model, "legacy")
    notebook.legacy(model.m, "legacy m")
    return given(model, inner(3))


@program
def removed_legacy_hook(notebook):
    model = nn.Linear(3, 3)
    notebook.legacy(model, "removed").remove()
    return given(model, leaf())


@program
def removed_full_hook(notebook):
    model = nn.Linear(3, 3)
    notebook.full(model, "removed").remove()
    return given(model, leaf())


@program
def global_legacy_hook(notebook):
    notebook.everywhere("everywhere", HookKind.GLOBAL_BACKWARD)
    return given(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), leaf())


@program
def global_full_hook(notebook):
    notebook.everywhere("everywhere", HookKind.GLOBAL_FULL_BACKWARD)
    return given(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), leaf())


@program
def global_full_pre_hook(notebook):
    notebook.everywhere("everywhere", HookKind.GLOBAL_FULL_BACKWARD_PRE)
    return given(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), leaf())


@program
def forward_pre_hook(notebook):
    layer = nn.Linear(3, 3)
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    return given(nn.Sequential(nn.Tanh(), layer), leaf())


@program
def forward_pre_hook_that_adds_an_argument(notebook):
    module = FromFunction(lambda self, *args: sum(args) * self.weight)
    module.register_forward_pre_hook(lambda _, args: (*args, args[0] * 2))
    return given(nn.Sequential(nn.Tanh(), module), leaf())


@program
def forward_hook(notebook):
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda _, args, result: result * 2)
    return given(nn.Sequential(nn.Tanh(), layer, nn.Tanh()), leaf())


@program
def weight_made_by_a_forward_pre_hook(notebook):
    layer = nn.utils.weight_norm(nn.Linear(3, 3))
    layer.weight_g.register_hook(notebook.tensor("g"))
    layer.weight_v.register_hook(notebook.tensor("v"))
    return given(nn.Sequential(layer, nn.Tanh()), leaf())


@program
def parametrized_weight(notebook):
    return given(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Tanh()), leaf())


# Checkpoints


@program
def non_reentrant_checkpoint(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    return given(around(model, lambda self, x: checkpoint(self.m, x, use_reentrant=False)), leaf())


@program
def reentrant_checkpoint(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    inside = around(model, lambda self, x: checkpoint(self.m, x, use_reentrant=True) * self.weight)
    return given(nn.Sequential(nn.Tanh(), inside), leaf())
