"""The runs screen: live status, plots, log; start, stop, resume, all in processes of their own."""

import json
import os
import shutil
import time

import pytest
from support.scripted import SIZES, Models, drive, make_app, screen_text, shown, until
from textual.widgets import Collapsible

from minialign.engine.mlx_thread import ModelChoice
from minialign.errors import UserError
from minialign.home import home as home_folder
from minialign.run_folder import Run, flags
from minialign.runs import launch
from minialign.runs.watch import Watch, charts
from tui.runs.form import RunForm
from tui.widgets.dialogs import ErrorDialog, Sure


def made(name: str, steps: int = 12, status: str = "finished", method: str = "dpo") -> Run:
    run = Run.create(method, {"model": "m", "total_steps": steps}, name=name)
    for step in range(1, steps + 1):
        values = {"loss": 0.7 - step / 50, "rewards/accuracies": 0.5 + step / 50}
        run.log("train", step, {**values, "rewards/margins": step / 10})
    run.log("eval", steps, {"loss": 0.5, "rewards/accuracies": 0.75})
    (run.path / "adapters.safetensors").write_bytes(b"")
    if status != "interrupted":
        run.finish(status)
    else:
        (run.path / "run.lock").touch()
    return run


async def open_everything_else(pilot, form: RunForm) -> None:
    form.query_one("CollapsibleTitle").focus()
    await pilot.press("enter")
    await until(pilot, lambda: form.query("#f-rank"))


