"""Random graphs are saved and read; randomly damaged files are refused, or read as well-typed graphs."""

import enum
import functools
import json
import re
import types
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.exchange.saved import from_json, records_from_json, records_to_json, to_json
from fxgrad.graph import (
    BackwardCall,
    BackwardGraph,
    CompiledBefore,
    Edge,
    FullHookSetup,
    FxNode,
    GraphInfo,
    Held,
    Hook,
    HookSite,
    Module,
    ModuleCall,
    Node,
    Returned,
    Root,
    Sharding,
    Taken,
    TensorMeta,
    TensorRef,
    UnrecordedCall,
    Value,
    Variable,
)
from fxgrad.graph.check import find_structural_problems
from fxgrad.graph.records import SCHEMA_VERSION, Record

SAVED = (Path(__file__).parent / "saved_schema_2.json").read_text("ascii")

PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
TEXTS = (st.text(st.sampled_from('aé🔥"\\\n\0\ud83d\ude00'), max_size=5) | st.text(st.characters(), max_size=3)).filter(
    lambda text: PAIR.search(text) is None
)
"""Anything but two surrogates in a row, which JSON does not tell from the character that they stand for."""
INTEGERS = st.integers() | st.sampled_from([0, 1, 2**64])
PLAIN = {str: TEXTS, int: INTEGERS, bool: st.booleans(), type(None): st.none()}


def value_of(hint):
    """Any value of a type hint, whether it makes sense or not."""
    arguments = typing.get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*map(value_of, reversed(arguments)))
    if arguments[1:] == (...,):
        return several(value_of(arguments[0]))
    if typing.get_origin(hint) is tuple:
        return st.tuples(*map(value_of, arguments))
    return st.sampled_from(hint) if issubclass(hint, enum.Enum) else record_in_another(hint)


@functools.cache
def record_in_another(kind):
    """A record of a kind, which may hold records of the same kind."""
    return st.deferred(lambda: record(kind))


def record(kind, **fields):
    """A record of random fields, but for those given as strategies."""
    hints = typing.get_type_hints(kind)
    strategies = [fields[name] if name in fields else value_of(hint) for name, hint in hints.items()]
    return st.tuples(*strategies).map(lambda values: kind(*values))


