"""A conversation's logic, and the chat in a pipe and in a pseudo-terminal."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minialign import formats
from minialign.chat.turns import Conversation, best_reply, reply
from minialign.cli import main
from minialign.engine import Engine, Sampling
from minialign.errors import UserError
from minialign.learn.batch import encode_prompt
from minialign.models.load import load
from minialign.rewards.scorer import Scorer

SAMPLING = Sampling(temperature=1.0, max_tokens=12)


@pytest.fixture
def engine(tiny_model, home) -> Engine:
    return Engine(load(str(tiny_model)))


def say(engine: Engine, conversation: Conversation, text: str) -> str:
    conversation.ask(text)
    return "".join(piece.text for piece in reply(engine, conversation, SAMPLING))


def test_turns_alternate_and_the_model_sees_them_all(engine):
    conversation = Conversation(system="be brief")
    first = say(engine, conversation, "yes?")
    second = say(engine, conversation, "no?")
    assert conversation.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "yes?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "no?"},
        {"role": "assistant", "content": second},
    ]
    fresh = Engine(engine.model)
    ids = encode_prompt(conversation.messages[:-1], engine.tokenizer)
    seed = Conversation(seed=0, turns=conversation.turns[:3]).answer_seed()
    assert second == "".join(piece.text for piece in fresh.stream(ids, SAMPLING, seed))


def test_later_turns_compute_only_what_is_new(engine):
    conversation = Conversation()
    conversation.ask("the quick brown fox jumps over the lazy dog " * 12)
    seen: list[int] = []
    list(reply(engine, conversation, SAMPLING, lambda done, total: seen.append(total)))
    conversation.ask("no")
    list(reply(engine, conversation, SAMPLING, lambda done, total: seen.append(total)))
    whole = len(encode_prompt(conversation.messages[:-1], engine.tokenizer))
    new = len(engine.tokenizer.encode("<|im_end|>\n<|im_start|>user\nno<|im_end|>\n"))
    new += len(engine.tokenizer.encode("<|im_start|>assistant\n"))
    # The answer may tokenize differently when it is read again: three tokens for each odd byte.
    assert seen[1] <= new + 3 * 12 < whole / 2


def test_regenerating_gives_another_answer_and_the_same_seeds_again(engine):
    def conversation_of(seed: int) -> list[str]:
        conversation = Conversation(seed=seed)
        answers = [say(engine, conversation, "fox?")]
        for _ in range(2):
            conversation.reopen()
            answers.append("".join(p.text for p in reply(engine, conversation, SAMPLING)))
        assert len(conversation.turns) == 2
        assert conversation.turns[-1]["content"] == answers[-1]
        answers.append(say(engine, conversation, "dog?"))
        return answers

    first = conversation_of(3)
    assert len(set(first)) == 4
    assert conversation_of(3) == first
    assert conversation_of(4) != first


def test_every_answer_has_a_seed_of_its_own():
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    asked = turn[:1]
    seeds = {
        Conversation(seed=seed, turns=turn * turns + asked, attempts=attempts).answer_seed()
        for seed in range(3)
        for turns in range(3)
        for attempts in range(3)
    }
    assert len(seeds) == 27


def test_undo_and_reset(engine):
    conversation = Conversation(system="s")
    say(engine, conversation, "one")
    say(engine, conversation, "two")
    assert conversation.undo() == "two"
    assert [turn["content"] for turn in conversation.turns][::2] == ["one"]
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "s"}]
    with pytest.raises(UserError, match="nothing to undo"):
        conversation.undo()
    with pytest.raises(UserError, match="no answer"):
        conversation.reopen()
    with pytest.raises(UserError, match="empty"):
        conversation.ask("  \n")


def test_an_answer_stopped_early_is_kept_as_far_as_it_came(engine):
    conversation = Conversation()
    conversation.ask("fox?")
    text, pieces = "", reply(engine, conversation, Sampling(temperature=1, max_tokens=200))
    for piece in pieces:
        text += piece.text
        if len(text) > 5:
            break
    pieces.close()
    assert conversation.turns[-1] == {"role": "assistant", "content": text}
    say(engine, conversation, "and now?")
    assert len(conversation.turns) == 4


def test_a_saved_conversation_is_a_demonstration_and_comes_back(engine, tmp_path):
    file = tmp_path / "chat.jsonl"
    conversation = Conversation(system="be 🦊")
    with pytest.raises(UserError, match="no answer to save"):
        conversation.save(file)
    say(engine, conversation, "naïve\u2028\x85?")
    conversation.save(file)
    say(engine, conversation, "more")
    conversation.save(file)
    again = Conversation.load(file)
    assert (again.system, again.turns) == (conversation.system, conversation.turns)
    read = formats.read(file)
    assert not read.problems
    assert [len(record.messages) for record in read.records] == [3, 5]
    with pytest.raises(UserError, match="cannot write"):
        conversation.save(tmp_path / "no" / "chat.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("{bad", "chat.jsonl:1: no conversation"),
        ('{"messages": []}', "no conversation"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "no conversation"),
        ('{"messages": [{"role": "assistant", "content": "hi"}]}', "no conversation"),
        ('\n\n{"prompt": "hi"}', "chat.jsonl:3"),
        (None, "No such file"),
    ],
)
def test_files_that_hold_no_conversation(tmp_path, text, words):
    file = tmp_path / "chat.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words):
        Conversation.load(file)


def test_a_conversation_longer_than_the_context(engine):
    conversation = Conversation()
    conversation.ask("fox " * 3000)
    with pytest.raises(UserError, match="at most 2,048"):
        next(reply(engine, conversation, SAMPLING))


def test_the_best_of_several_answers_is_the_one_that_is_kept(engine):
    conversation = Conversation(seed=3)
    conversation.ask("fox?")
    ids = encode_prompt(conversation.messages, engine.tokenizer)
    drawn = [one.text for one in engine.generate([ids], SAMPLING, 5, conversation.answer_seed())]
    asked = []

    def last_letters(prompt, responses):
        asked.append(prompt.prompt)
        return [sum(map(ord, response)) for response in responses]

    scorer = Scorer("mine", last_letters)
    pieces = list(best_reply(engine, conversation, SAMPLING, scorer, 5))
    assert [piece.text for piece in pieces[:-1]] == [""] * 5
    best = max(drawn, key=lambda text: sum(map(ord, text)))
    assert pieces[-1].text == best == conversation.turns[-1]["content"]
    assert pieces[-1].finish_reason in ("stop", "length")
    assert asked == [[{"role": "user", "content": "fox?"}]]
    # stopped before all are written, none is taken
    conversation.reopen()
    assert list(best_reply(engine, conversation, SAMPLING, scorer, 5, None, lambda: True)) == []
    assert conversation.turns[-1]["role"] == "user"


def piped(model: Path, lines: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "minialign", "chat", "--model", str(model), *arguments],
        input="\n".join(lines), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_chat_through_a_pipe(tiny_model, home, tmp_path):
    file = tmp_path / "chat.jsonl"
    lines = [
        "yes?", "", "no?", "/regen", f"/save {file}", "/undo", "/undo", "/undo", "//slash?",
        "/system be kind", "/system", "/reset", "/bogus", "/save", f"/load {file}", "/help",
        f"/load {tmp_path / 'gone'}", "/quit", "never read",
    ]  # fmt: skip
    done = piped(tiny_model, lines, "--max-tokens", "9", "--temp", "1", "--seed", "4")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 4  # an answer may have line breaks
    (saved,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert [turn["content"] for turn in saved["messages"]][::2] == ["yes?", "no?"]
    for turn in saved["messages"][1::2]:
        assert turn["content"] in done.stdout
    for words in (
        "saved in", "taken back: no?", "taken back: yes?", "nothing to undo",
        "system prompt set", "be kind", "a new conversation", "there is no command /bogus",
        "/save needs a file", "4 messages loaded", "/regen", "No such file", "cut at 9 tokens",
    ):  # fmt: skip
        assert words in done.stderr, words
    assert "Traceback" not in done.stderr
    assert "never read" not in done.stdout + done.stderr


def test_the_best_of_several_through_a_pipe(tiny_model, home, monkeypatch, capsys):
    flags = ["--max-tokens", "9", "--temp", "1", "--scorer", "regex:e", "--best-of"]
    said = []
    for n in ("1", "16"):
        monkeypatch.setattr("sys.stdin", io.StringIO("yes?\nno?\n"))
        assert main(["chat", "--model", str(tiny_model), *flags, n]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] != said[1]
    assert "e" in said[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temp", "-1"], "temperature is -1"),
        (["--adapter", "nope"], "no run 'nope'"),
        (["--load", "nope.jsonl"], "No such file"),
        (["--max-tokens", "0"], "max tokens is 0"),
        (["--best-of", "4"], "belong together"),
        (["--scorer", "length"], "belong together"),
        (["--best-of", "0", "--scorer", "length"], "1 answer or more"),
        (["--best-of", "2", "--scorer", "lenght"], "did you mean 'length'"),
        (["--best-of", "2", "--scorer", "length", "--temp", "0"], "all the same"),
    ],
)
def test_a_chat_that_cannot_start(tiny_model, home, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert main(["chat", "--model", str(tiny_model), *arguments]) == 2
    assert words in capsys.readouterr().err


class Terminal:
    """``minialign chat`` in a pseudo-terminal."""

    # A new session makes the pseudo-terminal its own, so that Ctrl-C typed there is a signal.
    START = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )

    def __init__(self, model: Path, *arguments: str):
        self.fd, inside = pty.openpty()
        command = ["-m", "minialign", "chat", "--model", str(model), *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.START, *command],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )  # fmt: skip
        os.close(inside)
        self.text = ""

    def wait_for(self, words: str) -> str:
        """What was printed up to these words since the last call."""
        self.read_until(lambda: words in self.text, words)
        before, _, self.text = self.text.partition(words)
        return before

    def read_until(self, enough: Callable[[], bool], what: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not enough():
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {what!r} in {self.text!r}"
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                assert enough(), f"no {what!r} in {self.text!r}"

    def comes(self, words: str, seconds: float) -> bool:
        """Whether these words are printed within that time; they are not taken away."""
        end = time.monotonic() + seconds
        while words not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            if not ready:
                return False
            self.text += os.read(self.fd, 65536).decode(errors="replace")
        return True

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def exit_code(self) -> int:
        return self.process.wait(timeout=300)


@pytest.fixture
def terminal(tiny_model, home) -> Iterator[Terminal]:
    # Greedily the tiny model goes round in circles and never ends an answer by itself.
    it = Terminal(tiny_model, "--max-tokens", "1900", "--temp", "0")
    yield it
    it.process.kill()
    it.process.wait()
    os.close(it.fd)


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(terminal, home):
    terminal.wait_for("you> ")
    for _ in range(10):  # on a busy machine the answer may end before the key comes
        terminal.type("yes?\n")
        terminal.wait_for("yes?")
        terminal.read_until(lambda: len(terminal.text.strip()) > 3, "an answer")
        terminal.type("\x03")
        if terminal.comes("(stopped)", seconds=20):
            break
        terminal.wait_for("Ctrl-D leaves")
        terminal.wait_for("you> ")
    terminal.wait_for("(stopped)")
    terminal.wait_for("you> ")
    terminal.type("/undo\n")
    terminal.wait_for("taken back: yes?")
    terminal.wait_for("you> ")
    terminal.type("half a li")
    terminal.wait_for("half a li")
    for _ in range(10):  # a signal just before the line is read waits for a key: CPython's own way
        terminal.type("\x03")
        if terminal.comes("Ctrl-D leaves", seconds=3):
            break
    terminal.wait_for("Ctrl-D leaves")
    terminal.wait_for("you> ")
    terminal.type("/system kind\\\nand brief\n")
    terminal.wait_for("...> ")
    terminal.wait_for("system prompt set")
    terminal.wait_for("you> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert "yes?" in (home / "chat_history").read_text()
