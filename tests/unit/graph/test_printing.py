from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Edge, Gradient, GraphInfo, Hook, HookKind, Node, NodeKind, TensorMeta, Variable

LINEAR = """\
backward graph of torch 2.13.0, Python 3.11.7, fxgrad 0.1.0, schema 2
device: cpu
roots: the output of forward

nodes
  %0 AddmmBackward0_0 (8, 20) float32   self=fc_bias -> %1[0] AccumulateGrad_0(fc.bias) (20,)   \
mat1=x -> none (8, 10) float32: this argument requires no grad   mat2 -> %2[0] TBackward0_0 (10, 20)   \
# fc#1  linear  model.py:12
  %1 AccumulateGrad_0(fc.bias) (20,) float32
  %2 TBackward0_0 (10, 20) float32   self -> %3[0] AccumulateGrad_1(fc.weight) (20, 10)   # fc#1
  %3 AccumulateGrad_1(fc.weight) (20, 10) float32

roots
  %0[0] AddmmBackward0_0 result

module calls
  fc#1 Linear(args[0] (8, 10) float32 no grad) -> Tensor(result (8, 20) float32 %0[0] AddmmBackward0_0)   hooks 0

variables
  fc.weight: parameter (20, 10) float32, requires grad -> %3[0] AccumulateGrad_1(fc.weight)
  fc.bias: parameter (20,) float32, requires grad -> %1[0] AccumulateGrad_0(fc.bias)

hooks
  0 Module.register_backward_hook on fc: print_sizes, defined at model.py:3, registered at model.py:20
  1 Tensor.register_hook on fc.weight: double, seen on %3[0] AccumulateGrad_1(fc.weight), may return a value
  2 Module.register_full_backward_hook on spare: never, on no node: spare was not called

sites
  0. hook 0 print_sizes at %0 AddmmBackward0_0, call fc#1, fires once: \
the grad_fn of the first tensor that Linear returns
       grad_output[0] result: (8, 20) float32
       grad_input[0] self for fc.bias: (20,) float32
       grad_input[1] mat1 for x: None, this argument requires no grad
       grad_input[2] mat2 for fc.weight.t(): (10, 20) float32
  1. hook 1 double at %3[0] AccumulateGrad_1(fc.weight), fires once: the gradient of fc.weight
       grad_output[0] for fc.weight: (20, 10) float32
  -. hook 2 never nowhere, never fires: spare was not called
"""

EMPTY = """\
backward graph of torch 2.13.0, Python 3.11.7, fxgrad 0.1.0, schema 2
device: cuda (emulated)
roots: loss
skipped: result[1] requires no grad
note: compiled modules run eagerly
no module calls: nothing was run
"""


def info(**fields):
    return replace(GraphInfo(2, "0.1.0", "2.13.0", "3.11.7", "cpu", False, "loss"), **fields)


def graph_of(*nodes, **fields):
    empty = dict.fromkeys(("roots", "modules", "calls", "variables", "hooks", "sites", "forward"), ())
    return BackwardGraph(nodes=nodes, info=info(), **(empty | fields))


def a_node(number=0, *, edges=(), shapes=((2,),), names=("result",), **fields):
    metas = tuple(TensorMeta(shape, "float32", "cpu") for shape in shapes)
    made = Node(number, f"SinBackward0_{number}", "SinBackward0", NodeKind.FUNCTION, None, 0, metas, names, edges)
    return replace(made, **fields)


def node_lines(graph):
    lines = str(graph).splitlines()
    return lines[lines.index("nodes") + 1 :]


def test_the_whole_graph_is_printed_one_node_a_line(linear_graph):
    assert str(linear_graph) == LINEAR


def test_a_graph_without_nodes_prints_how_it_was_made():
    skipped, notes = ("result[1] requires no grad",), ("compiled modules run eagerly",)
    empty = info(device="cuda", emulated=True, skipped=skipped, notes=notes, calls_reason="nothing was run")
    assert str(replace(graph_of(), info=empty)) == EMPTY


def test_sequence_numbers_do_not_change_the_text(linear_graph):
    later = tuple(replace(node, sequence_nr=node.id + 1000) for node in linear_graph.nodes)
    assert str(replace(linear_graph, nodes=later)) == str(linear_graph)


def test_control_characters_in_user_text_cannot_break_a_line_or_colour_a_terminal(linear_graph):
    hook = replace(linear_graph.hooks[0], function="evil\n\x1b[31m\u202e", owner='"<b>\r')
    text = str(replace(linear_graph, hooks=(hook, *linear_graph.hooks[1:])))
    assert '0 Module.register_backward_hook on "<b>\\r: evil\\n\\x1b[31m\\u202e, defined' in text


def test_a_name_that_a_reason_holds_already_escaped_is_not_escaped_again(linear_graph):
    site = replace(linear_graph.sites[0], reason="it is on a\\n, \n")
    assert ": it is on a\\n, \\n\n" in str(replace(linear_graph, sites=(site,)))


