"""The memory formats that CUDA's convolutions give their results, which decide how later operators see them.

FakeTensorMode asks PyTorch for the format by the kernel (torch/_subclasses/fake_impls.py, ``conv``), and for a device that
is not CUDA that is always the contiguous one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor

from fxgrad.observe.accelerator.device import NAME

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def format_of_convolution(otherwise: Callable[..., torch.memory_format]) -> Callable[..., torch.memory_format]:
    """``torch._C._conv_determine_backend_memory_format``, which knows the emulated device; `otherwise` is PyTorch's own."""

    def memory_format(input: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
        is_emulated = isinstance(input, FakeTensor) and input.fake_device.type == NAME
        return _format_by_cudnn(input, weight) if is_emulated else otherwise(input, weight, backend)

    return memory_format


def _format_by_cudnn(input: Tensor, weight: Tensor) -> torch.memory_format:
    """ConvUtils.h: cudnn_conv_suggest_memory_format, the other kernels of CUDA give contiguous results."""
    if torch.float64 in (input.dtype, weight.dtype) or not torch._C._get_cudnn_enabled():
        return torch.contiguous_format
    last = _CHANNELS_LAST.get(weight.dim())
    formats = suggest_memory_format(input), suggest_memory_format(weight)
    return last if last is not None and last in formats else torch.contiguous_format
