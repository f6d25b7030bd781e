"""``minialign bench``: how fast this machine is, how fast it could be, and which models suit it."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from minialign.cli import console
from minialign.cli.flags import adder

if TYPE_CHECKING:
    from minialign.machine.bench import Estimate, Row


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The options of ``minialign bench``."""
    add = adder(parser)
    add("--model MODEL", "what to measure (default: the embedded model)")
    add("--quick", "a few tokens only: a rough idea")
    add("--json", "one JSON object, on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print two tables: this model here, and the others of the catalogue."""
    from minialign.machine.bench import QUICK, Estimate, Row, bench
    from minialign.machine.roofline import Machine
    from minialign.models.names import DEFAULT

    model = arguments.model or DEFAULT
    sizes = QUICK if arguments.quick else None
    with console.live_line(every=0) as line:
        told = bench(model, sizes, lambda text: line.update(f"measuring: {text} …", force=True))
        measured = list(told)
    (here,) = (one for one in measured if isinstance(one, Machine))
    rows = [one for one in measured if isinstance(one, Row)]
    others = [one for one in measured if isinstance(one, Estimate)]
    if arguments.json:
        results = {"model": model, "quick": arguments.quick, "machine": asdict(here)}
        results["rows"] = [{**asdict(row), "share": row.share} for row in rows]
        results["models"] = [asdict(one) for one in others]
        console.emit(results)
        return 0
    console.emit(
        f"{here.chip}, {here.cores} threads: reads {here.bandwidth / 1e9:.1f} GB/s "
        f"({here.bandwidth_one / 1e9:.1f} with one thread), "
        f"multiplies {here.gemm / 1e9:.0f} GFLOP/s\nkernels: {here.kernels}\n"
    )
    _rows(model, rows)
    console.emit("")
    _others(others)
    if arguments.quick:
        console.say("\n--quick measures too little to compare by; leave it out for real figures")
    console.next_steps("minialign models list", "minialign doctor")
    return 0


NAMES = {
    "load": "load the model",
    "score": "score (log-probs of every token)",
    "sft": "LoRA fine-tuning",
    "dpo": "DPO, prompts computed once",
    "process": "peak memory of the process",
}


def _name(name: str) -> str:
    if name.startswith("decode "):
        count = name.removeprefix("decode ")
        return "write one answer" if count == "1" else f"write {count} answers at once"
    return NAMES.get(name, name)


def _value(value: float, unit: str) -> str:
    if unit == "bytes":
        return console.size(value)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _rows(model: str, rows: "list[Row]") -> None:
    table = []
    for row in rows:
        most = _value(row.limit, row.unit) if row.limit else ""
        reached = f"{100 * row.value / row.limit:.0f} %" if row.limit else ""
        memory = console.size(row.memory) if row.memory else ""
        here = _value(row.value, row.unit)
        table.append((_name(row.name), here, most, reached, memory, row.note))
    console.table((model, "here", "at most", "reached", "memory", ""), table)


def _others(others: "list[Estimate]") -> None:
    headers = ["model (estimated)", "weights", "to run", "to train", "writes", "trains"]
    headers += ["DPO, 1,000 pairs", "good for"]
    table = []
    for one in others:
        memory = console.size(one.run_bytes), console.size(one.train_bytes)
        rates = _value(one.decode, "tokens/s"), _value(one.train, "tokens/s")
        pairs = console.duration(one.thousand_pairs)
        weights = f"{one.params / 1e6:,.0f} M"
        table.append((one.name, weights, *memory, *rates, pairs, one.verdict))
    console.table(headers, table)
