"""Records to JSON values and back, as their type hints say.

One codec per type hint: int, str, bool, None, enums (by value), NamedTuples and dataclasses (objects, without the
fields that have their default), ``tuple[...]`` and unions of types that JSON tells apart. Decoding accepts exactly
what encoding writes, and says where a value is not that. Nothing recurses deeper than the type hints nest.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fxgrad.exchange.surrogates import joined, parted

Coder = Callable[[Any], Any]

SHOWN_CHARACTERS = 60
_REQUIRED: Any = object()
_ABSENT: Any = object()
_PLAIN = {int: "an integer", bool: "true or false", type(None): "null"}


class Mismatch(Exception):
    """A JSON value that its type hint does not allow. `where` leads to it from the value that was decoded."""

    def __init__(self, problem: str, allowed: str) -> None:
        super().__init__(problem, allowed)
        self.problem = problem
        self.allowed = allowed
        self._steps: list[str] = []

    def inside(self, step: str) -> None:
        """Note, on the way out, the field or entry that was being decoded."""
        self._steps.append(step)

    @property
    def where(self) -> str:
        """``nodes[3].edges[0].next_node``; "" for the value itself."""
        return "".join(reversed(self._steps)).removeprefix(".")


class Codec(NamedTuple):
    """How values of one type hint are written and read. `json_types` are the JSON types that it reads."""

    encode: Coder
    decode: Coder
    json_types: tuple[type, ...]
    allowed: str


class Field(NamedTuple):
    """One field of a record."""

    name: str
    codec: Codec
    default: Any


class Codecs:
    """Makes each codec once. Equal strings, and equal records of the types `interned`, are read as one object."""

    def __init__(self, interned: frozenset[type] = frozenset()) -> None:
        self._interned = interned
        self._strings: dict[str, str] = {}
        self._made: dict[Any, Codec] = {}

    def codec(self, hint: Any) -> Codec:
        """The codec of a type hint; `TypeError` for one that this module does not know."""
        made = self._made.get(hint)
        if made is None:
            made = self._made[hint] = self._make(hint)
        return made

    def _make(self, hint: Any) -> Codec:
        if hint is str:
            return _string_codec(self._strings)
        if hint in _PLAIN:
            return _plain_codec(hint)
        origin = typing.get_origin(hint)
        if origin is tuple:
            return self._tuple_codec(typing.get_args(hint))
        if origin in (typing.Union, types.UnionType):
            return _union_codec([self.codec(member) for member in typing.get_args(hint)])
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return _enum_codec(hint)
        if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
            return _record_codec(hint, self._fields(hint), {} if hint in self._interned else None)
        raise TypeError(f"no codec for {hint!r}")

    def _tuple_codec(self, members: tuple[Any, ...]) -> Codec:
        if members[1:] == (...,):
            return _list_codec(self.codec(members[0]))
        return _fixed_tuple_codec([self.codec(member) for member in members])

    def _fields(self, record: type) -> list[Field]:
        defaults = _defaults(record)
        hints = typing.get_type_hints(record)
        return [Field(name, self.codec(hints[name]), default) for name, default in defaults.items()]


def _defaults(record: Any) -> dict[str, Any]:
    """The default of each field, in order."""
    if not dataclasses.is_dataclass(record):
        return {name: record._field_defaults.get(name, _REQUIRED) for name in record._fields}
    fields = dataclasses.fields(record)
    return {field.name: _REQUIRED if field.default is dataclasses.MISSING else field.default for field in fields}


def _plain_codec(json_type: type) -> Codec:
    allowed = _PLAIN[json_type]

    def decode(value: Any) -> Any:
        if type(value) is not json_type:
            raise Mismatch(f"is {shown(value)}", allowed)
        return value

    return Codec(_itself, decode, (json_type,), allowed)


def _itself(value: Any) -> Any:
    return value


def _string_codec(strings: dict[str, str]) -> Codec:
    def decode(value: Any) -> str:
        if type(value) is not str:
            raise Mismatch(f"is {shown(value)}", "a string")
        text = joined(value)
        return strings.setdefault(text, text)

    return Codec(parted, decode, (str,), "a string")


def _enum_codec(kind: type[enum.Enum]) -> Codec:
    values = {member: member.value for member in kind}
    members = {value: member for member, value in values.items()}
    allowed = f"one of {', '.join(map(json.dumps, members))}"

    def decode(value: Any) -> enum.Enum:
        member = members.get(value) if type(value) is str else None
        if member is None:
            raise Mismatch(f"is {shown(value)}", allowed)
        return member

    return Codec(values.__getitem__, decode, (str,), allowed)


def _union_codec(members: list[Codec]) -> Codec:
    """Members are told apart by their JSON types: at most one of them is no plain value."""
    decoders = {json_type: member.decode for member in members for json_type in member.json_types}
    if len(decoders) < sum(len(member.json_types) for member in members):
        raise TypeError(f"JSON does not tell {' and '.join(member.allowed for member in members)} apart")
    allowed = " or ".join(member.allowed for member in members)

    def decode(value: Any) -> Any:
        decoder = decoders.get(type(value))
        if decoder is None:
            raise Mismatch(f"is {shown(value)}", allowed)
        return decoder(value)

    return Codec(_union_encoder(members), decode, tuple(decoders), allowed)


def _union_encoder(members: list[Codec]) -> Coder:
    """Plain values are written as they are, so only the other member has to be told: a str, a record, a tuple."""
    others = [member.encode for member in members if member.encode is not _itself]
    if len(others) > 1:
        raise TypeError(f"no way to write a union of {' and '.join(member.allowed for member in members)}")
    if not others:
        return _itself
    (encode,) = others
    return lambda value: value if value is None or type(value) is int else encode(value)


def _list_codec(entry: Codec) -> Codec:
    encode_entry, decode_entry = entry.encode, entry.decode

    def encode(value: Any) -> list[Any]:
        return [encode_entry(item) for item in value]

    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise Mismatch(f"is {shown(value)}", "a list")
        decoded: list[Any] = []
        try:
            for item in value:
                decoded.append(decode_entry(item))
        except Mismatch as mismatch:
            mismatch.inside(f"[{len(decoded)}]")
            raise
        return tuple(decoded)

    return Codec(encode, decode, (list,), "a list")


def _fixed_tuple_codec(entries: list[Codec]) -> Codec:
    allowed = f"a list of {len(entries)}: {', '.join(entry.allowed for entry in entries)}"

    def encode(value: Any) -> list[Any]:
        return [entry.encode(item) for entry, item in zip(entries, value, strict=True)]

    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(entries):
            raise Mismatch(f"is {shown(value)}", allowed)
        decoded: list[Any] = []
        try:
            for entry, item in zip(entries, value, strict=True):
                decoded.append(entry.decode(item))
        except Mismatch as mismatch:
            mismatch.inside(f"[{len(decoded)}]")
            raise
        return tuple(decoded)

    return Codec(encode, decode, (list,), allowed)


def _record_codec(record: type, fields: list[Field], interned: dict[tuple[Any, ...], Any] | None) -> Codec:
    """An object with a key per field; a field that has its default is left out."""
    return Codec(_record_encoder(fields), _record_decoder(record, fields, interned), (dict,), "an object")


def _record_encoder(fields: list[Field]) -> Coder:
    plan = [(field.name, field.codec.encode, field.default) for field in fields]

    def encode(value: Any) -> dict[str, Any]:
        encoded = {}
        for name, encode_field, default in plan:
            entry = getattr(value, name)
            if entry is not default and entry != default:
                encoded[name] = encode_field(entry)
        return encoded

    return encode


def _record_decoder(record: type, fields: list[Field], interned: dict[tuple[Any, ...], Any] | None) -> Coder:
    plan = [(field.name, field.codec.decode, field.default) for field in fields]
    names = frozenset(field.name for field in fields)
    required = frozenset(field.name for field in fields if field.default is _REQUIRED)

    def decode(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch(f"is {shown(value)}", f"an object: {record.__name__}")
        if not required <= value.keys() <= names:
            raise _wrong_keys(value, fields)
        decoded: list[Any] = []
        try:
            for name, decode_field, default in plan:
                entry = value.get(name, _ABSENT)
                decoded.append(default if entry is _ABSENT else decode_field(entry))
        except Mismatch as mismatch:
            mismatch.inside(f".{fields[len(decoded)].name}")
            raise
        if interned is None:
            return record(*decoded)
        key = tuple(decoded)
        made = interned.get(key)
        if made is None:
            made = interned[key] = record(*decoded)
        return made

    return decode


def _wrong_keys(value: Mapping[str, Any], fields: list[Field]) -> Mismatch:
    missing = [field.name for field in fields if field.default is _REQUIRED and field.name not in value]
    allowed = ", ".join(f"{field.name}{'' if field.default is _REQUIRED else ' (optional)'}" for field in fields)
    if missing:
        return Mismatch(f"has no {json.dumps(missing[0])}", f"the keys {allowed}")
    names = {field.name for field in fields}
    unknown = next(key for key in value if key not in names)
    return Mismatch(f"has the unknown key {shown(unknown)}", f"the keys {allowed}")


def shown(value: Any) -> str:
    r"""Name a JSON value in an error message, on one short line.

    >>> shown({"a": 1}), shown([1, 2]), shown("two\nlines"), shown(None), shown(1.5), shown("x" * 100)[-6:]
    ('an object', 'a list of 2', '"two\\nlines"', 'null', '1.5', 'xxx...')
    """
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value[:SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
