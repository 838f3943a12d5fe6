"""Whether and when a hook fires: FXG104 and FXG105."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, HookKind, HookSite, ModuleCall, Node, TensorRef
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import (
    count_noun,
    end_sentence,
    escape,
    format_argument,
    format_path,
    format_ranges,
    join_words,
    name_forward,
    name_hook_function,
    name_module,
    quote_code,
)
from fxgrad.rules.downstream import nodes_behind
from fxgrad.rules.full_view import takes_full_hook
from fxgrad.rules.subject import Spot, Subject

_MOST_REASONS = 3
_MOST_NODES = 4


def hook_never_fires(subject: Subject) -> Iterator[Explanation]:
    """FXG104: backward passes the hook by, and nobody says so."""
    silent = [site for site in subject.sites if site.fires is False and site not in subject.left_out]
    if not silent or not subject.hook.active:
        return
    yield Explanation(
        code="FXG104",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} {_silence(subject, silent)}",
        because=_reasons(subject, silent),
        fix=_remedy(subject, silent[0]),
        site=silent[0],
    )


def _silence(subject: Subject, silent: Sequence[HookSite]) -> str:
    calls = [call.index for call in map(subject.call, silent) if call is not None]
    if len(silent) == len(subject.sites) or not calls:
        return "never fires"
    return f"does not fire for call{'s' if len(calls) > 1 else ''} {format_ranges(calls)} of {len(subject.calls)}"


def _reasons(subject: Subject, silent: Sequence[HookSite]) -> str:
    found: dict[str, HookSite] = {}
    for site in silent:
        found.setdefault(site.reason, site)
    if len(found) == 1:
        return end_sentence(silent[0].reason)
    shown = list(found.items())[:_MOST_REASONS]
    told = " ".join(f"{_where(subject, site)}: {end_sentence(reason)}" for reason, site in shown)
    return told if len(found) == len(shown) else f"{told} And {len(found) - len(shown)} more such calls."


def _where(subject: Subject, site: HookSite) -> str:
    call = subject.call(site)
    return f"Call {call.index}" if call else "Elsewhere"


def _remedy(subject: Subject, site: HookSite) -> str:
    if not subject.hook.kind.is_module:
        return _tensor_remedy(subject)
    call = subject.call(site)
    return _call_remedy(subject, call) if call else _no_call_remedy(subject)


def _tensor_remedy(subject: Subject) -> str:
    match subject.hook.kind:
        case HookKind.MULTI_GRAD:
            return "register it on tensors that what you call backward on depends on"
        case HookKind.NODE | HookKind.NODE_PRE:
            return "register it on a node between what you call backward on and the leaves that require grad"
        case _ if subject.path in subject.graph.variables_by_name:
            return f"let what you call backward on depend on {quote_code(subject.path)}"
        case _:
            return "register it on the tensor that the rest of forward uses, after any in-place change of it"


def _no_call_remedy(subject: Subject) -> str:
    if subject.graph.info.calls_reason is not None:
        return "trace the run itself (fxgrad.trace, fxgrad.record): from finished outputs no module call can be seen"
    if subject.module and subject.module.wraps is not None and not subject.hook.kind.is_full_pre:
        return f"register it on {quote_code(subject.module.wraps)}, the module inside, before the first call"
    if subject.calls:
        return "register the hook before forward runs: each call takes along the hooks of that moment"
    if _parameters_in_graph(subject):
        return "something uses its parameters without calling it: hook the module that does, or the parameters"
    if subject.module and not subject.module.parameters and subject.path in subject.index.containers:
        return "it only holds other modules: hook those"
    return "call the module itself, as in `module(x)`: hooks run in Module.__call__, and not for `module.forward(x)`"


def _parameters_in_graph(subject: Subject) -> bool:
    names = subject.module.parameters if subject.module else ()
    variables = (subject.graph.variables_by_name.get(name) for name in names)
    return any(variable is not None and variable.node is not None for variable in variables)


def _call_remedy(subject: Subject, call: ModuleCall) -> str:
    if not call.grad_enabled:
        return f"call {name_module(subject.path)} with gradients enabled: this call ran under no_grad or inference_mode"
    carrying = [ref for ref in call.outputs if ref.requires_grad]
    if not carrying:
        return "let one of its parameters or inputs require grad, and keep detach, integers and no_grad out of forward"
    if subject.hook.kind.is_legacy:
        return _legacy_remedy(call, carrying)
    if not takes_full_hook(call):
        return f"return a Tensor or a tuple of Tensors from {name_forward(call)}, or {_tensor_hook(carrying[0])}"
    return f"{_use_result(carrying)}, or {_tensor_hook(carrying[0])}"


def _legacy_remedy(call: ModuleCall, carrying: Sequence[TensorRef]) -> str:
    first = call.legacy_tensor
    if first is None or not first.requires_grad:
        return f"return a tensor that requires grad first, or {_tensor_hook(carrying[0])}"
    return f"{_use_result(carrying[:1])}, or use register_full_backward_hook"


def _use_result(carrying: Sequence[TensorRef]) -> str:
    return (
        f"let what you call backward on depend on this call's {join_words(format_path(ref.path) for ref in carrying)}"
    )


def _tensor_hook(ref: TensorRef) -> str:
    return f"put Tensor.register_hook on {format_path(ref.path)}"


def hook_fires_before_the_module_is_done(subject: Subject) -> Iterator[Explanation]:
    """FXG105: the hook sees a part of the module's gradients, or runs before they are there."""
    if subject.hook.kind.is_legacy:
        yield from _first(_legacy_part(subject, spot) for spot in subject.spots)
    if subject.hook.kind.is_full:
        yield from _first(_full_without_input(subject, spot) for spot in subject.spots)


