"""The application: one screen at a time, always with what is lost and what can be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from agentwatch.tui.text import printable
from agentwatch.tui.top import keys
from agentwatch.tui.top.agents import Agents
from agentwatch.tui.top.alerts import Alerts
from agentwatch.tui.top.backend import Backend, BackendError
from agentwatch.tui.top.events import Events
from agentwatch.tui.top.files import Files
from agentwatch.tui.top.filter import Filter
from agentwatch.tui.top.flows import Flows
from agentwatch.tui.top.gpu import Gpus
from agentwatch.tui.top.health import Health
from agentwatch.tui.top.lines import help_page, rule_line, status_line, tabs_line, timeline_line, title_line
from agentwatch.tui.top.model import Context, Line, Meter, Question, Row, Screen, clock, line
from agentwatch.tui.top.page import Page, fitting
from agentwatch.tui.top.poll import Look, Poller
from agentwatch.tui.top.processes import Processes
from agentwatch.tui.top.rows import Rows

SCREENS: Final[dict[str, Callable[[], Screen]]] = {
    one.name: one for one in (Agents, Processes, Flows, Alerts, Events, Gpus, Files, Health)
}
_BOUND: Final = frozenset(key.action.partition("(")[0] for key in keys.KEYS)
_STATES_AFTER: Final = {"pause": "paused", "resume": "running", "kill": "killed"}
_SUMMARY: Final = 4  # lines about the row that is selected
_GONE: Final = (
    "Agents stay as they are, frozen ones frozen; what they do now is not seen. "
    "Start the daemon: systemctl start agentwatch"
)
_DIGITS: Final = dict(zip("¡™£¢∞§¶•", "12345678", strict=True))
_BUSY_SECONDS: Final = 0.25  # between two looks at what a backend is at
_COMMANDS: Final = "agent NAME, all, pause, resume, kill, seek TIME, filter TERMS, quit, " + ", ".join(
    keys.SCREENS
)


class Arrived(Message):
    """A look at the backend has come."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class Answered(Message):
    """What was asked for once has been answered, or not."""

    def __init__(self, then: Callable[[Any], None], result: Any, error: str) -> None:
        super().__init__()
        self.then, self.result, self.error = then, result, error


class Confirm(Static, can_focus=True):
    """A question that is answered with y, or with anything else."""

    def __init__(self) -> None:
        super().__init__(id="confirm", markup=False)
        self.display = False
        self.then: Callable[[], None] = lambda: None

    def check_consume_key(self, key: str, character: str | None) -> bool:
        """No key does anything else while a question stands."""
        return True


