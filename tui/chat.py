"""F2: talk with a model, or with two side by side."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from minialign.errors import UserError
from minialign.lane import Which
from minialign.tasks.conversations import (
    Conversations,
    Talk,
    Turn,
    export,
    title_of,
)
from tui import answers
from tui.bar import TopBar
from tui.bubble import THUMBS, Bubble
from tui.composer import Composer
from tui.dialogs import Ask, Choice, Edit, Pick, Sure
from tui.jobs import Job

SHOWN = 30  # turns of an old conversation that are drawn
ENDS = {"length": "cut at the limit: Ctrl-S sets it", "cancelled": "stopped", "stop_string": ""}

EMPTY = """\
Ask something below, and press Enter.

Ctrl-G   another model or adapter
Ctrl-B   two models side by side
Ctrl-S   system prompt and sampling
Ctrl-O   earlier conversations
Esc ↑    go to the answers: copy, again, thumbs, pair to label"""


class Side:
    """One of the answers being written."""

    def __init__(self, which: Which, bubble: Bubble, job: Job):
        self.which, self.bubble, self.job = which, bubble, job
        self.tokens, self.since = 0, 0.0
        self.seed, self.reason = 0, "cancelled"
        self.progress = ""
        self.error: Exception | None = None


class ChatScreen(Screen[None]):
    """A conversation."""

    HELP_TITLE = "Chat"
    HELP_TEXT = (
        "Talk with a model on this machine. Every conversation is kept. An answer can get a thumb, "
        "or become a pair to label: a second answer is drawn and both wait on F3."
    )
    HELP_KEYS = (
        ("While you write", (
            ("enter", "Send"), ("shift+enter", "A new line (or Ctrl-J)"),
            ("escape", "Stop the answer; else go to the answers"), ("ctrl+r", "Answer again"),
            ("ctrl+n", "A new conversation"), ("ctrl+o", "Earlier ones: search, rename, export"),
            ("ctrl+g", "Choose model and adapter"), ("ctrl+b", "A second model beside it"),
            ("ctrl+s", "System prompt and sampling"), ("ctrl+e", "Export this conversation"),
        )),
        ("On an answer (Esc or ↑ goes there)", (
            ("c", "Copy"), ("k", "Copy its last code block"), ("r", "Answer again"),
            ("p", "Make it a pair to label"), ("+ -", "Good, bad; again takes it back"),
            ("e", "On a question: edit it and ask again"), ("up,down", "The turn above, below"),
            ("left,right", "The answer beside it"), ("escape", "Back to writing"),
        )),
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="stop"),
        Binding("escape", "leave", "Answers", id="answers"),
        Binding("ctrl+n", "new", "New", id="new", tooltip="A new conversation"),
        Binding("ctrl+o", "open", "Open", id="open", tooltip="Earlier conversations"),
        Binding("ctrl+g", "model", "Model", id="model", tooltip="Choose model and adapter"),
        Binding("ctrl+b", "beside", "Beside", id="beside", tooltip="A second model beside it"),
        Binding("ctrl+s", "settings", "Settings", id="settings",
                tooltip="System prompt and sampling"),
        Binding("ctrl+r", "again", "Again", id="again-last", show=False,
                tooltip="Answer the last question again"),
        Binding("ctrl+e", "export", "Export", id="export", show=False, priority=True,
                tooltip="Write this conversation to a file"),
        Binding("ctrl+t", "rename", "Rename", id="rename", show=False,
                tooltip="Give this conversation another title"),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.talk = Talk()
        self.store: Conversations | None = None
        self.sides: list[Side] = []
        self._ready = ""

    # ------------------------------------------------------------------ the screen

    def compose(self) -> ComposeResult:
        yield TopBar("chat")
        yield VerticalScroll(Static(EMPTY, id="empty", markup=False), id="talk", can_focus=False)
        yield Static("", id="status", markup=False)
        yield Composer(
            id="composer", show_line_numbers=False, soft_wrap=True, highlight_cursor_line=False,
            placeholder="Ask something…", compact=True,
        )  # fmt: skip
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(Composer).focus()
        self.query_one("#talk").anchor()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """After the first frame."""
        self.talk = self._fresh()
        try:
            self.store = Conversations()
        except UserError as error:
            self.store = Conversations(":memory:")
            self.app.show_error(error)  # type: ignore[attr-defined]
        self.model_changed()
        self.set_interval(0.25, self._tick)
        preferences = self.app.preferences  # type: ignore[attr-defined]
        if not preferences.welcomed and not self.app.begin_with_labels:  # type: ignore[attr-defined]
            self.run_worker(self._welcome())

    def on_unmount(self) -> None:
        self.stop()
        if self.store is not None:
            self.store.close()

    async def _welcome(self) -> None:
        from tui.welcome import Welcome

        question = await self.app.push_screen_wait(Welcome())
        self.app.preferences.welcomed = True  # type: ignore[attr-defined]
        self.app.preferences.save()  # type: ignore[attr-defined]
        if question:
            await self.ask(question)

    @property
    def beside(self) -> Which | None:
        """The model whose answer stands beside, if any."""
        value = self.app.preferences.beside  # type: ignore[attr-defined]
        return Which(*value[:2]) if value else None

    def model_changed(self) -> None:
        """Another model answers from now on; it is loaded while the question is written."""
        which, other = self.app.which, self.beside  # type: ignore[attr-defined]
        self.query_one(TopBar).tell(which.label + (f"  |  {other.label}" if other else ""))
        self.run_worker(self._warm(which), group="warm", exclusive=True)

    async def _warm(self, which: Which) -> None:
        try:
            async for item in Job(self.app.lane, answers.warm(which), ahead=True):  # type: ignore[attr-defined]
                if isinstance(item, answers.Progress):
                    self._ready = f"{item.what} …"
                else:
                    self._ready = "" if item else "the model is fetched with the first question"
        except UserError as error:
            self._ready = ""
            self.app.show_error(error)  # type: ignore[attr-defined]

    def _tick(self) -> None:
        """The line above the composer."""
        lines = []
        for side in self.sides:
            if side.progress:
                lines.append(side.progress)
            elif side.tokens:
                pace = side.tokens / max(time.monotonic() - side.since, 1e-3)
                lines.append(f"{side.tokens} tokens, {pace:.0f}/s")
            else:
                lines.append("…")
        status = self.query_one("#status", Static)
        if lines:
            status.update("● " + "  |  ".join(lines) + "   Esc stops")
        else:
            status.update(self._ready or self._idle())

    def _idle(self) -> str:
        title = self.talk.title or "a new conversation"
        return f"{title}{' · with a system prompt' if self.talk.system else ''}"

    def _fresh(self) -> Talk:
        system = self.app.preferences.system  # type: ignore[attr-defined]
        return Talk(system=system, seed=random.SystemRandom().randrange(2**31))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop is only shown while there is something to stop."""
        if action in ("stop", "leave"):
            return bool(self.sides) == (action == "stop")
        if action == "again":
            return any(turn.role == "assistant" for turn in self.talk.turns[-1:])
        return True

    # ------------------------------------------------------------------ asking

    @on(Composer.Sent)
    async def send(self, event: Composer.Sent) -> None:
        if self.sides:
            self.notify("An answer is being written: Esc stops it", timeout=3)
            return
        if event.text.strip():
            self.query_one(Composer).text = ""
            await self.ask(event.text.strip())

    async def ask(self, text: str) -> None:
        """Send a question."""
        self.talk.turns.append(Turn("user", text))
        self.talk.title = self.talk.title or title_of(text)
        await self._draw_turn(len(self.talk.turns) - 1)
        self.query_one("#talk").anchor()
        await self._answer(0)

    async def _answer(self, attempts: int) -> None:
        """Answer the last question, with one model or two."""
        place = len(self.talk.turns)
        wanted = [self.app.which] + ([self.beside] if self.beside else [])  # type: ignore[attr-defined]
        sides = []
        for number, which in enumerate(wanted):
            bubble = Bubble("assistant", which.label, place=place, side=number)
            messages = self.talk.messages(beside=number == 1)
            job = Job(
                self.app.lane,  # type: ignore[attr-defined]
                answers.answer(which, messages, self._sampling(), self.talk.seed, attempts),
            )
            sides.append(Side(which, bubble, job))
        self.sides = sides
        self.query_one("#empty").display = False
        holder = self.query_one("#talk")
        bubbles = [side.bubble for side in sides]
        await holder.mount(
            bubbles[0] if len(bubbles) == 1 else Horizontal(*bubbles, classes="pair")
        )
        self.refresh_bindings()
        self._finish(self.talk, sides, attempts)

    def _sampling(self) -> dict[str, Any]:
        return dict(self.app.preferences.sampling)  # type: ignore[attr-defined]

    @work(group="answers")
    async def _finish(self, talk: Talk, sides: list[Side], attempts: int) -> None:
        """Wait for all sides, then keep what they said."""
        await asyncio.gather(*(self._follow(side) for side in sides))
        first = sides[0]
        if self.talk is talk:
            self.sides = []
        for error in [side.error for side in sides if side.error is not None][:1]:
            self.app.show_error(error)  # type: ignore[attr-defined]
        if not first.bubble.text and (first.error is not None or first.reason == "cancelled"):
            await self._take_back(talk, sides)
            return
        origin = self._origin(first, attempts)
        if len(sides) > 1 and sides[1].bubble.text:
            origin["beside"] = {"text": sides[1].bubble.text, **self._origin(sides[1], attempts)}
        talk.turns.append(Turn("assistant", first.bubble.text, origin))
        self._save(talk)
        self.refresh_bindings()

    async def _follow(self, side: Side) -> None:
        try:
            async for item in side.job:
                if isinstance(item, answers.Progress):
                    share = f" {100 * item.done // item.total} %" if item.total else " …"
                    side.progress = item.what + share
                    continue
                side.progress = ""
                side.since = side.since or time.monotonic()
                side.tokens += 1
                side.seed = item.seed
                side.reason = item.reason or side.reason
                if item.text:
                    await side.bubble.add(item.text)
        except Exception as error:  # told in a dialog; the app goes on
            side.error = error
        if side.bubble.is_mounted:
            await side.bubble.end(ENDS.get(side.reason, ""))

    def _origin(self, side: Side, attempts: int) -> dict[str, Any]:
        origin: dict[str, Any] = {"model": side.which.model or side.which.label}
        if side.which.adapter:
            origin["adapter"] = side.which.adapter
        return {**origin, "seed": side.seed, "attempts": attempts, "finish_reason": side.reason}

    async def _take_back(self, talk: Talk, sides: list[Side]) -> None:
        """Nothing was said: the question goes back to where it was written."""
        question = talk.turns.pop()
        if self.talk is not talk:
            return
        for side in sides:
            holder = side.bubble.parent
            if side.bubble.is_mounted:
                await side.bubble.remove()
            if isinstance(holder, Horizontal) and holder.is_mounted and not holder.children:
                await holder.remove()
        for bubble in self.query(Bubble):
            if bubble.place == len(talk.turns):
                await bubble.remove()
        composer = self.query_one(Composer)
        if not composer.text:
            composer.text = question.content
            composer.move_cursor(composer.document.end)
        self.query_one("#empty").display = not talk.turns
        if talk.id is not None:
            self._save(talk)

    def _save(self, talk: Talk) -> None:
        try:
            if self.store is not None:
                self.store.save(talk)
        except UserError as error:
            self.app.show_error(error)  # type: ignore[attr-defined]

    def stop(self) -> bool:
        """Stop what is being written; False when nothing is."""
        for side in self.sides:
            side.job.cancel()
        return bool(self.sides)

    # ------------------------------------------------------------------ drawing turns

    async def _draw_turn(self, place: int) -> None:
        turn = self.talk.turns[place]
        self.query_one("#empty").display = False
        holder = self.query_one("#talk")
        if turn.role == "user":
            await holder.mount(Bubble("user", "you", turn.content, place))
            return
        told = [(turn.content, turn.origin)]
        if isinstance(other := turn.origin.get("beside"), dict) and "text" in other:
            told.append((str(other["text"]), other))
        bubbles = []
        for side, (text, origin) in enumerate(told):
            who = Which(origin.get("model"), origin.get("adapter")).label
            bubbles.append(Bubble("assistant", who, text, place, side))
        await holder.mount(
            bubbles[0] if len(bubbles) == 1 else Horizontal(*bubbles, classes="pair")
        )
        for bubble, (_, origin) in zip(bubbles, told, strict=True):
            bubble.foot(_foot(origin))

    async def show(self, talk: Talk) -> None:
        """Show a conversation."""
        self.stop()
        self.sides = []
        self.talk = talk
        holder = self.query_one("#talk")
        await holder.query(".bubble, .pair, .earlier").remove()
        self.query_one("#empty").display = not talk.turns
        if talk.turns and talk.turns[-1].role == "user":  # the app was killed before the answer
            self.query_one(Composer).text = talk.turns.pop().content
        hidden = max(0, len(talk.turns) - SHOWN)
        if hidden:
            text = f"… {hidden} earlier turns; an export (Ctrl-E) holds all"
            await holder.mount(Static(text, classes="earlier", markup=False))
        for place in range(hidden, len(talk.turns)):
            await self._draw_turn(place)
        holder.anchor()
        self.query_one(Composer).focus()
        self.refresh_bindings()

    # ------------------------------------------------------------------ keys

    def action_stop(self) -> None:
        """Stop the answer that is being written."""
        self.stop()

    def action_leave(self) -> None:
        """From the answers back to writing; from writing to the answers."""
        if isinstance(self.focused, Bubble):
            self.query_one(Composer).focus()
        else:
            self._to_answers()

    @on(Composer.Left)
    def _to_answers(self) -> None:
        bubbles = list(self.query(Bubble))
        if bubbles:
            bubbles[-1].focus()

    async def action_new(self) -> None:
        await self.show(self._fresh())

    async def action_again(self) -> None:
        """Answer the last question again."""
        if self.sides:
            return
        if not self.talk.turns or self.talk.turns[-1].role != "assistant":
            self.notify("There is no answer to draw again", timeout=3)
            return
        last = self.talk.turns.pop()
        for bubble in list(self.query(Bubble)):
            if bubble.place == len(self.talk.turns):
                holder = bubble.parent
                await (holder if isinstance(holder, Horizontal) else bubble).remove()
        self.query_one(Composer).focus()
        self.query_one("#talk").anchor()
        await self._answer(int(last.origin.get("attempts", 0)) + 1)

    @on(Bubble.Asked)
    async def asked(self, event: Bubble.Asked) -> None:
        """A key on a turn; an error must not end the screen's message loop."""
        try:
            await self._do(event.on, event.what)
        except UserError as error:
            self.app.show_error(error)  # type: ignore[attr-defined]

    async def _do(self, bubble: Bubble, what: str) -> None:
        match what:
            case "copy":
                self.app.copy_to_clipboard(bubble.text)
                self.notify("Copied", timeout=2)
            case "code":
                self.app.copy_to_clipboard(bubble.code() or "")
                self.notify("Code copied", timeout=2)
            case "write":
                self.query_one(Composer).focus()
            case "again":
                if bubble.place == len(self.talk.turns) - 1:
                    await self.action_again()
                else:
                    self.notify("Only the last answer; edit the question (e) instead", timeout=4)
            case "edit":
                self._edit(bubble)
            case "pair":
                self._pair(bubble)
            case "good" | "bad":
                self._rate(bubble, what == "good")

    @work(group="dialog", exclusive=True)
    async def _edit(self, bubble: Bubble) -> None:
        """Change a question and ask it again; what came after it goes."""
        if self.sides:
            return
        text = await self.app.push_screen_wait(
            Edit("Edit and ask again", bubble.text, keys="Ctrl-S ask   Esc cancel")
        )
        if text and text.strip():
            talk = self.talk
            del talk.turns[bubble.place :]
            await self.show(talk)
            await self.ask(text.strip())

    def _turn(self, bubble: Bubble) -> Turn | None:
        """The kept turn of a bubble; None while it is being written."""
        turns = self.talk.turns
        return turns[bubble.place] if bubble.place < len(turns) else None

    def _rate(self, bubble: Bubble, good: bool) -> None:
        from minialign.tasks.votes import rate

        turn = self._turn(bubble)
        if turn is None:
            return
        origin = turn.origin["beside"] if bubble.side else turn.origin
        value = None if origin.get("good") is good else good
        prompt = self.talk.messages(bubble.place, beside=bool(bubble.side))
        rate(prompt, bubble.text, value)
        origin.pop("good", None)
        if value is not None:
            origin["good"] = value
        bubble.foot(_foot(origin))
        self._save(self.talk)

    @work(group="pairs")
    async def _pair(self, bubble: Bubble) -> None:
        """Set the answer aside with another one, to be labelled."""
        from minialign.tasks.label import Shown, Waiting

        turn = self._turn(bubble)
        if turn is None:
            return
        prompt = self.talk.messages(bubble.place, beside=bool(bubble.side))
        keys = ("model", "adapter", "seed")
        other = turn.origin.get("beside")
        if isinstance(other, dict):
            texts, origins = [turn.content, str(other["text"])], [turn.origin, other]
        else:
            which = Which(turn.origin.get("model"), turn.origin.get("adapter"))
            self.notify("Drawing a second answer …", timeout=3)
            attempts = int(turn.origin.get("attempts", 0))
            job = Job(
                self.app.lane,  # type: ignore[attr-defined]
                answers.candidate(
                    which, prompt, self._sampling(), self.talk.seed, attempts, turn.content
                ),
            )
            found = await job.result()
            if found is None:
                self.notify("The model gives the same answer each time", severity="warning")
                return
            texts, origins = (
                [turn.content, found[0]],
                [turn.origin, {**turn.origin, "seed": found[1]}],
            )
        if texts[0].strip() == texts[1].strip():
            self.notify("Both answers are the same", severity="warning")
            return
        kept = [{key: origin[key] for key in keys if key in origin} for origin in origins]
        waiting = Waiting()
        waiting.add(Shown(prompt, texts[0], texts[1], kept[0], kept[1]))
        self.notify("A pair waits for your vote: F3", timeout=5)

    @work(group="dialog", exclusive=True)
    async def action_open(self) -> None:
        """Earlier conversations."""
        store = self.store
        if store is None:
            return

        def find(words: str) -> list[Choice]:
            return [
                Choice(entry.id, entry.title or "(no title)",
                       f"{entry.turns} turns, {_age(entry.updated)}",
                       "▸" if entry.id == self.talk.id else " ")
                for entry in store.search(words)
            ]  # fmt: skip

        async def rename(number: int) -> None:
            title = await self.app.push_screen_wait(Ask("Rename", store.load(number).title))
            if title:
                store.rename(number, title)
                if number == self.talk.id:
                    self.talk.title = title

        async def write(number: int) -> None:
            await self._export(store.load(number))

        async def remove(number: int) -> None:
            title = store.load(number).title
            if await self.app.push_screen_wait(Sure("Delete this conversation?", title)):
                store.remove(number)
                if number == self.talk.id:
                    await self.show(self._fresh())

        number = await self.app.push_screen_wait(
            Pick("Conversations", find,
                 {"ctrl+r": ("rename", rename), "ctrl+e": ("export", write),
                  "ctrl+d": ("delete", remove)}, "search in titles and texts")
        )  # fmt: skip
        if number is not None and number != self.talk.id:
            await self.show(store.load(number))

    async def _export(self, talk: Talk) -> None:
        name = "".join(c if c.isalnum() else "-" for c in talk.title.lower()).strip("-")[:40]
        path = await self.app.push_screen_wait(
            Ask("Export to (.md to read, .jsonl to train on)", f"{name or 'chat'}.md")
        )
        if path:
            export(talk, Path(path))
            self.notify(f"Written: {path}", timeout=4)

    @work(group="dialog", exclusive=True)
    async def action_export(self) -> None:
        """Write this conversation to a file."""
        await self._export(self.talk)

    @work(group="dialog", exclusive=True)
    async def action_rename(self) -> None:
        """Give this conversation another title."""
        title = await self.app.push_screen_wait(Ask("Rename", self.talk.title))
        if title:
            self.talk.title = title
            if self.talk.id is not None:
                self._save(self.talk)

    async def _pick(self, title: str, off: bool) -> Any:
        known = await asyncio.to_thread(answers.choices)
        here = self.beside if off else self.app.which  # type: ignore[attr-defined]
        listed = [Choice("off", "(none: one answer)")] if off and here else []
        listed += [
            Choice(which, which.label, note, "▸" if which == here else " " if at_hand else "↓")
            for which, note, at_hand in known
        ]

        def find(words: str) -> list[Choice]:
            low = words.lower().split()
            found = [c for c in listed if all(word in c.text.lower() for word in low)]
            if words.strip() and not found:
                found = [Choice(Which(words.strip()), words.strip(),
                                "a hub id, folder or GGUF file", "↓")]  # fmt: skip
            return found

        return await self.app.push_screen_wait(
            Pick(title, find, placeholder="type to search, or a hub id, folder or GGUF file")
        )

    @work(group="dialog", exclusive=True)
    async def action_model(self) -> None:
        """Choose the model and adapter that answer."""
        which = await self._pick("Which model answers?", off=False)
        if which is not None:
            self.app.choose(which)  # type: ignore[attr-defined]

    @work(group="dialog", exclusive=True)
    async def action_beside(self) -> None:
        """Choose a second model, whose answers stand beside."""
        which = await self._pick("Which model answers beside it?", off=True)
        if which is not None:
            preferences = self.app.preferences  # type: ignore[attr-defined]
            preferences.beside = None if which == "off" else [which.model, which.adapter]
            preferences.save()
            self.model_changed()

    @work(group="dialog", exclusive=True)
    async def action_settings(self) -> None:
        """System prompt and sampling."""
        from tui.sampling import SamplingDialog, load_sampling

        await asyncio.to_thread(load_sampling)
        preferences = self.app.preferences  # type: ignore[attr-defined]
        system = self.talk.system if self.talk.turns else preferences.system
        found = await self.app.push_screen_wait(SamplingDialog(system, preferences.sampling))
        if found is None:
            return
        self.talk.system, preferences.sampling = found
        preferences.system = self.talk.system
        preferences.save()
        if self.talk.id is not None:
            self._save(self.talk)


def _foot(origin: dict[str, Any]) -> str:
    parts = [THUMBS.get(origin.get("good"), ""), ENDS.get(str(origin.get("finish_reason")), "")]  # type: ignore[arg-type]
    return "   ".join(part for part in parts if part)


def _age(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name} ago"
    return "just now"
