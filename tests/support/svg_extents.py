"""Reads an SVG of fxgrad's as a reader sees it: where boxes, frames and texts are, and what overlaps or leaves its box."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import NamedTuple

SVG = "{http://www.w3.org/2000/svg}"
# advance widths of DejaVu Sans in 1/1000 em, from the space on: of the usual sans-serif fonts it is the widest. Not the
# product's table: an error in that one would hide itself
REGULAR = (
    "318 401 460 838 636 950 780 275 390 390 500 838 318 361 318 337 636 636 636 636 636 636 636 636 636 636 337 "
    "337 838 838 838 531 1000 684 686 698 770 632 575 775 752 295 295 656 557 863 748 787 603 787 695 635 611 732 "
    "684 989 685 611 685 390 337 390 838 500 500 613 635 550 635 615 352 635 634 278 278 579 278 974 634 612 635 "
    "635 411 521 392 634 592 818 592 592 525 636 337 636 838"
)
BOLD = (
    "348 456 521 838 696 1002 872 306 457 457 523 838 380 415 380 365 696 696 696 696 696 696 696 696 696 696 400 "
    "400 838 838 838 580 1000 774 762 734 830 683 683 821 837 372 372 775 637 995 837 850 733 850 770 720 682 812 "
    "774 1103 771 724 725 457 365 457 838 500 500 675 716 593 716 678 435 716 712 343 343 665 343 1042 712 687 716 "
    "716 493 595 478 712 652 924 645 652 582 712 365 712 838"
)
ADVANCES = {name: [int(width) / 1000 for width in table.split()] for name, table in (("", REGULAR), ("bold", BOLD))}
MARKS = {"·": 0.38, "…": 1.0, "—": 1.0, "×": 0.838}
CAPITAL_HEIGHT, DEPTH = 0.73, 0.24


class Rect(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Rect, *, slack: float = 0.5) -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > slack and down > slack

    def holds(self, other: Rect, *, slack: float = 0.5) -> bool:
        return (
            self.left - slack <= other.left
            and self.top - slack <= other.top
            and other.right <= self.right + slack
            and other.bottom <= self.bottom + slack
        )

    def corners(self) -> list[tuple[float, float]]:
        return [(x, y) for x in (self.left, self.right) for y in (self.top, self.bottom)]


class Text(NamedTuple):
    words: str
    rect: Rect


class Shape(NamedTuple):
    name: str
    rect: Rect
    points: list[tuple[float, float]]
    texts: list[Text]
    attributes: dict[str, str]


class Line(NamedTuple):
    name: str
    ends: tuple[str, str]
    points: list[tuple[float, float]]
    tips: int


class Drawing:
    """What is in an SVG of a picture: boxes, frames, lines and their labels, the headline, the legend, the page."""

    def __init__(self, svg: str) -> None:
        root = ET.fromstring(svg)
        left, top, width, height = map(float, root.get("viewBox", "").split())
        self.page = Rect(left, top, left + width, top + height)
        self._styles = dict(re.findall(r"\.(s\d+)\{([^}]*)\}", next(root.iter(f"{SVG}style")).text.split("@media")[0]))
        groups: dict[str, list[ET.Element]] = {}
        for group in root.iter(f"{SVG}g"):
            groups.setdefault(group.get("class", ""), []).append(group)
        self.boxes = [self._shape(group) for group in groups.get("box", ())]
        self.frames = [self._shape(group) for group in groups.get("frame", ())]
        self.lines = [self._line(group) for group in groups.get("line", ())]
        self.labels = [text for group in groups.get("label", ()) for text in self._texts(group)]
        self.besides = [
            text for kind in ("headline", "legend") for group in groups[kind] for text in self._texts(group)
        ]
        self.tooltips = [title.text or "" for title in root.iter(f"{SVG}title")]

    @property
    def texts(self) -> list[Text]:
        return [text for shape in (*self.boxes, *self.frames) for text in shape.texts] + self.labels + self.besides

    def problems(self) -> list[str]:
        """Everything that a reader would stumble over, as sentences."""
        return [
            *(
                f'"{text.words}" leaves box {box.name}'
                for box in self.boxes
                for text in box.texts
                if not _inside(text, box)
            ),
            *(f"boxes {one.name} and {other.name} overlap" for one, other in _overlapping(self.boxes)),
            *(f'texts "{one.words}" and "{other.words}" overlap' for one, other in _overlapping(self.texts)),
            *(f'"{text.words}" lies on box {box.name}' for text, box in _crossing(self._beside_boxes(), self.boxes)),
            *(
                f'"{text.words}" leaves frame {frame.name}'
                for frame in self.frames
                for text in frame.texts
                if not frame.rect.holds(text.rect)
            ),
            *(
                f"frames {one.name} and {other.name} cross"
                for one, other in _overlapping(self.frames)
                if not _nested(one, other)
            ),
            *(
                f"box {box.name} crosses frame {frame.name}"
                for box, frame in _crossing(self.boxes, self.frames)
                if not frame.rect.holds(box.rect)
            ),
            *(f"{thing} is cut" for thing, rect in self._everything() if not self.page.holds(rect)),
        ]

    def _beside_boxes(self) -> list[Text]:
        return self.labels + self.besides + [text for frame in self.frames for text in frame.texts]

    def _everything(self) -> list[tuple[str, Rect]]:
        shapes = [(shape.name, shape.rect) for shape in (*self.boxes, *self.frames)]
        lines = [(f"line {line.name}", _around(line.points)) for line in self.lines]
        return shapes + lines + [(f'"{text.words}"', text.rect) for text in self.texts]

    def crossed(self) -> list[str]:
        """The frames' titles that a line crosses."""
        return [
            f'"{text.words}" is crossed by {line.ends[0]}->{line.ends[1]}'
            for frame in self.frames
            for text in frame.texts
            for line in self.lines
            if any(
                text.rect.left < x < text.rect.right and text.rect.top < y < text.rect.bottom for x, y in line.points
            )
        ]

    def backward(self) -> list[tuple[str, str]]:
        """The ends of lines that lead neither down nor on to a column on the right."""
        boxes = {box.name: box.rect for box in self.boxes}
        # an arrow is drawn in several lines where it crosses the border of a frame
        joined = dict.fromkeys(line.ends for line in self.lines if boxes.keys() >= set(line.ends))
        return [
            (tail, head)
            for tail, head in joined
            if boxes[head].top < boxes[tail].bottom and boxes[head].left < boxes[tail].right
        ]

    def _shape(self, group: ET.Element) -> Shape:
        """The outline is drawn first: what lies on top of it are marks and lines of text."""
        outline = next(each for each in group.iter() if each.tag in (f"{SVG}rect", f"{SVG}path"))
        points = _outline(outline)
        return Shape(group.get("id", ""), _around(points), points, self._texts(group), dict(group.attrib))

    def _line(self, group: ET.Element) -> Line:
        """Points along the Bezier curves of a line, and how many tips it has."""
        paths = list(group.iter(f"{SVG}path"))
        points = [
            point
            for corners in (_numbers(path.get("d", "")) for path in paths)
            for at in range(0, len(corners) - 3, 3)
            for point in _curve(corners[at : at + 4])
        ]
        tips = sum("marker-end" in self._styles[path.get("class", "")] for path in paths)
        return Line(group.get("id", ""), (group.get("data-tail", ""), group.get("data-head", "")), points, tips)

    def _texts(self, group: ET.Element) -> list[Text]:
        return [self._text(element) for element in group.iter(f"{SVG}text")]

    def _text(self, element: ET.Element) -> Text:
        words, style = "".join(element.itertext()), self._styles[element.get("class", "")]
        x, y = float(element.get("x", "")), float(element.get("y", ""))
        size = float(re.search(r"font-size:(\d+)", style)[1])
        length = element.get("textLength")
        width = float(length) if length else size * _measure(words, "bold" if "bold" in style else "")
        left = x - width / 2 if "middle" in style else x
        return Text(words, Rect(left, y - CAPITAL_HEIGHT * size, left + width, y + DEPTH * size))


