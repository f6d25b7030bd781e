"""``minialign sft | reward | dpo`` from the command line: good input, bad input, Ctrl-C."""

import io
import json
import re
import signal
import sys

import pytest
from support.places import written
from support.processes import command, ended, held, wait_until
from support.tiny import make_tiny_model

from minialign.cli import main
from minialign.models.adapter import CONFIG, WEIGHTS
from minialign.run_folder import Run

WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps"]


def pair(i):
    prompt = " ".join(WORDS[(i * j) % 7] for j in range(1, 6)) + f" {i}"
    return {"prompt": prompt, "chosen": f"yes {WORDS[i % 7]}", "rejected": f"no {WORDS[i % 5]} no"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data") / "pairs.jsonl", [pair(i) for i in range(20)])


@pytest.fixture
def flags(tiny_model, pairs):
    """A short run's flags."""
    return [
        "--model", str(tiny_model), "--data", str(pairs), "--iters", "3", "--learning-rate", "0.01",
        "--max-seq-length", "128",
    ]  # fmt: skip


def names(folder):
    return {path.name for path in folder.iterdir()}


# what every finished run holds
FILES = {
    "config.json", "env.json", "metrics.jsonl", "summary.json", "outcome.json", "run.lock",
    "data.sha256", "checkpoints", "best", WEIGHTS, CONFIG,
}  # fmt: skip


@pytest.mark.parametrize("method", ["sft", "reward", "dpo"])
def test_a_run_from_end_to_end(home, flags, method, capsys):
    assert main([method, *flags]) == 0
    out, err = capsys.readouterr()
    assert out == ""  # without --json all is narration
    folder = home / "runs" / f"{method}-1"
    assert names(folder) - FILES == ({"reward_head.safetensors"} if method == "reward" else set())
    assert not FILES - names(folder)
    for said in (
        f"run {method}-1 in {folder}",
        "18 examples to train on, 2 held out; 3 steps of 4 examples",
        "memory: about",
        "step 1/3, loss ",
        "step 3/3, loss ",
        "held out, step 3: loss ",
        "finished: 3 steps in ",
        "next:",
    ):
        assert said in err, said
    assert ("reference log-probs" in err) == (method == "dpo")
    assert ("accuracy" in err) == (method != "sft")
    wanted = f"minialign score FILE --reward {method}-1" if method == "reward" else "minialign chat"
    assert wanted in err
    run = Run(folder)
    assert run.state().status == "finished"
    assert run.state().total == 3
    assert [row["step"] for row in run.metrics("train")] == [1, 2, 3]
    assert run.config["method"] == method
    assert run.config["rank"] == 8
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tokens"] == sum(row["tokens"] for row in run.metrics("train"))


def test_events_as_json_are_all_of_stdout(home, flags, capsys):
    assert main(["dpo", *flags, "--json", "--name", "mine"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["kind"] for event in events]
    assert kinds[-1] == "end"
    assert [event["step"] for event in events if event["kind"] == "step"] == [1, 2, 3]
    assert {"note", "reference", "step", "eval", "saved", "end"} <= set(kinds)
    steps = [event["values"] for event in events if event["kind"] == "step"]
    assert {"loss", "rewards/accuracies", "tokens_per_second", "grad_norm"} <= set(steps[0])
    assert events[-1]["values"]["status"] == "finished"
    assert (home / "runs" / "mine" / WEIGHTS).exists()


def test_ctrl_c_saves_and_prints_the_command_that_goes_on(home, flags, monkeypatch, capsys):
    go, folder = home / "go", home / "runs" / "mine"
    process = held(home, 3, go, "dpo", *flags, "--iters", "12", "--name", "mine")
    wait_until(process, lambda: folder.exists() and len(Run(folder).metrics("train")) == 3)
    process.send_signal(signal.SIGINT)
    go.touch()
    code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert "stopping after this step" in err
    state = Run(folder).state()
    assert (state.status, state.total) == ("stopped", 12)
    assert state.step == 3
    assert Run(folder).checkpoints()[-1] == state.step
    assert (folder / WEIGHTS).exists()
    (told,) = re.findall(r"go on with: minialign (.*)", err)
    monkeypatch.chdir(home)  # another folder: the paths in the run are whole
    assert main(told.split()) == 0
    err = capsys.readouterr().err
    assert f"going on after step {state.step}" in err
    assert "step 12/12" in err
    assert Run(folder).state().status == "finished"
    assert [row["step"] for row in Run(folder).metrics("train")] == list(range(1, 13))


def test_relative_paths_are_whole_in_the_run(home, tiny_model, tmp_path, monkeypatch, capsys):
    written(tmp_path / "rows.jsonl", [pair(i) for i in range(6)])
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(tiny_model), "--data", "rows.jsonl", "--iters", "1"]
    assert main(["sft", *arguments, "--out", "here/mine"]) == 0
    assert f"minialign chat --adapter {tmp_path}/here/mine" in capsys.readouterr().err
    config = Run(tmp_path / "here" / "mine").config
    assert config["data"] == [str(tmp_path / "rows.jsonl")]
    assert config["out"] == str(tmp_path / "here" / "mine")


class Terminal(io.StringIO):
    """stderr of a terminal."""

    def isatty(self):
        return True


def test_on_a_terminal_the_live_line_is_gone_before_the_next_text(home, flags, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["sft", *flags, "--eval-split", "0"]) == 0
    written = sys.stderr.getvalue()
    assert "\r\x1b[Kstep 3/3" in written
    shown = [line.rsplit("\r\x1b[K", 1)[-1] for line in written.split("\n")]
    (last,) = [line for line in shown if "finished:" in line]
    assert last.startswith("finished: 3 steps")


def test_it_trains_on_what_was_labelled_here(home, tiny_model, capsys):
    home.mkdir()
    votes = []
    for i in range(12):
        row, choice = pair(i), "abab"[i % 4] if i < 10 else ["tie", "skip"][i % 2]
        a, b = row["chosen"], row["rejected"]
        prompt = [{"role": "user", "content": row["prompt"]}]
        votes.append({"id": str(i), "prompt": prompt, "a": a, "b": b, "choice": choice})
    votes.append({**votes[0], "choice": "b"})  # changed her mind
    written(home / "labels.jsonl", votes)
    arguments = ["--model", str(tiny_model), "--iters", "2", "--eval-split", "0"]
    assert main(["dpo", *arguments]) == 0
    assert "10 examples to train on; 2 steps" in capsys.readouterr().err
    assert main(["reward", *arguments]) == 0
    assert "10 examples to train on; 2 steps" in capsys.readouterr().err


def refused(capsys, home, *arguments):
    """What a command says that fails by a mistake of the user's; it leaves no run behind."""
    runs = home / "runs"
    before = set(runs.glob("*"))
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("minialign: ") == 1
    assert set(runs.glob("*")) == before
    return err


BAD_FLAGS = [
    (["dpo", "--beta", "0"], ["beta = 0.0", "0.1 is usual"]),
    (["dpo", "--beta", "nan"], ["beta = nan", "finite"]),
    (["dpo", "--loss", "robust"], ["robust DPO needs", "--label-smoothing 0.1"]),
    (["dpo", "--loss", "ipo", "--label-smoothing", "0.1"], ["no meaning for ipo"]),
    (["sft", "--rank", "0"], ["rank = 0", "at least 1"]),
    (["sft", "--model", "smollm2-135m-4bt"], ["smollm2-135m-4bt", "did you mean 'smollm2-135m-4b"]),
    (["sft", "--model", "./no/such/model"], ["no/such/model: no such folder", "models list"]),
    (["sft", "--adapter", "sft-9"], ["there is no run 'sft-9'"]),
    (["dpo", "--reference-adapter", "sft-9"], ["there is no run 'sft-9'"]),
    (["sft", "--keys", "self_attn.query"], ["no layer is named 'self_attn.query'", "q_proj"]),
    (["sft", "--num-layers", "5"], ["num_layers = 5, but the model has 2 layers"]),
    (["sft", "--memory-limit", "0.01"], ["needs about", "0.0 GB are there"]),
    (["sft", "--eval-split", "0", "--select", "best"], ["need held-out rows", "--eval-data"]),
    (
        ["sft", "--eval-split", "0", "--patience", "1", "--steps-per-eval", "1"],
        ["need held-out rows", "--eval-split 0.1"],
    ),
    (["sft", "--map", "chosen"], ["--map chosen: expected KEY=COLUMN"]),
    (["sft", "--map", "chosne=better"], ["no format has the key 'chosne'", "'chosen'"]),
    (["sft", "--name", "a/b"], ["'a/b' is no name for a run", "--out"]),
    (["sft", "--name", "a", "--out", "b"], ["--out and --name"]),
    (["sft", "-c", "none.toml"], ["none.toml"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_FLAGS, ids=lambda part: " ".join(part)[:60])
def test_a_mistake_in_the_flags(home, flags, capsys, arguments, words):
    method, *mine = arguments
    said = refused(capsys, home, method, *flags, *mine)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["{"], ["rows.jsonl", "too early"]),
        (['{"prompt": "a", "chosen": "b", "rejected": "c"}', "no json"], ["rows.jsonl:2"]),
        (['{"prompt": "a", "chosen": 5, "rejected": "c"}'], ["rows.jsonl:1", "the number 5"]),
        (['{"prompt": "a", "chosne": "b", "rejected": "c"}'], ["rows.jsonl:1", "chosne"]),
        (['{"prompt": "a", "completion": "b"}'], ["nothing to train on", "dpo needs a prompt"]),
        (['{"prompt": "a", "chosen": "b", "rejected": " b"}'], ["nothing to train on", "the same"]),
        ([json.dumps(pair(1) | {"chosen": "fox " * 300})], ["does not fit into 128 tokens",
                                                            "rows.jsonl:1"]),
        ([], ["rows.jsonl"]),
    ],
)  # fmt: skip
def test_a_mistake_in_the_data(home, flags, tmp_path, capsys, rows, words):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(row + "\n" for row in rows))
    said = refused(capsys, home, "dpo", *flags, "--data", file)
    for word in words:
        assert word in said


