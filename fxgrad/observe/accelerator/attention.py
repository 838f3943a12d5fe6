"""Which kernel ``scaled_dot_product_attention`` runs on CUDA, as far as that can be known without the GPU.

Follows aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (the conditions) and transformers/sdp_utils_cpp.h
(the checks on shapes), and attention.cpp for what is put around the kernel.

What is certain: for float64 and other types there is no fused kernel, so PyTorch runs the composite of matmul and
softmax ("math"); for float32 there is only the memory-efficient kernel, which runs on every GPU that PyTorch supports.
For float16 and bfloat16 the GPU decides: an NVIDIA A100 (compute capability 8.0) is assumed, and a note says so.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

BATCHED = 4
"""Dimensions of query, key and value: batch, heads, positions, head."""
MAX_HEAD_DIM_FLASH = 256
MASK_ALIGNMENT = 8
"""Elements; attention.cpp: preprocess_mask."""
ALIGNMENT_FLOAT = 4
"""Elements; sdp_utils.cpp: minimum_gemm_alignment on compute capability 8 and later."""
ALIGNMENT_HALF = 8


class AttentionKernel(enum.Enum):
    """The kernels that PyTorch chooses from. The value is the node that a call makes; None for the composite."""

    FLASH = "ScaledDotProductFlashAttentionBackward0"
    EFFICIENT = "ScaledDotProductEfficientAttentionBackward0"
    MATH = None


class KernelChoice(NamedTuple):
    """A kernel, and what the report must say about it; None if it is certain."""

    kernel: AttentionKernel
    caveat: str | None = None


class Attention(NamedTuple):
    """The arguments of one call of ``scaled_dot_product_attention``."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    grouped: bool

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three that every kernel takes."""
        return self.query, self.key, self.value

    def with_batch(self) -> Attention:
        """Return the call with a batch dimension of size 1 before the three of each tensor; this makes nodes."""
        mask = self.mask
        while mask is not None and mask.dim() < BATCHED:
            mask = mask.unsqueeze(0)
        query, key, value = (tensor.unsqueeze(0) for tensor in self.tensors)
        return self._replace(query=query, key=key, value=value, mask=mask)


@cache
def adds_batch() -> bool:
    """Whether this version of PyTorch gives three-dimensional tensors a batch dimension first: 2.15 does."""
    tensor = torch.zeros(1, 1, 8, device="meta", requires_grad=True)
    output = torch.nn.functional.scaled_dot_product_attention(tensor, tensor, tensor)
    return output.grad_fn is not None and output.grad_fn.name().startswith("Squeeze")


def run_fused_kernel(call: Attention, *, scale: float | None) -> tuple[Tensor | None, KernelChoice]:
    """Return what CUDA's fused kernel returns for `call`, None if CUDA runs none; and the choice that was made."""
    check_mask(call)
    lacks_batch = adds_batch() and all(tensor.dim() == BATCHED - 1 for tensor in call.tensors)
    with torch.no_grad():  # only to look at it
        choice = choose_kernel(call.with_batch() if lacks_batch else call, mask_needs_grad=_needs_grad(call.mask))
    if choice.kernel is AttentionKernel.MATH:
        return None, choice
    output = _RUN[choice.kernel](call.with_batch() if lacks_batch else call, scale)
    return output.squeeze(0) if lacks_batch else output, choice


def _needs_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def choose_kernel(call: Attention, *, mask_needs_grad: bool) -> KernelChoice:
    """Return the kernel that CUDA would run. Only the memory-efficient one can have a mask that requires grad."""
    dtype = call.query.dtype
    if any(tensor.dtype != dtype for tensor in call.tensors) or not _is_dense(call):
        return KernelChoice(AttentionKernel.MATH)
    if dtype == torch.float32:
        return _choose_efficient(call, alignment=ALIGNMENT_FLOAT)
    if dtype in (torch.float16, torch.bfloat16):
        return _choose_efficient(call, alignment=ALIGNMENT_HALF) if mask_needs_grad else _choose_half(call)
    return KernelChoice(AttentionKernel.MATH)


def _choose_half(call: Attention) -> KernelChoice:
    if torch._C._get_flash_sdp_enabled() and _flash_takes(call):
        return KernelChoice(AttentionKernel.FLASH, _HALF.format(here=AttentionKernel.FLASH.value))
    kernel, caveat = _choose_efficient(call, alignment=ALIGNMENT_HALF)
    return KernelChoice(kernel, caveat or _HALF.format(here=kernel.value or _COMPOSITE))


def _choose_efficient(call: Attention, *, alignment: int) -> KernelChoice:
    """The memory-efficient kernel or none: can_use_mem_efficient_attention."""
    if not (torch._C._get_mem_efficient_sdp_enabled() and _efficient_takes(call)):
        return KernelChoice(AttentionKernel.MATH)
    if len({tensor.size(1) for tensor in call.tensors}) > 1:
        return KernelChoice(AttentionKernel.MATH, _HEADS)
    if any(tensor.size(-1) % alignment or tensor.storage_offset() % alignment for tensor in call.tensors):
        return KernelChoice(AttentionKernel.MATH, _ODD_HEAD)
    return KernelChoice(AttentionKernel.EFFICIENT)


