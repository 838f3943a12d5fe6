"""Makes the emulated device take the branches that CUDA takes inside PyTorch's composite operators.

A composite operator (CompositeImplicitAutograd in native_functions.yaml) is made of others, and which ones may depend
on the device. For PrivateUse1 PyTorch already takes CUDA's branch in ``lstm_cell``, ``gru_cell`` (aten/src/ATen/native/
RNN.cpp) and ``dropout`` (Dropout.cpp). The kernels here, registered for PrivateUse1 at the Autograd key, take it in the
others; each follows the conditions of the C++ source that it names. All other operators make the same nodes on every
device: their Autograd kernels are the same.
"""

# the operators' signatures are PyTorch's

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator import attention
from fxgrad.observe.accelerator.caveats import note_choice
from fxgrad.observe.accelerator.composite import composite
from fxgrad.observe.accelerator.recurrent import recurrent_kernels

aten = torch.ops.aten
Override = Callable[..., Any]

MIN_EPSILON = 0.0
"""CUDNN_BN_MIN_EPSILON of cudnn.h, since cuDNN 7.5."""
MAX_BATCH_TRAINING = 880_801
MAX_BATCH_EVAL = 65_535
MAX_INT32 = 2**31 - 1
MAX_GRID_SAMPLER_CHANNELS = 1024
CUDNN_DTYPES = (torch.float64, torch.float32, torch.float16)


def overrides() -> Iterator[tuple[str, Override]]:
    """Operator and the kernel to register for it at AutogradPrivateUse1."""
    yield "reshape", without_modes(_reshape)
    yield "flatten.using_ints", without_modes(_flatten)
    yield "_batch_norm_impl_index", without_modes(_batch_norm_impl_index)
    yield "grid_sampler", without_modes(_grid_sampler)
    yield "scaled_dot_product_attention", without_modes(_scaled_dot_product_attention)
    yield "softmax.int", without_modes(_softmax)
    yield "log_softmax.int", without_modes(_log_softmax)
    yield "multilabel_margin_loss", without_modes(_multilabel_margin_loss)
    yield "ctc_loss.IntList", _ctc_loss
    yield "ctc_loss.Tensor", _ctc_loss
    for operator, kernel in recurrent_kernels():
        yield operator, without_modes(kernel)


def backend_operators() -> tuple[str, ...]:
    """Operators that are composite everywhere except where a backend has a kernel of its own, as CUDA has.

    With such a kernel the operator is one node (native_functions.yaml, derivatives.yaml).
    """
    return "_fused_rms_norm", "mish_backward", "silu_backward"


