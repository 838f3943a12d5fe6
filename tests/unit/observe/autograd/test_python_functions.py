"""Edges of Python Functions are named after the parameters of forward, or not at all."""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
import torch
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils.checkpoint import checkpoint

from fxgrad.observe.autograd.python_functions import CustomSignature, read_custom_signature
from tests.support.needs import needs_keywords_of_apply


class Function(torch.autograd.Function):
    """A backward that is never run."""

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError


def leaf() -> torch.Tensor:
    return torch.ones(3, requires_grad=True)


def constant() -> torch.Tensor:
    return torch.ones(3)


def find_signature(results: torch.Tensor | tuple[torch.Tensor, ...]) -> CustomSignature:
    """The signature of the node that the first result has. Before torch 2.13 that node goes with the last result."""
    first = results if isinstance(results, torch.Tensor) else results[0]
    return read_custom_signature(first.grad_fn)


def signature_after(function: type[Function], *args: object, **kwargs: object) -> CustomSignature:
    """The signature of the node of one call."""
    return find_signature(function.apply(*args, **kwargs))


class Ctx(Function):
    @staticmethod
    def forward(ctx, x, k, w, b=None, *rest):
        return x * 2


class SetupContext(Function):
    @staticmethod
    def forward(x, scale=2.0, bias=None):
        return x * scale

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


class OnlyVarargs(Function):
    @staticmethod
    def forward(*args):
        return args[1] * 2


def test_edges_are_named_after_the_tensors_among_the_arguments():
    assert signature_after(Ctx, leaf(), 2, leaf()).arguments == ("x", "w")


def test_a_tensor_that_requires_no_grad_is_named_too():
    assert signature_after(Ctx, leaf(), constant(), leaf()).arguments == ("x", "k", "w")


def test_an_argument_left_at_its_default_has_no_edge():
    assert signature_after(Ctx, leaf(), 2, leaf(), None).arguments == ("x", "w")


def test_varargs_are_numbered_from_0_and_grouped():
    signature = signature_after(Ctx, leaf(), 2, leaf(), leaf(), leaf(), "s", leaf())
    assert signature.arguments == ("x", "w", "b", "rest[0]", "rest[2]")
    assert signature.groups == (None, None, None, "rest", "rest")


def test_null_edges_are_not_named_where_more_arguments_than_edges_stand_between_two_that_require_grad():
    signature = signature_after(Ctx, leaf(), 2, constant(), leaf())
    assert signature.arguments == ("x", None, "b")


def test_null_edges_elsewhere_keep_their_names():
    signature = signature_after(Ctx, leaf(), 2, constant(), leaf(), constant(), leaf())
    assert signature.arguments == ("x", None, "b", "rest[0]", "rest[1]")


def test_null_edges_behind_the_last_that_requires_grad_are_named_too():
    assert signature_after(Ctx, leaf(), constant(), constant()).arguments == ("x", "k", "w")


def test_null_edges_before_the_first_that_requires_grad_are_named_too():
    assert signature_after(Ctx, constant(), 2, leaf()).arguments == (None, "w")
    assert signature_after(Ctx, constant(), constant(), leaf()).arguments == ("x", "k", "w")


def test_with_setup_context_there_is_no_context_among_the_parameters():
    assert signature_after(SetupContext, leaf(), constant(), constant()).arguments == ("x", "scale", "bias")


@needs_keywords_of_apply
def test_with_setup_context_defaults_and_keywords_are_arguments_like_others():
    signature = signature_after(SetupContext, leaf(), bias=constant())
    assert (signature.arguments, signature.needs_input_grad) == (("x", None), (True, False, False))


@needs_keywords_of_apply
def test_with_setup_context_a_keyword_that_requires_grad_is_named():
    assert signature_after(SetupContext, constant(), bias=leaf()).arguments == (None, "bias")


def test_the_context_may_be_one_of_the_varargs():
    assert signature_after(OnlyVarargs, leaf(), leaf()).arguments == ("args[1]", "args[2]")


def test_needs_input_grad_has_an_entry_for_each_argument():
    assert signature_after(Ctx, leaf(), 2, constant(), leaf()).needs_input_grad == (True, False, False, True)


