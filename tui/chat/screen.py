"""F2: talk with a model, or with two side by side."""

import asyncio
import contextlib
import random
from functools import partial
from typing import Any

from textual import on, work
from textual.app import ComposeResult

from minialign.chat.store import Conversations, Talk, Turn, title_of
from minialign.engine.mlx_thread import ModelChoice
from minialign.errors import UserError
from minialign.progress import Progress
from tui.chat import pickers
from tui.chat.answer_being_written import Side
from tui.chat.bubble import CODE, Bubble
from tui.chat.composer import Composer
from tui.chat.transcript import Transcript, foot
from tui.model_job import Job
from tui.model_work import Asked, load_model
from tui.widgets.app_screen import AppScreen, bind, key
from tui.widgets.bar import Line, TopBar
from tui.widgets.dialogs import Ask, Choice, Edit, Pick

EXPORT = "Write this conversation to a file"
RENAME = "Give this conversation another title"


class ChatScreen(AppScreen):
    """A conversation."""

    MODE = "chat"
    HELP_ALSO = (Bubble,)
    BINDINGS = bind(
        key("escape", "stop", "Stop", "stop"),
        key("escape", "leave", "Answers", "answers"),
        key("ctrl+n", "new", "New", "new", "A new conversation"),
        key("ctrl+o", "open", "Open", "open", "Earlier conversations"),
        key("ctrl+g", "model", "Model", "model", "Choose model and adapter"),
        key("ctrl+b", "beside", "Beside", "beside", "A second model beside it"),
        key("ctrl+s", "settings", "Settings", "settings", "System prompt and sampling"),
        key("ctrl+r", "again", "Again", "again-last", "Answer the last question again", show=False),
        key("ctrl+e", "export", "Export", "export", EXPORT, show=False, priority=True),
        key("ctrl+t", "rename", "Rename", "rename", RENAME, show=False),
    )

    def __init__(self) -> None:
        super().__init__()
        self.talk = Talk()
        self.store: Conversations | None = None
        self.sides: list[Side] = []
        self._ready = ""

    def body(self) -> ComposeResult:
        yield Transcript()
        yield Line("status")
        yield Composer()

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
            self.services.show_error(error)
        self.model_changed()
        self.set_interval(0.25, self._tick)
        self.run_worker(self.query_one(Transcript).warm())
        preferences = self.services.preferences
        if not preferences.welcomed and preferences.place == "chat":
            self._welcome()

    def on_unmount(self) -> None:
        self.action_stop()
        if self.store is not None:
            with contextlib.suppress(UserError):  # there is no screen to tell it on
                if self._keep(self.talk, self.sides):
                    self.store.save(self.talk)
            self.store.close()
        self.sides = []

    @work
    async def _welcome(self) -> None:
        from tui.chat.welcome import Welcome

        question = await self.app.push_screen_wait(Welcome())
        self.services.preferences.keep(welcomed=True)
        if question:
            await self.ask(question)

    @property
    def beside(self) -> ModelChoice | None:
        """The model whose answer stands beside, if any."""
        value = self.services.preferences.beside
        return ModelChoice(*value[:2]) if value else None

    def show_model(self) -> None:
        other = f"  |  {self.beside.label}" if self.beside else ""
        self.query_one(TopBar).tell(self.services.choice.label + other)

    def model_changed(self) -> None:
        """Another model answers from now on; it is loaded while the question is written."""
        super().model_changed()
        self._warm()

    @work(group="warm", exclusive=True)
    async def _warm(self) -> None:
        def tell(progress: Progress) -> None:
            self._ready = f"{progress.what} …"

        load, here = partial(load_model, self.services.choice), None
        job = Job(self.services.model_thread, load, ahead=True, on_progress=tell)
        with self.telling():
            here = await job.result()
        self._ready = "the model is fetched with the first question" if here is False else ""

    def _tick(self) -> None:
        """The line above the composer."""
        title = self.talk.title or "a new conversation"
        status = self._ready or title + (" · with a system prompt" if self.talk.system else "")
        if self.sides:
            lines = "  |  ".join(side.describe() for side in self.sides)
            status = f"● {lines}   Esc stops"
        self.query_one("#status", Line).tell(status)

    def fresh(self) -> Talk:
        """A new conversation."""
        system = self.services.preferences.system
        return Talk(system=system, seed=random.SystemRandom().randrange(2**31))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop is only shown while there is something to stop."""
        ended = any(turn.role == "assistant" for turn in self.talk.turns[-1:])
        can = {"stop": bool(self.sides), "leave": not self.sides, "again": ended}
        return can.get(action, True)

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
        thread, place = self.services.model_thread, len(self.talk.turns)
        sides = []
        for number, choice in enumerate(filter(None, [self.services.choice, self.beside])):
            asked = self._asked(choice, attempts=attempts, beside=number == 1)
            sides.append(Side(thread, asked, place, number))
        self.sides, self._ready = sides, ""
        await self.query_one(Transcript).put([side.bubble for side in sides])
        self.refresh_bindings()
        self._finish(self.talk, sides, before)

    def _asked(
        self, choice: ModelChoice, place: int | None = None, attempts: int = 0, beside: bool = False
    ) -> Asked:
        """What is asked at a place of the conversation, or at its end."""
        messages = self.talk.messages(place, beside=beside)
        return Asked(choice, messages, self._sampling(), self.talk.seed, attempts)

    def _sampling(self) -> dict[str, Any]:
        return dict(self.services.preferences.sampling)

    @work(group="answers")
    async def _finish(self, talk: Talk, sides: list[Side], before: Turn | None) -> None:
        """Wait for all sides, then keep what they said."""
        await asyncio.gather(*(side.follow() for side in sides))
        if self.talk is talk:
            self.sides = []
        first, errors = sides[0], [side.error for side in sides if side.error is not None]
        if errors:
            self.services.show_error(errors[0])
        if not first.bubble.text and (first.error is not None or first.reason == "cancelled"):
            await self._take_back(talk, before)
        elif self._keep(talk, sides):
            self._save(talk)
        self.refresh_bindings()

    def _keep(self, talk: Talk, sides: list[Side]) -> bool:
        """The answers, as far as they were written, become the conversation's."""
        if not sides or not (sides[0].bubble.text or sides[0].tokens):
            return False
        origin = sides[0].origin()
        if len(sides) > 1 and sides[1].bubble.text:
            origin["beside"] = {"text": sides[1].bubble.text, **sides[1].origin()}
        talk.turns.append(Turn("assistant", sides[0].bubble.text, origin))
        return True

    async def _take_back(self, talk: Talk, before: Turn | None) -> None:
        """Nothing was said: the answer that was there before comes back; or the question goes back
        to where it was written."""
        if before is not None:
            talk.turns.append(before)
        if self.talk is not talk:
            return  # an open question of another conversation waits there
        transcript, last = self.query_one(Transcript), len(talk.turns) - 1
        if before is not None:
            await transcript.drop(last)
            await transcript.say(before, last)
            return
        question = talk.turns.pop()
        if talk.turns:
            self._save(talk)
        elif talk.id is not None and self.store is not None:
            self.store.remove(talk.id)
            talk.id, talk.title = None, ""
        for place in (last + 1, last):
            await transcript.drop(place)
        composer = self.query_one(Composer)
        if not composer.text:
            composer.text = question.content
            composer.move_cursor(composer.document.end)
        self.query_one("#empty").display = not talk.turns

    def _save(self, talk: Talk) -> None:
        with self.telling():
            if self.store is not None:
                self.store.save(talk)

    async def show(self, talk: Talk | None = None) -> None:
        """Show a conversation; a new one by default."""
        self.action_stop()
        self.sides = []
        self.talk = talk = talk or self.fresh()
        if talk.turns and talk.turns[-1].role == "user":  # the app was killed before the answer
            self.query_one(Composer).text = talk.turns.pop().content
        await self.query_one(Transcript).show(talk)
        self.query_one(Composer).focus()
        self.refresh_bindings()

    def action_stop(self) -> None:
        """Stop the answers that are being written."""
        for side in self.sides:
            side.job.cancel()

    @on(Composer.Left)
    def action_leave(self) -> None:
        """From writing to the answers; a turn's own Escape goes back."""
        for bubble in list(self.query(Bubble))[-1:]:
            bubble.focus()

    async def action_new(self) -> None:
        await self.show()

    async def action_again(self) -> None:
        """Answer the last question again; its key is off when nothing can be drawn again."""
        last = self.talk.turns.pop()
        transcript = self.query_one(Transcript)
        await transcript.drop(len(self.talk.turns))
        self.query_one(Composer).focus()
        transcript.anchor()
        await self._answer(int(last.origin.get("attempts", 0)) + 1, last)

    @on(Bubble.Asked)
    async def act_on_turn(self, event: Bubble.Asked) -> None:
        """A key on a turn; an error must not end the screen's message loop."""
        with self.telling():
            await self._do(event.on, event.what)

    async def _do(self, bubble: Bubble, what: str) -> None:
        turn = next(iter(self.talk.turns[bubble.place :]), None)  # None: it is being written
        match what:
            case "copy":
                self.app.copy_to_clipboard(bubble.text)
                self.notify("Copied", timeout=2)
            case "code":
                self._copy_code(CODE.findall(bubble.text))
            case "write":
                self.query_one(Composer).focus()
            case "again":
                if bubble.place == len(self.talk.turns) - 1:
                    await self.action_again()
                else:
                    self.notify("Only the last answer; edit the question (e) instead", timeout=4)
            case "edit":
                self._edit(bubble)
            case "pair" if turn is not None:
                self._pair(bubble, turn)
            case "good" | "bad" if turn is not None:
                self._rate(bubble, turn, what == "good")

    @work(group="dialog", exclusive=True)
    async def _edit(self, bubble: Bubble) -> None:
        """Change a question and ask it again; what came after it goes."""
        if self.sides:
            return
        edit = Edit("Edit and ask again", bubble.text, keys="Ctrl-S ask   Esc cancel")
        text = await self.app.push_screen_wait(edit)
        if text and text.strip():
            talk = self.talk
            del talk.turns[bubble.place :]
            await self.show(talk)
            await self.ask(text.strip())

    def _rate(self, bubble: Bubble, turn: Turn, good: bool) -> None:
        from minialign.labels.votes import rate

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
            pick = Pick("Which block?", lambda words: [c for c in listed if words in c.value])
            block = await self.app.push_screen_wait(pick)
        else:
            block = blocks[0]
        if block is not None:
            self.app.copy_to_clipboard(block)
            self.notify("Code copied", timeout=2)

    @work(group="pairs")
    async def _pair(self, bubble: Bubble, turn: Turn) -> None:
        """Set the answer aside with another one, to be labelled."""
        from tui.chat.pair_to_label import set_aside

        if "beside" not in turn.origin:
            self.notify("Drawing a second answer …", timeout=3)
        asked = self._asked(self.services.choice, bubble.place, beside=bool(bubble.side))
        failed = await set_aside(self.services.model_thread, turn, asked)
        told = failed or "A pair waits for your vote: F3"
        self.notify(told, severity="warning" if failed else "information", timeout=5)

    @work(group="dialog", exclusive=True)
    async def action_open(self) -> None:
        """Earlier conversations."""
        if self.store is not None:
            await pickers.choose_conversation(self.app, self.store, lambda: self.talk, self.show)

    @work(group="dialog", exclusive=True)
    async def action_export(self) -> None:
        """Write this conversation to a file."""
        await pickers.export_talk(self.app, self.talk)

    @work(group="dialog", exclusive=True)
    async def action_rename(self) -> None:
        """Give this conversation another title."""
        if title := await self.app.push_screen_wait(Ask("Rename", self.talk.title)):
            self.talk.title = title
            if self.talk.id is not None:
                self._save(self.talk)

    @work(group="dialog", exclusive=True)
    async def action_model(self) -> None:
        """Choose the model and adapter that answer."""
        title, here = "Which model answers?", self.services.choice
        choice = await pickers.choose_model(self.app, title, here, none=False)
        if choice is not None:
            self.services.choose(choice)

    @work(group="dialog", exclusive=True)
    async def action_beside(self) -> None:
        """Choose a second model, whose answers stand beside."""
        title = "Which model answers beside it?"
        choice = await pickers.choose_model(self.app, title, self.beside, none=True)
        if choice is not None:
            beside = None if choice == "off" else [choice.model, choice.adapter]
            self.services.preferences.keep(beside=beside)
            self.model_changed()

    @work(group="dialog", exclusive=True)
    async def action_settings(self) -> None:
        """System prompt and sampling."""
        from tui.chat.settings_dialog import SamplingDialog

        preferences = self.services.preferences
        system = self.talk.system if self.talk.turns else preferences.system
        given = await self.app.push_screen_wait(SamplingDialog(system, preferences.sampling))
        if given is None:
            return
        self.talk.system, sampling = given
        preferences.keep(system=self.talk.system, sampling=sampling)
        if self.talk.id is not None:
            self._save(self.talk)