def _measure(words: str, weight: str) -> float:
    """The width in units of the font's size."""
    return sum(
        ADVANCES[weight][ord(letter) - ord(" ")] if " " <= letter <= "~" else MARKS.get(letter, 1.0) for letter in words
    )


def _overlapping(things):
    """Pairs that overlap, found from left to right."""
    things = sorted(things, key=lambda thing: thing.rect.left)
    for place, one in enumerate(things):
        for other in things[place + 1 :]:
            if other.rect.left >= one.rect.right:
                break
            if one.rect.overlaps(other.rect):
                yield one, other


def _crossing(ones, others):
    others = sorted(others, key=lambda thing: thing.rect.left)
    for one in ones:
        for other in others:
            if other.rect.left >= one.rect.right:
                break
            if one.rect.overlaps(other.rect):
                yield one, other


def _nested(one: Shape, other: Shape) -> bool:
    return one.rect.holds(other.rect) or other.rect.holds(one.rect)


def _inside(text: Text, box: Shape) -> bool:
    return all(_encloses(box.points, corner) for corner in text.rect.corners())


def _encloses(points: list[tuple[float, float]], corner: tuple[float, float]) -> bool:
    """Whether a ray from the corner crosses the outline an odd number of times."""
    x, y = corner
    crossings = 0
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            crossings += 1
    return crossings % 2 == 1


def _outline(element: ET.Element) -> list[tuple[float, float]]:
    if element.tag == f"{SVG}rect":
        x, y, width, height = (float(element.get(name, "")) for name in ("x", "y", "width", "height"))
        return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return _numbers(element.get("d", ""))


def _numbers(path: str) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _curve(corners: list[tuple[float, float]], steps: int = 60) -> Iterator[tuple[float, float]]:
    for n in range(steps + 1):
        t = n / steps
        shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        yield tuple(sum(share * corner[axis] for share, corner in zip(shares, corners, strict=True)) for axis in (0, 1))


def _around(points: list[tuple[float, float]]) -> Rect:
    across, down = zip(*points, strict=True) if points else ((0.0,), (0.0,))
    return Rect(min(across), min(down), max(across), max(down))
