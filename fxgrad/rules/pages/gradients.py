"""Pages of the rules about gradients that get lost."""

from __future__ import annotations

from fxgrad.rules.page import Page

GRADIENTS_PAGES = (
    Page(
        code="FXG201",
        title="Why is this parameter's .grad None?",
        what="""
        backward runs without an error, and some parameter's .grad is still None; the optimizer passes it by in silence.
        """,
        why="""
        A gradient comes to a parameter by the nodes that forward made from it. An operation makes a node only where
        gradients are enabled, where an argument requires grad, and where its result is of a floating point type. So the
        way ends at detach() and .data, under no_grad and inference_mode, at integers and truth values (argmax,
        comparisons, casts), and where a number is taken out with item() or an array with numpy(). It also ends where
        the result is not used, where an operation has no derivative by that argument, or where requires_grad is False.

        A tensor that was computed from others is no leaf: backward hands its gradient on and stores none.
        """,
        source="torch/csrc/autograd/functions/utils.h, compute_requires_grad",
        example="""
        >>> import torch
        >>> first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
        >>> second(first(torch.ones(4, 3)).detach()).sum().backward()
        >>> first.weight.grad is None, second.weight.grad is None
        (True, False)
        """,
        fix="""
        fxgrad names the operation and its line. Leave it out, or freeze the parameters with requires_grad_(False), so
        that it is clear that they are not trained. For a tensor that is no leaf call retain_grad() before backward.
        """,
    ),
    Page(
        code="FXG202",
        title="Element 0 of tensors does not require grad",
        what="""
        backward raises "element 0 of tensors does not require grad and does not have a grad_fn".
        """,
        why="""
        Nothing that the loss was computed from requires grad any more: autograd was left on the way to it, for one of
        the reasons of FXG201. What counts is the last place where an operation was given a tensor that requires grad
        and returned one that does not.
        """,
        source="torch/csrc/autograd/python_engine.cpp, THPEngine_run_backward",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> (linear(torch.ones(4, 3)) > 0).float().mean().backward()
        Traceback (most recent call last):
            ...
        RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn
        """,
        fix="""
        fxgrad names the place nearest to the loss, when it is asked to trace such a model. Train on a loss that can be
        differentiated: cross_entropy in place of the number of right answers, for instance.
        """,
    ),
    Page(
        code="FXG203",
        title="Modified by an inplace operation; backward a second time",
        what="""
        backward raises "one of the variables needed for gradient computation has been modified by an inplace
        operation", or "Trying to backward through the graph a second time".
        """,
        why="""
        Nodes save tensors of forward: multiplication its factors, exp its result. Each tensor counts its changes in
        place, and a node that finds another number than it saved raises, as its gradient would be wrong. Views and
        detached tensors share the counter; .data does not, and then the gradient is wrong without an error.

        backward frees what was saved, unless retain_graph=True. Whatever is kept from one step to the next with its
        graph, as the hidden state of a recurrent module, leads the second backward into the first step's graph.
        """,
        source="torch/csrc/autograd/saved_variable.cpp, SavedVariable::unpack",
        example="""
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = x.exp()
        >>> handle = y.mul_(2)
        >>> y.sum().backward()
        Traceback (most recent call last):
            ...
        RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation: ...
        >>> z = x.exp().sum()
        >>> z.backward()
        >>> z.backward()
        Traceback (most recent call last):
            ...
        RuntimeError: Trying to backward through the graph a second time ...
        """,
        fix="""
        fxgrad names the node, the line that made it and the line that changed what it saved: use an operation that is
        not in place there, or a clone. Between steps, keep hidden.detach().
        """,
    ),
    Page(
        code="FXG204",
        title="Autograd sees no use of these parameters",
        what="""
        Parameters stay as they were initialized. DistributedDataParallel raises "Expected to have finished reduction in
        the prior iteration before starting a new one".
        """,
        why="""
        No operation that autograd sees is given the parameter: its module is never called, or only on another branch;
        or it is used inside the forward of a custom Function, to whose apply it is no argument.
        DistributedDataParallel counts the gradients that arrive, and the missing ones keep it waiting; gradients that
        get lost on the way (FXG201) do the same.
        """,
        source="torch/nn/parallel/distributed.py; torch/csrc/distributed/c10d/reducer.cpp",
        example="""
        >>> import torch
        >>> class Heads(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.one, self.two = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
        ...     def forward(self, x):
        ...         return self.one(x)
        >>> model = Heads()
        >>> model(torch.ones(4, 3)).sum().backward()
        >>> [name for name, parameter in model.named_parameters() if parameter.grad is None]
        ['two.weight', 'two.bias']
        """,
        fix="""
        Use them, take them out of the model, or freeze them with requires_grad_(False). Where the branch depends on the
        data, DistributedDataParallel takes find_unused_parameters=True.
        """,
    ),
)
