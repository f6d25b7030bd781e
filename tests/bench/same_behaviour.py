"""Does another version of minialign do the same? For changes that must not be seen from outside.

    python tests/bench/same_behaviour.py record CHECKOUT OUT [--models FOLDER]
    python tests/bench/same_behaviour.py compare OUT_A/record.json OUT_B/record.json

``record`` runs the commands below with CHECKOUT/.venv/bin/python and keeps of each its exit code,
what it printed and every file that it wrote, in OUT/record.json. OUT/home and OUT/work stay, so
that another version can be shown to open these runs. Models are copied from FOLDER, or fetched.
What differs from one time to the next (times, speeds, memory in use, process ids, the paths of
CHECKOUT and OUT) is replaced by a word in angle brackets; weights and metrics are kept to the last
bit, so both recordings must be made on one machine. ``compare`` prints what differs, and exits
with 1 then. A recording takes some minutes.
"""

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MODEL = "smollm2-135m-4bit"
TINY = "--batch-size 2 --max-seq-length 128 --num-layers 4 --seed 1"
TRAIN = f"--data pairs.jsonl --eval-split 0.25 --iters 3 {TINY}"
SAMPLING = f"--data prompts.txt --n 2 --response-length 12 --heldout-n 1 {TINY}"
ROUNDS = f"--iters 2 --prompts-per-round 3 {SAMPLING}"
PPO = f"ppo --iters 3 --rollout-prompts 2 {SAMPLING}"
DRAWN = "--temp 0.8 --seed 3 --max-tokens"

HELP = """
help; models list pull import info rm; data check show stats convert split formats; sft; reward
dpo; slic; rrhf; kto; orpo; simpo; conditional; expert; rso; online-dpo; ppo; train
train+examples/own_method.py; runs list show plot resume rm; generate; chat; label; tui; judge
score; best-of-n; sample; synth self-instruct respond prefer critique texts; compare; evaluate
audit; demo; doctor; bench
"""

# In order: what is trained first is used later. After "<" is a file for stdin; lines that begin
# with "!" are the shell's.
FIRST = f"""
--version
no-command
runs list
runs plot
models list
models list --json
models pull {MODEL}
models info {MODEL}
models info {MODEL} --json
models info smollm
models rm no-model
models import no-model.gguf
data formats
data formats --json
data check formats/bad.jsonl
data check formats/bad.jsonl --all
data check formats/bad.jsonl --all --json
data check formats/bad.jsonl --skip-bad
data convert pairs.jsonl --to ratings -o ratings.jsonl
data convert pairs.jsonl --to rankings -o rankings.jsonl
data convert pairs.jsonl --to prompts -o prompts.jsonl
data convert pairs.jsonl --to pairs -o converted.jsonl
data convert pairs.jsonl --to pairs -o converted.jsonl
data convert pairs.jsonl pairs.jsonl --to pairs --drop-duplicates
data stats pairs.jsonl
data stats pairs.jsonl --model {MODEL} --json
data split pairs.jsonl --test 0.25 --valid 2 --seed 3 -o split
data split pairs.jsonl --test 0.25 -o split
data check split --json
data check pairs.jsonl split/test.jsonl
data check no-file.jsonl
data show demonstrations.jsonl --json
data show pairs.jsonl -n 1 --map chosen=rejected
data show pairs.jsonl -n 2 --start 3 --max-seq-length 64
"""

