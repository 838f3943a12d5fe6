"""Calls backward as a graph says that it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge

from fxgrad.graph import BackwardGraph
from fxgrad.observe.observation import Observation

_FREED = "Trying to backward through the graph a second time"


@dataclass(frozen=True)
class EngineCall:
    """One call of ``torch.autograd.backward`` or ``grad`` on an observed graph, as ``graph.info.backward`` says."""

    observation: Observation
    graph: BackwardGraph

    @property
    def after(self) -> str | None:
        """Whether the same call is made once before: see `BackwardCall`."""
        return self.graph.info.backward.after

    def run(self, *, retain_graph: bool) -> None:
        """Call backward. That it ends at what an earlier call has freed is no error where that is asked for."""
        roots, gradients = self._roots(), self._gradients()
        try:
            inputs = self._inputs()
            if self.graph.info.backward.api == "grad":
                assert inputs is not None
                torch.autograd.grad(roots, inputs, gradients, retain_graph=retain_graph, allow_unused=True)
            else:
                torch.autograd.backward(roots, gradients, retain_graph=retain_graph, inputs=inputs)
        except RuntimeError as error:
            if self.after != "freed" or not str(error).startswith(_FREED):
                raise

    def _roots(self) -> list[Any]:
        if self.graph.info.backward.roots is None:
            return list(self.observation.root_tensors)
        return [GradientEdge(self._node(root.node), root.slot) for root in self.graph.roots]

    def _gradients(self) -> list[torch.Tensor]:
        if self.graph.info.backward.roots is None:
            return [torch.ones_like(root) for root in self.observation.root_tensors]
        metas = [self._node(root.node)._input_metadata[root.slot] for root in self.graph.roots]
        return [torch.ones(meta.shape, dtype=meta.dtype, device=meta.device) for meta in metas]

    def _inputs(self) -> list[Any] | None:
        """Leaves themselves, others as edges; for what is not in the graph another leaf stands, that is not either."""
        call = self.graph.info.backward
        if call.inputs is None:
            return None
        leaves = {node: node.variable for node in self.observation.leaves.values()}  # type: ignore[attr-defined]
        nodes = [(self._node(node), slot) for node, slot in call.inputs]
        inside = [leaves[node] if node in leaves else GradientEdge(node, slot) for node, slot in nodes]
        return [*inside, *(torch.zeros((), requires_grad=True) for _ in call.absent)]

    def _node(self, node: int) -> Any:
        return self.observation.walked.order[node]
