"""The order in which module calls began and ended, and in which hooks were registered meanwhile."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, Hook, ModuleCall


class Step(enum.Enum):
    """What happens at a moment; FORWARD is when a call has run its forward pre-hooks."""

    START = "start"
    FORWARD = "forward"
    END = "end"
    REGISTRATION = "registration"


class Moment(NamedTuple):
    """Something that happened after the nodes with a smaller sequence number than ``number`` were made."""

    step: Step
    number: int
    call: ModuleCall | None = None
    hook: Hook | None = None


def moments(graph: BackwardGraph) -> list[Moment]:
    """Everything that happened, in that order. Calls are given in the order of their start."""
    found = list(_boundaries(graph.calls))
    for call in graph.calls:
        if call.forward_start is not None and call.forward_start > call.sequence_window[0]:
            found.insert(_place_of_forward(found, call, call.forward_start), _forward(call))
    for hook in graph.hooks:
        if hook.registered_nr is not None:
            running = None if hook.registered_in is None else graph.calls_by_id[hook.registered_in]
            moment = Moment(Step.REGISTRATION, hook.registered_nr, hook=hook)
            found.insert(_place_inside(found, running, hook.registered_nr), moment)
    return found


def _boundaries(calls: Iterable[ModuleCall]) -> Iterator[Moment]:
    running: list[ModuleCall] = []
    for call in calls:
        while running and running[-1].id != call.parent:
            yield _end(running.pop())
        running.append(call)
        yield Moment(Step.START, call.sequence_window[0], call)
        if call.forward_start is None or call.forward_start <= call.sequence_window[0]:
            yield _forward(call)
    yield from map(_end, reversed(running))


def _forward(call: ModuleCall) -> Moment:
    return Moment(Step.FORWARD, max(call.sequence_window[0], call.forward_start or 0), call)


def _end(call: ModuleCall) -> Moment:
    return Moment(Step.END, call.sequence_window[1], call)


def _place_inside(found: list[Moment], call: ModuleCall | None, number: int) -> int:
    """Where something belongs that happened in the call itself, not in a call inside it, at a sequence number."""
    start = 0 if call is None else 1 + _index(found, Step.START, call)
    for index in range(start, len(found)):
        moment = found[index]
        if moment.number > number or (moment.step is Step.END and moment.call is call):
            return index
        if moment.step is Step.START and _begins_after(moment.call, call, number):
            return index
    return len(found)


def _place_of_forward(found: list[Moment], call: ModuleCall, number: int) -> int:
    """Before the calls that forward makes; those that began at the same number were made by forward, not before it."""
    start = 1 + _index(found, Step.START, call)
    for index in range(start, len(found)):
        moment = found[index]
        begins = moment.step is Step.START and moment.number == number
        if moment.number > number or begins or (moment.step is Step.END and moment.call is call):
            return index
    return len(found)


def _begins_after(call: ModuleCall | None, parent: ModuleCall | None, number: int) -> bool:
    """Whether a call that began at this number began after what happened at it: the nodes that it made show that."""
    assert call is not None
    inside = call.parent == (None if parent is None else parent.id)
    return inside and call.sequence_window[0] == number < call.sequence_window[1]


def _index(found: list[Moment], step: Step, call: ModuleCall) -> int:
    return next(index for index, moment in enumerate(found) if moment.step is step and moment.call is call)