def several(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


# The graphs have three nodes with two gradients each, two hooks, and two of everything that has a name
FX_NODES, CALLS, VARIABLES, MODULES = ("x", "\n"), ("#1", "🔥#2"), ("w", "\ude00\ud83d"), ("", '"<b>')
LABELS = ("AddmmBackward0_0", "\0", "<\\>")
NODES, HOOKS = range(3), range(2)
PLACES = [(node, slot) for node in NODES for slot in range(2)]
HOOK_IDS = several(st.sampled_from(HOOKS))
RANKS = st.none() | st.sampled_from([0, 1, 2**64])
VALUE = record(Value, fx_node=st.sampled_from(FX_NODES), index=RANKS)
VALUES = st.none() | VALUE


def maybe(values):
    return st.none() | st.sampled_from(values)


def at(places, kind, /, node="node", slot="slot", **fields):
    """A record that refers to one of the places, or to none."""
    return (st.tuples(st.none(), INTEGERS) | st.sampled_from(places)).flatmap(
        lambda place: record(kind, **{node: st.just(place[0]), slot: st.just(place[1])}, **fields)
    )


TARGETS = several(st.tuples(st.none(), INTEGERS) | st.sampled_from(PLACES))


def edges_from(node):
    later = [place for place in PLACES if place[0] > node] or [(None, 0)]
    return several(at(later, Edge, node="next_node", slot="input_nr", value=VALUES))


def returned_for(edges):
    entries = st.tuples(*(st.sampled_from(("tensor", "none", "unknown")) for _ in edges))
    return st.none() | st.builds(Returned, entries, entries, st.sampled_from(((), (0,), (1,), (0, 1))))


def nodes():
    return st.tuples(*(edges_from(i).flatmap(functools.partial(node, i)) for i in NODES))


def node(i, edges):
    return record(
        Node,
        id=st.just(i),
        label=st.just(LABELS[i]),
        grad_outputs=st.tuples(record(TensorMeta), record(TensorMeta)),
        edges=st.just(edges),
        returned=returned_for(edges),
        variable=maybe(VARIABLES),
        call=maybe(CALLS),
        fx_node=maybe(FX_NODES),
        output_names=st.tuples(TEXTS, TEXTS),
        hooks=HOOK_IDS,
        prehooks=HOOK_IDS,
        nested_backward=st.none() | TARGETS,
    )


def calls():
    ref = functools.partial(at, PLACES, TensorRef, name=maybe(VARIABLES), fx_node=maybe(FX_NODES), fx_index=RANKS)
    results = ref(path=st.tuples(st.just("result")) | st.tuples(st.just("result"), TEXTS | INTEGERS))
    fields = {
        "inputs": several(ref(path=st.tuples(st.just("kwargs"), TEXTS | INTEGERS))),
        "outputs": several(results),
        "legacy_tensor": st.none() | results,
        "full_hook": st.none() | record(FullHookSetup, input_positions=st.none(), output_positions=st.none()),
        "hooks": HOOK_IDS,
        "compiled_before": several(record(CompiledBefore, hook=st.sampled_from(range(2)))),
        "input_hook_node": maybe(NODES),
        "output_hook_node": maybe(NODES),
    }
    first = record(ModuleCall, id=st.just(CALLS[0]), parent=st.none(), **fields)
    return st.tuples(first, record(ModuleCall, id=st.just(CALLS[1]), parent=maybe(CALLS[:1]), **fields))


def unrecorded_calls():
    nodes = {"input_hook_node": maybe(NODES), "output_hook_node": maybe(NODES)}
    setup = record(FullHookSetup, input_positions=st.none(), output_positions=st.none())
    return several(record(UnrecordedCall, full_hook=setup, **nodes))


def hooks():
    observed = maybe([*PLACES, (0, None)])
    return st.tuples(
        *(
            record(
                Hook,
                id=st.just(i),
                observed=observed,
                target_slots=TARGETS,
                nested_backward=st.none() | TARGETS,
                holds=several(record(Held, node=maybe(NODES))),
                sharding=st.none() | record(Sharding, parameter=st.sampled_from(VARIABLES), leaf=maybe(NODES)),
            )
            for i in HOOKS
        )
    )


def graphs():
    """Graphs whose references lead somewhere; all else is random."""
    root = st.sampled_from(PLACES).flatmap(lambda p: record(Root, node=st.just(p[0]), slot=st.just(p[1])))
    no_alias = st.just(())
    return record(
        BackwardGraph,
        roots=several(root),
        nodes=nodes(),
        modules=st.tuples(
            *(
                record(Module, path=st.just(path), aliases=no_alias, hooks=HOOK_IDS, wraps=maybe(MODULES))
                for path in MODULES
            )
        ),
        calls=calls(),
        variables=st.tuples(
            *(
                at(
                    PLACES,
                    Variable,
                    name=st.just(name),
                    aliases=no_alias,
                    unsharded=maybe(VARIABLES),
                    replaces=maybe(VARIABLES),
                    made_from=maybe(FX_NODES),
                    earlier=several(st.sampled_from(NODES)),
                )
                for name in VARIABLES
            )
        ),
        hooks=hooks(),
        sites=st.just(()),
        unrecorded_calls=unrecorded_calls(),
        forward=st.tuples(
            *(
                record(
                    FxNode,
                    name=st.just(name),
                    modules=several(st.sampled_from(CALLS)),
                    inputs=several(st.sampled_from(FX_NODES)),
                    changes=several(VALUE),
                    aliases=several(VALUES),
                    taken=several(record(Taken, call=maybe(CALLS))),
                    asked=several(record(Taken, call=maybe(CALLS))),
                )
                for name in FX_NODES
            )
        ),
        info=record(
            GraphInfo,
            schema_version=st.just(SCHEMA_VERSION),
            backward=record(BackwardCall, inputs=several(st.sampled_from(PLACES))),
        ),
    ).flatmap(with_sites)


def with_sites(graph):
    sites = several(at(PLACES, HookSite, hook=st.sampled_from(graph.hooks), call=maybe(CALLS), fires=st.just(False)))
    return sites.map(lambda sites: replace(graph, sites=sites))


GRAPHS = graphs()
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | TEXTS,
    lambda children: st.lists(children, max_size=2) | st.dictionaries(TEXTS, children, max_size=2),
    max_leaves=4,
)


