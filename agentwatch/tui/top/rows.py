"""A table that draws only the rows in sight: a flood of rows costs no more than a screenful."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from agentwatch.tui.text import printable
from agentwatch.tui.top.model import Column, Listing, Row, Span

_GAP = 1  # cells between columns
_HEADER = Style.parse("bold underline")
_SELECTED = Style.parse("reverse")

_Drawn = tuple[Sequence[Span] | str, Style | None]
"""What stands in a line: cells or a remark, and the style that all of them have."""


def layout(columns: Sequence[Column], width: int) -> list[tuple[int, int]]:
    """Which columns have room in `width` cells, by their place, and how wide each is."""
    shown = list(range(len(columns)))

    def need() -> int:
        return sum(columns[place].width + _GAP for place in shown) - _GAP

    while need() > width and any(columns[place].rank for place in shown):
        shown.remove(max(shown, key=lambda place: columns[place].rank))
    widths = {place: columns[place].width for place in shown}
    left, share = max(0, width - need()), sum(columns[place].grow for place in shown)
    for place in shown:
        if grow := columns[place].grow:
            more = left * grow // share
            widths[place] += more
            left, share = left - more, share - grow
    return [(place, widths[place]) for place in shown]


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """A text made harmless, in so many cells; an ellipsis stands for what has no room."""
    text = printable(text, 4 * width)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…" if width else ""
    return " " * (width - length) + text if right else text + " " * (width - length)


class Rows(ScrollView, can_focus=True):
    """Rows with a cursor that stays on its row whatever comes above it."""

    DEFAULT_CSS = "Rows { height: 1fr; background: ansi_default; overflow-x: hidden; scrollbar-size: 0 0; }"

    def __init__(self) -> None:
        super().__init__()
        self._columns: Sequence[Column] = ()
        self._rows = Listing()
        self._layout: list[tuple[int, int]] = []
        self._drawn: tuple[object, list[_Drawn]] = (), []
        self._cursor = 0
        self._empty = ""

    @property
    def selected(self) -> Row | None:
        return self._rows[self._cursor] if self._rows else None

    @property
    def place(self) -> str:
        """Which of how many rows is selected."""
        return f"row {self._cursor + 1:,} of {len(self._rows):,}" if self._rows else ""

    @property
    def rows(self) -> Listing:
        """All of them, in their order."""
        return self._rows

    def show(self, columns: Sequence[Column], rows: Listing, *, empty: str, at_top: bool) -> None:
        """Other rows. The cursor stays with its row; with `at_top` it stays at the top when it is there."""
        before = self.selected
        if before is not None and not (at_top and self._cursor == 0):
            place = rows.place(before.key)
            moved = (place if place is not None else min(self._cursor, len(rows) - 1)) - self._cursor
        else:
            moved = -self._cursor
        # The row under the cursor stays where it is on the screen, too.
        scroll = self.scroll_offset.y + moved if moved and self.scroll_offset.y else None
        self._columns, self._rows, self._empty = columns, rows, empty
        self._cursor = max(0, self._cursor + moved)
        self._arrange()
        if scroll is not None:
            self.scroll_to(y=max(0, scroll), animate=False, force=True, immediate=True)
        self._keep_in_sight()
        self._draw_changes()

    def clear(self) -> None:
        """No rows; the cursor is forgotten."""
        self._rows, self._cursor = Listing(), 0
        self._arrange()
        self.scroll_to(y=0, animate=False, force=True, immediate=True)
        self._draw_changes()

    def move(self, by: int) -> None:
        """The cursor down, or up."""
        self.move_to(self._cursor + by)

    def move_to(self, place: int) -> None:
        """The cursor to a row."""
        place = max(0, min(place, len(self._rows) - 1))
        if place != self._cursor:
            self._cursor = place
            self._keep_in_sight()
            self._draw_changes()

    def page(self, pages: int) -> None:
        """The cursor by as many rows as are in sight."""
        self.move(pages * max(1, self.size.height - 2))

    def find(self, text: str, direction: int) -> bool:
        """The cursor to the next row, or the one before, with this text in it. False: there is none."""
        wanted, count = text.lower(), len(self._rows)
        for step in range(1, count + 1):
            place = (self._cursor + direction * step) % count
            row = self._rows[place]
            if any(wanted in cell.lower() for cell, _ in row.cells):
                self.move_to(place)
                return True
        return False

    def _arrange(self) -> None:
        self._layout = layout(self._columns, self.size.width)
        # Without scroll bars another number of rows is no reason to lay out the whole screen.
        self.set_reactive(Rows.virtual_size, Size(self.size.width, len(self._rows) + 1))

    def _keep_in_sight(self) -> None:
        height = max(1, self.size.height - 1)
        top = int(self.scroll_offset.y)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True, immediate=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True, immediate=True)

    def on_resize(self) -> None:
        """Another width has room for other columns."""
        self._arrange()
        self._keep_in_sight()
        self._drawn = (), []
        self._draw_changes()

    def _draw_changes(self) -> None:
        """Have those lines drawn anew that are not what they were."""
        layout, lines = self._drawn
        self._drawn = self._layout, [self._line(y) for y in range(self.size.height)]
        if layout != self._layout or len(lines) != self.size.height:
            self.refresh()
            return
        pairs = enumerate(zip(lines, self._drawn[1], strict=True))
        if changed := [y for y, (old, new) in pairs if old != new]:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def _line(self, y: int) -> _Drawn:
        """What stands in a line of the widget."""
        if y == 0:
            return [(column.title, "") for column in self._columns], _HEADER
        place = int(self.scroll_offset.y) + y - 1
        if place < len(self._rows):
            return self._rows[place].cells, _SELECTED if place == self._cursor else None
        return self._empty if not self._rows and y == 2 else "", None

    def render_line(self, y: int) -> Strip:
        width, (content, over) = self.size.width, self._line(y)
        if isinstance(content, str):
            return Strip([Segment(fitted(f" {content}", width))], width)
        return self._strip(content, width, over)

    def _strip(self, cells: Sequence[Span], width: int, over: Style | None) -> Strip:
        segments = []
        for place, cells_wide in self._layout:
            text, style = cells[place]
            text = fitted(text, cells_wide, right=self._columns[place].right)
            # A selected row has one look: a colour of its own on a reversed one can be unreadable.
            segments.append(Segment(text, over if over is not None else Style.parse(style)))
            segments.append(Segment(" " * _GAP, over))
        return Strip(segments).adjust_cell_length(width, over)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """The heading stays where it is: all of it is drawn anew."""
        super().watch_scroll_y(old_value, new_value)
        self.refresh(Region(0, 0, self.size.width, self.size.height))
