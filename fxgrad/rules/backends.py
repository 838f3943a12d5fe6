"""Functions of aten that belong to one backend, told by their names in native_functions.yaml."""

from __future__ import annotations

from fxgrad.graph import Node

_BACKENDS = (
    ("cudnn_", "cuDNN, on CUDA"),
    ("miopen_", "MIOpen, on ROCm"),
    ("mkldnn_", "oneDNN, on the CPU"),
    ("mps_", "MPS"),
    ("lstm_mps", "MPS"),
    ("thnn_fused_", "the fused cells of CUDA, XPU and PrivateUse1"),
    ("scaled_dot_product_flash_attention_for_cpu", "flash attention, on the CPU"),
    ("scaled_dot_product_flash_", "flash attention, on accelerators"),
    ("scaled_dot_product_efficient_", "memory-efficient attention, on accelerators"),
    ("scaled_dot_product_cudnn_", "cuDNN, on CUDA"),
)


def backend_of(node: Node) -> str | None:
    """The backend whose own function made the node; None for functions that every device has.

    Relies on aten naming such functions after the backend (aten/src/ATen/native/native_functions.yaml).
    """
    if node.schema is None:
        return None
    name = node.schema.partition("(")[0].strip().removeprefix("aten::").lstrip("_")
    return next((backend for prefix, backend in _BACKENDS if name.startswith(prefix)), None)
