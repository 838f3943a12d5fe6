"""Where in a run the recorder is."""

from __future__ import annotations

from types import FrameType

from fxgrad.observe.frames import NO_STACK, Stack
from fxgrad.observe.reruns import SeenRerun
from fxgrad.observe.seen import SeenModuleCall


class Whereabouts:
    """The module call that is running; the frame it was called from, with the stack from there on outwards.

    ``checkpoints`` counts the reentrant checkpoints around, and ``grad_outside`` is the grad mode around them;
    ``rerun`` is the Function around whose backward may run its forward again;
    ``in_loss`` tells that the model's forward is over.
    """

    __slots__ = ("call", "checkpoints", "grad_outside", "in_loss", "limit", "rerun", "stack")

    def __init__(self) -> None:
        self.call: SeenModuleCall | None = None
        self.limit: FrameType | None = None
        self.stack: Stack = NO_STACK
        self.checkpoints = 0
        self.grad_outside = True
        self.rerun: SeenRerun | None = None
        self.in_loss = False
