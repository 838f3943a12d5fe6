"""Breaks each rule of prediction, one at a time: the comparison with real backward must see every one of them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(next(parent for parent in Path(__file__).parents if parent.name == "tests") / "support"))

from comparison import PROPERTIES
from small_slice import SLICE

from fxgrad.graph import TensorMeta
from fxgrad.graph.lint import GraphLintError
from fxgrad.predict import engine, entries, firing, flow, formulas, full_hooks, multi_grad, places, silence, sites
from fxgrad.resolve import modules, observed, surroundings

pytestmark = pytest.mark.filterwarnings("ignore")

INPUT_SIDE, OUTPUT_SIDE = flow.INPUT_SIDE, flow.OUTPUT_SIDE


def always(value):
    return lambda right: lambda *args, **kwargs: value


def without_the_last(right):
    return lambda *args, **kwargs: right(*args, **kwargs)[:-1]


def reversed_(right):
    return lambda *args, **kwargs: right(*args, **kwargs)[::-1]


def every(status):
    """All statuses are this one."""
    return lambda right: lambda *args, **kwargs: (status,) * len(tuple(right(*args, **kwargs)))


def with_(**fields):
    """The record that the rule makes, with other fields."""
    return lambda right: lambda *args, **kwargs: replace(right(*args, **kwargs), **fields)


def on_the_node_before(right):
    def moved(hook, **where):
        return right(hook, **(where | {"node": max(where["node"] - 1, 0)}))

    return moved


def swapped_sides(right):
    other = {INPUT_SIDE: OUTPUT_SIDE, OUTPUT_SIDE: INPUT_SIDE}
    return lambda graph: {node: other[side] for node, side in right(graph).items()}


def counts_the_single_root(right):
    def counted(graph):
        dependencies, reached, behind = right(graph)
        for root in graph.roots:
            reached[root.node] = True
        return dependencies, reached, behind

    return counted


def oldest_first(right):
    def push(self, node):
        number = self._nodes[node].sequence_nr or 0
        engine.heapq.heappush(self._heap, (number, engine._Ready(node)))

    return push


def leaves_by_id(right):
    """Ties between leaves broken by their ids instead of as the heap leaves them."""
    return lambda self, other: self.node < other.node


def everything_executed(right):
    return lambda nodes, call: (bytearray(b"\x01") * len(nodes),) * 2


def executed_as_in_backward(right):
    return lambda nodes, call: (right(nodes, call)[0],) * 2


def meta_of_the_slot(right):
    return lambda outlook, node, edge, status: node.grad_outputs[0]


def dtype_of_the_slot(right):
    def meta(outlook, node, edge, status):
        found = right(outlook, node, edge, status)
        return replace(found, dtype=node.grad_outputs[0].dtype)

    return meta


def nothing_decides_alone(right):
    return frozenset()


def prehooks_last(right):
    def at(self, node):
        called = list(right(self, node))
        place = self._places.get(node)
        early = [] if place is None else place.prehooks
        return iter([*(number for number in called if number not in early), *early])

    return at


def post_accumulate_last(right):
    def at(self, node):
        called = list(right(self, node))
        place = self._places.get(node)
        early = [] if place is None else place.post_accumulate
        return iter([*(number for number in called if number not in early), *early])

    return at


def tensor_hooks_last(right):
    def at(self, node):
        called = list(right(self, node))
        place = self._places.get(node)
        early = [] if place is None else [hook.site for hook in place.tensor_hooks]
        return iter([*(number for number in called if number not in early), *(n for n in called if n in early)])

    return at


def ungrouped(right):
    return lambda hooks, sites: sorted(hooks, key=lambda hook: hook.hook)


def by_hook(right):
    return lambda numbers, listed, sites, finished: sorted(numbers, key=lambda number: -sites[number].hook.id)


def entries_of_the_first_call(right):
    def of_all_calls(outlook, hook, calls):
        for target in range(len(hook.target_slots)):
            yield multi_grad._entry(outlook, hook, target, index=target)

    return of_all_calls


def meta_of_what_is_not_differentiable(right):
    """What metadata says of a result of the node on the inputs that requires no grad."""

    def found(refs, path):
        ref = right(refs, path)
        return ref if ref is None or ref.requires_grad else replace(ref, meta=TensorMeta((), "float32", "cpu"))

    return found


def no_lists(right):
    return lambda node, needed: [edge.next_node is not None and bool(needed[edge.next_node]) for edge in node.edges]


def null_edges_too(right):
    return lambda node, needed: [True] * len(node.edges)


def first_call_only(right):
    return lambda surroundings, hook: iter(list(right(surroundings, hook))[:1])


def other_slot(right):
    return lambda surroundings, hook: replace(right(surroundings, hook), slot=0)


def ends_never(right):
    return lambda call: frozenset()


BREAKAGES = {
    # which nodes run, and when
    "the single root counts as executed": (
        engine,
        "_dependencies",
        counts_the_single_root,
        "hooks_on_several_tensors",
        "fires node none",
    ),
    "inputs= does not matter": (engine, "_execution", everything_executed, "backward_to_some_inputs", "fires none"),
    "grad executes what it captures": (
        engine,
        "_execution",
        executed_as_in_backward,
        "gradients_of_some_inputs",
        "fires",
    ),
    "the oldest node runs first": (engine._Queue, "push", oldest_first, "two_branches_and_leaves", "order"),
    "leaves run in the order of their ids": (engine._Ready, "__lt__", leaves_by_id, "many_leaves", "order"),
    "no node raises": (engine, "_raising_kinds", ends_never, "a_node_that_raises", "fires"),
    # the order at one node, and whether a hook is called
    "prehooks are called last": (firing.Firing, "_at", prehooks_last, "hooks_on_tensors_and_nodes", "order"),
    "post-accumulate hooks are called last": (
        firing.Firing,
        "_at",
        post_accumulate_last,
        "hooks_on_tensors_and_nodes",
        "order",
    ),
    "tensor hooks are called last": (firing.Firing, "_at", tensor_hooks_last, "hooks_on_tensors_and_nodes", "order"),
    "tensor hooks are not grouped": (
        places,
        "_grouped_by_tensor",
        ungrouped,
        "hooks_on_tensors_and_nodes",
        "fires order",
    ),
    "node hooks are called last to first": (places, "_in_list_order", by_hook, "hooks_on_tensors_and_nodes", "order"),
    "removed hooks are called": (places, "_is_alive", always(True), "hooks_on_tensors_and_nodes", "fires"),
    "a full hook fires with its node": (firing, "is_held_back", always(False), "a_gradient_by_a_way_around", "fires"),
    "a full hook never fires": (firing, "is_held_back", always(True), "full_hooks_on_modules", "fires"),
    "what a reentrant checkpoint does is known": (
        silence,
        "uncounted_reason",
        always(None),
        "a_reentrant_checkpoint",
        "times",
    ),
    "no hook is left undecided by a checkpoint": (
        modules,
        "_site_in_checkpoint",
        lambda right: lambda around, hook, call: surroundings.unplaced(hook, "", call=call.id),
        "a_reentrant_checkpoint",
        "times",
    ),
    # hooks on several tensors
    "an all hook waits for all": (
        multi_grad,
        "_executed_targets",
        lambda right: lambda outlook, hook: len(hook.target_slots),
        "hooks_on_several_tensors",
        "fires node none",
    ),
    "an all hook is called with each": (
        multi_grad.Counter,
        "_is_due",
        always(True),
        "hooks_on_several_tensors",
        "fires times",
    ),
    "an all hook does not raise": (
        multi_grad,
        "_refuses_leaf",
        always(False),
        "a_hook_on_several_tensors_and_a_listed_leaf",
        "fires",
    ),
    "an all hook gets what comes later": (
        multi_grad,
        "_of_all_calls",
        entries_of_the_first_call,
        "hooks_on_several_tensors",
        "none",
    ),
    "it is called at its first tensor": (
        sites,
        "_where_it_is_called",
        lambda right: lambda firing, number, site: site,
        "hooks_on_several_tensors",
        "node",
    ),
    # how many sites and entries
    "the last hook has no site": (
        sites,
        "_in_firing_order",
        without_the_last,
        "a_non_full_hook_where_there_is_no_graph",
        "site",
    ),
    "full grad_input lacks an entry": (
        full_hooks.FullHookCall,
        "grad_input",
        without_the_last,
        "full_hooks_on_modules",
        "length",
    ),
    "full grad_output lacks an entry": (
        full_hooks.FullHookCall,
        "grad_output",
        without_the_last,
        "full_hooks_on_modules",
        "length",
    ),
    # shapes and dtypes
    "an edge has the shape of the slot": (entries, "_edge_meta", meta_of_the_slot, "a_sum_of_products", "dtype shape"),
    "an edge has the dtype of the slot": (entries, "_edge_meta", dtype_of_the_slot, "a_sum_of_products", "dtype"),
    "an argument without grad has the shape that metadata says": (
        full_hooks,
        "_ref_at",
        meta_of_what_is_not_differentiable,
        "arguments_that_no_gradient_reaches",
        "dtype shape",
    ),
    # None or Tensor
    "every gradient arrives": (flow, "grad_inputs_of", every("tensor"), "a_sum_of_products", "none"),
    "every list is computed in part": (flow, "wanted_edges", no_lists, "a_list_argument", "none"),
    "null edges are computed": (flow, "wanted_edges", null_edges_too, "a_sum_of_products", "none"),
    "unused lists give gradients": (
        formulas,
        "is_elementwise_over_lists",
        always(False),
        "functions_over_lists",
        "none",
    ),
    "a Python Function returns what is needed": (
        flow,
        "DECIDES_ALONE",
        nothing_decides_alone,
        "a_gradient_that_nothing_gives",
        "none",
    ),
    "the 0-norm has a gradient": (formulas, "_norm", always(None), "a_zero_norm", "none"),
    "the sign of a determinant has a gradient": (
        formulas,
        "_slogdet",
        always(None),
        "the_sign_of_a_determinant",
        "none",
    ),
    "empty residuals give gradients": (formulas, "_lstsq", always(None), "residuals_without_elements", "none"),
    "a mean alone gives gradients": (formulas, "_group_norm", always(None), "statistics_of_a_group_norm", "none"),
    "second derivatives are complete": (formulas, "_double_backward", always(None), "a_second_derivative", "none"),
    "empty reflectors give gradients": (formulas, "_householder", always(None), "no_reflectors", "none"),
    "CopySlices hides no Function": (
        formulas,
        "_copy_slices",
        always(None),
        "a_view_changed_by_a_custom_function",
        "none",
    ),
    "the sides of full hooks are swapped": (
        flow,
        "hook_sides",
        swapped_sides,
        "what_the_nodes_of_full_hooks_hand_on",
        "none",
    ),
    "an unused result is zeros": (
        full_hooks.FullHookCall,
        "grad_output",
        lambda right: lambda self: tuple(replace(entry, status="tensor") for entry in right(self)),
        "arguments_that_no_gradient_reaches",
        "none",
    ),
    "an argument without gradient is None": (
        full_hooks.FullHookCall,
        "grad_input",
        lambda right: lambda self: tuple(replace(entry, status="none") for entry in right(self)),
        "arguments_that_no_gradient_reaches",
        "none",
    ),
    "an argument without grad is zeros where none requires grad": (
        full_hooks.FullHookCall,
        "grad_input",
        lambda right: lambda self: tuple(replace(entry, status="tensor") for entry in right(self)),
        "arguments_that_require_no_grad",
        "none",
    ),
    # where hooks sit
    "a non-full hook sits one node before": (modules, "placed", on_the_node_before, "non_full_hooks", "times"),
    "a node hook sits one node before": (
        observed,
        "placed",
        on_the_node_before,
        "two_branches_and_leaves",
        "length node shape",
    ),
    "a full hook sits on the outputs": (
        modules,
        "_input_site",
        lambda right: modules._output_site,
        "full_hooks_on_modules",
        "node",
    ),
    "the other slot": (observed, "observed_site", other_slot, "slots_of_different_shapes", "fires shape"),
    "only the first call took a hook along": (
        modules,
        "module_sites",
        first_call_only,
        "one_module_called_twice",
        "times",
    ),
    "a dict is hooked": (
        modules,
        "_full_site",
        lambda right: lambda hook, call: surroundings.placed(hook, call=call.id, node=0, slot=None, reason=""),
        "results_that_are_not_hooked",
        "fires",
    ),
}


def break_rule(monkeypatch, owner, name, change):
    """Replace a rule wherever it is known: under its name, in the rooms that import it, in tables."""
    right = getattr(owner, name)
    wrong = change(right)
    monkeypatch.setattr(owner, name, wrong)
    rooms = [room for path, room in sys.modules.items() if path.startswith(("fxgrad.predict.", "fxgrad.resolve."))]
    for room in [*rooms, sys.modules["fxgrad.resolve"]]:
        for known, value in list(vars(room).items()):
            if value is right:
                monkeypatch.setattr(room, known, wrong)
            elif isinstance(value, dict):
                for key in [key for key, member in value.items() if member is right]:
                    monkeypatch.setitem(value, key, wrong)


@pytest.mark.parametrize("program", SLICE)
def test_nothing_is_wrong_where_no_rule_is_broken(program):
    comparison = SLICE[program]()
    assert not comparison.wrong, comparison.wrong
    assert comparison.sites


OLDER = "a mean alone gives gradients"
NEWER_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
SEEN_HERE = [
    pytest.param(name, marks=pytest.mark.skipif(NEWER_TORCH and name == OLDER, reason="torch 2.14 has other formulas"))
    for name in BREAKAGES
]


@pytest.mark.parametrize("breakage", SEEN_HERE)
def test_a_broken_rule_is_seen(monkeypatch, breakage):
    owner, name, change, program, properties = BREAKAGES[breakage]
    break_rule(monkeypatch, owner, name, change)
    comparison = SLICE[program]()
    assert {difference.what for difference in comparison.differences} == set(properties.split()), comparison.wrong


@pytest.mark.parametrize(("name", "program"), [("grad_input", "a_sum_of_products"), ("grad_output", "unused_results")])
def test_lint_sees_a_hook_on_a_node_that_lacks_an_entry(monkeypatch, name, program):
    break_rule(monkeypatch, entries, f"{name}_entries", without_the_last)
    with pytest.raises(GraphLintError, match=f"{name} for the"):
        SLICE[program]()


def test_every_property_is_seen_wrong_by_some_breakage():
    seen = {what for *_, properties in BREAKAGES.values() for what in properties.split()}
    assert seen | {"refusal"} == {*PROPERTIES}
