"""The backward graph as one immutable object, with the look-ups that every layer above needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from fxgrad.graph import lint, names, paths, printing
from fxgrad.graph.hook_records import Hook, HookSite
from fxgrad.graph.info import GraphInfo
from fxgrad.graph.kinds import NodeKind
from fxgrad.graph.records import Edge, FxNode, Module, ModuleCall, Node, Path, Root, UnrecordedCall, Variable


@dataclass(frozen=True)
class BackwardGraph:
    """Everything that is known of one backward graph.

    ``nodes[i].id == i``, in a topological order from the roots (a node comes before the nodes that its gradients go
    to), and ``hooks[i].id == i``, in the order of registration. ``sites`` are in predicted firing order.
    ``unrecorded_calls`` are those of modules with full hooks that were over before anybody watched.
    """

    roots: tuple[Root, ...]
    nodes: tuple[Node, ...]
    modules: tuple[Module, ...]
    calls: tuple[ModuleCall, ...]
    variables: tuple[Variable, ...]
    hooks: tuple[Hook, ...]
    sites: tuple[HookSite, ...]
    forward: tuple[FxNode, ...]
    info: GraphInfo
    unrecorded_calls: tuple[UnrecordedCall, ...] = ()

    def __str__(self) -> str:
        """The whole graph as text, one node a line: see `printing.graph_text`."""
        return printing.graph_text(self)

    def lint(self) -> None:
        """Check that the records keep their own rules; raises `GraphLintError` where they do not: see `lint.lint`."""
        lint.lint(self)

    def path(self, a: int | str, b: int | str) -> tuple[int, ...] | None:
        """Which way a gradient takes from node `a` to node `b`, each an id or a label: see `paths.path`."""
        return paths.path(self, a, b)

    def expression(self, edge: Edge, depth: int = 2, width: int = 3, *, call: str | None = None) -> str | None:
        """What the gradient of an edge belongs to, in a few words: see `names.format_expression`."""
        return names.format_expression(self, edge, call=call, depth=depth, width=width)

    @cached_property
    def calls_per_module(self) -> Counter[str]:
        """How many calls of each module path there are."""
        return Counter(call.path for call in self.calls)

    @cached_property
    def calls_by_path(self) -> dict[str, tuple[ModuleCall, ...]]:
        """The calls of each module, in the order in which they were made."""
        found: dict[str, list[ModuleCall]] = {}
        for call in self.calls:
            found.setdefault(call.path, []).append(call)
        return {path: tuple(calls) for path, calls in found.items()}

    @cached_property
    def nesting(self) -> tuple[Node, ...]:
        """The nodes whose own Python code starts a backward: reentrant checkpoints, and custom Functions like them."""
        return tuple([node for node in self.nodes if node.nested_backward is not None])

    @cached_property
    def nests_in_checkpoints(self) -> bool:
        """Whether all of these are reentrant checkpoints."""
        return all(node.kind is NodeKind.CHECKPOINT for node in self.nesting)

    @cached_property
    def recomputed_modules(self) -> frozenset[str]:
        """The paths of the modules that were called inside of what runs its forward again in backward."""
        return frozenset(call.path for call in self.calls if call.checkpointed in ("reentrant", "function"))

    @cached_property
    def results_of_slots(self) -> dict[tuple[int, int], list[tuple[str, Path]]]:
        """For a gradient of a node (id, slot): the ids of the calls in whose result its value is, and where."""
        found: dict[tuple[int, int], list[tuple[str, Path]]] = {}
        for call in self.calls:
            for ref in call.outputs:
                if ref.node is not None:
                    found.setdefault((ref.node, ref.slot), []).append((call.id, ref.path))
        return found

    @cached_property
    def names_of_slots(self) -> dict[tuple[int, int], str]:
        """For a gradient of a node (id, slot): the name of the variable that it belongs to."""
        return {
            (variable.node, variable.slot): variable.name for variable in self.variables if variable.node is not None
        }

    @cached_property
    def calls_by_id(self) -> dict[str, ModuleCall]:
        """Every module call by its id."""
        return {call.id: call for call in self.calls}

    @cached_property
    def unrecorded_calls_by_node(self) -> dict[int, UnrecordedCall]:
        """Every unrecorded call by its node on the inputs and by that on the outputs."""
        return {
            node: call
            for call in self.unrecorded_calls
            for node in (call.input_hook_node, call.output_hook_node)
            if node is not None
        }

    @cached_property
    def modules_by_path(self) -> dict[str, Module]:
        """Every module by its path and by each of its aliases."""
        return {path: module for module in self.modules for path in (module.path, *module.aliases)}

    @cached_property
    def variables_by_name(self) -> dict[str, Variable]:
        """Every variable by its name and by each of its aliases."""
        return {name: variable for variable in self.variables for name in (variable.name, *variable.aliases)}

    @cached_property
    def fx_nodes_by_name(self) -> dict[str, FxNode]:
        """Every recorded fx node by its name."""
        return {fx_node.name: fx_node for fx_node in self.forward}

    @cached_property
    def nodes_by_label(self) -> dict[str, Node]:
        """Every node by its label."""
        return {node.label: node for node in self.nodes}