def test_data_that_are_not_there(home, flags, tmp_path, tiny_model, capsys):
    (tmp_path / "pairs.jsonl").touch()
    said = refused(capsys, home, "dpo", *flags, "--data", tmp_path / "pears.jsonl")
    assert f"{tmp_path}/pears.jsonl: there is no such file" in said
    assert "did you mean 'pairs.jsonl'?" in said
    said = refused(capsys, home, "dpo", "--model", tiny_model)
    assert "no --data, and no pairs labelled here yet" in said
    assert "--data pairs.jsonl" in said
    said = refused(capsys, home, "dpo", *flags, "--eval-data", tmp_path / "nothing.jsonl")
    assert "nothing.jsonl: there is no such file" in said


def test_bad_rows_can_be_skipped_and_are_kept(home, flags, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps(pair(i)) for i in range(8)]
    file.write_text("\n".join([*rows[:3], "no json", *rows[3:], '{"prompt": 1}']) + "\n")
    said = refused(capsys, home, "dpo", *flags, "--data", file)
    assert "2 bad rows, the first: " in said
    assert "rows.jsonl:4" in said
    assert "--skip-bad" in said
    assert main(["dpo", *flags, "--data", str(file), "--skip-bad"]) == 0
    kept = tmp_path / "rows.jsonl.bad.jsonl"
    assert f"2 bad rows left out, kept in {kept}" in capsys.readouterr().err
    assert [json.loads(line)["_source"] for line in kept.read_text().splitlines()] == [
        f"{file}:4",
        f"{file}:10",
    ]


