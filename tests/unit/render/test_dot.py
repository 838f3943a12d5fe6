"""The DOT text of a graph: what the layout engine is told, and that no name of the user's can break it."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from drawn import dot_source
from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, FxNode, HookKind, NodeKind, Source
from fxgrad.graph.text import escape
from fxgrad.render.drawing.dot import write_dot
from fxgrad.render.drawing.engine import run_engine
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.captions import shorten
from fxgrad.render.pictures.forward import compose_forward

HOSTILE = [
    'a "quoted" name',
    "<lambda>",
    "<b>bold</b>",
    "two\nlines",
    "back\\slash \\N \\G",
    'ends in a backslash and a quote \\"',
    "&lt;entity&gt; &amp; &#65;",
    "party 🎉 日本語",
    "reversed \u202e here, null \x00, escape \x1b[31m",
    "half of a pair \ud800",
    "tab\tand ]]> --> }",
    " ",
    "",
]


def shown(svg):
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def tooltips(svg):
    """Graphviz makes every second of several spaces unbreakable."""
    titles = (element.get("{http://www.w3.org/1999/xlink}title") for element in ET.fromstring(svg).iter())
    return [title.replace("\xa0", " ") for title in titles if title]


def render_dot(source, format):
    """What plain dot makes of it."""
    return run_engine([source], format)


def attributes(source, key):
    """What DOT says of one node, as Graphviz reads it."""
    import pygraphviz

    graph = pygraphviz.AGraph(string=source)
    return dict(graph.get_node(key).attr)


@pytest.fixture
def product(program):
    """x times w in a module, with a hook."""
    program.call("", "Model")
    arguments = [("self", "AccumulateGrad_0"), ("other", None)]
    program.node("MulBackward0_0", (3,), arguments=arguments, call="#1")
    program.leaf("AccumulateGrad_0", "w", 3)
    program.site(program.hook(HookKind.MODULE_BACKWARD, "", "look"), "#1", "MulBackward0_0")
    return program


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_shown_as_it_is_and_breaks_nothing(program, name):
    program.call(name, name)
    program.node("MulBackward0_0", (3,), arguments=[(name, "AccumulateGrad_0")], call=f"{name}#1", schema=name)
    program.leaf("AccumulateGrad_0", name, 3)
    program.site(program.hook(HookKind.MODULE_BACKWARD, name, name), f"{name}#1", "MulBackward0_0")
    svg = render_dot(dot_source(program.graph()), "svg")
    assert shown(svg).count(shorten(escape(name), 32) or "\xa0") >= 2  # the type of the module, and the argument
    assert any(f"parameter: {escape(name)}\n" in tooltip for tooltip in tooltips(svg))


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_in_the_forward_is_shown_as_it_is_and_breaks_nothing(program, name):
    call = program.call(name, name)
    program.site(program.hook(HookKind.MODULE_BACKWARD, name, name), call, None)
    run = FxNode("relu", "call_function", name, name, (call,), Source(name, 3, name), (), None, inputs=("x",))
    given = FxNode("x", "placeholder", "x", "", (), None, (), None)
    weight = FxNode("w", "get_attr", name, "", (), None, (), None)
    program.leaf("AccumulateGrad_0", name, 3)
    graph = replace(program.graph(), forward=(given, weight, run))
    svg = render_dot(write_dot(compose_forward(graph)), "svg")
    assert shown(svg).count(shorten(escape(name), 44) or "\xa0") >= 1  # the parameter
    assert any(f"parameter: {escape(name)}" in tooltip for tooltip in tooltips(svg))


def test_a_node_with_one_kind_of_hook_is_filled_in_its_colour(product):
    node = attributes(dot_source(product.graph()), "n0")
    assert node["fillcolor"] == theme.HOOK_FILLS[HookKind.MODULE_BACKWARD]
    assert node["shape"] == theme.NODE_LOOKS[NodeKind.FUNCTION].shape


def test_with_several_kinds_of_hooks_each_line_has_its_colour(product):
    product.site(product.hook(HookKind.NODE_PRE, "MulBackward0_0", "peek"), None, "MulBackward0_0")
    node = attributes(dot_source(product.graph()), "n0")
    assert node["fillcolor"] == theme.NODE_LOOKS[NodeKind.FUNCTION].fill
    for kind in (HookKind.MODULE_BACKWARD, HookKind.NODE_PRE):
        assert f'BGCOLOR="{theme.HOOK_FILLS[kind]}"' in node["label"]


def test_a_node_without_hooks_has_the_fill_of_its_kind(product):
    leaf = attributes(dot_source(product.graph()), "n1")
    assert leaf["fillcolor"] == theme.NODE_LOOKS[NodeKind.ACCUMULATE_GRAD].fill


def test_an_edge_without_a_gradient_is_dashed(product):
    (line,) = (line for line in dot_source(product.graph()).splitlines() if "n0 -> x0" in line)
    assert "style=dashed" in line


def test_an_edge_with_a_gradient_is_solid(product):
    (line,) = (line for line in dot_source(product.graph()).splitlines() if "n0 -> n1" in line)
    assert "style=solid" in line


def test_the_legend_explains_what_occurs_and_nothing_else(product):
    legend = [line.partition("<FONT")[2] for line in dot_source(product.graph()).splitlines() if "\tl" in line]
    words = " ".join(shown(render_dot(dot_source(product.graph()), "svg")))
    assert len([line for line in legend if line]) == 7
    for meaning in (
        "backward starts here",
        "autograd node",
        "leaf: AccumulateGrad adds to its .grad",
        "a tensor that needs no gradient",
        "Module.register_backward_hook",
        "a gradient: argument name, shape",
        "no gradient",
    ):
        assert meaning in words


def test_the_legend_explains_boxes_of_several_kinds_of_hooks(product):
    product.site(product.hook(HookKind.NODE, "MulBackward0_0"), None, "MulBackward0_0")
    assert "carries hooks of several" in dot_source(product.graph())


def test_the_same_graph_gives_the_same_text(product):
    assert dot_source(product.graph()) == dot_source(product.graph())


PROGRAM = """
import importlib.util
spec = importlib.util.spec_from_file_location("builders", {conftest!r})
builders = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builders)
from fxgrad.graph import HookKind
from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.pictures.picture import compose_picture

