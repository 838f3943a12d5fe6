"""Holds the answer of `hypothesis` against really registering the hook: its records, and what backward gives it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from module_hooks import Notebook, backward, compared, roots_in, short_name
from same_graph import NotTheSame, ids_in
from torch import nn

from fxgrad.errors import TargetError
from fxgrad.graph import BackwardGraph, HookKind, HookSite, ModuleCall, Node, NodeKind
from fxgrad.observe.tracing import observe_forward
from fxgrad.predict import predict
from fxgrad.probe import Hypothesis, hypothesis

Built = tuple[nn.Module, Sequence[Any], dict[str, Any]]
Build = Callable[[Notebook], Built]
"""Makes the same model and arguments each time; hooks that are there already are registered through the notebook."""

LOCAL = (HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD, HookKind.MODULE_FULL_BACKWARD_PRE)
GLOBAL = (HookKind.GLOBAL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD_PRE)
NAME = "hook"


@dataclass
class Trial:
    """What was supposed, and how that differs from what registering the hook does.

    ``error``    what registering it, or forward after that, raised in reality
    ``records``  differences between the supposed graph and the one that a trace of the hooked model gives
    ``calls``    differences between the sites and what the hooks got in a real backward
    """

    supposed: Hypothesis
    error: str | None = None
    records: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """Differences that no caveat explains: backward must be as supposed even where the records cannot be."""
        if (self.supposed.refused is None) != (self.error is None):
            return [f"refused: {self.supposed.refused}, but in reality {self.error}; caveats {self.supposed.caveats}"]
        return [*self.records, *self.calls]


def attempt(build: Build, path: str, kind: HookKind) -> Trial:
    """Suppose the hook; then really register it, on fresh copies of the model, and trace one and run another."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _built(build) as (_, (model, args, kwargs)):
            plain = _traced(model, args, kwargs)
        trial = Trial(hypothesis(plain, path, kind))
        trial.supposed.graph.lint()
        with _built(build) as (notebook, (model, args, kwargs)):
            trial.error, real = _real_graph(notebook, (model, args, kwargs), path, kind)
        if real is not None and trial.supposed.refused is None:
            trial.records = [*graph_differences(trial.supposed.graph, real), *_unmentioned(plain, trial.supposed, real)]
            trial.calls = _differences_in_backward(trial.supposed, build, path, kind)
    return trial


def _differences_in_backward(supposed: Hypothesis, build: Build, path: str, kind: HookKind) -> list[str]:
    with _built(build) as (notebook, (model, args, kwargs)):
        register(notebook, model, path, kind)
        output = model(*args, **kwargs)
        ids = _ids_if_the_same(supposed.graph, output)
        if _backward_error(output) is None:
            return compared(supposed.graph, notebook.log, ids).wrong
    with _built(build) as (_, (model, args, kwargs)):
        without = _backward_error(model(*args, **kwargs))
    return [] if without is not None else ["backward raises with the hook alone"]


def _ids_if_the_same(graph: BackwardGraph, output: Any) -> dict[Any, int] | None:
    """None where the supposed records are not those of the real graph, which `Trial.records` tells."""
    try:
        return ids_in(graph, roots_in(output))
    except NotTheSame:
        return None


def _backward_error(output: Any) -> str | None:
    """What backward raises, for example where an in-place operation changed what was saved for it."""
    try:
        backward(output)
    except RuntimeError as error:
        return str(error)
    return None


@contextmanager
def _built(build: Build) -> Iterator[tuple[Notebook, Built]]:
    notebook = Notebook()
    torch.manual_seed(0)
    try:
        yield notebook, build(notebook)
    finally:
        notebook.close()


def _real_graph(notebook: Notebook, built: Built, path: str, kind: HookKind) -> tuple[str | None, BackwardGraph | None]:
    """The graph with the hook, or the error that PyTorch raises."""
    try:
        register(notebook, built[0], path, kind)
        return None, predict(_traced(*built))
    except (TargetError, RuntimeError, StopIteration) as error:
        return f"{type(error).__name__}: {error}", None


def _unmentioned(plain: BackwardGraph, supposed: Hypothesis, real: BackwardGraph) -> Iterator[str]:
    """Hooks that get something else in reality, and of which the answer does not say that they are moved."""
    mentioned = {(short_name(before), before.call) for before, _ in supposed.moved}
    before, after = ({_key(site): _outcome(site) for site in graph.sites} for graph in (predict(plain), real))
    for key, outcome in before.items():
        if key in after and after[key] != outcome and key[:2] not in mentioned:
            yield f"{key}: {outcome} becomes {after[key]}, which is not among what is moved"


def _key(site: HookSite) -> tuple[str, str | None, str]:
    return short_name(site), site.call, site.hook.kind.value


def _outcome(site: HookSite) -> Any:
    entries = [(entry.status, entry.shape, entry.dtype) for entry in (*site.grad_input, *site.grad_output)]
    return site.fires, site.times, entries


