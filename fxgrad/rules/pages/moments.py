"""Pages of the rules about hooks that are called at another moment, or for something else, than one thinks."""

from __future__ import annotations

from fxgrad.rules.page import Page

MOMENTS_PAGES = (
    Page(
        code="FXG112",
        title="A tensor hook, then a change in place",
        what="""
        The hook of Tensor.register_hook gets a gradient that does not belong to the tensor's value, or is never called.
        """,
        why="""
        Tensor.register_hook puts the hook on the grad_fn that the tensor has at that moment. A change in place gives
        the tensor another grad_fn, and the hook stays where it is. There it sees the gradient of the value from before.
        Where the tensor is a view, the old node is often not part of the graph any more, and the hook is not called.
        retain_grad() is different: it moves along.
        """,
        source="torch/csrc/autograd/variable.cpp, rebase_history and VariableHooks::grad_fn",
        example="""
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True) * 1
        >>> handle = x.register_hook(lambda grad: print(grad))
        >>> y = (x.mul_(10) * 3).sum()
        >>> y.backward()
        tensor([30., 30.])
        """,
        fix="""
        Register after the change, or make the change out-of-place (x = x.mul(10)).
        """,
    ),
    Page(
        code="FXG113",
        title="param.grad inside a module hook",
        what="""
        module.weight.grad is None in a backward hook of the module, or has the value of the last step.
        """,
        why="""
        AccumulateGrad adds into .grad, and is a node of its own, which the engine runs in its order. A full hook runs
        when the gradients of the module's inputs are there; whether those of the parameters are as well depends on the
        graph. Where no input requires grad, the hook runs before anything else of the module.
        """,
        source="torch/csrc/autograd/engine.cpp; torch/csrc/autograd/functions/accumulate_grad.cpp",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> def show(module, grad_input, grad_output):
        ...     print(module.weight.grad)
        >>> handle = linear.register_full_backward_hook(show)
        >>> linear(torch.ones(4, 3)).sum().backward()
        None
        """,
        fix="""
        Use parameter.register_post_accumulate_grad_hook, which is called with the parameter when its .grad is there.
        """,
    ),
    Page(
        code="FXG115",
        title="Hooks under torch.utils.checkpoint",
        what="""
        A forward hook is called a second time; a backward hook is called at another time than expected; the hook of a parameter
        is called several times.
        """,
        why="""
        A checkpoint runs its part of forward again when backward comes to it, until it has what it did not save. Without reentrance the hooks sit on the
        nodes of the first run and are called once; the second run makes nodes that are thrown away.

        A reentrant checkpoint (use_reentrant=True) runs forward without gradients, so the hooks find no node; the
        second run, in backward, has them, and a backward inside of backward calls them. That one adds into .grad of the
        parameters too, and calls their hooks, once for each checkpoint.

        So does the backward of a custom Function that calls backward() or torch.autograd.grad, as reversible blocks do. fxgrad
        reads the code of backward for that, and of the functions that it names; what hooks such a backward comes to, it
        leaves open.
        """,
        source="torch/utils/checkpoint.py, CheckpointFunction and _checkpoint_without_reentrant_generator",
        example="""
        >>> import torch
        >>> from torch.utils.checkpoint import checkpoint
        >>> linear = torch.nn.Linear(3, 3)
        >>> handle = linear.weight.register_hook(lambda grad: print("fired"))
        >>> x = torch.ones(4, 3, requires_grad=True)
        >>> def twice(x, reentrant):
        ...     for _ in range(2):
        ...         x = checkpoint(linear, x, use_reentrant=reentrant)
        ...     return x.sum()
        >>> twice(x, True).backward()
        fired
        fired
        >>> twice(x, False).backward()
        fired
        """,
        fix="""
        Use use_reentrant=False, which PyTorch recommends as well. Do not count runs in forward hooks.
        """,
    ),
    Page(
        code="FXG116",
        title="A hook keeps the graph alive",
        what="""
        Memory grows with each step, or is not given back after backward.
        """,
        why="""
        A hook's function keeps what it refers to: variables of the function around it, defaults, arguments of a
        partial. If that is a tensor with a grad_fn, the graph behind it, with all saved tensors, lives as long as the
        hook: on a module or a parameter, until the handle is removed.

        On a tensor or a node that is part of that graph, the node holds the hook and the hook holds the graph. This
        circle goes through C++, where Python's garbage collector does not look, so it is never freed.
        """,
        source="torch/csrc/autograd/python_hook.cpp; torch/utils/hooks.py",
        example="""
        >>> import gc, torch, weakref
        >>> class Big: pass
        >>> def step(hook_on_it):
        ...     output = torch.nn.Linear(3, 3)(torch.ones(1, 3))
        ...     output.grad_fn.metadata["big"] = big = Big()
        ...     if hook_on_it:
        ...         handle = output.register_hook(lambda grad: print(output.shape))
        ...     return weakref.ref(big)
        >>> for hook_on_it in (False, True):
        ...     seen = step(hook_on_it)
        ...     collected = gc.collect()
        ...     print("alive" if seen() else "freed")
        freed
        alive
        """,
        fix="""
        Refer to output.detach(), to a shape or a number, instead of the tensor itself; or remove the handle when
        backward is done.
        """,
    ),
)
