"""Which entries are None: each rule on its own, held against a real backward."""

import pytest
import torch
from module_hooks import FromFunction, site_of
from module_hooks import assert_as_predicted as with_module
from random_programs import Scale, Stop
from real_backward import Bench, assert_as_predicted
from torch.autograd import Function

import fxgrad
from fxgrad.errors import TargetError


def leaf(*shape, **options):
    return torch.randn(shape or (3,), requires_grad=True, **options)


def entries(predicted, label, which="grad_input"):
    """(status, reason) of what a hook on the node with this label gets."""
    (site,) = [site for site in predicted.sites if predicted.nodes[site.node].label == label]
    return [(gradient.status, gradient.reason) for gradient in getattr(site, which)]


def predicted_for(outputs, inputs=None, api="backward"):
    return assert_as_predicted(lambda: Bench(outputs).on_every_node(), inputs, api)


def test_every_slot_that_a_root_feeds_gets_a_tensor():
    first, second = leaf(2, 3).unbind(0)
    predicted = predicted_for([first, second])
    assert entries(predicted, "UnbindBackward0_0", "grad_output") == [("tensor", None), ("tensor", None)]


def test_a_slot_that_nothing_uses_gets_none():
    first, _ = (leaf(2, 3) * 1).unbind(0)
    predicted = predicted_for(first.sum())
    assert entries(predicted, "UnbindBackward0_0", "grad_output") == [
        ("tensor", None),
        ("none", "no root depends on it"),
    ]


def test_an_argument_that_requires_no_grad_gets_none():
    predicted = predicted_for(leaf() * torch.ones(3))
    assert [status for status, _ in entries(predicted, "MulBackward0_0")] == ["tensor", "none"]


def test_a_list_argument_is_computed_as_a_whole():
    predicted = predicted_for(torch.cat([torch.ones(2), leaf(), torch.ones(1)]))
    assert [status for status, _ in entries(predicted, "CatBackward0_0")] == ["tensor", "tensor", "tensor"]


def test_a_stacked_list_is_computed_as_a_whole():
    predicted = predicted_for(torch.stack([torch.ones(3), leaf()]))
    assert [status for status, _ in entries(predicted, "StackBackward0_0")] == ["tensor", "tensor"]


def test_a_foreach_list_gets_gradients_element_by_element():
    left, right = [leaf() for _ in range(3)], [torch.ones(3) for _ in range(3)]
    _, middle, _ = torch._foreach_mul(left, right)
    predicted = predicted_for(middle)
    label = predicted.nodes[0].label
    statuses = [status for status, _ in entries(predicted, label)]
    assert statuses == ["none", "tensor", "none", "none", "none", "none"]


def test_a_list_argument_is_computed_as_a_whole_also_where_only_one_of_it_is_an_input():
    x, y = leaf(), leaf()
    predicted = predicted_for(torch.cat([x, y]), inputs=[x])
    assert [status for status, _ in entries(predicted, "CatBackward0_0")] == ["tensor", "tensor"]


def test_what_leads_to_no_input_gets_none():
    x, w = leaf(), leaf()
    predicted = predicted_for(x * w, inputs=[x])
    assert entries(predicted, "MulBackward0_0") == [
        ("tensor", None),
        ("none", "none of the tensors in inputs= is behind it"),
    ]


