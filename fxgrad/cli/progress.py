"""Telling on stderr what takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_FIRST_SECONDS = 2.0


@contextmanager
def progress(doing: str, *, first: float = _FIRST_SECONDS) -> Iterator[None]:
    """On a terminal, say what is being done after 2 s, 4 s, 8 s, ...: whole lines, which leave a debugger usable."""
    stream = sys.stderr
    if stream is None or not stream.isatty():
        yield
        return
    done = threading.Event()
    threading.Thread(target=_tell, args=(doing, first, stream, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _tell(doing: str, first: float, stream: TextIO, done: threading.Event) -> None:
    elapsed, wait = first, first
    while not done.wait(wait):
        print(f"fxgrad: {doing}, {elapsed:g} s", file=stream, flush=True)
        elapsed, wait = elapsed * 2, elapsed
