"""What the text and the report say, one function per sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fxgrad.graph import BackwardGraph, Gradient, GraphInfo, Hook, HookSite, ModuleCall, Node, Path, Source
from fxgrad.graph.backward_graph import HookSites, find_result
from fxgrad.graph.hook_kinds import HookArguments, HookMoment, HookOwner
from fxgrad.graph.names import describe_grad_inputs, describe_grad_outputs, join_labels
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_backward_call,
    format_entry,
    format_meta,
    format_path,
    format_ranges,
    format_script,
    format_shape,
    format_source,
    join_words,
    name_forward,
    name_registering_function,
    pluralize,
    quote_code,
)

_USUAL_DTYPE = "float32"
_ALL = "all"
_MOST_FOLDERS = 3


# How the graph was made


def describe_roots(info: GraphInfo) -> str:
    """Which rule found what backward starts from."""
    return f"roots: {info.root_rule}"


def describe_call_of_backward(info: GraphInfo) -> str:
    """For which call of backward all is said; "" for a plain first one."""
    call = format_backward_call(info.backward)
    return f"predicted for {call}" if call else ""


def describe_trace(info: GraphInfo) -> str:
    """With which versions, and for which device."""
    return f"traced with fxgrad {info.fxgrad}, torch {info.torch} and Python {info.python}, on {info.device}"


def describe_emulation(info: GraphInfo) -> str:
    """What emulated means; "" for a trace on a real device."""
    if not info.emulated:
        return ""
    return (
        f"no {info.device} device here: traced on an emulated accelerator (the kernels of an accelerator, without data)"
    )


def describe_promise() -> str:
    """Under which condition all that is said holds."""
    return (
        "What this report says about None, shapes, order and firing is right if every hook returns None and none "
        "starts a nested backward. What depends on values is reported as unknown, with the reason."
    )


# Hooks


def format_registration(hook: Hook) -> str:
    """The registering function with the user's: ``register_backward_hook(show)``."""
    removed = "" if hook.active else ", handle removed"
    return f"{name_registering_function(hook.kind)}({shorten_function(hook)}){removed}"


def shorten_function(hook: Hook) -> str:
    """The user's function without the functions that it is defined in."""
    return escape(hook.function.rpartition("<locals>.")[2])


def locate_hook(hook: Hook) -> str:
    """Where the hook was registered, else where its function is defined."""
    if hook.registered is not None:
        return f"registered at {format_source(hook.registered)}"
    return f"defined at {format_source(hook.source)}" if hook.source is not None else ""


def describe_owner(subject: HookSites) -> Iterator[str]:
    """What the hook is on: path, description and number of calls of a module; name and shape of a tensor."""
    graph, hook = subject.graph, subject.hook
    if hook.kind.is_module:
        yield escape(subject.path) or "the model"
        yield describe_module(subject)
        yield count_noun(len(subject.calls), "call") if graph.info.calls_reason is None else ""
    elif hook.kind.on_several_tensors:
        yield join_words(map(escape, hook.targets)) or "no tensors"
    elif (result := find_result(graph, hook)) is not None:
        yield describe_result(*result)
        yield escape(hook.owner)
    else:
        yield escape(hook.owner) or "a tensor"
        variable = graph.variables_by_name.get(hook.owner)
        yield f"{variable.kind} {format_meta(variable.meta)}" if variable else ""


def describe_result(call: ModuleCall, path: Path) -> str:
    """A tensor as what a module returned: ``result[1] of lstm, call 2``."""
    which = "" if call.index == 1 else f", call {call.index}"
    return f"{format_path(path)} of {escape(call.path) or 'the model'}{which}"


def describe_module(subject: HookSites) -> str:
    """What repr shows of the module, else its type."""
    module = subject.module
    if module is not None:
        return escape(module.description or module.type_name)
    return escape(subject.calls[0].type_name) if subject.calls else ""


# Sites


def name_calls(subject: HookSites, sites: Sequence[HookSite]) -> str:
    """Which calls the sites belong to: ``calls 2 and 1 of 3``; "" where there is one or none."""
    indices = [call.index for call in map(subject.call, sites) if call is not None]
    if not indices or len(subject.calls) == 1:
        return ""
    return f"{'call' if len(indices) == 1 else 'calls'} {format_ranges(indices)} of {len(subject.calls)}"


def name_nodes(graph: BackwardGraph, sites: Sequence[HookSite]) -> str:
    """The nodes that the sites are on."""
    nodes = [graph.nodes[site.node] for site in sites if site.node is not None]
    return f"→  {join_labels(nodes)}" if nodes else "on no node of the graph"


def describe_hidden(subjects: Sequence[HookSites]) -> str:
    """How many hooks of PyTorch's own are left out, and where they are written; "" for none."""
    hooks = {subject.hook.id: subject.hook for subject in subjects}.values()
    if not hooks:
        return ""
    files = [hook.source.file.replace("\\", "/") for hook in hooks if hook.source is not None]
    folders = join_words(sorted({f"{escape(file.rpartition('/')[0])}/…" for file in files}), most=_MOST_FOLDERS)
    number, are = count_noun(len(hooks), "hook"), pluralize(len(hooks), "is", plural="are")
    return (
        f"{number} of PyTorch itself{f' ({folders})' if files else ''} {are} not shown: all_hooks=True, or --all-hooks, shows "
        "them"
    )


def describe_firing(site: HookSite, call: ModuleCall | None) -> str:
    """Whether the hook fires there, how often and when."""
    if site.fires is None:
        compiled = call is not None and call.find_compiled_before(site.hook) is not None
        return f"only {'the compiled code' if compiled else 'backward'} decides whether it fires"
    if not site.fires:
        return "never fires"
    if site.hook.is_called_by_fsdp:
        return f"fires{_format_times(site.times)}, when FSDP has reduced the gradient"
    place = "" if site.order is None else f", number {site.order + 1} in the firing order{qualify_place((site,))}"
    return f"fires{_format_times(site.times)}{place}"


