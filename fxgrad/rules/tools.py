"""Tools that lose hooks: FXG302 (TorchScript) and FXG303 (torch.compile)."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Explanation, Module, NodeKind
from fxgrad.graph.lookup import keep_outermost, list_parent_paths
from fxgrad.graph.text import count_noun, join_words, name_hook_function, name_module, quote_code
from fxgrad.rules.subject import Subject

_SCRIPT_ERRORS = ("Modules that have backward hooks assigned can't be compiled", "is not supported on ScriptModules")


def script_modules_take_no_hooks(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG302: the model holds modules that TorchScript runs."""
    scripted = keep_outermost(module.path for module in graph.modules if module.made_by == "torch.jit")
    if scripted:
        several = len(scripted) > 1
        yield Explanation(
            code="FXG302",
            severity="info",
            headline=f"{join_words(map(name_module, scripted))} {'run' if several else 'runs'} in TorchScript, without hooks",
            because=(
                "Backward hooks that were there when it was scripted were dropped in silence; on a ScriptModule none can "
                "be registered, and a global backward hook makes every call of one raise. "
                "(torch/jit/_script.py, torch/jit/_recursive.py)"
            ),
            fix="put Tensor.register_hook on what goes in and comes out, or use the module without TorchScript",
            owner=scripted[0],
        )


def scripted_hooks_help(message: str) -> Explanation | None:
    """Explain the errors of TorchScript about backward hooks; None for any other message."""
    if not any(text in message for text in _SCRIPT_ERRORS):
        return None
    return Explanation(
        code="FXG302",
        severity="error",
        headline="TorchScript takes no backward hooks",
        because=(
            "torch.jit.trace refuses modules that have backward hooks, torch.jit.script drops them, a ScriptModule takes "
            "none, and a global one makes every call of a ScriptModule raise. "
            "(torch/jit/_trace.py, torch/jit/_script.py)"
        ),
        fix="remove the hooks before, and put Tensor.register_hook on what goes in and comes out",
    )


def compiled_module_may_pass_the_hook_by(subject: Subject) -> Iterator[Explanation]:
    """FXG303: the hook is on a module inside one that torch.compile made."""
    module = subject.module
    if module is None or not subject.hook.active or subject.hook.kind.is_global:
        return
    region = next((around for around in subject.index.compiled if _is_compiled_in(subject, module, around)), None)
    if region is not None:
        yield Explanation(
            code="FXG303",
            severity="info",
            headline=f"torch.compile calls {name_hook_function(subject.hook)} only if it was there at the first call",
            because=(
                f"{name_module(module.path)} is inside {name_module(region)}, which is compiled; for this trace it ran "
                "eagerly. A hook that is there when a region is compiled makes Dynamo break the graph around it; one that "
                "is registered after the first call is not looked for again. "
                "(torch/_dynamo/config.py, skip_nnmodule_hook_guards)"
            ),
            fix="register it before the first call, or call torch._dynamo.reset() after registering it",
            site=subject.sites[0],
        )


def _is_compiled_in(subject: Subject, module: Module, region: str) -> bool:
    wrapped = subject.graph.modules_by_path[region].wraps
    return (region if wrapped is None else wrapped) in list_parent_paths(module.path)


def compiled_regions_show_no_modules(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG303: the graph has nodes that stand for whole regions of the program."""
    regions = [node for node in graph.nodes if node.kind is NodeKind.COMPILED]
    if regions:
        yield Explanation(
            code="FXG303",
            severity="info",
            headline=f"{count_noun(len(regions), 'node')} of the graph {'are' if len(regions) > 1 else 'is'} made by torch.compile",
            because=(
                f"{join_words(quote_code(node.label) for node in regions)}: what runs inside has no node of its own, so no hook on "
                "a module or tensor in there can be on one. A module hook that was registered after the first call is "
                "not called. (torch/_dynamo/config.py, skip_nnmodule_hook_guards)"
            ),
            fix="trace the model itself (fxgrad.trace), which runs it eagerly; or register hooks before the first call",
        )
