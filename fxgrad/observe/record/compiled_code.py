"""Finds the code that torch.compile has made of the functions around a module call.

Dynamo compiles a frame once and then runs what it has made as long as its guards hold. The guards do not look at hooks
(torch/_dynamo/config.py, skip_nnmodule_hook_guards): what was compiled before a module had a hook does not call it.

Sources relied on: torch/_dynamo/eval_frame.py (compile_wrapper, DisableContext, _debug_get_cache_entry_list),
torch/_dynamo/convert_frame.py (input_codes).
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

CompiledCode = tuple[CodeType, tuple[CodeType, ...]]
"""A function's code, and what Dynamo has compiled of it."""


def list_compiled_code() -> dict[int, CodeType]:
    """Everything that Dynamo has compiled so far and still holds, by its identity: `torch._dynamo.reset` drops it all."""
    converter = sys.modules.get("torch._dynamo.convert_frame")
    if converter is None:
        return {}
    functions = [reference() for reference in converter.input_codes.seen]
    return {id(made): made for code in functions if code is not None for made in _find_compiled(code)}


def find_compiled_around(frame: FrameType | None, region: FrameType | None) -> tuple[CompiledCode, ...]:
    """What Dynamo has compiled of the functions that are running, innermost first, as far as a compiled program would run
    them compiled.

    `region` is the frame that calls the outermost module that was compiled in place; there torch.compile is not on the
    stack while the module runs as it is written.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is None:
        return ()
    enters, leaves = _list_inner_code(compiler._TorchDynamoContext), _list_inner_code(compiler.DisableContext)
    running: list[CodeType] = []
    inside = 0
    while frame is not None and frame.f_code not in leaves:
        if frame is region or frame.f_code in enters:
            inside = len(running)
        running.append(frame.f_code)
        frame = frame.f_back
    found = [(code, tuple(_find_compiled(code))) for code in running[:inside]]
    return tuple([(code, compiled) for code, compiled in found if compiled])


def _find_compiled(code: CodeType) -> list[CodeType]:
    entries: list[Any] = sys.modules["torch._dynamo.eval_frame"]._debug_get_cache_entry_list(code)
    return [entry.code for entry in entries]


def _list_inner_code(context: Any) -> list[CodeType]:
    """The code of the functions that a context of torch._dynamo puts around what it compiles, or does not compile."""
    return [constant for constant in context.__call__.__code__.co_consts if isinstance(constant, CodeType)]