def _first(found: Iterator[Explanation | None]) -> Iterator[Explanation]:
    yield from list(filter(None, found))[:1]


def _legacy_part(subject: Subject, spot: Spot) -> Explanation | None:
    if subject.graph.info.backward.inputs is not None:
        return None
    waiting = nodes_behind(subject, spot.site)
    entries = {(edge.next_node, edge.input_nr) for edge in spot.node.edges}
    missing = [ref for ref in spot.call.inputs if ref.node is not None and (ref.node, ref.slot) not in entries]
    if spot.site.fires is False or not waiting or not missing:
        return None
    return Explanation(
        code="FXG105",
        severity="info",
        headline=f"the hook fires before backward of {name_module(subject.path)} is done",
        because=_part_because(spot, waiting, [format_argument(spot.call.argument_names, ref.path) for ref in missing]),
        fix="register_full_backward_hook fires when the gradients of all positional arguments are there",
        site=spot.site,
    )


def _part_because(spot: Spot, waiting: Sequence[Node], missing: Sequence[str]) -> str:
    more = count_noun(len(waiting), "more node")
    verb = "runs" if len(waiting) == 1 else "run"
    return (
        f"It runs right after {escape(spot.node.label)}. {more} of the module {verb} later "
        f"({join_labels(waiting, most=_MOST_NODES)}), so grad_input has no entry for {join_words(missing)}."
    )


def _full_without_input(subject: Subject, spot: Spot) -> Explanation | None:
    setup = spot.call.full_hook
    if spot.site.fires is False or setup is None or setup.input_positions is not None:
        return None
    return Explanation(
        code="FXG105",
        severity="warning",
        headline=f"the hook fires when backward of {name_module(subject.path)} begins, and its grad_input is all None",
        because=(
            f"Of the positional arguments of {name_forward(spot.call)}, {setup.n_inputs} in number, none is a tensor "
            "that requires grad. So PyTorch put no node on the inputs, and calls the hook from the node on the "
            f"outputs, {escape(spot.node.label)}, with a UserWarning. (torch/utils/hooks.py, BackwardHook)"
        ),
        fix=_full_remedy(spot),
        site=spot.site,
    )


def _full_remedy(spot: Spot) -> str:
    hidden = [format_argument(spot.call.argument_names, ref.path) for ref in spot.call.inputs if ref.requires_grad]
    if hidden:
        verb = "requires" if len(hidden) == 1 else "require"
        return f"{join_words(hidden)} {verb} grad: hand it over as a positional argument of its own"
    shown = next(
        (quote_code(format_argument(spot.call.argument_names, ref.path)) for ref in spot.call.inputs), "an input"
    )
    return (
        f"if the input's gradient is what you want, {shown} must require grad; for the parameters' gradients use "
        "Tensor.register_post_accumulate_grad_hook"
    )
