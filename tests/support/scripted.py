"""A model that says what a test wants, for the model thread and the app; nothing is computed."""

import asyncio
import contextlib
import gc
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from textual import events
from textual.screen import Screen

from minialign.engine.mlx_thread import ModelChoice, ModelThread
from tui.app import MinialignApp
from tui.preferences import Preferences

Result = TypeVar("Result")
Shown = TypeVar("Shown", bound=Screen[Any])
SIZES = [(80, 24), (140, 45)]
FRAMES = "│─▂▃▄▅▆▇█"


class ScriptedEngine:
    """Answers are words that name the seed and the question; ``go`` lets them come."""

    context = None

    def __init__(self, choice: ModelChoice, words: int = 6, delay: float = 0.0, same: bool = False):
        self.model = SimpleNamespace(name=choice.model or "scripted")
        self.tokenizer = SimpleNamespace(
            render=lambda messages, add: list(json.dumps(messages).encode())
        )
        self.words, self.delay, self.same = words, delay, same
        self.go = threading.Event()
        self.go.set()
        self.closed = 0
        self.seeds: list[int] = []
        self.given: dict[str, float] = {}  # when a piece was given out, in CPU time

    def text(self, ids: Any, seed: int) -> list[str]:
        """The pieces of the answer."""
        asked = json.loads(bytes(ids).decode())[-1]["content"]
        start = ["same"] if self.same else [self.model.name, f" seed {seed}", f" to {asked}:"]
        return start + [f"{' ' if n % 60 < 59 else chr(10) * 2}word{n}" for n in range(self.words)]

    def stream(self, ids, sampling=None, seed=0, on_prefill=None) -> Iterator[Any]:
        """Pieces, as ``Engine.stream`` gives them."""
        from minialign.engine import Piece

        self.seeds.append(seed)
        pieces = self.text(ids, seed)
        try:
            for n, piece in enumerate(pieces):
                while not self.go.wait(0.02):
                    if on_prefill:
                        on_prefill(0, 1)
                if self.delay:
                    time.sleep(self.delay)
                self.given[piece.strip()] = time.process_time()
                yield Piece(piece, n, "stop" if n == len(pieces) - 1 else None)
        finally:
            self.closed += 1

    def complete(self, waiting, sampling=None, cancelled=lambda: False, **_) -> Iterator[Any]:
        """Completions, as ``Engine.complete`` gives them."""
        from minialign.engine import Completion

        for request in waiting:
            self.seeds.append(request.seed)
            reason = "stop"
            while not self.go.wait(0.02) or self.delay:
                if cancelled():
                    reason = "cancelled"
                    break
                if self.go.is_set():
                    time.sleep(self.delay)
                    break
            text = "".join(self.text(request.prompt, request.seed))
            yield Completion(0, 0, [1], text, reason, request.seed)


class Models:
    """Loads scripted engines and remembers them."""

    def __init__(self, **options: Any):
        self.options = options
        self.loaded: dict[ModelChoice, ScriptedEngine] = {}
        self.fails: Exception | None = None
        self.load_seconds = 0.0

    def __call__(self, choice: ModelChoice, progress: Any) -> Any:
        time.sleep(self.load_seconds)
        if self.fails is not None:
            raise self.fails
        self.loaded[choice] = ScriptedEngine(choice, **self.options)
        return self.loaded[choice]


def make_app(models: Models, welcomed: bool = True, **options: Any) -> MinialignApp:
    """An app over a model thread with scripted models."""
    preferences = Preferences.load()
    preferences.welcomed = welcomed or preferences.welcomed
    preferences.save()
    return MinialignApp(
        ModelThread(models), choice=options.pop("choice", ModelChoice("m")), **options
    )


def drive(
    app: MinialignApp,
    script: Callable[[Any], Awaitable[Result]],
    size: tuple[int, int] = (80, 24),
    notifications: bool = False,
) -> Result:
    """Run the app without a terminal, and a script that presses keys; returns what that does."""

    async def run() -> Result:
        async with app.run_test(size=size, notifications=notifications) as pilot:
            await pilot.pause()
            settle_keys(pilot)
            result = await script(pilot)
        assert app.model_thread.close(30)
        return result

    return asyncio.run(run())


