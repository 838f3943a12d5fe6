"""The modes that a recorded forward runs in, set again in the recorded graph: grad, inference, autocast, defaults.

Changes of a mode are not seen as they happen (inference mode and autocast hide from other modes, C++ code disables grad
mode for what it calls), so each recorded call knows the modes that it ran in, and the graph sets what differs.

Sources relied on: torch/autograd/grad_mode.py, torch/amp/autocast_mode.py (the functions that torch.export writes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.autograd import grad_mode

from fxgrad.observe.seen import Surroundings

_AUTOCAST = (torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast)
_INFERENCE = (grad_mode._enter_inference_mode, grad_mode._exit_inference_mode)


class InitialModes(NamedTuple):
    """The modes when the recording began; at its end, the graph goes back to them."""

    grad: bool = True
    dtype: torch.dtype = torch.float32


def modes_now() -> InitialModes:
    """The modes of this moment."""
    return InitialModes(torch.is_grad_enabled(), torch.get_default_dtype())


class RerunModes:
    """The modes that the graph is in after its last call. `function` appends a call to it, `constant` an attribute."""

    def __init__(
        self, initial: InitialModes, function: Callable[..., fx.Node], constant: Callable[[Any], fx.Node]
    ) -> None:
        self._initial = initial
        self._grad, self._dtype = initial
        self._grad_outside = initial.grad
        self._surroundings = Surroundings()
        self._entered: dict[str, fx.Node] = {}
        self._function = function
        self._constant = constant

    def set(self, wanted: Surroundings, *, grad: bool) -> None:
        """Append what it takes to be in the wanted modes."""
        before = self._surroundings
        if wanted.inference != before.inference:
            self._switch("inference", _INFERENCE, (True,) if wanted.inference else None)
            self._grad, self._grad_outside = (False, self._grad) if wanted.inference else (self._grad_outside, False)
        if wanted.autocast != before.autocast:
            self._switch("autocast", _AUTOCAST, wanted.autocast)
        if wanted.random is not None:
            self._function(torch.set_rng_state, self._constant(wanted.random))
        self._set_dtype(wanted.dtype or self._dtype)
        self._set_grad(grad)
        self._surroundings = wanted

    def leave(self) -> None:
        """Append what it takes to be in the modes of the beginning."""
        self.set(Surroundings(dtype=self._initial.dtype), grad=self._initial.grad)

    def _switch(self, mode: str, functions: tuple[Any, Any], values: tuple[Any, ...] | None) -> None:
        enter, leave = functions
        if mode in self._entered:
            self._function(leave, self._entered.pop(mode))
        if values is not None:
            self._entered[mode] = self._function(enter, *values)

    def _set_dtype(self, dtype: torch.dtype) -> None:
        if dtype != self._dtype:
            self._function(torch.set_default_dtype, dtype)
            self._dtype = dtype

    def _set_grad(self, grad: bool) -> None:
        if grad != self._grad:
            self._function(torch._C._set_grad_enabled, grad)
            self._grad = grad
