"""Holds the answer of a probe against really registering the hook: its graph, and what backward gives every hook."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from comparison import Reality, compare_with
from module_hooks import Notebook, backward, roots_in, short_name
from msgspec import structs
from same_graph import ids_in
from torch import nn
from torch.nn.modules import module as module_hooks

from fxgrad.errors import FxgradError, TargetError
from fxgrad.graph import BackwardGraph, HookKind, HookSite
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.observe.probing import observe_with_hook
from fxgrad.observe.run import observe_forward
from fxgrad.predict import predict
from fxgrad.predict.moved import find_moved_sites, find_zero_gradients

Built = tuple[nn.Module, Sequence[Any], dict[str, Any]]
Build = Callable[[Notebook], Built]
"""Makes the same model and arguments each time; hooks that are there already are registered through the notebook."""

LOCAL = (HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD, HookKind.MODULE_FULL_BACKWARD_PRE)
GLOBAL = (HookKind.GLOBAL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD_PRE)
NAME = "hook"
NOT_TWICE = "a forward that can run twice, without the hook and with it"
"""What a TargetError allows where forward leaves behind what cannot be put back."""


@dataclass
class Trial:
    """What a probe answers, and how that differs from what registering the hook does.

    ``run``    None where forward cannot be run twice
    ``error``  what registering the hook, or forward after that, raises in a model that is made anew
    ``wrong``  the differences
    """

    run: ProbeRun | None = None
    error: str | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def sorts(self) -> Counter[str]:
        """What sort of trial it is, for counts."""
        run = self.run
        if run is None:
            return Counter(["not twice"])
        moved = () if run.after is None else find_moved_sites(predict(run.before), predict(run.after), run.hook)
        return Counter(["trials", *["refused"] * (run.after is None), *["moved"] * bool(moved)])


def try_hook(build: Build, path: str, kind: HookKind, *, others: bool = False) -> Trial:
    """Probe a model; then register the hook on others that are made anew, and trace one and run another.

    ``others`` says that the model has hooks which note nothing.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = Trial()
        with _built(build) as (_, (model, args, kwargs)):
            trial.run, trial.wrong = _probe(model, tuple(args), kwargs, path, kind)
        if trial.run is None:
            return trial
        with _built(build) as (notebook, built):
            trial.error, real = _trace_with_hook(notebook, built, path, kind)
        if (trial.run.refused is None) != (trial.error is None):
            trial.wrong.append(f"refused: {trial.run.refused}; in reality {trial.error}")
        elif real is not None and trial.run.after is not None:
            trial.wrong += _differences(trial.run, real)
            trial.wrong += _differences_in_backward(trial.run, build, path, kind, others=others)
        return trial


def _probe(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str, kind: HookKind
) -> tuple[ProbeRun | None, list[str]]:
    before = hook_state(model)
    try:
        run = observe_with_hook(model, args, kwargs, module=path, kind=kind)
    except TargetError as error:
        if error.allowed != NOT_TWICE:
            raise
        return None, []
    wrong = [] if hook_state(model) == before else [f"hooks: {before} became {hook_state(model)}"]
    # TorchScript optimizes what it has run before, so a scripted module's nodes change from run to run
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    again = None if run.after is None or scripted else observe_forward(model, args, kwargs).graph
    if again is not None and text_of(_without_notes(run.before)) != text_of(_without_notes(again)):
        wrong.append("a trace after the probe is another one than before it")
    return run, wrong


def _without_notes(graph: BackwardGraph) -> BackwardGraph:
    """Without what was warned of while forward ran: some of it is warned of once in a process."""
    return structs.replace(graph, info=structs.replace(graph.info, notes=()))


def hook_state(model: nn.Module) -> Any:
    """Everything that registering a module hook changes: tables by identity and content, and flags."""
    tables = {name: table for name, table in vars(module_hooks).items() if isinstance(table, dict)}
    found = [(name, id(table), list(table.items())) for name, table in tables.items() if name.startswith("_global_")]
    for path, module in model.named_modules():
        own = vars(module)
        flag = own.get("_is_full_backward_hook", "missing")
        for name in ("_backward_hooks", "_backward_pre_hooks"):
            found.append((f"{path} {name}", id(own.get(name)), list((own.get(name) or {}).items())))
        found.append((path, 0, [("flag", flag)]))
    return found, module_hooks._global_is_full_backward_hook


def text_of(graph: BackwardGraph) -> str:
    """The whole graph as text. A jagged tensor has another name for its size each time that it is made."""
    return re.sub(r"\bj\d+\b", "jagged", str(graph))