def _is_dense(call: Attention) -> bool:
    """check_tensor_shapes, check_nonzero_sequence_lengths_dense, and the same batch size everywhere."""
    if any(tensor.dim() != BATCHED for tensor in call.tensors):
        return False
    same_batch = call.query.size(0) == call.key.size(0) == call.value.size(0)
    return same_batch and call.query.size(2) > 0 and call.key.size(2) > 0


def _efficient_takes(call: Attention) -> bool:
    """check_head_dim_size_mem_efficient but for the alignment, check_last_dim_stride_equals_1_dense<false>."""
    strided = all(tensor.stride(-1) == 1 for tensor in call.tensors)
    mask_strided = call.mask is None or call.mask.stride(-1) == 1
    return strided and mask_strided and call.query.size(-1) == call.key.size(-1) > 0 and call.value.size(-1) > 0


def _flash_takes(call: Attention) -> bool:
    """check_for_attn_mask, check_head_dim_size_flash, check_flash_causal_non_square_seqlens and the heads."""
    head = call.query.size(-1)
    strided = all(tensor.stride(-1) == 1 for tensor in call.tensors) or head == 1
    square = not call.causal or call.query.size(-2) == call.key.size(-2)
    same_head = head == call.key.size(-1) == call.value.size(-1)
    return call.mask is None and strided and square and same_head and head <= MAX_HEAD_DIM_FLASH and _heads_match(call)


def _heads_match(call: Attention) -> bool:
    """check_batch_size_and_num_heads_dense."""
    query, key, value = (tensor.size(1) for tensor in call.tensors)
    return query == key == value or (call.grouped and key == value > 0 and query % key == 0)


def _run_flash(call: Attention, scale: float | None) -> Tensor:
    """attention.cpp: the head is padded to a multiple of 8 by nodes of its own, and cut off again."""
    head = call.query.size(-1)
    padding = -head % ALIGNMENT_HALF
    query, key, value = (_pad(tensor, padding) for tensor in call.tensors)
    scale = head**-0.5 if scale is None else scale
    flash = torch.ops.aten._scaled_dot_product_flash_attention.default
    output: Tensor = flash(query, key, value, call.dropout, call.causal, False, scale=scale)[0]
    return output.narrow(-1, 0, head) if padding else output


def _pad(tensor: Tensor, padding: int) -> Tensor:
    return torch.ops.aten.pad.default(tensor, [0, padding]) if padding else tensor


def _run_efficient(call: Attention, scale: float | None) -> Tensor:
    needs_logsumexp = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in call.tensors)
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention.default
    bias = _bias(call)
    output: Tensor = efficient(*call.tensors, bias, needs_logsumexp, call.dropout, call.causal, scale=scale)[0]
    return output


def _bias(call: Attention) -> Tensor | None:
    """attention.cpp: convert_boolean_attn_mask, preprocess_mask; of a mask without grad nothing here is a node."""
    if call.mask is None:
        return None
    shape = (*call.query.shape[:3], call.key.size(2))
    if _needs_grad(call.mask):
        return _align_mask(call.mask).expand(shape)
    dtype = call.query.dtype if call.mask.dtype == torch.bool else call.mask.dtype
    width = shape[-1] + -shape[-1] % MASK_ALIGNMENT
    return call.query.new_empty((*shape[:3], width), dtype=dtype)[..., : shape[-1]]


def _align_mask(mask: Tensor) -> Tensor:
    """attention.cpp: aligned_tensor, pad_bias."""
    *strides, last = mask.stride()
    if last == 1 and not any(stride % MASK_ALIGNMENT for stride in strides):
        return mask
    width = mask.size(-1)
    padded: Tensor = torch.ops.aten.pad.default(mask, [0, MASK_ALIGNMENT - width % MASK_ALIGNMENT])
    return padded[..., :width]


def check_mask(call: Attention) -> None:
    """attention.cpp: validate_sdpa_input."""
    if call.mask is not None and call.mask.dtype not in (torch.bool, torch.float32, call.query.dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{call.mask.dtype} and query.dtype: {call.query.dtype} instead."
        )


_RUN: dict[AttentionKernel, Callable[[Attention, float | None], Tensor]] = {
    AttentionKernel.FLASH: _run_flash,
    AttentionKernel.EFFICIENT: _run_efficient,
}

_COMPOSITE = "the composite of matmul and softmax"
_HALF = (
    "which attention kernel CUDA runs in float16 and bfloat16 depends on the GPU; here: {here}, as on an A100. "
    "GPUs older than that run ScaledDotProductEfficientAttentionBackward0 where they can, newer ones with a recent "
    "cuDNN ScaledDotProductCudnnAttentionBackward0; all of them take query, key and value first"
)
_ODD_HEAD = (
    (
        "which attention kernel CUDA runs depends on the GPU if the head size, or the storage offset of query, "
        "key or value, is not a multiple of 4 (float32) or 8 (float16, bfloat16) elements; here: "
    )
    + _COMPOSITE
    + ", as on an A100"
)
_HEADS = (
    "whether CUDA runs a fused attention kernel for different numbers of query and key heads depends on the "
    "PyTorch version; here: "
) + _COMPOSITE
