"""Has compiled code run as it is written while a forward is recorded: a compiled region would show as one node.

torch's own operators with functions for arguments (``torch.cond``) are compiled whenever they are called, and are other
operators where they are not: those keep the compiler that the program has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from fxgrad.observe.registrations import RegistrationWatch

if TYPE_CHECKING:
    from fxgrad.observe.forward import ForwardRecorder

_EAGER = "force_eager"


class Compiler:
    """torch.compile, as far as it has been imported: importing it takes seconds.

    What it registers while it compiles are no hooks of the program's, so `watch` does not see that.
    """

    def __init__(self, watch: RegistrationWatch) -> None:
        self._watch: RegistrationWatch | None = watch
        self._held_back = ExitStack()
        self._stance: Any = None

    def hold_back(self) -> None:
        """Let compiled code run as it is written from now on, until `let_go`."""
        if self._stance is None and (frames := sys.modules.get("torch._dynamo.eval_frame")) is not None:
            self._stance = frames._stance
            self._held_back.enter_context(torch.compiler.set_stance(_EAGER))

    def let_go(self) -> None:
        """Put back the stance that the program has chosen; nothing that was watched is held any more."""
        self._stance = self._watch = None
        self._held_back.close()

    @contextmanager
    def free(self) -> Iterator[None]:
        """Inside it the compiler does what it does without fxgrad."""
        with self._as_chosen(), nullcontext() if self._watch is None else self._watch.paused_inside():
            yield

    def _as_chosen(self) -> AbstractContextManager[Any]:
        chosen = self._stance
        if chosen is None or chosen.stance == _EAGER:
            return nullcontext()
        options = {"skip_guard_eval_unsafe": chosen.skip_guard_eval_unsafe, "force_backend": chosen.backend}
        freed: AbstractContextManager[Any] = torch.compiler.set_stance(chosen.stance, **options)
        return freed


def watched_compile(
    recorder: ForwardRecorder, paused: Callable[[], AbstractContextManager[None]]
) -> Callable[..., Callable[..., Any]]:
    """``torch.compile`` for a program that is recorded. Inside `paused` nothing of torch's is wrapped: what is compiled
    there is not to run into what is wrapped.

    Operators that take functions compile themselves (torch/_higher_order_ops/utils.py, ``_hop_compile_and_call``); each
    call of one is recorded as a whole.
    """
    compile_function: Callable[..., Callable[..., Any]] = torch.compile

    def compile_watched(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        compiled = compile_function(*args, **kwargs)
        if recorder.ignores_this_thread():
            return compiled
        if not _is_torchs(sys._getframe(1)):
            recorder.compiler.hold_back()
            return compiled

        def call_compiled(*args: Any, **kwargs: Any) -> Any:
            recorder.before_unseen_code()
            with paused(), recorder.compiler.free():
                return compiled(*args, **kwargs)

        def call_watched(*args: Any, **kwargs: Any) -> Any:
            return recorder.functions.whole(call_compiled, compiled, args, kwargs)

        return call_watched

    return compile_watched


def _is_torchs(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