class ReturnsNone(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


class ReturnsByValue(ReturnsNone):
    """None for this gradient; which it is only the gradient's values decide."""

    @staticmethod
    def backward(ctx, grad):
        return grad if float(grad.sum()) < 0 else None


def test_none_that_the_code_of_a_python_backward_returns_is_known():
    predicted = predicted_for(ReturnsNone.apply(leaf() * 2))
    assert entries(predicted, "ReturnsNoneBackward_0") == [("none", "backward returns None for it")]
    assert entries(predicted, "MulBackward0_0")[0] == ("none", "no gradient arrives at this node")


def test_none_for_an_argument_that_needs_no_gradient_says_both():
    predicted = predicted_for(Stop.apply(leaf(), torch.ones(3)))
    assert entries(predicted, "StopBackward_0")[1] == (
        "none",
        "it did not require grad when it was made or used, and backward returns None for it",
    )


def test_what_values_decide_in_a_python_backward_is_unknown():
    predicted = predicted_for(ReturnsByValue.apply(leaf() * 2))
    (entry,) = entries(predicted, "ReturnsByValueBackward_0")
    assert entry == (
        "unknown",
        "the backward of ReturnsByValueBackward_0, a Python function, decides whether this is a Tensor or None",
    )


def test_behind_what_a_python_backward_decides_everything_it_alone_feeds_is_unknown_and_says_why():
    predicted = predicted_for(ReturnsByValue.apply(leaf() * 2))
    (entry, _) = entries(predicted, "MulBackward0_0")
    assert entry == (
        "unknown",
        "the backward of ReturnsByValueBackward_0, a Python function, decides whether a gradient arrives here",
    )


def test_what_another_path_feeds_for_certain_is_known_behind_a_python_backward():
    y = leaf() * 2
    predicted = predicted_for(ReturnsNone.apply(y) + y)
    assert entries(predicted, "MulBackward0_0")[0] == ("tensor", None)


def test_a_python_function_has_one_grad_output_per_returned_value_and_one_grad_input_per_tensor():
    class Mixed(Function):
        @staticmethod
        def forward(ctx, x, factor, y, names):
            return x * factor, "name", (y > 0)

        @staticmethod
        def backward(ctx, first, second, third):
            return first, None, None, None

    result, _, _ = Mixed.apply(leaf(), 2.0, leaf(), ["a"])
    predicted = predicted_for(result)
    assert len(entries(predicted, "MixedBackward_0", "grad_output")) == 3
    assert len(entries(predicted, "MixedBackward_0")) == 2


def test_hooks_see_none_where_a_python_backward_gets_zeros():
    seen = []

    class Two(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1, x * 2

        @staticmethod
        def backward(ctx, first, second):
            seen.append(second is not None)
            return first

    first, _ = Two.apply(leaf())
    predicted = predicted_for(first)
    assert seen == [True]
    assert [status for status, _ in entries(predicted, "TwoBackward_0", "grad_output")] == ["tensor", "none"]


def test_a_python_backward_is_called_where_no_gradient_arrives_for_certain():
    inner = Scale.apply(ReturnsNone.apply(leaf()), 2.0)
    predicted = predicted_for(ReturnsNone.apply(inner))
    assert entries(predicted, "ScaleBackward_0")[0] == ("tensor", None)


def test_none_arrives_behind_a_foreach_element_without_gradient():
    _, used = torch._foreach_mul([leaf() * leaf(), leaf()], 2.0)
    predicted = predicted_for(used)
    assert entries(predicted, "MulBackward0_0") == [("none", "no gradient arrives at this node")] * 2
    (post,) = entries(predicted, "MulBackward0_0", "grad_output")
    assert post == ("none", f"{predicted.nodes[0].label} returns None for it")


def test_hooks_on_a_leaf_are_called_with_none():
    _, used = torch._foreach_mul([leaf(), leaf()], 2.0)
    bench = Bench(used)
    (first,) = [node.variable for node in bench.walked.order[1:2]]
    bench.on_tensor(first)
    bench.after_accumulation(first)
    bench.on_every_node()
    comparison = bench.compare()
    assert not comparison.wrong
    assert first.grad is None


@pytest.mark.parametrize(("order", "status"), [(0, "none"), (0.0, "none"), (1, "tensor"), (2, "tensor")])
def test_the_zero_norm_has_no_gradient(order, status):
    predicted = predicted_for(torch.linalg.vector_norm(leaf(), order))
    assert entries(predicted, "LinalgVectorNormBackward0_0")[0][0] == status


def test_the_sign_of_a_real_determinant_has_no_gradient():
    predicted = predicted_for(torch.linalg.slogdet(leaf(3, 3)).sign)
    assert entries(predicted, "LinalgSlogdetBackward0_0") == [("none", "the sign of a real determinant is constant")]


def test_the_sign_of_a_complex_determinant_has_one():
    predicted = predicted_for(torch.linalg.slogdet(leaf(3, 3, dtype=torch.complex64)).sign)
    assert entries(predicted, "LinalgSlogdetBackward0_0")[0][0] == "tensor"


@pytest.mark.parametrize(("driver", "status"), [("gels", "tensor"), ("gelsy", "none")])
def test_residuals_pass_a_gradient_on_where_the_driver_computes_them(driver, status):
    predicted = predicted_for(torch.linalg.lstsq(leaf(5, 3), leaf(5, 2), driver=driver).residuals)
    assert entries(predicted, "LinalgLstsqBackward0_0")[0][0] == status


@pytest.mark.parametrize(
    ("chosen", "statuses"),
    [
        ((0,), ["tensor", "tensor", "tensor"]),
        ((1,), ["none", "none", "none"]),
        ((1, 2), ["tensor", "none", "none"]),
        ((0, 2), ["tensor", "tensor", "tensor"]),
    ],
)
def test_group_norm_needs_mean_and_rstd_together(chosen, statuses):
    results = torch.native_group_norm(leaf(2, 6, 3), leaf(6), leaf(6), 2, 6, 3, 2, 1e-5)
    predicted = predicted_for([results[index] for index in chosen])
    if 0 not in chosen and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):
        statuses = ["unknown"] * 3
    assert [status for status, _ in entries(predicted, "NativeGroupNormBackward0_0")] == statuses


@pytest.mark.parametrize(("reflectors", "status"), [(2, "tensor"), (0, "none")])
def test_a_householder_product_without_reflectors_has_no_gradient(reflectors, status):
    predicted = predicted_for(torch.linalg.householder_product(leaf(3, 3), leaf(reflectors)))
    statuses = [status for status, _ in entries(predicted, "LinalgHouseholderProductBackward0_0")]
    assert statuses == [status, status]


def test_whether_there_are_reflectors_is_known_of_a_tau_that_requires_no_grad_where_it_was_recorded():
    captured = predicted_for(torch.linalg.householder_product(leaf(3, 3), torch.zeros(0)))
    assert entries(captured, "LinalgHouseholderProductBackward0_0")[0][0] == "unknown"
    model = FromFunction(lambda self, x: torch.linalg.householder_product(x, torch.zeros(0)))
    model.register_backward_hook(lambda *_: None)
    (site,) = fxgrad.trace(model, leaf(3, 3)).sites
    assert [gradient.status for gradient in site.grad_input] == ["none", "none"]
    assert fxgrad.verify(model, leaf(3, 3)).ok


def test_which_gradients_a_second_derivative_has_is_unknown():
    x, weight = leaf(1, 1, 4), leaf(1, 1, 2)
    y = torch.nn.functional.conv1d(x, weight)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    predicted = predicted_for(grad)
    statuses = [status for status, _ in entries(predicted, "ConvolutionBackwardBackward0_0")]
    assert statuses == ["none", "unknown", "unknown"]


def test_a_change_of_a_view_in_place_is_unknown_where_the_forward_was_not_recorded():
    base, value = leaf(4) * 1, leaf(2)
    base[:2].mul_(value)
    predicted = predicted_for(base)
    reason = "which function changed the view in place was not recorded"
    assert entries(predicted, "CopySlices_0") == [("unknown", reason)] * 2


def in_place(notebook, change, *, base=lambda a: a * 1):
    """What a legacy hook gets on CopySlices, from a module that changes a view of `base(argument)` in place."""

    def forward(module, a):
        changed = base(a)
        change(changed[:2], module.weight[:2])
        return changed

    module = FromFunction(forward)
    notebook.legacy(module, "legacy")
    predicted = with_module(notebook, module, [leaf(4)])
    return [(gradient.status, gradient.reason) for gradient in site_of(predicted, "legacy").grad_input]


@pytest.mark.filterwarnings("ignore:Using .*non-full backward hook")
class TestChangesOfAViewInPlace:
    def test_its_base_and_the_other_operand_get_gradients(self, notebook):
        assert in_place(notebook, lambda view, w: view.mul_(w)) == [("tensor", None)] * 2

    def test_an_assignment_to_a_slice_gives_both_gradients(self, notebook):
        assert in_place(notebook, lambda view, w: view.__setitem__(slice(None), w)) == [("tensor", None)] * 2

    def test_a_base_without_grad_gets_none(self, notebook):
        result = in_place(notebook, lambda view, w: view.copy_(w), base=torch.zeros_like)
        assert [status for status, _ in result] == ["none", "tensor"]

    def test_what_a_python_function_in_place_gives_is_unknown(self, notebook):
        class InPlace(Function):
            @staticmethod
            def forward(ctx, view, w):
                ctx.mark_dirty(view)
                return view.mul_(2)

            @staticmethod
            def backward(ctx, grad):
                return None, grad

        reason = "the backward of the function that changed the view in place decides"
        # looked up while it is recorded: that is when the recorder sees it
        assert in_place(notebook, lambda view, w: InPlace.apply(view, w)) == [("unknown", reason)] * 2  # noqa: PLW0108


def test_shapes_are_those_before_broadcasting():
    predicted = predicted_for(leaf(3, 1) * leaf(4))
    (site,) = [site for site in predicted.sites if predicted.nodes[site.node].label == "MulBackward0_0"]
    assert [gradient.shape for gradient in site.grad_input] == [(3, 1), (4,)]


def test_dtypes_are_those_before_promotion():
    predicted = predicted_for(leaf(3) * leaf(3, dtype=torch.float64))
    (site,) = [site for site in predicted.sites if predicted.nodes[site.node].label == "MulBackward0_0"]
    assert [gradient.dtype for gradient in site.grad_input] == ["float32", "float64"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_shape_of_a_strided_nested_gradient_is_not_known():
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], requires_grad=True)
    predicted = Bench(nested * 2).on_every_node().predicted()
    assert predicted.sites[0].grad_output[0].shape is None
    assert predicted.sites[0].grad_output[0].status == "tensor"


