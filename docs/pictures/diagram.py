"""Boxes and arrows on a grid, from lines of text (`caption.txt` says how)."""

from __future__ import annotations

from dataclasses import dataclass

from docs.pictures.paper import draw_svg, draw_text

# Pixels of a box, of what lies between two, and around all.
WIDTH, HEIGHT = 112, 48
GAP_X, GAP_Y = 20, 38
MARGIN, TOP = 12, 30
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box at a column and a row, with two lines in it."""

    column: int
    row: int
    first: str
    second: str

    @property
    def x(self) -> int:
        """Its left edge."""
        return MARGIN + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> int:
        """Its upper edge."""
        return TOP + self.row * (HEIGHT + GAP_Y)


def draw_diagram(text: str, title: str) -> str:
    """The SVG of a text; ValueError with the line that says something else than a box, an arrow or a note."""
    boxes: dict[str, Box] = {}
    notes: list[Box] = []
    arrows: list[str] = []
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        head, *words = (part.strip() for part in line.split("|"))
        match head.split():
            case ["box", name, column, row]:
                boxes[name] = Box(column=int(column), row=int(row), first=words[0], second=words[1])
            case ["note", column, row]:
                notes.append(Box(column=int(column), row=int(row), first=words[0], second=""))
            case ["arrow", source, target]:
                arrows.append(_draw_arrow(boxes[source], boxes[target]))
            case _:
                raise ValueError(f"expected a box, an arrow or a note, got {line!r}")
    width = max(box.x for box in boxes.values()) + WIDTH + MARGIN
    height = max(box.y for box in boxes.values()) + HEIGHT + MARGIN
    drawn = [element for box in boxes.values() for element in _draw_box(box)]
    return draw_svg(width, height, title, [HEAD, *arrows, *drawn, *map(_draw_note, notes)])


def _draw_box(box: Box) -> list[str]:
    middle = box.x + WIDTH / 2
    return [
        f'<rect class="box" x="{box.x}" y="{box.y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        draw_text(middle, box.y + 20, "title middle", box.first),
        draw_text(middle, box.y + 37, "faint middle", box.second),
    ]


def _draw_note(note: Box) -> str:
    return draw_text(note.x, note.y - 9, "faint", note.first)


def _draw_arrow(source: Box, target: Box) -> str:
    """Down where both are in a column, else from right to left edge, with one bend in the gap before the target."""
    if source.column == target.column:
        x = source.x + WIDTH / 2
        return f'<path class="arrow" d="M{x:g} {source.y + HEIGHT}V{target.y}"/>'
    start, end = source.y + HEIGHT // 2, target.y + HEIGHT // 2
    return f'<path class="arrow" d="M{source.x + WIDTH} {start}H{target.x - GAP_X // 2}V{end}H{target.x}"/>'