@pytest.mark.parametrize("size", SIZES)
def test_the_list_the_plots_and_every_key(home, size):
    for name, status in (("old", "stopped"), ("other", "interrupted"), ("new", "finished")):
        made(name, status=status)
        time.sleep(0.02)
    broken = made("broken")
    (broken.path / "config.json").write_text('{"method": "dpo"')
    with open(broken.path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    os.utime(broken.path / "env.json", (1, 1))
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f5")
        screen = app.screen
        await until(pilot, lambda: len(screen.seen.runs) == 4)
        await until(pilot, lambda: "loss by step" in screen_text(app))
        await until(pilot, lambda: all(sign in screen_text(app) for sign in "✓┤└"))
        assert screen.current.name == "new"
        assert screen.check_action("resume", ()) is False
        if size[0] > 100:
            await shown(pilot, "rewards/accuracies by step", "? ")
        await pilot.press("m", "m")
        await until(pilot, lambda: "rewards/accuracies by step" in screen_text(app))
        await pilot.press("z")
        await until(pilot, lambda: "smoothed 0.6" in screen_text(app).replace("\n", " "))
        await pilot.press("space", "down")
        await until(pilot, lambda: screen.current.name == "other")
        await until(pilot, lambda: "A  new train" in screen_text(app))
        await until(pilot, lambda: "other train" in screen_text(app))
        assert screen.check_action("resume", ())
        await pilot.press("l")
        await until(pilot, lambda: "has no log" in screen_text(app))
        await pilot.press("l", "delete")
        await until(pilot, lambda: isinstance(app.screen, Sure))
        await pilot.press("y")
        await until(pilot, lambda: app.screen is screen and len(screen.seen.runs) == 3)
        assert not (home / "runs" / "other").exists()
        shutil.rmtree(home / "runs" / "old")  # it vanishes
        await until(pilot, lambda: len(screen.seen.runs) == 2)
        await pilot.press("home")
        await until(pilot, lambda: screen.current and screen.current.name == "new")
        await pilot.press("c")
        await until(pilot, lambda: app.screen is not screen)
        await until(pilot, lambda: app.choice == ModelChoice("m", "new"))

    drive(app, script, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_keys_follow_what_becomes_of_a_run(home, size):
    app = make_app(Models())
    logs = home / "logs"
    logs.mkdir(parents=True)
    (logs / "dpo-1.log").write_text("$ minialign dpo\nreference log-probs 7/7\n" + "long " * 60)

    def keys() -> str:
        return screen_text(app).splitlines()[-1]

    async def script(pilot):
        await pilot.press("f5")
        await until(pilot, lambda: "No runs yet" in screen_text(app))
        run = Run.create("dpo", {"model": "m", "total_steps": 4}, name="dpo-1")
        with run.locked():
            await until(pilot, lambda: "reference log-probs 7/7" in screen_text(app))
            await until(pilot, lambda: "Stop" in keys())
            assert "Chat" not in keys()
            run.log("train", 1, {"loss": 0.7})
            await until(pilot, lambda: "Chat" in keys())
            run.finish("stopped")
        await until(pilot, lambda: "Resume" in keys() and "Stop" not in keys())
        assert size[0] > 100 or "Quit" in keys()  # all of them fit
        await pilot.press("l")
        await until(pilot, lambda: screen_text(app).count("long") == 60)  # no line is cut

    drive(app, script, size)
    watch = Watch()
    first = watch.look()[0].age
    time.sleep(0.05)
    assert watch.look()[0].age - first >= 0.05  # it grows, though nothing was written


def test_a_run_is_stopped_and_resumed_by_its_keys_in_its_own_process(home, tmp_path, tiny_model):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": "yes yes", "rejected": "no"} for n in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = make_app(Models(), choice=ModelChoice(str(tiny_model)))

    async def script(pilot):
        await pilot.press("f5", "n")
        await until(pilot, lambda: isinstance(app.screen, RunForm) and app.screen.query("#f-data"))
        form = app.screen
        form.query_one("#f-data").value = str(data)
        form.query_one("#f-iters").value = "4000"
        await open_everything_else(pilot, form)
        form.query_one("#f-eval_split").value = "0"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.screen is not form)
        screen = app.screen
        await until(pilot, lambda: screen.current and screen.current.step > 0, 120)
        await pilot.press("s")
        await until(pilot, lambda: screen.current.status == "stopped")
        assert screen.check_action("stop", ()) is False
        step = screen.current.step
        await pilot.press("r")
        await until(pilot, lambda: screen.current.step > step, 120)
        assert screen.check_action("resume", ()) is False
        await pilot.press("s")
        await until(pilot, lambda: screen.current.status == "stopped")

    drive(app, script)


@pytest.mark.parametrize("size", SIZES)
def test_no_runs_says_the_next_key(home, size):
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f5")
        await until(pilot, lambda: "No runs yet" in screen_text(app))
        await pilot.press("s", "r", "c", "m", "l", "z", "space", "delete")
        assert app.screen.current is None

    drive(app, script, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_form_checks_and_gives_what_was_typed(home, size, monkeypatch):
    app = make_app(Models())
    asked = []

    def start(method, options):
        asked.append((method, options))
        raise UserError("not in this test", "")

    monkeypatch.setattr(launch, "start", start)

    async def script(pilot):
        await pilot.press("f5", "n")
        await until(pilot, lambda: isinstance(app.screen, RunForm))
        form = app.screen
        await until(pilot, lambda: form.query("#f-beta"))
        await pilot.pause()
        await until(pilot, lambda: "learning rate" in screen_text(app))
        form.query_one("#f-iters").value = "many"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "whole number" in screen_text(app))
        form.query_one("#f-iters").value = "3"
        form.query_one("#f-beta").value = "-1"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "beta" in screen_text(app))
        await until(pilot, lambda: app.screen is form)
        form.query_one("#f-beta").value = "0.2"
        form.query_one("#f-data").value = "a.jsonl, b.jsonl"
        await open_everything_else(pilot, form)
        entry = form.query_one("#f-grad_checkpoint")
        await pilot.press("tab")
        await until(pilot, lambda: form.query_one("#fields").region.contains_region(
            app.focused.region))  # fmt: skip
        assert app.focused in form.query("Collapsible Contents *")
        await pilot.press("shift+tab", "enter", "enter")  # closed and opened: it is there once
        await until(pilot, lambda: not form.query_one(Collapsible).collapsed)
        assert form.query("#f-grad_checkpoint").first() is entry
        assert len(form.query("#f-grad_checkpoint")) == 1
        form.query_one("#f-grad_checkpoint").value = True
        await pilot.press("ctrl+s")
        await until(pilot, lambda: asked)
        await pilot.press("enter")

    drive(app, script, size)
    ((method, options),) = asked
    assert method == "dpo"
    assert options == {
        "model": "m", "iters": 3, "beta": 0.2, "data": ("a.jsonl", "b.jsonl"),
        "grad_checkpoint": True,
    }  # fmt: skip


def test_flags_are_what_the_command_line_takes():
    import argparse

    from minialign.cli import train

    options = {"iters": 3, "beta": 0.2, "data": ("a", "b"), "skip_bad": True,
               "share_prompts": False, "adapter": None, "name": "x"}  # fmt: skip
    parser = argparse.ArgumentParser()
    parser.description = ""
    train.add_arguments(parser, "dpo")
    parsed = vars(parser.parse_args(flags(options)))
    for name, value in options.items():
        if value is not None:
            assert parsed[name] == (list(value) if isinstance(value, tuple) else value)


