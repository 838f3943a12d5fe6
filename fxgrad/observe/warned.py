"""Keeps what the watched program is warned of, and leaves other threads theirs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def kept_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what this thread is warned of, every time. Filters belong to all threads; others' warnings are shown."""
    thread = threading.get_ident()
    kept: list[warnings.WarningMessage] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if threading.get_ident() == thread:
                kept.append(warnings.WarningMessage(message, category, filename, lineno, file, line))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        warnings.simplefilter("always")
        yield kept
