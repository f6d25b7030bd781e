"""``minialign chat``: a conversation in this terminal; from a pipe, one question a line."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import answer_flags, console
from minialign.cli.flags import adder
from minialign.errors import UserError, nearest
from minialign.home import home
from minialign.sampling import Sampling

if TYPE_CHECKING:
    from minialign.chat.turns import Conversation
    from minialign.engine import Engine
    from minialign.rewards.scorer import Scorer

# command: what the help says
COMMANDS = {
    "/regen": "another answer to the last question",
    "/undo": "take the last question and its answer back",
    "/reset": "start anew; the system prompt stays",
    "/system": "TEXT: set the system prompt and start anew; alone: show it",
    "/save": "FILE: append the conversation to a JSONL file, ready to train on",
    "/load": "FILE: go on with the last conversation of such a file",
    "/help": "this list",
    "/quit": "leave (Ctrl-D)",
}
PROMPT = "you> "


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Model, adapter, system prompt and sampling."""
    parser.epilog = f"In the chat: {' '.join(COMMANDS)}. Ctrl-C stops an answer, Ctrl-D leaves; "
    parser.epilog += "a line that ends in \\ goes on in the next."
    answer_flags.model_arguments(parser)
    add = adder(parser)
    add("--system TEXT", "a system prompt", default="")
    add("--load FILE", "go on with a conversation that was saved")
    add("--seed N", "seed of the answers (0)", default=0)
    add("--best-of N", "write N answers and show the best (--scorer)")
    add("--scorer SCORER", answer_flags.scorer_help())
    answer_flags.sampling_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    from minialign.chat.turns import Conversation

    sampling = answer_flags.sampling_from(arguments)
    _check_best_of(arguments, sampling)
    if arguments.load:
        conversation = Conversation.load(Path(arguments.load).expanduser(), arguments.seed)
        conversation.system = arguments.system or conversation.system
    else:
        conversation = Conversation(arguments.system, arguments.seed)
    engine = answer_flags.open_from(arguments)
    best = None
    if arguments.best_of is not None:
        from minialign.scoring.open import open_scorer

        best = arguments.best_of, open_scorer(arguments.scorer, engine=engine)
    chat = Chat(engine, conversation, sampling, best)
    with _input_lines() as lines:
        if sys.stdin.isatty():
            with_adapter = f" with {arguments.adapter}" if arguments.adapter else ""
            console.say(f"{chat.engine.model.name}{with_adapter}; /help lists the commands")
        for line in lines:
            if not chat.take(line):
                break
    return 0


def _check_best_of(arguments: argparse.Namespace, sampling: Sampling) -> None:
    if arguments.best_of is None and arguments.scorer is None:
        return
    if arguments.best_of is None or arguments.scorer is None:
        raise UserError("--best-of and --scorer belong together", "--best-of 8 --scorer length")
    if arguments.best_of < 1:
        raise UserError(f"--best-of {arguments.best_of}", "1 answer or more")
    if arguments.best_of > 1 and sampling.greedy:
        raise UserError("answers at temperature 0 are all the same", "--temperature 0.7")
    from minialign.rewards.spec import parse

    parse(arguments.scorer)


