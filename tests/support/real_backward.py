"""Puts real hooks on a real graph, makes the records, predicts, runs backward, and compares the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge, register_multi_grad_hook

from fxgrad.graph import BackwardGraph, FxNode, Gradient, GraphInfo, Hook, HookKind, HookSite, Root
from fxgrad.observe.walk import node_records, walk
from fxgrad.predict import BackwardCall, predict

Described = tuple[tuple[int, ...] | None, str] | None
"""(shape, dtype) of a gradient, None for None."""

INFO = GraphInfo(
    1, "0", str(torch.__version__), "3", "cpu", False, "the given outputs", calls_reason="the forward was not watched"
)


def described(gradient: Any) -> Described:
    """What can be compared of a gradient after it is gone."""
    if gradient is None:
        return None
    strided_nested = gradient.is_nested and gradient.layout is torch.strided
    return None if strided_nested else tuple(gradient.shape), str(gradient.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Called:
    """One call of a hook: which one, on which autograd node, and what it got."""

    hook: int
    node: int | None
    grad_input: tuple[Described, ...] | None
    grad_output: tuple[Described, ...] | None


@dataclass
class Comparison:
    """How a prediction held: ``wrong`` are sentences, ``entries`` counts the grad_input and grad_output entries."""

    wrong: list[str] = field(default_factory=list)
    entries: int = 0
    unknown: int = 0


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
        self.log: list[Called] = []
        self.retained: dict[int, torch.Tensor] = {}
        self.handles: dict[int, Any] = {}

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
        node = self.node_id(torch._C._current_autograd_node())
        self.log.append(
            Called(hook, node, *[g if g is None else tuple(map(described, g)) for g in (grad_input, grad_output)])
        )

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
        nodes = list(node_records(self.walked))
        for node in range(len(nodes)):
            hooks, prehooks = self.post_hooks.get(node, ()), self.prehooks.get(node, ())
            nodes[node] = nodes[node]._replace(hooks=tuple(hooks), prehooks=tuple(prehooks))
        if self.made_by is None:
            return BackwardGraph(self.roots, tuple(nodes), (), (), (), tuple(self.hooks), (), (), INFO)
        recorded = tuple(node._replace(fx_node="call", call_reason="no module was called") for node in nodes)
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

    def run(self, inputs: Sequence[torch.Tensor] | None = None, api: str = "backward") -> list[Called]:
        grads = [torch.ones_like(output) for output in self.outputs]
        if api == "grad":
            torch.autograd.grad(self.outputs, inputs, grads, allow_unused=True)
        else:
            torch.autograd.backward(self.outputs, grads, inputs=inputs)
        return self.log

    def compare(self, inputs: Sequence[torch.Tensor] | None = None, api: str = "backward") -> Comparison:
        """Predict, run, compare: contents, number and order of the calls of all hooks."""
        predicted = self.predicted(inputs, api)
        return compared(predicted, self.run(inputs, api), self.retained)


def compared(
    predicted: BackwardGraph, log: Sequence[Called], retained: dict[int, torch.Tensor] | None = None
) -> Comparison:
    """Hold the sites of a graph against what was noted while backward ran."""
    result = Comparison()
    sites = [site for site in predicted.sites if site.hook.kind is not HookKind.RETAIN_GRAD]
    log = [_wherever(called) if _is_multi_grad(predicted, called) else called for called in log]
    calls = Counter(_key(called) for called in log)
    first = {_key(called): called for called in reversed(log)}
    for site in sites:
        key = _site_key(site)
        result.wrong += _wrong_count(predicted, site, calls.pop(key, 0))
        if site.fires and key in first:
            wrong_entries(predicted, site, first[key].grad_input, first[key].grad_output, result)
    result.wrong += [f"{key} was called {times} times, but no site says so" for key, times in calls.items()]
    expected = [_site_key(site) for site in sites if site.fires]
    decided = {key for key in expected}
    real = [key for key in dict.fromkeys(map(_key, log)) if key in decided]
    if expected != real:
        result.wrong.append(f"the order is {real}, but predicted {expected}")
    result.wrong += [text for site in predicted.sites for text in _wrong_retain(site, retained or {})]
    return result


def _key(called: Called) -> tuple[int, int | None]:
    return called.hook, called.node


def _is_multi_grad(graph: BackwardGraph, called: Called) -> bool:
    return graph.hooks[called.hook].kind is HookKind.MULTI_GRAD


def _wherever(called: Called) -> Called:
    """A multi-grad hook has one site, wherever it is called: its first call is compared by order."""
    return replace(called, node=None)


def _site_key(site: HookSite) -> tuple[int, int | None]:
    return site.hook.id, None if site.hook.kind is HookKind.MULTI_GRAD else site.node


def _text(graph: BackwardGraph, site: HookSite) -> str:
    label = None if site.node is None else graph.nodes[site.node].label
    return f"hook {site.hook.id} ({site.hook.kind.value}) at {label} call {site.call}"


def _wrong_count(graph: BackwardGraph, site: HookSite, times: int) -> Iterable[str]:
    if site.fires is not None and site.fires != (times > 0):
        yield f"{_text(graph, site)}: fires is {site.fires} ({site.reason}), but it was called {times} times"
    elif site.times is not None and site.times != times:
        yield f"{_text(graph, site)}: {times} calls, but predicted {site.times}"


def wrong_entries(
    graph: BackwardGraph,
    site: HookSite,
    grad_input: tuple[Described, ...] | None,
    grad_output: tuple[Described, ...] | None,
    result: Comparison,
) -> None:
    """Compare what one hook got with its site; None stands for a tuple that this kind of hook does not get."""
    pairs = ("grad_input", site.grad_input, grad_input or ()), ("grad_output", site.grad_output, grad_output or ())
    for name, predicted, real in pairs:
        if len(predicted) != len(real):
            result.wrong.append(f"{_text(graph, site)}: {len(real)} entries in {name}, predicted {len(predicted)}")
            continue
        for gradient, real_gradient in zip(predicted, real, strict=True):
            result.entries += 1
            result.unknown += gradient.status == "unknown"
            problem = _wrong_entry(gradient, real_gradient)
            if problem:
                result.wrong.append(f"{_text(graph, site)}: {name}[{gradient.index}] {gradient.argument}: {problem}")


def _wrong_entry(gradient: Gradient, real: Described) -> str | None:
    if gradient.status != "unknown" and (gradient.status == "none") != (real is None):
        return f"predicted {gradient.status} ({gradient.reason}), got {real}"
    if real is None:
        return None
    shape, dtype = real
    if gradient.shape is not None and gradient.shape != shape:
        return f"predicted the shape {gradient.shape}, got {shape}"
    if gradient.dtype is not None and gradient.dtype != dtype:
        return f"predicted the dtype {gradient.dtype}, got {dtype}"
    return None


def _wrong_retain(site: HookSite, retained: dict[int, torch.Tensor]) -> Iterable[str]:
    tensor = retained.get(site.hook.id)
    if tensor is None or site.fires is None or tensor.is_leaf:
        return
    expected = site.fires and site.grad_output[0].status
    if expected != "unknown" and (expected == "tensor") != (tensor.grad is not None):
        yield f"retain_grad {site.hook.id}: predicted {expected}, .grad is {described(tensor.grad)}"


def assert_as_predicted(
    build: Callable[[], Bench], inputs: Sequence[torch.Tensor] | None = None, api: str = "backward"
) -> BackwardGraph:
    """Compare, and fail with the differences; returns the predicted graph for closer looks."""
    bench = build()
    predicted = bench.predicted(inputs, api)
    comparison = compared(predicted, bench.run(inputs, api), bench.retained)
    assert not comparison.wrong, "\n".join(comparison.wrong)
    return replace(predicted)
