"""One thread that owns MLX for the life of the process, and the work that waits for it.

Lazy arrays cannot cross threads, so models are loaded, used and dropped here and nowhere else. Work
is a generator function; between two of its items the thread may turn to other work: what a person
waits for goes round robin, what is made in advance runs only when nobody waits. Nothing heavy is
imported before the first job asks for a model.
"""

import gc
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minialign.progress import Progress, Tell

if TYPE_CHECKING:
    from minialign.engine import Engine

THREAD = "mlx"
KEPT = 2  # models held in memory: two answer side by side


class Cancelled(Exception):
    """The work was no longer wanted; raised inside it by ``Ticket.check``."""


@dataclass(frozen=True)
class ModelChoice:
    """A model and an adapter, by the names a user gives; None is the default."""

    model: str | None = None
    adapter: str | None = None

    @property
    def label(self) -> str:
        """ "smollm2-135m-4bit + dpo-1"."""
        from minialign.models.names import DEFAULT

        base = self.model or ("its model" if self.adapter else DEFAULT)
        return f"{base} + {self.adapter}" if self.adapter else base


Work = Callable[["Engines", "Ticket"], Iterator[Any]]
OnItem = Callable[[Any], None]
Load = Callable[[ModelChoice, Tell], "Engine"]


@dataclass(eq=False)
class Ticket:
    """A piece of work that was handed in. ``future`` gets its last item, or its error."""

    thread: "ModelThread"
    work: Work
    on_item: OnItem
    ahead: bool  # made in advance: whoever waits goes first
    future: Future[Any] = field(default_factory=Future)
    _cancelled: bool = False
    _items: Iterator[Any] | None = None
    _last: Any = None

    def cancel(self) -> None:
        """Ask for the work to end; items that are already on their way may still come."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether the work is no longer wanted."""
        return self._cancelled or self.thread.closing

    def check(self, *_: Any) -> None:
        """Raise ``Cancelled`` when the work is no longer wanted: a progress callback."""
        if self.cancelled:
            raise Cancelled

    def tell(self, what: str, done: int = 0, total: int = 0) -> None:
        """Give ``Progress`` out as an item; raises ``Cancelled`` like ``check``."""
        self.check()
        self.on_item(Progress(what, done, total))

    def pressed(self) -> bool:
        """Whether the work should pause at once: cancelled, or somebody waits."""
        return self.cancelled or (self.ahead and self.thread.somebody_waits)

    def _step(self, engines: "Engines") -> bool:
        """Run up to the next item; False when the work has ended."""
        try:
            if self.cancelled:
                raise Cancelled
            if self._items is None:
                self._items = iter(self.work(engines, self))
            self._last = next(self._items)
            self.on_item(self._last)
            return True
        except StopIteration:
            self.future.set_result(self._last)
        except BaseException as reason:  # of a job, never of the model thread
            self._end(reason)
        return False

    def _end(self, reason: BaseException) -> None:
        with suppress(Exception):  # it ends either way; the first error is the one that is told
            getattr(self._items, "close", lambda: None)()
        self._items = None
        self.future.set_exception(reason)


class Engines:
    """The loaded models, the least recently used one dropped first. Lives on the model thread."""

    def __init__(self, load: Load):
        self._load = load
        self._held: dict[ModelChoice, Engine] = {}  # in the order of their last use

    def get(self, choice: ModelChoice, progress: Tell | None = None) -> "Engine":
        """The engine of a model and adapter, loaded when it is not held.

        Raises:
            UserError: when it cannot be loaded.
        """
        engine = self._held.pop(choice, None)
        if engine is None:
            while len(self._held) >= KEPT:
                del self._held[next(iter(self._held))]
            engine = self._load(choice, progress or (lambda what, done, total: None))
        self._held[choice] = engine
        return engine

    @property
    def loaded(self) -> list[ModelChoice]:
        """What is in memory."""
        return list(self._held)

    def clear(self) -> None:
        """Drop all models."""
        self._held.clear()

    def forget(self, choice: ModelChoice) -> None:
        """Drop a model."""
        self._held.pop(choice, None)


class ModelThread:
    """The thread. ``submit`` may be called from any other."""

    def __init__(self, load: Load | None = None):
        self.closing = False
        self._fresh: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._waiting: list[Ticket] = []
        self._ahead: list[Ticket] = []
        self._engines = Engines(load or _load)
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()

    def submit(
        self, work: Work, on_item: OnItem = lambda item: None, *, ahead: bool = False
    ) -> Ticket:
        """Hand in work; ``on_item`` is called on the model thread with each item."""
        ticket = Ticket(self, work, on_item, ahead)
        self._fresh.put(ticket)
        return ticket

    def call(self, function: Callable[[], Any], *, ahead: bool = False) -> Ticket:
        """Hand in a function; its result is the ticket's."""
        return self.submit(lambda engines, ticket: iter([function()]), ahead=ahead)

    def forget(self, choice: ModelChoice) -> None:
        """Drop a model when its turn comes, for instance because its adapter was trained anew."""
        self.call(lambda: self._engines.forget(choice))

    @property
    def somebody_waits(self) -> bool:
        """Whether there is work that a person waits for, seen from work made in advance."""
        self._take(block=False)
        return bool(self._waiting)

    def close(self, timeout: float = 0.5) -> bool:
        """End all work; False when the thread is still busy after ``timeout`` seconds."""
        self.closing = True
        self._fresh.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _take(self, *, block: bool) -> None:
        """Move what was handed in to its list; only ever called on the model thread."""
        with suppress(queue.Empty):
            while True:
                ticket = self._fresh.get(block=block)
                block = False
                if ticket is not None:
                    (self._ahead if ticket.ahead else self._waiting).append(ticket)

    def _run(self) -> None:
        while not self.closing:
            self._take(block=not self._waiting and not self._ahead)
            line = self._waiting or self._ahead
            if line and (ticket := line.pop(0))._step(self._engines):
                line.append(ticket)
        self._take(block=False)
        for ticket in [*self._waiting, *self._ahead]:
            ticket._end(Cancelled())
        # Arrays die on the thread that made them: elsewhere MLX finds no stream and aborts.
        self._engines.clear()
        gc.collect()


def leave(code: int) -> int:
    """The exit code; but once MLX was used on a thread, or while one is busy (a download), the
    process ends here. MLX's worker threads do not survive the interpreter's own end ("terminate
    called …"), a download's are waited for there, and nothing is left to be saved.
    """
    busy = any(thread.name == THREAD for thread in threading.enumerate())
    if "mlx.core" in sys.modules or busy:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _load(choice: ModelChoice, progress: Tell) -> "Engine":
    from minialign.engine.open import open_engine

    return open_engine(choice.model, choice.adapter, progress)
