"""Flags made of dataclass fields, and configuration files in TOML or mlx-lm's YAML."""

import argparse
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from minialign.config import field_help, field_type, parts
from minialign.errors import UserError

# Other spellings of a flag: mlx-lm's, and short ones.
ALIASES = {"out": ("--adapter-path",), "model": ("-m",), "eval_data": ("--valid-data",)}

# mlx-lm's configuration keys that mean nothing here, or that are ours under another name.
MLX_LM_NAMES = {"adapter_path": "out", "resume_adapter_file": "adapter"}
MLX_LM_IGNORED = {"train", "test", "test_batches", "val_batches", "optimizer", "optimizer_config"}
MLX_LM_IGNORED |= {"mask_prompt", "report_to", "project_name", "clear_cache_threshold"}


def add_fields(
    parser: argparse.ArgumentParser,
    config: type,
    title: str,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """A flag for each field; only flags that are typed appear in the parsed arguments. The help
    states a field's default, or the one of ``defaults``."""
    group = parser.add_argument_group(title)
    texts = field_help(config)
    for field in parts(config)[-1][1]:
        if field.name in without:
            continue
        kind, choices, many = field_type(config, field.name)
        flags = [f"--{field.name.replace('_', '-')}", *ALIASES.get(field.name, ())]
        text = texts[field.name].replace("%", "%%")
        default: Any = (defaults or {}).get(field.name, field.default)
        if default not in (None, (), "", False):
            shown = " ".join(map(str, default)) if many else default
            text += f" ({shown})"
        options: dict[str, Any] = {"dest": field.name, "help": text, "default": argparse.SUPPRESS}
        if kind is bool:
            group.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
            continue
        if choices:
            options["choices"] = choices
        else:
            options["type"] = kind
            options["metavar"] = {int: "N", float: "X"}.get(kind, "TEXT")
        if many:
            options["nargs"] = "+"
        group.add_argument(*flags, **options)


def read_config(path: str) -> dict[str, Any]:
    """The values of a TOML or YAML file, mlx-lm's names turned into ours.

    Raises:
        UserError: when it cannot be read, with its line.
    """
    import yaml

    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
        is_yaml = file.suffix in (".yaml", ".yml")
        values = yaml.safe_load(text) or {} if is_yaml else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as reason:
        raise UserError(f"{path}: {reason}") from None
    except tomllib.TOMLDecodeError as reason:
        end = f"at line {len(text.splitlines())}, the last"
        shown = str(reason).replace("at end of document", end)
        fix = "TOML: key = value; YAML files end in .yaml"
        raise UserError(f"{path}: {shown}", fix) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values")
    return _from_mlx_lm(values, path)


def _from_mlx_lm(values: dict[str, Any], path: str) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    for key, value in values.items():
        if key == "lora_parameters" and isinstance(value, dict):
            ours |= {name: item for name, item in value.items() if name != "alpha"}
        elif key == "lr_schedule" and isinstance(value, dict):
            ours |= _schedule(value, path)
        elif key not in MLX_LM_IGNORED:
            ours[MLX_LM_NAMES.get(key, key)] = value
    return ours


def _schedule(value: dict[str, Any], path: str) -> dict[str, Any]:
    names = {"cosine_decay": "cosine", "linear_schedule": "linear", "constant": "constant"}
    name = value.get("name", "")
    if name not in names:
        raise UserError(f"{path}: lr_schedule {name!r}", f"known: {', '.join(names)}")
    ours: dict[str, Any] = {"lr_schedule": names[name]}
    try:
        if value.get("warmup") is not None:
            ours["warmup"] = float(value["warmup"])
        if arguments := value.get("arguments"):
            ours["learning_rate"] = float(arguments[0])
    except (TypeError, ValueError, KeyError) as reason:
        fix = "warmup is a number of steps, arguments a list"
        raise UserError(f"{path}: lr_schedule: {reason}", fix) from None
    return ours


def to_toml(values: dict[str, Any]) -> str:
    """Flat settings as TOML; what is not set is a comment."""
    import json

    lines = []
    for key, value in values.items():
        if value is None:
            lines.append(f"# {key} =")
        else:
            shown = list(value) if isinstance(value, tuple) else value
            lines.append(f"{key} = {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines)
