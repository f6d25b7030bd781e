"""``minialign label``: say which of two answers is better, one pair after the other, in a plain
terminal. Each vote is on disk before the next pair is shown."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from minialign.cli import console
from minialign.cli.answer_flags import model_arguments, printable, sampling_arguments, sampling_from
from minialign.errors import UserError

if TYPE_CHECKING:
    from minialign.engine.mlx_thread import Lane, Ticket
    from minialign.labels.sitting import Labelling
    from minialign.records import Comparison, Prompt

KEYS = {
    "a": "A is better",
    "b": "B is better",
    "t": "a tie",
    "x": "both are bad",
    "s": "skip",
    "e": "write the better answer yourself, in $EDITOR",
    "n": "a note on this pair",
    "u": "take the last vote back",
    "?": "this list",
    "q": "leave (Ctrl-D)",
}
SHORT = "a b t(ie) x(both bad) s(kip) e(dit) n(ote) u(ndo) ? q(uit)"
CHOICES = {"a": "a", "b": "b", "t": "tie", "x": "both_bad", "s": "skip"}


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """What to label, and with which model."""
    parser.epilog = "Keys: " + ", ".join(f"{key} {text}" for key, text in KEYS.items()) + "."
    file = (
        "pairs (JSONL), or prompts (JSONL, or .txt with one a line) that the model answers "
        "twice; without it the pairs set aside in the chat, then some everyday prompts"
    )
    least_sure = "pairs first of which it is least sure: reward:RUN, or judge:MODEL"
    parser.add_argument("file", nargs="?", metavar="FILE", help=file)
    model_arguments(parser)
    parser.add_argument("--least-sure", metavar="SCORER", help=least_sure)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the answers (0)")
    parser.add_argument("--stats", action="store_true", help="count the votes, as JSON, and stop")
    sampling_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show pairs and keep votes until the user leaves."""
    from dataclasses import asdict

    from minialign.engine.mlx_thread import leave
    from minialign.labels.items import Waiting, read_items, starters
    from minialign.labels.sitting import Labelling
    from minialign.labels.tally import tally
    from minialign.labels.votes import Votes

    votes = Votes()
    if arguments.stats:
        counts = tally(votes.all)
        rest = {"pairs": counts.pairs, "unreadable": votes.unreadable}
        console.emit({"file": str(votes.path), **asdict(counts), **rest})
        return 0
    if votes.unreadable:
        console.say(f"{votes.path}: {votes.unreadable} lines are no votes; they stay as they are")
    items = read_items(arguments.file) if arguments.file else starters()
    waiting = [] if arguments.file else Waiting().pairs()
    sitting = Labelling(votes, items, waiting, least_sure_first=bool(arguments.least_sure))
    if not sitting.left:
        raise UserError("all of these have a vote already", "give another file of prompts or pairs")
    answers = _Answers(arguments, sitting)
    code = 0
    try:
        if arguments.least_sure:
            answers.measure(arguments.least_sure)
        _sit(sitting, answers)
    except UserError as error:  # of the model; told here, because the process may end below
        console.say(f"minialign: {error.problem}\n  {error.hint}")
        code = 2
    except KeyboardInterrupt:
        code = 130
    answers.close()
    counts = tally(votes.all)
    console.say(f"{counts.votes} votes, {counts.pairs} of them give pairs, in {votes.path}")
    if counts.pairs:
        console.next_steps("minialign dpo", "minialign label --stats")
    return leave(code) if answers.lane is not None else code


def _sit(sitting: "Labelling", answers: "_Answers") -> None:
    console.say("which answer is better?  " + SHORT)
    note = ""
    while (pair := answers.next()) is not None:
        _show(pair, sitting, note)
        key = _read_key()
        if key in ("", "q"):
            return
        try:
            if key in CHOICES:
                sitting.vote(CHOICES[key], note=note)
                note = ""
            elif key == "u":
                console.say("taken back" if sitting.undo() else "there is no vote to take back")
            elif key == "n":
                note = _line("note: ", note)
            elif key == "e":
                if (text := _edit(pair)) is not None:
                    sitting.vote("both_bad", edited=text, note=note)
                    note = ""
            elif key == "?":
                for name, text in KEYS.items():
                    console.say(f"  {name}  {text}")
            else:
                console.say(f"{key!r} is no key here; " + SHORT)
        except UserError as error:
            console.say(f"{error.problem}\n  {error.hint}")
    console.say("that was the last pair")


