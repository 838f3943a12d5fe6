"""``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` as CUDA runs them: one cuDNN node for all layers and steps.

Follows aten/src/ATen/native/RNN.cpp (use_cudnn) and aten/src/ATen/native/cudnn/RNN.cpp (_cudnn_impl).
"""

# the operators' signatures are PyTorch's

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator.caveats import note_choice
from fxgrad.observe.accelerator.composite import composite
from fxgrad.observe.accelerator.device import NAME

aten = torch.ops.aten

MODES = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": 2, "gru": 3}
"""cudnnRNNMode_t, as torch/backends/cudnn/rnn.py has it."""
CERTAIN_DTYPES = (torch.float64, torch.float32, torch.float16)
NODE = "CudnnRnnBackward0"
_BFLOAT16 = (
    f"with bfloat16 it depends on the GPU and on cuDNN whether CUDA runs a recurrent layer in cuDNN; here: {NODE}, "
    "as on an A100"
)


class Layers(NamedTuple):
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


def recurrent_kernels() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Operator and kernel for both overloads of the four kinds of recurrent layer."""
    for name, mode in MODES.items():
        yield f"{name}.input", _padded_kernel(name, mode)
        yield f"{name}.data", _packed_kernel(name, mode)


def _padded_kernel(name: str, mode: int) -> Callable[..., Any]:
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
        if not _cudnn_runs(input):
            return composite(operator)(input, hx, params, *options)
        return _run(mode, Layers(input, _hidden(hx), params, *options, batch_sizes=[]))

    return kernel


def _packed_kernel(name: str, mode: int) -> Callable[..., Any]:
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
        if not _cudnn_runs(data):
            return composite(operator)(data, batch_sizes, hx, params, *options)
        sizes: list[int] = batch_sizes.tolist()
        return _run(mode, Layers(data, _hidden(hx), params, *options, batch_first=False, batch_sizes=sizes))

    return kernel


def _hidden(hx: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (hx,) if isinstance(hx, Tensor) else hx


def _cudnn_runs(input: Tensor) -> bool:
    if not torch._C._get_cudnn_enabled() or input.numel() == 0:
        return False
    _refuse_autocast()
    if input.dtype == torch.bfloat16:
        note_choice(NODE, _BFLOAT16)
        return True
    return input.dtype in CERTAIN_DTYPES


def _refuse_autocast() -> None:
    """aten/src/ATen/cudnn/AutocastRNN.cpp rebuilds the weights in lower precision, with nodes of its own."""
    if torch._C._is_autocast_available(NAME) and torch.is_autocast_enabled(NAME):
        raise TargetError(
            "a recurrent layer under autocast on the emulated CUDA device",
            "recurrent layers outside autocast: cuDNN's handling of their weights is not emulated",
            "trace without autocast, or on a machine with a CUDA device",
        )


def _run(mode: int, layers: Layers) -> tuple[Tensor, ...]:
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
