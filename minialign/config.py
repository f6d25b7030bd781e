"""Configuration: dataclass defaults, then a file, then the flags that were actually typed.

A method's options are the fields of frozen dataclasses; the comment above (or behind) a field is
its help text, so that the help is read where the default is written. Settings libraries (pydantic,
tyro) want the help in a second place, or take longer to import than ``--help`` may.
"""

import dataclasses
import inspect
import io
import math
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from minialign.errors import UserError, nearest


@cache
def field_help(config: type) -> dict[str, str]:
    """The help text of each field of a dataclass: the comment lines above it and the one behind."""
    texts: dict[str, str] = {}
    above: list[str] = []
    names = {field.name for field in dataclasses.fields(config)}
    source = textwrap.dedent(inspect.getsource(config))
    line: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.NEWLINE, tokenize.NL):
            line.append(token)
            continue
        comments = [part.string[1:].strip() for part in line if part.type == tokenize.COMMENT]
        other = (tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
        code = [part.string for part in line if part.type not in other]
        name = code[0] if code[1:2] == [":"] and code[0] in names else ""
        if name:
            texts[name] = " ".join([*above, *comments])
        above = [*above, *comments] if comments and not code else []
        line = []
    return texts


@cache
def field_type(config: type, name: str) -> tuple[type, tuple[str, ...], bool]:
    """(type of one value, allowed words or (), whether the field is a list of them)."""
    hint = typing.get_type_hints(config)[name]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    many = typing.get_origin(hint) in (list, tuple)
    if many:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return str, typing.get_args(hint), many
    return hint, (), many


def _check(config: type, name: str, value: Any, where: str) -> Any:
    kind, choices, many = field_type(config, name)
    if not many:
        return _check_one(kind, choices, name, value, where)
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_check_one(kind, choices, name, item, where) for item in values)


def _check_one(kind: type, choices: tuple[str, ...], name: str, value: Any, where: str) -> Any:
    if choices and value not in choices:
        raise UserError(f"{where}: {name} = {value!r}", f"known: {', '.join(map(str, choices))}")
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-5 as a string
            value = float(value)
        except ValueError:
            raise UserError(f"{where}: {name} = {value!r} is no number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {name} = {value}", "expected a finite number")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        fix = f"expected {kind.__name__}, got {type(value).__name__}"
        raise UserError(f"{where}: {name} = {value!r}", fix)
    return value


def parts(config: type) -> list[tuple[type, list[dataclasses.Field]]]:
    """A dataclass with its own fields, behind those that it holds as fields: each with its own."""
    inner, own = [], []
    for field in dataclasses.fields(config):
        kind = field_type(config, field.name)[0]
        if dataclasses.is_dataclass(kind):
            inner += parts(kind)
        else:
            own.append(field)
    return [*inner, (config, own)]


def flat(config: Any) -> dict[str, Any]:
    """The values of all fields of ``parts``, by name."""
    inner: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            inner |= flat(value)
        else:
            own[name] = value
    return inner | own


def check_keys(values: Mapping[str, Any], configs: Iterable[type], where: str) -> None:
    """Raise a UserError that names the nearest known key for the first unknown one."""
    known = {field.name for one in configs for _, own in parts(one) for field in own}
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}", nearest(str(key), known))


def resolve(
    config: type, file_values: Mapping[str, Any], flags: Mapping[str, Any], where: str
) -> Any:
    """An instance of ``config``: its defaults, overlaid by the file's values, then by the flags.

    Keys of other dataclasses are ignored here; ``check_keys`` is for the unknown ones. A null in
    the file (YAML has it) leaves the default.

    Raises:
        UserError: for a value of the wrong type, with the file's name.
    """
    values: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(config)):
        kind = field_type(config, name)[0]
        if dataclasses.is_dataclass(kind):
            values[name] = resolve(kind, file_values, flags, where)
        elif name in flags:
            values[name] = _check(config, name, flags[name], "command line")
        elif file_values.get(name) is not None:
            values[name] = _check(config, name, file_values[name], where)
    return config(**values)


def changed(config: Any) -> dict[str, Any]:
    """The fields of a config that differ from their defaults."""
    usual = vars(type(config)())
    return {name: value for name, value in vars(config).items() if value != usual[name]}
