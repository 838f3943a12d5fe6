"""Pages of the rules about which node a hook sits on."""

from __future__ import annotations

from fxgrad.rules.page import Page

ATTACHMENT_PAGES = (
    Page(
        code="FXG101",
        title="A non-full backward hook sits on one autograd node",
        what="""
        register_backward_hook gives other gradients than the module's: more of them, fewer, in another order, of
        shapes that no argument and no parameter has, or None where the input is expected.
        """,
        why="""
        After forward, PyTorch looks for the first tensor in the result and registers the hook on its grad_fn: on one
        autograd node. grad_input then has one entry for each differentiable argument of the function that made this
        tensor, in the order of that function's schema; grad_output one for each of its results. What the module's
        arguments and parameters are plays no part.

        So Linear shows (bias, input, weight transposed), the arguments of addmm, and on the CPU LSTMCell shows the
        two factors of the product that gives the hidden state.
        """,
        source="torch/nn/modules/module.py, Module._call_impl: `grad_fn.register_hook(wrapper)`",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(10, 20)
        >>> def show(module, grad_input, grad_output):
        ...     print([None if grad is None else tuple(grad.shape) for grad in grad_input])
        >>> handle = linear.register_backward_hook(show)
        >>> output = linear(torch.ones(8, 10))
        >>> output.grad_fn.name()
        'AddmmBackward0'
        >>> output.sum().backward()
        [(20,), None, (10, 20)]
        """,
        fix="""
        Use register_full_backward_hook: one entry per positional argument, one per result. For a parameter's gradient
        use its register_post_accumulate_grad_hook, for one function's gradients tensor.grad_fn.register_hook.
        """,
    ),
    Page(
        code="FXG102",
        title="Another device, kernel or version gives another node",
        what="""
        The same module and hook report other gradients on the CPU than on CUDA, or after an update of PyTorch.
        """,
        why="""
        A non-full hook sits on the node of the function that made the result (FXG101), and PyTorch chooses that
        function: by device, dtype, size, and which libraries are switched on. LSTMCell is one fused function with five
        arguments on CUDA, XPU and PrivateUse1, and many elementary ones on the CPU. LSTM runs through cuDNN on CUDA
        and through oneDNN or elementary functions on the CPU.
        """,
        source="aten/src/ATen/native/RNN.cpp, and native_functions.yaml for which function belongs to which backend",
        example="""
        >>> import torch
        >>> cell = torch.nn.LSTMCell(4, 3)
        >>> hidden, state = cell(torch.ones(5, 4))
        >>> hidden.grad_fn.name()   # on CUDA: ThnnFusedLstmCellBackward0
        'MulBackward0'
        """,
        fix="""
        Use register_full_backward_hook, whose entries are the module's own arguments and results everywhere. To see
        the other side here, trace with device="cuda": without CUDA, fxgrad emulates the device for that. For a TARGET on
        the command line, FXG102 then names both nodes, that on the device and that on the CPU.
        """,
    ),
    Page(
        code="FXG103",
        title="The hooked node was made by another module",
        what="""
        The hook on a container, on an activation or on a module that hands its input through shows gradients of another
        module; or two hooks on two modules always show the same.
        """,
        why="""
        A non-full hook takes the grad_fn that the result has when forward returns (FXG101). Where the module returns
        its argument as it is (Identity, Dropout in evaluation), that node was made before, by another module. Where it
        returns what a module inside it made (Sequential), it is that one's node.
        """,
        source="torch/nn/modules/module.py, Module._call_impl: `grad_fn = var.grad_fn`",
        example="""
        >>> import torch
        >>> linear, identity = torch.nn.Linear(3, 2), torch.nn.Identity()
        >>> made = linear(torch.ones(4, 3))
        >>> identity(made).grad_fn is made.grad_fn
        True
        """,
        fix="""
        Use register_full_backward_hook: it puts nodes of its own around the module's arguments and results. Or hook
        the module that makes the tensor.
        """,
    ),
)
