"""Hooks under torch.utils.checkpoint: FXG115."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import Explanation, HookKind, ModuleCall
from fxgrad.rules.phrases import code, function_name, module_name, node_labels
from fxgrad.rules.subject import Subject

_CHECKPOINT_PY = "(torch/utils/checkpoint.py)"
_ON_LEAVES = (HookKind.TENSOR, HookKind.POST_ACCUMULATE_GRAD)


def checkpoint_runs_the_module_again(subject: Subject) -> Iterator[Explanation]:
    """FXG115: the module of a hook is called inside a checkpoint."""
    if not subject.hook.active:
        return
    call = next((call for call in subject.calls if call.checkpointed is not None), None)
    if call is not None and subject.hook.id in call.hooks:
        yield _reentrant(subject) if call.checkpointed == "reentrant" else _not_reentrant(subject, call)


def _reentrant(subject: Subject) -> Explanation:
    return Explanation(
        code="FXG115",
        severity="warning",
        headline=f"{function_name(subject.hook)} is attached only when backward runs the checkpoint again",
        because=(
            f"A reentrant checkpoint runs {module_name(subject.path)} without gradients in forward: the hook finds no "
            "node. Backward runs it again, with gradients; the hook is put on the nodes of that run, and called in a "
            f"backward inside of backward. {_CHECKPOINT_PY}"
        ),
        fix="checkpoint(..., use_reentrant=False), where the hook is on the nodes of the forward",
        site=subject.sites[0],
    )


def _not_reentrant(subject: Subject, call: ModuleCall) -> Explanation:
    site = next((site for site in subject.sites if site.call == call.id), subject.sites[0])
    return Explanation(
        code="FXG115",
        severity="info",
        headline=f"{module_name(subject.path)} runs twice, and {function_name(subject.hook)} is called for the first run",
        because=(
            f"A checkpoint runs {module_name(subject.path)} again in backward, with the hooks of its forward, until it has "
            "what it did not save. The second run puts the hook on nodes that backward never runs. "
            f"{_CHECKPOINT_PY}"
        ),
        fix="nothing, if it counts no runs of forward: do not count in forward hooks",
        site=site,
    )


def checkpoint_calls_the_leafs_hook_again(subject: Subject) -> Iterator[Explanation]:
    """FXG115: a reentrant checkpoint runs a backward of its own, with hooks on leaves."""
    checkpoints = subject.index.checkpoints
    if not checkpoints or subject.hook.kind not in _ON_LEAVES or not subject.hook.active:
        return
    undecided = [site for site in subject.sites if site.fires is None or (site.fires and site.times is None)]
    if undecided:
        yield Explanation(
            code="FXG115",
            severity="info",
            headline=f"{function_name(subject.hook)} is called once more for each reentrant checkpoint that uses its tensor",
            because=(
                f"{node_labels(checkpoints)} runs a backward of its own for what it recomputes. It adds into .grad of "
                f"{code(subject.path)} if it uses that, and calls the hook with its part of the gradient. {_CHECKPOINT_PY}"
            ),
            fix="checkpoint(..., use_reentrant=False), with which the hook is called once, with the sum",
            site=undecided[0],
        )
