"""The command line: parse, call the api, write. ``fxgrad --help`` imports click and nothing heavier."""

from fxgrad.cli.run import main

__all__ = ["main"]