METHODS = f"""
sft {TRAIN} --data demonstrations.jsonl --train-on last --name sft-1
reward {TRAIN} --centering 0.01 --name reward-1
dpo {TRAIN} --name dpo-1 --json
dpo {TRAIN} --loss ipo --eval-data heldout.jsonl --fine-tune-type dora --num-layers 1 \
--name dpo-dora
dpo {TRAIN} --loss robust --adapter sft-1 --dropout 0.1 --label-smoothing 0.1 --out dpo-out
dpo {TRAIN} --loss hinge --reference-adapter sft-1 --max-tokens 700 --name dpo-tokens
dpo {TRAIN} --nll-weight 0.5 --grad-checkpoint --no-share-prompts --rslora --name dpo-plain
slic {TRAIN} --name slic-1
rrhf {TRAIN} --data rankings.jsonl --grad-accumulation-steps 2 --iters 2 --name rrhf-1
kto {TRAIN} --data ratings.jsonl --name kto-1
orpo {TRAIN} --patience 1 --steps-per-eval 1 --name orpo-1
simpo {TRAIN} --select best --steps-per-eval 1 --name simpo-1
conditional {TRAIN} --name conditional-1
expert {ROUNDS} --rounds 2 --scorer length --eval-split 0.3 --name expert-1
rso {ROUNDS} --accept 2 --scorer reward:reward-1 --eval-split 0.3 --name rso-1
online-dpo {ROUNDS} --rounds 1 --scorer judge:self --eval-split 0.3 --name online-1 --json
{PPO} --scorer reward:reward-1 --eval-split 0.3 --name ppo-1
{PPO} --scorer length --advantage group --eval-split 0 --name ppo-group --json
train examples/own_method.py {TRAIN} --strength 0.4 --name own-1

dpo {TRAIN} --iters 4 --save-every 2 --name killed
! cd ../home/runs/killed && rm -r checkpoints/000004 outcome.json summary.json adapters.safetensors
runs show killed
runs resume killed
runs resume killed
! touch stop
{PPO} --scorer python:scorer.py:score --eval-split 0 --name stopped-ppo
runs resume stopped-ppo --json
! touch stop
expert {ROUNDS} --rounds 1 --scorer python:scorer.py:score --eval-split 0 --name stopped-expert
runs resume stopped-expert

runs list
runs list --json
runs show dpo-1
runs show dpo-1 --json
runs show reward-1
runs show dpo-out
runs show dpo-2
runs plot dpo-1
runs plot dpo-1 dpo-dora --keys loss --height 5 --smooth 0.5
runs plot dpo-1 --json --kind eval
runs plot dpo-1 --out plot.png
runs plot dpo-1 --keys no-key
runs rm simpo-1 -y
runs rm simpo-1
"""

USES = f"""
generate 'What is a lake?' {DRAWN} 16
generate --file prompts.txt --adapter dpo-1 -n 2 --json {DRAWN} 12
generate --file prompts.txt --adapter conditional-1 -o answers.jsonl --temp 0 --max-tokens 12
generate --file prompts.txt -o base.jsonl --top-p 0.9 --top-k 40 {DRAWN} 12
generate --file prompts.txt -o base.jsonl --top-p 0.9 --top-k 40 {DRAWN} 12 --resume
generate - --raw --stop . --repetition-penalty 1.1 {DRAWN} 12 < begun.txt
chat --adapter sft-1 {DRAWN} 12 < chat.txt
chat --best-of 2 --scorer length {DRAWN} 12 < begun.txt
sample prompts.txt --n 2 --scorer length -o sampled.jsonl {DRAWN} 12
sample prompts.txt --n 2 --limit 3 --to pairs {DRAWN} 12
best-of-n prompts.txt --n 2 --scorer reward:reward-1 --gold length -o best.jsonl {DRAWN} 12
best-of-n prompts.txt --n 3 --limit 2 --scorer regex:the --json -o regex.jsonl {DRAWN} 12
best-of-n prompts.txt --n 2 --limit 2 --scorer dpo:dpo-1 {DRAWN} 12
score heldout.jsonl
score heldout.jsonl --adapter dpo-1
score pairs.jsonl --reward reward-1
score --prompt Hi --response Hello! --response 'Go away.' --system 'Be kind.'

judge --list-templates
judge --show-template pairwise
judge heldout.jsonl --limit 3 --out verdicts.jsonl
judge heldout.jsonl --limit 3 --out verdicts.jsonl --json
judge heldout.jsonl --judge reward:reward-1 --json --to-pairs judged.jsonl
judge heldout.jsonl --limit 2 --judge sft-1 --template rules --debias --json
judge answers.jsonl base.jsonl --limit 2 --explain
evaluate dpo-1 {MODEL} --prompts prompts.txt --limit 3 --max-tokens 12 --out evaluated
evaluate dpo-1 {MODEL} --prompts prompts.txt --limit 3 --max-tokens 12 --out evaluated --json
evaluate answers.jsonl base.jsonl sft-1 --scorer length --max-tokens 12 --json
audit length --gold examples/concise/heldout.jsonl --limit 20
audit length --gold heldout.jsonl --json
audit reward:reward-1 --gold heldout.jsonl --json
audit {MODEL} --gold heldout.jsonl --limit 3 -o audit.jsonl
audit verdicts.jsonl --gold heldout.jsonl --limit 3

label pairs.jsonl < keys.txt
label pairs.jsonl --least-sure reward:reward-1 < key.txt
label prompts.txt {DRAWN} 8 < key.txt
label --stats
audit length --json
dpo --eval-split 0.25 --iters 3 {TINY} --name from-labels
synth self-instruct prompts.txt --count 1 -o instructions.jsonl --no-answers {DRAWN} 60
synth respond prompts.txt --limit 2 -o responses.jsonl --keep-cut --json {DRAWN} 12
synth respond prompts.txt --limit 3 -o responses.jsonl --keep-cut {DRAWN} 12 --resume
synth prefer prompts.txt --limit 2 -o preferred.jsonl --keep-cut --debias --json {DRAWN} 12
synth critique prompts.txt --limit 1 -o revised.jsonl --keep-cut --json {DRAWN} 12
synth texts
synth texts constitution
synth texts no-text
compare examples/compare/compare.toml --dry-run
compare comparison.toml --dry-run --json
compare comparison.toml
compare comparison.toml --json
"""

