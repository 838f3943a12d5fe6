"""Random models under hooks of every kind, registered and removed in any order, predicted and run.

The choices are those of a ``random.Random``; where hypothesis makes it, it finds a small model that is predicted wrongly.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from backward_calls import CALLS, end_of, live_call, random_call
from comparison import Comparison, End, Reality, compare_with
from module_hooks import Notebook, backward, roots_in
from random_modules import (
    HOOKS,
    IN_PLACE,
    NESTED_RESULTS,
    PURE,
    RESULTS,
    RUN_AGAIN,
    Grammar,
    RandomModule,
    is_hookable,
)
from returning_hooks import ReturningNotebook
from same_graph import ids_in, root_places
from strange_modules import CONTAINERS, LOST, RECOMPUTED, REPLACED, TRANSFORMED, StrangeModule
from torch import nn
from torch.autograd.graph import get_gradient_edge

import fxgrad
from fxgrad.errors import FxgradError, TargetError
from fxgrad.graph import BackwardGraph, HookKind
from fxgrad.predict import find_raising_nodes
from fxgrad.rules import explain
from fxgrad.verification import Verification

MORE_HOOKS = ("node_prehook", "several_hook", "any_hook", "removed_hook", "weight_hook", "weight_after")
HOOKED = {
    "no change in place": Grammar((*PURE, *HOOKS, *MORE_HOOKS), RESULTS),
    "changes in place": Grammar((*PURE, *HOOKS, *MORE_HOOKS, *IN_PLACE), RESULTS),
    "runs again in backward": Grammar((*PURE, *HOOKS, *MORE_HOOKS, *RUN_AGAIN), RESULTS),
}
ALL_HOOKS = (*PURE, *HOOKS, *MORE_HOOKS)
STRANGE = {
    "containers": Grammar((*ALL_HOOKS, *CONTAINERS * 4), (*RESULTS, *NESTED_RESULTS * 3), calls=CALLS),
    "replaced parameters": Grammar((*ALL_HOOKS, *REPLACED * 3), RESULTS, calls=CALLS),
    "lost saved tensors": Grammar((*ALL_HOOKS, *LOST * 2), RESULTS, calls=CALLS),
    "hooks that return": Grammar(ALL_HOOKS, (*RESULTS, *NESTED_RESULTS), hooks_return=True, calls=CALLS),
    "checkpoints": Grammar((*ALL_HOOKS, *RECOMPUTED * 3), RESULTS, calls=CALLS),
    "transforms": Grammar((*ALL_HOOKS, *TRANSFORMED * 3), RESULTS, calls=CALLS),
    "everything": Grammar(
        (*ALL_HOOKS, *CONTAINERS, *REPLACED, *LOST, *IN_PLACE, *RECOMPUTED, *TRANSFORMED, "by_function"),
        (*RESULTS, *NESTED_RESULTS),
        hooks_return=True,
        calls=CALLS,
    ),
}
"""What programs of users do besides."""


class HookedModule(StrangeModule):
    """One that also registers hooks of the other kinds inside forward, and removes some."""

    def _made(self, a: torch.Tensor) -> tuple[torch.Tensor, bool]:
        made = a * 1.0
        return made, is_hookable(made)

    def _named(self, kind: str) -> str:
        return self.notebook.name(self._next_name(kind))

    def retain_grad(self, a, b):
        made, hookable = self._made(a)
        if hookable:
            self.notebook.retain(made)
        return [made]

    def node_prehook(self, a, b):
        made, hookable = self._made(a)
        if hookable:
            made.grad_fn.register_prehook(self.notebook.before_node(self._named("prehook")))
        return [made]

    def several_hook(self, a, b):
        return self._several(a, b, "all")

    def any_hook(self, a, b):
        return self._several(a, b, "any")

    def _several(self, a, b, mode):
        tensors = [a * 1.0, b * 2.0, self.weight]
        hookable = [tensor for tensor in tensors if is_hookable(tensor)]
        if hookable:
            self.notebook.on_several(hookable, self._named(mode), mode)
        return tensors[:2]

    def removed_hook(self, a, b):
        made, hookable = self._made(a)
        if hookable:
            made.register_hook(self.notebook.tensor(self._named("removed"))).remove()
            made.register_hook(self.notebook.tensor(self._named("kept")))
        return [made]

    def weight_hook(self, a, b):
        if is_hookable(self.weight):
            self.weight.register_hook(self.notebook.tensor(self._named("weight in forward")))
        return [a * self.weight]

    def weight_after(self, a, b):
        if is_hookable(self.weight):
            hook = self.notebook.leaf(self._named("accumulated in forward"))
            self.weight.register_post_accumulate_grad_hook(hook)
        return [self.weight * 1.0]


@dataclass(frozen=True)
class Made:
    """A model with its arguments, and the notebook that its hooks note in."""

    notebook: Notebook
    model: nn.Module
    args: Sequence[torch.Tensor]


def hooked_model(rng: random.Random, grammar: Grammar, notebook: Notebook) -> Made:
    """Build a model and arguments, then register hooks of all kinds in random order and remove some of them."""
    torch.manual_seed(0)
    model = HookedModule(rng, grammar, rng.randint(0, 2), notebook)
    args = [_argument(rng) for _ in range(rng.randint(1, 3))]
    handles = []
    for number in range(rng.randint(0, 8)):
        name = notebook.name(f"{number}")
        handles += [(name, handle) for handle in _one_more(rng, notebook, model, args, name)]
        if handles and rng.random() < 0.15:
            removed, handle = handles.pop(rng.randrange(len(handles)))
            handle.remove()
            notebook.forget(removed)  # nothing is left of it that could be seen
    return Made(notebook, model, args)


def _argument(rng: random.Random) -> torch.Tensor:
    made = torch.randn(3, requires_grad=rng.random() < 0.7)
    return made * 1 if rng.random() < 0.5 else made


def _one_more(
    rng: random.Random, notebook: Notebook, model: nn.Module, args: Sequence[torch.Tensor], name: str
) -> list[Any]:
    """The handle of one more hook; none where PyTorch refuses it there."""
    modules = [module for module in model.modules() if isinstance(module, RandomModule)]
    tensors = [tensor for tensor in [*args, *model.parameters()] if tensor.requires_grad]
    kind = rng.choice(list(HookKind))
    try:
        if kind.is_module:
            return [_on_module(rng, notebook, kind, rng.choice(modules), name)]
        return _on_tensors(rng, notebook, kind, tensors, name) if tensors else notebook.forget(name)
    except RuntimeError as error:
        if "Cannot use both" not in str(error):
            raise
        return notebook.forget(name)


def _on_module(rng: random.Random, notebook: Notebook, kind: HookKind, module: nn.Module, name: str) -> Any:
    if kind.is_global:
        return notebook.everywhere(name, kind)
    if kind is HookKind.MODULE_BACKWARD:
        return notebook.legacy(module, name)
    register = notebook.full if kind is HookKind.MODULE_FULL_BACKWARD else notebook.full_pre
    return register(module, name, prepend=rng.random() < 0.3)


def _on_tensors(
    rng: random.Random, notebook: Notebook, kind: HookKind, tensors: Sequence[torch.Tensor], name: str
) -> list[Any]:
    tensor = rng.choice(tensors)
    if kind is HookKind.TENSOR:
        return [tensor.register_hook(notebook.tensor(name))]
    if kind is HookKind.POST_ACCUMULATE_GRAD and tensor.is_leaf:
        return [tensor.register_post_accumulate_grad_hook(notebook.leaf(name))]
    if kind in (HookKind.NODE, HookKind.NODE_PRE):
        node = get_gradient_edge(tensor).node
        notebook.kept.append(node)
        if kind is HookKind.NODE:
            return [node.register_hook(notebook.on_node(name))]
        return [node.register_prehook(notebook.before_node(name))]
    if kind is HookKind.MULTI_GRAD:
        mode = rng.choice(["all", "any"])
        chosen = [rng.choice(tensors) for _ in range(rng.randint(1, 3))]
        return [notebook.on_several(chosen, name, mode)]
    notebook.forget(name)
    if kind is HookKind.RETAIN_GRAD and not tensor.is_leaf:
        notebook.retain(tensor)
    return []


Make = Callable[[], Made]


def by_recording(make: Make) -> tuple[fxgrad.Trace, Made, Any]:
    """Predict from the very run whose backward is compared."""
    made = make()
    with fxgrad.record(made.model) as recording:
        output = made.model(*made.args)
    return recording.trace(output), made, output


def by_tracing(make: Make) -> tuple[fxgrad.Trace, Made, Any]:
    """Predict from one run, and compare with another; what forward changed in place has another grad_fn after it."""
    traced = make()
    trace = fxgrad.trace(traced.model, tuple(traced.args))
    made = make()
    return trace, made, made.model(*made.args)


def by_capturing(make: Make) -> tuple[fxgrad.Trace, Made, Any]:
    """Predict from the graph alone, which a forward that nobody watched has left."""
    made = make()
    output = made.model(*made.args)
    return fxgrad.capture(output, made.model, node_hooks=True), made, output


def by_going_on(make: Make) -> tuple[fxgrad.Trace, Made, Any]:
    """Predict from a second run, on what a first one made, which nobody watched."""
    made = make()
    results = roots_in(made.model(*made.args))
    with fxgrad.record(made.model) as recording:
        output = made.model(*results)
    return recording.trace(output), made, output


def by_capturing_again(make: Make) -> tuple[fxgrad.Trace, Made, Any]:
    """Predict a second backward from what the first has left, which nobody watched."""
    made = make()
    output = made.model(*made.args)
    with suppress(*_FORWARD_ERRORS):  # of the hooks, or at what was changed in place
        backward(roots_in(output))
    made.notebook.forget_calls()
    return fxgrad.capture(output, made.model, node_hooks=True), made, output


WAYS = {"record": by_recording, "trace": by_tracing, "capture": by_capturing, "go on": by_going_on}
STRANGE_WAYS = {**WAYS, "capture again": by_capturing_again}
SEEN_IN_PART = ("capture", "go on", "capture again")


class Choices(random.Random):
    """The choices of another Random, kept so that they can be made `again`."""

    def __new__(cls, *given: Any) -> Choices:
        return super().__new__(cls)  # which takes one argument at most before Python 3.11

    def __init__(self, source: random.Random, made: Sequence[Any] = ()) -> None:
        super().__init__()
        self._source, self._made, self._again = source, [], list(made)

    def again(self) -> Choices:
        return Choices(self._source, self._made)

    def _next(self, choose: Callable[[], Any]) -> Any:
        value = self._again.pop(0) if self._again else choose()
        self._made.append(value)
        return value

    def random(self) -> float:
        return self._next(self._source.random)

    def getrandbits(self, k: int) -> int:
        return self._next(lambda: self._source.getrandbits(k))


class Maker:
    """Makes one random model, each time anew from the same choices; closes the notebook of the last, with its global hooks."""

    def __init__(self, source: random.Random, grammar: Grammar, notebooks: ExitStack) -> None:
        self.choices = Choices(source)
        self._grammar, self._notebooks = grammar, notebooks

    def __call__(self) -> Made:
        self._notebooks.close()
        self.choices = self.choices.again()
        notebook = ReturningNotebook(self.choices.random()) if self._grammar.hooks_return else Notebook()
        return hooked_model(self.choices, self._grammar, self._notebooks.enter_context(closing(notebook)))


def compared_model(source: random.Random, grammar: Grammar, way: str) -> Comparison | None:
    """How the predictions for a random model hold; None where PyTorch refuses the model, or nothing requires grad."""
    with ExitStack() as notebooks, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = Maker(source, grammar, notebooks)
        if not is_refused(make(), way):
            trace, made, output = STRANGE_WAYS[way](make)
            told = random_call(make.choices, grammar.calls, trace.graph)
            return _compared(told, way, trace, made, roots_in(output))
        with pytest.raises((FxgradError, *_FORWARD_ERRORS)):
            STRANGE_WAYS[way](make)
    return None


def verified_model(source: random.Random, grammar: Grammar) -> Verification | None:
    """What `fxgrad.verify` finds; None where PyTorch refuses the model, or its own code raises or is not as assumed."""
    with ExitStack() as notebooks, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = Maker(source, grammar, notebooks)
        if is_refused(make(), "trace"):
            return None
        made = make()
        told = random_call(make.choices, grammar.calls, fxgrad.trace(made.model, tuple(made.args)).graph)
        made = make()
        try:
            verification = fxgrad.verify(made.model, tuple(made.args), **told)
        except TargetError:  # a hook, or a function of the program's, raises in backward
            return None
        is_as_assumed = not isinstance(made.notebook, ReturningNotebook) or made.notebook.broken is None
        return verification if is_as_assumed else None


_FORWARD_ERRORS = (RuntimeError, TypeError, ValueError, StopIteration, ArithmeticError, LookupError, AttributeError)


def is_refused(made: Made, way: str) -> bool:
    """Whether PyTorch raises in forward, or gives nothing there for backward to start from."""
    try:
        roots = roots_in(made.model(*made.args))
        if way == "go on":
            roots = roots_in(made.model(*roots))
        root_places(roots)  # a view that was changed in place where that is forbidden has no grad_fn
    except _FORWARD_ERRORS:
        return True
    return not roots


def _compared(
    told: Mapping[str, Any], way: str, trace: fxgrad.Trace, made: Made, roots: Sequence[torch.Tensor]
) -> Comparison:
    trace.graph.lint()
    ids = ids_in(trace.graph, roots)
    notebook = made.notebook
    call = live_call(told, trace.graph, ids, roots)
    graph = call.predict(trace)
    graph.lint()
    if "after" in call.told:
        end_of(call, (), retain_graph=call.told["after"] == "retained")
    notebook.forget_calls()
    end = end_of(call, list(ids))
    paths = {module: path for path, module in made.model.named_modules()}
    reality = Reality(
        notebook.log,
        ids,
        paths,
        retained=notebook.retained(ids),
        registered=() if _has_steps(made.model, REPLACED) else notebook.names,  # nothing leads to a replaced tensor
        end=_foreseen_end(graph, end),
        cut=_first_unforeseen(graph, notebook, end, ids),
    )
    compared = compare_with(graph, _as_far_as_captured(graph, made.model, reality) if way in SEEN_IN_PART else reality)
    if isinstance(notebook, ReturningNotebook):
        _compare_answers(graph, notebook, end, compared)
    return compared


def _compare_answers(graph: BackwardGraph, notebook: ReturningNotebook, end: End, comparison: Comparison) -> None:
    """What FXG109 says of hooks that return something: "backward raises" where it does, and which hook made it raise."""
    found = [finding for finding in explain(graph) if finding.code == "FXG109" and finding.site is not None]
    refused = {finding.site.hook.function for finding in found if finding.headline.startswith("backward raises")}
    if refused and end.raised is None and (notebook.broken is None or notebook.broken[0] in refused):
        comparison.add("raises", f"FXG109 says that backward raises for what {refused} return, but it ends")
    named = {finding.site.hook.function for finding in found}
    if end.raised is not None and notebook.broken is not None and "hook" in end.raised:
        sites = {site.hook.function for site in graph.sites if site.fires is not False and site.hook.kind.replaces}
        if notebook.broken[0] in sites - named:
            comparison.add("raises", f"FXG109 does not name {notebook.broken[0]}, but: {end.raised}")


LOST_MESSAGES = ("Trying to backward through the graph a second time", "one of the variables needed for gradient")
REFUSED_BY_ALL_HOOK = "A leaf node was passed"


def _foreseen_end(graph: BackwardGraph, end: End) -> End | None:
    """How backward ended, where the records of nodes tell: an "all" hook that raises is seen in the sites."""
    return None if end.raised is not None and end.raised.startswith(REFUSED_BY_ALL_HOOK) else end


def _first_unforeseen(graph: BackwardGraph, notebook: Notebook, end: End, ids: Mapping[Any, int]) -> int | None:
    """How many calls came before something that is not foreseen: what a hook returns, or an error of the program's, as
    one in a backward that a node starts."""
    if isinstance(notebook, ReturningNotebook) and notebook.broken is not None:
        return notebook.broken[1]
    if end.raised is None or end.raised.startswith(REFUSED_BY_ALL_HOOK):
        return None
    if type(end.node).__name__ == "CopySlices":
        return len(notebook.log)  # it shows nothing of what it saved
    at = ids.get(end.node)
    starts_another = at is not None and at in {node.id for node in graph.nesting}
    is_told = end.raised.startswith(LOST_MESSAGES) or at in {node.id for node in find_raising_nodes(graph) if node}
    return len(notebook.log) if starts_another or not is_told else None


def _as_far_as_captured(graph: BackwardGraph, model: nn.Module, reality: Reality) -> Reality:
    """Without a module for each call, and without hooks that nothing leads to.

    Those are on tensors that were inside forward, and on what an argument was before it was changed in place.
    """
    found = {reality.name_of(site) for site in graph.sites}
    if not _has_steps(model, IN_PLACE):
        found |= {name for name in reality.registered if str(name).isdecimal()}
    calls = [called for called in reality.calls if called.hook in found]
    places = {(site.node, site.slot) for site in graph.sites if site.hook.kind is HookKind.RETAIN_GRAD}
    retained = [one for one in reality.retained if (one.node, one.slot) in places]
    return replace(reality, calls=calls, paths=None, registered=(), retained=retained)


def _has_steps(model: nn.Module, steps: Sequence[str]) -> bool:
    """Whether a module of the model may take one of these steps."""
    scripts = [module.script for module in model.modules() if isinstance(module, RandomModule)]
    return any(step[0] in steps for script in scripts for step in script)
