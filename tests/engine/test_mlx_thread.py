"""The model thread: one thread, round robin for those who wait, work in advance gives way."""

import threading
import time
from types import SimpleNamespace

import pytest

from minialign.engine.mlx_thread import KEPT, Cancelled, ModelChoice, ModelThread
from minialign.errors import UserError


def fake(choice, progress):
    return SimpleNamespace(choice=choice, thread=threading.get_ident())


@pytest.fixture
def model_thread():
    one = ModelThread(fake)
    yield one
    assert one.close(60)


def counting(name: str, count: int, seen: list):
    def work(engines, ticket):
        for number in range(count):
            seen.append((name, number))
            yield name, number

    return work


def test_all_work_runs_on_one_thread_and_gives_its_last_item(model_thread):
    idents = [model_thread.call(threading.get_ident).future.result(60) for _ in range(3)]
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()
    assert model_thread.submit(counting("a", 3, [])).future.result(60) == ("a", 2)


def test_those_who_wait_take_turns_and_what_is_made_ahead_comes_after(model_thread):
    go, seen = threading.Event(), []
    model_thread.call(go.wait)
    ahead = model_thread.submit(counting("ahead", 2, seen), ahead=True)
    first = model_thread.submit(counting("a", 3, seen))
    second = model_thread.submit(counting("b", 3, seen))
    go.set()
    for ticket in (first, second, ahead):
        ticket.future.result(60)
    assert seen == [*[(n, i) for i in range(3) for n in "ab"], ("ahead", 0), ("ahead", 1)]


def test_work_ahead_sees_that_somebody_waits_and_goes_on_later(model_thread):
    started, done = threading.Event(), []

    def work(engines, ticket):
        started.set()
        while not ticket.pressed():
            time.sleep(0.001)
        yield None
        done.append("ahead")
        yield "finished"

    ahead = model_thread.submit(work, ahead=True)
    started.wait(60)
    model_thread.call(lambda: done.append("urgent")).future.result(60)
    assert ahead.future.result(60) == "finished"
    assert done == ["urgent", "ahead"]


def test_cancelling_closes_the_generator_between_two_items(model_thread):
    closed, items = threading.Event(), []

    def work(engines, ticket):
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            closed.set()

    ticket = model_thread.submit(work, items.append)
    while len(items) < 3:
        time.sleep(0.001)
    ticket.cancel()
    assert closed.wait(60)
    with pytest.raises(Cancelled):
        ticket.future.result(60)
    assert model_thread.call(lambda: "alive").future.result(60) == "alive"


def test_an_error_is_the_tickets_and_the_model_thread_lives_on(model_thread):
    def work(engines, ticket):
        yield 1
        raise UserError("no such model", "choose another")

    with pytest.raises(UserError, match="no such model"):
        model_thread.submit(work).future.result(60)
    with pytest.raises(ZeroDivisionError):
        model_thread.call(lambda: 1 / 0).future.result(60)
    assert model_thread.call(lambda: 2).future.result(60) == 2


def test_models_are_loaded_on_the_model_thread_once_and_the_oldest_is_dropped(model_thread):
    names = [ModelChoice(f"m{n}") for n in range(KEPT + 1)]

    def work(engines, ticket):
        first = engines.get(names[0])
        assert engines.get(names[0]) is first
        assert first.thread == threading.get_ident()
        for name in names[1:]:
            engines.get(name)
        yield engines.loaded
        engines.forget(names[-1])
        yield engines.loaded

    seen = []
    model_thread.submit(work, seen.append).future.result(60)
    assert seen == [names[1:], names[1:-1]]


def test_closing_ends_what_runs_and_what_waits():
    model_thread, started, closed = ModelThread(fake), threading.Event(), threading.Event()

    def endless(engines, ticket):
        started.set()
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            closed.set()

    tickets = [model_thread.submit(endless), model_thread.submit(endless, ahead=True)]
    assert started.wait(60)
    assert model_thread.close(60)
    assert closed.is_set()
    for ticket in tickets:
        with pytest.raises(Cancelled):
            ticket.future.result(60)


def test_a_model_thread_that_is_busy_says_so():
    model_thread, started, go = ModelThread(fake), threading.Event(), threading.Event()
    model_thread.call(lambda: started.set() or go.wait())
    assert started.wait(60)
    assert not model_thread.close(0.05)
    go.set()
    assert model_thread.close(60)


def test_which_has_a_label():
    assert ModelChoice().label == "smollm2-135m-4bit"
    assert ModelChoice("m", "dpo-1").label == "m + dpo-1"
