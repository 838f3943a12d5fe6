"""The kernels that are registered for the emulated device: they take the branches that CUDA takes.

Which operators a composite operator (CompositeImplicitAutograd in native_functions.yaml) calls may depend on the device.
For PrivateUse1 PyTorch already takes CUDA's branch in ``lstm_cell``, ``gru_cell`` (aten/src/ATen/native/RNN.cpp) and
``dropout`` (Dropout.cpp). In the others the kernels here take it, registered for PrivateUse1 at the Autograd key; each
follows the conditions of the C++ source that it names. All other operators make the same nodes on every device, because
their Autograd kernels are the same.

Operators that only CUDA runs get shape kernels ("Meta"), without which FakeTensorMode refuses them.
"""

# ruff: noqa: ARG001  (the operators' signatures are PyTorch's)

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator import attention
from fxgrad.observe.accelerator.device import NAME, note_choice

aten = torch.ops.aten
_Kernel = Callable[..., Any]

MIN_EPSILON = 0.0
"""CUDNN_BN_MIN_EPSILON of cudnn.h, since cuDNN 7.5."""
MAX_BATCH_TRAINING = 880_801
MAX_BATCH_EVAL = 65_535
MAX_INT32 = 2**31 - 1
MAX_GRID_SAMPLER_CHANNELS = 1024
CUDNN_DTYPES = (torch.float64, torch.float32, torch.float16)

BACKEND_OPERATORS = ("_fused_rms_norm", "mish_backward", "silu_backward")
"""Operators that are composite everywhere except where a backend has a kernel of its own, as CUDA has.

With such a kernel the operator is one node (native_functions.yaml, derivatives.yaml).
"""


def list_autograd_kernels() -> Iterator[tuple[str, _Kernel]]:
    """List the operators, each with the kernel to register for it at AutogradPrivateUse1."""
    for operator, kernel in _AUTOGRAD_KERNELS.items():
        yield operator, hide_from_modes(kernel)
    for name, mode in MODES.items():
        yield f"{name}.input", hide_from_modes(_make_padded_kernel(name, mode))
        yield f"{name}.data", hide_from_modes(_make_packed_kernel(name, mode))


