"""What a comparison is asked to do: one TOML file, checked before anything is run."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign.compare import tables as known_tables
from minialign.compare.tables import COMPARED, FREE, ROWS, TABLES, Files, Kind, Top
from minialign.config import check_keys, resolve
from minialign.data.prompts import read_prompts
from minialign.durable import read_text
from minialign.errors import UserError, nearest
from minialign.formats.kinds import digest
from minialign.rewards.spec import parse
from minialign.sampling import Sampling

# table: the least that its settings may be
LEAST = {
    "budget": {"tokens": 0, "minutes": 0},
    "sampled": {"n": 2, "prompts": 0},
    "sampling": {"batch_size": 1, "best_of": 2},
    "data": {"heldout_limit": 0},
}


@dataclass(frozen=True)
class File:
    """A TOML file's text, to say where something stands in it."""

    path: Path
    text: str

    def at(self, table: str, key: str = "") -> str:
        """ "FILE:LINE", for messages."""
        return f"{self.path}:{line_of(self.text, table, key)}"

    def where(self, table: str, key: str = "") -> str:
        """ "FILE:LINE: [table]", for messages; without a line where there is none."""
        line = line_of(self.text, table, key)
        return f"{self.path}{f':{line}' if line else ''}{f' [{table}]' if table else ''}"


@dataclass(frozen=True)
class Experiment:
    """What a comparison's file asks for, all paths whole."""

    file: File
    top: Top
    data: Files
    scorers: known_tables.Scorers
    budget: known_tables.Budget
    sampled: known_tables.Sampled
    sampling: known_tables.Answers
    training: dict[str, Any]
    start: dict[str, Any]
    reward: dict[str, Any]
    kinds: dict[str, Kind]  # of each method that is asked for
    own: dict[str, dict[str, Any]]  # a method's own settings


def line_of(text: str, table: str, key: str = "") -> int:
    """The line, from 1, of a key in a table of a TOML text, or of the table's header; 0 when it is
    not written in one line of its own."""
    here, header = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if title := re.match(r"\s*\[([^\[\]]+)\]", line):
            here = re.sub(r"[\s\"']", "", title[1])
            header = number if here == table else header
        elif here == table and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return 0 if key else header


def read(path: Path) -> Experiment:
    """The comparison that a file describes.

    Raises:
        UserError: for what cannot be run, with the file and the line.
    """
    file = File(path, read_text(path, "minialign compare FILE.toml"))
    try:
        values = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as reason:
        raise UserError(f"{path}: {reason}", "TOML: key = value, tables in [brackets]") from None
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    known = (*TABLES, *FREE)
    for name in tables:
        if name not in known:
            raise UserError(f"{file.at(name)}: unknown table [{name}]", nearest(name, known))
    loose = {name: value for name, value in values.items() if name not in tables}
    for name in loose:
        if name in known:
            raise UserError(f"{file.at('', name)}: {name} is a table", f"[{name}]")
    top = _fill(Top, loose, file, "")
    parts = {name: _fill(kind, tables.get(name, {}), file, name) for name, kind in TABLES.items()}
    kinds, own = _methods(top, tables.get("method", {}), file)
    free: dict[str, Any] = {name: dict(tables.get(name, {})) for name in FREE if name != "method"}
    whole: dict[str, Any] = {
        name: _whole_path(value, path) if isinstance(value, str) else value
        for name, value in vars(parts["data"]).items()
    }
    parts["data"] = Files(**whole)
    proxy, gold = _scorer(parts["scorers"].proxy, path), _scorer(parts["scorers"].gold, path)
    parts["scorers"] = dataclasses.replace(parts["scorers"], proxy=proxy, gold=gold)
    one = Experiment(file, top, **parts, **free, kinds=kinds, own=own)
    _check(one)
    return one


def _fill(kind: type, values: Mapping[str, Any], file: File, table: str) -> Any:
    """An instance of a table's dataclass; errors name the line of the key."""
    for key, value in values.items():
        where = file.where(table, key)
        check_keys({key: value}, (kind,), where)
        resolve(kind, {key: value}, {}, where)
    return resolve(kind, values, {}, str(file.path))


