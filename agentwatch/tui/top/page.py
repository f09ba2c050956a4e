"""Lines to read: all about one row, or the help."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from agentwatch.tui.text import printable
from agentwatch.tui.top.model import Line

LONGEST = 8192  # characters of a line's text
_INDENT = 4  # cells before what continues a line


def wrapped(line: Line, width: int) -> list[Line]:
    """A line made harmless, as lines of at most `width` cells."""
    rows: list[list[tuple[str, str]]] = [[]]
    room = width
    for text, style in line:
        rest = printable(text, LONGEST)
        while rest:
            if cell_len(rest) <= room:
                rows[-1].append((rest, style))
                room -= cell_len(rest)
                break
            piece = _piece(rest, room)
            rows[-1].append((piece, style))
            rest = rest[len(piece) :].lstrip(" ")
            rows.append([(" " * min(_INDENT, width // 4), "")])
            room = max(2, width - _INDENT)
    return [tuple(row) for row in rows]


def _piece(text: str, room: int) -> str:
    """The beginning of a text that has room, up to a space where there is one in its second half."""
    piece = chop_cells(text, room)[0] if room > 1 else ""
    space = piece.rfind(" ")
    return piece[: space + 1] if space > len(piece) // 2 else piece


def fitting(lines: Sequence[Line], width: int, room: int) -> list[Line]:
    """Lines wrapped into `room` rows: the first ones get what the others leave, each has one at least."""
    rows: list[Line] = []
    for place, one in enumerate(lines[:room]):
        allowed = room - len(rows) - (min(len(lines), room) - place - 1)
        parts = wrapped(one, width)
        if len(parts) <= allowed:
            rows += parts
        else:  # the last one is what is left, to be cut where it is drawn
            rows += parts[: allowed - 1]
            rest = parts[allowed - 1 :]
            rows.append((*rest[0], *(span for part in rest[1:] for span in part[1:])))  # without indents
    return rows


class Page(ScrollView, can_focus=True):
    """A page that can be scrolled."""

    DEFAULT_CSS = "Page { height: 1fr; background: ansi_default; overflow-x: hidden; scrollbar-size: 0 0; }"

    class Arranged(Message):
        """It has a size, and knows which lines are in sight."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: Sequence[Line] = ()
        self._wrapped: list[Line] = []

    @property
    def place(self) -> str:
        """Which lines are in sight."""
        top, count = int(self.scroll_offset.y), len(self._wrapped)
        if count <= self.size.height:
            return ""
        last = min(count, top + self.size.height)
        return f"lines {top + 1} to {last} of {count}" + (", page down for more" if last < count else "")

    @property
    def lines(self) -> Sequence[Line]:
        """What it shows, before it is wrapped."""
        return self._lines

    def show(self, lines: Sequence[Line], *, from_top: bool = True) -> None:
        """Other lines."""
        if lines == self._lines and not from_top:
            return
        self._lines = lines
        self._arrange()
        if from_top:
            self.scroll_to(y=0, animate=False, force=True, immediate=True)
        self.refresh()

    def _arrange(self) -> None:
        if not self.size:  # it has been hidden until now: there will be a resize
            self._wrapped = []
            return
        width = max(8, self.size.width)
        self._wrapped = [row for line in self._lines for row in wrapped(line, width)]
        self.set_reactive(Page.virtual_size, Size(self.size.width, len(self._wrapped)))

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self._arrange()
        self.refresh()
        self.post_message(self.Arranged())

    def move(self, by: int) -> None:
        """Scroll by lines."""
        self.scroll_to(y=self.scroll_offset.y + by, animate=False, force=True, immediate=True)

    def page(self, pages: int) -> None:
        """Scroll by what is in sight."""
        self.move(pages * max(1, self.size.height - 1))

    def edge(self, direction: int) -> None:
        """Scroll to the beginning or the end."""
        y = 0 if direction < 0 else len(self._wrapped)
        self.scroll_to(y=y, animate=False, force=True, immediate=True)

    def render_line(self, y: int) -> Strip:
        place = int(self.scroll_offset.y) + y
        width = self.size.width
        if place >= len(self._wrapped):
            return Strip.blank(width)
        segments = [Segment(text, Style.parse(style)) for text, style in self._wrapped[place]]
        return Strip(segments).adjust_cell_length(width)
