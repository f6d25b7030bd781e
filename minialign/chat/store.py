"""Conversations kept in SQLite (WAL) in the home: listed, searched, renamed, exported.

A conversation is one line of turns; an answer may have a second one beside it, of another model.
Nothing here knows of models or terminals; a connection belongs to the thread that opened it.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minialign.durable import Journal
from minialign.errors import UserError
from minialign.home import home
from minialign.records import Message

LISTED = 200  # conversations of one search

SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, system TEXT NOT NULL DEFAULT '',
    seed INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS turns (
    conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
    origin TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (conversation, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_time ON conversations(updated DESC);
"""


@dataclass
class Turn:
    """What was said. ``origin`` of an answer: model, adapter, seed, attempts, finish_reason, good
    (a thumb), and ``beside`` (text and origin of the other model's answer)."""

    role: str
    content: str
    origin: dict[str, Any] = field(default_factory=dict)

    def message(self, beside: bool = False) -> Message:
        """What a model sees of it; ``beside`` is the other model's answer where there is one."""
        other = self.origin.get("beside") if beside else None
        text = other.get("text") if isinstance(other, dict) else None
        return {"role": self.role, "content": self.content if text is None else str(text)}


@dataclass
class Talk:
    """A conversation; ``id`` is None until it is saved."""

    title: str = ""
    system: str = ""
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)
    id: int | None = None
    updated: float = 0.0

    def messages(self, upto: int | None = None, beside: bool = False) -> list[Message]:
        """What a model sees: the system message and the turns before ``upto``; ``beside`` has the
        other model's answers where there are any."""
        start = [{"role": "system", "content": self.system}] if self.system else []
        return start + [turn.message(beside) for turn in self.turns[:upto]]


@dataclass(frozen=True)
class Entry:
    """A conversation in a list."""

    id: int
    title: str
    updated: float
    turns: int


class Conversations:
    """The store."""

    def __init__(self, path: Path | str | None = None):
        self.path = path or home() / "conversations.db"
        try:
            if isinstance(self.path, Path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as reason:
            fix = "this sitting is not kept; move that file away to begin a new one"
            said = f"cannot open the conversations in {self.path}: {reason}"
            raise UserError(said, fix) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._db:
                yield self._db
        except sqlite3.Error as reason:
            fix = "what is on the screen is still there: copy what you need"
            said = f"cannot save the conversation in {self.path}: {reason}"
            raise UserError(said, fix) from None

    def save(self, talk: Talk) -> None:
        """Write a conversation as it is now; a new one gets its id.

        Raises:
            UserError: when it cannot be written.
        """
        talk.updated = time.time()
        rows = [
            (place, turn.role, turn.content, json.dumps(turn.origin, ensure_ascii=False))
            for place, turn in enumerate(talk.turns)
        ]
        with self._change() as db:
            if talk.id is None:
                cursor = db.execute(
                    "INSERT INTO conversations (title, system, seed, created, updated)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (talk.title, talk.system, talk.seed, talk.updated, talk.updated),
                )
                number = cursor.lastrowid
            else:
                number = talk.id
                db.execute(
                    "UPDATE conversations SET title = ?, system = ?, updated = ? WHERE id = ?",
                    (talk.title, talk.system, talk.updated, number),
                )
            db.execute(
                "DELETE FROM turns WHERE conversation = ? AND position >= ?", (number, len(rows))
            )
            db.executemany(
                "INSERT OR REPLACE INTO turns (conversation, position, role, content, origin)"
                f" VALUES ({number}, ?, ?, ?, ?)",
                rows,
            )
        talk.id = number

    def load(self, number: int) -> Talk:
        """A conversation.

        Raises:
            UserError: when it is not there any more.
        """
        with self._change() as db:
            head = db.execute(
                "SELECT title, system, seed, updated FROM conversations WHERE id = ?", (number,)
            ).fetchone()
            rows = db.execute(
                "SELECT role, content, origin FROM turns WHERE conversation = ? ORDER BY position",
                (number,),
            ).fetchall()
        if head is None:
            raise UserError("that conversation is not there any more", "choose another one")
        turns = [Turn(role, content, _origin(text)) for role, content, text in rows]
        return Talk(head[0], head[1], head[2], turns, number, head[3])

    def search(self, words: str = "", most: int = LISTED) -> list[Entry]:
        """Conversations whose title or turns hold every word, the newest first."""
        clauses, values = [], []  # type: tuple[list[str], list[Any]]
        for word in words.split():
            like = "%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            clauses.append(
                "(title LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 FROM turns"
                " WHERE conversation = conversations.id AND content LIKE ? ESCAPE '\\'))"
            )
            values += [like, like]
        where = " AND ".join(clauses) or "1"
        with self._change() as db:
            rows = db.execute(
                "SELECT id, title, updated, (SELECT count(*) FROM turns"
                f" WHERE conversation = conversations.id) FROM conversations WHERE {where}"
                " ORDER BY updated DESC LIMIT ?",
                (*values, most),
            ).fetchall()
        return [Entry(*row) for row in rows]

    def rename(self, number: int, title: str) -> None:
        """Give a conversation another title."""
        with self._change() as db:
            db.execute("UPDATE conversations SET title = ? WHERE id = ?", (title, number))

    def remove(self, number: int) -> None:
        """Delete a conversation."""
        with self._change() as db:
            db.execute("DELETE FROM conversations WHERE id = ?", (number,))


def _origin(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def title_of(text: str) -> str:
    """A title from a first question: its first line, at most 60 letters."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59].rstrip() + "…"


def append_conversation(path: Path, messages: Sequence[Message], hint: str) -> None:
    """Append a conversation to a JSONL file, to train on.

    Raises:
        UserError: with this ``hint``, when the file cannot be written.
    """
    try:
        Journal(path).append({"messages": messages})
    except UserError as error:
        raise UserError(error.problem, hint) from None


def export(talk: Talk, path: Path) -> None:
    """Write a conversation: ``.jsonl`` is appended to as a demonstration to train on; anything
    else is Markdown.

    Raises:
        UserError: when there is nothing to write, or a Markdown file is there already.
    """
    if not talk.turns:
        raise UserError("there is nothing to export yet", "ask something first")
    path = path.expanduser()
    try:
        if path.suffix == ".jsonl":
            append_conversation(path, talk.messages(), "choose another file")
            return
        parts = [f"# {talk.title}"] + ([f"> {talk.system}"] if talk.system else [])
        parts += [f"## {turn.role.capitalize()}\n\n{turn.content}" for turn in talk.turns]
        with open(path, "x", encoding="utf-8") as file:
            file.write("\n\n".join(parts) + "\n")
    except FileExistsError:
        raise UserError(f"{path} is there already", "choose another name") from None
    except OSError as reason:
        raise UserError(f"cannot write {path}: {reason.strerror}", "choose another file") from None