def qualify_order(site: HookSite) -> str:
    """How certain a site's place in the firing order is; "" where it is certain."""
    if site.fires is None:
        return ", if at all"
    latest = qualify_place((site,))
    return f",{latest}" if latest else ""


def qualify_place(sites: Iterable[HookSite]) -> str:
    """What to add to places in the firing order if a nested backward, or FSDP, may call the hook earlier; "" if none may."""
    return " at the latest" if any(site.fires and (site.times is None or site.node is None) for site in sites) else ""


def _format_times(times: int | None) -> str:
    if times is None:
        return ", only backward decides how often"
    return "" if times == 1 else f" {times} times"


def locate_node(node: Node) -> str:
    """The user's line that made the node, and the operator of TorchScript; "" where that is not known."""
    line = f"made at {_format_line(node.source)}" if node.source else ""
    operator = f"by TorchScript, {format_script(node.script)}" if node.script else ""
    return ", ".join(filter(None, [line, operator]))


def locate_call(call: ModuleCall) -> str:
    """The line that calls the module, directly or through a container; "" where that is not known."""
    return f"called at {_format_line(call.source)}" if call.source else ""


def _format_line(source: Source) -> str:
    text = f": {quote_code(source.code)}" if source.code else ""
    return f"{format_source(source)}{text}"


def describe_argument(hook: Hook) -> str:
    """What a hook gets that is no tuple of gradients; "" for those that get one."""
    match hook.kind.arguments:
        case HookArguments.LEAF if hook.is_called_by_fsdp:
            return f"receives {quote_code(hook.owner)} itself, with the shard of the gradient in .grad"
        case HookArguments.LEAF:
            return (
                f"receives {quote_code(hook.owner) if hook.owner else 'its tensor'} itself, once AccumulateGrad has run"
            )
        case HookArguments.GRADIENT if hook.kind.moment is HookMoment.RETAIN_GRAD:
            return f"stores the gradient in {quote_code(hook.owner)}.grad"
        case HookArguments.GRADIENTS if hook.mode == _ALL:
            return f"receives a list with the gradients of its {count_noun(len(hook.targets), 'tensor')}"
        case HookArguments.GRADIENTS:
            return f"receives the first gradient that arrives, of its {count_noun(len(hook.targets), 'tensor')}"
        case _:
            return ""


def describe_unknown_entries(site: HookSite) -> str:
    """Which tuples of gradients have an unknown number of entries; "" if none has."""
    sides = (("grad_input", site.grad_input), ("grad_output", site.grad_output))
    unknown = [name for name, gradients in sides if gradients is None]
    have = pluralize(len(unknown), "has", plural="have")
    return f"only backward decides how many entries {join_words(unknown)} {have}" if unknown else ""


def describe_grad_output(site: HookSite, node: Node | None, call: ModuleCall | None) -> str:
    """How many entries grad_output has, and what there is one for."""
    number = f"grad_output   {count_entries(len(site.grad_output or ()))}"
    kind = site.hook.kind
    if (kind.is_full or kind.is_full_pre) and call is not None:
        return f"{number}: one per result of {name_forward(call)}"
    if kind.is_module or kind.owner is HookOwner.NODE:
        return f"{number}: one per {describe_grad_outputs(node)}" if node else number
    return describe_argument(site.hook)


def describe_grad_input(site: HookSite, node: Node | None, call: ModuleCall | None) -> str:
    """How many entries grad_input has, what there is one for, and what one might have expected."""
    number = f"grad_input   {count_entries(len(site.grad_input or ()))}"
    if site.hook.kind.is_full and call is not None:
        return f"{number}: one per positional argument of {name_forward(call)}"
    if node is None:
        return number
    return f"{number}: one per {describe_grad_inputs(node)}{_contrast_with_inputs(site, call)}"


def _contrast_with_inputs(site: HookSite, call: ModuleCall | None) -> str:
    if call is None or not site.hook.kind.is_legacy or len(call.inputs) == len(site.grad_input or ()):
        return ""
    return f", not the {count_noun(len(call.inputs), 'tensor')} passed to {name_forward(call)}"


def count_entries(number: int) -> str:
    """A number of entries."""
    return count_noun(number, "entry", plural="entries")


# Entries


def describe_gradients(site: HookSite) -> str:
    """What the hook gets there, as shapes: ``grad_input ((10, 20), None), grad_output ((8, 20))``."""
    if site.fires is False:
        return "nothing: it does not fire"
    sides = (("grad_input", site.grad_input), ("grad_output", site.grad_output))
    shown = [f"{name} ({', '.join(map(format_gradient, gradients))})" for name, gradients in sides if gradients]
    return ", ".join(shown) or "a call"


def format_gradient(gradient: Gradient) -> str:
    """What the entry is: a shape with its dtype where that is unusual, ``None``, or ``unknown``."""
    value = format_entry(gradient)
    if gradient.status == "unknown" and gradient.shape is not None:
        return f"unknown, {format_shape(gradient.shape)} if a tensor"
    unusual = gradient.status == "tensor" and gradient.dtype not in (None, _USUAL_DTYPE)
    return f"{value} {escape(gradient.dtype or '')}" if unusual else value


def explain_gradient(gradient: Gradient) -> str:
    """What the entry stands for, and why it is None or unknown."""
    return ": ".join(part for part in (gradient.expression, gradient.reason) if part)