def settle_keys(pilot: Any) -> None:
    """Let ``pilot.press`` return when each key was acted upon. Its own end is a pause in the
    process's work, which on a loaded machine says nothing: a key is a message that bubbles from
    widget to widget, and its action another one."""
    press = pilot.press

    async def one_by_one(*keys: str) -> None:
        for key in keys:
            await press(key)
            for _ in range(5 if pilot.app.is_running else 0):
                await pilot.pause(0)

    pilot.press = one_by_one


async def until(pilot: Any, condition: Callable[[], Any], seconds: float = 180.0) -> None:
    """Wait until it is so: looked at often at first, then less, for a look has its price."""
    end, pause = time.monotonic() + seconds, 0.01
    while not condition():
        assert time.monotonic() < end, (
            f"it did not happen; on the screen:\n{screen_text(pilot.app)}"
        )
        await pilot.pause(pause)
        pause = min(1.2 * pause, 0.05)


class Stalls:
    """How long the turns of the event loop took, each a time in which no key was read: in CPU
    seconds of its thread, which other programs do not change, or hardly (``slowness``)."""

    def __init__(self) -> None:
        self.turns: list[float] = []
        self.slowness = 1.0

    @property
    def longest(self) -> float:
        """The longest in seconds of an idle machine; one of a thousand may be a garbage
        collection."""
        return sorted(self.turns)[-1 - len(self.turns) // 1000] / self.slowness


@contextlib.asynccontextmanager
async def stalls() -> AsyncIterator[Stalls]:
    """Watch the event loop as long as it is open."""
    watched = Stalls()

    async def beat() -> None:
        while True:
            worked = time.thread_time()
            await asyncio.sleep(0.002)
            watched.turns.append(time.thread_time() - worked)

    gc.collect()
    gc.freeze()  # the test run's own heap is no part of the app
    before = slowness()
    task = asyncio.create_task(beat())
    try:
        yield watched
    finally:
        task.cancel()
        gc.unfreeze()
        watched.slowness = max(before, slowness())


def slowness() -> float:
    """How many CPU seconds a second's work takes now, at least 1: programs that share a core and
    its caches make each of them do less."""
    began = time.thread_time()
    sum(n * n % 7 for n in range(100_000))
    return max(1.0, (time.thread_time() - began) / 0.005)


def best_of(measure: Callable[[], float], limit: float, tries: int = 3) -> None:
    """Fail when it is over the limit each time: what else runs can only make it longer."""
    times: list[float] = []
    while not times or min(times) > limit:
        assert len(times) < tries, f"{times} s; the limit is {limit} s"
        times.append(measure())


def current_screen(app: MinialignApp, kind: type[Shown]) -> Shown:
    """The screen that is shown, which is of this kind."""
    assert isinstance(app.screen, kind), app.screen
    return app.screen


def press(app: MinialignApp, key: str) -> None:
    """A key as the terminal sends it. ``pilot.press`` waits until nothing moves any more, which
    takes long while an answer is written."""
    app.post_message(events.Key(key, key if len(key) == 1 else None))


def pairs_file(folder: Path, count: int, text: str = "good") -> Path:
    """A file of pairs to label: q0, q1 …"""
    path = folder / "pairs.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for n in range(count):
            row = {"prompt": f"q{n}", "chosen": f"{text} {n}", "rejected": f"bad {n}"}
            file.write(json.dumps(row) + "\n")
    return path


async def shown(pilot: Any, *texts: str) -> None:
    """Wait until all of these are on the screen; where a line ends does not matter."""

    def words() -> str:
        return " ".join(word for word in screen_text(pilot.app).split() if word not in FRAMES)

    await until(pilot, lambda: all(text in words() for text in texts))


def screen_text(app: MinialignApp) -> str:
    """What is on the screen, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)
