"""The small language of ``--init``: a Python argument list of literals, for the constructor of a module class."""

from __future__ import annotations

import ast
import warnings
from typing import NamedTuple, NoReturn

from fxgrad.errors import UsageError
from fxgrad.observe.pointing import pointed

INIT_GRAMMAR = "a Python argument list of literals, such as 1000, 1000, bias=False"

_CALL = "f("


class Arguments(NamedTuple):
    """Arguments of a call."""

    args: tuple[object, ...]
    kwargs: dict[str, object]


def parse_init(text: str) -> Arguments:
    """The arguments of a ``--init``. Raises UsageError that points at what is no literal.

    >>> parse_init("1000, 1000, bias=False")
    Arguments(args=(1000, 1000), kwargs={'bias': False})
    """
    call = _parse_call(text)
    args = tuple(_literal(text, node) for node in call.args)
    kwargs: dict[str, object] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in kwargs:
            _fail(text, _offset(text, keyword), "each keyword once, and no **")
        kwargs[keyword.arg] = _literal(text, keyword.value)
    return Arguments(args, kwargs)


def _parse_call(text: str) -> ast.Call:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(f"{_CALL}{text}\n)".replace("\r", " "), mode="eval").body
    except SyntaxError as error:
        _fail(text, (error.offset or 1) - 1 - len(_CALL) if error.lineno == 1 else len(text), error.msg)
    except (ValueError, MemoryError, RecursionError) as error:
        _fail(text, 0, f"{error or type(error).__name__}")
    if not (isinstance(body, ast.Call) and isinstance(body.func, ast.Name)):
        _fail(text, 0, "an argument list, with its parentheses balanced")
    return body


def _literal(text: str, node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        _fail(text, _offset(text, node), "a literal was expected here")


def _offset(text: str, node: ast.expr | ast.keyword) -> int:
    """Where a node starts in the text; ast counts UTF-8 bytes within a line."""
    lines = f"{_CALL}{text}".split("\n")
    before = sum(len(line) + 1 for line in lines[: node.lineno - 1])
    return before + len(lines[node.lineno - 1].encode()[: node.col_offset].decode()) - len(_CALL)


def _fail(text: str, at: int, problem: str) -> NoReturn:
    advice = "a factory, file.py:build, can pass anything else, such as dtype=torch.float64"
    raise UsageError(pointed("--init", text, at=at, problem=problem), INIT_GRAMMAR, advice)
