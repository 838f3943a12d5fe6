"""Puts real hooks on a real graph, makes the records, predicts, runs backward, and compares the two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from typing import Any

import torch
from comparison import Called, Comparison, End, Reality, Retained, compare_with, described
from msgspec.structs import replace
from same_graph import ids_in
from torch.autograd.graph import get_gradient_edge, register_multi_grad_hook

from fxgrad.graph import BackwardGraph, FxNode, GraphInfo, Hook, HookKind, Root
from fxgrad.observe.autograd.node_records import make_node_records
from fxgrad.observe.autograd.walk import walk
from fxgrad.predict import BackwardCall, predict

INFO = GraphInfo(
    2, "0", str(torch.__version__), "3", "cpu", False, "the given outputs", calls_reason="the forward was not watched"
)


class Bench:
    """The graph behind some outputs, with hooks on it. ``made_by`` is the function that the records shall name."""

    def __init__(self, outputs: torch.Tensor | Sequence[torch.Tensor], *, made_by: str | None = None) -> None:
        self.made_by = made_by
        self.outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        edges = [get_gradient_edge(output) for output in self.outputs]
        self.walked = walk([edge.node for edge in edges])
        self.roots = tuple(Root(self.walked.ids[edge.node], edge.output_nr, ("result",)) for edge in edges)
        self.leaves = {id(node.variable): node for node in self.walked.order if hasattr(node, "variable")}
        self.hooks: list[Hook] = []
        self.post_hooks: dict[int, list[int]] = {}
        self.prehooks: dict[int, list[int]] = {}
        self.log: MutableSequence[Called] = []
        self.retained: dict[int, torch.Tensor] = {}
        self.handles: dict[int, Any] = {}

    def close(self) -> None:
        """Let the graph go: its nodes hold the hooks, which hold the bench, and no garbage collector sees that."""
        vars(self).clear()
        self.log = deque(maxlen=0)  # of what shares nodes with it, another backward may call its hooks

    # Hooks

    def node_id(self, node: Any) -> int | None:
        return self.walked.ids.get(node)

    def place(self, tensor: torch.Tensor) -> tuple[int | None, int]:
        if tensor.grad_fn is not None:
            return self.node_id(tensor.grad_fn), tensor.output_nr
        return self.node_id(self.leaves.get(id(tensor))), 0

    def _add(self, kind: HookKind, owner: str, **fields: Any) -> int:
        self.hooks.append(Hook(len(self.hooks), kind, owner, "noted", **fields))
        return len(self.hooks) - 1

    def _note(self, hook: int, grad_input: Any, grad_output: Any) -> None:
        node = torch._C._current_autograd_node()
        tuples = [g if g is None else tuple(map(described, g)) for g in (grad_input, grad_output)]
        self.log.append(Called(hook, *tuples, node=node))

    def on_node(self, node: int) -> int:
        hook = self._add(HookKind.NODE, str(node), observed=(node, None))
        self.walked.order[node].register_hook(lambda gi, go: self._note(hook, gi, go))
        self.post_hooks.setdefault(node, []).append(hook)
        return hook

    def before_node(self, node: int) -> int:
        hook = self._add(HookKind.NODE_PRE, str(node), observed=(node, None))
        self.walked.order[node].register_prehook(lambda go: self._note(hook, None, go))
        self.prehooks.setdefault(node, []).append(hook)
        return hook

    def on_every_node(self) -> Bench:
        for node in range(len(self.walked.order)):
            self.on_node(node)
        return self

    def on_tensor(self, tensor: torch.Tensor) -> int:
        node, slot = self.place(tensor)
        observed = None if node is None else (node, slot)
        hook = self._add(HookKind.TENSOR, f"tensor {id(tensor)}", observed=observed)
        self.handles[hook] = tensor.register_hook(lambda grad: self._note(hook, None, (grad,)))
        return hook

    def retain(self, tensor: torch.Tensor) -> int:
        node, slot = self.place(tensor)
        tensor.retain_grad()
        hook = self._add(HookKind.RETAIN_GRAD, f"tensor {id(tensor)}", observed=None if node is None else (node, slot))
        self.retained[hook] = tensor
        return hook

    def after_accumulation(self, leaf: torch.Tensor) -> int:
        node, _ = self.place(leaf)
        observed = None if node is None else (node, 0)
        hook = self._add(HookKind.POST_ACCUMULATE_GRAD, f"tensor {id(leaf)}", observed=observed)
        leaf.register_post_accumulate_grad_hook(lambda _: self._note(hook, None, None))
        return hook

    def on_several(self, tensors: Sequence[torch.Tensor], mode: str = "all") -> int:
        hook = self._add(
            HookKind.MULTI_GRAD,
            "",
            mode=mode,
            targets=tuple(f"tensor {id(tensor)}" for tensor in tensors),
            target_slots=tuple(self.place(tensor) for tensor in tensors),
        )

        def noted(grads: Any) -> None:
            self._note(hook, None, grads if mode == "all" else (grads,))

        register_multi_grad_hook(tensors, noted, mode=mode)
        return hook

    def remove(self, hook: int) -> None:
        """Remove a tensor hook again."""
        self.handles[hook].remove()
        self.hooks[hook] = replace(self.hooks[hook], active=False)

    # Records and predictions

    def graph(self) -> BackwardGraph:
        nodes = list(make_node_records(self.walked))
        for node in range(len(nodes)):
            hooks, prehooks = self.post_hooks.get(node, ()), self.prehooks.get(node, ())
            nodes[node] = replace(nodes[node], hooks=tuple(hooks), prehooks=tuple(prehooks))
        if self.made_by is None:
            return BackwardGraph(self.roots, tuple(nodes), (), (), (), tuple(self.hooks), (), (), INFO)
        recorded = tuple(replace(node, fx_node="call", call_reason="no module was called") for node in nodes)
        forward = (FxNode("call", "call_function", self.made_by, "", (), None, (), None),)
        info = replace(INFO, calls_reason=None)
        return BackwardGraph(self.roots, recorded, (), (), (), tuple(self.hooks), (), forward, info)

    def call(self, inputs: Sequence[torch.Tensor] | None, api: str) -> BackwardCall:
        if inputs is None:
            return BackwardCall(api=api)
        places = [self.place(tensor) for tensor in inputs]
        return BackwardCall(tuple((node, slot) for node, slot in places if node is not None), api)

    def predicted(self, inputs: Sequence[torch.Tensor] | None = None, api: str = "backward") -> BackwardGraph:
        graph = predict(self.graph(), self.call(inputs, api))
        graph.lint()
        return graph

    # Reality

    def run(self, inputs: Sequence[torch.Tensor] | None = None, api: str = "backward") -> Sequence[Called]:
        grads = [torch.ones_like(output) for output in self.outputs]
        if api == "grad":
            torch.autograd.grad(self.outputs, inputs, grads, allow_unused=True)
        else:
            torch.autograd.backward(self.outputs, grads, inputs=inputs)
        return self.log

    def compare(self, inputs: Sequence[torch.Tensor] | None = None, api: str = "backward") -> Comparison:
        """Predict, run, compare: contents, number, nodes and order of the calls of all hooks."""
        predicted = self.predicted(inputs, api)
        self.run(inputs, api)
        return self.compared(predicted)

    def compared(
        self,
        predicted: BackwardGraph,
        log: Sequence[Called] | None = None,
        end: End | None = None,
        cut: int | None = None,
    ) -> Comparison:
        """Hold the sites of a graph against what was noted while backward ran; `end` and `cut` as in `Reality`."""
        reality = Reality(
            self.log if log is None else log,
            ids_in(predicted, self.outputs),
            name_of=lambda site: site.hook.id,
            retained=self._retained(),
            registered=range(len(self.hooks)),
            end=end,
            cut=cut,
        )
        return compare_with(predicted, reality)

    def _retained(self) -> list[Retained]:
        tensors = [tensor for tensor in self.retained.values() if not tensor.is_leaf]
        return [Retained(*self.place(tensor), described(tensor.grad)) for tensor in tensors]


def assert_as_predicted(
    build: Callable[[], Bench], inputs: Sequence[torch.Tensor] | None = None, api: str = "backward"
) -> BackwardGraph:
    """Compare, and fail with the differences; returns the predicted graph for closer looks."""
    bench = build()
    predicted = bench.predicted(inputs, api)
    bench.run(inputs, api)
    comparison = bench.compared(predicted)
    assert not comparison.wrong, "\n".join(comparison.wrong)
    return predicted