@pytest.mark.parametrize("named", ["x", "k", "w", "b"])
def test_the_only_argument_that_requires_grad_is_the_only_edge_that_leads_somewhere(named: str):
    result = Ctx.apply(*[torch.ones(3, requires_grad=name == named) for name in ("x", "k", "w", "b")])
    edges = zip(find_signature(result).arguments, result.grad_fn.next_functions, strict=True)
    assert [argument for argument, (next_node, _) in edges if next_node is not None] == [named]


class Several(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2, 3, None, x.long()


def test_every_returned_value_has_a_slot():
    assert signature_after(Several, leaf()).outputs == ("result 0", "result 1", "result 2", "result 3")


def test_a_single_result_is_called_result():
    assert signature_after(Ctx, leaf(), 2, 3).outputs == ("result",)


def passing_on(forward):
    @functools.wraps(forward)
    def wrapper(*args):
        return forward(*args)

    return wrapper


def inserting(forward):
    @functools.wraps(forward)
    def wrapper(ctx, *args):
        return forward(ctx, "inserted", *args)

    return wrapper


class Wrapped(Function):
    @staticmethod
    @passing_on
    def forward(ctx, x, scale):
        return x * scale


class AutocastForward(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, scale):
        return x * scale


class Inserted(Function):
    @staticmethod
    @inserting
    def forward(ctx, device, x):
        return x * 2


class Partial(Function):
    forward = functools.partial(lambda factor, ctx, x: x * factor, 2.0)


class Opaque:
    __signature__ = "unknown"

    def __call__(self, ctx, x):
        return x * 2


class WithoutSignature(Function):
    forward = Opaque()


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, ctx, x):
        return x * 2


class CallableObject(Function):
    forward = Unhashable()


@pytest.mark.parametrize("function", [Wrapped, AutocastForward])
def test_names_are_found_behind_a_decorator(function: type[Function]):
    assert signature_after(function, leaf(), leaf()).arguments == ("x", "scale")


def test_a_decorator_that_changes_the_number_of_arguments_leaves_no_names():
    assert signature_after(Inserted, leaf()).arguments == (None,)


def test_forward_may_be_a_partial():
    assert signature_after(Partial, leaf()).arguments == ("x",)


def test_forward_may_be_any_callable():
    assert signature_after(CallableObject, leaf()).arguments == ("x",)


def test_a_forward_without_signature_leaves_no_names():
    assert signature_after(WithoutSignature, leaf()).arguments == (None,)


class Overwriting(Function):
    value: object = None

    @staticmethod
    def forward(ctx, x, w):
        ctx.needs_input_grad = Overwriting.value
        return x * 2


@pytest.mark.parametrize("value", [None, "both", (1, 0), [True, False]])
def test_what_the_user_put_in_place_of_needs_input_grad_is_not_believed(value: object, monkeypatch):
    monkeypatch.setattr(Overwriting, "value", value)
    signature = signature_after(Overwriting, leaf(), constant())
    assert (signature.arguments, signature.needs_input_grad) == ((None, None), None)


def test_edges_are_not_named_where_needs_input_grad_does_not_fit_them(monkeypatch):
    monkeypatch.setattr(Overwriting, "value", (True, True))
    assert signature_after(Overwriting, leaf(), constant()).arguments == (None, None)


def test_a_view_older_than_the_requires_grad_of_its_base_needs_grad_but_has_no_edge():
    base = torch.ones(3)
    view = base[:]
    base.requires_grad_()
    assert signature_after(Ctx, view, 2, leaf()).arguments == (None, None)


