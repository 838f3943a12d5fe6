"""Which calls carry a hook: FXG110 and FXG111."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, HookSite, ModuleCall
from fxgrad.graph.notation import escaped
from fxgrad.rules.phrases import counted, function_name, input_name, listed, meta_text, module_name, ranges
from fxgrad.rules.subject import Spot, Subject

_MOST_CALLS = 4


def removed_hook_still_fires(subject: Subject) -> Iterator[Explanation]:
    """FXG110: a handle was removed, but calls made before still carry the hook."""
    carrying = [placed for placed in subject.placed if placed.site.fires is not False]
    if subject.hook.active or not carrying:
        return
    site, node, _ = carrying[0]
    yield Explanation(
        code="FXG110",
        severity="warning",
        headline=f"{function_name(subject.hook)} was removed, and still fires",
        because=(
            "A module call copies the module's hooks when it runs; handle.remove() afterwards changes the module, "
            f"not the calls. {_carriers([placed.site for placed in carrying], subject)}, the first on "
            f"{escaped(node.label)}. (torch/nn/modules/module.py, Module._get_backward_hooks)"
        ),
        fix="remove the handle before forward runs, or let the hook return at once when a flag of yours is off",
        site=site,
    )


def _carriers(sites: Sequence[HookSite], subject: Subject) -> str:
    calls = [call for call in map(subject.call, sites) if call is not None]
    number = ranges([call.index for call in calls])
    if not calls:
        return f"{counted(len(sites), 'place').capitalize()} in this graph still carry it"
    return f"Call {number} still carries it" if len(calls) == 1 else f"Calls {number} still carry it"


def module_is_called_several_times(subject: Subject) -> Iterator[Explanation]:
    """FXG111: the module has several calls, and the hook runs for each of them."""
    spots = sorted((spot for spot in subject.spots if spot.site.fires is not False), key=_order)
    if not subject.hook.kind.is_module or len({spot.call.id for spot in spots}) < len("ab"):
        return
    calls = [spot.call for spot in spots]
    yield Explanation(
        code="FXG111",
        severity="info",
        headline=f"{module_name(subject.path)} is called {len(subject.calls)} times: which call is this?",
        because=(
            f"The hook fires for {counted(len(calls), 'call')}, and is not told which it is. Backward comes to them in "
            f"this order: calls {ranges([call.index for call in calls])}. {_given(calls)}"
        ),
        fix=(
            "count the hook's runs in that order; or register in a forward hook, "
            "output.register_hook(functools.partial(hook, number)), which knows its call"
        ),
        site=spots[0].site,
    )


def _order(spot: Spot) -> int:
    return spot.site.order or 0


def _given(calls: Sequence[ModuleCall]) -> str:
    inputs = [_inputs(call) for call in calls]
    if len(set(inputs)) == 1:
        return f"Each was given {inputs[0]}."
    told = [f"call {call.index} was given {given}" for call, given in zip(calls, inputs, strict=True)]
    return f"{listed(told, most=_MOST_CALLS)}.".capitalize()


def _inputs(call: ModuleCall) -> str:
    return listed(f"{input_name(call, ref)} {meta_text(ref.meta)}" for ref in call.inputs) or "no tensor"