def test_a_sparse_gradient_has_the_shape_of_the_dense_one():
    weight = leaf(5, 3)
    predicted = predicted_for(torch.nn.functional.embedding(torch.tensor([1, 2]), weight, sparse=True))
    (site,) = [site for site in predicted.sites if predicted.nodes[site.node].label == "EmbeddingBackward0_0"]
    assert site.grad_input[0].shape == (5, 3)


def behind_null_edges(notebook, function, *constants):
    """Shape and dtype of what a legacy hook gets for the constants, which a module passes on after its weight."""
    module = FromFunction(lambda self, *others: function([self.weight, *others]))
    notebook.legacy(module, "legacy")
    predicted = with_module(notebook, module, list(constants))
    return [(gradient.shape, gradient.dtype) for gradient in site_of(predicted, "legacy").grad_input[1:]]


@pytest.mark.filterwarnings("ignore:Using .*non-full backward hook")
class TestShapesBehindNullEdges:
    def test_members_of_a_list_get_gradients_of_their_own_shapes(self, notebook):
        assert behind_null_edges(notebook, torch.cat, torch.ones(2), torch.ones(5)) == [
            ((2,), "float32"),
            ((5,), "float32"),
        ]

    def test_an_empty_member_of_one_dimension_gets_an_empty_one(self, notebook):
        def function(tensors):
            return torch.cat([tensors[0][None], tensors[1]])

        assert behind_null_edges(notebook, function, torch.ones(0)) == [((0,), "float32")]

    def test_the_dtype_is_left_open_where_the_list_is_of_several(self, notebook):
        assert behind_null_edges(notebook, torch.cat, torch.ones(2, dtype=torch.float16)) == [((2,), None)]

    def test_what_a_function_over_lists_has_broadcast_is_left_open(self, notebook):
        def function(tensors):
            return torch._foreach_mul(tensors, [torch.ones(3)] * 3)

        assert behind_null_edges(notebook, function, torch.ones(3), torch.ones(2, 1))[:2] == [
            ((3,), "float32"),
            (None, "float32"),
        ]


LAYOUTS = [torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse, torch.Tensor.to_mkldnn]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("to_layout", LAYOUTS)
def test_a_leaf_that_cannot_be_viewed_is_traced(to_layout):
    argument = to_layout(torch.eye(3)).requires_grad_()
    graph = fxgrad.trace(FromFunction(lambda self, x: x.to_dense() * self.weight), (argument,)).graph
    assert [node.variable for node in graph.nodes if node.variable] == ["args[0]", "weight"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("to_layout", LAYOUTS)
def test_a_leaf_that_cannot_be_viewed_is_no_root(to_layout):
    argument = to_layout(torch.eye(3)).requires_grad_()
    with pytest.raises(
        TargetError, match=r"(?s)^backward cannot start from result\[0\].*try: return a clone\(\) of it$"
    ):
        fxgrad.trace(FromFunction(lambda self, x: (x, self.weight * 2)), (argument,))
