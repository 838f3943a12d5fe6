"""derivatives.yaml is read as PyTorch's own code generator reads it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from fxgrad.observe.derivatives import Argument, node_classes, parse_schema, result_names


@pytest.fixture(scope="module")
def yaml_text() -> str:
    spec = importlib.util.find_spec("torchgen")
    return Path(spec.submodule_search_locations[0], "packaged", "autograd", "derivatives.yaml").read_text("utf-8")


def classes_of(text: str) -> dict[str, set[str]]:
    return {name: set(derivation.arguments) for name, derivation in node_classes(text).items()}


def test_a_class_is_named_after_the_function_in_camel_case():
    text = "- name: _linalg_eigh(Tensor A) -> (Tensor eigenvalues, Tensor eigenvectors)\n  A: f(grads)\n"
    assert classes_of(text) == {"LinalgEighBackward0": {"A"}}


def test_overloads_and_in_place_variants_are_numbered_in_the_order_of_the_file():
    text = (
        "- name: fill.Scalar(Tensor self, Scalar value) -> Tensor\n  self: zeros_like(grad)\n"
        "- name: fill.Tensor(Tensor self, Tensor value) -> Tensor\n  value: grad.sum()\n"
        "- name: fill_.Other(Tensor(a!) self, int value) -> Tensor(a!)\n  self: zeros_like(grad)\n"
    )
    assert classes_of(text) == {"FillBackward0": {"self"}, "FillBackward1": {"value"}, "FillBackward2": {"self"}}


def test_a_forward_function_shares_the_numbers_of_the_plain_one():
    text = (
        "- name: thnn_conv(Tensor self) -> Tensor\n  self: f(grad)\n"
        "- name: thnn_conv_forward(Tensor self) -> Tensor\n  self: f(grad)\n"
    )
    assert list(classes_of(text)) == ["ThnnConvBackward0", "ThnnConvBackward1"]


def test_an_entry_without_derivatives_takes_no_number():
    text = (
        "- name: eq.Scalar(Tensor self, Scalar other) -> Tensor\n  output_differentiability: [False]\n"
        "- name: eq.Tensor(Tensor self, Tensor other) -> Tensor\n  self: non_differentiable\n"
        "- name: eq.Made(Tensor self, Tensor up) -> Tensor\n  self: grad\n"
    )
    assert classes_of(text) == {"EqBackward0": {"self"}}


def test_one_formula_may_stand_for_several_arguments():
    text = "- name: bmm(Tensor self, Tensor mat2) -> Tensor\n  self, mat2: bmm_backward(grad, grad_input_mask)\n"
    assert classes_of(text) == {"BmmBackward0": {"self", "mat2"}}


def test_formulas_of_results_are_for_forward_mode():
    text = (
        "- name: max(Tensor self) -> (Tensor values, Tensor i)\n  self: f(grad)\n  values: g(self_t)\n  result1: h()\n"
    )
    assert classes_of(text) == {"MaxBackward0": {"self"}}


def test_a_line_that_goes_on_with_a_formula_is_no_key():
    text = (
        "- name: xlogy(Tensor self, Tensor other) -> Tensor\n"
        '  self: "GradMode::is_enabled()\n'
        "          ? at::xlogy(grad,  other)\n"
        '          : grad"\n'
        "  other:\n"
        "    self: grad\n"
    )
    assert classes_of(text) == {"XlogyBackward0": {"self", "other"}}


def test_comments_are_not_read():
    text = (
        "- name: real(Tensor self) -> Tensor # a comment\n"
        "  # other: grad\n"
        "  self: at::real(grads[0]) # not the single grad\n"
    )
    (derivation,) = node_classes(text).values()
    assert derivation == ("real(Tensor self) -> Tensor", {"self"}, False, None)


def test_each_dispatch_key_has_a_class_of_its_own():
    text = (
        "- name: squeeze(Tensor(a) self) -> Tensor(a)\n"
        "  dispatch:\n"
        "    Default:\n"
        "      # the usual case\n"
        "      self: unsqueeze_to(grad)\n"
        "      result: auto_linear\n"
        "    AutogradNestedTensor:\n"
        "      self: grad.unsqueeze(dim)\n"
        "\n"
        "- name: squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)\n"
        "  self: unsqueeze_to(grad)\n"
    )
    assert list(classes_of(text)) == ["SqueezeBackward0", "SqueezeBackwardAutogradNestedTensor0", "SqueezeBackward1"]


def test_output_differentiability_of_an_entry_holds_for_all_its_dispatch_keys():
    text = (
        "- name: f(Tensor self) -> (Tensor, Tensor)\n"
        "  output_differentiability: [True, False]\n"
        "  dispatch:\n    Default:\n      self: g(grads)\n    AutogradCUDA:\n      self: h(grads)\n"
    )
    assert [derivation.differentiable_results for derivation in node_classes(text).values()] == [(True, False)] * 2


def test_an_entry_that_cannot_be_read_is_left_out():
    text = "- name: something new\n  self: grad\n- name: abs(Tensor self) -> Tensor\n  self: grad * self.sgn()\n"
    assert classes_of(text) == {"AbsBackward0": {"self"}}


def test_a_single_grad_means_that_only_the_first_result_has_a_gradient():
    text = "- name: sort(Tensor self) -> (Tensor values, Tensor indices)\n  self: value_selecting(grad)\n"
    (derivation,) = node_classes(text).values()
    assert derivation.with_gradient(parse_schema(derivation.schema).results) == (Argument("values", False),)


def test_without_a_single_grad_every_tensor_result_has_a_gradient():
    text = "- name: f(Tensor self) -> (Tensor, int, Tensor[])\n  self: g(grads)\n"
    (derivation,) = node_classes(text).values()
    assert derivation.with_gradient(parse_schema(derivation.schema).results) == (
        Argument("result 0", False),
        Argument("result 2", True),
    )


def test_output_differentiability_chooses_the_results_even_where_a_formula_says_grad():
    text = "- name: f(Tensor self) -> (Tensor a, Tensor b, Tensor c)\n  output_differentiability: [False, True, True]\n"
    (derivation,) = node_classes(text + "  self: g(grad)\n").values()
    assert [result.name for result in derivation.with_gradient(parse_schema(derivation.schema).results)] == ["b", "c"]


@pytest.mark.parametrize(
    ("declaration", "argument"),
    [
        ("Tensor self", Argument("self", False)),
        ("Tensor(a!) self", Argument("self", False)),
        ("Tensor? bias=None", Argument("bias", False)),
        ("Tensor[] tensors", Argument("tensors", True)),
        ("Tensor(a!)[] self", Argument("self", True)),
        ("Tensor(a -> *) self", Argument("self", False)),
        ("Tensor?[] indices", Argument("indices", True)),
        ("Tensor[3] three", Argument("three", True)),
    ],
)
def test_a_schema_declares_tensors_in_many_ways(declaration: str, argument: Argument):
    assert parse_schema(f"f.overload(int[2] size=[1, 1], {declaration}, *, str s='Tensor') -> ()").arguments == (
        argument,
    )


def test_results_that_are_no_tensors_keep_their_place():
    assert parse_schema("f(Tensor q) -> (Tensor output, SymInt max_q, Tensor[])").results == (
        Argument("output", False),
        None,
        Argument("result 2", True),
    )


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("expand(Tensor(a) self, SymInt[] size) -> Tensor(a)", True),
        ("split.Tensor(Tensor(a -> *) self, SymInt split_size) -> Tensor(a)[]", True),
        ("expand_copy(Tensor self, SymInt[] size) -> Tensor", False),
        ("squeeze_(Tensor(a!) self) -> Tensor(a!)", False),
        ("add.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", False),
    ],
)
def test_a_view_is_an_alias_of_what_is_not_written(text: str, view: bool):
    assert parse_schema(text).view is view


def test_a_text_that_is_no_schema_is_refused():
    with pytest.raises(ValueError, match="not a function schema: add"):
        parse_schema("add")


def test_a_function_without_results_has_no_result_names():
    assert (result_names(0), parse_schema("aten::_foreach_zero_(Tensor(a!)[] self) -> ()").results) == ((), ())


def test_every_class_is_one_that_this_torch_has(yaml_text: str):
    assert set(node_classes(yaml_text)) <= set(dir(torch._C._functions))


def test_every_generated_class_of_this_torch_is_found(yaml_text: str):
    numbered = {name for name in dir(torch._C._functions) if name[-1].isdigit()}
    assert numbered <= set(node_classes(yaml_text))


@pytest.mark.oracle
def test_the_code_generator_reads_the_same_out_of_the_file(yaml_text: str):
    pytest.importorskip("yaml")
    from torchgen.packaged.autograd import load_derivatives

    packaged = Path(load_derivatives.__file__).parents[1]
    native = [str(packaged / "ATen" / "native" / name) for name in ("native_functions.yaml", "tags.yaml")]
    infos, _ = load_derivatives.load_derivatives(str(packaged / "autograd" / "derivatives.yaml"), *native)
    generated = {
        info.op: (str(info.func.func), [argument.name for argument in info.args_with_derivatives])
        for per_key in infos.values()
        for info in per_key.values()
        if info.op is not None and not info.op.endswith("_copy")
    }
    assert generated == {
        name: (
            derivation.schema,
            [a.name for a in parse_schema(derivation.schema).arguments if a.name in derivation.arguments],
        )
        for name, derivation in node_classes(yaml_text).items()
    }
