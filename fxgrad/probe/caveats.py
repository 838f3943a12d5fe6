"""What is not certain about a supposed hook, and what else it would change: one function for each sentence."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Hook, ModuleCall, NodeKind
from fxgrad.graph.names import name_call
from fxgrad.graph.text import escape, format_path, join_words
from fxgrad.predict import predict_nodes
from fxgrad.probe.changes import changes_looked_at, doubtful_changes
from fxgrad.probe.members import hidden_arguments, result_members, same_arguments, unreadable_members
from fxgrad.probe.supposition import Supposition
from fxgrad.probe.undecided import ONE_RESULT

_MOST_NAMES = 3


def caveats(supposed: Supposition) -> tuple[str, ...]:
    """Everything that a reader has to know beside the sites, a sentence each."""
    found = [*_late_nodes(supposed), *_untimed_hooks(supposed), *_unreadable(supposed)]
    if supposed.hook.kind.is_legacy:
        found += changes_looked_at(supposed.before, supposed.taking)
    if supposed.changed:
        for sentences in _OF_FULL_HOOKS:
            found += sentences(supposed)
        found += doubtful_changes(supposed.after, [after for _, after in supposed.calls])
    return tuple(dict.fromkeys(found))


def flag_inside(graph: BackwardGraph, hook: Hook) -> Iterator[str]:
    """Of a hook on what torch.compile returns: what its registration does to the hooks of the module inside."""
    module = graph.modules_by_path[hook.owner]
    seen = {module.path}
    while module.wraps is not None and module.wraps not in seen:
        seen.add(module.wraps)
        module = graph.modules_by_path[module.wraps]
    if module.full_backward_sticky not in (None, hook.kind.is_full):
        kind = "full" if hook.kind.is_full else "non-full"
        yield f"registering it makes {kind} ones of the backward hooks that {escape(module.path)} has: not shown here"


def _text(supposed: Supposition, call: ModuleCall) -> str:
    return escape(name_call(supposed.before, call))


def _older_results(supposed: Supposition) -> Iterator[str]:
    names = [_text(supposed, before) for before, after in supposed.calls if supposed.returned_older(before, after)]
    if names:
        yield (
            f"{join_words(names, most=_MOST_NAMES)} returned a tensor that was there before: what used it after the call is taken to have "
            "used it as the call's result, and what uses it otherwise does not pass the hook"
        )


def _same_arguments(supposed: Supposition) -> Iterator[str]:
    for before, _ in supposed.calls:
        for first, second in same_arguments(before) if _has_input_side(before) else ():
            yield (
                f"arguments {first} and {second} of {_text(supposed, before)} are one tensor, and with the hook "
                "forward gets two: code that compares them with `is` may do something else"
            )


def _hidden_arguments(supposed: Supposition) -> Iterator[str]:
    for before, _ in supposed.calls:
        for ref in hidden_arguments(before) if _has_input_side(before) else ():
            yield (
                f"{format_path(ref.path)} of {_text(supposed, before)} is a positional argument as well: what used it is "
                "taken to have used that one, and what used the other one does not pass the hook"
            )


def _has_input_side(call: ModuleCall) -> bool:
    return call.full_hook is not None and call.full_hook.input_positions is not None


def _repeated_results(supposed: Supposition) -> Iterator[str]:
    for before, after in supposed.calls:
        slots = supposed.repeated_results(before, after)
        if slots:
            positions = join_words([str(result_members(before)[slot].position) for slot in slots], most=_MOST_NAMES)
            text = _text(supposed, before)
            yield f"of the results of {text}, number {positions} is in the result more than once: {ONE_RESULT}"


def _kept_results(supposed: Supposition) -> Iterator[str]:
    """An attribute that holds the result from before the hook's node."""
    attributes = _names_of_attributes(supposed.before)
    for before, _ in supposed.calls:
        for _, ref in result_members(before):
            name = next((name for name in attributes.get((ref.node, ref.slot), ()) if _belongs_to(name, before)), None)
            if name is not None:
                text = _text(supposed, before)
                yield f"{escape(name)} keeps a result of {text}: what reads it there does not pass the hook"


def _names_of_attributes(graph: BackwardGraph) -> dict[tuple[int | None, int], list[str]]:
    """The names of the attributes that hold each tensor that is no leaf, by its place."""
    found: dict[tuple[int | None, int], list[str]] = {}
    for variable in graph.variables:
        if variable.node is not None and variable.kind != "input" and not variable.is_leaf:
            found.setdefault((variable.node, variable.slot), []).extend((variable.name, *variable.aliases))
    return found


def _belongs_to(name: str, call: ModuleCall) -> bool:
    return not call.path or name.startswith(f"{call.path}.")


def _rebuilt_results(supposed: Supposition) -> Iterator[str]:
    for before, _ in supposed.calls:
        setup = before.full_hook
        if before.result_kind == "tuple subclass" and setup is not None and setup.output_positions is not None:
            result = f"{escape(before.result_type)}(*results)"
            text = _text(supposed, before)
            yield f"a full hook makes the result of {text} anew as {result}: forward raises if that does"


def _late_nodes(supposed: Supposition) -> Iterator[str]:
    for node in supposed.late:
        label = escape(supposed.before.nodes[node].label)
        yield (
            f"{label} is the grad_fn of a view whose base was changed in place: PyTorch makes it when it looks at it, "
            "and the hook makes it look at it earlier"
        )


def _unreadable(supposed: Supposition) -> Iterator[str]:
    for call in supposed.taking:
        for ref in unreadable_members(call):
            yield (
                f"{format_path(ref.path)} of {_text(supposed, call)} is a view whose base was changed in place, and then "
                "once more: it is not known which node stands for it, or whether PyTorch raises when it looks for that"
            )


def _untimed_hooks(supposed: Supposition) -> Iterator[str]:
    for number in supposed.untimed:
        hook = supposed.before.hooks[number]
        name = escape(hook.function) or hook.kind.value
        yield f"{name} is on a tensor that a module returned: it is taken to have been registered after that"


def _unexplored(supposed: Supposition) -> Iterator[str]:
    for name in dict.fromkeys(supposed.unexplored):
        yield (
            f"with the hook, backward also comes to {escape(name)}, on which no root depends without it: what lies "
            "behind it was not recorded, so hooks there may be called, and their places in the order are not known"
        )


def _zeros(supposed: Supposition) -> Iterator[str]:
    before, after = _gradients_of_leaves(supposed.before), _gradients_of_leaves(supposed.after)
    names = [escape(name) for name, status in after.items() if status == "tensor" and before.get(name) == "none"]
    if names:
        yield f"the hook makes the gradient of {join_words(names, most=_MOST_NAMES)} a tensor of zeros, where it is None without it"


def _gradients_of_leaves(graph: BackwardGraph) -> dict[str, str]:
    """Whether each leaf that requires grad gets a gradient."""
    nodes = predict_nodes(graph)
    leaves = [variable for variable in graph.variables if variable.is_leaf and variable.requires_grad]
    return {
        leaf.name: "none" if leaf.node is None else nodes[leaf.node].grad_outputs[leaf.slot]
        for leaf in leaves
        if leaf.node is None or graph.nodes[leaf.node].kind is NodeKind.ACCUMULATE_GRAD
    }


_OF_FULL_HOOKS = (
    _older_results,
    _same_arguments,
    _hidden_arguments,
    _repeated_results,
    _kept_results,
    _rebuilt_results,
    _unexplored,
    _zeros,
)
