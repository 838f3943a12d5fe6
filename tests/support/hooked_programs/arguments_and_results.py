"""Programs whose modules take and return other things than one tensor."""

from __future__ import annotations

import operator

import torch
from module_hooks import FromFunction
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from hooked_programs.making import around, given, inner, leaf, program, residual

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
