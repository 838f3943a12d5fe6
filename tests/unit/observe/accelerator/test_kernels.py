"""What the emulation rests on, asked of the installed PyTorch: it fails where a new version needs a look."""

import re

import pytest
import torch

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator import autocast, kernels
from fxgrad.observe.accelerator.attention import Attention, AttentionKernel, choose_kernel
from tests.support.emulation import emulated, node_name


def dispatch_table(operator):
    return dict(re.findall(r"^(\w+): (.*)$", torch._C._dispatch_dump_table(operator), re.MULTILINE))


def makes_other_nodes_on_cuda(operator):
    """Whether the kernel that makes the nodes is another for CUDA; a fallback makes none."""
    table = dispatch_table(operator)
    fallback = "VariableFallbackKernel"
    return fallback not in table["AutogradCUDA"] and table["AutogradCUDA"] != table["AutogradPrivateUse1"]


def test_every_operator_makes_the_same_nodes_on_private_use_as_on_cuda_but_for_those_that_are_handled():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    others = {name for name in names if makes_other_nodes_on_cuda(name) and "::_test_autograd" not in name}
    assert others <= {f"aten::{name}" for name in kernels.BACKEND_OPERATORS}


def test_what_is_overridden_is_a_composite_of_this_pytorch():
    overridden = [name for name, _ in kernels.list_autograd_kernels()]
    assert [
        name
        for name in overridden
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CompositeImplicitAutograd")
    ] == []


def test_every_operator_that_cuda_casts_has_a_policy_or_is_refused():
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")
    wanted = {name.removeprefix("aten::") for name in registered if name.startswith("aten::")}
    assert wanted == {name for name, _ in autocast.list_kernels()}


def test_the_headers_tell_the_policy_of_all_but_a_few():
    refused = {name for name, _ in autocast.list_kernels()} - autocast.read_policies().keys()
    assert len(refused) <= 6
    assert len(autocast.read_policies()) > 100


@pytest.mark.parametrize(
    ("operator", "policy"),
    [
        ("linear", "LOWER_PRECISION_FP"),
        ("conv_transpose2d.input", "LOWER_PRECISION_FP"),
        ("pow.Tensor_Scalar", "FP32"),
        ("layer_norm", "FP32"),
        ("softmax.int", "FP32_SET_OPT_DTYPE"),
        ("norm.Scalar", "DIFFERENT_REDISPATCH_SIGNATURE"),
        ("addcmul", "PROMOTE"),
    ],
)
def test_the_policies_are_read_from_the_header(operator, policy):
    assert autocast.read_policies()[operator] == policy


def attention(*, heads=(4, 4, 4), length=(5, 5), head=(8, 8, 8), dtype=torch.float32, **options):
    """One call on tensors without data."""
    lengths = (length[0], length[1], length[1])
    query, key, value = (
        torch.empty(2, *sizes, dtype=dtype, device="meta") for sizes in zip(heads, lengths, head, strict=True)
    )
    given = {"mask": None, "dropout": 0.0, "causal": False, "grouped": False, **options}
    return Attention(query, key, value, **given)


@pytest.mark.parametrize(
    ("call", "kernel"),
    [
        (attention(), AttentionKernel.EFFICIENT),
        (attention(dropout=0.5, causal=True), AttentionKernel.EFFICIENT),
        (attention(length=(0, 5)), AttentionKernel.MATH),
        (attention(head=(8, 12, 12)), AttentionKernel.MATH),
        (attention(head=(8, 8, 12)), AttentionKernel.EFFICIENT),
        (attention(dtype=torch.float64), AttentionKernel.MATH),
        (attention(dtype=torch.complex64), AttentionKernel.MATH),
    ],
)
def test_a_certain_choice_of_attention_has_no_caveat(call, kernel):
    assert choose_kernel(call, mask_needs_grad=False) == (kernel, None)


HALF = {"dtype": torch.float16}