MISTAKES = """
dpo --print-config
dpo -c settings.yaml --rank 2 --print-config
ppo --print-config
compare wrong.toml
dpo -c wrong.toml --data pairs.jsonl
dpo --iterz 3
dpo --loss no-loss
dpo --rank no-number
dpo --data no-file.jsonl
dpo --data formats/bad.jsonl
dpo --data pairs.jsonl --name dpo-1
dpo --data pairs.jsonl --name a/b
dpo --data pairs.jsonl --keys self_attn.no
dpo --data pairs.jsonl --memory-limit 0.01
dpo --data pairs.jsonl --model no-model
dpo --data pairs.jsonl --adapter no-run
dpo --data pairs.jsonl --beta 0
sft --data pairs.jsonl --rank 0
kto --data prompts.txt
ppo --data prompts.txt
expert --data prompts.txt --scorer no-scorer
train
train no-file.py
train scorer.py --data pairs.jsonl
generate Hi --adapter no-run
generate Hi --temp -1
best-of-n prompts.txt --scorer reward:no-run
sample no-file.txt --scorer length
judge
judge heldout.jsonl --template no-template
evaluate dpo-1 --prompts prompts.txt
audit no-judge
score
synth
data
runs no-verb
runs resume sft-1
label no-file.jsonl
compare
runs list
"""

FILES = {
    "begun.txt": "A lake is\n",
    "chat.txt": "What is a lake?\n/regen\n/undo\n/system Be brief.\nWhat is a sea?\n"
    "/save chat.jsonl\n/help\n/no\n",
    "keys.txt": "a\nb\nt\ns\nx\nu\n?\nn\na note\na\nk\nb\na\na\nq\n",
    "key.txt": "a\nq\n",
    "settings.yaml": "iters: 7\nlora_parameters:\n  rank: 4\n  scale: 3.0\n",
    "wrong.toml": "iters = 3\nbetta = 0.2\n[loss]\nname = 1\n",
    # Rewards answers by their length; the file "stop" is a Ctrl-C on the way.
    "scorer.py": """import os, signal
def score(prompt, responses):
    if os.path.exists("stop"):
        os.remove("stop")
        os.kill(os.getpid(), signal.SIGINT)
    return [float(len(response)) for response in responses]
""",
    # Which answer is A is drawn by a generator without a seed.
    "seeded/sitecustomize.py": """import random
class Seeded(random.Random):
    def __init__(self, seed=None):
        super().__init__(0 if seed is None else seed)
random.Random = Seeded
""",
    "comparison.toml": f"""model = "{MODEL}"
methods = ["sft", "best-of-n", "dpo"]
data = {{pairs = "pairs.jsonl", prompts = "pairs.jsonl", heldout = "heldout.jsonl"}}
scorers = {{proxy = "reward", gold = "python:examples/compare/gold.py:plain_sentence"}}
budget = {{tokens = 800}}
sampling = {{max_tokens = 16, best_of = 2}}
training = {{num_layers = 4, max_seq_length = 128, batch_size = 2}}
start = {{iters = 1}}
reward = {{iters = 1}}
""",
}
ROWS = {  # of the examples: how many the commands read
    "pairs.jsonl": ("concise/train.jsonl", 12),
    "heldout.jsonl": ("concise/heldout.jsonl", 6),
    "demonstrations.jsonl": ("demonstrations.jsonl", 10),
    "prompts.txt": ("prompts.txt", 6),
}

