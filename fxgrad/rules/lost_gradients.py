"""Why no gradient reaches a parameter: worked out of what forward did with it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fxgrad.graph import BackwardGraph, FxNode, Variable
from fxgrad.rules.data_flow import DataFlow


class Loss(enum.Enum):
    """How a gradient got lost on its way to a parameter that requires grad.

    ``UNUSED``      no recorded operation was given the parameter
    ``CUT``         what was computed from it stops requiring grad, and plays a part in the output
    ``NOT_PASSED``  an operation of the backward graph uses it, or what was computed from it, and gives it no gradient
    ``NOT_ASKED``   an output depends on it, from which backward does not start, or which the loss does not use
    ``DROPPED``     what was computed from it plays no part in the output
    ``RECOMPUTED``  a node runs operations again in backward, and a backward of its own: only backward decides
    ``UNKNOWN``     the forward was not watched, or the parameter is used by what cannot be recorded
    """

    UNUSED = "unused"
    CUT = "cut"
    NOT_PASSED = "not passed"
    NOT_ASKED = "not asked"
    DROPPED = "dropped"
    RECOMPUTED = "recomputed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Lost:
    """A parameter that no gradient reaches, and where its gradient was lost: the operations, in order.

    For ``DROPPED``, ``at`` are the operations whose value Python took, else the last ones that used it.
    """

    parameter: Variable
    why: Loss
    at: tuple[FxNode, ...] = ()


def lost_gradients(graph: BackwardGraph) -> tuple[Lost, ...]:
    """Every parameter that requires grad and that the roots do not lead to, in the order of the variables."""
    missing = [
        variable
        for variable in graph.variables
        if variable.kind == "parameter" and variable.requires_grad and variable.node is None
    ]
    if not missing:
        return ()
    search = _Search(graph)
    return tuple(search.lost(parameter) for parameter in missing)


class _Search:
    """The look-ups that are the same for all parameters of a graph."""

    def __init__(self, graph: BackwardGraph) -> None:
        self._graph = graph
        self._flow = DataFlow(graph)
        self._getters = {fx_node.target: fx_node.name for fx_node in graph.forward if fx_node.op == "get_attr"}
        scripted = [module for module in graph.modules if module.made_by == "torch.jit"]
        self._hidden = {name for module in scripted for name in module.parameters}
        """Of modules whose operations run without Python, where nobody sees what is given to them."""
        self._recomputes = bool(graph.nesting)
        self._may_use_anything = not graph.nests_in_checkpoints
        """A custom Function is recorded as one call, of what it is given; what its own code holds nobody sees."""

    def lost(self, parameter: Variable) -> Lost:
        if not self._graph.forward:
            return Lost(parameter, Loss.RECOMPUTED if self._recomputes else Loss.UNKNOWN)
        names = [self._getters[name] for name in (parameter.name, *parameter.aliases) if name in self._getters]
        if self._may_use_anything:
            return Lost(parameter, Loss.RECOMPUTED)
        if not names:
            return Lost(parameter, Loss.UNKNOWN if parameter.name in self._hidden else Loss.UNUSED)
        if self._recomputes:
            return Lost(parameter, Loss.RECOMPUTED)
        return self._lost_on_the_way(parameter, names)

    def _lost_on_the_way(self, parameter: Variable, names: list[str]) -> Lost:
        cuts, others, returned = self._flow.flow_from(names)
        effective = tuple(cut for cut in cuts if cut.name in self._flow.returned)
        if effective:
            return Lost(parameter, Loss.CUT, effective)
        if others:
            return Lost(parameter, Loss.NOT_PASSED, others)
        if returned:
            return Lost(parameter, Loss.NOT_ASKED)
        return Lost(parameter, Loss.DROPPED, self._flow.ends_of(names))