@contextmanager
def _built(build: Build) -> Iterator[tuple[Notebook, Built]]:
    notebook = Notebook()
    torch.manual_seed(0)
    try:
        yield notebook, build(notebook)
    finally:
        notebook.close()


def _trace_with_hook(
    notebook: Notebook, built: Built, path: str, kind: HookKind
) -> tuple[str | None, BackwardGraph | None]:
    """The graph with the hook, or the error that PyTorch raises."""
    model, args, kwargs = built
    try:
        register(notebook, model, path, kind)
        return None, observe_forward(model, tuple(args), kwargs).graph
    except (FxgradError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", None


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


# The graph


def _differences(run: ProbeRun, real: BackwardGraph) -> Iterator[str]:
    """Where the graph with the hook is not that of a model on which it is registered, or a moved hook is not named."""
    assert run.after is not None
    hooks = tuple(
        [structs.replace(hook, **_told_by_probe(run)) if hook.function == NAME else hook for hook in real.hooks]
    )
    before, after, real = predict(run.before), predict(run.after), predict(structs.replace(real, hooks=hooks))
    ours, theirs = text_of(after).splitlines(), text_of(real).splitlines()
    if ours != theirs:
        pairs = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
        yield f"graph: {pairs[0] if pairs else (len(ours), len(theirs))}"
    named = {(short_name(site), site.call) for site, _ in find_moved_sites(before, after, run.hook)}
    outcomes, real_outcomes = ({_key(site): _outcome(site) for site in graph.sites} for graph in (before, real))
    for key, outcome in outcomes.items():
        if key in real_outcomes and real_outcomes[key] != outcome and key[:2] not in named:
            yield f"{key}: {outcome} becomes {real_outcomes[key]}, which is not among what is moved"


def _told_by_probe(run: ProbeRun) -> dict[str, Any]:
    """What a probe's own function is, and the notebook's is not."""
    hook = run.hook
    return {"source": hook.source, "may_return": hook.may_return, "grad_reads": hook.grad_reads, "holds": hook.holds}


def _key(site: HookSite) -> tuple[str, str | None, str]:
    return short_name(site), site.call, site.hook.kind.value


def _outcome(site: HookSite) -> Any:
    entries = [
        None if side is None else [(entry.status, entry.dtype, text_of_shape(entry.shape)) for entry in side]
        for side in (site.grad_input, site.grad_output)
    ]
    return site.fires, site.times, entries


def text_of_shape(shape: Any) -> str:
    return re.sub(r"'j\d+'", "jagged", repr(shape))


# Backward


def _differences_in_backward(run: ProbeRun, build: Build, path: str, kind: HookKind, *, others: bool) -> list[str]:
    assert run.after is not None
    after = predict(run.after)
    with _built(build) as (notebook, (model, args, kwargs)):
        register(notebook, model, path, kind)
        output = model(*args, **kwargs)
        notebook.clear()
        ids = ids_in(after, roots_in(output))
        error = _backward_error(output)
        reality = Reality(list(notebook.log), ids, registered=[NAME] if others else (), others=others)
        gradients = _gradients(model)
    with _built(build) as (_, (model, args, kwargs)):
        without = _backward_error(model(*args, **kwargs))
        before = _gradients(model)
    if error is not None:
        return [] if without is not None else ["backward raises with the hook alone"]
    zeros = {name for name, has_one in gradients.items() if has_one and not before[name]}
    told = before.keys() & {*find_zero_gradients(run.before, run.after)}
    wrong = compare_with(after, reality).wrong
    return wrong if told == zeros else [*wrong, f"zeros: {told}, in reality {zeros}"]


def _gradients(model: nn.Module) -> dict[str, bool]:
    """Which parameters have a gradient."""
    return {name: parameter.grad is not None for name, parameter in model.named_parameters()}


def _backward_error(output: Any) -> str | None:
    """What backward raises, for example where an in-place operation changed what was saved for it."""
    try:
        backward(output)
    except RuntimeError as error:
        return str(error)
    return None


def assert_as_in_reality(build: Build, path: str, kind: HookKind, *, others: bool = False) -> Trial:
    """Fails with what the probe was wrong about. ``others`` as for `try_hook`."""
    trial = try_hook(build, path, kind, others=others)
    assert not trial.wrong, f"{kind.value} at {path!r}:\n" + "\n".join(trial.wrong)
    return trial
