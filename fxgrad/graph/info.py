"""How a graph was made, and for which call of backward its sites are predicted."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 2
"""Of the records as they are saved; `GraphInfo.schema_version` holds it. Another number is another meaning."""

BACKWARD_APIS = ("backward", "grad")
EARLIER_CALLS = ("retained", "freed")
"""What `BackwardCall` says of ``api`` and ``after``."""


@dataclass(frozen=True, slots=True)
class BackwardCall:
    """How backward will be called; it starts from the graph's roots.

    ``inputs``  (node, slot) of each tensor in ``inputs=``, for a leaf that of its AccumulateGrad; None: no ``inputs=``.
                Tensors that are not in the graph are left out, so ``()`` means that none of them is.
    ``api``     "backward" or "grad" (``torch.autograd.grad``, which always has inputs)
    ``after``   the same call was made once before on this graph: "retained", with ``retain_graph=True``, or "freed",
                without; None: this is the first
    ``names``   what was given as inputs; ``absent`` those among them that are not in the graph
    ``roots``   what was given as roots; None: the graph's roots are those that the trace found
    """

    inputs: tuple[tuple[int, int], ...] | None = None
    api: str = "backward"
    after: str | None = None
    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    roots: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """The autograd node that the non-full hooks of one module call sit on, in brief.

    ``call`` is the call's id, ``node`` the node's name, ``grad_input`` and ``grad_output`` how many entries its hooks get.
    """

    call: str
    node: str
    grad_input: int
    grad_output: int


@dataclass(frozen=True, slots=True)
class OtherDevice:
    """The same program on another device, for comparison.

    ``landings`` has an entry for each module call whose first result has a grad_fn in the graph there; ``failure`` says
    why there are none, where it could not be traced there.
    """

    device: str
    landings: tuple[Landing, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """How the graph was made, and for which call of backward its sites are predicted.

    ``calls_reason``  why there are no module calls and no fx nodes (a capture); None where there are
    ``global_backward_sticky`` which global backward hooks this process has had: full (True), legacy (False), or none
    ``skipped``       outputs that are no roots, each with why
    ``notes``         what else a reader must know (compiled modules run eagerly, warnings of PyTorch, ...)
    ``other_device``  an emulated program as it is without emulation; None where nobody looked
    """

    schema_version: int
    fxgrad: str
    torch: str
    python: str
    device: str
    emulated: bool
    root_rule: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calls_reason: str | None = None
    global_backward_sticky: bool | None = None
    backward: BackwardCall = BackwardCall()
    other_device: OtherDevice | None = None