class Shadowing(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.name, ctx._forward_cls = "mine", None
        return x * 2


def test_attributes_of_the_context_do_not_disturb():
    assert signature_after(Shadowing, leaf()).arguments == ("x",)


def test_signatures_stay_after_backward():
    (result,) = BackwardHookFunction.apply(leaf())
    result.sum().backward()
    assert find_signature(result).arguments == ("args[0]",)


def test_a_function_is_not_kept_alive():
    class Short(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    signature_after(Short, leaf())
    alive = weakref.ref(Short.forward)
    del Short
    gc.collect()
    assert alive() is None


def test_a_forward_that_was_replaced_is_looked_at_again(monkeypatch):
    assert signature_after(Ctx, leaf(), 2, leaf()).arguments == ("x", "w")
    monkeypatch.setattr(Ctx, "forward", staticmethod(lambda ctx, first, second, third: first * 2))
    assert signature_after(Ctx, leaf(), 2, leaf()).arguments == ("first", "third")


def test_the_node_that_a_full_hook_makes_has_the_varargs_of_its_forward():
    signature = signature_after(BackwardHookFunction, leaf(), constant())
    assert (signature.arguments, signature.groups) == (("args[0]", "args[1]"), ("args", "args"))
    assert signature.outputs == ("result 0", "result 1")


def test_the_node_of_a_reentrant_checkpoint_has_the_varargs_of_its_forward():
    result = checkpoint(lambda x, k, y: x * y, leaf(), 2, leaf(), use_reentrant=True)
    assert find_signature(result).arguments == ("args[0]", "args[2]")


class Vmapped(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return x * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, grad * x


def test_a_function_that_torch_func_makes_has_no_names():
    result = torch.vmap(Vmapped.apply)(torch.ones(2, 3, requires_grad=True), torch.ones(2, 3))
    node = result.grad_fn
    while not isinstance(node, torch._C._FunctionBase):
        node = node.next_functions[0][0]
    assert set(read_custom_signature(node).arguments) == {None}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_region_has_no_names():
    result = torch.compile(lambda x, w: x * w + 1, backend="aot_eager")(leaf(), leaf())
    signature = find_signature(result)
    assert (result.grad_fn.name(), set(signature.arguments)) == ("CompiledFunctionBackward", {None})
    assert len(signature.needs_input_grad) == len(signature.arguments)


@pytest.fixture(scope="module")
def library():
    """Operators registered from Python, with lists and without."""
    with torch.library._scoped_library("fxgrad_signatures", "FRAGMENT") as library:
        library.define("plain(Tensor x, int k, Tensor? mask=None, float eps=0.5) -> (Tensor out, Tensor)")
        library.define(
            "lists(Tensor x, Tensor[] ws, int k=2, Tensor? b=None, *, bool flag=True) -> (Tensor, Tensor[] out)"
        )
        library.impl("plain", lambda x, k, mask=None, eps=0.5: (x * k, x + 1), "CPU")
        library.impl("lists", lambda x, ws, k=2, b=None, *, flag=True: (x * k, [x + 1, x + 2]), "CPU")
        library.define("optional(Tensor x, Tensor? a, Tensor? b, Tensor y) -> Tensor")
        library.impl("optional", lambda x, a, b, y: x * y, "CPU")
        for name in ("plain", "lists", "optional"):
            torch.library.register_autograd(f"fxgrad_signatures::{name}", lambda ctx, *grads: None, lib=library)
        yield torch.ops.fxgrad_signatures


def test_an_operator_registered_from_python_has_the_names_of_its_schema(library):
    signature = find_signature(library.plain(leaf(), 2, leaf()))
    assert (signature.arguments, signature.outputs) == (("x", "mask"), ("out", "result 1"))
    assert signature.schema.startswith("fxgrad_signatures::plain(Tensor x, ")


def test_an_operator_names_null_edges_by_the_types_of_its_arguments(library):
    assert find_signature(library.plain(constant(), 2, leaf())).arguments == ("x", "mask")


def test_an_optional_argument_of_an_operator_may_be_left_out(library):
    assert find_signature(library.plain(leaf(), 2)).arguments == ("x",)
    assert find_signature(library.plain(leaf(), 2, None, 0.1)).arguments == ("x",)


def test_without_optional_tensors_the_null_edges_of_an_operator_are_those_of_the_others(library):
    assert find_signature(library.optional(constant(), None, None, leaf())).arguments == ("x", "y")


def test_an_operator_does_not_name_null_edges_where_some_optional_tensors_are_given(library):
    signature = find_signature(library.optional(constant(), None, constant(), leaf()))
    assert signature.arguments == (None, None, "y")


def test_lists_of_an_operator_are_named_member_by_member(library):
    signature = find_signature(library.lists(constant(), [constant(), leaf()], 3, constant(), flag=False))
    assert signature.arguments == ("x", "ws[0]", "ws[1]", "b")
    assert signature.groups == (None, "ws", "ws", None)
    assert signature.outputs == ("result 0", "out[0]", "out[1]")


def test_an_empty_list_of_an_operator_has_no_edges(library):
    assert find_signature(library.lists(leaf(), [], 3, constant())).arguments == ("x", "b")


def test_a_user_function_has_no_schema():
    assert signature_after(Ctx, leaf(), 2, 3).schema is None
