"""F2: talk with a model, or with two side by side."""

import asyncio
import contextlib
import random
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from minialign.chat.store import Conversations, Talk, Turn, title_of
from minialign.engine.mlx_thread import Which
from minialign.errors import UserError
from tui import work as answers
from tui.chat import pickers
from tui.chat.answer_being_written import Side
from tui.chat.bubble import Bubble
from tui.chat.composer import Composer
from tui.chat.transcript import Transcript, foot
from tui.job import Job
from tui.widgets.bar import Keys, Line, TopBar
from tui.widgets.dialogs import Ask, Choice, Edit, Pick


class ChatScreen(Screen[None]):
    """A conversation."""

    HELP_TITLE = "Chat"
    HELP_ALSO = (Bubble,)
    HELP_TEXT = (
        "Talk with a model on this machine. Every conversation is kept. An answer can get a thumb, "
        "or become a pair to label: a second answer is drawn and both wait on F3."
    )
    HELP_KEYS = (
        ("While you write", (
            ("enter", "Send"), ("shift+enter", "A new line (or Ctrl-J)"),
            ("pageup,pagedown", "Scroll the answers; at the end they follow again"),
            ("escape", "Stop the answer; else go to the answers"), ("ctrl+r", "Answer again"),
            ("ctrl+n", "A new conversation"), ("ctrl+o", "Earlier ones: search, rename, export"),
            ("ctrl+g", "Choose model and adapter"), ("ctrl+b", "A second model beside it"),
            ("ctrl+s", "System prompt and sampling"), ("ctrl+e", "Export this conversation"),
            ("ctrl+t", "Give it another title"),
        )),
        ("On an answer (Esc or ↑ goes there)", (
            ("c", "Copy"), ("k", "Copy its code; of several blocks, one"), ("r", "Answer again"),
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
        self.attempts = 0  # answers to the last question before the one being written
        self._ready = ""

    # ------------------------------------------------------------------ the screen

    def compose(self) -> ComposeResult:
        yield TopBar("chat")
        yield Transcript()
        yield Line("status")
        yield Composer(
            id="composer", show_line_numbers=False, soft_wrap=True, highlight_cursor_line=False,
            placeholder="Ask something…", compact=True,
        )  # fmt: skip
        yield Keys()

    def on_mount(self) -> None:
        self.query_one(Composer).focus()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """After the first frame."""
        self.talk = self.fresh()
        try:
            self.store = Conversations()
        except UserError as error:
            self.store = Conversations(":memory:")
            self.app.show_error(error)  # type: ignore[attr-defined]
        self.model_changed()
        self.set_interval(0.25, self._tick)
        self.run_worker(self.query_one(Transcript).warm())
        preferences = self.app.preferences  # type: ignore[attr-defined]
        if not preferences.welcomed and preferences.place == "chat":
            self.run_worker(self._welcome())

    def on_unmount(self) -> None:
        self.stop()
        if self.store is not None:
            with contextlib.suppress(UserError):  # there is no screen to tell it on
                if self._keep(self.talk, self.sides, self.attempts):
                    self.store.save(self.talk)
            self.store.close()
        self.sides = []

    async def _welcome(self) -> None:
        from tui.chat.welcome import Welcome

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
        lines = [side.told() for side in self.sides]
        status = self.query_one("#status", Line)
        if lines:
            status.tell("● " + "  |  ".join(lines) + "   Esc stops")
        else:
            status.tell(self._ready or self._idle())

    def _idle(self) -> str:
        title = self.talk.title or "a new conversation"
        return f"{title}{' · with a system prompt' if self.talk.system else ''}"

    def fresh(self) -> Talk:
        """A new conversation."""
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
        self._save(self.talk)
        transcript = self.query_one(Transcript)
        await transcript.say(self.talk.turns[-1], len(self.talk.turns) - 1)
        transcript.anchor()
        await self._answer(0)

    async def _answer(self, attempts: int, before: Turn | None = None) -> None:
        """Answer the last question, with one model or two; ``before`` comes back when nothing is
        said."""
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
        self.sides, self.attempts, self._ready = sides, attempts, ""
        await self.query_one(Transcript).put([side.bubble for side in sides])
        self.refresh_bindings()
        self._finish(self.talk, sides, attempts, before)

    def _sampling(self) -> dict[str, Any]:
        return dict(self.app.preferences.sampling)  # type: ignore[attr-defined]

    @work(group="answers")
    async def _finish(
        self, talk: Talk, sides: list[Side], attempts: int, before: Turn | None
    ) -> None:
        """Wait for all sides, then keep what they said."""
        await asyncio.gather(*(side.follow() for side in sides))
        if self.talk is talk:
            self.sides = []
        for error in [side.error for side in sides if side.error is not None][:1]:
            self.app.show_error(error)  # type: ignore[attr-defined]
        first = sides[0]
        if not first.bubble.text and (first.error is not None or first.reason == "cancelled"):
            await self._take_back(talk, before)
        elif self._keep(talk, sides, attempts):
            self._save(talk)
        self.refresh_bindings()

    def _keep(self, talk: Talk, sides: list[Side], attempts: int) -> bool:
        """The answers, as far as they were written, become the conversation's."""
        if not sides or not (sides[0].bubble.text or sides[0].tokens):
            return False
        origin = sides[0].origin(attempts)
        if len(sides) > 1 and sides[1].bubble.text:
            origin["beside"] = {"text": sides[1].bubble.text, **sides[1].origin(attempts)}
        talk.turns.append(Turn("assistant", sides[0].bubble.text, origin))
        return True

    async def _take_back(self, talk: Talk, before: Turn | None) -> None:
        """Nothing was said: the answer that was there before comes back; or the question goes back
        to where it was written."""
        if before is not None:
            talk.turns.append(before)
        if self.talk is not talk:
            return  # an open question of another conversation waits there
        transcript = self.query_one(Transcript)
        if before is not None:
            await transcript.drop(len(talk.turns) - 1)
            await transcript.say(before, len(talk.turns) - 1)
            return
        question = talk.turns.pop()
        if talk.turns:
            self._save(talk)
        elif talk.id is not None and self.store is not None:
            self.store.remove(talk.id)
            talk.id, talk.title = None, ""
        for place in (len(talk.turns) + 1, len(talk.turns)):
            await transcript.drop(place)
        composer = self.query_one(Composer)
        if not composer.text:
            composer.text = question.content
            composer.move_cursor(composer.document.end)
        self.query_one("#empty").display = not talk.turns

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

    async def show(self, talk: Talk) -> None:
        """Show a conversation."""
        self.stop()
        self.sides = []
        self.talk = talk
        if talk.turns and talk.turns[-1].role == "user":  # the app was killed before the answer
            self.query_one(Composer).text = talk.turns.pop().content
        await self.query_one(Transcript).show(talk)
        self.query_one(Composer).focus()
        self.refresh_bindings()

    # ------------------------------------------------------------------ keys

    def action_stop(self) -> None:
        """Stop the answer that is being written."""
        self.stop()

    def action_leave(self) -> None:
        """From writing to the answers; a turn's own Escape goes back."""
        self._to_answers()

    @on(Composer.Left)
    def _to_answers(self) -> None:
        bubbles = list(self.query(Bubble))
        if bubbles:
            bubbles[-1].focus()

    async def action_new(self) -> None:
        await self.show(self.fresh())

    async def action_again(self) -> None:
        """Answer the last question again."""
        if self.sides:
            return
        if not self.talk.turns or self.talk.turns[-1].role != "assistant":
            self.notify("There is no answer to draw again", timeout=3)
            return
        last = self.talk.turns.pop()
        transcript = self.query_one(Transcript)
        await transcript.drop(len(self.talk.turns))
        self.query_one(Composer).focus()
        transcript.anchor()
        await self._answer(int(last.origin.get("attempts", 0)) + 1, last)

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
                self._copy_code(bubble.code())
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
        from minialign.labels.votes import rate

        turn = self._turn(bubble)
        if turn is None:
            return
        origin = turn.origin["beside"] if bubble.side else turn.origin
        value = None if origin.get("good") is good else good
        prompt = self.talk.messages(bubble.place, beside=bool(bubble.side))
        rate(prompt, bubble.text, value, origin.get("finish_reason"))
        origin.pop("good", None)
        if value is not None:
            origin["good"] = value
        bubble.foot(foot(origin))
        self._save(self.talk)

    @work(group="dialog", exclusive=True)
    async def _copy_code(self, blocks: list[str]) -> None:
        """Copy a block of code; of several the one that is chosen."""
        if len(blocks) > 1:
            listed = [Choice(block, block.strip().partition("\n")[0]) for block in blocks]
            block = await self.app.push_screen_wait(
                Pick("Which block?", lambda words: [c for c in listed if words in c.value])
            )
        else:
            block = blocks[0]
        if block is not None:
            self.app.copy_to_clipboard(block)
            self.notify("Code copied", timeout=2)

    @work(group="pairs")
    async def _pair(self, bubble: Bubble) -> None:
        """Set the answer aside with another one, to be labelled."""
        from tui.label.from_chat import set_aside

        turn = self._turn(bubble)
        if turn is None:
            return
        if "beside" not in turn.origin:
            self.notify("Drawing a second answer …", timeout=3)
        prompt = self.talk.messages(bubble.place, beside=bool(bubble.side))
        failed = await set_aside(
            self.app.lane, turn, prompt, self._sampling(), self.talk.seed  # type: ignore[attr-defined]
        )  # fmt: skip
        if failed:
            self.notify(failed, severity="warning")
        else:
            self.notify("A pair waits for your vote: F3", timeout=5)

    @work(group="dialog", exclusive=True)
    async def action_open(self) -> None:
        """Earlier conversations."""
        if self.store is not None:
            await pickers.choose_conversation(self, self.store)

    @work(group="dialog", exclusive=True)
    async def action_export(self) -> None:
        """Write this conversation to a file."""
        await pickers.export_talk(self, self.talk)

    @work(group="dialog", exclusive=True)
    async def action_rename(self) -> None:
        """Give this conversation another title."""
        title = await self.app.push_screen_wait(Ask("Rename", self.talk.title))
        if title:
            self.talk.title = title
            if self.talk.id is not None:
                self._save(self.talk)

    @work(group="dialog", exclusive=True)
    async def action_model(self) -> None:
        """Choose the model and adapter that answer."""
        which = await pickers.choose_model(
            self, "Which model answers?", self.app.which, none=False  # type: ignore[attr-defined]
        )  # fmt: skip
        if which is not None:
            self.app.choose(which)  # type: ignore[attr-defined]

    @work(group="dialog", exclusive=True)
    async def action_beside(self) -> None:
        """Choose a second model, whose answers stand beside."""
        which = await pickers.choose_model(
            self, "Which model answers beside it?", self.beside, none=True
        )
        if which is not None:
            preferences = self.app.preferences  # type: ignore[attr-defined]
            preferences.beside = None if which == "off" else [which.model, which.adapter]
            preferences.save()
            self.model_changed()

    @work(group="dialog", exclusive=True)
    async def action_settings(self) -> None:
        """System prompt and sampling."""
        from tui.chat.settings_dialog import SamplingDialog

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
