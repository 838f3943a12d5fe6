"""``torch.autocast("cuda")`` on the emulated device.

Which operators it casts, and how, is read from the header of the installed PyTorch from which CUDA's own kernels are
made (torch/include/ATen/autocast_mode.h: AT_FORALL_...). The policies follow aten/src/ATen/autocast_mode.{h,cpp}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator.device import NAME

_Kernel = Callable[..., Any]
_Policy = Callable[[Any], _Kernel]

HEADER = "include/ATen/autocast_mode.h"
_MACRO = re.compile(r"#define AT_FORALL_(\w+)\(_\)((?:.*\\\n)*.*)")
_ENTRY = re.compile(r"_\(([a-z]\w*|_\w+)(?:,\s*(\w+))?\)")
_NORM = re.compile(r'"(norm\.Scalar(?:Opt_dim)?)"')
"""Not the overload for named dimensions, which older versions have."""
_is_enabled = torch.is_autocast_enabled
_set_enabled = torch.set_autocast_enabled
_dtype = torch.get_autocast_dtype
_set_dtype = torch.set_autocast_dtype
_clear_cache = torch.clear_autocast_cache
_cache: dict[int, tuple[Tensor, Tensor]] = {}


def list_kernels() -> Iterator[tuple[str, _Kernel]]:
    """List the operators, each with the kernel to register for it at AutocastPrivateUse1."""
    if not read_policies():
        return
    for operator, policy in read_policies().items():
        name, _, overload = operator.partition(".")
        yield operator, _POLICIES[policy](getattr(getattr(torch.ops.aten, name), overload or "default"))
    yield "binary_cross_entropy", _refuse_cross_entropy
    for operator in _cast_on_cuda() - read_policies().keys() - {"binary_cross_entropy"}:
        yield operator, _make_refusal(operator)


def _cast_on_cuda() -> set[str]:
    """The operators for which this build of PyTorch has CUDA's autocast kernels."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")
    return {name.removeprefix("aten::") for name in registered if name.startswith("aten::")}


@cache
def read_policies() -> dict[str, str]:
    """Return the policy of each operator (``pow.Scalar``); nothing if this installation has no header."""
    header = Path(torch.__file__).parent / HEADER
    if not header.is_file():
        return {}
    return dict(_parse(header.read_text(encoding="utf-8")))


def _parse(header: str) -> Iterator[tuple[str, str]]:
    r"""Operators and policies of the macros in `header`.

    >>> dict(_parse("#define AT_FORALL_FP32(_) \\\n  _(acos) \\\n  _(pow, Scalar)\n"))
    {'acos': 'FP32', 'pow.Scalar': 'FP32'}
    """
    for policy, body in _MACRO.findall(header):
        if policy not in _POLICIES:
            continue
        for operator in _NORM.findall(body):
            yield operator, policy
        if not _NORM.search(body):
            yield from ((".".join(filter(None, entry)), policy) for entry in _ENTRY.findall(body))


def list_replacements() -> Iterator[tuple[str, _Kernel]]:
    """List functions of ``torch`` that must answer for the emulated device when they are called for CUDA."""
    yield "is_autocast_enabled", lambda device_type="cuda": _is_enabled(_name_device(device_type))
    yield "set_autocast_enabled", _set_autocast_enabled
    yield "get_autocast_dtype", lambda device_type: _dtype(_name_device(device_type))
    yield "set_autocast_dtype", lambda device_type, dtype: _set_dtype(_name_device(device_type), dtype)
    yield "get_autocast_gpu_dtype", lambda: _dtype(NAME)
    yield "set_autocast_gpu_dtype", lambda dtype: _set_dtype(NAME, dtype)
    yield "clear_autocast_cache", _clear_autocast_cache


def _name_device(device_type: str) -> str:
    return NAME if device_type == "cuda" else device_type


def _set_autocast_enabled(*arguments: Any) -> None:
    """Both signatures: (device_type, enabled), and the older (enabled), which means CUDA."""
    device_type, enabled = arguments if len(arguments) > 1 else ("cuda", *arguments)
    if enabled and device_type == "cuda" and not read_policies():
        raise TargetError(
            "autocast on the emulated CUDA device",
            f"a PyTorch with its headers: {HEADER} is missing",
            "trace without autocast, or on a machine with a CUDA device",
        )
    _set_enabled(_name_device(device_type), enabled)


def _clear_autocast_cache() -> None:
    _cache.clear()
    _clear_cache()


