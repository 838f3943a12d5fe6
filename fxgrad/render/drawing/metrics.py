"""How wide text is, by a table, so that the same graph gives the same picture on every machine.

The widths are those of DejaVu Sans, with Verdana the widest of the usual sans-serif faces: what holds it holds
Helvetica, Arial and their like. Nothing asks the machine for its fonts, which a reader may not have.
"""

from __future__ import annotations

from unicodedata import combining, east_asian_width

_REGULAR = (
    "318 401 460 838 636 950 780 275 390 390 500 838 318 361 318 337 636 636 636 636 636 636 636 636 636 636 337 "
    "337 838 838 838 531 1000 684 686 698 770 632 575 775 752 295 295 656 557 863 748 787 603 787 695 635 611 732 "
    "684 989 685 611 685 390 337 390 838 500 500 613 635 550 635 615 352 635 634 278 278 579 278 974 634 612 635 "
    "635 411 521 392 634 592 818 592 592 525 636 337 636 838"
)
_BOLD = (
    "348 456 521 838 696 1002 872 306 457 457 523 838 380 415 380 365 696 696 696 696 696 696 696 696 696 696 400 "
    "400 838 838 838 580 1000 774 762 734 830 683 683 821 837 372 372 775 637 995 837 850 733 850 770 720 682 812 "
    "774 1103 771 724 725 457 365 457 838 500 500 675 716 593 716 678 435 716 712 343 343 665 343 1042 712 687 716 "
    "716 493 595 478 712 652 924 645 652 582 712 365 712 838"
)
"""Advance widths from the space to the tilde, in thousandths of the font's size."""
_TABLES = {bold: [int(width) for width in text.split()] for bold, text in ((False, _REGULAR), (True, _BOLD))}
_FIRST, _LAST = " ", "~"
_MARKS = {"·": 380, "…": 1000, "—": 1000, "×": 838}
_WIDE, _OTHER = 1050, 900
"""Of a full-width East Asian character, and of one that the table does not have: few letters are wider."""


def measure(text: str, size: float, *, bold: bool = False) -> float:
    """The width of a line of text in a font of that size, in the unit of the size.

    >>> round(measure("AddmmBackward0", 11), 1), round(measure("AddmmBackward0", 11, bold=True), 1)
    (103.9, 115.4)
    """
    table = _TABLES[bold]
    first = ord(_FIRST)
    return size * sum(
        table[ord(letter) - first] if _FIRST <= letter <= _LAST else _measure_rare(letter) for letter in text
    ) / 1000  # fmt: skip


def is_measured(text: str) -> bool:
    """Whether the table has every letter, so that no usual font makes the text wider."""
    return all(_FIRST <= letter <= _LAST or letter in _MARKS for letter in text)


def _measure_rare(letter: str) -> int:
    if letter in _MARKS:
        return _MARKS[letter]
    if combining(letter):
        return 0
    return _WIDE if east_asian_width(letter) in "WF" else _OTHER