def conforms(value, hint):
    """Whether a value is exactly of a type hint, down to its smallest parts."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in arguments
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(conforms(value, member) for member in arguments)
    if arguments[1:] == (...,):
        return type(value) is tuple and all(conforms(item, arguments[0]) for item in value)
    if typing.get_origin(hint) is tuple:
        return type(value) is tuple and len(value) == len(arguments) and all(map(conforms, value, arguments))
    if issubclass(hint, Record):
        hints = typing.get_type_hints(hint)
        return type(value) is hint and all(conforms(getattr(value, name), h) for name, h in hints.items())
    return type(value) is hint


def refused_or_sound(text):
    """Whether a text is refused with a UsageError, or read as a graph that can be worked on."""
    try:
        graph = from_json(text)
    except UsageError:
        return True
    return (
        conforms(graph, BackwardGraph)
        and not list(find_structural_problems(graph))
        and from_json(to_json(graph)) == graph
    )


@pytest.mark.parametrize("kind", [Node, Variable, Module, ModuleCall, FxNode, HookSite, GraphInfo])
@settings(max_examples=30)
@given(data=st.data())
def test_any_record_is_read_back_equal_and_of_the_same_types(kind, data):
    written = data.draw(record(kind))
    read = records_from_json(records_to_json(written), kind)
    assert read == written
    assert conforms(read, kind)


@settings(max_examples=20)  # a graph has many parts
@given(GRAPHS)
def test_any_graph_is_read_back_equal_and_saved_to_the_same_text(graph):
    text = to_json(graph)
    read = from_json(text.encode())
    assert read == graph
    assert conforms(read, BackwardGraph)
    assert to_json(read) == text


@given(st.data())
def test_a_file_with_a_changed_value_is_refused_or_read_as_a_sound_graph(data):
    document = parent = json.loads(SAVED)
    key = data.draw(st.sampled_from(keys_of(parent)))
    while keys_of(parent[key]) and data.draw(st.integers(0, 4)):
        parent = parent[key]
        key = data.draw(st.sampled_from(keys_of(parent)))
    if data.draw(st.booleans()):
        parent[key] = data.draw(JSON)
    else:
        del parent[key]
    assert refused_or_sound(json.dumps(document))


def keys_of(value):
    if isinstance(value, dict):
        return sorted(value)
    return range(len(value)) if isinstance(value, list) else ()


@given(st.tuples(*[st.integers(0, len(SAVED))] * 2).map(sorted), TEXTS)
def test_a_file_with_changed_characters_is_refused_or_read_as_a_sound_graph(span, text):
    assert refused_or_sound(SAVED[: span[0]] + text + SAVED[span[1] :])


@given(st.integers(0, len(SAVED) - 1), st.sampled_from('0129-"[]{},:etn \\'))
def test_a_file_with_one_other_character_is_refused_or_read_as_a_sound_graph(place, character):
    assert refused_or_sound(SAVED[:place] + character + SAVED[place + 1 :])


@given(JSON.map(json.dumps) | st.text() | st.binary())
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError) as refused:
        from_json(text)
    assert refused.value.given
    assert refused.value.allowed
    assert refused.value.suggestion


def test_a_file_of_schema_2_is_still_read_and_written():
    assert to_json(from_json(SAVED)) == SAVED