program = builders.Program()
program.call("", "Model")
for layer in range(4):
    program.call(f"layers.{{layer}}", "Layer", parent="#1")
    after = f"MulBackward0_{{layer + 1}}" if layer < 3 else None
    arguments = [("self", after), ("other", f"AccumulateGrad_{{layer}}")]
    program.node(f"MulBackward0_{{layer}}", (3,), arguments=arguments, call=f"layers.{{layer}}#1")
    program.leaf(f"AccumulateGrad_{{layer}}", f"w{{layer}}", 3)
    for kind in HookKind:
        program.site(program.hook(kind, f"layers.{{layer}}"), f"layers.{{layer}}#1", f"MulBackward0_{{layer}}", slot=0)
for options in ({{}}, {{"hooks_only": True}}, {{"depth": 0}}, {{"module": "layers.1"}}):
    print(draw_picture(compose_picture(program.graph(), **options), "dot").decode())
"""


def test_the_text_does_not_depend_on_hash_seeds():
    program = PROGRAM.format(conftest=str(Path(__file__).parents[1] / "conftest.py"))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    assert next(iter(outputs)).count(b"digraph") == 4


def test_a_deep_graph_needs_no_recursion(program):
    depth = 5_000
    for number in range(depth):
        after = [("self", f"MulBackward0_{number + 1}")] if number + 1 < depth else [("self", "AccumulateGrad_0")]
        program.node(f"MulBackward0_{number}", (3,), arguments=after)
    program.node("AccumulateGrad_0", (3,), kind=NodeKind.ACCUMULATE_GRAD)
    graph = program.graph()
    assert "n0 -> n1 " in dot_source(graph, everything=True)
    assert "4,999 nodes between" in dot_source(graph, hooks_only=True)


def test_an_empty_picture_can_still_be_laid_out(program):
    empty = BackwardGraph((), (), (), (), (), (), (), (), program.info)
    assert b"</svg>" in render_dot(dot_source(empty), "svg")