def _below_autocast(kernel: _Kernel) -> _Kernel:
    """Keep what `kernel` calls from being cast again, as the C++ wrappers do; and the user did not call it."""
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction(), torch._C._ExcludeDispatchKeyGuard(below):
            return kernel(*args, **kwargs)

    return run


def _lower_precision(operator: Any) -> _Kernel:
    return _below_autocast(lambda *args, **kwargs: _call(operator, _dtype(NAME), args, kwargs))


def _float32(operator: Any) -> _Kernel:
    return _below_autocast(lambda *args, **kwargs: _call(operator, torch.float32, args, kwargs))


def _float32_as_dtype(operator: Any) -> _Kernel:
    """Ask for a float32 result, where the caller asked for no dtype."""
    position = [argument.name for argument in operator._schema.arguments].index("dtype")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if not _is_eligible(args[0]) or kwargs.get("dtype") is not None or len(args) > position:
            return operator(*args, **kwargs)
        return operator(*args, **{**kwargs, "dtype": torch.float32})

    return _below_autocast(kernel)


def _append_float32(operator: Any) -> _Kernel:
    """``norm`` without a dtype becomes the overload with one."""
    with_dtype = {"Scalar": "ScalarOpt_dtype", "ScalarOpt_dim": "ScalarOpt_dim_dtype"}[operator._overloadname]
    target = getattr(torch.ops.aten.norm, with_dtype)

    def kernel(self: Tensor, p: Any = 2, *rest: Any) -> Any:
        dtype = torch.float32 if _is_eligible(self) else self.dtype
        if not rest:
            return target(self, p, dtype=dtype)
        dim, keepdim = (*rest, False)[:2]
        return target(self, p, dim, keepdim, dtype=dtype)

    return _below_autocast(kernel)


def _promote(operator: Any) -> _Kernel:
    """To the widest of the arguments' types, which may be the lower precision of the region and float32 only."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        found = {each.dtype for each in _find_tensors((args, kwargs)) if _is_eligible(each)}
        if found - {torch.float32, _dtype(NAME)}:
            raise RuntimeError("Unexpected floating ScalarType in at::autocast::prioritize")
        return _call(operator, torch.float32 if torch.float32 in found else _dtype(NAME), args, kwargs)

    return _below_autocast(kernel)


def _refuse_cross_entropy(*_args: Any, **_kwargs: Any) -> Any:
    """aten/src/ATen/autocast_mode.cpp: binary_cross_entropy_banned."""
    raise RuntimeError("torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.")


def _make_refusal(operator: str) -> _Kernel:
    """Make a kernel for an operator that is cast in a way that no header says."""

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise TargetError(
            f"aten::{operator} under autocast on the emulated CUDA device",
            "operators whose casting PyTorch's headers define",
            "trace without autocast, or on a machine with a CUDA device",
        )

    return refuse


def _call(operator: Any, dtype: torch.dtype, args: Any, kwargs: Any) -> Any:
    return operator(
        *(_cast(each, dtype) for each in args), **{name: _cast(each, dtype) for name, each in kwargs.items()}
    )


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return [_cast(each, dtype) for each in value]
    return _cast_with_cache(value, dtype) if isinstance(value, Tensor) and _is_eligible(value) else value


def _cast_with_cache(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """autocast_mode.cpp: cached_cast. A weight is cast once per autocast region: all its uses share one node."""
    if tensor.dtype == dtype:
        return tensor
    if not _is_cacheable(tensor, dtype):
        return tensor.to(dtype)
    if id(tensor) not in _cache:
        _cache[id(tensor)] = (tensor, tensor.to(dtype))
    return _cache[id(tensor)][1]


def _is_cacheable(tensor: Tensor, dtype: torch.dtype) -> bool:
    lower = dtype == _dtype(NAME) and tensor.dtype == torch.float32
    weight = tensor.requires_grad and tensor.is_leaf and not tensor._is_view()
    return lower and weight and torch.is_autocast_cache_enabled()


def _is_eligible(value: Any) -> bool:
    """autocast_mode.h: is_eligible."""
    on_device = isinstance(value, FakeTensor) and value.fake_device.type == NAME
    return on_device and value.is_floating_point() and value.dtype != torch.float64


def _find_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _find_tensors(each)
    elif isinstance(value, dict):
        yield from _find_tensors(list(value.values()))


_POLICIES: dict[str, _Policy] = {
    "LOWER_PRECISION_FP": _lower_precision,
    "FP32": _float32,
    "FP32_SET_OPT_DTYPE": _float32_as_dtype,
    "DIFFERENT_REDISPATCH_SIGNATURE": _append_float32,
    "PROMOTE": _promote,
}
