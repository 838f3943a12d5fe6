"""The emulated device: its name, the way between that name and the ``cuda`` that the user writes, and its caveats.

PyTorch has one spare device type, PrivateUse1, and refuses to call it ``cuda``
(c10/core/DeviceType.cpp: "Cannot register privateuse1 backend with in-tree device name").
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fxgrad.errors import TargetError, UsageError

NAME = "fakecuda"
"""What PyTorch calls the emulated CUDA device."""


def make_device() -> torch.device:
    """Return the one emulated device. Register the backend first: before that PyTorch does not know the name."""
    return torch.device(NAME, 0)


def check_emulated(device: str) -> None:
    """Raise UsageError unless `device` is one that can be emulated: ``cuda`` or ``cuda:0``."""
    if device not in ("cuda", "cuda:0"):
        raise UsageError(
            f"device {device!r}: one CUDA device is emulated", "'cuda' or 'cuda:0'", "cuda, or an existing device"
        )


def replace_cuda(device: torch.device) -> torch.device:
    """Return the device to use where the user's code names `device`: the emulated one for CUDA, else `device` itself.

    Raises TargetError for a second CUDA device: between two devices PyTorch inserts copies, which are nodes.

    >>> replace_cuda(torch.device("cpu"))
    device(type='cpu')
    """
    if device.type != "cuda":
        return device
    if device.index:
        raise TargetError(
            f"the target uses {device}", "one CUDA device: cuda:0", "trace it on a machine that has several"
        )
    return make_device()


def public_name(device: torch.device | str) -> str:
    """Return how to print `device`: the emulated one under the name that it stands for.

    >>> public_name("fakecuda:0"), public_name("cpu")
    ('cuda:0', 'cpu')
    """
    return str(device).replace(NAME, "cuda", 1)


# Choices of kernels that the GPU makes

_choices: dict[tuple[str | None, str], None] = {}


def note_choice(node_name: str | None, sentence: str) -> None:
    """Note that `sentence` holds for a choice made in this process if a node of `node_name` is in the graph.

    ``None`` is for a choice that left no node of its own name.
    """
    _choices[node_name, sentence] = None


def forget_choices() -> None:
    """Forget the choices of an earlier emulation."""
    _choices.clear()


def find_caveats(node_names: Iterable[str]) -> tuple[str, ...]:
    """Return the sentences that must accompany a graph with nodes of these names (``CudnnRnnBackward0``).

    Call it in the process that emulated, after its forward: what is uncertain is noted where it was chosen.

    >>> find_caveats(["AddmmBackward0"])
    ()
    """
    names = set(node_names)
    return tuple(sentence for node_name, sentence in _choices if node_name is None or node_name in names)
