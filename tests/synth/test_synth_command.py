"""``minialign synth`` on the tiny model, and a server of chat completions on the loopback."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from support.places import ROOT
from support.processes import command, ended, wait_until

from minialign import formats
from minialign.cli import main
from minialign.engine import Engine, Sampling
from minialign.engine.next_token import sample_seed
from minialign.models.load import load
from minialign.records import Demonstration, Pair
from minialign.synth.text_model import TextRequest, local_model

SHORT = ["--max-tokens", "8", "--temp", "1", "--keep-cut"]


@pytest.fixture
def model(tiny_model, home) -> list[str]:
    return ["--model", str(tiny_model), *SHORT]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"fox {n} or dog {n}?\n" for n in range(5)))
    return str(path)


def rows(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def refused(capsys, *arguments):
    assert main(["synth", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def test_respond_writes_what_the_engine_says(model, tiny_model, prompts, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    command = ["synth", "respond", prompts, *model, "-n", "2", "--seed", "3", "-o", str(output)]
    assert main([*command, "--system", "be kind", "--json", "--batch-size", "3"]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert summary["rows"] + sum(summary["left_out"].values()) == 10
    assert summary["texts_written"] == 10
    assert "minialign sft --data" in err
    found = rows(output)
    assert len(found) == summary["rows"] > 0
    assert len(rows(tmp_path / "out.dropped.jsonl")) == 10 - len(found)
    engine = Engine(load(str(tiny_model)))
    for row in found:
        assert row["prompt"][0] == {"role": "system", "content": "be kind"}
        assert row["origin"]["model"] == str(tiny_model)
    for row in found:
        number = int(row["prompt"][1]["content"].split()[1])
        ids = engine.tokenizer.render(row["prompt"], True)
        seeds = [sample_seed(3, number, sample) for sample in range(2)]
        streams = [engine.stream(ids, Sampling(1.0, max_tokens=8), seed) for seed in seeds]
        assert row["response"] in ["".join(p.text for p in one).strip() for one in streams]
    read = formats.read(output)
    assert read.problems == []
    assert all(isinstance(one, Demonstration) for one in read.records)
    assert main(["data", "check", str(output)]) == 0
    capsys.readouterr()
    assert main([*command, "--system", "be kind", "--json", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["texts_written"] == 0
    assert rows(output) == found
    _, err = refused(capsys, *command[1:], "--system", "be rude", "--resume")
    assert "begun with system = 'be kind', now 'be rude'" in err


def test_a_list_is_gone_on_with_behind_its_opening(tiny_model):
    engine = Engine(load(str(tiny_model)))
    prompt = [{"role": "user", "content": "tasks?"}]
    long = [{"role": "user", "content": "fox " * 3000}]
    asks = [TextRequest(prompt, 5, "1. fox\n2."), TextRequest(prompt, 5), TextRequest(long, 0)]
    writer = local_model(engine, Sampling(1.0, max_tokens=6))
    found = dict(writer.write(asks, 4))
    ids = engine.tokenizer.render(prompt, True) + engine.tokenizer.encode("1. fox\n2.")
    pieces = engine.stream(ids, Sampling(1.0, max_tokens=6), 5)
    assert found[0].text == "".join(piece.text for piece in pieces)
    assert found[0].text != found[1].text
    assert (found[2].text, found[2].finish_reason) == ("", "too long")


def test_killed_in_the_middle_nothing_is_lost(tiny_model, prompts, tmp_path, home):
    """SIGKILL while texts are written; then --resume gives what one run gives, to the byte."""
    lines = tmp_path / "many.txt"
    lines.write_text("".join(f"fox {n}, dog?\n" for n in range(150)))
    words = ["synth", "respond", str(lines), "--temp", "1", "--model", str(tiny_model),
             "--max-tokens", "40", "--keep-cut", "-o"]  # fmt: skip
    killed, journal = tmp_path / "killed.jsonl", tmp_path / "killed.journal.jsonl"
    with command(home, *words, killed) as process:
        wait_until(process, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 20)
        process.kill()
    kept = journal.read_bytes().count(b"\n") - 1
    assert 20 <= kept < 150
    code, out, err = ended(command(home, *words, killed, "--resume", "--json"))
    assert code == 0, err
    assert json.loads(out)["texts_written"] == 150 - kept
    assert main([*words, str(tmp_path / "whole.jsonl")]) == 0
    assert (tmp_path / "whole.jsonl").read_bytes() == killed.read_bytes()


def test_pairs_by_the_model_itself_as_the_judge(model, prompts, tmp_path, capsys):
    output = tmp_path / "pairs.jsonl"
    command = ["synth", "prefer", prompts, *model, "-o", str(output), "--json"]
    code = main(command)
    summary = json.loads(capsys.readouterr().out)
    found = rows(output)
    assert code == (0 if found else 2)
    assert summary["rows"] == len(found)
    assert summary["rows"] + sum(summary["left_out"].values()) == 5
    verdicts = rows(tmp_path / "pairs.verdicts.jsonl")
    assert len(verdicts) == 5 - sum("answer" in reason for reason in summary["left_out"])
    chosen = {one["id"]: one for one in verdicts if one["choice"] in ("a", "b")}
    assert len(chosen) == len(found)
    before = (tmp_path / "pairs.verdicts.jsonl").read_bytes()
    assert main([*command, "--resume"]) == code
    assert (tmp_path / "pairs.verdicts.jsonl").read_bytes() == before
    assert rows(output) == found


def test_pairs_by_another_judge(model, prompts, tmp_path, capsys):
    """With its own template; with the orders averaged nearly no verdict is a tie."""
    output = tmp_path / "pairs.jsonl"
    other = model[1]
    code = main(["synth", "prefer", prompts, *model, "--judge", other, "--judge-template", "plain",
                 "--debias", "-o", str(output)])  # fmt: skip
    assert code == 0
    assert "a tie" not in capsys.readouterr().out
    assert {one["template"] for one in rows(tmp_path / "pairs.verdicts.jsonl")} == {"plain"}
    assert {row["origin"]["judge"] for row in rows(output)} <= {other}


def test_critique_and_self_instruct_write_what_data_reads(model, prompts, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    mine = tmp_path / "mine.txt"
    mine.write_text("# one only\nThe fox is kind.\n")
    assert main(["synth", "critique", prompts, *model, "-o", str(pairs),
                 "--constitution", str(mine)]) == 0  # fmt: skip
    assert "rows in" in capsys.readouterr().err
    found = rows(pairs)
    assert {row["origin"]["principle"] for row in found} == {"The fox is kind."}
    assert all(str(mine) in row["origin"]["template"] for row in found)
    assert [type(one) for one in formats.read(pairs).records] == [Pair] * len(found)
    made = tmp_path / "made.jsonl"
    words = ["--min-words", "1", "--count", "2", "--max-tokens", "60", "--temp", "1"]
    assert main(["synth", "self-instruct", prompts, "--model", model[1], *words, "--no-answers",
                 "-o", str(made), "--json"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    assert [set(row) for row in rows(made)] == [{"prompt", "origin"}] * 2


def test_texts_are_printed(capsys):
    assert main(["synth", "texts"]) == 0
    assert "constitution" in capsys.readouterr().out
    assert main(["synth", "texts", "revision"]) == 0
    file = ROOT / "minialign/synth/builtin/revision.txt"
    assert capsys.readouterr().out == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        ("respond absent.txt", "absent.txt: No such file", "JSONL"),
        ("respond {prompts} -n 0", "-n 0", "1 or more"),
        ("respond {prompts} --limit 0", "--limit 0", "1 or more"),
        ("respond {prompts} --batch-size 0", "--batch-size 0", "1 or more"),
        ("respond {prompts} --model absent", "no model 'absent'", "models list"),
        ("respond {prompts} --max-tokens 0", "max tokens is 0", "1 or more"),
        ("respond {prompts} --url http://127.0.0.1:9", "--url needs the name", "--model NAME"),
        ("respond {prompts} --url nowhere --model m", "no address of a server", "http://"),
        ("respond {prompts} --url http://x --model m --top-k 3", "no such setting", "--top-p"),
        ("respond {prompts} --url http://x --model m --adapter a", "--adapter is for", "leave"),
        ("prefer {prompts} --temp 0", "temperature 0 are the same", "--temperature"),
        ("prefer {prompts} --url http://127.0.0.1:9 --model m", "needs a judge", "--judge"),
        ("critique {prompts} --constitution absent", "absent: No such file", "synth texts"),
        ("self-instruct {prompts} --count 0", "--count 0", "1 or more"),
        ("self-instruct {prompts} --similarity 0", "--similarity 0.0", "above 0"),
        ("self-instruct {prompts} --min-words 9 --max-words 3", "--min-words 9", "no more than"),
        ("self-instruct {prompts} --template {prompts}", "{count} is nowhere", "synth texts"),
        ("texts nothing", "no text 'nothing'", "known: avoid"),
    ],
)
def test_bad_input_is_said(arguments, said, hint, prompts, tmp_path, home, capsys):
    words = [word.replace("{prompts}", prompts) for word in arguments.split()]
    output = [] if words[0] == "texts" else ["-o", str(tmp_path / "out.jsonl")]
    out, err = refused(capsys, *words, *output)
    assert out == ""
    assert said in err
    assert hint in err
    assert not (tmp_path / "out.jsonl").exists()


def test_files_that_are_there(model, prompts, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    output.write_text('{"prompt": "mine"}\n')
    _, err = refused(capsys, "respond", prompts, *model, "-o", str(output))
    assert "is there already" in err
    _, err = refused(capsys, "respond", prompts, *model, "-o", str(output), "--resume")
    assert "but not its journal" in err
    _, err = refused(capsys, "respond", prompts, *model, "-o", str(tmp_path / "no" / "out.jsonl"))
    assert "cannot write" in err
    assert output.read_text() == '{"prompt": "mine"}\n'


def test_when_nothing_is_left_it_says_why(model, prompts, tmp_path, capsys):
    command = ["respond", prompts, "--model", model[1], "--max-tokens", "1", "-o"]
    out, err = refused(capsys, *command, str(tmp_path / "out.jsonl"))
    assert "nothing is left to train on" in err
    assert "cut off" in out


# ---- an endpoint ------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict]]]:
    """A server that repeats what it was told with the seed; it fails every third time first."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            said = body["messages"][-1]["content"]
            if "everything" in said:
                reply = {"error": {"message": "this is longer than the context"}}
            else:
                text = f"You said {said.split()[1]} with {body['seed']}."
                choice = {
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
                reply = {"choices": [choice], "usage": {"completion_tokens": 7}}
            if "broken" in said:
                reply = {"choices": []}
            data = json.dumps(reply).encode()
            self.send_response(400 if "error" in reply else 503 if len(asked) % 3 == 0 else 200)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}/v1", asked
    running.shutdown()
    running.server_close()
    thread.join()


