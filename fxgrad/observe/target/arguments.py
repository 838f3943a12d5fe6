"""The small languages of ``--init`` and ``--input``: what a module class and its forward are called with."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape

DTYPES = {
    "f16": torch.float16,
    "f32": torch.float32,
    "f64": torch.float64,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}

_ALLOWED_AND_TRY = {
    "--init": (
        "a Python argument list of literals, such as 1000, 1000, bias=False",
        "use a factory, file.py:build, for anything else, such as dtype=torch.float64",
    ),
    "--input": (
        f"[name=]dtype[size,...] such as f32[9,1000], f32[] (a scalar), i64[2,16]:30522 (values below), x=f32[3], or "
        f"a tuple (f32[9,4],f32[9,4]); dtypes {', '.join(DTYPES)}",
        "--input 'f32[9,1000]'",
    ),
}
_CALL = "f("
_LARGEST_SIZE = 2**63 - 1
_DEEPEST_TUPLE = 20
_NAME = r"[^\W\d]\w*"
_KEYWORD = re.compile(rf"\s*(?:({_NAME})\s*=\s*)?")
# As much of a tensor as there is: what is missing stands where the match ends.
_TENSOR = re.compile(
    rf"""(?P<dtype> {_NAME}) \s*
     (?: \[ \s* (?P<sizes> (?:[0-9]+ \s*,\s*)* (?:[0-9]+ \s*)? )
     (?: (?P<close> \]) \s*
     (?: (?P<colon> :) \s* (?P<high> [0-9]*) \s* )? )? )?""",
    re.VERBOSE,
)
_NUMBER = re.compile("[0-9]+")


class Arguments(NamedTuple):
    """Arguments of a call."""

    args: tuple[object, ...]
    kwargs: dict[str, object]


@dataclass(frozen=True, slots=True)
class TensorInput:
    """A tensor to make: ``dtype`` is a key of DTYPES; values are below ``high`` where that is given."""

    dtype: str
    shape: tuple[int, ...]
    high: int | None = None


InputValue = TensorInput | tuple["InputValue", ...]


class Input(NamedTuple):
    """One ``--input``: for the keyword ``name`` of forward, or positional where that is None."""

    name: str | None
    value: InputValue


def parse_init(text: str) -> Arguments:
    """The arguments of a ``--init``. Raises UsageError that points at what is no literal.

    >>> parse_init("1000, 1000, bias=False")
    Arguments(args=(1000, 1000), kwargs={'bias': False})
    """
    call = _parse_call(text)
    args = tuple(_evaluate_literal(text, node) for node in call.args)
    kwargs: dict[str, object] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in kwargs:
            _refuse("--init", text, _offset(text, keyword), "each keyword once, and no **")
        kwargs[keyword.arg] = _evaluate_literal(text, keyword.value)
    return Arguments(args, kwargs)


def _parse_call(text: str) -> ast.Call:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an invalid escape in a string, for one
            # the parenthesis closes on a line of its own, after a comment; to ast a \r alone would be a new line, too
            body = ast.parse(f"{_CALL}{text}\n)".replace("\r", " "), mode="eval").body
    except SyntaxError as error:
        _refuse("--init", text, (error.offset or 1) - 1 - len(_CALL) if error.lineno == 1 else len(text), error.msg)
    except (ValueError, MemoryError, RecursionError) as error:
        _refuse("--init", text, 0, f"{error or type(error).__name__}")
    if not (isinstance(body, ast.Call) and isinstance(body.func, ast.Name)):  # "1)(2" calls what f(1) returns
        _refuse("--init", text, 0, "an argument list with balanced parentheses")
    return body


def _evaluate_literal(text: str, node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        _refuse("--init", text, _offset(text, node), "expected a literal here")


def _offset(text: str, node: ast.expr | ast.keyword) -> int:
    """Where a node starts in the text; ast counts UTF-8 bytes within a line."""
    lines = f"{_CALL}{text}".split("\n")
    before = sum(len(line) + 1 for line in lines[: node.lineno - 1])
    return before + len(lines[node.lineno - 1].encode()[: node.col_offset].decode()) - len(_CALL)


def parse_input(text: str) -> Input:
    """What one ``--input`` describes. Raises UsageError that points at what does not fit the grammar.

    >>> parse_input("i64[2,16]:30522")
    Input(name=None, value=TensorInput(dtype='i64', shape=(2, 16), high=30522))
    >>> parse_input("state=(f32[9], f32[])").value
    (TensorInput(dtype='f32', shape=(9,), high=None), TensorInput(dtype='f32', shape=(), high=None))
    """
    text = text.rstrip()
    keyword = _KEYWORD.match(text)
    assert keyword is not None  # it matches an empty text, too
    value, end = _parse_value(text, keyword.end(), depth=0)
    if end < len(text):
        _refuse("--input", text, end, "expected nothing more")
    return Input(keyword[1], value)


def _parse_value(text: str, at: int, *, depth: int) -> tuple[InputValue, int]:
    """The value that starts at a character, and where the text goes on after it."""
    if not text.startswith("(", at):
        return _parse_tensor(text, at)
    if depth == _DEEPEST_TUPLE:
        _refuse("--input", text, at, f"at most {depth} tuples deep")
    items: list[InputValue] = []
    at = _skip_space(text, at + 1)
    while not text.startswith(")", at):
        item, at = _parse_value(text, at, depth=depth + 1)
        items.append(item)
        if text.startswith(",", at):
            at = _skip_space(text, at + 1)
        elif not text.startswith(")", at):
            _refuse("--input", text, at, "expected a comma or )")
    return tuple(items), _skip_space(text, at + 1)


def _skip_space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _parse_tensor(text: str, at: int) -> tuple[TensorInput, int]:
    found = _TENSOR.match(text, at)
    if found is None:
        _refuse("--input", text, at, "expected a dtype or (")
    dtype, sizes = found["dtype"], found["sizes"]
    if dtype not in DTYPES:
        _refuse("--input", text, at, f"no dtype {dtype}", _nearest_dtype(dtype))
    if sizes is None:
        _refuse("--input", text, found.end(), f"expected [; a scalar is {dtype}[]")
    if found["close"] is None:
        missing = "a size" if sizes.rstrip()[-1:] in ("", ",") else "a comma"
        _refuse("--input", text, found.end(), f"expected {missing} or ]")
    shape = tuple(_read_number(text, each) for each in _NUMBER.finditer(text, *found.span("sizes")))
    return TensorInput(dtype, shape, None if found["colon"] is None else _read_high(text, found)), found.end()


def _read_number(text: str, digits: re.Match[str]) -> int:
    """The number, which PyTorch holds in 64 bits. Of thousands of digits int would raise an error of its own."""
    if len(digits[0]) > len(str(_LARGEST_SIZE)) or int(digits[0]) > _LARGEST_SIZE:
        _refuse("--input", text, digits.start(), f"at most {_LARGEST_SIZE}")
    return int(digits[0])


def _read_high(text: str, found: re.Match[str]) -> int:
    """What follows the colon after a tensor: the values stay below it."""
    digits = _NUMBER.match(text, found.start("high"))
    if digits is None:
        _refuse("--input", text, found.end(), "expected a number after the colon")
    high, dtype = _read_number(text, digits), DTYPES[found["dtype"]]
    takes_none = dtype.is_floating_point or dtype.is_complex or dtype is torch.bool
    largest = 0 if takes_none else min(torch.iinfo(dtype).max + 1, _LARGEST_SIZE)
    if not 1 <= high <= largest:
        wanted = f"takes 1 to {largest} after the colon" if largest else "takes no colon"
        _refuse("--input", text, found.start("colon"), f"{found['dtype']} {wanted}")
    return high


def _nearest_dtype(name: str) -> str:
    """The dtype that PyTorch knows by this name, as float32 or long; else the one written most alike."""
    known = [short for short, dtype in DTYPES.items() if dtype is getattr(torch, name.lower(), None)]
    return [*known, *difflib.get_close_matches(name, DTYPES, n=1, cutoff=0.4), "f32"][0]


def make_arguments(inputs: Sequence[Input]) -> Arguments:
    """The tensors that forward is called with: floats from randn, integers below ``high`` or 0, random bools.

    Raises UsageError where a keyword is given twice or a tensor cannot be made.
    """
    names = [item.name for item in inputs if item.name is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--input names {twice} twice", "each keyword once", f"remove one {twice}=")
    args = tuple(_make_value(item.value) for item in inputs if item.name is None)
    return Arguments(args, {item.name: _make_value(item.value) for item in inputs if item.name is not None})


def _make_value(value: InputValue) -> object:
    if isinstance(value, tuple):
        return tuple(_make_value(item) for item in value)
    try:
        return _make_tensor(value, DTYPES[value.dtype])
    except (RuntimeError, MemoryError) as error:
        sizes = ",".join(map(str, value.shape))
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"cannot make {value.dtype}[{sizes}]: {reason}", "tensors that fit this device", "smaller sizes"
        ) from error


def _make_tensor(value: TensorInput, dtype: torch.dtype) -> torch.Tensor:
    if value.high is not None:
        return torch.randint(value.high, value.shape, dtype=dtype)
    if dtype is torch.bool:
        return torch.rand(value.shape) < 0.5  # noqa: PLR2004
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(value.shape, dtype=dtype)
    return torch.zeros(value.shape, dtype=dtype)


def _refuse(option: str, text: str, at: int, problem: str, suggestion: str | None = None) -> NoReturn:
    """Raise UsageError with a caret under the character number `at` of the option's text."""
    grammar, usual_suggestion = _ALLOWED_AND_TRY[option]
    before = escape(text[: max(at, 0)])
    given = f"bad {option}: {escape(problem)}\n    {escape(text)}\n    {' ' * len(before)}^"
    raise UsageError(given, grammar, suggestion or usual_suggestion)
