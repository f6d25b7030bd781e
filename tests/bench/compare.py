"""minialign beside its peers on this machine: runs the scripts of this folder, prints the ratios.

    python tests/bench/compare.py --all --data pairs.jsonl --json results.json
    python tests/bench/compare.py sft decode            some of: losses sft dpo decode best

Every measure is a process of its own; the sides of a comparison run in turn (A B A B …), and the
best of the rounds counts. Let nothing else run. About 15 minutes on two cores.

minialign runs with this Python, its peers with ``--peers PYTHON``, which has ``requirements.txt``.
Keep the two apart: where torch is installed, transformers imports it, and that is 190 MB more in
every process of minialign too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MINUTES = 10  # for one process
# The real data sets that the tests use too.
DATA = Path(os.environ.get("MINIALIGN_TEST_DATA") or ROOT.parent / "shared" / "data")
PAIRS = DATA / "hh_rlhf" / "harmless_first_1800.jsonl.gz"


@dataclass(frozen=True)
class Side:
    """One process to run in every round."""

    label: str
    script: str
    flags: tuple[str, ...] = ()
    peer: bool = False  # whether it runs with the peers' Python


@dataclass(frozen=True)
class Result:
    """The best of what a side measured under one name."""

    label: str
    what: str
    value: float
    unit: str
    peak_memory: int
    details: dict

    @property
    def lower_is_better(self) -> bool:
        return self.unit.startswith(("s", "difference"))


@dataclass(frozen=True)
class Goal:
    """What a ratio, or a figure of our own, is to be."""

    text: str
    measured: Callable[[dict[tuple[str, str], Result]], float]
    limit: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def faster(what: str, ours: str, theirs: str) -> Callable:
    """How many times as fast ``ours`` is."""

    def ratio(results: dict[tuple[str, str], Result]) -> float:
        a, b = results[ours, what], results[theirs, what]
        return b.value / a.value if a.lower_is_better else a.value / b.value

    return ratio


def smaller(what: str, ours: str, theirs: str) -> Callable:
    """How many times less memory ``ours`` took at its peak."""
    return lambda results: results[theirs, what].peak_memory / results[ours, what].peak_memory


def gigabytes(what: str, side: str) -> Callable:
    """A side's peak memory."""
    return lambda results: results[side, what].peak_memory / 1e9


def value(what: str, side: str) -> Callable:
    """A side's figure."""
    return lambda results: results[side, what].value


def experiments(given: argparse.Namespace) -> dict[str, list[Side]]:
    """What each name on the command line runs."""
    model = ("--model", given.model)
    dpo = ("--data", str(given.data), "-n", "4" if given.quick else str(given.pairs))
    if given.quick:
        dpo += ("--batch", "2", "--max-length", "160")
    sft = ("--rows", "1", "--width", "32", "--steps", "1") if given.quick else ()
    write = ("--tokens", "8" if given.quick else "64")
    best = ("-n", "4", "--tokens", "8") if given.quick else ()
    gguf = ("--gguf", given.gguf) if given.gguf else ()
    without = {
        "no kernels": "--no-kernels",
        "no shared prompts": "--no-share-prompts",
        "full logits": "--full-logits",
        "no cached reference": "--no-cache",
    }

    def side(label: str, script: str, name: str, *flags: str, peer: bool = False) -> Side:
        return Side(label, script, ("--side", name, *model, *flags), peer)

    return {
        "losses": [Side("both", "losses_trl.py", ("-n", "20" if given.quick else "200"), True)],
        "sft": [
            side("minialign", "sft_step.py", "minialign", *sft),
            side("PyTorch + PEFT", "sft_step.py", "pytorch", *sft, peer=True),
            side("checkpointing", "sft_step.py", "minialign", *sft, "--checkpoint"),
        ],
        "dpo": [
            side("minialign", "dpo.py", "minialign", *dpo),
            side("TRL + PEFT", "dpo.py", "trl", *dpo, peer=True),
            *(side(label, "dpo.py", "minialign", *dpo, flag) for label, flag in without.items()),
        ],
        "decode": [
            side("minialign", "decode.py", "minialign", *write),
            side("llama.cpp", "decode.py", "llama", *write, *gguf, peer=True),
            side("PyTorch", "decode.py", "pytorch", *write, peer=True),
        ],
        "best": [
            side("batch", "best_of_n.py", "batch", *best),
            side("single", "best_of_n.py", "single", *best),
        ],
    }


def goals(name: str) -> list[Goal]:
    """What an experiment is to show."""
    return {
        "losses": [
            Goal(f"{loss}: largest difference to TRL", value(f"losses: {loss}", "both"), 1e-5, True)
            for loss in ("dpo", "ipo", "hinge", "robust", "bradley-terry",
                         "bradley-terry, margin", "bradley-terry, centring")
        ],
        "sft": [
            Goal("SFT step: speed / PyTorch's",
                 faster("sft step", "minialign", "PyTorch + PEFT"), 1.5),
            Goal("SFT step: peak memory, GB", gigabytes("sft step", "minialign"), 1.4, True),
            Goal("with checkpointing, GB", gigabytes("sft step", "checkpointing"), 0.4, True),
        ],
        "dpo": [
            Goal("DPO: speed / TRL's", faster("dpo", "minialign", "TRL + PEFT"), 3.0),
            Goal("DPO: TRL's peak memory / ours", smaller("dpo", "minialign", "TRL + PEFT"), 8.0),
            Goal("gain of the kernels", faster("dpo", "minialign", "no kernels"), 1.0),
            Goal("gain of shared prompts", faster("dpo", "minialign", "no shared prompts"), 1.0),
            Goal("gain of selected log-probs", faster("dpo", "minialign", "full logits"), 1.0),
            Goal("gain of the cached reference",
                 faster("dpo", "minialign", "no cached reference"), 1.0),
        ],
        "decode": [
            Goal("1 answer: speed / llama.cpp's",
                 faster("decode 1", "minialign", "llama.cpp"), 1.0),
            Goal("16 answers: speed / PyTorch's", faster("decode 16", "minialign", "PyTorch"), 2.5),
            Goal("peak memory of the process, GB", gigabytes("decode 16", "minialign"), 0.35, True),
        ],
        "best": [
            Goal("best of n: speed / n single ones", _speedup_of_a_batch, 5.0),
        ],
    }[name]  # fmt: skip