@dataclass
class Chat:
    """What happens to each line that is typed."""

    engine: "Engine"
    conversation: "Conversation"
    sampling: Sampling
    best: "tuple[int, Scorer] | None" = None  # of how many answers, by whom

    def take(self, line: str) -> bool:
        """Answer a question or obey a command; False when the user wants to leave."""
        if not line.strip():
            return True
        word, _, rest = line.strip().partition(" ")
        try:
            if word in ("/quit", "/exit"):
                return False
            if line.startswith("/") and not line.startswith("//"):
                self._command(word, rest.strip())
            else:
                text = line[1:] if line.startswith("//") else line
                self._answer(lambda: self.conversation.ask(text))
        except UserError as error:
            console.say(error.problem + (f"\n  {error.hint}" if error.hint else ""))
        return True

    def _command(self, word: str, rest: str) -> None:
        conversation = self.conversation
        match word:
            case "/help":
                for name, text in COMMANDS.items():
                    console.say(f"  {name:<8} {text}")
                console.say("  //text   a question that begins with /")
            case "/reset":
                conversation.reset()
                console.say("a new conversation")
            case "/undo":
                console.say(f"taken back: {conversation.undo()}")
            case "/regen":
                self._answer(conversation.reopen)
            case "/system" if not rest:
                console.say(conversation.system or "there is no system prompt")
            case "/system":
                conversation.system = rest
                conversation.reset()
                console.say("system prompt set; a new conversation")
            case "/save" | "/load" if not rest:
                raise UserError(f"{word} needs a file", f"{word} chat.jsonl")
            case "/save":
                conversation.save(Path(rest).expanduser())
                console.say(f"saved in {rest}")
            case "/load":
                file = Path(rest).expanduser()
                self.conversation = type(conversation).load(file, conversation.seed)
                turns = len(self.conversation.turns)
                console.say(f"{turns} message{'s' * (turns != 1)} loaded")
            case _:
                fix = "a question that begins with / is written with //"
                raise UserError(f"there is no command {word}: {nearest(word, COMMANDS)}", fix)

    def _answer(self, change: Callable[[], Any]) -> None:
        """Change the conversation and stream the answer; all is as before when none comes."""
        from minialign.chat.turns import best_reply, reply

        before = (list(self.conversation.turns), self.conversation.attempts)
        change()
        drawn = False  # whether there is an answer, however short
        reason: str | None = "cancelled"  # until a piece says otherwise
        written = 0
        line = console.Line(every=5)

        with stoppable() as asked_to_stop:

            def on_prefill(done: int, total: int) -> None:
                if asked_to_stop():
                    raise Stopped
                if total > 1024:
                    line.update(f"reading {done}/{total} tokens")

            if self.best is None:
                pieces = reply(self.engine, self.conversation, self.sampling, on_prefill)
            else:
                n, scorer = self.best
                how = self.sampling, scorer, n, on_prefill, asked_to_stop
                pieces = best_reply(self.engine, self.conversation, *how)
            try:
                for piece in pieces:
                    if self.best is not None and piece.finish_reason is None:
                        written += 1
                        line.update(f"{written}/{self.best[0]} answers")
                        continue
                    line.clear()
                    print(answer_flags.printable(piece.text), end="", flush=True)
                    reason = piece.finish_reason
                    if reason is None and asked_to_stop():
                        reason = "cancelled"
                        break
            except Stopped:
                reason = "cancelled"
            finally:
                line.clear()
                pieces.close()
                turns = self.conversation.turns
                drawn = bool(turns) and turns[-1]["role"] == "assistant"
                if not drawn:
                    self.conversation.turns[:], self.conversation.attempts = before
        if drawn:
            print(flush=True)
        if reason == "cancelled":
            console.say("(stopped)" if drawn else "(stopped; the question is taken back)")
        elif reason == "length":
            console.say(f"(cut at {self.sampling.max_tokens} tokens or the end of the context)")


class Stopped(Exception):
    """Ctrl-C while a prompt was read."""


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within it Ctrl-C only makes the given function true; a second time it interrupts."""
    pressed = False

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _input_lines() -> Iterator[Iterator[str]]:
    """The lines that are typed, with editing and a history in the home; or the lines of a pipe."""
    if not sys.stdin.isatty():
        yield (line.rstrip("\n") for line in sys.stdin)
        return
    import readline

    history = home() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(2000)
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, n: [*(c for c in COMMANDS if c.startswith(text)), None][n])
    readline.parse_and_bind("tab: complete")
    try:
        yield _read_keyboard()
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)


def _read_keyboard() -> Iterator[str]:
    """Lines from the keyboard until Ctrl-D; Ctrl-C drops the line that is being typed."""
    parts: list[str] = []
    while True:
        try:
            part = input("...> " if parts else PROMPT)
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            console.say("\n(Ctrl-D leaves)")
            parts = []
            continue
        if part.endswith("\\"):
            parts.append(part[:-1])
            continue
        yield "\n".join([*parts, part])
        parts = []