class _Answers:
    """Pairs for the sitting; what a model has to write is written ahead, on its own thread."""

    def __init__(self, arguments: argparse.Namespace, sitting: "Labelling"):
        self.arguments = arguments
        self.sitting = sitting
        self.sampling = sampling_from(arguments)
        self.lane: Lane | None = None
        self._asked: list[tuple[Prompt, Ticket]] = []

    def next(self) -> "Comparison | None":
        """The pair to show now; None after the last."""
        while True:
            self._fill()
            if (pair := self.sitting.show()) is not None:
                self._fill()
                return pair
            if not self._asked:
                return None
            prompt, ticket = self._asked.pop(0)
            console.say("two answers are being written …")
            pair = ticket.future.result()
            self.sitting.offer(pair)
            if pair is None:
                text = printable(prompt[-1]["content"][:60])
                console.say(f"the model gives the same answer each time to: {text}")

    def _fill(self) -> None:
        for entry in [entry for entry in self._asked if entry[1].future.done()]:
            self._asked.remove(entry)
            self.sitting.offer(entry[1].future.result())
        while self.sitting.wants():
            if (prompt := self.sitting.take()) is not None:
                self._asked.append((prompt, self._write(prompt)))

    def _write(self, prompt: "Prompt") -> "Ticket":
        from minialign.durable import digest
        from minialign.engine.mlx_thread import Engines, Lane, Ticket, Which
        from minialign.engine.open import origin_of
        from minialign.labels.items import write_two_answers

        self.lane = self.lane or Lane()
        which = Which(self.arguments.model, self.arguments.adapter)
        seed = (self.arguments.seed + int(digest(prompt), 16)) % 2**53

        def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
            engine = engines.get(which)
            origin = origin_of(engine, which.adapter)
            yield from write_two_answers(engine, prompt, self.sampling, origin, seed)

        return self.lane.submit(work)

    def measure(self, scorer: str) -> None:
        """Ask somebody how sure they are of each pair, before the first is shown."""
        from minialign.engine.mlx_thread import Engines, Lane, Ticket
        from minialign.scoring.uncertainty import measure_certainty

        pairs = self.sitting.pairs()
        if not pairs:
            raise UserError("--least-sure is for pairs; these are prompts", "leave it out")
        self.lane = self.lane or Lane()

        def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
            measured = measure_certainty(scorer, pairs)
            for key, sure in console.progress(measured, len(pairs), "measured"):
                self.sitting.learn(key, sure)
                yield key

        self.lane.submit(work).future.result()

    def close(self) -> None:
        """End what is being written."""
        if self.lane is not None:
            self.lane.close(0.5)


def _show(pair: "Comparison", sitting: "Labelling", note: str) -> None:
    width = min(100, shutil.get_terminal_size().columns)
    pace = sitting.pace()
    left = f", about {console.duration(pace * sitting.left)} left" if pace else ""
    print(f"\n{'═' * width}\n{len(sitting.votes.all)} votes, {sitting.left} to go{left}")
    for turn in pair.prompt:
        print(f"{turn['role']}: {printable(turn['content'])}")
    for name, text in (("A", pair.a), ("B", pair.b)):
        print(f"\n── {name} {'─' * (width - 5)}\n{printable(text)}")
    if note:
        print(f"\nnote: {printable(note)}")
    print("─" * width, flush=True)


def _read_key() -> str:
    """Read one key without Enter in a terminal, else the first letter of a line; "" at the end."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if line.strip():
                return line.strip()[0].lower()
        return ""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)  # a key that was typed ahead counts
        print("> ", end="", flush=True)
        key = os.read(sys.stdin.fileno(), 8)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    arrows = {b"\x1b[D": "a", b"\x1b[C": "b", b"\x04": ""}
    key_text = arrows.get(key, key.decode("utf-8", "replace")[:1].lower())
    print(key_text if key_text.isprintable() else "?", flush=True)
    return key_text


def _line(question: str, before: str) -> str:
    with contextlib.suppress(EOFError):
        return input(question).strip()
    return before


def _edit(pair: "Comparison") -> str | None:
    """Let the better answer be written in the user's editor; None when it was left as it was."""
    import shlex
    import subprocess

    if not sys.stdin.isatty():
        return _line("", "") or None
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".md", encoding="utf-8") as file:
        file.write(pair.a)
        file.flush()
        try:
            subprocess.run([*shlex.split(editor), file.name], check=True)
        except (OSError, subprocess.CalledProcessError) as reason:
            raise UserError(f"{editor}: {reason}", "set EDITOR to your editor") from None
        with open(file.name, encoding="utf-8") as changed:
            text = changed.read().strip()
    if not text or text == pair.a.strip():
        console.say("nothing was changed: no vote")
        return None
    return text
