"""The modes that a recorded forward runs in, set again in the recorded graph: grad, inference, autocast, defaults.

Changes of a mode are not seen as they happen (inference mode and autocast hide from other modes, C++ code disables grad
mode for what it calls), so each recorded call knows the modes that it ran in, and the graph sets what differs.

Sources relied on: torch/autograd/grad_mode.py, torch/amp/autocast_mode.py (the functions that torch.export writes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.autograd import grad_mode

from fxgrad.observe.seen import Autocast, Surroundings

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
    """The modes that the graph is in after its last call. `function` appends a call to it, `constant` an attribute.

    `last_uses` says of each generation of autocast's cache which call was the last to run with it.
    """

    def __init__(
        self,
        initial: InitialModes,
        last_uses: Mapping[int, int],
        function: Callable[..., fx.Node],
        constant: Callable[[Any], fx.Node],
    ) -> None:
        self._initial = initial
        self._last_uses = last_uses
        self._function = function
        self._constant = constant
        self._grad, self._dtype = initial
        self._grad_outside = initial.grad
        self._inference: fx.Node | None = None
        self._autocasts: list[tuple[Autocast, fx.Node]] = []
        self._generation = 0

    def set(self, number: int, wanted: Surroundings, *, grad: bool) -> None:
        """Append what it takes to be in the modes that call `number` ran in."""
        if wanted.inference != (self._inference is not None):
            self._switch_inference()
        if wanted.autocast is not None or self._autocasts:
            self._set_autocast(number, wanted)
        if wanted.random is not None:
            self._function(torch.set_rng_state, self._constant(wanted.random))
        self._set_dtype(wanted.dtype or self._dtype)
        self._set_grad(grad)

    def leave(self, random: torch.Tensor | None) -> None:
        """Append what it takes to be in the modes of the beginning, with torch's generator in the state given."""
        self._leave_autocasts()
        self.set(0, Surroundings(dtype=self._initial.dtype, random=random), grad=self._initial.grad)

    def _switch_inference(self) -> None:
        """Inference mode disables grad mode, and gives it back when it is left."""
        enter, leave = _INFERENCE
        if self._inference is None:
            self._inference = self._function(enter, True)
            self._grad, self._grad_outside = False, self._grad
        else:
            self._function(leave, self._inference)
            self._inference, self._grad = None, self._grad_outside

    def _set_autocast(self, number: int, wanted: Surroundings) -> None:
        """Leaving the outermost region clears the cache of casts, so a region whose casts are used again is not left:
        what ran without autocast in between runs in a disabled region inside."""
        autocast = wanted.autocast
        if autocast is None and self._last_uses.get(self._generation, 0) > number:
            device, dtype, _, cache = self._autocasts[0][0]
            autocast = device, dtype, False, cache
        elif autocast is None or wanted.cast_cache != self._generation:
            self._leave_autocasts()
        if autocast is not None:
            self._generation = max(self._generation, wanted.cast_cache)
            self._enter_autocast(autocast)

    def _enter_autocast(self, autocast: Autocast) -> None:
        around = [entered for entered, _ in self._autocasts]
        if autocast in around:
            self._leave_autocasts(around.index(autocast) + 1)
        else:
            self._autocasts.append((autocast, self._function(_AUTOCAST[0], *autocast)))

    def _leave_autocasts(self, kept: int = 0) -> None:
        while len(self._autocasts) > kept:
            self._function(_AUTOCAST[1], self._autocasts.pop()[1])

    def _set_dtype(self, dtype: torch.dtype) -> None:
        if dtype != self._dtype:
            self._function(torch.set_default_dtype, dtype)
            self._dtype = dtype

    def _set_grad(self, grad: bool) -> None:
        if grad != self._grad:
            self._function(torch._C._set_grad_enabled, grad)
            self._grad = grad