def hide_from_modes(kernel: _Kernel) -> _Kernel:
    """Hide what a kernel calls from torch function modes: the user did not call it."""

    @wraps(kernel)
    def hidden(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return kernel(*args, **kwargs)

    return hidden


def _call_composite(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the C++ implementation of a composite operator, which calls other operators and lets them make the nodes.

    Not ``operator.decompose``: that prefers decompositions in Python, which are for tracing and differ (torch/_ops.py).
    """
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


# Views, normalization, sampling


def _reshape(self: Tensor, shape: list[int]) -> Any:
    """TensorShape.cpp: reshape_symint, whose ``isTensorSubclassLike`` branch real tensors do not take."""
    if not self.is_contiguous():
        strides = _find_view_strides(self, shape)
        if strides is not None:
            return aten._reshape_alias.default(self, *strides)
    return _call_composite(aten.reshape.default, self, shape)


def _flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    """TensorShape.cpp: flatten, which does not ask the dispatcher for reshape."""
    first, last = (dim % self.dim() if -self.dim() <= dim < self.dim() else dim for dim in (start_dim, end_dim))
    if not 0 <= first < last < self.dim():
        return _call_composite(aten.flatten.using_ints, self, start_dim, end_dim)
    joined = math.prod(self.shape[first : last + 1])
    return _reshape(self, [*self.shape[:first], joined, *self.shape[last + 1 :]])


def _find_view_strides(tensor: Tensor, shape: list[int]) -> tuple[list[int], list[int]] | None:
    """Return sizes and strides of a view of `tensor` that has this shape; None if that needs a copy."""
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
) -> Any:
    """Normalization.cpp: _select_batch_norm_backend, and its use in _batch_norm_impl_index."""
    statistics = running_mean, running_var
    if weight is None or bias is None or not _cudnn_normalizes(input, weight, statistics, training, eps):
        return _call_composite(
            aten._batch_norm_impl_index.default,
            input,
            weight,
            bias,
            *statistics,
            training,
            momentum,
            eps,
            cudnn_enabled,
        )
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


def _grid_sampler(input: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool) -> Any:
    """GridSampler.cpp: grid_sampler, with GridSamplerUtils.h: cond_cudnn_grid_sampler; 0 is bilinear, and zeros."""
    if interpolation == 0 and padding == 0 and align_corners and _cudnn_samples(input, grid):
        return aten.cudnn_grid_sampler.default(input, grid)
    return _call_composite(aten.grid_sampler.default, input, grid, interpolation, padding, align_corners)


def _cudnn_samples(input: Tensor, grid: Tensor) -> bool:
    acceptable = all(each.dtype in CUDNN_DTYPES and 0 < _measure_extent(each) <= MAX_INT32 for each in (input, grid))
    four_dimensional = input.dim() == grid.dim() == 4  # noqa: PLR2004
    return acceptable and _cudnn_enabled() and four_dimensional and input.size(1) <= MAX_GRID_SAMPLER_CHANNELS


def _measure_extent(tensor: Tensor) -> int:
    """Count the elements from the first to the last, 0 for none; aten/src/ATen/native/CanUse32BitIndexMath.cpp."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


# Attention, softmax, losses


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
) -> Any:
    """transformers/attention.cpp: scaled_dot_product_attention."""
    call = attention.Attention(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    output, (kernel, caveat) = attention.run_fused_kernel(call, scale=scale)
    if caveat is not None and _makes_nodes(query, key, value, attn_mask):
        note_choice(kernel.value, caveat)
    if output is not None:
        return output
    if not torch._C._get_math_sdp_enabled():
        raise TargetError(
            "scaled_dot_product_attention on the emulated CUDA device, where no enabled kernel can run",
            "arguments for which an enabled kernel runs on every GPU, or an enabled math kernel",
            "also enable SDPBackend.MATH, or trace on a machine with a CUDA device",
        )
    arguments = query, key, value, attn_mask, dropout_p, is_causal
    return _call_composite(aten.scaled_dot_product_attention.default, *arguments, scale=scale, enable_gqa=enable_gqa)


def _makes_nodes(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


def _make_softmax(name: str) -> _Kernel:
    """SoftMax.cpp: softmax and log_softmax, of which CUDA's kernel converts float16 to float32 itself."""
    composite, fused = getattr(aten, name).int, getattr(aten, f"_{name}").default

    def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        if input.dtype == torch.float16 and dtype == torch.float32:
            return fused(input, dim, True)
        return _call_composite(composite, input, dim, dtype)

    return softmax


def _multilabel_margin_loss(self: Tensor, target: Tensor, reduction: int = 1) -> Any:
    """MultiLabelMarginCriterion.cu: one input has one loss, of no dimensions; the shape kernel of fake tensors differs."""
    of_one_input = self.dim() < 2  # noqa: PLR2004
    return _call_composite(aten.multilabel_margin_loss.default, self, target, 1 if of_one_input else reduction)


def _ctc_loss(*_args: Any, **_kwargs: Any) -> Tensor:
    """LossCTC.cpp: use_cudnn looks at the values of the lengths."""
    raise TargetError(
        "ctc_loss on the emulated CUDA device",
        "operators whose kernel depends only on shapes: here CUDA chooses it by the values of the lengths",
        "trace on the CPU, or on a machine with a CUDA device",
    )


_AUTOGRAD_KERNELS: dict[str, _Kernel] = {
    "reshape": _reshape,
    "flatten.using_ints": _flatten,
    "_batch_norm_impl_index": _batch_norm_impl_index,
    "grid_sampler": _grid_sampler,
    "scaled_dot_product_attention": _scaled_dot_product_attention,
    "softmax.int": _make_softmax("softmax"),
    "log_softmax.int": _make_softmax("log_softmax"),
    "multilabel_margin_loss": _multilabel_margin_loss,
    "ctc_loss.IntList": _ctc_loss,
    "ctc_loss.Tensor": _ctc_loss,
}


# Recurrent layers: nn.LSTM, nn.GRU and nn.RNN are one cuDNN node for all layers and steps
# (aten/src/ATen/native/RNN.cpp, use_cudnn, and aten/src/ATen/native/cudnn/RNN.cpp, _cudnn_impl)

MODES = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": 2, "gru": 3}
"""cudnnRNNMode_t, as torch/backends/cudnn/rnn.py has it."""
RNN_NODE = "CudnnRnnBackward0"
_BFLOAT16 = (
    f"with bfloat16, whether CUDA runs a recurrent layer in cuDNN depends on the GPU and on cuDNN; here: {RNN_NODE}, "
    "as on an A100"
)


class RecurrentLayers(NamedTuple):
    """What the ``input`` and the ``data`` (packed sequence) overloads have in common."""

    input: Tensor
    hidden: Sequence[Tensor]
    weights: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool
    batch_sizes: list[int]


def _make_padded_kernel(name: str, mode: int) -> _Kernel:
    operator = getattr(aten, name).input

    def kernel(
        input: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        options = has_biases, num_layers, dropout, train, bidirectional, batch_first
        if not _cudnn_recurs(input):
            return _call_composite(operator, input, hx, params, *options)
        return _run_cudnn(mode, RecurrentLayers(input, _list_hidden(hx), params, *options, batch_sizes=[]))

    return kernel


def _make_packed_kernel(name: str, mode: int) -> _Kernel:
    operator = getattr(aten, name).data

    def kernel(
        data: Tensor,
        batch_sizes: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
    ) -> Any:
        options = has_biases, num_layers, dropout, train, bidirectional
        if not _cudnn_recurs(data):
            return _call_composite(operator, data, batch_sizes, hx, params, *options)
        sizes: list[int] = batch_sizes.tolist()
        return _run_cudnn(
            mode, RecurrentLayers(data, _list_hidden(hx), params, *options, batch_first=False, batch_sizes=sizes)
        )

    return kernel


def _list_hidden(hx: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (hx,) if isinstance(hx, Tensor) else hx


def _cudnn_recurs(input: Tensor) -> bool:
    if not _cudnn_enabled() or input.numel() == 0:
        return False
    _refuse_autocast()
    if input.dtype == torch.bfloat16:
        note_choice(RNN_NODE, _BFLOAT16)
        return True
    return input.dtype in CUDNN_DTYPES


def _refuse_autocast() -> None:
    """aten/src/ATen/cudnn/AutocastRNN.cpp rebuilds the weights in lower precision, with nodes of its own."""
    if torch._C._is_autocast_available(NAME) and torch.is_autocast_enabled(NAME):
        raise TargetError(
            "a recurrent layer under autocast on the emulated CUDA device",
            "recurrent layers outside autocast: cuDNN's handling of their weights is not emulated",
            "trace without autocast, or on a machine with a CUDA device",
        )


def _run_cudnn(mode: int, layers: RecurrentLayers) -> tuple[Tensor, ...]:
    """cudnn/RNN.cpp: _cudnn_impl. Three outputs for LSTM (output, h_n, c_n), two for the others."""
    hx, cx = layers.hidden[0], layers.hidden[1] if len(layers.hidden) > 1 else None
    hidden_size = (hx if cx is None else cx).size(2)
    projection = 0 if hx.size(2) == hidden_size else hx.size(2)
    results: tuple[Tensor, ...] = aten._cudnn_rnn.default(
        layers.input,
        layers.weights,
        (4 if layers.has_biases else 2) + bool(projection),
        layers.input.new_empty(0),
        hx,
        cx,
        mode,
        hidden_size,
        projection,
        layers.num_layers,
        layers.batch_first,
        layers.dropout,
        layers.train,
        layers.bidirectional,
        layers.batch_sizes,
        None,
    )
    return results[: 2 if cx is None else 3]


# Shape kernels: each returns tensors of the shapes that the CUDA kernel returns; what they hold is never read

GRU_WORKSPACE_MULTIPLIER = 5
"""aten/src/ATen/native/cuda/RNN.cu."""


def list_shape_kernels() -> Iterator[tuple[str, _Kernel]]:
    """List the operators for which this version of PyTorch has no good shape kernel, each with the one to register."""
    for operator, kernel in _SHAPE_KERNELS.items():
        has_one = torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{operator}", "Meta")
        if not has_one or operator in _BETTER:
            yield operator, kernel


def _lstm_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    cx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """aten/src/ATen/native/cuda/RNN.cu: _thnn_fused_lstm_cell_cuda."""
    return torch.empty_like(cx), torch.empty_like(cx), torch.empty_like(input_gates)


def _gru_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    hx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """aten/src/ATen/native/cuda/RNN.cu: _thnn_fused_gru_cell_cuda."""
    return torch.empty_like(hx), hx.new_empty((hx.size(0), hx.size(1) * GRU_WORKSPACE_MULTIPLIER))


def _gru_cell_backward(
    grad_hy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """aten/src/ATen/native/cuda/RNN.cu: _thnn_fused_gru_cell_backward_cuda."""
    gates = 3 * (workspace.size(1) // GRU_WORKSPACE_MULTIPLIER)
    grad_input_gates = workspace.new_empty((workspace.size(0), gates))
    grad_hidden_gates = torch.empty_like(grad_input_gates)
    if not has_bias:
        return grad_input_gates, grad_hidden_gates, torch.empty_like(grad_hy), None, None
    biases = workspace.new_empty((gates,)), workspace.new_empty((gates,))
    return grad_input_gates, grad_hidden_gates, torch.empty_like(grad_hy), *biases


def _cudnn_rnn_backward(
    input: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    weight_buf: Tensor,
    hx: Tensor,
    cx: Tensor | None,
    output: Tensor,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    mode: int,
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_sizes: Sequence[int],
    dropout_state: Tensor | None,
    reserve: Tensor,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
    """aten/src/ATen/native/cudnn/RNN.cpp: _cudnn_rnn_backward, with the refusal that it makes."""
    if not train:
        raise RuntimeError("cudnn RNN backward can only be called in training mode")
    grad_cx = None if cx is None else torch.empty_like(cx)
    return torch.empty_like(input), torch.empty_like(hx), grad_cx, [torch.empty_like(each) for each in weight]


def _cudnn_grid_sampler(input: Tensor, grid: Tensor) -> Tensor:
    """aten/src/ATen/native/cudnn/GridSampler.cpp: cudnn_grid_sampler_forward."""
    return input.new_empty((input.size(0), input.size(1), grid.size(1), grid.size(2)))


def _cudnn_grid_sampler_backward(input: Tensor, grid: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
    """aten/src/ATen/native/cudnn/GridSampler.cpp: cudnn_grid_sampler_backward."""
    return torch.empty_like(input), torch.empty_like(grid)


_SHAPE_KERNELS: dict[str, _Kernel] = {
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_cudnn_rnn_backward": _cudnn_rnn_backward,
    "cudnn_grid_sampler": _cudnn_grid_sampler,
    "cudnn_grid_sampler_backward": _cudnn_grid_sampler_backward,
}
_BETTER = frozenset({"_thnn_fused_lstm_cell"})
"""torch/_meta_registrations.py asks for the device of biases that are None."""
