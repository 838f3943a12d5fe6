"""What the docstring of register_multi_grad_hook says."""

import pytest
from module_hooks import site_of, statuses
from recorded_program import held
from registering import leaf, on_tensor
from torch.autograd.graph import register_multi_grad_hook

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using")


# register_multi_grad_hook


def several(notebook, mode, tensors):
    return register_multi_grad_hook(tensors, notebook.several(notebook.name(mode), mode), mode=mode)


# "all": called once the gradients of all are computed; a tensor that is not in the graph is ignored, and passed as None.
def test_an_all_hook_ignores_what_is_not_in_the_graph(notebook):
    def program():
        a, b = leaf(), leaf()
        c, d = a * b, a * b
        several(notebook, "all", [a, b, c, d])
        return c.sum()

    graph, called = held(notebook, program)
    assert called == ["all"]
    assert statuses(site_of(graph, "all").grad_output) == ["tensor", "tensor", "tensor", "none"]


# The same of a tensor that none of the inputs= need.
def test_an_all_hook_ignores_what_inputs_do_not_need(notebook):
    a, b = leaf(), leaf()

    def program():
        c = a * b
        several(notebook, "all", [a, b, c])
        return c.sum()

    graph, _ = held(notebook, program, inputs=[a])
    assert statuses(site_of(graph, "all").grad_output) == ["tensor", "none", "tensor"]


# "any": called with the first of the gradients that is computed.
def test_an_any_hook_gets_the_first_gradient_alone(notebook):
    def program():
        a = leaf()
        c = a * 2
        several(notebook, "any", [a, c])
        return c.sum()

    graph, called = held(notebook, program)
    assert called == ["any"]
    assert graph.nodes[site_of(graph, "any").node].name == "MulBackward0"
    assert len(site_of(graph, "any").grad_output) == 1


# handle.remove() removes it.
@pytest.mark.parametrize("mode", ["all", "any"])
def test_a_removed_multi_grad_hook_is_not_called(notebook, mode):
    def program():
        a = leaf()
        several(notebook, mode, [a, a * 2]).remove()
        on_tensor(notebook, a, "kept")
        return a.exp()

    _, called = held(notebook, program)
    assert called == ["kept"]