def test_a_hook_on_the_root_module_says_so(linear_graph):
    hook = replace(linear_graph.hooks[0], owner="")
    assert "0 Module.register_backward_hook on the root module: print_sizes" in str(
        replace(linear_graph, hooks=(hook,))
    )


def test_lone_surrogates_are_written_as_escapes_so_that_the_text_can_be_encoded():
    graph = graph_of(variables=(Variable("\ud800🔥", (), "input", TensorMeta((), "bool", "cpu"), False, True),))
    assert "  \\ud800🔥: input () bool, not in the graph" in str(graph)
    str(graph).encode()


def test_a_node_of_several_gradients_names_each():
    node = a_node(shapes=((2,), None), names=("values", "indices"))
    assert node_lines(graph_of(node)) == ["  %0 SinBackward0_0 values (2,) float32, indices (shape unknown) float32"]


def test_device_and_layout_are_printed_where_they_are_not_the_usual_ones():
    node = replace(a_node(), grad_outputs=(TensorMeta(("s0", 2), "bfloat16", "cuda:0", "sparse_coo"),))
    assert node_lines(graph_of(node)) == ["  %0 SinBackward0_0 (s0, 2) bfloat16 cuda:0 sparse_coo"]


def test_an_edge_without_argument_name_is_called_by_its_place_in_grad_input():
    node = a_node(edges=(Edge(None, None, None, 0, "unused"),))
    assert node_lines(graph_of(node)) == ["  %0 SinBackward0_0 (2,) float32   grad_input[0] -> none: unused"]


def test_a_kind_that_the_label_does_not_show_is_printed_and_so_are_hooks():
    node = a_node(kind=NodeKind.CUSTOM_FUNCTION, hooks=(2, 3), prehooks=(1,))
    line = "  %0 SinBackward0_0 <custom function> (2,) float32   hooks 2, 3   prehooks 1"
    assert node_lines(graph_of(node)) == [line]


def test_a_graph_that_lint_refuses_is_printed_all_the_same():
    edges = (Edge("a", None, 7, 0), Edge("b", None, 0, 3), Edge("c", None, None, 0))
    line = (
        "  %0 SinBackward0_0 (2,) float32   a -> %7[0] (no such node)   b -> %0[3] SinBackward0_0 (no such slot)"
        "   c -> none: no reason given"
    )
    assert node_lines(graph_of(a_node(edges=edges))) == [line]


def test_what_only_backward_decides_is_said(linear_graph):
    unknown = Gradient(0, "self", "unknown", None, None, None, "its backward is Python code")
    site = replace(linear_graph.sites[0], fires=None, times=None, grad_input=(unknown,), grad_output=())
    text = str(replace(linear_graph, sites=(site,)))
    assert (
        "0. hook 0 print_sizes at %0 AddmmBackward0_0, call fc#1, only backward decides whether it fires: the grad_fn"
        in text
    )
    assert "grad_input[0] self: unknown, its backward is Python code\n" in text


def test_a_site_that_fires_often_says_how_often(linear_graph):
    sites = tuple(replace(linear_graph.sites[0], times=times) for times in (3, None))
    text = str(replace(linear_graph, sites=sites))
    assert "call fc#1, fires 3 times: the" in text
    assert "call fc#1, fires: the" in text


def test_a_multi_grad_hook_names_its_tensors():
    hook = Hook(0, HookKind.MULTI_GRAD, "", "gather", targets=("a", "b"), mode="any", prepend=True, active=False)
    assert "  0 register_multi_grad_hook: gather, any of a and b, prepended, removed\n" in str(graph_of(hooks=(hook,)))


def test_every_unusual_state_of_a_call_is_printed(linear_graph):
    call = replace(
        linear_graph.calls[0],
        parent="#1",
        completed=False,
        grad_enabled=False,
        training=False,
        checkpointed="reentrant",
        hooks=(),
        legacy_reason="the result holds no tensor",
        input_hook_node=2,
        output_hook_node=0,
        inputs=(replace(linear_graph.calls[0].inputs[0], requires_grad=True, node_name="SinBackward0", name="x"),),
    )
    text = str(replace(linear_graph, calls=(call,)))
    assert "fc#1 Linear(args[0] x (8, 10) float32 SinBackward0 (not in the graph)) -> " in text
    (line,) = [line for line in text.splitlines() if line.startswith("  fc#1 ")]
    assert line.endswith(
        "   in #1   raised   no grad   eval   reentrant checkpoint"
        "   no tensor for a non-full hook: the result holds no tensor"
        "   inputs through %2 TBackward0_0   outputs through %0 AddmmBackward0_0"
    )


def test_a_deep_chain_is_printed_without_recursion():
    nodes = (a_node(i, edges=(Edge("self", None, i + 1, 0),)) for i in range(20_000))
    graph = graph_of(*nodes, a_node(20_000))
    assert len(str(graph).splitlines()) == 20_006
