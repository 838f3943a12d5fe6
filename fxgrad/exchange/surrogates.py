"""Strings that JSON cannot tell apart, kept apart."""

from __future__ import annotations

import re


def parted(text: str) -> str:
    r"""Put a NUL between two surrogates that a JSON reader would join to one character.

    Python tells a string of two surrogates (which decoding of damaged text can make) from the character that they
    stand for in UTF-16; JSON does not. Where NULs stand there already, one is added, so that `joined` gives each
    string back.

    >>> parted("plain"), parted("\ud83d\ude00"), parted("\ud83d\x00\ude00")
    ('plain', '\ud83d\x00\ude00', '\ud83d\x00\x00\ude00')
    """
    return text if text.isascii() else re.sub("([\ud800-\udbff]\0*)(?=[\udc00-\udfff])", "\\1\0", text)


def joined(text: str) -> str:
    r"""Take out again the NUL that `parted` put in.

    >>> joined("\ud83d\x00\ude00") == "\ud83d\ude00"
    True
    """
    return text if text.isascii() else re.sub("([\ud800-\udbff]\0*)\0(?=[\udc00-\udfff])", "\\1", text)
