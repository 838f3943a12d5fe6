"""The small language of ``--input``: tensors for forward, described on a command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch

from fxgrad.errors import UsageError
from fxgrad.observe.literals import Arguments
from fxgrad.observe.pointing import pointed

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
INPUT_GRAMMAR = (
    f"[name=]dtype[size,...] such as f32[9,1000], f32[] (a scalar), i64[2,16]:30522 (values below), x=f32[3], or a "
    f"tuple (f32[9,4],f32[9,4]); dtypes {', '.join(DTYPES)}"
)

_ALIASES = {
    "half": "f16",
    "float": "f32",
    "double": "f64",
    "char": "i8",
    "short": "i16",
    "int": "i32",
    "long": "i64",
    "byte": "u8",
    **{str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()},
}
_LARGEST_SIZE = 2**63 - 1
_DEEPEST_TUPLE = 20
_TOKEN = re.compile(r"\s*(?:(?P<name>[^\W\d]\w*)|(?P<number>[0-9]+)|(?P<mark>[][(),:=]))")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class TensorInput:
    """A tensor to make: ``dtype`` as in DTYPES, values below ``high`` where that is given."""

    dtype: str
    shape: tuple[int, ...]
    high: int | None = None


Value = TensorInput | tuple["Value", ...]


class Input(NamedTuple):
    """One ``--input``: for the keyword ``name`` of forward, or positional where that is None."""

    name: str | None
    value: Value


def parse_input(text: str) -> Input:
    """What one ``--input`` describes. Raises UsageError that points at what does not fit the grammar.

    >>> parse_input("i64[2,16]:30522")
    Input(name=None, value=TensorInput(dtype='i64', shape=(2, 16), high=30522))
    >>> parse_input("state=(f32[9], f32[])").value
    (TensorInput(dtype='f32', shape=(9,), high=None), TensorInput(dtype='f32', shape=(), high=None))
    """
    reader = _Reader(text)
    name = reader.keyword()
    value = reader.value(depth=0)
    reader.take("", expected="nothing more was expected")
    return Input(name, value)


class _Token(NamedTuple):
    """``kind`` is "name", "number", a mark itself, or "" at the end of the text."""

    kind: str
    text: str
    start: int


class _Reader:
    """Reads the grammar of ``--input`` from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0

    def take(self, *kinds: str, expected: str) -> _Token:
        token = self.tokens[self.at]
        if token.kind not in kinds:
            _fail(self.text, token.start, expected)
        self.at += 1
        return token

    def keyword(self) -> str | None:
        """The name before an equals sign, if there is one."""
        if [token.kind for token in self.tokens[:2]] != ["name", "="]:
            return None
        self.at = 2
        return self.tokens[0].text

    def value(self, *, depth: int) -> Value:
        if self.tokens[self.at].kind != "(":
            return self.tensor()
        if depth == _DEEPEST_TUPLE:
            _fail(self.text, self.tokens[self.at].start, f"at most {depth} tuples deep")
        self.at += 1
        return self.items(depth=depth + 1)

    def items(self, *, depth: int) -> tuple[Value, ...]:
        items: list[Value] = []
        while self.tokens[self.at].kind != ")":
            items.append(self.value(depth=depth))
            if self.take(",", ")", expected="a comma or ) was expected").kind == ")":
                return tuple(items)
        self.at += 1
        return tuple(items)

    def tensor(self) -> TensorInput:
        token = self.take("name", expected="a dtype or ( was expected")
        if token.text not in DTYPES:
            _fail(self.text, token.start, f"no dtype {token.text}", _nearest_dtype(token.text))
        self.take("[", expected=f"[ was expected; a scalar is {token.text}[]")
        return TensorInput(token.text, self.shape(), self.high(token.text))

    def shape(self) -> tuple[int, ...]:
        sizes: list[int] = []
        while self.tokens[self.at].kind != "]":
            sizes.append(self.number("a size or ] was expected"))
            if self.take(",", "]", expected="a comma or ] was expected").kind == "]":
                return tuple(sizes)
        self.at += 1
        return tuple(sizes)

    def number(self, expected: str) -> int:
        token = self.take("number", expected=expected)
        if len(token.text) > len(str(_LARGEST_SIZE)) or int(token.text) > _LARGEST_SIZE:
            _fail(self.text, token.start, f"at most {_LARGEST_SIZE}")
        return int(token.text)

    def high(self, dtype: str) -> int | None:
        """What follows the colon after a tensor: the values stay below it."""
        if self.tokens[self.at].kind != ":":
            return None
        colon = self.take(":", expected="")
        high = self.number("a number was expected after the colon")
        largest = _largest_high(dtype)
        if not 1 <= high <= largest:
            wanted = f"{dtype} takes 1 to {largest} after the colon" if largest else f"{dtype} takes no colon"
            _fail(self.text, colon.start, wanted)
        return high


def _tokens(text: str) -> list[_Token]:
    tokens, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            _fail(text, _SPACE.match(text, at).end(), "this character has no meaning here")  # type: ignore[union-attr]
        kind = match.lastgroup or ""
        word = match[kind]
        tokens.append(_Token(word if kind == "mark" else kind, word, match.start(kind)))
        at = match.end()
    return [*tokens, _Token("", "", end)]


def _largest_high(dtype: str) -> int:
    """The largest bound of random values; 0 where values have none."""
    kind = DTYPES[dtype]
    if kind.is_floating_point or kind.is_complex or kind is torch.bool:
        return 0
    return min(torch.iinfo(kind).max + 1, _LARGEST_SIZE)


def _nearest_dtype(name: str) -> str:
    near = difflib.get_close_matches(name, DTYPES, n=1, cutoff=0.4)
    return _ALIASES.get(name.lower(), near[0] if near else "f32")


def _fail(text: str, at: int, problem: str, suggestion: str = "--input 'f32[9,1000]'") -> NoReturn:
    raise UsageError(pointed("--input", text, at=at, problem=problem), INPUT_GRAMMAR, suggestion)


def make_arguments(inputs: Sequence[Input]) -> Arguments:
    """The tensors that forward is called with: floats from randn, integers below ``high`` or 0, random bools.

    Raises UsageError where a keyword is given twice or a tensor cannot be made.
    """
    names = [item.name for item in inputs if item.name is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--input gives {twice} twice", "each keyword once", f"leave one {twice}= out")
    args = tuple(_make(item.value) for item in inputs if item.name is None)
    return Arguments(args, {item.name: _make(item.value) for item in inputs if item.name is not None})


def _make(value: Value) -> object:
    if isinstance(value, tuple):
        return tuple(_make(item) for item in value)
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