LASTS = r"(?:\d+ h )?(?:\d+ min )?\b\d+(?:\.\d+)? s\b|\d+ h \d+ min"
SIZE = r"\d[\d.]* (?:B|kB|MB|GB)"
KEYS = (
    "time|began|updated|age|pid|eta|memory_estimate|peak_memory|peak_resident|tokens_per_second|"
    r"(?:\w+_)?seconds(?:_per_prompt)?"
)
NOISE = [
    (rf'"({KEYS})": (?:"[^"]*"|[-+.\deE]+)', r'"\1": <\1>'),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<date>"),
    (LASTS, "<time>"),
    (r"\d[\d.]* tokens/s", "<speed>"),
    (rf"((?:peak|<speed>,|memory: about|run needs about) ){SIZE}", r"\1<memory>"),
    (r"(the program )[\d.]+", r"\1<memory>"),
    (rf"{SIZE}( by MLX's count| free)", r"<memory>\1"),
    (r"\d+( *\|? *)\d+\.\d\d GB", r"<seconds>\1<memory>"),  # in a comparison's tables
    # of settings and adapters, which hold paths
    (r"(/parts/[\w-]+-|/cache/\w+/\.?)[0-9a-f]{8,32}\b", r"\1<hash>"),
    (r"(\d+,\s+)\d{19}\b", r"\1<changed>"),  # when the model's files were
]
PROGRESS = [  # on stderr and in logs: after some seconds, then every ten
    (r"(?m)^(?!step 1/).*\d+(?:/| of )\d+.* (?:left|in all)\)?\n", ""),
    (r"(?m)^(?!reference .* (\d+)/\1\b)(?:[\w -]+ )?\d+/\d+(?: answers| tokens)?\n", ""),
    (r"(?m)^(?!reference .* (\d+)/\1\b)reference .* \d+/\d+ \(.*\n", ""),
    (r"(?m)^[\w -]+ \d+/\d+, \d+ rows.*\n", ""),
    (r"(?m)^.*: (?:answers to )?\d+(?:/| of )\d+ prompts\n", ""),
    (r"(?m)^two answers are being written …\n", ""),
]
TABLES = [  # of runs: files that hold times, and columns as wide as their noise or a path
    (rf"(?m)^(.*(?:\.jsonl?|run\.lock|rounds/|[✓■✗!]).*?){SIZE}", r"\1<size>"),
    (r'"bytes": \d+', '"bytes": <size>'),
    (r"(?m)^( *(?:tokens_per_second|\w*seconds|peak_memory)) .*", r"\1 <value>"),
    (r" {2,}", " "),
]


def commands(work: Path) -> Iterator[str]:
    """All lines, in order."""
    for group in HELP.strip().replace("\n", ";").split(";"):
        name, *verbs = group.split()
        name = name.replace("+", " ")
        yield f"{name} --help"
        yield from (f"{name} {verb} --help" for verb in verbs)
    yield from FIRST.splitlines()
    names = sorted(f"formats/{path.name}" for path in (work / "formats").glob("*.*"))
    yield f"data check {' '.join(names)}"
    for name in names:
        yield from (f"data check {name} --json", f"data show {name} -n 1")
        yield f"data convert {name} --to messages"
    for part in (METHODS, USES, MISTAKES):
        yield from part.splitlines()


def prepare(checkout: Path, work: Path) -> None:
    """Write the files that the commands read."""
    examples = checkout / "examples"
    shutil.copytree(examples, work / "examples", ignore=shutil.ignore_patterns("pictures"))
    shutil.copytree(checkout / "tests" / "fixtures" / "formats", work / "formats")
    for name, (source, rows) in ROWS.items():
        lines = (examples / source).read_text(encoding="utf-8").splitlines(keepends=True)
        (work / name).write_text("".join(lines[:rows]), encoding="utf-8")
    for name, text in FILES.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(text, encoding="utf-8")


def normalised(text: str, places: dict[str, str], *more: tuple[str, str]) -> str:
    """The text without what differs from one time to the next."""
    for path, word in places.items():
        text = text.replace(path, word)
    for pattern, word in (*more, *NOISE):
        text = re.sub(pattern, word, text)
    return text


