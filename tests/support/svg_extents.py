"""Reads an SVG as a reader sees it: where boxes, frames and texts are, and what overlaps, leaves its box or is cut."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from typing import NamedTuple

SVG = "{http://www.w3.org/2000/svg}"
# advance widths of DejaVu Sans in 1/1000 em, from the space on: of the usual sans-serif fonts it is the widest
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
MARKS = {"·": 0.38, "…": 1.0}
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
    edge: bool


class Shape(NamedTuple):
    name: str
    rect: Rect
    points: list[tuple[float, float]]
    texts: list[Text]


class Drawing:
    """What is in an SVG that Graphviz wrote: nodes, frames, arrows' texts, and the size of the page."""

    def __init__(self, svg: str) -> None:
        root = ET.fromstring(svg)
        left, top, width, height = map(float, root.get("viewBox").split())
        graph = next(g for g in root.iter(f"{SVG}g") if g.get("class") == "graph")
        across, down = map(float, re.search(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", graph.get("transform")).groups())
        self.page = Rect(left - across, top - down, left - across + width, top - down + height)
        groups = [(g.get("class"), g) for g in root.iter(f"{SVG}g")]
        self.nodes = [_shape(g) for kind, g in groups if kind == "node"]
        self.frames = [_shape(g) for kind, g in groups if kind == "cluster"]
        self.arrows = {_title(g): _texts(g, edge=True) for kind, g in groups if kind == "edge"}
        self.lines = {_title(g): _line(g) for kind, g in groups if kind == "edge"}
        self.boxes = [node for node in self.nodes if node.points]

    @property
    def texts(self) -> list[Text]:
        return [text for shape in (*self.nodes, *self.frames) for text in shape.texts] + self.labels

    @property
    def labels(self) -> list[Text]:
        return [text for texts in self.arrows.values() for text in texts]

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
            *(
                f'"{text.words}" lies on box {box.name}'
                for text in self._beside_boxes()
                for box in self.boxes
                if text.rect.overlaps(box.rect)
            ),
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
            *(f"{thing} is cut" for thing, rect in self._everything() if not self.page.holds(rect)),
        ]

    def _beside_boxes(self) -> list[Text]:
        return self.labels + [text for frame in self.frames for text in frame.texts]

    def _everything(self) -> list[tuple[str, Rect]]:
        shapes = [(shape.name, shape.rect) for shape in (*self.boxes, *self.frames)]
        return shapes + [(f'"{text.words}"', text.rect) for text in self.texts]

    def crossed(self) -> list[str]:
        """The frames' titles that an arrow crosses."""
        return [
            f'"{text.words}" is crossed by {name}'
            for frame in self.frames
            for text in frame.texts
            for name, points in self.lines.items()
            if any(text.rect.left < x < text.rect.right and text.rect.top < y < text.rect.bottom for x, y in points)
        ]

    def upward(self) -> list[str]:
        """The arrows that do not lead down."""
        rects = {box.name: box.rect for box in self.boxes}
        ends = [name.split("->") for name in self.arrows]
        return [f"{tail}->{head}" for tail, head in ends if rects[tail].bottom > rects[head].top]


def _overlapping(things):
    return [(one, other) for one, other in combinations(things, 2) if one.rect.overlaps(other.rect)]


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


def _title(group: ET.Element) -> str:
    return group.find(f"{SVG}title").text


def _shape(group: ET.Element) -> Shape:
    points = _outline(group)
    return Shape(_title(group), _around(points), points, _texts(group, edge=False))


def _outline(group: ET.Element) -> list[tuple[float, float]]:
    """The points of the first shape drawn: what lies on top of it are marks and lines of text."""
    for element in group.iter():
        if element.tag in (f"{SVG}polygon", f"{SVG}path"):
            numbers = [
                float(number) for number in re.findall(r"-?\d+\.?\d*", element.get("points") or element.get("d"))
            ]
            return list(zip(numbers[::2], numbers[1::2], strict=True))
        if element.tag == f"{SVG}text":
            return []
    return []


def _line(group: ET.Element) -> list[tuple[float, float]]:
    """Points along the Bezier curves of an arrow."""
    path = next((element for element in group.iter(f"{SVG}path") if element.get("fill") == "none"), None)
    numbers = [] if path is None else [float(number) for number in re.findall(r"-?\d+\.?\d*", path.get("d"))]
    corners = list(zip(numbers[::2], numbers[1::2], strict=True))
    return [point for at in range(0, len(corners) - 3, 3) for point in _curve(corners[at : at + 4])]


def _curve(corners: list[tuple[float, float]], steps: int = 200) -> list[tuple[float, float]]:
    shares = [((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3) for t in (n / steps for n in range(steps))]
    across, down = zip(*corners, strict=True)
    return [(sum(map(float.__mul__, share, across)), sum(map(float.__mul__, share, down))) for share in shares]


def _around(points: list[tuple[float, float]]) -> Rect:
    across, down = zip(*points, strict=True) if points else ((0.0,), (0.0,))
    return Rect(min(across), min(down), max(across), max(down))


def _texts(group: ET.Element, *, edge: bool) -> list[Text]:
    return [_text(element, edge) for element in group.iter(f"{SVG}text")]


def _text(element: ET.Element, edge: bool) -> Text:
    words = "".join(element.itertext())
    size, x, y = (float(element.get(name)) for name in ("font-size", "x", "y"))
    width = size * sum(_advance(character, element.get("font-weight", "")) for character in words)
    left = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")]
    return Text(words, Rect(left, y - CAPITAL_HEIGHT * size, left + width, y + DEPTH * size), edge)


def _advance(character: str, weight: str) -> float:
    if " " <= character <= "~":
        return ADVANCES[weight][ord(character) - ord(" ")]
    return MARKS.get(character, 1.0)
