"""What is known of a program's variables at one place of its code, and the ways in which a path through it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fxgrad.observe.backward_code.values import (
    ANYTHING,
    OTHER,
    Bound,
    Context,
    Items,
    Keywords,
    Local,
    Value,
    join,
)


class GivenUp(Exception):  # no error: the code says nothing
    """Nothing can be said of the code."""


class Unreachable(Exception):  # no error: a path ends
    """The program does not come past here: it raises."""


@dataclass(slots=True)
class State:
    """What the variables of one running function hold; ``context`` is what its ``ctx`` holds, where that has changed.

    ``context_is_open`` says that other code may have changed any attribute of ``ctx``.
    """

    variables: dict[str, Value] = field(default_factory=dict)
    context: dict[str, Value] = field(default_factory=dict)
    context_is_open: bool = False

    def copy(self) -> State:
        """Another path from here."""
        return State(dict(self.variables), dict(self.context), self.context_is_open)

    def take(self, other: State) -> None:
        """Go on as `other`."""
        self.variables, self.context, self.context_is_open = other.variables, other.context, other.context_is_open

    def called(self, arguments: dict[str, Value]) -> State:
        """At the start of a function that is called here."""
        return State(arguments, self.context, self.context_is_open)

    def returned(self, end: State) -> None:
        """Go on after a function that was called here."""
        self.context, self.context_is_open = end.context, end.context_is_open

    def forget(self, names: set[str]) -> None:
        """Other code may have given these variables anything, and ``ctx`` too."""
        for name in names:
            self.variables[name] = ANYTHING
        self.context_is_open = True

    def hand_over(self, values: Iterable[Value]) -> None:
        """Other code gets these values: with ``ctx`` among them, it may change what that holds."""
        self.context_is_open |= any([leads_to_context(value) for value in values])

    def let_go(self, name: str) -> None:
        """Others have the list that a variable holds, and may change it."""
        self.variables[name] = OTHER


def joined(one: State | None, other: State | None, initially: Callable[[str], Value]) -> State | None:
    """The state where two paths meet; None for a path that does not come here.

    `initially` says what an attribute of ``ctx`` holds that a path has not changed.
    """
    if one is None or other is None:
        return one or other
    names = {name: None for name in (*one.variables, *other.variables)}
    variables = {name: _either(one.variables.get(name), other.variables.get(name)) for name in names}
    attributes = {name: None for name in (*one.context, *other.context)}
    context = {
        name: join(one.context.get(name) or initially(name), other.context.get(name) or initially(name))
        for name in attributes
    }
    return State(variables, context, one.context_is_open or other.context_is_open)


def _either(one: Value | None, other: Value | None) -> Value:
    """A variable that one path has not assigned raises when it is read."""
    if one is None or other is None:
        return one or other or ANYTHING
    return join(one, other)


def kept(value: Value) -> Value:
    """What is known of a value that more than one place holds: of a list nothing, as each may change it."""
    return OTHER if is_shared_by_holding(value) else value


def is_shared_by_holding(value: Value) -> bool:
    """Whether whoever holds the object may change it."""
    return isinstance(value, Keywords) or (isinstance(value, Items) and value.is_list)


def leads_to_context(value: Value) -> bool:
    """Whether code that has the value can get at ``ctx``."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (Context, Local)):
            return True
        if isinstance(value, Bound):
            waiting.append(value.receiver)
        elif isinstance(value, Items):
            waiting += [*value.members, *([] if value.rest is None else [value.rest])]
        elif isinstance(value, Keywords):
            waiting += [each for _, each in value.by_name]
    return False
