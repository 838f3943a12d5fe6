"""The records of hooks: what is registered, the places it sits at, what it receives there and what a rule says of it.

Flat, immutable, without torch, as those in `fxgrad.graph.records`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fxgrad.graph.hook_kinds import HookKind
from fxgrad.graph.records import Shape, Source


class Held(NamedTuple):
    """A tensor that a hook's function holds, and that has a graph behind it.

    ``name``      that of a variable of a function around it, of a default, or of an argument of a partial
    ``node``      id of its node, None where that is not in the graph or was not looked at (views)
    ``is_inside`` whether a container is held that holds the tensor
    """

    name: str
    node: int | None
    is_inside: bool


@dataclass(frozen=True, slots=True)
class Hook:
    """A registered hook.

    ``id``          rank in the order of registration
    ``owner``       module path, tensor name or node label; "" for a global hook
    ``function``    qualified name of the user's function
    ``source``      where that function is defined; ``registered`` where it was registered, when that was seen
    ``targets``     names of a multi-grad hook's tensors, ``mode`` "all" or "any"
    ``observed``    (node, slot) that it was seen on; slot None for hooks on a node
    ``active``      False: its handle was removed, but calls made before still carry it
    ``unplaced``    why it is on no node of the graph, where it is on none
    ``may_return``  whether its code can return something else than None; None: not known
    ``target_slots`` (node, slot) of each of ``targets``, (None, 0) where that is not in the graph
    ``registered_nr`` autograd's sequence number when it was registered, where that was seen, and ``registered_in`` the
                    id of the module call that was running then, None outside of every call
    ``grad_reads``  of a module hook: where its code reads ``.grad``, as a path from the module that it is given:
                    ("weight",); "parameters()" where it goes through the module's parameters
    ``holds``       tensors that have a graph behind them, and that its function keeps alive
    ``uncounted``   which of ``targets`` an "all" hook does not wait for: PyTorch took another node for theirs
    ``more_targets`` why a multi-grad hook is on more places than ``target_slots`` says; None where it is not
    """

    id: int
    kind: HookKind
    owner: str
    function: str
    source: Source | None = None
    registered: Source | None = None
    prepend: bool = False
    targets: tuple[str, ...] = ()
    mode: str | None = None
    observed: tuple[int, int | None] | None = None
    active: bool = True
    unplaced: str | None = None
    may_return: bool | None = None
    target_slots: tuple[tuple[int | None, int], ...] = ()
    registered_nr: int | None = None
    registered_in: str | None = None
    grad_reads: tuple[str, ...] = ()
    holds: tuple[Held, ...] = ()
    more_targets: str | None = None
    uncounted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Gradient:
    """One entry of a ``grad_input`` or ``grad_output`` tuple.

    ``status`` is "tensor", "none" or "unknown"; ``reason`` says why it is None or unknown. ``shape`` and ``dtype``
    are those of the gradient; for "none", those that it would have, where known.
    """

    index: int
    argument: str | None
    status: str
    shape: Shape | None
    dtype: str | None
    expression: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HookSite:
    """A hook at one place of the graph, with what it will receive there.

    ``call`` and ``node`` are ids, None where there is none; ``slot`` which gradient of the node a tensor hook sees.
    ``fires`` is None where only backward decides, ``times`` likewise. ``order`` is its rank in the firing order.
    ``reason`` says why it sits here, or why it has no place or does not fire.
    """

    hook: Hook
    call: str | None
    node: int | None
    slot: int | None
    grad_input: tuple[Gradient, ...]
    grad_output: tuple[Gradient, ...]
    fires: bool | None
    times: int | None
    order: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a rule has to say: ``severity`` is "info", "warning" or "error".

    ``owner``   the module or the tensor that a finding without a site is about
    ``source``  the line of the user's program that it is about, where there is one
    """

    code: str
    severity: str
    headline: str
    because: str
    fix: str
    site: HookSite | None = None
    owner: str | None = None
    source: Source | None = None