def without_modes(kernel: Override) -> Override:
    """`kernel`, hidden from torch function modes: what it calls is no call of the user's."""

    @wraps(kernel)
    def hidden(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return kernel(*args, **kwargs)

    return hidden


def _reshape(self: Tensor, shape: list[int]) -> Tensor:
    """TensorShape.cpp: reshape_symint, whose ``isTensorSubclassLike`` branch real tensors do not take."""
    if not self.is_contiguous():
        strides = _view_strides(self, shape)
        if strides is not None:
            alias: Tensor = aten._reshape_alias.default(self, *strides)
            return alias
    result: Tensor = composite(aten.reshape.default)(self, shape)
    return result


def _flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """TensorShape.cpp: flatten, which does not ask the dispatcher for reshape."""
    first, last = (dim % self.dim() if -self.dim() <= dim < self.dim() else dim for dim in (start_dim, end_dim))
    if not 0 <= first < last < self.dim():
        result: Tensor = composite(aten.flatten.using_ints)(self, start_dim, end_dim)
        return result
    joined = math.prod(self.shape[first : last + 1])
    return _reshape(self, [*self.shape[:first], joined, *self.shape[last + 1 :]])


def _view_strides(tensor: Tensor, shape: list[int]) -> tuple[list[int], list[int]] | None:
    """Sizes and strides with which `tensor` can be seen as `shape` without a copy, None where it cannot."""
    try:
        with torch._C._AutoDispatchBelowAutograd():
            view = aten.view.default(tensor, shape)
    except (RuntimeError, ValueError):
        return None
    return list(view.shape), list(view.stride())


def _batch_norm_impl_index(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Normalization.cpp: _select_batch_norm_backend, and its use in _batch_norm_impl_index."""
    statistics = running_mean, running_var
    if weight is None or bias is None or not _cudnn_normalizes(input, weight, statistics, training, eps):
        result: tuple[Tensor, Tensor, Tensor, Tensor, int] = composite(aten._batch_norm_impl_index.default)(
            input, weight, bias, *statistics, training, momentum, eps, cudnn_enabled
        )
        return result
    mean, var = (each if each is None else each.contiguous() for each in statistics)
    dense = input.contiguous(memory_format=torch._prims_common.suggest_memory_format(input))
    normalize = aten.cudnn_batch_norm.default
    return (*normalize(dense, weight.contiguous(), bias.contiguous(), mean, var, training, momentum, eps), 1)


def _cudnn_normalizes(
    input: Tensor, weight: Tensor, statistics: tuple[Tensor | None, Tensor | None], training: bool, eps: float
) -> bool:
    tracked = [each is not None for each in statistics]
    return (
        0 < input.numel() < MAX_INT32
        and _cudnn_enabled()
        and torch.bfloat16 not in (input.dtype, weight.dtype)
        and (input.dtype != torch.float16 or weight.dtype == torch.float32)
        and (all(tracked) or (training and not any(tracked)))
        and input.dim() >= 3  # noqa: PLR2004
        and input.size(0) <= (MAX_BATCH_TRAINING if training else MAX_BATCH_EVAL)
        and eps >= MIN_EPSILON
    )


def _cudnn_enabled() -> bool:
    return bool(torch._C._get_cudnn_enabled())


def _grid_sampler(input: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool) -> Tensor:
    """GridSampler.cpp: grid_sampler, with GridSamplerUtils.h: cond_cudnn_grid_sampler; 0 is bilinear, and zeros."""
    if interpolation == 0 and padding == 0 and align_corners and _cudnn_samples(input, grid):
        sampled: Tensor = aten.cudnn_grid_sampler.default(input, grid)
        return sampled
    result: Tensor = composite(aten.grid_sampler.default)(input, grid, interpolation, padding, align_corners)
    return result


def _cudnn_samples(input: Tensor, grid: Tensor) -> bool:
    acceptable = all(each.dtype in CUDNN_DTYPES and 0 < _extent(each) <= MAX_INT32 for each in (input, grid))
    return acceptable and _cudnn_enabled() and input.dim() == grid.dim() == 4 and _few_channels(input)  # noqa: PLR2004


def _few_channels(input: Tensor) -> bool:
    return input.size(1) <= MAX_GRID_SAMPLER_CHANNELS


def _extent(tensor: Tensor) -> int:
    """Elements from the first to the last, 0 for none; aten/src/ATen/native/CanUse32BitIndexMath.cpp."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """transformers/attention.cpp: scaled_dot_product_attention."""
    call = attention.Attention(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    output, (kernel, caveat) = attention.output_of(call, scale=scale)
    if caveat is not None and _makes_nodes(query, key, value, attn_mask):
        note_choice(kernel.value, caveat)
    if output is not None:
        return output
    if not torch._C._get_math_sdp_enabled():
        raise TargetError(
            "scaled_dot_product_attention on the emulated CUDA device, where no kernel is enabled that would run",
            "arguments for which one of the enabled kernels runs on every GPU, or the math kernel among the enabled ones",
            "enable SDPBackend.MATH too, or trace on a machine with a CUDA device",
        )
    made_of_others = composite(aten.scaled_dot_product_attention.default)
    result: Tensor = made_of_others(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return result


def _makes_nodes(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


def _softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """SoftMax.cpp: softmax. CUDA's kernel converts float16 to float32 itself."""
    if _converts_half(input, dtype):
        fused: Tensor = aten._softmax.default(input, dim, True)
        return fused
    result: Tensor = composite(aten.softmax.int)(input, dim, dtype)
    return result


def _log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """SoftMax.cpp: log_softmax, in the same way."""
    if _converts_half(input, dtype):
        fused: Tensor = aten._log_softmax.default(input, dim, True)
        return fused
    result: Tensor = composite(aten.log_softmax.int)(input, dim, dtype)
    return result


def _converts_half(input: Tensor, dtype: torch.dtype | None) -> bool:
    return input.dtype == torch.float16 and dtype == torch.float32


def _multilabel_margin_loss(self: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """MultiLabelMarginCriterion.cu: one input has one loss, of no dimensions; the shapes of fake tensors do not know that."""
    of_one_input = self.dim() < 2  # noqa: PLR2004
    loss: Tensor = composite(aten.multilabel_margin_loss.default)(self, target, 1 if of_one_input else reduction)
    return loss


def _ctc_loss(*_args: Any, **_kwargs: Any) -> Tensor:
    """LossCTC.cpp: use_cudnn looks at the values of the lengths."""
    raise TargetError(
        "ctc_loss on the emulated CUDA device",
        "operators whose kernel follows from the shapes: CUDA chooses this one's from the values of the lengths",
        "trace on the CPU, or on a machine with a CUDA device",
    )
