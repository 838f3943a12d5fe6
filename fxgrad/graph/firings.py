"""What really happened in a backward: one record for each time a hook ran."""

from __future__ import annotations

from dataclasses import dataclass

from fxgrad.graph.records import Shape

Received = tuple[Shape | None, str]
"""Shape (None where it cannot be read) and dtype of a gradient that a hook got."""


@dataclass(frozen=True, slots=True)
class Firing:
    """One run of one hook.

    ``call``   id of the module call whose snapshot the hook belongs to, None for hooks on tensors and nodes
    ``order``  its rank among all firings; None where it was seen only by its effect (retain_grad)
    ``node``   id of the node that was executed; None for one that is not in the graph
    ``grad_input``, ``grad_output``  what it got: None for a None, () for a tuple that this kind of hook does not get
    """

    hook: int
    call: str | None
    order: int | None
    node: int | None
    grad_input: tuple[Received | None, ...]
    grad_output: tuple[Received | None, ...]