def _methods(
    top: Top, tables: Mapping[str, Any], file: File
) -> tuple[dict[str, Kind], dict[str, dict[str, Any]]]:
    """(the kind of each method asked for, its own settings). ``[method.NAME]`` with a ``command``
    is another variant: ``[method.dpo-ipo]``, command = "dpo", loss = "ipo"."""
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise UserError(f"{file.path}: [method] {name} = {values!r}", f"[method.{name}]")
        if name not in COMPARED and "command" not in values:
            said = f"{file.at(f'method.{name}')}: there is no method {name!r}"
            fix = 'a variant of another needs the line: command = "dpo"'
            raise UserError(f"{said}: {nearest(name, COMPARED)}", fix)
    kinds: dict[str, Kind] = {}
    own: dict[str, dict[str, Any]] = {}
    for name in top.methods:
        own[name] = values = dict(tables.get(name, {}))
        command = values.pop("command", None)
        if command is None and name not in COMPARED:
            said = f"{file.at('', 'methods')}: there is no method {name!r}"
            raise UserError(said, nearest(name, {*COMPARED, *tables}))
        if command is not None and command not in COMPARED:
            said = f"{file.at(f'method.{name}', 'command')}: no method {command!r}"
            raise UserError(said, nearest(str(command), COMPARED))
        kind = COMPARED[command or name]
        rows = values.pop("rows", kind.rows)
        if rows != kind.rows and ({rows, kind.rows} & {"prompts", ""} or rows not in ROWS):
            where, wanted = file.at(f"method.{name}", "rows"), kind.rows or "nothing"
            said = f"{where}: rows = {rows!r}: {name} learns from {wanted}"
            raise UserError(said, "known: demonstrations, pairs, sampled")
        kinds[name] = dataclasses.replace(kind, rows=rows)
    return kinds, own


def _whole_path(name: str, path: Path) -> str:
    """A path relative to the comparison's file as a whole one; what is no path stays."""
    beside = (path.parent / Path(name).expanduser()).resolve()
    return str(beside) if name and beside.exists() else name


def _scorer(spec: str, path: Path) -> str:
    """``python:FILE.py:function`` with a whole path."""
    kind, _, rest = spec.partition(":")
    file, _, function = rest.rpartition(":")
    return f"python:{_whole_path(file, path)}:{function}" if kind == "python" and file else spec


def _check(one: Experiment) -> None:
    """Refuse what cannot be run, or would not say anything."""
    scorers, where = one.scorers, one.file.where
    for table, key, wanted in (
        ("data", "prompts", "prompts to sample from"),
        ("data", "heldout", "prompts to judge on"),
        ("data", "pairs", "pairs to learn from"),
        ("scorers", "gold", "the scorer that judges"),
    ):
        if not getattr(getattr(one, table), key):
            raise UserError(f"{where(table)}: {key} is missing", f"{key} = …: {wanted}")
    for key in ["gold"] if scorers.proxy == "reward" else ["proxy", "gold"]:
        try:
            if parse(getattr(scorers, key))[0] == "judge":
                fix = "train a reward head on its verdicts, and name that"
                raise UserError("a judge only compares answers; it has no score for one alone", fix)
        except UserError as reason:
            raise UserError(f"{where('scorers', key)}: {reason.problem}", reason.hint) from None
    if scorers.proxy == scorers.gold and not scorers.allow_same:
        said = f"{where('scorers', 'gold')}: proxy and gold are both {scorers.gold!r}: a method "
        said += "would be judged by what it was trained to please"
        raise UserError(said, "judge by another scorer, or write allow_same = true")
    if bool(one.budget.tokens) == bool(one.budget.minutes):
        said = f"{where('budget')}: one budget is needed, in tokens or in minutes"
        raise UserError(said, "[budget] tokens = 24000")
    for table, keys in LEAST.items():
        for key, low in keys.items():
            if (value := getattr(getattr(one, table), key)) < low:
                said = f"{where(table, key)}: {key} = {value}"
                raise UserError(said, f"it must be at least {low}")
    Sampling(one.sampling.temperature, one.sampling.top_p, max_tokens=one.sampling.max_tokens)
    for key in ("seeds", "methods"):
        given = getattr(one.top, key)
        if not given or len(set(given)) < len(given):
            raise UserError(f"{where('', key)}: {key} = {list(given)}", "each once")
    if any(seed < 0 for seed in one.top.seeds):
        raise UserError(f"{where('', 'seeds')}: seeds = {list(one.top.seeds)}", "from 0")
    if one.sampling.temperature == 0:
        said = f"{where('sampling', 'temperature')}: temperature = 0"
        raise UserError(said, "methods that sample need different answers: above 0")
    _check_prompts(one)


def _check_prompts(one: Experiment) -> None:
    """Refuse held-out prompts that something is trained on."""
    held = {digest(q.prompt) for q in held_out(one)}
    for key in ("prompts", "pairs", "demonstrations"):
        name = getattr(one.data, key)
        asked = read_prompts(name) if name and Path(name).exists() else []
        if same := [q for q in asked if digest(q.prompt) in held]:
            said = f"{len(same)} of its prompts are among the held-out ones, the first in"
            said = f"{one.file.where('data', key)}: {said} {same[0].source or name}"
            raise UserError(said, "take them out of one of the files")


def held_out(one: Experiment) -> list[Any]:
    """The held-out prompts with their rows' other keys."""
    return read_prompts(one.data.heldout)[: one.data.heldout_limit or None]