def test_a_run_is_a_process_of_its_own_that_stops_and_goes_on(home, tmp_path, tiny_model):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": "yes yes", "rejected": "no"} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model": str(tiny_model), "data": (str(data),), "iters": 4000, "batch_size": 2,
               "save_every": 4000, "eval_split": 0.0}  # fmt: skip
    one = launch.start("dpo", options)
    assert one.name == "dpo-1"
    assert os.getsid(one.process.pid) == one.process.pid != os.getsid(0)
    run = None
    end = time.monotonic() + 120
    while run is None or not run.metrics("train"):
        assert time.monotonic() < end, one.said()
        assert one.code is None, one.said()
        if (home_folder() / "runs" / one.name / "config.json").exists():
            run = Run.open(one.name)
        time.sleep(0.1)
    assert Watch().look()[0].status == "running"
    assert "loss by step" in charts([one.name], ["loss"], 60, 12)
    with pytest.raises(UserError, match="running"):
        launch.resume(run)
    launch.stop(run)
    assert one.process.wait(60) == 130
    state = run.state()
    assert state.status == "stopped"
    assert launch.tail(one.name, 3)
    with pytest.raises(UserError, match="not being trained"):
        launch.stop(run)
    again = launch.resume(run)
    while run.state().step <= state.step:
        assert time.monotonic() < end, again.said()
        time.sleep(0.1)
    launch.stop(run)
    assert again.process.wait(60) == 130


def test_a_run_that_cannot_start_is_told(home):
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f5")
        screen = app.screen
        screen.launched.append(launch.start("dpo", {"data": ("/nowhere/at-all.jsonl",)}))
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog), 60)
        await until(pilot, lambda: "at-all.jsonl" in screen_text(app))
        await pilot.press("escape")
        assert not screen.seen.runs

    drive(app, script)
    assert not (home / "models").exists()  # nothing was fetched for a run that cannot be
    assert not (home / "runs").exists()


@pytest.mark.parametrize("size", SIZES)
def test_answers_over_time_and_rewards_as_plots(home, size):
    run = made("ppo-1", method="ppo")
    for step in range(1, 13):
        run.log("train", step, {"loss": 0.1, "reward/mean": step / 10, "kl": step / 5})
    with open(run.path / "samples.jsonl", "w") as file:
        for step in (1, 5, 9):
            row = {"step": step, "prompt": [{"role": "user", "content": "Why\x1b?"}],
                   "response": f"Because [b]{step}[/b].", "reward": step / 4,
                   "kl": 0.5}  # fmt: skip
            file.write(json.dumps(row) + "\n")
        file.write('{"step": 13, "prompt": "Wh')
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f5")
        await until(pilot, lambda: "reward/mean by step" in screen_text(app))
        await until(pilot, lambda: size[1] < 40 or "kl by step" in screen_text(app))
        await pilot.press("v")
        await until(pilot, lambda: "step 9 · reward 2.25 · kl 0.5" in screen_text(app))
        await until(pilot, lambda: "Because [b]9[/b]." in screen_text(app))
        await until(pilot, lambda: "by step" not in screen_text(app))
        await pilot.press("shift+down", "shift+down", "shift+up", "l")
        await until(pilot, lambda: "has no log" in screen_text(app))
        await pilot.press("l")
        await until(pilot, lambda: "reward/mean by step" in screen_text(app))
        shutil.rmtree(run.path)  # it vanishes while it is looked at
        await pilot.press("v")
        await until(pilot, lambda: "No runs yet" in screen_text(app))

    drive(app, script, size)


@pytest.mark.parametrize("method", ["expert", "rso", "online-dpo", "ppo", "sft", "reward", "kto"])
def test_every_method_has_a_form_whose_options_its_command_takes(
    home, tmp_path, monkeypatch, method
):
    import argparse
    import importlib

    from minialign.cli import COMMANDS

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one?\n")
    asked = []

    def start(method, options):
        asked.append((method, options))
        raise UserError("not in this test", "")

    monkeypatch.setattr(launch, "start", start)
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f5", "n")
        await until(pilot, lambda: isinstance(app.screen, RunForm))
        form = app.screen
        await until(pilot, lambda: form.query(Collapsible))
        before = form.query_one(Collapsible)
        form.query_one("#method").value = method
        await until(pilot, lambda: form.query(Collapsible) and before not in form.query("*"))
        await pilot.pause()
        assert form.method == method
        await open_everything_else(pilot, form)
        if form.query("#f-scorer"):
            await pilot.press("ctrl+s")
            await until(pilot, lambda: "scorer" in str(form.query_one("#wrong").render()))
            form.query_one("#f-scorer").value = "length"
            form.query_one("#f-temperature").value = "0.9"
        form.query_one("#f-data").value = str(prompts)
        form.query_one("#f-rank").value = "4"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: asked)

    drive(app, script)
    ((command, options),) = asked
    assert command == method
    assert options["rank"] == 4
    if method == "ppo":
        assert "epochs" not in options  # its own default, not the other methods'
    module = importlib.import_module(COMMANDS[method][0])
    parser = argparse.ArgumentParser()
    parser.description = ""
    module.add_arguments(parser, method)
    parsed = vars(parser.parse_args(flags(options)))
    assert parsed["data"] == [str(prompts)]
    assert parsed["rank"] == 4
    assert parsed.get("scorer") == options.get("scorer")
