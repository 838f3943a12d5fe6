"""Holds torch.compile back while a forward is recorded: a compiled region would show as one node.

torch's own operators with functions for arguments (``torch.cond``) are compiled whenever they are called, and are other
operators where they are not: those keep the compiler that the program has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch

from fxgrad.observe.record.recorder import Recorder

_EAGER = "force_eager"
Context = Callable[[], AbstractContextManager[Any]]


class Compiler:
    """torch.compile, as far as it has been imported: importing it takes seconds.

    `unwatched` is a context in which no registration of a hook is seen: what the compiler registers is not the program's.
    """

    def __init__(self, unwatched: Context) -> None:
        self._unwatched: Context = unwatched
        self._held_back = ExitStack()
        self._stance: Any = None

    def hold_back(self) -> None:
        """Let compiled code run as it is written from now on, until `let_go`."""
        if self._stance is None and (frames := sys.modules.get("torch._dynamo.eval_frame")) is not None:
            self._stance = frames._stance
            self._held_back.enter_context(torch.compiler.set_stance(_EAGER))

    def let_go(self) -> None:
        """Put back the stance that the program has chosen; nothing that was watched is held any more."""
        self._stance, self._unwatched = None, nullcontext
        self._held_back.close()

    @contextmanager
    def free(self) -> Iterator[None]:
        """Inside it the compiler does what it does without fxgrad."""
        with self._as_chosen(), self._unwatched():
            yield

    def _as_chosen(self) -> AbstractContextManager[Any]:
        chosen = self._stance
        if chosen is None or chosen.stance == _EAGER:
            return nullcontext()
        options = {"skip_guard_eval_unsafe": chosen.skip_guard_eval_unsafe, "force_backend": chosen.backend}
        freed: AbstractContextManager[Any] = torch.compiler.set_stance(chosen.stance, **options)
        return freed


def patch_compile(recorder: Recorder, compiler: Compiler, unpatched: Context) -> Callable[..., Callable[..., Any]]:
    """``torch.compile`` for a program that is recorded. `unpatched` is a context in which torch is not monkey-patched: what
    is compiled there must not see the patches.

    Operators that take functions compile themselves (torch/_higher_order_ops/utils.py, ``_hop_compile_and_call``); each
    call of one is recorded as a whole.
    """
    compile_function: Callable[..., Callable[..., Any]] = torch.compile

    def record_compile(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        compiled = compile_function(*args, **kwargs)
        if recorder.ignores_this_thread():
            return compiled
        if not _is_torchs(sys._getframe(1)):
            compiler.hold_back()
            return compiled

        def call_compiled(*args: Any, **kwargs: Any) -> Any:
            recorder.before_unseen_code()
            with unpatched(), compiler.free():
                return compiled(*args, **kwargs)

        def record_call(*args: Any, **kwargs: Any) -> Any:
            return recorder.ops.call_whole(call_compiled, compiled, args, kwargs)

        return record_call

    return record_compile


def _is_torchs(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