def test_an_adapter_of_another_base_model(home, flags, tmp_path, capsys):
    other = make_tiny_model(tmp_path / "other", layers=3)
    assert main(["sft", *flags, "--model", str(other), "--name", "three"]) == 0
    capsys.readouterr()
    said = refused(capsys, home, "dpo", *flags, "--adapter", "three")
    assert "num_layers = 3, but the model has 2 layers" in said
    assert main(["sft", *flags, "--name", "two"]) == 0
    capsys.readouterr()
    said = refused(capsys, home, "dpo", *flags, "--model", other, "--adapter", "two")
    assert "is in no layer of this model" in said or "is not in the file" in said
    assert "another base model" in said


def test_an_adapters_own_shape_counts_and_that_is_said(home, flags, capsys):
    assert main(["sft", *flags, "--name", "small", "--rank", "2"]) == 0
    capsys.readouterr()
    more = ["--adapter", "small", "--rank", "16", "--scale", "2", "--num-layers", "1"]
    assert main(["dpo", *flags, *more, "--name", "next"]) == 0
    said = capsys.readouterr().err
    assert "rank, num_layers: as in small, where training starts" in said
    assert json.loads((home / "runs/next" / CONFIG).read_text())["lora_parameters"]["rank"] == 2
    assert main(["dpo", *flags, "--adapter", "small"]) == 0
    assert "as in small" not in capsys.readouterr().err


