"""A method of the user's own, and the control text of the conditional one."""

import mlx.core as mx
import pytest
from support.method_rows import close, finished, settings
from support.places import ROOT

from minialign.chat.turns import Conversation, reply
from minialign.cli import main
from minialign.data.prompts import as_prompts, prompt_ids
from minialign.engine import Engine, Sampling
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.learn.batch import encode_prompt
from minialign.methods import METHODS
from minialign.methods.own import load_method
from minialign.models import control
from minialign.models.control import Control
from minialign.models.load import load
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.run_folder import Run
from minialign.training.start import resume, start

OWN = ROOT / "examples" / "own_method.py"


def user(text):
    return [{"role": "user", "content": text}]


# ---- control text -----------------------------------------------------------------------------


def test_control_text_goes_where_it_belongs():
    turns = [*user("one"), {"role": "assistant", "content": "two"}, *user("three")]
    assert Control("Be good.").apply(turns) == [*turns[:2], *user("Be good.\nthree")]
    system = {"role": "system", "content": "Be good."}
    assert Control("Be good.", "system").apply(turns) == [system, *turns]
    before = {"role": "system", "content": "Speak English."}
    both = {"role": "system", "content": "Be good.\nSpeak English."}
    assert Control("Be good.", "system").apply([before, *turns]) == [both, *turns]
    assert turns[2]["content"] == "three"


def test_the_good_words_are_stored_and_used_by_themselves(rows, tiny_model, home):
    method = METHODS["conditional"]
    chosen = settings(tiny_model, rows / "ratings.jsonl", iters=60, name="mine")
    run, _ = finished(method, chosen, good="fox", bad="dog")
    assert control.read(run.path) == Control("fox", "user")
    assert control.FILE in {path.name for path in run.path.iterdir()}
    engine = open_engine(str(tiny_model), "mine")
    bare = Tokenizer.load(tiny_model)
    (asked,) = as_prompts(["quick brown"])
    assert prompt_ids(asked, engine.tokenizer) == encode_prompt(user("fox\nquick brown"), bare)
    (raw,) = as_prompts(["quick brown"], raw=True)
    assert prompt_ids(raw, engine.tokenizer) == prompt_ids(raw, bare)
    conversation = Conversation()
    conversation.ask("quick brown")
    seen = []
    stream = engine.stream
    engine.stream = lambda ids, *rest: seen.append(ids) or stream(ids, *rest)
    list(reply(engine, conversation, Sampling(max_tokens=3)))
    assert seen == [encode_prompt(user("fox\nquick brown"), bare)]
    assert conversation.messages[0]["content"] == "quick brown"
    # what was learned: after the good words a good answer is likelier than after the bad ones
    plain = Engine(load(str(tiny_model), "mine"))
    good, bad = (
        plain.logps(
            encode_prompt(user(f"{words}\nquick brown 7"), bare),
            [bare.encode("yes"), bare.encode("no")],
        )
        for words in ("fox", "dog")
    )
    assert good[0] - good[1] > bad[0] - bad[1] + 1
    assert control.read(run.path / "checkpoints") is None
    (run.path / "control.json").write_text("{}")
    with pytest.raises(UserError, match=r"control\.json"):
        open_engine(str(tiny_model), "mine")


# ---- a method of the user's own ---------------------------------------------------------------


def test_the_example_of_an_own_method_trains(rows, tiny_model, home):
    assert len(OWN.read_text().splitlines()) <= 90
    method = load_method(OWN)
    run, events = finished(method, settings(tiny_model, rows / "pairs.jsonl", iters=12))
    first = next(event.values for event in events if event.kind == "step")
    assert 25 <= first["loss"] <= 100  # h = 0: the target squared, 5 to 10
    held = [event.values for event in events if event.kind == "eval"][-1]
    assert held["rewards/accuracies"] >= 0.9
    assert run.config["method"] == "margin-ipo"
    close(
        method.loss.__globals__["gap_loss"](mx.array([0.0, 7.5]), mx.array([0.0, 1.0]), 0.1, 0.5),
        [25.0, 0.0],
    )


def test_a_run_of_an_own_method_resumes(rows, tiny_model, home):
    import threading

    method, stop = load_method(OWN), threading.Event()
    chosen = settings(tiny_model, rows / "pairs.jsonl", iters=4)
    run, events = start(method, chosen, method.config(strength=0.1), stop)
    for event in events:
        if event.kind == "step" and event.step == 2:
            stop.set()
    assert run.state().status == "stopped"
    assert list(resume(Run(run.path)))[-1].values["status"] == "finished"


def test_train_runs_a_file_from_the_command_line(rows, tiny_model, home, capsys):
    flags = ["--model", str(tiny_model), "--data", str(rows / "pairs.jsonl"), "--iters", "1"]
    flags += ["--max-seq-length", "200", "--strength", "0.2", "--name", "own"]
    assert main(["train", str(OWN), *flags]) == 0
    assert Run.open("own").config["strength"] == 0.2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train", str(OWN), "--help"])
    text = capsys.readouterr().out
    assert "margin moves" not in text
    assert "--strength" in text
    assert "margin (0 where it has none)" in " ".join(text.split())
    with pytest.raises(SystemExit) as end:
        main(["train", str(OWN), "--strenght", "1"])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "defines no METHOD"),
        ("METHOD = 3", "METHOD is of type"),
        ("METHOD = (", "never closed"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("from minialign.methods.dpo import METHOD", "like a built-in one"),
    ],
)
def test_files_without_a_method_are_refused(source, said, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UserError, match=said):
        load_method(file)
    with pytest.raises(UserError, match="no such Python file"):
        load_method(tmp_path / "absent.py")
