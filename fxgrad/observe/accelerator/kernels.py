"""Shape kernels ("Meta") of the operators that only CUDA runs and that PyTorch gives no shapes for.

Without them FakeTensorMode refuses the operator. Each returns tensors of the shapes that the CUDA kernel returns; what
they hold is never read.
"""

# ruff: noqa: ARG001  # the operators' signatures are PyTorch's

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

GRU_WORKSPACE_MULTIPLIER = 5
"""aten/src/ATen/native/cuda/RNN.cu."""


def shape_kernels() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Operator and shape kernel, for those that this version of PyTorch has no good shape kernel of its own for."""
    for operator, kernel in _KERNELS.items():
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


_KERNELS: dict[str, Callable[..., Any]] = {
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_cudnn_rnn_backward": _cudnn_rnn_backward,
    "cudnn_grid_sampler": _cudnn_grid_sampler,
    "cudnn_grid_sampler_backward": _cudnn_grid_sampler_backward,
}
_BETTER = frozenset({"_thnn_fused_lstm_cell"})
"""torch/_meta_registrations.py asks for the device of biases that are None."""
