"""F3: a prompt and two answers, and which one is better."""

import asyncio
import time
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Markdown, Static

from minialign.durable import digest
from minialign.errors import UserError
from minialign.labels.items import Item, Waiting, read_items, starters
from minialign.labels.sitting import Labelling
from minialign.labels.votes import Votes
from minialign.records import Comparison, Prompt
from tui import work as answers
from tui.chat.bubble import markdown_parser, printable
from tui.job import Job
from tui.label.queue import CHAT_ONLY, STARTERS, choose_order, choose_source
from tui.widgets.bar import Keys, Line, TopBar
from tui.widgets.dialogs import Ask, Edit

BOUNCE = 0.3  # seconds after a pair is drawn in which no vote counts: a key that is held down
SAID = {"a": "A is better", "b": "B is better", "tie": "a tie", "both_bad": "both bad",
        "skip": "skipped"}  # fmt: skip
NOTHING = """\
Nothing to label here.

o   choose a file of prompts or pairs, or the everyday prompts
F2  chat: p on an answer makes it a pair to label
F5  train on the votes you have: n"""


class LabelScreen(Screen[None]):
    """One pair after the other."""

    HELP_TITLE = "Label"
    HELP_TEXT = (
        "Which answer do you like better? The sides are random, and who wrote what is hidden. "
        "Every vote is on disk before the next pair is shown; now and then an old pair comes "
        "again, to see how steady the votes are. minialign dpo without --data (or F5, n) trains "
        "on them."
    )
    HELP_KEYS = (
        ("Votes", (
            ("a,left", "A is better"), ("b,right", "B is better"), ("t", "A tie"),
            ("x", "Both are bad"), ("s", "Skip: no vote, and it does not come back"),
            ("e", "Edit: write the better answer; it beats both"),
            ("n", "A note, kept with the vote"), ("u", "Undo the last vote, and the one before …"),
        )),
        ("The rest", (
            ("up,down", "Scroll the answers"), ("pageup,pagedown", "A page; or Space"),
            ("shift+up,shift+down", "Scroll the prompt"),
            ("o", "What is labelled: a file, the chat's pairs, everyday prompts"),
            ("l", "Pairs first of which a reward head or a judge is least sure"),
        )),
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a,left", "vote('a')", "A", id="vote-a", key_display="a/←"),
        Binding("b,right", "vote('b')", "B", id="vote-b", key_display="b/→"),
        Binding("t", "vote('tie')", "Tie", id="vote-tie"),
        Binding("x", "vote('both_bad')", "Both bad", id="vote-bad"),
        Binding("s", "vote('skip')", "Skip", id="vote-skip"),
        Binding("e", "edit", "Edit", id="vote-edit"),
        Binding("n", "note", "Note", id="note"),
        Binding("u", "undo", "Undo", id="undo"),
        Binding("o", "source", "Open", id="source", tooltip="What is labelled"),
        Binding("l", "least_sure", "Least sure first", id="least-sure", show=False,
                tooltip="Pairs first of which a reward head or a judge is least sure"),
        Binding("down", "scroll(2)", show=False),
        Binding("up", "scroll(-2)", show=False),
        Binding("pagedown,space", "scroll(10)", show=False),
        Binding("pageup", "scroll(-10)", show=False),
        Binding("shift+down", "scroll_prompt(2)", show=False),
        Binding("shift+up", "scroll_prompt(-2)", show=False),
    ]  # fmt: skip

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

    def compose(self) -> ComposeResult:
        yield TopBar("label")
        yield Line("tally")
        with VerticalScroll(id="prompt", can_focus=False):
            yield Static("", id="asked", markup=False)
        with Horizontal(id="answers"):
            for name in ("a", "b"):
                with Vertical(classes="answer", id=f"side-{name}"):
                    with VerticalScroll(id=f"scroll-{name}", can_focus=False):
                        yield Markdown("", id=f"text-{name}", open_links=False,
                                       parser_factory=markdown_parser)  # fmt: skip
        yield Static(NOTHING, id="nothing", markup=False)
        yield Line("kept")
        yield Keys()

    def on_mount(self) -> None:
        for name in ("a", "b"):
            self.query_one(f"#side-{name}").border_title = name.upper()
        self.query_one("#prompt").border_title = "prompt"
        self.query_one("#nothing").display = False
        self.query_one("#answers").display = False
        self.query_one("#prompt").display = False
        self._tell_model()
        self.set_interval(0.5, self._tick)
        self.open_source(self.app.preferences.label_source or STARTERS)  # type: ignore[attr-defined]

    def _tell_model(self) -> None:
        self.query_one(TopBar).tell(self.app.which.label)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ the queue

    @work(group="source", exclusive=True)
    async def open_source(self, source: str) -> None:
        """Label a file, the everyday prompts, or the chat's pairs alone."""
        self._stop_writing()
        self.query_one("#kept", Line).tell("reading …")

        scorer = self.app.preferences.label_order  # type: ignore[attr-defined]

        def read() -> tuple[Labelling, set[str]]:
            items: list[Item] = (
                starters() if source == STARTERS
                else [] if source == CHAT_ONLY else read_items(source)
            )  # fmt: skip
            waiting = Waiting().pairs()
            sitting = Labelling(Votes(), items, waiting, least_sure_first=bool(scorer))
            return sitting, {pair.key for pair in waiting}

        def voted() -> list[Any]:
            return list(self.sitting.votes.all) if self.sitting is not None else []

        try:
            while True:
                before = voted()
                sitting, chat_keys = await asyncio.to_thread(read)
                if voted() == before:
                    break  # else: a vote was given meanwhile, which it does not know of
        except UserError as error:
            self.app.show_error(error)  # type: ignore[attr-defined]
            if self.sitting is None and source != CHAT_ONLY:
                self.open_source(CHAT_ONLY)
            return
        votes = sitting.votes
        if votes.unreadable:
            self.notify(f"{votes.unreadable} lines of {votes.path} are no votes; they stay as "
                        "they are", severity="warning", timeout=8)  # fmt: skip
        self.app.preferences.label_source = source  # type: ignore[attr-defined]
        self.app.preferences.save()  # type: ignore[attr-defined]
        self._stop_writing()  # a vote while the source was read may have asked for more
        if self.sitting is not None:
            sitting.go_on_from(self.sitting)
        self.chat_keys, self.sitting = chat_keys, sitting
        self.said = self.measured = ""
        self.workers.cancel_group(self, "doubts")
        if scorer:
            self._measure(scorer, sitting)
        await self._go_on()

    @work(group="doubts", exclusive=True)
    async def _measure(self, scorer: str, sitting: Labelling) -> None:
        """Ask somebody how sure they are of each pair, while the user labels."""
        pairs = sitting.pairs()
        if not pairs:
            self.notify("Least sure first is for pairs; these are prompts", timeout=5)
            return
        job = Job(self.app.lane, answers.doubt(scorer, pairs), ahead=True)  # type: ignore[attr-defined]
        done = 0
        try:
            async for item in job:
                if isinstance(item, answers.Progress):
                    self.measured = f"{item.what} …"
                else:
                    sitting.learn(*item)
                    done += 1
                    self.measured = f"{done}/{len(pairs)} by {scorer}"
        except Exception as error:  # told; the pairs come in their own order then
            self.measured = ""
            self.app.show_error(error)  # type: ignore[attr-defined]
        finally:
            job.cancel()

    def on_screen_resume(self) -> None:
        """Pairs that were made in the chat meanwhile come next."""
        self._tell_model()
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
        self._tell_model()
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
                sampling = dict(self.app.preferences.sampling)  # type: ignore[attr-defined]
                work_ = answers.pair(self.app.which, prompt, sampling, seed)  # type: ignore[attr-defined]
                job = Job(self.app.lane, work_, ahead=True)  # type: ignore[attr-defined]
                self.writing = job, prompt
                self._follow(job, prompt)

    @work(group="pairs")
    async def _follow(self, job: Job, prompt: Prompt) -> None:
        found = None
        try:
            async for item in job:
                if isinstance(item, answers.Progress):
                    share = f" {100 * item.done // item.total} %" if item.total else ""
                    steps = f", {item.done} tokens" if item.done and not item.total else ""
                    self.progress = f"{item.what}{share}{steps}"
                else:
                    found = item
        except Exception as error:  # told; it is asked for again when the user goes on
            if not job.cancelled:
                self._stop_writing()
                self.app.show_error(error)  # type: ignore[attr-defined]
                await self._draw()
            return
        if job.cancelled or self.sitting is None:
            return
        self.progress, self.writing = "", None
        if found is None:
            self.notify("The model gives one answer only to: " + prompt[-1]["content"][:60])
        self.sitting.offer(found)
        await self._go_on()

    async def _go_on(self) -> None:
        """Show what is there to show, and ask for more."""
        self._fill()
        if self.sitting is not None:
            self.sitting.show()
            self._fill()
        await self._draw()

    # ------------------------------------------------------------------ drawing

    async def _draw(self) -> None:
        async with self.drawing:
            await self._draw_pair(self.sitting.show() if self.sitting is not None else None)

    async def _draw_pair(self, pair: Comparison | None) -> None:
        self._tick()
        there = pair is not None
        self.query_one("#answers").display = there
        self.query_one("#prompt").display = there
        self.query_one("#nothing").display = not there and self.writing is None
        if pair is self.drawn:
            return
        if pair is not None:
            self.query_one("#asked", Static).update(_prompt_text(pair.prompt))
            self.query_one("#prompt").scroll_home(animate=False)
            for name, text in (("a", pair.a), ("b", pair.b)):
                self.query_one(f"#scroll-{name}").scroll_home(animate=False)
                await self.query_one(f"#text-{name}", Markdown).update(printable(text))
                side = self.query_one(f"#side-{name}")
                side.border_subtitle = f"{len(text.split())} words"
        self.drawn = pair
        self.drawn_at = time.monotonic()
        self.refresh_bindings()

    def _tick(self) -> None:
        """Counts, pace, what is being written."""
        sitting = self.sitting
        if sitting is None:
            return
        counts = sitting.counts
        votes = "1 vote" if counts.votes == 1 else f"{counts.votes} votes"
        parts = [votes, f"{counts.pairs} to train on"]
        if (pace := sitting.pace()) is not None:
            parts.append(f"{pace:.0f} s each")
            parts.append(f"{sitting.left} left ≈ {max(1, round(pace * sitting.left / 60))} min")
        else:
            parts.append(f"{sitting.left} to go")
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

    # ------------------------------------------------------------------ keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Votes need a pair."""
        if action in ("vote", "edit", "note"):
            return self.drawn is not None
        return True

    def _ready(self) -> bool:
        sitting = self.sitting
        return (
            sitting is not None
            and sitting.current is not None
            and self.drawn is sitting.current
            and time.monotonic() - self.drawn_at >= BOUNCE
        )

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
        if not self._ready():
            return
        text = await self.app.push_screen_wait(
            Edit("Write the better answer (it begins with A)", pair.a, pair.b)
        )
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
        here = self.app.preferences.label_source or STARTERS  # type: ignore[attr-defined]
        source = await choose_source(self.app, here)
        if source:
            self.open_source(source)

    @work(group="dialog", exclusive=True)
    async def action_least_sure(self) -> None:
        """In which order pairs come."""
        preferences = self.app.preferences  # type: ignore[attr-defined]
        chosen = await choose_order(self.app, preferences.label_order or "", self.app.which)  # type: ignore[attr-defined]
        if chosen is not None:
            preferences.label_order = chosen or None
            preferences.save()
            self.open_source(preferences.label_source or STARTERS)

    def action_scroll(self, by: int) -> None:
        for name in ("a", "b"):
            self.query_one(f"#scroll-{name}").scroll_relative(y=by, animate=False)

    def action_scroll_prompt(self, by: int) -> None:
        self.query_one("#prompt").scroll_relative(y=by, animate=False)


def _prompt_text(prompt: Prompt) -> str:
    if len(prompt) == 1:
        return printable(prompt[0]["content"])
    return "\n".join(f"{turn['role']}: {printable(turn['content'])}" for turn in prompt)
