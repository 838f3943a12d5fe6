"""The name of the emulated device, and the way between that name and the ``cuda`` that the user writes.

PyTorch has one spare device type, PrivateUse1, and refuses to call it ``cuda``
(c10/core/DeviceType.cpp: "Cannot register privateuse1 backend with in-tree device name").
"""

from __future__ import annotations

import torch

from fxgrad.errors import TargetError, UsageError

NAME = "fakecuda"
"""What PyTorch calls the emulated CUDA device."""


def fake_device() -> torch.device:
    """The one emulated device. Register the backend first: before that PyTorch does not know the name."""
    return torch.device(NAME, 0)


def check_emulated(device: str) -> None:
    """Raise UsageError unless `device` is one that can be emulated: ``cuda`` or ``cuda:0``."""
    if device not in ("cuda", "cuda:0"):
        raise UsageError(
            f"device {device!r}: one CUDA device is emulated", "'cuda' or 'cuda:0'", "cuda, or a device that is there"
        )


def stand_in(device: torch.device) -> torch.device:
    """The device to use where the user's code names `device`: the emulated one for CUDA, else `device` itself.

    Raises TargetError for a second CUDA device: between two devices PyTorch inserts copies, which are nodes.

    >>> stand_in(torch.device("cpu"))
    device(type='cpu')
    """
    if device.type != "cuda":
        return device
    if device.index:
        raise TargetError(
            f"the target uses {device}", "one CUDA device: cuda:0", "trace it on a machine that has several"
        )
    return fake_device()


def public_name(device: torch.device | str) -> str:
    """How to print `device`: the emulated one under the name that it stands for.

    >>> public_name("fakecuda:0"), public_name("cpu")
    ('cuda:0', 'cpu')
    """
    return str(device).replace(NAME, "cuda", 1)
