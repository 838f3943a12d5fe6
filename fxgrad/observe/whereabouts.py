"""Where in a run the recorder is."""

from __future__ import annotations

from types import FrameType

from fxgrad.observe.frames import NO_STACK, Stack
from fxgrad.observe.seen import SeenModuleCall


class Whereabouts:
    """The module call that is running; the frame it was called from, with the stack from there on outwards.

    ``checkpoints`` counts the reentrant checkpoints around, and ``grad_outside`` is the grad mode around them;
    ``in_loss`` tells that the model's forward is over.
    """

    __slots__ = ("call", "checkpoints", "grad_outside", "in_loss", "limit", "stack")

    def __init__(self) -> None:
        self.call: SeenModuleCall | None = None
        self.limit: FrameType | None = None
        self.stack: Stack = NO_STACK
        self.checkpoints = 0
        self.grad_outside = True
        self.in_loss = False
