"""Runs of rounds on the tiny model, from the words of a command line."""

import hashlib
import threading

from minialign.config import resolve
from minialign.methods import METHODS
from minialign.models.adapter import WEIGHTS
from minialign.training.settings import Settings
from minialign.training.start import start
from support.flag_runs import parser_of

WORDS = [*"abcdefg", "quick", "brown", "lazy", "dog", "over"]
SCORER = """
import os, pathlib, time
def vowels(prompt, responses):
    return [sum(c in "aeiou" for c in r) / 10 for r in responses]
def worse(prompt, responses):
    calls = counted("worse")
    return [value - calls for value in vowels(prompt, responses)]
def counted(name):
    here = pathlib.Path(__file__).with_name(name)
    here.write_text((here.read_text() if here.exists() else "") + ".")
    return len(here.read_text())
def deadly(prompt, responses):
    at = pathlib.Path(__file__).with_name("dies-at")
    if at.exists() and counted("lived") == int(at.read_text()):
        at.unlink()
        os.kill(os.getpid(), 9)
    return vowels(prompt, responses)
def patient(prompt, responses):
    while counted("waited") > 3 and not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    return vowels(prompt, responses)
def nan(prompt, responses):
    return [float("nan")] * len(responses)
def few(prompt, responses):
    return [1.0]
def raises(prompt, responses):
    raise RuntimeError("oops")
def same(prompt, responses):
    return [1.0] * len(responses)
def once(prompt, responses):
    return vowels(prompt, responses) if counted("calls") <= 12 else same(prompt, responses)
"""
BASE = "--n 4 --rounds 2 --response-length 10 --temperature 1 --learning-rate 0.02 --epochs 2"


def words(files, tiny_model, flags):
    base = (
        f"--model {tiny_model} --data {files}/prompts.txt --scorer python:{files}/score.py:vowels"
    )
    return f"{base} {BASE} {flags.format(f=files)}".split()


def made(name, files, tiny_model, flags=""):
    """A run that is not begun, and its events."""
    method, typed = METHODS[name], vars(parser_of(name).parse_args(words(files, tiny_model, flags)))
    settings, config = (resolve(kind, {}, typed, "") for kind in (Settings, method.config))
    stop = threading.Event()
    return *start(method, settings, config, stop), stop


def ran(name, files, tiny_model, flags=""):
    run, events, _ = made(name, files, tiny_model, flags)
    return run, list(events)


def adapter(run):
    return hashlib.sha256((run.path / WEIGHTS).read_bytes()).hexdigest()
