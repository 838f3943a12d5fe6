"""Registers the emulated CUDA device with PyTorch and runs code on it.

torch.utils.backend_registration can make a backend of Python code out of PrivateUse1 since torch 2.10; under
FakeTensorMode its tensors have a shape and a device and no data, while autograd's own C++ code builds the graph.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.autograd.variable import Variable
from torch.utils import backend_registration

from fxgrad.errors import TargetError, UsageError
from fxgrad.observe.accelerator import attention, autocast, kernels
from fxgrad.observe.accelerator.device import NAME, check_emulated, forget_choices, make_device
from fxgrad.observe.accelerator.redirect import redirect_cuda, replace_attribute

UNNAMED = "privateuseone"
"""What PyTorch calls PrivateUse1 while nobody uses it."""

_libraries: list[torch.library.Library] = []
"""What a Library registered is gone when the Library is."""


def explain_unavailable() -> str | None:
    """Return why no CUDA device can be emulated in this process; None if one can."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} cannot emulate a device: that needs torch 2.10 or newer"
    taken = torch._C._get_privateuse1_backend_name()
    if taken not in (UNNAMED, NAME):
        return f"the backend {taken!r} already uses the only slot that PyTorch has for another device"
    return None


@contextmanager
def emulate(device: str) -> Iterator[torch.device]:
    """Run the body as on a machine with one CUDA device; yields the device that stands for it.

    For a fresh interpreter or a forked child: the backend that it registers stays in the process for good. In the body
    new tensors are made on the emulated device, as under ``torch.device("cuda")``, and whatever says ``cuda`` gets it.
    Tensors have no data. Forward and backward build and run the nodes that CUDA would have.

    Raises UsageError if nothing can be emulated, TargetError if the body does what needs data or a GPU.
    """
    check_emulated(device)
    register()
    forget_choices()
    mode = EmulatedMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
    with ExitStack() as stack:
        stack.enter_context(_explain_errors())
        stack.enter_context(mode)
        stack.enter_context(make_device())
        engine = Engine(Variable.__dict__["_execution_engine"])
        stack.enter_context(replace_attribute(Variable, "_execution_engine", engine))
        stack.enter_context(redirect_cuda(mode))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_without_fast_path())
        yield make_device()


def register() -> None:
    """Register the backend, once per process; this cannot be undone. Raises UsageError if it is not possible."""
    reason = explain_unavailable()
    if reason is not None:
        raise UsageError(reason, "a process in which a device can be emulated", "trace on the CPU or on a CUDA device")
    if is_registered():
        return
    attention.adds_batch()  # cached: it must be found out outside every mode
    setup: Any = backend_registration._setup_privateuseone_for_python_backend
    setup(NAME, backend_module=_Backend(), device_guard=_make_device_guard())
    _register_kernels()


def is_registered() -> bool:
    """Whether the backend is registered in this process."""
    return bool(torch._C._get_privateuse1_backend_name() == NAME)


def _register_kernels() -> None:
    aten, every = _make_library("aten"), _make_library("_")
    for operator, kernel in kernels.list_shape_kernels():
        aten.impl(operator, kernel, "Meta", allow_override=True)
    for operator, kernel in kernels.list_autograd_kernels():
        aten.impl(operator, kernel, "AutogradPrivateUse1")
    for operator in kernels.BACKEND_OPERATORS:
        aten.impl(operator, _never_runs, "PrivateUse1")
    for operator, kernel in autocast.list_kernels():
        aten.impl(operator, kernel, "AutocastPrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _make_library(namespace: str) -> Any:
    library = torch.library.Library(namespace, "IMPL")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    return library


def _never_runs(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("FakeTensorMode answers before the backend's kernels are called")


class _Backend:
    """The module ``torch.fakecuda``, which PyTorch asks about the device."""

    def is_available(self) -> bool:
        """No memory can be had from it."""
        return False

    def is_initialized(self) -> bool:
        """Nothing is left to do before it is used."""
        return True

    def device_count(self) -> int:
        """One device is emulated."""
        return 1

    def current_device(self) -> int:
        """The first."""
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Without data there is nothing random."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """What autocast may cast to (torch/amp/autocast_mode.py)."""
        return [torch.float16, torch.bfloat16]


class EmulatedMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Never asks the device for memory, whatever ``torch.cuda.is_available()`` answers in the meantime."""

    @property
    def avoid_device_init(self) -> bool:
        """Whether FakeTensorMode must not ask a device for memory."""
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> EmulatedMode:
        """Copies of fake tensors (``copy.deepcopy(model)``) belong to the mode of their originals."""
        return self


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Transformer layers in eval mode and without grad call kernels that have no shapes, and make no nodes either way.

    torch/nn/modules/transformer.py, activation.py.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Explain what cannot be done without data, once: FakeTensorMode logs its errors besides raising them."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    except SystemError:
        error = take_error()
        if error is None:
            raise
        raise error from None
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise TargetError(
            f"{error.func} on the emulated CUDA device, whose tensors hold no data",
            "operators whose results do not depend on the values of tensors",
            "trace on the CPU, or on a machine with a CUDA device",
        ) from error
    except UnsupportedOperatorException as error:
        raise TargetError(
            f"{error.func} on the emulated CUDA device",
            "operators whose result shapes PyTorch knows without running them (a Meta or fake kernel)",
            "trace on the CPU, or on a machine with a CUDA device",
        ) from error
    finally:
        log.disabled = was_disabled


# Errors during backward
#
# The engine guards the stream of each node's device, and the guard of a backend made in Python is asked for its device
# type when it is left (torch/csrc/acc/Module.cpp: exchangeStream, which may not throw). When it is left because a hook
# raised, that call of Python code finds the error set, fails for that reason alone, and the process is aborted. So the
# guard here takes the error off, and the wrapper of the engine raises it again.

_taken: list[BaseException] = []

_slots = tuple(ctypes.c_void_p() for _ in range(3))
_references = tuple(ctypes.byref(slot) for slot in _slots)
_fetch = ctypes.pythonapi.PyErr_Fetch
_fetch.restype = None
_normalize = ctypes.pythonapi.PyErr_NormalizeException
_normalize.restype = None
_release = ctypes.pythonapi.Py_DecRef
_release.argtypes, _release.restype = [ctypes.c_void_p], None


def _make_device_guard() -> Any:
    """Make a guard to register for PrivateUse1. The class is made here because torch 2.9 does not have its base class."""
    private_use = torch._C._autograd.DeviceType.PrivateUse1

    class Guard(torch._C._acc.DeviceGuard):
        def type_(self) -> Any:
            _fetch(*_references)  # before anything else: with an error set, no other call would succeed
            if _slots[0].value is not None:
                _keep_error()
            return private_use

    return Guard()


def _keep_error() -> None:
    """Keep the error that `_fetch` put into the slots: type, value and traceback, each with a reference to it."""
    _normalize(*_references)
    value, traceback = (ctypes.cast(slot, ctypes.py_object).value if slot.value else None for slot in _slots[1:])
    if isinstance(value, BaseException):
        _taken.append(value.with_traceback(traceback))
    for slot in _slots:
        _release(slot)


def take_error() -> BaseException | None:
    """Return the error that the guard took off since the last call; None if there is none."""
    error = _taken[-1] if _taken else None
    _taken.clear()
    return error


class Engine:
    """Wraps autograd's engine: python_engine.cpp finds no error to raise after the guard took it off."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run_backward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the engine, and raise what was raised in it."""
        _taken.clear()
        try:
            return self._engine.run_backward(*args, **kwargs)
        except SystemError:
            error = take_error()
            if error is None:
                raise
        raise error