class Top(App[None]):
    """`agentwatch top`. `may_act` false hides the keys that act."""

    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    Static { height: 1; background: ansi_default; }
    #body { height: 1fr; background: ansi_default; }
    Input { height: 1; border: none; padding: 0; background: ansi_default; color: ansi_default; }
    Input:focus { border: none; }
    #prompt { height: 1; display: none; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key.press, key.action, key.label, show=False) for key in keys.KEYS
    ]

    def __init__(self, backend: Backend, *, readonly: bool = False) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.backend = backend
        self._readonly = readonly
        self._poller = Poller(backend, lambda look: self.post_message(Arrived(look)))
        self._wish = 0
        self._meter = Meter()
        self._views = {name: make() for name, make in SCREENS.items()}
        self._current = self._views["agents"]
        self._seen = Context(replay=backend.replay)
        self._look = Look(error="connecting")
        self._keys: list[keys.Key] = []
        self._actions: set[str] = set()
        self._look_up_keys()
        self._chosen: dict[str, Filter] = {}
        self._search = ""
        self._said = ""
        self._message: list[Line] = []
        self._filled: dict[str, tuple[int, tuple[Line, ...]]] = {}  # what the widgets show, for a width
        self._goal: int | None = None  # where in a recording one is on the way to
        self._submit: Callable[[str], None] = lambda text: None

    # --- what it is made of ---

    def compose(self) -> ComposeResult:
        for name in ("title", "status", "tabs", "timeline"):
            yield Static(id=name, markup=False)
        with Vertical(id="body"):
            yield Rows()
            yield Page()
        yield Static(id="summary", markup=False)
        yield Static(id="message", markup=False)
        yield Confirm()
        yield Input(id="prompt", select_on_focus=False)
        yield Static(id="footer", markup=False)

    def on_mount(self) -> None:
        """Show the agents, and begin to ask."""
        self._page.display = False
        self.query_one("#timeline").display = self.backend.replay
        self._table.focus()
        self.set_interval(_BUSY_SECONDS, self._draw_busy)
        self._draw()
        self._poller.start()

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        self._poller.stop()

    @property
    def _table(self) -> Rows:
        return self.query_one(Rows)

    @property
    def _page(self) -> Page:
        return self.query_one(Page)

    @property
    def _prompt(self) -> Input:
        return self.query_one("#prompt", Input)

    @property
    def _may_act(self) -> bool:
        return self.backend.role == "act" and not self._readonly and not self.backend.replay

    def _look_up_keys(self) -> None:
        """Which keys do something is for the daemon to say, and may change."""
        verbs = self._look.answers.get("status", {}).get("verbs", ())
        self._keys = keys.available(
            may_act=self._may_act, may_save="save" in verbs, replay=self.backend.replay
        )
        self._actions = {key.action.partition("(")[0] for key in self._keys}

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that do nothing here are no keys."""
        return action not in _BOUND or action in self._actions

    # --- what comes in ---

    def on_arrived(self, arrived: Arrived) -> None:
        """Draw a look."""
        if not self.is_running:  # it ends: there is nothing to draw on any more
            return
        look = arrived.look
        if look.gone and not self._look.gone:
            self._say(_GONE, "bold")
        elif self._look.gone and not look.gone and self._said == _GONE:
            self._say("")
        # What was known before stays on the screen where a look is not whole or is of another screen.
        if look.error or look.wanted != self._wish:
            look.answers = {**self._look.answers, **look.answers}
        self._look = look
        self._look_up_keys()
        if not look.error:
            self._meter.look(look.answers["status"]["time"], look.answers["agents"])
        self._draw()
        self._poller.taken()

    def on_answered(self, answered: Answered) -> None:
        """Go on with an answer, or say why there is none."""
        if not self.is_running:
            return
        self._draw_busy()
        if answered.error:
            self._goal = None
            self._say(answered.error, "bold red")
        else:
            answered.then(answered.result)
        self._poller.hurry()

    def _in_background(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                result, error = work(), ""
            except (BackendError, ValueError) as problem:
                result, error = None, str(problem)
            self.post_message(Answered(then, result, error))

        self.run_worker(run, thread=True)

    def on_page_arranged(self) -> None:
        """Say which part of it is in sight."""
        self._draw_summary()

    def on_resize(self, event: events.Resize) -> None:
        """All lines are made for a width."""
        self._draw()

    # --- drawing ---

    def _draw(self) -> None:
        context = self._seen
        context.answers, context.rates, context.may_act = self._look.answers, self._meter.rates, self._may_act
        screen = self._current
        rows = screen.rows(context)
        if chosen := self._chosen.get(screen.name):
            rows = rows.where(chosen.holds)
        known = all(question.verb in context.answers for question in screen.requests(context))
        empty = "" if not known else "Nothing passes the filter." if chosen else screen.empty
        self._table.show(screen.columns(context), rows, empty=empty, at_top=screen.newest_first)
        self._draw_lines()
        self._draw_summary()

    def _draw_lines(self) -> None:
        width = self.size.width
        self._put("title", title_line(self.backend, self._seen, self._readonly))
        self._put("status", status_line(self._look, self._known_at(), width))
        self._put("tabs", tabs_line(self._current.name))
        if self.backend.timeline is not None:
            self._put("timeline", timeline_line(self.backend.timeline, width))
        self._draw_message()
        spans: list[tuple[str, str]] = []
        for shown, label in keys.footer(self._keys, width, reading=self._page.display):
            spans += [(shown, "bold reverse"), (f" {label}  ", "")]
        self._put("footer", tuple(spans))

    def _known_at(self) -> str:
        """The time of day of what is shown."""
        return clock(self._look.answers.get("status", {}).get("time", ""))

    def _draw_summary(self) -> None:
        """What is left out, where one is, and, below rows, more about the one selected."""
        width, row = self.size.width, self._table.selected
        chosen = self._chosen.get(self._current.name)
        if self._page.display:
            remarks, lines, room = [self._page.place], [], 0
        else:
            remarks = [self._table.place, self._current.remark(self._seen)]
            lines = self._current.summary(row, self._seen) if row is not None else []
            room = _SUMMARY
        place = ", ".join(filter(None, remarks))
        rule = rule_line(self._seen.agent, chosen.text if chosen else "", place, width)
        shown = [rule, *fitting(lines, width, room)]
        shown += [()] * (1 + room - len(shown))
        self._fill("summary", shown)

    def _draw_busy(self) -> None:
        if self.backend.busy:
            self._say(self.backend.busy)
        elif self._said.startswith("replaying"):
            self._say("")

    def _put(self, name: str, content: Line) -> None:
        self._fill(name, [content])

    def _say(self, text: str, style: str = "") -> None:
        self._said = text
        self._message = [line((text, style))] if text else []
        if self.is_running:
            self._draw_message()

    def _draw_message(self) -> None:
        width = self.size.width
        self._fill("message", fitting(self._message, width, 2) or [()])

    def _fill(self, name: str, rows: Sequence[Line]) -> None:
        """Rows into a widget, which is made as high as they are: only then is the screen laid out anew.

        What it shows already costs nothing.
        """
        shown = self.size.width, tuple(rows)
        if self._filled.get(name) == shown:
            return
        self._filled[name] = shown
        widget = self.query_one(f"#{name}", Static)
        widget.styles.height = len(rows)
        widget.update(Text("\n").join(drawn(one, self.size.width) for one in rows), layout=False)

    # --- moving about ---

    def action_screen(self, name: str) -> None:
        """Show another screen."""
        if self._current.name != name:
            self._table.clear()
        self._current = self._views[name]
        self._close_page()
        self._ask_anew()

    def _ask_anew(self) -> None:
        self._wish = self._poller.want(self._current.requests(self._seen))
        self._draw()

    def _choose_agent(self, agent: str | None) -> None:
        self._seen.agent = agent
        # Answers are of all agents, or of another one.
        self._look.answers = {
            verb: answer
            for verb, answer in self._look.answers.items()
            if verb in ("status", "agents", "health")
        }
        self._table.clear()

    def action_open(self) -> None:
        """Enter: of an agent its processes, of anything else all about it."""
        row = self._table.selected
        if row is None or self._page.display:
            return
        if self._current.name == "agents":
            self._choose_agent(row.agent)
            self.action_screen("processes")
            return
        self._open(self._current, row, self._current.question(row))

    def _open(self, screen: Screen, row: Row, question: Question | None) -> None:
        def show(answer: Any) -> None:
            self._show_page(screen.page(row, answer))

        if question is None:
            show(None)
        else:
            self._in_background(lambda: self.backend.ask(question.verb, **question.arguments), show)

    def _show_page(self, lines: Sequence[Line]) -> None:
        self._table.display = False
        self._page.display = True
        self._page.show(lines)
        self._page.focus()
        self._say("")
        self._draw()

    def _close_page(self) -> None:
        if self._page.display:
            self._page.display = False
            self._table.display = True
            self._table.focus()
            self._draw()

    def action_leave(self) -> None:
        """Escape: one thing after the other."""
        self._say("")
        if self._prompt.display:
            self._end_prompt()
        elif self._page.display:
            self._close_page()
        elif self._search:
            self._search = ""
        elif self._chosen.pop(self._current.name, None):
            self._draw()
        elif self._seen.agent is not None:
            self._choose_agent(None)
            self.action_screen("agents")
        elif self._current.name != "agents":
            self.action_screen("agents")

    def _moving(self) -> Rows | Page:
        return self._page if self._page.display else self._table

    def action_move(self, by: int) -> None:
        self._moving().move(by)
        self._draw_summary()

    def action_page(self, pages: int) -> None:
        self._moving().page(pages)
        self._draw_summary()

    def action_edge(self, direction: int) -> None:
        if self._page.display:
            self._page.edge(direction)
        else:
            self._table.move_to(0 if direction < 0 else len(self._table.rows))
        self._draw_summary()

    def action_help(self) -> None:
        self._show_page(help_page(self._keys))

    # --- search, filter, commands ---

    def _ask_line(self, label: str, value: str, submit: Callable[[str], None]) -> None:
        self._submit = submit
        prompt = self._prompt
        prompt.value = value
        prompt.display = True
        prompt.cursor_position = len(value)
        self._say(label, "bold")
        prompt.focus()

    def _end_prompt(self) -> None:
        self._prompt.display = False
        self._moving().focus()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """What was typed is done."""
        self._end_prompt()
        self._say("")
        self._submit(submitted.value.strip())

    def action_search(self) -> None:
        self._ask_line("Find a row with this text:", "", self._find)

    def _find(self, text: str) -> None:
        self._search = text
        self.action_found(1)

    def action_found(self, direction: int) -> None:
        """To the next row that was searched for."""
        if not self._search:
            return
        if self._table.find(self._search, direction):
            self._draw_summary()
        else:
            self._say(f"No row has {self._search!r}.", "bold")

    def action_filter(self) -> None:
        chosen = self._chosen.get(self._current.name)
        names = ", ".join(self._current.fields[:6])
        label = f"Show rows where FIELD|MODIFIER: VALUE and ... (? tells more). Fields: {names}, ..."
        self._ask_line(label, chosen.text if chosen else "", self._set_filter)

    def _set_filter(self, text: str) -> None:
        self._chosen.pop(self._current.name, None)
        if text:
            try:
                self._chosen[self._current.name] = Filter.parse(text, self._current.fields)
            except ValueError as error:
                self._say(str(error), "bold red")
        self._draw()

    def action_command(self) -> None:
        self._ask_line(f"Command ({_COMMANDS}):", "", self._obey)

    def _obey(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        known = [agent["name"] for agent in self._look.answers.get("agents", ())]
        if name in SCREENS:
            self.action_screen(name)
        elif name == "agent" and rest in known:
            self._choose_agent(rest)
            self._ask_anew()
        elif name == "all":
            self._choose_agent(None)
            self._ask_anew()
        elif name in ("pause", "resume", "kill") and self._may_act:
            self._act(name, rest or self._agent())
        elif name == "seek" and self.backend.replay:
            self._seek_time(rest)
        elif name == "filter":
            self._set_filter(rest)
        elif name in ("quit", "q"):
            self.exit()
        elif name:
            wrong = f"There is no agent {rest}." if name == "agent" else f"There is no command {name}."
            self._say(f"{wrong} Commands: {_COMMANDS}", "bold red")

    # --- acting ---

    def _agent(self) -> str:
        """The agent that keys act on: that of the row, or the only one that is looked at."""
        row = self._table.selected
        return (row.agent if row is not None else "") or self._seen.agent or ""

    def action_pause(self) -> None:
        self._act("pause", self._agent())

    def action_resume(self) -> None:
        self._act("resume", self._agent())

    def action_kill(self) -> None:
        self._act("kill", self._agent())

    def _act(self, verb: str, name: str) -> None:
        """Say what will happen, and ask."""
        agents = {agent["name"]: agent for agent in self._look.answers.get("agents", ())}
        agent = agents.get(name)
        if agent is None:
            self._say(f"There is no agent {name}." if name else "Select an agent first.", "bold red")
            return
        processes = f"all its processes ({agent['processes']})"
        if verb == "kill":
            label = f"KILL {name}: {processes} end at once and for good. Type {name} to do it:"
            self._ask_line(label, "", lambda typed: self._kill(name, typed))
        elif verb == "pause" and agent["state"] == "paused":
            self._say(f"{name} is frozen already; r lets it go on, K kills it.", "bold")
        elif verb == "resume" and agent["state"] not in ("paused", "blocked"):
            self._say(f"{name} is neither frozen nor blocked.", "bold")
        else:
            what = {
                "pause": f"Freeze {name}? Then {processes} stop where they are, until r lets them go on.",
                "resume": f"Let {name} go on? Then {processes} go on as before.",
            }[verb]
            self._ask_yes(what, lambda: self._do(verb, name))

    def _ask_yes(self, question: str, then: Callable[[], None]) -> None:
        confirm = self.query_one(Confirm)
        confirm.then = then
        confirm.display = True
        answers = line(("y", "bold reverse"), " yes   ", ("any other key", "bold reverse"), " no")
        self._message = [line((question, "bold")), answers]
        self._draw_message()
        confirm.focus()

    def on_key(self, event: events.Key) -> None:
        """Only a question that stands is answered here; all other keys are bound."""
        if self.query_one(Confirm).display:
            event.stop()
            event.prevent_default()
            self._answer(event.key)

    def _answer(self, key: str) -> None:
        confirm = self.query_one(Confirm)
        confirm.display = False
        self._say("")
        self._moving().focus()
        if key == "y":
            confirm.then()
        else:
            self._say("Nothing was done.")

    async def on_event(self, event: events.Event) -> None:
        """Escape and the key after it come as one over a slow line: they are still two keys."""
        second = self._after_escape(event) if isinstance(event, events.Key) else None
        if second is None:
            await super().on_event(event)
        elif self.query_one(Confirm).display:
            self._answer("escape")
        else:
            self.action_leave()
            self.call_later(self.post_message, events.Key(second, second))

    def _after_escape(self, event: events.Key) -> str | None:
        """The key that came with an escape: Textual takes it for Alt, a digit for what a Mac makes of it."""
        if event.key.startswith("alt+"):
            return event.character
        return None if self._prompt.display else _DIGITS.get(event.character or "")

    def _kill(self, name: str, typed: str) -> None:
        if typed == name:
            self._do("kill", name)
        else:
            self._say(f"Nothing was done: that is not {name}.", "bold")

    def _do(self, verb: str, name: str) -> None:
        self._say(f"{verb} {name} ...")
        self._in_background(
            lambda: self.backend.act(verb, agent=name, reason="agentwatch top"),
            lambda done: self._did(verb, done),
        )

    def _did(self, verb: str, done: Any) -> None:
        for agent in self._look.answers.get("agents", ()):  # the next look may be half a second away
            if agent["name"] == done.get("agent"):
                agent["state"], agent["acted_by"] = _STATES_AFTER.get(verb, agent["state"]), "you"
                agent["processes"] = done.get("processes", agent["processes"])
        self._draw()
        took = f" in {done['took_us'] / 1000:.1f} ms" if "took_us" in done else ""
        late = "" if done.get("settled", True) else "; the kernel has not finished yet"
        what = {"pause": "FROZEN", "resume": "running again", "kill": "killed"}.get(verb, verb)
        left = done.get("processes", 0)
        rest = f", {left} processes are LEFT" if verb == "kill" and left else ""
        self._say(f"{done.get('agent', '')} is {what}{took}{rest}{late}", "bold red" if rest else "bold")

    def action_save(self) -> None:
        """Save what the daemon recorded of the agent."""
        name = self._agent()
        if not name:
            self._say("Select an agent first.", "bold red")
            return
        self._say(f"saving what was recorded of {name} ...")
        self._in_background(
            lambda: self.backend.act("save", agent=name), lambda done: self._say(f"saved: {done['path']}")
        )

    def action_explain(self) -> None:
        """Why: of the alert that is selected, else of the last one of the agent."""
        row = self._table.selected
        alerts = self._views["alerts"]
        if row is not None and self._current.name == "alerts":
            self._open(alerts, row, alerts.question(row))
            return
        name = self._agent()
        agents = {agent["name"]: agent for agent in self._look.answers.get("agents", ())}
        number = agents.get(name, {}).get("last_alert_number", 0)
        if row is None or not number:
            self._say(f"No alert is about {name}." if name else "Select an agent or an alert first.", "bold")
            return
        self._open(alerts, row, Question("explain", {"number": number}))

    # --- a recording ---

    def _position(self) -> int:
        """Where one is, or is on the way to."""
        timeline = self.backend.timeline
        return self._goal if self._goal is not None else timeline.position if timeline is not None else 0

    def action_step(self, by: int) -> None:
        """To the next event, or the one before."""
        self._seek(self._position() + by)

    def action_step_alert(self, direction: int) -> None:
        """To the next alert, or the one before."""
        timeline = self.backend.timeline
        if timeline is None:
            return
        here, positions = self._position(), [mark.position for mark in timeline.marks]
        if direction > 0:
            target = next((one for one in positions if one > here), None)
        else:
            target = next((one for one in reversed(positions) if one < here), None)
        if target is None:
            self._say(f"There is no alert {'after' if direction > 0 else 'before'} this.", "bold")
        else:
            self._seek(target)

    def action_ask_time(self) -> None:
        label = "Go to: seconds since the beginning, 50 %, or 2026-01-31T12:00:00Z:"
        self._ask_line(label, "", self._seek_time)

    def _seek_time(self, text: str) -> None:
        try:
            self._seek(self.backend.position_at(text))
        except ValueError as error:
            self._say(str(error), "bold red")

    def _seek(self, position: int) -> None:
        """One way at a time; who presses on meanwhile goes on from where he wanted to be."""
        timeline = self.backend.timeline
        if timeline is None:
            return
        moving = self._goal is not None
        self._goal = max(1, min(position, timeline.total))
        if not moving:
            self._go(self._goal)

    def _go(self, goal: int) -> None:
        def there(result: Any) -> None:
            if self._goal is not None and self._goal != goal:
                self._go(self._goal)
            else:
                self._goal = None

        self._in_background(lambda: self.backend.seek(goal), there)


def drawn(content: Line, width: int) -> Text:
    """One line for a widget: harmless, and cut to a width."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for span, style in content:
        text.append(printable(span, 4 * max(width, 1)), style)
    text.truncate(width, overflow="ellipsis")
    return text
