"""An answer while it is written: what came so far, how fast, how it ended."""

import time
from functools import partial
from typing import Any

from minialign.engine.mlx_thread import ModelThread
from minialign.progress import Progress
from tui.chat.bubble import Bubble
from tui.chat.transcript import ENDS
from tui.model_job import Job, share_of
from tui.model_work import Asked, write_answer


class Side:
    """One of the answers being written, in the bubble that stands at ``place``."""

    def __init__(self, thread: ModelThread, asked: Asked, place: int, number: int):
        self.choice, self.attempts = asked.choice, asked.attempts
        self.bubble = Bubble("assistant", asked.choice.label, place=place, side=number)
        self.job = Job(thread, partial(write_answer, asked), on_progress=self._progress)
        self.tokens, self.since = 0, 0.0
        self.seed, self.reason = 0, "cancelled"
        self.progress = ""
        self.error: Exception | None = None

    def _progress(self, progress: Progress) -> None:
        self.progress = progress.what + share_of(progress, " …")

    async def follow(self) -> None:
        """Show the pieces as they come; an error is kept in ``error``."""
        try:
            async for piece in self.job:
                self.progress = ""
                self.since = self.since or time.monotonic()
                self.tokens += 1
                self.seed = piece.seed
                self.reason = piece.reason or self.reason
                if piece.text:
                    await self.bubble.add(piece.text)
        except Exception as error:  # told in a dialog; the app goes on
            self.error = error
        if self.bubble.is_mounted:
            await self.bubble.end(ENDS.get(self.reason, ""))

    def describe(self) -> str:
        """For the status line: what is loaded or read, then tokens and pace."""
        if self.progress or not self.tokens:
            return self.progress or "…"
        pace = self.tokens / max(time.monotonic() - self.since, 1e-3)
        return f"{self.tokens} tokens, {pace:.0f}/s"

    def origin(self) -> dict[str, Any]:
        """Where the answer came from, as it is kept with it."""
        origin: dict[str, Any] = {"model": self.choice.model or self.choice.label}
        if self.choice.adapter:
            origin["adapter"] = self.choice.adapter
        drawn = {"seed": self.seed, "attempts": self.attempts, "finish_reason": self.reason}
        return origin | drawn
