"""Pages of the rules about what full hooks do not see, or do not stand."""

from __future__ import annotations

from fxgrad.rules.page import Page

FULL_HOOKS_PAGES = (
    Page(
        code="FXG106",
        title="A full hook's output is a view and is modified in place",
        what="""
        With a full hook, forward raises "Output 0 of BackwardHookFunction is a view and is being modified inplace";
        without the hook, all is well.
        """,
        why="""
        A full hook or full pre-hook passes the module's positional arguments and results through BackwardHookFunction,
        whose outputs are views of its inputs. Changing such a view in place would put the change behind the hook's
        node, so autograd refuses: for the result itself, for a view of it, and for an argument inside forward. It is
        allowed under no_grad, and where nothing requires grad.
        """,
        source="torch/nn/modules/_functions.py, BackwardHookFunction; torch/csrc/autograd/variable.cpp",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> handle = linear.register_full_backward_hook(lambda *given: None)
        >>> output = linear(torch.ones(4, 3))
        >>> output.relu_()
        Traceback (most recent call last):
            ...
        RuntimeError: Output 0 of BackwardHookFunction... is a view and is being modified inplace. ...
        >>> tuple(output.clone().relu_().shape)
        (4, 2)
        """,
        fix="""
        Make the operation out-of-place (ReLU(inplace=False), `x = x + y` for `x += y`), or give it a clone.
        """,
    ),
    Page(
        code="FXG107",
        title="Keyword arguments and nested tensors are missing",
        what="""
        grad_input or grad_output of a full hook has None, or nothing, for a tensor that does get a gradient.
        """,
        why="""
        A full hook looks at positional arguments, and at the elements of the result, that are tensors themselves. For
        a tuple, list or dict that holds tensors there is one entry, None; for keyword arguments there is none.
        """,
        source="torch/utils/hooks.py, BackwardHook._apply_on_tensors",
        example="""
        >>> import torch
        >>> cell = torch.nn.LSTMCell(4, 3)
        >>> def show(module, grad_input, grad_output):
        ...     print([None if grad is None else tuple(grad.shape) for grad in grad_input])
        >>> handle = cell.register_full_backward_hook(show)
        >>> x, h, c = (torch.ones(5, size, requires_grad=True) for size in (4, 3, 3))
        >>> hidden, state = cell(x, (h, c))
        >>> hidden.sum().backward()
        [(5, 4), None]
        """,
        fix="""
        Hand the tensors over one by one as positional arguments, return them in one flat tuple, or put
        Tensor.register_hook on them.
        """,
    ),
    Page(
        code="FXG108",
        title="Full and non-full hooks on one module",
        what="""
        Registering a hook raises "Cannot use both regular backward hooks and full backward hooks", even after the
        other hook was removed; or a non-full hook beside a full pre-hook gets the gradients of the results twice.
        """,
        why="""
        A module keeps all its backward hooks in one dict, and a flag, _is_full_backward_hook, that says which kind it
        holds. The first registration sets the flag, removing the handle does not reset it. The same holds for global
        hooks.

        A global hook beside a local one, and a full pre-hook beside a non-full hook, are allowed. The full one then
        puts its BackwardHookFunction on the results before the non-full one looks for their grad_fn.
        """,
        source="torch/nn/modules/module.py, register_backward_hook and register_full_backward_hook",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> linear.register_full_backward_hook(lambda *given: None).remove()
        >>> linear.register_backward_hook(lambda *given: None)
        Traceback (most recent call last):
            ...
        RuntimeError: Cannot use both regular backward hooks and full backward hooks on a single Module. ...
        """,
        fix="""
        Use full hooks only. Where a non-full one was registered once, make a new module, or set its
        _is_full_backward_hook to None knowing that no hook is left on it.
        """,
    ),
)
