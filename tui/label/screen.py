"""F3: a prompt and two answers, and which one is better."""

import asyncio
import time
from functools import partial
from typing import Any

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from minialign.durable import digest
from minialign.errors import UserError
from minialign.labels.items import Item, Waiting, read_items, starters
from minialign.labels.sitting import Labelling
from minialign.labels.votes import Votes
from minialign.progress import Progress
from minialign.records import Comparison, Prompt
from tui.label.queue import CHAT_ONLY, STARTERS, choose_order, choose_source
from tui.model_job import Job, share_of
from tui.model_work import Asked, measure_doubt, write_pair
from tui.widgets.app_screen import SCROLL_KEYS, AppScreen, bind, key, scroll_keys
from tui.widgets.bar import Line
from tui.widgets.dialogs import Ask, Edit
from tui.widgets.text import WORDS, AnswerPane, plain, printable, prompt_text

SAID = WORDS | {"skip": "skipped"}
LEAST_SURE = "Pairs first of which a reward head or a judge is least sure"
NOTHING = """\
Nothing to label here.

o   choose a file of prompts or pairs, or the everyday prompts
F2  chat: p on an answer makes it a pair to label
F5  train on the votes you have: n"""


class LabelScreen(AppScreen):
    """One pair after the other."""

    MODE = "label"
    SCROLLED = "#answers VerticalScroll"
    BOUNCE = 0.3  # seconds after a pair is drawn in which no vote counts: a key that is held down
    BINDINGS = bind(
        key("a,left", "vote('a')", "A", "vote-a", key_display="a/←"),
        key("b,right", "vote('b')", "B", "vote-b", key_display="b/→"),
        key("t", "vote('tie')", "Tie", "vote-tie"),
        key("x", "vote('both_bad')", "Both bad", "vote-bad"),
        key("s", "vote('skip')", "Skip", "vote-skip"),
        key("e", "edit", "Edit", "vote-edit"),
        key("n", "note", "Note", "note"),
        key("u", "undo", "Undo", "undo"),
        key("o", "source", "Open", "source", "What is labelled"),
        key("l", "least_sure", "Least sure first", "least-sure", LEAST_SURE, show=False),
        *SCROLL_KEYS,
        *scroll_keys({"shift+down": 2, "shift+up": -2}, "scroll_prompt"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.sitting: Labelling | None = None
        self.drawn: Comparison | None = None
        self.drawn_at = 0.0
        self.note = ""
        self.said = ""  # about the last vote
        self.progress = ""  # of what is being written
        self.writing: tuple[Job, Prompt] | None = None
        self.drawing = asyncio.Lock()  # what two drew at once would be half of each
        self.chat_keys: set[str] = set()
        self.measured = ""  # how far somebody is with saying how sure they are

    def body(self) -> ComposeResult:
        yield Line("tally")
        with VerticalScroll(id="prompt", can_focus=False):
            yield plain(id="asked")
        with Horizontal(id="answers"):
            yield AnswerPane("side-a")
            yield AnswerPane("side-b")
        yield plain(NOTHING, id="nothing")
        yield Line("kept")

    def on_mount(self) -> None:
        self.query_one("#prompt").border_title = "prompt"
        self.set_interval(0.5, self._tick)
        self.open_source(self.services.preferences.label_source or STARTERS)

    @work(group="source", exclusive=True)
    async def open_source(self, source: str) -> None:
        """Label a file, the everyday prompts, or the chat's pairs alone."""
        self._stop_writing()
        self.query_one("#kept", Line).tell("reading …")
        preferences = self.services.preferences
        scorer = preferences.label_order

        def read() -> tuple[Labelling, set[str]]:
            items: list[Item] = []
            if source != CHAT_ONLY:
                items = starters() if source == STARTERS else read_items(source)
            waiting = Waiting().pairs()
            sitting = Labelling(Votes(), items, waiting, least_sure_first=bool(scorer))
            return sitting, {pair.key for pair in waiting}

        def voted() -> list[Any]:
            return list(self.sitting.votes.all) if self.sitting is not None else []

        try:
            before: list[Any] | None = None
            while before != voted():  # else a vote was given meanwhile, which it does not know of
                before = voted()
                sitting, chat_keys = await asyncio.to_thread(read)
        except UserError as error:
            self.services.show_error(error)
            if self.sitting is None and source != CHAT_ONLY:
                self.open_source(CHAT_ONLY)
            return
        votes = sitting.votes
        if votes.unreadable:
            told = f"{votes.unreadable} lines of {votes.path} are no votes; they stay as they are"
            self.notify(told, severity="warning", timeout=8)
        preferences.keep(label_source=source)
        self._stop_writing()  # a vote while the source was read may have asked for more
        if self.sitting is not None:
            sitting.go_on_from(self.sitting)
        self.chat_keys, self.sitting = chat_keys, sitting
        self.said = self.measured = ""
        self.workers.cancel_group(self, "certainty")
        if scorer:
            self._measure(scorer, sitting)
        await self._go_on()

    @work(group="certainty", exclusive=True)
    async def _measure(self, scorer: str, sitting: Labelling) -> None:
        """Ask somebody how sure they are of each pair, while the user labels."""
        pairs = sitting.pairs()
        if not pairs:
            self.notify("Least sure first is for pairs; these are prompts", timeout=5)
            return

        def tell(progress: Progress) -> None:
            self.measured = f"{progress.what} …"

        measure = partial(measure_doubt, scorer, pairs)
        job = Job(self.services.model_thread, measure, ahead=True, on_progress=tell)
        done = 0
        try:
            async for key_, sure in job:
                sitting.learn(key_, sure)
                done += 1
                self.measured = f"{done}/{len(pairs)} by {scorer}"
        except Exception as error:  # told; the pairs come in their own order then
            self.measured = ""
            self.services.show_error(error)
        finally:
            job.cancel()

    def on_screen_resume(self) -> None:
        """Pairs that were made in the chat meanwhile come next."""
        if self.sitting is not None:
            self.run_worker(self._from_chat())

    async def _from_chat(self) -> None:
        waiting = (await asyncio.to_thread(Waiting)).pairs()
        if self.sitting is not None:
            self.sitting.add_first([pair for pair in waiting if pair.key not in self.chat_keys])
            self.chat_keys |= {pair.key for pair in waiting}
        await self._go_on()

    def model_changed(self) -> None:
        """Another model writes the answers from now on."""
        super().model_changed()
        self._stop_writing()
        if self.sitting is not None:
            self.run_worker(self._go_on())

    def _stop_writing(self) -> None:
        """Give up what is being written; its prompt is the next one again."""
        if self.writing is not None:
            job, prompt = self.writing
            self.progress, self.writing = "", None
            job.cancel()
            if self.sitting is not None:
                self.sitting.offer(None, prompt)

    def _fill(self) -> None:
        """Have the next pair written while this one is read."""
        sitting = self.sitting
        while sitting is not None and sitting.wants():
            prompt = sitting.take()
            if prompt is not None:
                seed = int(digest(prompt), 16) % 2**53
                sampling = dict(self.services.preferences.sampling)
                asked = Asked(self.services.choice, prompt, sampling, seed)
                thread, tell = self.services.model_thread, self._tell_progress
                job = Job(thread, partial(write_pair, asked), ahead=True, on_progress=tell)
                self.writing = job, prompt
                self._follow(job, prompt)

    def _tell_progress(self, progress: Progress) -> None:
        steps = f", {progress.done} tokens" if progress.done else ""
        self.progress = progress.what + share_of(progress, steps)

    @work(group="pairs")
    async def _follow(self, job: Job, prompt: Prompt) -> None:
        try:
            pair = await job.result()
        except Exception as error:  # told; it is asked for again when the user goes on
            if not job.cancelled:
                self._stop_writing()
                self.services.show_error(error)
                await self._draw()
            return
        if job.cancelled or self.sitting is None:
            return
        self.progress, self.writing = "", None
        if pair is None:
            self.notify("The model gives one answer only to: " + prompt[-1]["content"][:60])
        self.sitting.offer(pair)
        await self._go_on()

    async def _go_on(self) -> None:
        """Show what is there to show, and ask for more."""
        self._fill()
        if self.sitting is not None:
            self.sitting.show()
            self._fill()
        await self._draw()

    async def _draw(self) -> None:
        async with self.drawing:
            pair = self.sitting.show() if self.sitting is not None else None
            self._tick()
            there = pair is not None
            self.query("#answers, #prompt").set(display=there)
            self.query_one("#nothing").display = not there and self.writing is None
            if pair is self.drawn:
                return
            if pair is not None:
                self.query_one("#asked", Static).update(prompt_text(pair.prompt))
                self.query_one("#prompt").scroll_home(animate=False)
                for name, text in (("a", pair.a), ("b", pair.b)):
                    await self.query_one(f"#side-{name}", AnswerPane).show(name.upper(), text)
            self.drawn = pair
            self.drawn_at = time.monotonic()
            self.refresh_bindings()

    def _tick(self) -> None:
        """Counts, pace, what is being written."""
        sitting = self.sitting
        if sitting is None:
            return
        counts = sitting.counts
        votes = f"{counts.votes} vote{'' if counts.votes == 1 else 's'}"
        parts, left = [votes, f"{counts.pairs} to train on"], sitting.left
        if (pace := sitting.pace()) is not None:
            rest = f"{left} left ≈ {max(1, round(pace * left / 60))} min"
            parts += [f"{pace:.0f} s each", rest]
        else:
            parts.append(f"{left} to go")
        if counts.again:
            parts.append(f"same again {counts.same}/{counts.again}")
        if self.measured:
            parts.append(f"least sure first: {self.measured}")
        self.query_one("#tally", Line).tell(" · ".join(parts))
        kept = [f"✓ {self.said}"] if self.said else []
        if self.note:
            kept.append(f"note: {printable(self.note)}")
        if self.drawn is None and self.writing:
            kept.append("● " + (self.progress or "two answers are being written") + " …")
        self.query_one("#kept", Line).tell("   ".join(kept))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Votes need a pair."""
        return action not in ("vote", "edit", "note") or self.drawn is not None

    def _ready(self) -> bool:
        if self.sitting is None or self.drawn is None or self.drawn is not self.sitting.current:
            return False
        return time.monotonic() - self.drawn_at >= self.BOUNCE

    async def action_vote(self, choice: str) -> None:
        """Keep a vote, then show the next pair."""
        if self._ready():
            await self._keep(choice)

    async def _keep(self, choice: str, edited: str | None = None) -> None:
        assert self.sitting is not None
        self.sitting.vote(choice, edited, self.note)  # on disk, or an error that is shown
        self.said = "your text beats both" if edited else SAID[choice]
        self.note = ""
        await self._go_on()

    async def action_undo(self) -> None:
        """Take the last vote back and show its pair again."""
        if self.sitting is None:
            return
        vote = self.sitting.undo()
        if vote is None:
            self.notify("There is no vote to take back", timeout=2)
            return
        self.note = vote.note
        self.said = f"taken back: {'your text' if vote.edited else SAID[vote.choice]}"
        await self._draw()

    @work(group="dialog", exclusive=True)
    async def action_edit(self) -> None:
        """Write the better answer."""
        pair = self.drawn
        if pair is None or not self._ready():
            return
        edit = Edit("Write the better answer (it begins with A)", pair.a, pair.b)
        text = await self.app.push_screen_wait(edit)
        if text is None or self.drawn is not pair:
            return
        if text.strip() in ("", pair.a.strip(), pair.b.strip()):
            self.notify("Nothing was changed: no vote", timeout=3)
            return
        await self._keep("both_bad", text.strip())

    @work(group="dialog", exclusive=True)
    async def action_note(self) -> None:
        """A note, kept with the vote."""
        note = await self.app.push_screen_wait(Ask("Note on this pair", self.note, empty=True))
        if note is not None:
            self.note = note
            self._tick()

    @work(group="dialog", exclusive=True)
    async def action_source(self) -> None:
        """What is labelled."""
        here = self.services.preferences.label_source or STARTERS
        if source := await choose_source(self.app, here):
            self.open_source(source)

    @work(group="dialog", exclusive=True)
    async def action_least_sure(self) -> None:
        """In which order pairs come."""
        preferences = self.services.preferences
        here, choice = preferences.label_order or "", self.services.choice
        order = await choose_order(self.app, here, choice)
        if order is not None:
            preferences.keep(label_order=order or None)
            self.open_source(preferences.label_source or STARTERS)

    def action_scroll_prompt(self, by: int) -> None:
        self.action_scroll(by, "#prompt")
