"""The command line: parse, call the api, write. ``fxgrad --help`` imports click and nothing heavier."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fxgrad`` with these arguments (by default the program's own) and tell its exit status.

    0 fine; 1 found something (``verify``, ``--strict``); 2 usage; 3 the target failed; 4 cannot draw or write;
    70 a mistake of fxgrad itself; 130 interrupted.
    """
    from fxgrad.cli.run import pass_over_missing_numpy, run

    if arguments is None:
        pass_over_missing_numpy()
        arguments = sys.argv[1:]
    return run(list(arguments))
