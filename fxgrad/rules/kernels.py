"""Which kernel runs decides the node that a non-full hook sits on: FXG102."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import Explanation, Landing, Node, OtherDevice
from fxgrad.graph.hook_sites import PlacedSite
from fxgrad.graph.names import name_node_function
from fxgrad.graph.text import end_sentence, escape, escape_unprintable, name_module
from fxgrad.rules.backends import backend_of
from fxgrad.rules.subject import Spot, Subject

_ADVICE = "register_full_backward_hook, whose entries are the module's own on every device"


def kernel_decides_the_node(subject: Subject) -> Iterator[Explanation]:
    """FXG102: another device, or another kernel, gives another node."""
    if not subject.hook.kind.is_legacy:
        return
    known = _landings(subject)
    if known:
        yield from (_compared(subject, spot, landing) for spot, landing in known[:1])
    elif known is None:
        yield from _supposed(subject)


def _landings(subject: Subject) -> list[tuple[Spot, Landing]] | None:
    """The spots that differ from where the other device has the hook; None where nothing is known of any."""
    other = subject.graph.info.other_device
    by_call = {landing.call: landing for landing in other.landings} if other else {}
    pairs = [(spot, by_call[spot.call.id]) for spot in subject.spots if spot.call.id in by_call]
    return [(spot, landing) for spot, landing in pairs if _brief(spot) != landing] if pairs else None


def _brief(spot: Spot) -> Landing:
    return Landing(spot.call.id, spot.node.name, len(spot.node.edges), len(spot.node.grad_outputs))


def _compared(subject: Subject, spot: Spot, landing: Landing) -> Explanation:
    other = subject.graph.info.other_device
    assert other is not None
    return Explanation(
        code="FXG102",
        severity="info",
        headline=f"on {_device(other)} this hook sits on another node, {escape(landing.node)}",
        because=" ".join([*_here(subject, spot.node), _there(subject, other, spot, landing)]),
        fix=_ADVICE,
        site=spot.site,
    )


def _supposed(subject: Subject) -> Iterator[Explanation]:
    """Without a comparison: the function's name tells that it is one backend's own, or the device was emulated."""
    found = next((placed for placed in subject.placed if _depends_on_the_kernel(subject, placed)), None)
    if found:
        yield Explanation(
            code="FXG102",
            severity="info",
            headline="on another device this hook may sit on another node",
            because=" ".join([*_here(subject, found.node), *_elsewhere(subject, found.node)]),
            fix=_ADVICE,
            site=found.site,
        )


def _depends_on_the_kernel(subject: Subject, placed: PlacedSite) -> bool:
    return backend_of(placed.node) is not None or (subject.graph.info.emulated and placed.node.schema is not None)


def _here(subject: Subject, node: Node) -> Iterator[str]:
    info, backend = subject.graph.info, backend_of(node)
    emulated = ", which was emulated here" if info.emulated else ""
    yield f"On {escape(info.device)}{emulated}, {name_module(subject.path)} ran through {name_node_function(node)},"
    yield f"and the hook sits on that function's node, {escape(node.label)}."
    if backend:
        yield f"That function belongs to {backend}."


def _there(subject: Subject, other: OtherDevice, spot: Spot, landing: Landing) -> str:
    which = f" at call {spot.call.index}" if len(subject.placed) > 1 else ""
    node, number = spot.node, landing.grad_input
    return (
        f"On {_device(other)}, where the same program ran as well, it sits on {escape(landing.node)}{which}, and "
        f"receives {number} grad_input and {landing.grad_output} grad_output, "
        f"not {len(node.edges)} and {len(node.grad_outputs)}."
    )


def _elsewhere(subject: Subject, node: Node) -> Iterator[str]:
    other = subject.graph.info.other_device
    if other is not None and other.failure is not None:
        yield f"Where it sits on {_device(other)} could not be seen: {end_sentence(escape_unprintable(other.failure))}"
    elif backend_of(node):
        yield "Elsewhere other functions do its work, with other nodes."
    else:
        yield "PyTorch may take another function, and so another node, for another device."


def _device(other: OtherDevice) -> str:
    return "the CPU" if other.device == "cpu" else escape(other.device)