def content(path: Path, places: dict[str, str]) -> str:
    """A file's text, or a hash where it has none."""
    if not path.exists():
        return "<deleted>"
    if path.name == "run.lock":
        return "<pid>"
    if path.suffix == ".svg":
        return "<not compared: it has a date and random names>"
    data = path.read_bytes()
    try:
        more = (*PROGRESS, *TABLES) if path.name == "log.txt" else ()
        return normalised(data.decode(), places, *more)
    except UnicodeDecodeError:
        return "sha256 " + hashlib.sha256(data).hexdigest()


def stamps(*folders: Path) -> dict[Path, tuple[int, int]]:
    """When each file was written last, and its size."""
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in found
        if "models" not in path.parts and "__pycache__" not in path.parts
    }


def record(checkout: Path, out: Path, models: Path | None) -> None:
    """Run everything and write OUT/record.json."""
    checkout, out = checkout.resolve(), out.resolve()
    work, home = out / "work", out / "home"
    work.mkdir(parents=True)
    prepare(checkout, work)
    outside = {name: value for name, value in os.environ.items() if "MINIALIGN" not in name}
    environment = outside | {
        "MINIALIGN_HOME": str(home), "MINIALIGN_THREADS": "2", "COLUMNS": "100", "TERM": "dumb",
        "LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    program = [str(checkout / ".venv" / "bin" / "python"), "-m", "minialign"]
    if models:
        shutil.copytree(models, home / "models")
    subprocess.run([*program, "models", "pull", MODEL], env=environment, cwd=work, check=True)
    places = {str(out): "<out>", str(checkout): "<checkout>"}
    entries: dict[str, dict[str, str]] = {}
    before, start = stamps(work, home), time.monotonic()
    for line in filter(None, commands(work)):
        if line.startswith("!"):
            subprocess.run(line[1:], shell=True, cwd=work, check=True)
            before = stamps(work, home)
            continue
        words, _, source = line.partition(" < ")
        seeded = {"PYTHONPATH": str(work / "seeded")} if line.startswith("label ") else {}
        began = time.monotonic()
        done = subprocess.run(
            [*program, *shlex.split(words)], env=environment | seeded, cwd=work,
            capture_output=True, input=(work / source).read_bytes() if source else b"",
        )  # fmt: skip
        after = stamps(work, home)
        tables = TABLES if line.startswith("runs ") else []
        entry = {
            "exit code": str(done.returncode),
            "stdout": normalised(done.stdout.decode(), places, *tables),
            "stderr": normalised(done.stderr.decode(), places, *PROGRESS, *tables),
        }
        changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
        for name, text in sorted((normalised(str(p), places), content(p, places)) for p in changed):
            entry[name] = entry.get(name, "") + text  # of names that are a hash there may be more
        again = sum(1 for name in entries if name.split(" #")[0] == line)
        entries[f"{line} #{again + 1}" if again else line] = entry
        before = after
        print(f"{time.monotonic() - began:5.1f} s  exit {done.returncode}  {line}", flush=True)
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    (out / "record.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(entries)} commands in {time.monotonic() - start:.0f} s: {out / 'record.json'}")


def compare(one: Path, other: Path) -> int:
    """Print what differs; returns the number of commands that do."""
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in (one, other))
    names = list(dict.fromkeys([*first, *second]))
    differing = [name for name in names if first.get(name) != second.get(name)]
    for name in differing:
        print(f"\n=== minialign {name}")
        old, new = first.get(name, {}), second.get(name, {})
        for part in dict.fromkeys([*old, *new]):
            texts = [entry.get(part, "<absent>").splitlines() for entry in (old, new)]
            for line in difflib.unified_diff(*texts, part, part, n=2, lineterm=""):
                print(line)
    print(f"\n{len(differing)} of {len(names)} commands differ")
    return len(differing)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("record")
    verb.add_argument("checkout", type=Path)
    verb.add_argument("out", type=Path)
    verb.add_argument("--models", type=Path, help="a home's folder of models, to copy")
    verb = verbs.add_parser("compare")
    verb.add_argument("before", type=Path)
    verb.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "compare":
        return int(compare(arguments.before, arguments.after) > 0)
    record(arguments.checkout, arguments.out, arguments.models)
    return 0


if __name__ == "__main__":
    sys.exit(main())