@pytest.mark.parametrize(
    ("call", "kernel"),
    [
        (attention(head=(6, 6, 6)), AttentionKernel.MATH),
        (attention(heads=(4, 2, 2), grouped=True), AttentionKernel.MATH),
        (attention(**HALF), AttentionKernel.FLASH),
        (attention(**HALF, heads=(4, 2, 2), grouped=True), AttentionKernel.FLASH),
        (attention(**HALF, head=(6, 6, 6)), AttentionKernel.FLASH),
        (attention(**HALF, length=(5, 7), causal=True), AttentionKernel.EFFICIENT),
        (attention(**HALF, head=(512, 512, 512)), AttentionKernel.EFFICIENT),
        (attention(**HALF, mask=torch.empty(5, 5, device="meta")), AttentionKernel.EFFICIENT),
        (attention(dtype=torch.bfloat16), AttentionKernel.FLASH),
    ],
)
def test_a_choice_of_attention_that_depends_on_the_gpu_has_a_caveat(call, kernel):
    chosen, caveat = choose_kernel(call, mask_needs_grad=False)
    assert (chosen, caveat is None) == (kernel, False)


def test_attention_whose_tensors_are_not_dense_in_the_head_is_no_fused_kernel():
    call = attention()
    transposed = call._replace(query=torch.empty(2, 4, 8, 5, device="meta").transpose(-1, -2))
    assert choose_kernel(transposed, mask_needs_grad=False) == (AttentionKernel.MATH, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_for_a_mask_that_requires_grad_it_is_the_efficient_kernel_on_every_gpu(dtype):
    call = attention(mask=torch.empty(5, 5, device="meta"), dtype=dtype)
    assert choose_kernel(call, mask_needs_grad=True) == (AttentionKernel.EFFICIENT, None)


@pytest.mark.parametrize(
    ("length", "nodes"),
    [
        (5, ["ExpandBackward0", "SliceBackward0", "ConstantPadNdBackward0"]),
        (8, ["ExpandBackward0"]),
        (1, ["ExpandBackward0", "SliceBackward0", "ConstantPadNdBackward0"]),
    ],
)
def test_a_mask_that_requires_grad_is_padded_and_expanded_by_nodes(length, nodes):
    """As measured on an H200 with torch 2.11."""

    def program(_):
        query, key, value = (torch.randn(2, 4, length, 8, requires_grad=True) for _ in "qkv")
        mask = torch.zeros(length, length, requires_grad=True)
        node = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).grad_fn
        names = [node_name(node)]
        while node.next_functions:
            node = node.next_functions[-1][0]
            names.append(node_name(node))
        return names

    assert emulated(program) == ["ScaledDotProductEfficientAttentionBackward0", *nodes, "AccumulateGrad"]


def test_a_mask_of_another_type_is_refused_as_on_a_gpu():
    def program(_):
        query, key, value = (torch.randn(2, 4, 5, 8, requires_grad=True) for _ in "qkv")
        mask = torch.zeros(5, 5, dtype=torch.float64)
        try:
            torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        except RuntimeError as error:
            return str(error)

    assert emulated(program).startswith("Expected attn_mask dtype to be bool or float or to match query dtype")


def test_attention_for_which_no_enabled_kernel_runs_is_refused():
    def program(_):
        query, key, value = (torch.randn(2, 4, 5, 8, requires_grad=True) for _ in "qkv")
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            try:
                torch.nn.functional.scaled_dot_product_attention(query, key, value)
            except TargetError as error:
                return error.given

    assert emulated(program).endswith("where no enabled kernel can run")


def test_flash_attention_pads_the_head_with_nodes_of_its_own():
    def program(_):
        query, key, value = (torch.randn(2, 4, 5, 6, dtype=torch.float16, requires_grad=True) for _ in "qkv")
        node = torch.nn.functional.scaled_dot_product_attention(query, key, value).grad_fn
        inner = node.next_functions[0][0]
        return [node.name(), inner.name(), [each.name() for each, _ in inner.next_functions]]

    padded = ["ConstantPadNdBackward0"] * 3
    assert emulated(program) == ["SliceBackward0", "ScaledDotProductFlashAttentionBackward0", padded]