def test_an_endpoint_writes(server, prompts, tmp_path, home, capsys):
    url, asked = server
    with open(prompts, "a") as file:
        file.write("and everything else\n")
    output = tmp_path / "out.jsonl"
    command = ["synth", "respond", prompts, "--url", url, "--model", "big", "--temp", "0.5",
               "--stop", "END", "--max-tokens", "9", "-o", str(output), "--json"]  # fmt: skip
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["left_out"] == {"the prompt is too long for the model": 1}
    assert (summary["rows"], summary["tokens"]) == (5, 35)
    found = rows(output)
    assert [row["response"].split(" with ")[0] for row in found] == [
        f"You said {n}" for n in range(5)
    ]
    assert len({row["response"].split(" with ")[1] for row in found}) == 5
    assert found[0]["origin"]["url"] == url
    body = asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.5, 9)
    assert body["stop"] == ["END"]
    assert "logprobs" not in body
    count = len(asked)
    assert main([*command, "--resume"]) == 0
    assert len(asked) == count


def test_an_endpoint_is_shown_the_list(server, prompts, tmp_path, home, capsys):
    url, asked = server
    code = main(["synth", "self-instruct", prompts, "--url", url, "--model", "big", "--no-answers",
                 "--count", "1", "--similarity", "1", "-o", str(tmp_path / "o.jsonl")])  # fmt: skip
    assert code == 0
    shown = asked[0]["messages"]
    assert len(shown) == 1
    assert "Go on with this list:\n\n1. fox" in shown[0]["content"]
    assert shown[0]["content"].endswith("\n6.")