def _traced(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> BackwardGraph:
    return observe_forward(model, tuple(args), kwargs).graph


def register(notebook: Notebook, model: nn.Module, path: str, kind: HookKind) -> None:
    """Really register a hook of a kind."""
    module = dict(model.named_modules(remove_duplicate=False))[path]
    if kind.is_global:
        notebook.everywhere(NAME, kind)
    elif kind is HookKind.MODULE_BACKWARD:
        notebook.legacy(module, NAME)
    elif kind is HookKind.MODULE_FULL_BACKWARD:
        notebook.full(module, NAME)
    else:
        notebook.full_pre(module, NAME)


# Records


def graph_differences(supposed: BackwardGraph, real: BackwardGraph) -> Iterator[str]:
    """Where two graphs differ in anything that a reader of the records could see, but for ids of hooks and objects."""
    for name, describe in (
        ("nodes", _nodes),
        ("roots", _roots),
        ("calls", _calls),
        ("variables", _variables),
        ("modules", _modules),
        ("hooks", _hooks),
        ("sites", _sites),
    ):
        yield from _different(name, list(describe(supposed)), list(describe(real)))
    windows, real_windows = dict(_fx_nodes(supposed)), dict(_fx_nodes(real))
    common = [name for name in windows if name in real_windows]
    yield from _different("fx nodes", [(n, windows[n]) for n in common], [(n, real_windows[n]) for n in common])


def _different(name: str, supposed: list[Any], real: list[Any]) -> Iterator[str]:
    if len(supposed) != len(real):
        yield f"{len(supposed)} {name}, in reality {len(real)}: {supposed} against {real}"
        return
    for a, b in zip(supposed, real, strict=True):
        if a != b:
            yield f"{name}: supposed {a}\n    in reality {b}"


def _hook_names(graph: BackwardGraph, ids: Iterable[int]) -> list[str]:
    return [graph.hooks[number].function.rpartition(".")[2] for number in ids]


def _numbers(graph: BackwardGraph) -> dict[int, int]:
    """The rank of each sequence number: two runs do not count from the same start."""
    numbers = {node.sequence_nr for node in graph.nodes if node.sequence_nr is not None}
    return {number: rank for rank, number in enumerate(sorted(numbers))}


def _nodes(graph: BackwardGraph) -> Iterator[Any]:
    ranks = _numbers(graph)
    for node in graph.nodes:
        number = None if node.sequence_nr is None else ranks[node.sequence_nr]
        edges = [(edge.argument, edge.group, edge.next_node, edge.input_nr) for edge in node.edges]
        yield node.label, number, node.kind, node.grad_outputs, node.output_names, edges, _rest_of(graph, node)


def _rest_of(graph: BackwardGraph, node: Node) -> Any:
    lists = _hook_names(graph, node.hooks), _hook_names(graph, node.prehooks)
    source = None if node.kind is NodeKind.BACKWARD_HOOK else node.source
    return _leaf_name(node.variable), node.call, node.call_reason, _fx_name(node), source, node.needs_input_grad, lists


def _fx_name(node: Node) -> str | None:
    """Without getitem: those are made where a member of a result is used first, and numbered in that order."""
    return None if node.fx_node is None or node.fx_node.startswith("getitem") else node.fx_node


def _leaf_name(name: str | None) -> str | None:
    """Leaves without a name are numbered in the order of the nodes, which the hook changes."""
    return "leaf" if name is not None and name.startswith("leaf ") else name


def _roots(graph: BackwardGraph) -> Iterator[Any]:
    return iter(graph.roots)


def _calls(graph: BackwardGraph) -> Iterator[Any]:
    for call in graph.calls:
        nodes = call.input_hook_node, call.output_hook_node
        yield call.id, _nodes_of(graph, call), _members(call), nodes, call.full_hook, _hook_names(graph, call.hooks)


def _nodes_of(graph: BackwardGraph, call: ModuleCall) -> list[int]:
    start, end = call.sequence_window
    return [node.id for node in graph.nodes if node.sequence_nr is not None and start <= node.sequence_nr < end]


def _members(call: ModuleCall) -> Any:
    legacy = () if call.legacy_tensor is None else (call.legacy_tensor,)
    refs = [ref for ref in (*call.inputs, *call.outputs, *legacy) if ref.node is not None]
    return [(ref.path, ref.node, ref.slot, ref.node_name, ref.is_leaf) for ref in refs]


def _variables(graph: BackwardGraph) -> Iterator[Any]:
    named = [each for each in graph.variables if each.kind != "other leaf" or each.name.startswith("leaf ")]
    known = [(_leaf_name(each.name), each.kind, each.node, each.slot) for each in named]
    return iter(sorted(known, key=str))


def _modules(graph: BackwardGraph) -> Iterator[Any]:
    for module in graph.modules:
        yield module.path, module.full_backward_sticky, sorted(_hook_names(graph, module.hooks))


def _hooks(graph: BackwardGraph) -> Iterator[Any]:
    hooks = sorted(graph.hooks, key=lambda hook: hook.function.rpartition(".")[2])
    for hook in hooks:
        yield _hook_names(graph, [hook.id]), hook.kind, hook.observed, hook.targets, hook.target_slots


def _fx_nodes(graph: BackwardGraph) -> Iterator[Any]:
    for fx_node in graph.forward:
        start, end = fx_node.sequence_window or (0, 0)
        made = [node.id for node in graph.nodes if node.sequence_nr is not None and start <= node.sequence_nr < end]
        if fx_node.target != "operator.getitem":
            yield fx_node.name, made


def _sites(graph: BackwardGraph) -> Iterator[Any]:
    """In their order, where that says anything: not of sites that have no place."""
    ranked = [site for site in graph.sites if site.node is not None and site.fires is not False]
    others = [site for site in graph.sites if site.node is None or site.fires is False]
    for site in (*ranked, *sorted(others, key=lambda site: (short_name(site), site.call or "", repr(site.fires)))):
        yield short_name(site), site.call, site.node, site.slot, site.fires, site.times, _contents(site)


def _contents(site: HookSite) -> Any:
    return [
        (entry.index, entry.argument, entry.status, entry.shape, entry.dtype)
        for entry in (*site.grad_input, *site.grad_output)
    ]


def assert_as_in_reality(build: Build, path: str, kind: HookKind) -> Hypothesis:
    trial = attempt(build, path, kind)
    assert not trial.wrong, "\n".join(trial.wrong)
    return trial.supposed
