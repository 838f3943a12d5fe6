"""Pages of the rules about a hook's return value and the calls that carry a hook."""

from __future__ import annotations

from fxgrad.rules.page import Page

CALLS_PAGES = (
    Page(
        code="FXG109",
        title="What a hook may return",
        what="""
        backward raises "hook has returned an incorrect number of values (got 1, but expected 3)", "can't replace a
        None gradient with a non-None value" or "has changed the size of value".
        """,
        why="""
        A hook that returns something else than None replaces the gradients. It must return a tuple with one entry for
        each entry of what it replaces: grad_input for non-full, full and node hooks, grad_output for pre-hooks; a
        tensor hook returns one tensor. Shape, dtype and layout stay. For a non-full hook the number is that of the
        node's arguments (FXG101), not of the module's. A full hook or pre-hook that returns a bare tensor has its first
        dimension counted.
        """,
        source="torch/csrc/autograd/python_hook.cpp; torch/utils/hooks.py, BackwardHook",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(10, 20)
        >>> handle = linear.register_backward_hook(lambda module, grad_input, grad_output: (grad_input[0],))
        >>> linear(torch.ones(8, 10)).sum().backward()
        Traceback (most recent call last):
            ...
        RuntimeError: hook '<lambda>' has returned an incorrect number of values (got 1, but expected 3)
        """,
        fix="""
        Return None, or a tuple as long as what is replaced, with None where it was None. fxgrad shows the entries and
        shapes for each hook of your model.
        """,
    ),
    Page(
        code="FXG110",
        title="A removed hook still fires",
        what="""
        handle.remove() was called, and backward still calls the hook.
        """,
        why="""
        Each call of a module takes along the hooks that the module has at that moment and puts them on nodes of the
        graph. handle.remove() takes the hook off the module, not off those nodes. Hooks on tensors and nodes are
        different: removing them works until backward gets there.
        """,
        source="torch/nn/modules/module.py, Module._get_backward_hooks",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> handle = linear.register_full_backward_hook(lambda *given: print("fired"))
        >>> output = linear(torch.ones(4, 3, requires_grad=True))
        >>> handle.remove()
        >>> output.sum().backward()
        fired
        """,
        fix="""
        Remove it before forward, or let the hook return at once when a flag of yours is off.
        """,
    ),
    Page(
        code="FXG111",
        title="One module, several calls: which one is this?",
        what="""
        The hook of a recurrent cell, or of a module that is used in several places, runs several times with similar
        gradients.
        """,
        why="""
        Each call puts the hook on nodes of its own, so it fires once per call, as a rule the last call first. It gets
        the module and the gradients, and nothing that tells the calls apart.
        """,
        source="torch/nn/modules/module.py, Module._call_impl",
        example="""
        >>> import torch
        >>> cell = torch.nn.RNNCell(3, 3)
        >>> def show(module, grad_input, grad_output):
        ...     print(grad_output[0].max())
        >>> handle = cell.register_full_backward_hook(show)
        >>> first, second = (cell(torch.ones(1, 3, requires_grad=True)) for _ in range(2))
        >>> (1 * first + 2 * second).sum().backward()
        tensor(2.)
        tensor(1.)
        """,
        fix="""
        Count the runs in the order that fxgrad shows. Or register in a forward hook on each result, with a number:
        output.register_hook(functools.partial(show, number)).
        """,
    ),
)
