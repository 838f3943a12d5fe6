"""derivatives.yaml is read as PyTorch's own code generator reads it, and C++ nodes are named as the real ones are wired."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from wiring import connected_names, first_node, names_of, slot_names

from fxgrad.observe.autograd import argument_names
from fxgrad.observe.autograd.argument_names import (
    Argument,
    Signature,
    find_signature,
    name_edges,
    name_outputs,
    name_results,
    parse_schema,
    read_node_classes,
)

# What derivatives.yaml says


@pytest.fixture(scope="module")
def yaml_text() -> str:
    spec = importlib.util.find_spec("torchgen")
    return Path(spec.submodule_search_locations[0], "packaged", "autograd", "derivatives.yaml").read_text("utf-8")


def classes_of(text: str) -> dict[str, set[str]]:
    return {name: set(derivation.arguments) for name, derivation in read_node_classes(text).items()}


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
    (derivation,) = read_node_classes(text).values()
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
    assert [derivation.differentiable_results for derivation in read_node_classes(text).values()] == [(True, False)] * 2


def test_an_entry_that_cannot_be_read_is_left_out():
    text = "- name: something new\n  self: grad\n- name: abs(Tensor self) -> Tensor\n  self: grad * self.sgn()\n"
    assert classes_of(text) == {"AbsBackward0": {"self"}}


def test_a_single_grad_means_that_only_the_first_result_has_a_gradient():
    text = "- name: sort(Tensor self) -> (Tensor values, Tensor indices)\n  self: value_selecting(grad)\n"
    (derivation,) = read_node_classes(text).values()
    assert derivation.select_differentiable(parse_schema(derivation.schema).results) == (Argument("values", False),)


def test_without_a_single_grad_every_tensor_result_has_a_gradient():
    text = "- name: f(Tensor self) -> (Tensor, int, Tensor[])\n  self: g(grads)\n"
    (derivation,) = read_node_classes(text).values()
    assert derivation.select_differentiable(parse_schema(derivation.schema).results) == (
        Argument("result 0", False),
        Argument("result 2", True),
    )


def test_output_differentiability_chooses_the_results_even_where_a_formula_says_grad():
    text = "- name: f(Tensor self) -> (Tensor a, Tensor b, Tensor c)\n  output_differentiability: [False, True, True]\n"
    (derivation,) = read_node_classes(text + "  self: g(grad)\n").values()
    results = derivation.select_differentiable(parse_schema(derivation.schema).results)
    assert [result.name for result in results] == ["b", "c"]


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
    assert (name_results(0), parse_schema("aten::_foreach_zero_(Tensor(a!)[] self) -> ()").results) == ((), ())


def test_every_class_is_one_that_this_torch_has(yaml_text: str):
    assert set(read_node_classes(yaml_text)) <= set(dir(torch._C._functions))


def test_every_generated_class_of_this_torch_is_found(yaml_text: str):
    numbered = {name for name in dir(torch._C._functions) if name[-1].isdigit()}
    assert numbered <= set(read_node_classes(yaml_text))


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
        for name, derivation in read_node_classes(yaml_text).items()
    }


# The names of edges and gradients


HAND_WRITTEN = {  # nodes that derivatives.yaml does not know
    "AccumulateGrad",
    "CopyBackwards",
    "CopySlices",
    "DelayedError",
    "Error",
    "NotImplemented",
    "SendRpcBackward",
    "UndefinedGrad",
    "UndefinedGradBackward",
}


# Each argument that has a derivative, and a call in which any of them can be made to require grad.
CALLS: dict[str, tuple[Callable[..., object], dict[str, tuple[int, ...]]]] = {
    "addmm": (torch.addmm, {"self": (2, 4), "mat1": (2, 3), "mat2": (3, 4)}),
    "baddbmm": (torch.baddbmm, {"self": (2, 3, 5), "batch1": (2, 3, 4), "batch2": (2, 4, 5)}),
    "addcmul": (torch.addcmul, {"self": (3,), "tensor1": (3,), "tensor2": (3,)}),
    "lerp": (torch.lerp, {"self": (3,), "end": (3,), "weight": (3,)}),
    "where": (lambda x, y: torch.where(torch.tensor([True, False]), x, y), {"self": (2,), "other": (2,)}),
    "convolution": (torch.conv2d, {"input": (1, 2, 5, 5), "weight": (3, 2, 2, 2), "bias": (3,)}),
    "native_layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), {"input": (2, 4), "weight": (4,), "bias": (4,)}),
    "native_batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        {"input": (4, 3), "weight": (3,), "bias": (3,)},
    ),
    "prelu_kernel": (F.prelu, {"self": (2, 3), "weight": (3,)}),
    "flash_attention": (
        F.scaled_dot_product_attention,
        {"query": (1, 2, 4, 8), "key": (1, 2, 4, 8), "value": (1, 2, 4, 8)},
    ),
    "linalg_solve": (torch.linalg.solve, {"A": (3, 3), "B": (3, 2)}),
    "scatter_add": (lambda x, s: x.scatter_add(0, torch.tensor([0, 1]), s), {"self": (3,), "src": (2,)}),
    "index_put": (lambda x, v: x.index_put((torch.tensor([0, 2]),), v), {"self": (3,), "values": (2,)}),
    "cat": (lambda a, b, c: torch.cat([a, b, c]), {"tensors[0]": (1,), "tensors[1]": (2,), "tensors[2]": (3,)}),
    "stack": (lambda a, b: torch.stack([a, b]), {"tensors[0]": (2,), "tensors[1]": (2,)}),
    "foreach list": (
        lambda a, b, c, d: torch._foreach_add([a, b], [c, d]),
        {"self[0]": (2,), "self[1]": (3,), "other[0]": (2,), "other[1]": (3,)},
    ),
    "foreach three lists": (
        lambda *t: torch._foreach_addcmul(t[:2], t[2:4], t[4:]),
        {f"{name}[{index}]": (2,) for name in ("self", "tensor1", "tensor2") for index in (0, 1)},
    ),
    "foreach list and tensor": (
        lambda a, b, t: torch._foreach_mul([a, b], t),
        {"self[0]": (2,), "self[1]": (2,), "other": ()},
    ),
    "foreach of its own": (lambda a, b: torch._foreach_div([a], [b]), {"self[0]": (2,), "other[0]": (2,)}),
    "copy_": (lambda x, s: x.clone().copy_(s), {"self": (3,), "src": (3,)}),
    "in place": (lambda x, y: x.clone().mul_(y), {"self": (3,), "other": (3,)}),
    "view copy": (lambda x: torch.expand_copy(x, (2, 3)), {"self": (3,)}),
    "scalar first": (lambda e: torch.pow(2.0, e), {"exponent": (3,)}),
}


@pytest.mark.parametrize(
    ("call", "argument"), [(call, argument) for call, (_, shapes) in CALLS.items() for argument in shapes]
)
def test_the_only_argument_that_requires_grad_is_the_only_edge_that_leads_somewhere(call: str, argument: str):
    function, shapes = CALLS[call]
    tensors = [torch.rand(shape, requires_grad=name == argument) for name, shape in shapes.items()]
    assert connected_names(first_node(function(*tensors))) == [argument]


def test_an_optional_tensor_that_is_absent_has_a_name_all_the_same():
    node = torch.conv2d(torch.rand(1, 2, 5, 5), torch.rand(3, 2, 2, 2, requires_grad=True)).grad_fn
    assert names_of(node) == ["input", "weight", "bias"]


def test_a_list_of_optional_indices_has_no_edges():
    node = torch.rand(3, 3, requires_grad=True)[:, torch.tensor([0, 2])].grad_fn
    assert (node.name(), names_of(node)) == ("IndexBackward0", ["self"])


def test_members_of_a_list_are_grouped_by_the_name_of_the_list():
    node = torch.cat([torch.rand(1, requires_grad=True), torch.rand(2)]).grad_fn
    assert name_edges(find_signature(node.name()), 2) == (("tensors[0]", "tensors"), ("tensors[1]", "tensors"))


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (torch.exp, ("result",)),
        (lambda x: torch.max(x, 0), ("values",)),
        (torch.linalg.svd, ("U", "S", "Vh")),
        (torch.linalg.qr, ("Q", "R")),
        (torch.linalg.slogdet, ("sign", "logabsdet")),
        (torch.linalg.inv_ex, ("inverse",)),
        (torch.frexp, ("mantissa",)),
        pytest.param(
            torch.aminmax,
            ("min", "max"),
            marks=pytest.mark.skipif(torch.__version__ < (2, 12), reason="aminmax has no derivative in torch 2.10"),
        ),
        (torch.var_mean, ("result 0", "result 1")),
        (lambda x: torch.native_dropout(x, 0.5, True), ("result 0",)),
        (lambda x: F.layer_norm(x, (3,)), ("result 0",)),
        (lambda x: x.unbind(), ("result[0]", "result[1]", "result[2]")),
        (lambda x: x.split([1, 2]), ("result[0]", "result[1]")),
        (lambda x: torch._foreach_exp([x, x]), ("result[0]", "result[1]")),
        (lambda x: x.clone().mul_(2), ("result",)),
    ],
)
def test_grad_output_slots_are_named_after_the_differentiable_results(function, names: tuple[str, ...]):
    results = function(torch.rand(3, 3, requires_grad=True))
    assert slot_names(first_node(results)) == names


def test_the_gradient_of_a_named_result_arrives_in_its_slot():
    results = torch.linalg.svd(torch.rand(3, 3, requires_grad=True))
    node = results.S.grad_fn
    received = []
    node.register_prehook(received.append)
    results.S.sum().backward()
    assert [name for name, grad in zip(slot_names(node), received[0], strict=True) if grad is not None] == ["S"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(9),
        lambda x: x[0],
        lambda x: x.t(),
        lambda x: x.split(1),
        lambda x: x.unbind(),
        lambda x: x.diagonal(),
        lambda x: x.exp(),
        lambda x: x.clone(),
        lambda x: torch.expand_copy(x, (3, 3)),
        lambda x: x.clone().mul_(2),
        torch.linalg.qr,
    ],
)
def test_view_says_whether_the_result_is_a_view(function):
    results = function(torch.rand(3, 3, requires_grad=True))
    assert find_signature(first_node(results).name()).view is tree_leaves(results)[0]._is_view()


def test_the_schema_is_the_one_that_is_registered():
    registered = {str(schema) for schema in torch._C._jit_get_schemas_for_operator("aten::copy_")}
    assert find_signature("torch::autograd::CopyBackwards").schema in registered


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("AddmmBackward0", "addmm"),
        ("NormalBackward0", "normal"),
        ("LogSoftmaxBackward0", "_log_softmax"),
        ("ForeachAddBackward0List", "_foreach_add"),
        ("SqueezeBackward1_copy", "squeeze_copy"),
        ("torch::autograd::CopyBackwards", "copy"),
    ],
)
def test_the_function_has_no_overload_and_no_underscore_of_an_in_place_variant(name: str, function: str):
    assert find_signature(name).function == function


def test_the_copy_of_a_view_function_has_the_schema_of_its_overload():
    assert find_signature("SqueezeBackward1_copy").schema == "aten::squeeze_copy.dim(Tensor self, int dim) -> Tensor"


@pytest.mark.parametrize(
    "name",
    [
        "torch::autograd::AccumulateGrad",
        "torch::autograd::CopySlices",
        "torch::autograd::NotImplemented",
        "AddBackward99",
        "AddBackward0_copy",
        "ForeachAddBackward0Nothing",
        "ForeachAddBackward99List",
        "my_extension::MyNode",
        "",
    ],
)
def test_a_node_of_no_one_function_has_no_signature(name: str):
    assert find_signature(name) is None


def test_every_node_class_of_this_torch_is_covered_but_the_hand_written():
    names = [name for name in dir(torch._C._functions) if not name.startswith("__")]
    assert {name for name in names if find_signature(name) is None} == HAND_WRITTEN


def test_there_is_one_object_per_node_class():
    assert find_signature("MmBackward0") is find_signature("MmBackward0")


def test_edges_of_an_unknown_node_have_no_names():
    assert name_edges(None, 2) == ((None, None), (None, None))


@pytest.mark.parametrize("n_edges", [0, 1, 3])
def test_edges_have_no_names_where_there_are_not_as_many_as_arguments(n_edges: int):
    assert name_edges(find_signature("MmBackward0"), n_edges) == ((None, None),) * n_edges


def signature_with(function: str, *arguments: str) -> Signature:
    parsed = tuple(Argument(argument.removesuffix("[]"), argument.endswith("[]")) for argument in arguments)
    return Signature(f"aten::{function}", function, parsed, ("result",), view=False)


def test_two_lists_of_unknown_lengths_have_no_names_but_what_stands_around_them_has():
    signature = signature_with("lstm", "input", "hx[]", "params[]", "last")
    names = [argument for argument, _ in name_edges(signature, 5)]
    assert names == ["input", None, None, None, "last"]


def test_what_stands_between_two_lists_of_unknown_lengths_has_no_name():
    assert name_edges(signature_with("f", "a[]", "b", "c[]"), 3) == ((None, None),) * 3


def test_foreach_lists_are_of_equal_length():
    names = [argument for argument, _ in name_edges(signature_with("_foreach_f", "a[]", "b[]"), 4)]
    assert names == ["a[0]", "a[1]", "b[0]", "b[1]"]


def test_foreach_lists_that_cannot_be_of_equal_length_have_no_names():
    assert name_edges(signature_with("_foreach_f", "a[]", "b[]"), 3) == ((None, None),) * 3


def test_what_stands_between_two_foreach_lists_has_no_name():
    assert name_edges(signature_with("_foreach_f", "a[]", "b", "c[]"), 3) == ((None, None),) * 3


def test_empty_lists_take_no_edges():
    assert name_edges(signature_with("f", "a[]", "b"), 1) == (("b", None),)


def test_slots_are_numbered_where_their_number_is_not_that_of_the_results():
    assert name_outputs(find_signature("LinalgQrBackward0"), 3) == ("result 0", "result 1", "result 2")


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    def forget() -> None:
        argument_names._read_derivations.cache_clear()
        find_signature.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("fresh_tables")
def test_without_torchgen_no_generated_node_has_a_signature(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    names = ["AddmmBackward0", "ForeachAddBackward0List", "ExpandBackward0_copy"]
    assert [find_signature(name) for name in names] == [None, None, None]


@pytest.mark.usefixtures("fresh_tables")
def test_a_family_that_is_numbered_otherwise_than_in_this_torch_is_left_out(monkeypatch: pytest.MonkeyPatch):
    text = argument_names._read_derivatives_yaml().replace("- name: add.Tensor(", "- name: unreadable add.Tensor(")
    monkeypatch.setattr(argument_names, "_read_derivatives_yaml", lambda: text)
    assert find_signature("AddBackward0") is None
    assert find_signature("SubBackward0") is not None
