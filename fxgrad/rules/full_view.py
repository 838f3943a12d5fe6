"""What a full hook would see of a call: torch/utils/hooks.py, BackwardHook, packs it so."""

from __future__ import annotations

from fxgrad.graph import ModuleCall, TensorRef
from fxgrad.graph.text import count_noun, escape, format_argument, format_path, format_tuple, join_words
from fxgrad.rules.subject import Subject

_TOP_LEVEL = 2
_TENSOR = ("result",)


def takes_full_hook(call: ModuleCall) -> bool:
    """Whether forward returned a Tensor or a plain tuple, on which full hooks are sure to work."""
    return call.result_type == "tuple" or any(ref.path == _TENSOR for ref in call.outputs)


def is_visible(ref: TensorRef) -> bool:
    """Whether a full hook has an entry for the tensor: a positional argument, or a result, itself."""
    return ref.path == _TENSOR or (len(ref.path) == _TOP_LEVEL and ref.path[0] in ("args", "result"))


def invisible(refs: tuple[TensorRef, ...]) -> tuple[TensorRef, ...]:
    """The tensors that carry a gradient and that a full hook has no entry for."""
    return tuple(ref for ref in refs if ref.requires_grad and not is_visible(ref))


def grad_input_names(call: ModuleCall) -> tuple[str, ...]:
    """One entry per positional argument, None where it is no tensor; all None where none of them requires grad."""
    tops = {ref.path[1] for ref in call.inputs if is_visible(ref)}
    if not any(ref.requires_grad for ref in call.inputs if is_visible(ref)):
        return ("None",) * call.n_args
    return tuple(
        format_argument(call.argument_names, ("args", at)) if at in tops else "None" for at in range(call.n_args)
    )


def grad_output_names(subject: Subject, call: ModuleCall) -> tuple[str, ...]:
    """One entry per result, None where it is known that no gradient comes back."""
    tops = {ref.path: ref for ref in call.outputs if is_visible(ref)}
    if _TENSOR in tops:
        return (_result(subject, call, tops[_TENSOR]),)
    refs = (tops.get(("result", at)) for at in range(call.n_results))
    return tuple(_result(subject, call, ref) if ref else "None" for ref in refs)


def _result(subject: Subject, call: ModuleCall, ref: TensorRef) -> str:
    return format_path(ref.path) if ref.requires_grad and _is_used_outside(subject, call, ref) else "None"


def _is_used_outside(subject: Subject, call: ModuleCall, ref: TensorRef) -> bool:
    """Whether a node that the call did not make gives the result a gradient, or backward starts from it."""
    if ref.node is None:
        return False
    if any((root.node, root.slot) == (ref.node, ref.slot) for root in subject.graph.roots):
        return True
    within = {node.id for node in subject.index.nodes_within(call.id)}
    return any(user not in within for user in subject.index.users.get((ref.node, ref.slot), ()))


def full_hook_advice(subject: Subject, call: ModuleCall) -> str:
    """What to expect from a full hook at this call."""
    if not takes_full_hook(call):
        return (
            f"put Tensor.register_hook on the tensors themselves; a full hook needs a Tensor or a tuple as result, "
            f"and this is {escape(call.result_type)}"
        )
    names = grad_input_names(call)
    return (
        f"register_full_backward_hook: grad_input would be {format_tuple(names)}, one entry per positional argument"
        f"{_all_none(names)}{_unseen(call)}; grad_output {format_tuple(grad_output_names(subject, call))}, one per result"
    )


def _all_none(names: tuple[str, ...]) -> str:
    return ", None because none of them is a tensor that requires grad" if set(names) == {"None"} else ""


def _unseen(call: ModuleCall) -> str:
    hidden = [format_argument(call.argument_names, ref.path) for ref in invisible(call.inputs)]
    verb = "is" if len(hidden) == 1 else "are"
    return f" ({join_words(hidden)}, inside a container or a keyword, {verb} invisible to it)" if hidden else ""


def given_tensors(call: ModuleCall) -> str:
    """The tensors that forward was given, counted and named."""
    names = [format_argument(call.argument_names, ref.path) for ref in call.inputs]
    return count_noun(len(names), "tensor") + (f" ({join_words(names)})" if names else "")
