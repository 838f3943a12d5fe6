"""Pages of the rules about whether and when a hook fires."""

from __future__ import annotations

from fxgrad.rules.page import Page

FIRING_PAGES = (
    Page(
        code="FXG104",
        title="The hook never fires",
        what="""
        backward runs, gradients appear, and the hook is not called: without an error, often without a warning.
        """,
        why="""
        A hook fires when backward executes the node that it sits on. There is no such node when the call ran under
        no_grad, when nothing in the result requires grad, when the hook was registered after forward, or when the
        module itself was not called (its forward was, or only its parameters were used). A full hook also finds none
        when forward returns a list, a dict or a dataclass. And there is one that is not executed when the result plays
        no part in the loss.
        """,
        source="torch/nn/modules/module.py, Module._call_impl; torch/utils/hooks.py, BackwardHook",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> handle = linear.register_full_backward_hook(lambda *given: print("fired"))
        >>> x = torch.ones(4, 3, requires_grad=True)
        >>> linear.forward(x).sum().backward()
        >>> linear(x).sum().backward()
        fired
        """,
        fix="""
        fxgrad names the reason for each hook of your model. In general: call modules, not their forward; return a
        Tensor or a tuple of Tensors; register before forward; keep gradients enabled; use the result.
        """,
    ),
    Page(
        code="FXG105",
        title="The hook fires before the module's backward is done",
        what="""
        grad_input is all None, or has only some of the module's inputs; parameters' gradients are missing or old when
        the hook runs.
        """,
        why="""
        A non-full hook runs right after one node of the module (FXG101); what lies behind it, often most of the module,
        runs later.

        A full hook runs when the gradients of the positional arguments are complete. Where none of them requires grad
        there is nothing to wait for: PyTorch puts no node on the inputs, calls the hook from the node on the outputs,
        before anything in the module has run, with None for every argument, and warns. Parameters' gradients may come
        later than either hook.
        """,
        source="torch/utils/hooks.py, BackwardHook.setup_output_hook",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> def show(module, grad_input, grad_output):
        ...     print(grad_input, module.weight.grad)
        >>> handle = linear.register_full_backward_hook(show)
        >>> linear(torch.ones(4, 3)).sum().backward()
        (None,) None
        """,
        fix="""
        Let a positional input require grad (x.requires_grad_()) if you want its gradient. For parameters use
        register_post_accumulate_grad_hook, which runs when .grad is ready.
        """,
    ),
    Page(
        code="FXG114",
        title="autograd.grad, or backward(inputs=), does not run the hook",
        what="""
        The hook fires in loss.backward(), and not when gradients of chosen tensors are asked for.
        """,
        why="""
        With inputs the engine executes the nodes on the way from the roots to one of them, and no other. So hooks on
        nodes that lead to none of them are not called; backward() does the same with its inputs.

        torch.autograd.grad does not execute the node of an input either, where no other input lies behind it: it takes
        the gradient that arrives there. Tensor hooks and retain_grad are called before that, hooks of nodes and
        modules, and those that run after .grad was added to, are not.
        """,
        source="torch/csrc/autograd/engine.cpp, GraphTask::init_to_execute and Engine::evaluate_function",
        example="""
        >>> import torch
        >>> first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)
        >>> handle = first.register_full_backward_hook(lambda *given: print("first fired"))
        >>> x = torch.ones(4, 3, requires_grad=True)
        >>> loss = second(first(x)).sum()
        >>> grads = torch.autograd.grad(loss, [second.weight], retain_graph=True)
        >>> grads = torch.autograd.grad(loss, [x])
        first fired
        """,
        fix="""
        List a tensor whose gradient comes through the hook's node, or call backward without inputs.
        fxgrad.trace(...).predict(inputs=...), and fxgrad explain --inputs, show which hooks such a call runs.
        """,
    ),
)
