"""Which recorded operation uses the value of which, changes in place included, and where values stop requiring grad.

Works on fx nodes, in the order of the recorded forward. Views, and what ``detach`` returns, share the memory of what
they come from (`FxNode.aliases`), so an operation that changes one of them is an input of all later users of the
others. No recursion; time proportional to the size of the forward.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, FxNode, Source, Value
from fxgrad.graph.text import format_source, quote_code

_FLOATING = ("float", "bfloat", "complex")
_GETTER = "getattr"
_NEW = ("new_empty", "new_ones", "new_zeros")
RUNS_BACKWARD = ("torch.autograd.backward", "backward")
"""What forward calls to run a backward that adds to .grad."""
_NUMBER = re.compile(r"_\d+$")


class ValueUses(NamedTuple):
    """How forward uses some values, and what it computes from them, as far as a gradient could come back.

    ``cuts``    the operations that use them and whose own result requires no grad
    ``others``  the operations of the backward graph that use them: they give no gradient, where what they use is not in
                the backward graph itself
    ``returned`` whether forward returns them, or what it computes from them
    """

    cuts: tuple[FxNode, ...]
    others: tuple[FxNode, ...]
    returned: bool


class _RankedUses(NamedTuple):
    """The same as sets of ranks, each the bits of an int."""

    cuts: int
    others: int
    returned: bool


class DataFlow:
    """The recorded forward of one graph as a graph of values."""

    def __init__(self, graph: BackwardGraph) -> None:
        self._graph = graph
        self._fx_nodes = graph.fx_nodes_by_name
        self._origins: dict[Value, Value] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        self.users: dict[str, list[str]] = {fx_node.name: [] for fx_node in graph.forward}
        self._connect()

    def _connect(self) -> None:
        changers: dict[Value, str] = {}
        for fx_node in self._graph.forward:
            origins = [origin for name in fx_node.inputs for origin in self._find_memories(name)]
            changed = [changers[origin] for origin in origins if origin in changers]
            # even in a saved trace an operation uses only earlier values, so passes over them end
            earlier = [name for name in (*fx_node.inputs, *changed) if self.rank[name] < self.rank[fx_node.name]]
            self.sources[fx_node.name] = tuple(dict.fromkeys(earlier))
            for source in self.sources[fx_node.name]:
                self.users[source].append(fx_node.name)
            for index, alias in enumerate(fx_node.aliases):
                if alias is not None:
                    self._origins[_make_value(fx_node, index)] = self._origins.get(alias, alias)
            changers.update((self._origins.get(value, value), fx_node.name) for value in fx_node.changes)

    def _find_memories(self, name: str) -> list[Value]:
        """The first values in the memory of what an operation returned."""
        fx_node = self._fx_nodes[name]
        values = [_make_value(fx_node, index) for index in range(max(1, len(fx_node.aliases)))]
        return [self._origins.get(value, value) for value in values]

    @cached_property
    def rank(self) -> dict[str, int]:
        """The place of each operation in forward."""
        return {fx_node.name: rank for rank, fx_node in enumerate(self._graph.forward)}

    # Changes in place

    def list_changers(self, name: str) -> Iterator[FxNode]:
        """The operations that changed in place, in order, what an operation returned, or what shares its memory."""
        ranks = {rank for memory in self._find_memories(name) for rank in self._changers.get(memory, ())}
        return (self._graph.forward[rank] for rank in sorted(ranks))

    @cached_property
    def _changers(self) -> dict[Value, list[int]]:
        """For each first value in a memory: the ranks of the operations that changed it in place."""
        found: dict[Value, list[int]] = {}
        for rank, fx_node in enumerate(self._graph.forward):
            for value in fx_node.changes:
                found.setdefault(self._origins.get(value, value), []).append(rank)
        return found

    def find_data_owner(self, fx_node: FxNode) -> str | None:
        """The name of the tensor whose ``.data`` an operation writes to, or assigns; None for other operations."""
        if is_data_assigned(fx_node):
            return fx_node.inputs[0]
        first_values = [self._fx_nodes[self._origins.get(value, value).fx_node] for value in fx_node.changes]
        return next((first.inputs[0] for first in first_values if is_data_read(first)), None)

    # Forwards and backwards along the values

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """What forward returns."""
        return tuple(fx_node.name for fx_node in self._graph.forward if fx_node.op == "output")

    @cached_property
    def returned(self) -> frozenset[str]:
        """The operations that the output of forward depends on."""
        return frozenset(_reach(self.sources, self.ends))

    def find_dependents(self, names: Iterable[str]) -> frozenset[str]:
        """These operations, and all that depend on them."""
        return frozenset(_reach(self.users, names))

    def reach_backward(self, names: Iterable[str]) -> bool:
        """Whether forward runs a backward itself, of something that these carry gradients to."""
        reached = set(names)
        waiting = list(reached)
        while waiting:
            for user in map(self._fx_nodes.__getitem__, self.users[waiting.pop()]):
                if user.target in RUNS_BACKWARD:
                    return True
                if user.name not in reached and may_carry_gradient(user):
                    reached.add(user.name)
                    waiting.append(user.name)
        return False

    def list_last_uses(self, names: Iterable[str]) -> tuple[FxNode, ...]:
        """Where these are last used: the operations, of these and those they play a part in, whose value Python took.

        Where it took none, those whose value nothing uses.
        """
        taken, unused = 0, 0
        for name in names:
            taken, unused = taken | self._last_uses[name][0], unused | self._last_uses[name][1]
        return self._pick(taken or unused)

    @cached_property
    def _last_uses(self) -> dict[str, tuple[int, int]]:
        """For each operation, as the bits of ints, the ranks of those that `list_last_uses` may answer."""
        found: dict[str, tuple[int, int]] = {}
        for fx_node in reversed(self._graph.forward):
            users, own = self.users[fx_node.name], 1 << self.rank[fx_node.name]
            taken, unused = own if fx_node.taken else 0, 0 if users else own
            for user in users:
                taken, unused = taken | found[user][0], unused | found[user][1]
            found[fx_node.name] = taken, unused
        return found

    def _pick(self, ranks: int) -> tuple[FxNode, ...]:
        forward, found = self._graph.forward, []
        while ranks:
            lowest = ranks & -ranks
            found.append(forward[lowest.bit_length() - 1])
            ranks ^= lowest
        return tuple(found)

    def list_gradless_uses(self, names: Iterable[str]) -> tuple[FxNode, ...]:
        """The operations that use these, if each is in a reentrant checkpoint none of whose arguments requires grad."""
        users = [self._fx_nodes[user] for name in names for user in self.users[name]]
        return tuple(users) if all(user.gradless is not None for user in users) else ()

    @cached_property
    def unseen(self) -> dict[str, FxNode]:
        """For the name of each leaf that a Function used which backward does not come to (`FxNode.unseen`): its call."""
        return {name: fx_node for fx_node in reversed(self._graph.forward) for name in fx_node.unseen}

    # Where values stop requiring grad

    def find_uses(self, names: Iterable[str]) -> ValueUses:
        """How forward uses the values of these, which require grad and are not in the backward graph."""
        cuts, others, returned = 0, 0, False
        for uses in [self._uses[name] for name in names]:
            cuts, others, returned = cuts | uses.cuts, others | uses.others, returned or uses.returned
        return ValueUses(self._pick(cuts), self._pick(others), returned)

    @cached_property
    def _uses(self) -> dict[str, _RankedUses]:
        """Of each operation: users come after what they use, so one pass from the end knows them all."""
        in_graph = frozenset(node.fx_node for node in self._graph.nodes if node.fx_node is not None)
        found: dict[str, _RankedUses] = {}
        for fx_node in reversed(self._graph.forward):
            cuts, others, returned = 0, 0, fx_node.op == "output"
            for user in self.users[fx_node.name]:
                if user in in_graph:
                    others |= 1 << self.rank[user]
                elif not may_carry_gradient(self._fx_nodes[user]):
                    is_cut = not takes_shape_alone(self._fx_nodes[user]) and not self._picks_another(user)
                    cuts |= is_cut << self.rank[user]
                else:
                    cuts, others = cuts | found[user].cuts, others | found[user].others
                    returned = returned or found[user].returned
            found[fx_node.name] = _RankedUses(cuts, others, returned)
        return found

    def find_last_cut(self, names: Iterable[str]) -> FxNode | None:
        """The last operation that these depend on and that has an argument that requires grad, and no such result."""
        reached = _reach(self.sources, names)
        cuts = (fx_node for fx_node in reversed(self._graph.forward) if fx_node.name in reached)
        return next((fx_node for fx_node in cuts if self._is_cut(fx_node)), None)

    def _is_cut(self, fx_node: FxNode) -> bool:
        is_operation = fx_node.op not in ("output", "placeholder", "get_attr")
        return (
            is_operation
            and not may_carry_gradient(fx_node)
            and not takes_shape_alone(fx_node)
            and not self._picks_another(fx_node.name)
            and any(map(self._requires_grad, self.sources[fx_node.name]))
        )

    def _picks_another(self, name: str) -> bool:
        """Whether a step takes a result out of several that could require grad, and does not: it depends on others."""
        fx_node = self._fx_nodes[name]
        return picks_result(fx_node) and not cannot_require_grad(fx_node)

    def _requires_grad(self, name: str) -> bool:
        """Whether a value required grad; for a parameter or an input, whether it does now."""
        fx_node = self._fx_nodes[name]
        variable = self._graph.variables_by_name.get(fx_node.target)
        if fx_node.op in ("placeholder", "get_attr"):
            return variable is not None and variable.requires_grad
        return any(fx_node.requires_grad)


def may_carry_gradient(fx_node: FxNode) -> bool:
    """Whether a gradient may come back through an operation; one that returns nothing changes an argument in place."""
    if makes_leaf(fx_node):
        return False
    return any(fx_node.requires_grad) if fx_node.requires_grad else fx_node.grad_enabled


def takes_shape_alone(fx_node: FxNode) -> bool:
    """Whether the values of what an operation returns do not come from a tensor that it gets: ``torch.ones_like(x)``."""
    name = fx_node.target.rpartition(".")[2]
    return name.endswith("_like") or name in _NEW


def makes_leaf(fx_node: FxNode) -> bool:
    """Whether an operation of other tensors returns one that requires grad, in memory of its own, and made no node.

    That is a leaf, such as ``torch.tensor([x, y], requires_grad=True)`` makes of x and y.
    """
    start, end = fx_node.sequence_window or (0, 1)
    is_operation = fx_node.op.startswith("call") and bool(fx_node.inputs) and not picks_result(fx_node)
    return is_operation and start == end and any(fx_node.requires_grad) and not any(fx_node.aliases)


def _make_value(fx_node: FxNode, index: int) -> Value:
    return Value(fx_node.name, index if len(fx_node.aliases) > 1 else None)


def _reach(edges: dict[str, tuple[str, ...]] | dict[str, list[str]], names: Iterable[str]) -> set[str]:
    reached = set(names)
    waiting = list(reached)
    while waiting:
        for name in edges[waiting.pop()]:
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


# Recorded operations in sentences


def name_operation(fx_node: FxNode) -> str:
    """What the program called: `detach`, `linear`; an attribute as `.data`; a custom Function as `Round.apply`."""
    holder, _, name = fx_node.target.rpartition(".")
    attribute = fx_node.args_text.rpartition(", ")[2]
    if is_custom_function(fx_node):
        return quote_code(f"{holder.rpartition('.')[2]}.{name}")
    if is_data_assigned(fx_node):
        return "`.data = …`"
    if picks_result(fx_node):
        source, _, index = fx_node.args_text.partition(", ")
        return quote_code(f"{_NUMBER.sub('', source)}[{index}]")
    return quote_code(f".{attribute}" if name == _GETTER and attribute else name)


def picks_result(fx_node: FxNode) -> bool:
    """Whether it is no call of the program, but the step from an operation with several results to one of them."""
    return fx_node.target == "operator.getitem" and bool(fx_node.meta) and not fx_node.aliases


def cannot_require_grad(fx_node: FxNode) -> bool:
    """Whether all results hold integers or truth values."""
    return bool(fx_node.meta) and not any(meta.dtype.startswith(_FLOATING) for meta in fx_node.meta)


def is_custom_function(fx_node: FxNode) -> bool:
    """Whether the program called ``apply`` of a torch.autograd.Function."""
    return fx_node.op == "call_function" and fx_node.target.endswith(".apply")


def is_data_assigned(fx_node: FxNode) -> bool:
    """Whether the program assigned a tensor to the ``.data`` of another."""
    return fx_node.target == "builtins.setattr" and fx_node.args_text.split(", ")[1:2] == ["data"]


def is_data_read(fx_node: FxNode) -> bool:
    """Whether the program read the ``.data`` of a tensor: the same memory, without history and version counter."""
    return fx_node.target == "builtins.getattr" and fx_node.args_text.endswith(", data")


def begin_at(source: Source | None) -> str:
    """A line with its text, to begin a sentence with.

    >>> begin_at(Source("model.py", 3, "y = x.detach()")), begin_at(None)
    ('At model.py:3, `y = x.detach()`', 'On an unknown line')
    """
    if source is None:
        return "On an unknown line"
    return f"At {format_source(source)}" + (f", {quote_code(source.code)}" if source.code else "")


def end_at(source: Source | None) -> str:
    """A line, to end a phrase with.

    >>> end_at(Source("model.py", 3, "y = x.detach()")), end_at(None)
    (' at model.py:3', '')
    """
    return f" at {format_source(source)}" if source else ""
