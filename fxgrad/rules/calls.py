"""Which calls carry a hook: FXG110 and FXG111."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, ModuleCall
from fxgrad.graph.hook_sites import PlacedSite
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import (
    count_noun,
    format_argument,
    format_meta,
    format_ranges,
    join_words,
    name_hook_function,
    name_module,
)
from fxgrad.rules.subject import Subject

_MOST_KINDS = 4
_SEVERAL = 2


def removed_hook_still_fires(subject: Subject) -> Iterator[Explanation]:
    """FXG110: a handle was removed, but calls made before still carry the hook."""
    carrying = [placed for placed in subject.placed if placed.site.fires is not False]
    if subject.hook.active or not carrying or not subject.hook.kind.is_module:
        return
    yield Explanation(
        code="FXG110",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} was removed, and still fires",
        because=(
            "A module call copies the module's hooks when it runs; handle.remove() afterwards changes the module, "
            f"not the calls. {_carriers(carrying)}. (torch/nn/modules/module.py, Module._get_backward_hooks)"
        ),
        fix="remove the handle before forward runs, or let the hook return at once when a flag of yours is off",
        site=carrying[0].site,
    )


def _carriers(carrying: Sequence[PlacedSite]) -> str:
    calls = [placed.call.index for placed in carrying if placed.call is not None]
    who = f"call{'s' if len(calls) > 1 else ''} {format_ranges(calls)}" if calls else "this graph"
    verb = "carry" if len(calls) > 1 else "carries"
    return f"{who.capitalize()} still {verb} it, on {join_labels([placed.node for placed in carrying])}"


def module_is_called_several_times(subject: Subject) -> Iterator[Explanation]:
    """FXG111: the module has several calls, and the hook runs for each of them."""
    order = {spot.call.id: (spot.site.order, spot) for spot in subject.spots if spot.site.order is not None}
    spots = [spot for _, spot in sorted(order.values(), key=lambda ranked: ranked[0])]
    if not subject.hook.kind.is_module or len(spots) < _SEVERAL:
        return
    calls = [spot.call for spot in spots]
    yield Explanation(
        code="FXG111",
        severity="info",
        headline=f"{name_module(subject.path)} is called {len(subject.calls)} times: which call is this?",
        because=(
            f"The hook fires for {count_noun(len(calls), 'call')}, and is not told which it is. Backward comes to them in "
            f"this order: calls {format_ranges([call.index for call in calls])}. {_given(calls)}"
        ),
        fix=(
            "count the hook's runs in that order; or register in a forward hook, "
            "output.register_hook(functools.partial(hook, number)), which knows its call"
        ),
        site=spots[0].site,
    )


def _given(calls: Sequence[ModuleCall]) -> str:
    """What the calls were given, those that were given alike together."""
    found: dict[str, list[int]] = {}
    for call in calls:
        found.setdefault(_inputs(call), []).append(call.index)
    if len(found) == 1:
        return f"Each was given {_inputs(calls[0])}."
    told = [f"{_calls(indices)} given {inputs}" for inputs, indices in list(found.items())[:_MOST_KINDS]]
    more = ["other calls other tensors"] if len(found) > len(told) else []
    text = "; ".join([*told, *more])
    return f"{text[0].upper()}{text[1:]}."


def _calls(indices: Sequence[int]) -> str:
    return f"call {indices[0]} was" if len(indices) == 1 else f"calls {format_ranges(indices)} were"


def _inputs(call: ModuleCall) -> str:
    return (
        join_words(f"{format_argument(call.argument_names, ref.path)} {format_meta(ref.meta)}" for ref in call.inputs)
        or "no tensor"
    )
