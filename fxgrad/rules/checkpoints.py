"""Hooks on what backward runs again: under torch.utils.checkpoint, and in Functions written like it: FXG115."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import Explanation, HookKind, HookSite, ModuleCall
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import format_source, name_hook_function, name_module, quote_code
from fxgrad.rules.subject import Subject

_CHECKPOINT_PY = "(torch/utils/checkpoint.py)"
_IN_ITS_PLACE = "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) in place of the Function"
_ON_LEAVES = (HookKind.TENSOR, HookKind.POST_ACCUMULATE_GRAD)


def checkpoint_runs_the_module_again(subject: Subject) -> Iterator[Explanation]:
    """FXG115: the module of a hook is called inside a checkpoint."""
    if not subject.hook.active:
        return
    call = next((call for call in subject.calls if call.checkpointed is not None), None)
    if call is not None and subject.hook.id in call.hooks:
        kinds = {"reentrant": _reentrant, "function": _in_function}
        yield kinds.get(call.checkpointed or "", _not_reentrant)(subject, call)


def _reentrant(subject: Subject, _: ModuleCall) -> Explanation:
    return Explanation(
        code="FXG115",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} is attached only when backward runs the checkpoint again",
        because=(
            f"A reentrant checkpoint runs {name_module(subject.path)} without gradients in forward: the hook finds no "
            "node. Backward runs it again, with gradients; the hook is put on the nodes of that run, and called in a "
            f"backward inside of backward. {_CHECKPOINT_PY}"
        ),
        fix="checkpoint(..., use_reentrant=False), where the hook is on the nodes of the forward",
        site=subject.sites[0],
    )


def _in_function(subject: Subject, call: ModuleCall) -> Explanation:
    at = f", called at {format_source(call.source)}," if call.source is not None else ""
    return Explanation(
        code="FXG115",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} is attached only if a Function's backward runs {name_module(subject.path)} again",
        because=(
            f"The forward of a custom Function runs {name_module(subject.path)}{at} and PyTorch records no gradients there "
            "(torch/csrc/autograd/python_function.cpp, THPFunction_apply): on what forward makes no hook is called by this "
            "backward. The code of the Function's backward starts a backward of its own, which calls the hooks of what it "
            "comes to."
        ),
        fix=f"{_IN_ITS_PLACE}, where the hook is on the nodes of the forward",
        site=subject.sites[0],
    )


def _not_reentrant(subject: Subject, call: ModuleCall) -> Explanation:
    site = next((site for site in subject.sites if site.call == call.id), subject.sites[0])
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{name_module(subject.path)} runs twice, and {name_hook_function(subject.hook)} is called for the first run",
        because=(
            f"A checkpoint runs {name_module(subject.path)} again in backward, with the hooks of its forward, until it has "
            "what it did not save. The second run puts the hook on nodes that backward never runs. "
            f"{_CHECKPOINT_PY}"
        ),
        fix="nothing, if it counts no runs of forward: do not count in forward hooks",
        site=site,
    )


def checkpoint_calls_the_leafs_hook_again(subject: Subject) -> Iterator[Explanation]:
    """FXG115: a reentrant checkpoint, or a Function like it, runs a backward of its own, with hooks on leaves."""
    nesting = subject.graph.nesting
    if not nesting or subject.hook.kind not in _ON_LEAVES or not subject.hook.active:
        return
    undecided = [site for site in subject.sites if site.fires is None or (site.fires and site.times is None)]
    if undecided:
        told = _leaf_in_checkpoint if subject.graph.nests_in_checkpoints else _leaf_in_function
        yield told(subject, undecided[0])


def _leaf_in_checkpoint(subject: Subject, site: HookSite) -> Explanation:
    runs = "runs" if len(subject.graph.nesting) == 1 else "each run"
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{name_hook_function(subject.hook)} is called once more for each reentrant checkpoint that uses its tensor",
        because=(
            f"{join_labels(subject.graph.nesting)} {runs} a backward of its own for what it recomputes. It adds into .grad of "
            f"{quote_code(subject.path)} if it uses that, and calls the hook with its part of the gradient. {_CHECKPOINT_PY}"
        ),
        fix="checkpoint(..., use_reentrant=False), with which the hook is called once, with the sum",
        site=site,
    )


def _leaf_in_function(subject: Subject, site: HookSite) -> Explanation:
    labels = join_labels(subject.graph.nesting)
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{name_hook_function(subject.hook)} may be called once more by a backward that starts inside this one",
        because=(
            f"The code of what {labels} stands for starts a backward of its own. That calls the hook with its part of the "
            f"gradient if it comes to {quote_code(subject.path)}, and the hook sees no sum. "
            "(torch/csrc/autograd/engine.cpp, Engine::execute: reentrant backward)"
        ),
        fix=f"{_IN_ITS_PLACE}, with which the hook is called once, with the sum",
        site=site,
    )