def test_a_folder_or_a_name_that_is_taken(home, flags, tmp_path, capsys):
    assert main(["sft", *flags, "--out", str(tmp_path / "mine")]) == 0
    capsys.readouterr()
    said = refused(capsys, home, "sft", *flags, "--out", tmp_path / "mine")
    assert f"{tmp_path}/mine already holds a run" in said
    assert f"minialign runs resume {tmp_path}/mine" in said
    (tmp_path / "file").touch()
    assert "cannot make the folder" in refused(
        capsys, home, "sft", *flags, "--out", tmp_path / "file"
    )
    said = refused(capsys, home, "sft", *flags, "--out", flags[1])
    assert "config.json that is no run's (a model?)" in said
    assert main(["sft", *flags, "--name", "mine"]) == 0
    capsys.readouterr()
    assert "there is a run 'mine' already" in refused(capsys, home, "sft", *flags, "--name", "mine")


def test_a_mistake_leaves_the_name_and_the_folder_free(home, flags, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    (out / "rounds").mkdir()  # a run of rounds has a folder of that name
    (out / "rounds" / "mine.txt").write_text("keep me")
    for where in (["--name", "mine"], ["--out", str(out)]):
        refused(capsys, home, "sft", *flags, *where, "--keys", "nothing")
        assert main(["sft", *flags, *where]) == 0
        capsys.readouterr()
    for kept in (out / "mine.txt", out / "rounds" / "mine.txt"):
        assert kept.read_text() == "keep me"


def test_an_adapter_on_the_output_layer_is_trained(home, flags, tmp_path, capsys):
    import mlx.core as mx

    model = make_tiny_model(tmp_path / "untied", tied=False)
    flags = ["sft", *flags, "--model", str(model), "--steps-per-report", "1"]
    assert main([*flags, "--name", "head", "--keys", "self_attn.q_proj", "lm_head"]) == 0
    head, last = Run(home / "runs" / "head"), Run(home / "runs" / "last")
    assert mx.abs(mx.load(str(head.path / WEIGHTS))["lm_head.lora_b"]).max() > 0
    assert main([*flags, "--name", "last", "--adapter", "head", "--warmup", "0"]) == 0
    assert last.metrics("eval")[0]["loss"] == pytest.approx(head.metrics("eval")[-1]["loss"])


def test_rows_that_share_a_prompt_with_the_evaluation_are_left_out(home, flags, tmp_path, capsys):
    held = written(tmp_path / "held.jsonl", [pair(i) for i in (3, 7)] + [pair(50)])
    assert main(["dpo", *flags, "--eval-data", str(held)]) == 0
    said = capsys.readouterr().err
    assert "2 training rows left out: they share a prompt with the evaluation rows" in said
    assert "18 examples to train on, 3 held out" in said


@pytest.mark.parametrize("every", ["1", "50"])
def test_a_run_that_diverges_stops_with_the_last_good_weights(home, flags, capsys, every):
    import mlx.core as mx

    wild = ["--learning-rate", "1e30", "--warmup", "0", "--save-every", every, "--name", "wild"]
    assert main(["dpo", *flags, "--iters", "20", *wild]) == 2
    said = capsys.readouterr().err
    found = re.search(
        r"the loss is not finite at step (\d+); the weights of step (\d+) are kept", said
    )
    assert found, said
    assert "smaller --learning-rate" in said
    folder = home / "runs" / "wild"
    run = Run(folder)
    assert run.state().status == "failed"
    assert "not finite" in run.state().message
    good = int(found[2])
    assert good < int(found[1])
    assert all(step <= good for step in run.checkpoints())
    kept = mx.load(str(folder / WEIGHTS))
    assert all(mx.isfinite(value).all().item() for value in kept.values())
    # and they are usable: the loss is finite behind them
    again = ["--iters", "1", "--adapter", "wild", "--eval-split", "0"]
    assert main(["dpo", *flags, *again]) == 0


def test_a_mistake_in_a_process_of_its_own(home, flags):
    code, out, err = ended(command(home, "dpo", *flags, "--beta", "0"))
    assert (code, out) == (2, "")
    assert err == "minialign: beta = 0.0\n  it must be above 0; 0.1 is usual\n"
