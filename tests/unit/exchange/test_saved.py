import json
import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.exchange.saved import from_json, to_json
from fxgrad.graph import (
    BackwardGraph,
    Edge,
    GraphInfo,
    Hook,
    HookKind,
    HookSite,
    Node,
    NodeKind,
    Root,
    Source,
    TensorMeta,
    Variable,
)

META = TensorMeta((8, "s0"), "float32", "cpu")
HOOK = Hook(0, HookKind.TENSOR, "x", "double", Source("model.py", 3))
GRAPH = BackwardGraph(
    (Root(0, 0, ("result", 0, "logits")),),
    (
        Node(
            0,
            "SinBackward0_0",
            "SinBackward0",
            NodeKind.FUNCTION,
            None,
            7,
            (META,),
            ("result",),
            (Edge("self", None, 1, 0), Edge("other", None, None, 0, "frozen")),
        ),
        Node(
            1,
            "AccumulateGrad_0",
            "torch::autograd::AccumulateGrad",
            NodeKind.ACCUMULATE_GRAD,
            None,
            None,
            (META,),
            ("variable",),
            (),
            "x",
        ),
    ),
    (),
    (),
    (Variable("x", (), "input", META, True, True, node=1),),
    (HOOK,),
    (HookSite(HOOK, None, 1, 0, (), (), False, 0, None, "the gradient of x"),),
    (),
    GraphInfo(2, "0.1.0", "2.13.0", "3.11.7", "cpu", False, "the output of forward", calls_reason="captured"),
)
TEXT = """\
{"info":{"schema_version":2,"fxgrad":"0.1.0","torch":"2.13.0","python":"3.11.7","device":"cpu","emulated":false,\
"root_rule":"the output of forward","calls_reason":"captured"},
"roots":[
{"node":0,"slot":0,"path":["result",0,"logits"]}
],
"nodes":[
{"id":0,"label":"SinBackward0_0","name":"SinBackward0","kind":"function","schema":null,"sequence_nr":7,\
"grad_outputs":[{"shape":[8,"s0"],"dtype":"float32","device":"cpu"}],"output_names":["result"],\
"edges":[{"argument":"self","group":null,"next_node":1,"input_nr":0},\
{"argument":"other","group":null,"next_node":null,"input_nr":0,"null_reason":"frozen"}]},
{"id":1,"label":"AccumulateGrad_0","name":"torch::autograd::AccumulateGrad","kind":"accumulate grad","schema":null,\
"sequence_nr":null,"grad_outputs":[{"shape":[8,"s0"],"dtype":"float32","device":"cpu"}],"output_names":["variable"],\
"edges":[],"variable":"x"}
],
"modules":[],
"calls":[],
"variables":[
{"name":"x","aliases":[],"kind":"input","meta":{"shape":[8,"s0"],"dtype":"float32","device":"cpu"},\
"requires_grad":true,"is_leaf":true,"node":1}
],
"hooks":[
{"id":0,"kind":"Tensor.register_hook","owner":"x","function":"double","source":{"file":"model.py","line":3}}
],
"sites":[
{"hook":{"id":0,"kind":"Tensor.register_hook","owner":"x","function":"double",\
"source":{"file":"model.py","line":3}},"call":null,"node":1,"slot":0,"grad_input":[],"grad_output":[],\
"fires":false,"times":0,"order":null,"reason":"the gradient of x"}
],
"forward":[]
}
"""
GRADIENT = {"index": 0, "argument": None, "shape": None, "dtype": None, "expression": None}
COPY = """\
import sys
from fxgrad.exchange.saved import from_json, to_json
sys.stdout.write(to_json(from_json(sys.stdin.read())))
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


def changed(change):
    """The saved text with something changed in the object that it holds."""
    document = json.loads(TEXT)
    change(document)
    return json.dumps(document)


def refusal(text, **options):
    with pytest.raises(UsageError) as refused:
        from_json(text, **options)
    return refused.value


def test_each_record_stands_on_a_line_of_its_own_without_its_defaults():
    assert to_json(GRAPH) == TEXT


def test_a_saved_graph_is_read_back_equal_and_of_the_same_types():
    graph = from_json(TEXT)
    assert graph == GRAPH
    assert type(graph.nodes[0].edges[0]) is Edge
    assert graph.nodes[0].kind is NodeKind.FUNCTION
    assert type(graph.nodes[0].grad_outputs[0].shape) is tuple


def test_a_saved_graph_can_be_read_from_the_bytes_of_its_file():
    assert from_json(TEXT.encode()) == GRAPH


def test_json_that_another_program_has_laid_out_anew_is_read():
    assert from_json(json.dumps(json.loads(TEXT), indent=4, sort_keys=True, ensure_ascii=False)) == GRAPH


@pytest.mark.parametrize(
    "name", ["\ud800", "\udc80.py", "\ude00\ud83d", "\0", '"<&>\\', "🔥\u202e", "a\nb", " \t ", "\ufeff", ""]
)
def test_a_name_may_hold_anything_and_is_saved_in_ascii(name):
    graph = replace(GRAPH, variables=(replace(GRAPH.variables[0], aliases=(name,)),))
    text = to_json(graph)
    assert text.isascii()
    assert from_json(text.encode()) == graph


def test_two_surrogates_are_read_back_as_the_character_that_they_stand_for():
    graph = replace(GRAPH, variables=(replace(GRAPH.variables[0], aliases=("\ud83d\ude00",)),))
    assert from_json(to_json(graph)).variables[0].aliases == ("😀",)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_bytes_do_not_depend_on_the_hash_seed_and_torch_is_not_imported(seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    copied = subprocess.run(
        [sys.executable, "-c", COPY], input=TEXT, env=environment, capture_output=True, text=True, check=False
    )
    assert (copied.returncode, copied.stderr, copied.stdout) == (0, "", TEXT)


def test_equal_metas_sources_and_hooks_are_read_as_one_object():
    graph = from_json(TEXT)
    assert graph.nodes[0].grad_outputs[0] is graph.nodes[1].grad_outputs[0] is graph.variables[0].meta
    assert graph.sites[0].hook is graph.hooks[0]


def test_a_chain_deeper_than_the_recursion_limit_is_saved_and_read():
    first = GRAPH.nodes[0]
    nodes = (
        replace(first, id=i, label=f"SinBackward0_{i}", edges=(Edge("self", None, i + 1, 0),)) for i in range(5_000)
    )
    end = replace(first, id=5_000, label="SinBackward0_5000", edges=())
    graph = BackwardGraph((), (*nodes, end), (), (), (), (), (), (), GRAPH.info)
    assert from_json(to_json(graph)) == graph


def test_a_graph_of_another_schema_is_not_saved():
    with pytest.raises(UsageError, match="the graph is of schema version 3"):
        to_json(replace(GRAPH, info=replace(GRAPH.info, schema_version=3)))


@pytest.mark.parametrize("version", [1, 3])
def test_another_schema_version_is_refused_before_anything_else_is_looked_at(version):
    text = f'{{"info": {{"schema_version": {version}, "of": "another time"}}, "nodes": 3}}'
    assert str(refusal(text, origin="trace.json")) == (
        f"trace.json is of schema version {version}\n  allowed: schema version 2, which this fxgrad reads and writes\n "
        " try: save the trace again with trace.to_json(path) with this fxgrad, or use the fxgrad that saved it"
    )


def test_a_wrong_field_is_named_with_its_record():
    refused = refusal(changed(lambda d: d["nodes"][0]["edges"][1].update(next_node="1")), origin="trace.json")
    assert str(refused) == (
        "trace.json is not a saved trace: nodes[0].edges[1].next_node: expected int | null, got str\n  allowed: "
        "records of schema version 2\n  try: save the trace again with trace.to_json(path)"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.pop("roots"), "object missing required field roots"),
        (lambda d: d.update(extra=[]), "object contains unknown field extra"),
        (lambda d: d["nodes"][1].pop("label"), "nodes[1]: object missing required field label"),
        (lambda d: d["nodes"][1].update({"la\nbel": 1}), "nodes[1]: object contains unknown field la\\nbel"),
        (lambda d: d["info"].pop("schema_version"), "info: object missing required field schema_version"),
        (lambda d: d["info"].update(schema_version=True), "info.schema_version: expected int, got bool"),
        (lambda d: d["info"].update(schema_version="2"), "info.schema_version: expected int, got str"),
        (lambda d: d.update(info=[]), "info: expected object, got array"),
        (
            lambda d: d["sites"][0]["grad_output"].append({**GRADIENT, "status": "zeros"}),
            "sites[0].grad_output[0].status: invalid enum value 'zeros'",
        ),
        (lambda d: d["variables"][0].update(kind="weight"), "variables[0].kind: invalid enum value 'weight'"),
        (lambda d: d["hooks"][0].update(mode="sum"), "hooks[0].mode: invalid enum value 'sum'"),
        (lambda d: d["nodes"][0].update(kind="fun"), "nodes[0].kind: invalid enum value 'fun'"),
        (lambda d: d["nodes"][0].update(kind="\ud800"), "a lone surrogate where the schema has no free text"),
        (lambda d: d["nodes"][0].update(sequence_nr=1.5), "nodes[0].sequence_nr: expected int | null, got float"),
        (lambda d: d["nodes"][0].update(id=float("nan")), "nodes[0].id: expected int, got float"),
        (lambda d: d["hooks"][0].update(observed=[1]), "hooks[0].observed: expected array of length 2, got 1"),
        (lambda d: d["roots"][0].update(path=["result", None]), "roots[0].path[1]: expected int | str, got null"),
        (
            lambda d: d["nodes"][0]["grad_outputs"][0].update(shape=3),
            "nodes[0].grad_outputs[0].shape: expected array | null, got int",
        ),
        (lambda d: d["hooks"][0]["source"].pop("line"), "hooks[0].source: object missing required field line"),
    ],
)
def test_json_of_another_shape_is_refused(change, problem):
    assert refusal(changed(change)).given == f"the text is not a saved trace: {problem}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda d: d["nodes"][0]["edges"][0].update(next_node=2),
            "node 0 (SinBackward0_0), edges[0]: there is no node 2; nodes are 0 to 1",
        ),
        (
            lambda d: d["nodes"][0]["edges"][0].update(next_node=0),
            "node 0 (SinBackward0_0), edges[0]: it leads to node 0, but ids are in topological order: to a larger one",
        ),
        (lambda d: d["nodes"][1].update(id=0), "nodes[1]: its id is 0, but an id is the rank in the tuple"),
        (lambda d: d["hooks"][0].update(owner="y"), "sites[0] (hook 0, double): its hook is another one than hooks[0]"),
    ],
)
def test_a_graph_whose_references_lead_nowhere_is_refused(change, problem):
    refused = refusal(changed(change))
    assert refused.given == f"the text is not a saved trace: {problem}"
    assert refused.allowed == "a graph whose ids are ranks and whose references exist"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (TEXT[:-10], "it is not JSON: "),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "it is not JSON: "),
        ("9" * 5_000, "it is not JSON: Exceeds the limit"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"info":' * 100_000, "it is nested too deep"),
        ("[" * 100_000 + "]" * 100_000, "it is nested too deep"),
        ("null", "expected object, got null"),
        ("[]", "expected object, got array"),
        ('"\\ud800"', "a lone surrogate where the schema has no free text"),
        ("9" * 100, "expected object, got int"),
        ('{"file": "a.py", "line": 1}', "expected object, got Source"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_json_object_is_refused(text, problem):
    assert refusal(text).given.startswith(f"the text is not a saved trace: {problem}")


def test_the_origin_is_written_on_one_line():
    assert (
        refusal("[]", origin="tra\nce.json").given == "tra\\nce.json is not a saved trace: expected object, got array"
    )
