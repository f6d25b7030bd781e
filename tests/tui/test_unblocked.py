"""The app is never blocked: tokens are seen, keys are read and it can be left while a model writes
or loads or a run trains. Times are CPU times, which other programs do not change: a stall is that
of the loop's thread, a token's way to the screen that of all threads, one of which is busy all the
time."""

import asyncio
import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support.places import ROOT
from support.scripted import (
    SIZES,
    Models,
    best_of,
    drive,
    make_app,
    press,
    screen_text,
    stalls,
    until,
)

from tui.chat.composer import Composer

FRAME, TYPING = 0.1, 0.05  # seconds


class Busy(Models):
    """Answers whose every token costs 20 ms of arithmetic on the model thread's thread."""

    def __call__(self, choice, progress):
        import numpy as np

        engine = super().__call__(choice, progress)
        matrix = np.ones((400, 400), np.float32)
        stream = engine.stream

        def working(*arguments, **options):
            for piece in stream(*arguments, **options):
                end = time.thread_time() + 0.02
                while time.thread_time() < end:
                    matrix @ matrix
                yield piece

        engine.stream = working
        return engine


@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_seen_within_a_second_and_typing_is_never_blocked(home, size):
    def measure() -> float:
        models = Busy(words=50)
        app = make_app(models)
        late: list[float] = []

        async def script(pilot):
            chat = app.screen
            await pilot.press(*"go")
            composer, typed = chat.query_one(Composer), ""

            def all_seen() -> bool:
                text = screen_text(app)
                while f"word{len(late)}" in text and f"word{len(late)}" in engine.given:
                    late.append(time.process_time() - engine.given[f"word{len(late)}"])
                return len(late) == models.options["words"]

            press(app, "enter")
            while not models.loaded:
                await asyncio.sleep(0.01)
            (engine,) = models.loaded.values()
            async with stalls() as watched:
                while chat.sides:
                    press(app, "x")
                    typed += "x"
                    await asyncio.sleep(0.02)
                    all_seen()
                await until(pilot, all_seen)
            await until(pilot, lambda: composer.text == typed)
            return max(watched.longest / TYPING, max(late) / watched.slowness)

        return drive(app, script, size)

    best_of(measure, 1.0)


WRITER = """
import sys, time
from minialign.run_folder import Run
run = Run.create("dpo", {"model": "m", "total_steps": 100000}, name="dpo-1")
for step in range(1, 100000):
    run.log("train", step, {"loss": 1 / step, "rewards/margins": step / 9})
    time.sleep(0.005)
"""


def test_typing_is_not_blocked_while_a_run_trains(home):
    trainer = subprocess.Popen(
        [sys.executable, "-c", WRITER], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    metrics = home / "runs" / "dpo-1" / "metrics.jsonl"

    async def script(pilot):
        app = pilot.app
        await until(pilot, metrics.exists)
        await pilot.press("f5")
        await until(pilot, lambda: "dpo-1" in screen_text(app))
        async with stalls() as watching:
            for _ in range(20):
                await asyncio.sleep(0.1)
                press(app, "l")
        await pilot.press("f2")
        composer = app.screen.query_one(Composer)
        async with stalls() as typing:
            for _ in range(40):
                press(app, "x")
                await asyncio.sleep(0.03)
        await until(pilot, lambda: composer.text == "x" * 40)
        return max(typing.longest / TYPING, watching.longest / (2 * FRAME))

    def measure() -> float:
        result = drive(make_app(Models()), script)
        assert trainer.poll() is None  # the app's end does not end it
        return result

    try:
        best_of(measure, 1.0)
    finally:
        trainer.kill()
        trainer.wait()


LOADING = """
import sys, time
from minialign.engine import mlx_thread
def load(choice, progress):
    print("\\x1b]0;loading\\x07", flush=True)
    time.sleep(600)
mlx_thread._load = load
from minialign.cli import main
sys.exit(main(["tui", "--model", "m"]))
"""


WRITING = """
import sys
from minialign.engine import mlx_thread
from support.scripted import ScriptedEngine
mlx_thread._load = lambda choice, progress: ScriptedEngine(choice, words=100000, delay=0.01)
from minialign.cli import main
sys.exit(main(["tui", "--model", "m"]))
"""


def in_terminal(code: str, steps: list[tuple[bytes, bytes]]) -> tuple[int, float]:
    """Run a program in a terminal of its own; after each text is seen, keys are written. Its exit
    code, and its CPU seconds from the last keys to the end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-c", code])
    said, end, before = b"", time.monotonic() + 120, 0.0
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.05)
        if ready:
            try:
                said += os.read(terminal, 65536)
            except OSError:
                break
        if steps and steps[0][0] in said:
            times = psutil.Process(pid).cpu_times()
            before = times.user + times.system
            os.write(terminal, steps.pop(0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime - before


@pytest.mark.parametrize(("code", "seen"), [(LOADING, b"loading"), (WRITING, b"word9")])
def test_quitting_while_a_model_loads_or_writes_is_clean_and_takes_a_second(home, code, seen):
    """It ends itself: loading or writing on would take minutes, and then it would be killed."""
    make_app(Models()).model_thread.close()  # so that the welcome is over

    def measure() -> float:
        status, seconds = in_terminal(code, [(b"Ask something", b"hi\r"), (seen, b"\x11")])
        assert status == 0
        return seconds

    best_of(measure, 1.0)
