"""The process of one part: started, listened to, stopped, and what it took.

It inherits a lock and holds it for as long as it lives, so that a later comparison waits for a
process whose own comparison was killed, and never runs a second one beside it.
"""

import os
import shlex
import signal
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from minialign.compare.plan import Part
from minialign.durable import read_object, write_json
from minialign.machine.hardware import most_resident
from minialign.runs.launch import read_log, spawn

RECORD = "part.json"


@dataclass(frozen=True)
class Happened:
    """ "reused", "started", "says", "waits", "finished", "failed" or "skipped"."""

    kind: str
    part: Part
    text: str = ""
    left: float = 0.0  # seconds, of the whole comparison
    record: dict[str, Any] = field(default_factory=dict)


def record_of(part: Part) -> dict[str, Any]:
    """What is known of a part from its folder; {} when it never began."""
    try:
        return read_object(part.folder / RECORD)
    except (OSError, ValueError):
        return {}


def child(
    part: Part, words: list[str], lock: int, stop: threading.Event
) -> Generator[Happened, None, int]:
    """Run a part's process and tell what it says; the iterator returns its exit code."""
    record = record_of(part) or {"name": part.name, "tries": []}
    if words[:2] != ["runs", "resume"]:
        record["command"] = words
    began = time.time()
    record["tries"].append({"words": words, "began": began, "seconds": None})
    write_json(part.folder / RECORD, record, indent=1)
    process, _ = spawn(words, part.folder / "log.txt", shlex.join(words), pass_fds=(lock,))
    told, last, usage = False, "", None
    try:
        while True:
            ended, status, rusage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                process.returncode, usage = os.waitstatus_to_exitcode(status), rusage
                break
            if stop.is_set() and not told:
                process.send_signal(signal.SIGINT)  # once: it saves
                told = True
            if (said := tail(part)) != last:
                last = said
                yield Happened("says", part, said)
            time.sleep(0.1)
    finally:
        if usage is None:  # nobody wants the rest
            process.kill()
            process.wait()
        else:
            record["tries"][-1] |= {
                "seconds": time.time() - began,
                "peak_memory": most_resident(usage),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "code": process.returncode,
            }
            write_json(part.folder / RECORD, record, indent=1)
    return process.returncode


def tail(part: Part, characters: int = 160) -> str:
    """The last line that a part said; more characters give more of its end."""
    text = read_log(part.folder / "log.txt", -4000).strip()
    return text[-characters:] if characters > 160 else text.rpartition("\n")[2][:160]
