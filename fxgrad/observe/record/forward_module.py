"""Runs a recorded forward again, as a ``torch.fx.GraphModule``, without touching the model.

Sources relied on: torch/_tensor.py (``__deepcopy__``: tensors that share their memory share it in the copies, too),
torch/fx/graph_module.py.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxgrad.errors import UsageError
from fxgrad.observe.record.names import tensor_paths


@dataclass(frozen=True)
class RecordedForward:
    """The recorded ``torch.fx.Graph``, with what it needs to run again.

    ``constants`` are the attributes that no model has, ``written`` the names of the parameters and buffers that the run
    changed in place; ``refusal`` says why no GraphModule can repeat it.
    """

    graph: fx.Graph
    constants: Mapping[str, Any]
    written: frozenset[str]
    refusal: str | None = None

    def module(self, model: nn.Module) -> fx.GraphModule:
        """A GraphModule that runs the graph with the values that `model` has.

        Its parameters share their memory with those of the model, but have gradients and hooks of their own. Buffers, and
        parameters that the graph changes in place (as an Embedding with ``max_norm`` does), are copied.
        Raises UsageError for a model without one of them, and for a run that such a graph cannot express.
        """
        if self.refusal is not None:
            raise UsageError(
                f"a forward that cannot be run again: {self.refusal}",
                "operations on tensors in the modes and with the random state of the caller, and an output in containers "
                "that torch.utils._pytree knows",
                "run the model itself, or return tensors in tuples, lists and dicts",
            )
        names = dict.fromkeys(str(fx_node.target) for fx_node in self.graph.nodes if fx_node.op == "get_attr")
        own = self._take_from(model, [name for name in names if name not in self.constants])
        return _graph_module({name: self.constants.get(name, own.get(name)) for name in names}, self.graph)

    def _take_from(self, model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
        """The model's parameters and buffers of these names: in its memory, or copied where the graph may write."""
        parameters, buffers = dict(tensor_paths(model, "_parameters")), dict(tensor_paths(model, "_buffers"))
        found: dict[str, torch.Tensor] = {}
        for name in names:
            tensor = parameters.get(name, buffers.get(name))
            if tensor is None:
                raise UsageError(
                    f"a model without the parameter or buffer {name}, which the recorded forward uses",
                    "the model that was traced, or one with the same parameters and buffers",
                    "pass the model that was traced",
                )
            found[name] = tensor
        detached = {name: tensor.detach() for name, tensor in found.items()}
        # one deep copy, so that what shares its memory still does
        detached |= copy.deepcopy({name: detached[name] for name in names if name in buffers or name in self.written})
        return {
            name: nn.Parameter(detached[name], tensor.requires_grad)
            if name in parameters
            else detached[name].requires_grad_(tensor.requires_grad)
            for name, tensor in found.items()
        }


def _graph_module(attributes: Mapping[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A module that runs a copy of the graph."""
    names = _free_names(attributes)
    copied = copy.deepcopy(graph)
    for fx_node in copied.nodes:
        if fx_node.op == "get_attr":
            fx_node.target = names[fx_node.target]
    return fx.GraphModule({names[name]: value for name, value in attributes.items()}, copied, "RecordedForward")


def _free_names(names: Collection[str]) -> dict[str, str]:
    """Where a GraphModule can hold what has these names: it has a ``graph`` and a ``code`` of its own."""
    own = fx.GraphModule({}, fx.Graph())
    prefix = "model_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return {name: prefix + name if hasattr(own, name.partition(".")[0]) else name for name in names}