def _speedup_of_a_batch(results: dict[tuple[str, str], Result]) -> float:
    (what,) = {what for side, what in results if side == "batch"}
    return faster(what, "batch", "single")(results)


def measure(side: Side, given: argparse.Namespace) -> list[dict]:
    """The JSON lines of one process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, "PYTHONPATH": path, "MINIALIGN_BENCH_PYTHON": sys.executable,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip
    result = subprocess.run(
        [given.peers if side.peer else sys.executable, str(HERE / side.script), *side.flags],
        capture_output=True, text=True, env=environment, timeout=60 * MINUTES, check=False,
    )  # fmt: skip
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"what"')]
    if result.returncode and not rows:
        tail = "\n".join(result.stderr.splitlines()[-15:])
        raise RuntimeError(
            f"{side.script} {' '.join(side.flags)}: exit {result.returncode}\n{tail}"
        )
    return rows


def rounds(sides: list[Side], given: argparse.Namespace) -> dict[tuple[str, str], Result]:
    """All sides in turn, several times; the best of each, with the largest peak memory."""
    best: dict[tuple[str, str], Result] = {}
    broken: set[str] = set()
    for number in range(1, given.rounds + 1):
        for side in sides:
            if side.label in broken:
                continue
            start = time.monotonic()
            try:
                rows = measure(side, given)
            except (RuntimeError, subprocess.TimeoutExpired) as reason:
                print(f"  {side.label}: {reason}", file=sys.stderr, flush=True)
                broken.add(side.label)
                continue
            shown = ", ".join(f"{row['what']} {row['value']:.4g} {row['unit']}" for row in rows)
            took = time.monotonic() - start
            print(f"  {number}/{given.rounds} {side.label}: {shown} ({took:.0f} s)",
                  file=sys.stderr, flush=True)  # fmt: skip
            for row in rows:
                _keep(best, side.label, row)
    return best


def _keep(best: dict[tuple[str, str], Result], label: str, row: dict) -> None:
    known = ("what", "value", "unit", "peak_memory")
    details = {key: value for key, value in row.items() if key not in known}
    new = Result(label, *(row[key] for key in known), details)
    old = best.get((label, new.what))
    if old is not None:
        better = new if (new.value < old.value) == new.lower_is_better else old
        peak = max(old.peak_memory, new.peak_memory)
        new = Result(label, new.what, better.value, new.unit, peak, better.details)
    best[label, new.what] = new


def print_table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Aligned columns on stdout."""
    table = [list(headers), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def show(name: str, results: dict[tuple[str, str], Result]) -> list[dict]:
    """Print an experiment's figures and ratios; returns the ratios as JSON objects."""
    print(f"\n== {name}")
    print_table(
        ("side", "measure", "best", "", "peak memory"),
        (
            (r.label, r.what, f"{r.value:.4g}", r.unit, f"{r.peak_memory / 1e9:.2f} GB")
            for r in results.values()
        ),
    )
    found = []
    for goal in goals(name):
        try:
            number = goal.measured(results)
        except (KeyError, ValueError):
            continue  # a side is missing
        found.append(
            {
                "goal": goal.text,
                "value": number,
                "limit": goal.limit,
                "at_most": goal.at_most,
                "met": goal.met(number),
            }
        )
    print()
    print_table(
        ("", "", "wanted", ""),
        (
            (row["goal"], f"{row['value']:.3g}",
             f"{'<=' if row['at_most'] else '>='} {row['limit']:g}", "" if row["met"] else "MISSED")
            for row in found
        ),
    )  # fmt: skip
    return found


def main() -> int:
    """Run what was asked for; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("losses", "sft", "dpo", "decode", "best")
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(names))
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument(
        "--data", default=str(PAIRS) if PAIRS.exists() else None, metavar="FILE",
        help="dpo: pairs in any format that minialign reads (HH-RLHF, where the tests find it)",
    )  # fmt: skip
    parser.add_argument("--pairs", type=int, default=12, help="dpo: the first n (12)")
    parser.add_argument("--model", default="smollm2-135m-4bit")
    parser.add_argument("--gguf", help="decode: llama.cpp's file (default: the model's own)")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="their Python")
    parser.add_argument("--rounds", type=int, default=3, help="the best of n (3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: do the scripts work?")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    given = parser.parse_args()
    chosen = list(names) if given.all else given.names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    if not chosen:
        parser.error(f"name an experiment ({', '.join(names)}), or give --all")
    if "dpo" in chosen and not given.data:
        parser.error("dpo needs --data FILE")
    everything, missed, start = {}, 0, time.monotonic()
    for name in chosen:
        print(f"{name}:", file=sys.stderr, flush=True)
        results = rounds(experiments(given)[name], given)
        found = show(name, results)
        missed += sum(not row["met"] for row in found)
        measured = [vars(result) for result in results.values()]
        everything[name] = {"results": measured, "goals": found}
        if given.json:
            Path(given.json).write_text(json.dumps(everything, indent=1), encoding="utf-8")
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes", file=sys.stderr)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
