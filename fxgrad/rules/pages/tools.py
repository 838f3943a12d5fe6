"""Pages of the rules about tools that lose hooks."""

from __future__ import annotations

from fxgrad.rules.page import Page

TOOLS_PAGES = (
    Page(
        code="FXG301",
        title="torch.fx.symbolic_trace loses hooks, or fails",
        what="""
        After symbolic_trace, hooks on some modules are not called any more, and those on others are. Or it raises, as
        in "symbolically traced variables cannot be used as inputs to control flow".
        """,
        why="""
        The Tracer calls modules that are leaves to it as a whole: those of torch.nn and torch.ao.nn, Sequential
        excepted. Of all others, and of the model itself, it runs forward without calling the module, and puts the
        operations into the graph. Hooks live in Module.__call__, so only those of leaves, and of what these hold,
        remain. Hooks on parameters remain, too: the parameters are the same.

        It runs forward with Proxies for arguments and parameters. They have no values, so it raises where forward asks
        for one: in a condition, or in float, int or an index. fxgrad saw forward ask, and names the line. What else
        forward does with shapes and types may stop it as well.
        """,
        source="torch/fx/_symbolic_trace.py, Tracer.is_leaf_module and Tracer.call_module; torch/fx/proxy.py",
        example="""
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 3)))
        >>> for name, module in model.named_modules():
        ...     handle = module.register_full_backward_hook(lambda *given, name=name: print(repr(name)))
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> model(x).sum().backward()
        '0.0'
        '0'
        ''
        >>> torch.fx.symbolic_trace(model)(x).sum().backward()
        '0.0'
        """,
        fix="""
        Give the Tracer an is_leaf_module that answers True for the hooked modules; register hooks of the model on the
        GraphModule. fxgrad's own trace.forward is recorded from a run, in which every hook is called.
        """,
    ),
    Page(
        code="FXG302",
        title="TorchScript takes no backward hooks",
        what="""
        torch.jit.trace raises "Modules that have backward hooks assigned can't be compiled"; after torch.jit.script the
        hooks are gone; "register_full_backward_hook is not supported on ScriptModules".
        """,
        why="""
        A ScriptModule runs outside of Python, and Module.__call__ is not used inside it. torch.jit.script leaves the
        tables of backward hooks behind when it copies a module; torch.jit.trace refuses modules that have such hooks.
        """,
        source="torch/jit/_trace.py, _recursive.py (ignored_attributes) and _script.py (ScriptModule)",
        example="""
        >>> import torch
        >>> linear = torch.nn.Linear(3, 2)
        >>> handle = linear.register_full_backward_hook(lambda *given: print("fired"))
        >>> torch.jit.script(linear)(torch.ones(4, 3)).sum().backward()
        >>> torch.jit.trace(linear, torch.ones(4, 3))
        Traceback (most recent call last):
            ...
        ValueError: Modules that have backward hooks assigned can't be compiled: ...
        """,
        fix="""
        Hook the tensors that go into the ScriptModule and come out of it (Tensor.register_hook), or its parameters.
        """,
    ),
    Page(
        code="FXG303",
        title="torch.compile passes hooks by",
        what="""
        A hook on a module inside a compiled one is not called; or the compiled model got slow with it.
        """,
        why="""
        Dynamo looks for hooks when it compiles, at the first call. What it finds makes it break the graph there, and
        run that part eagerly. It does not look again: a hook that is registered later, on a module inside, is not
        called. Hooks on the compiled module itself, on tensors outside and on parameters are called in any case.
        """,
        source="torch/_dynamo/config.py, skip_nnmodule_hook_guards",
        example="""
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3))
        >>> compiled = torch.compile(model, backend="aot_eager")
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> output = compiled(x)
        >>> handle = model[0].register_full_backward_hook(lambda *given: print("fired"))
        >>> compiled(x).sum().backward()
        >>> torch._dynamo.reset()
        >>> compiled(x).sum().backward()
        fired
        """,
        fix="""
        Register hooks before the first call, or reset Dynamo after registering (torch._dynamo.reset()). For a look at
        gradients, use the model uncompiled: fxgrad traces it so.
        """,
    ),
)
