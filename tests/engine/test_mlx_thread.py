"""The lane: one thread, round robin for those who wait, work in advance gives way."""

import threading
import time
from types import SimpleNamespace

import pytest

from minialign.engine.mlx_thread import KEPT, Cancelled, Lane, Which
from minialign.errors import UserError


def fake(which, progress):
    return SimpleNamespace(which=which, thread=threading.get_ident())


@pytest.fixture
def lane():
    one = Lane(fake)
    yield one
    assert one.close(60)


def counting(name: str, count: int, seen: list):
    def work(engines, ticket):
        for number in range(count):
            seen.append((name, number))
            yield name, number

    return work


def test_all_work_runs_on_one_thread_and_gives_its_last_item(lane):
    idents = [lane.call(threading.get_ident).future.result(60) for _ in range(3)]
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()
    assert lane.submit(counting("a", 3, [])).future.result(60) == ("a", 2)


def test_those_who_wait_take_turns_and_what_is_made_ahead_comes_after(lane):
    go, seen = threading.Event(), []
    lane.call(go.wait)
    ahead = lane.submit(counting("ahead", 2, seen), ahead=True)
    first = lane.submit(counting("a", 3, seen))
    second = lane.submit(counting("b", 3, seen))
    go.set()
    for ticket in (first, second, ahead):
        ticket.future.result(60)
    assert seen == [*[(n, i) for i in range(3) for n in "ab"], ("ahead", 0), ("ahead", 1)]


def test_work_ahead_sees_that_somebody_waits_and_goes_on_later(lane):
    started, done = threading.Event(), []

    def work(engines, ticket):
        started.set()
        while not ticket.pressed():
            time.sleep(0.001)
        yield None
        done.append("ahead")
        yield "finished"

    ahead = lane.submit(work, ahead=True)
    started.wait(60)
    lane.call(lambda: done.append("urgent")).future.result(60)
    assert ahead.future.result(60) == "finished"
    assert done == ["urgent", "ahead"]


def test_cancelling_closes_the_generator_between_two_items(lane):
    closed, items = threading.Event(), []

    def work(engines, ticket):
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            closed.set()

    ticket = lane.submit(work, items.append)
    while len(items) < 3:
        time.sleep(0.001)
    ticket.cancel()
    assert closed.wait(60)
    with pytest.raises(Cancelled):
        ticket.future.result(60)
    assert lane.call(lambda: "alive").future.result(60) == "alive"


def test_an_error_is_the_tickets_and_the_lane_lives_on(lane):
    def work(engines, ticket):
        yield 1
        raise UserError("no such model", "choose another")

    with pytest.raises(UserError, match="no such model"):
        lane.submit(work).future.result(60)
    with pytest.raises(ZeroDivisionError):
        lane.call(lambda: 1 / 0).future.result(60)
    assert lane.call(lambda: 2).future.result(60) == 2


def test_models_are_loaded_on_the_lane_once_and_the_oldest_is_dropped(lane):
    names = [Which(f"m{n}") for n in range(KEPT + 1)]

    def work(engines, ticket):
        first = engines.get(names[0])
        assert engines.get(names[0]) is first
        assert first.thread == threading.get_ident()
        for name in names[1:]:
            engines.get(name)
        yield engines.held()
        engines.forget(names[-1])
        yield engines.held()

    seen = []
    lane.submit(work, seen.append).future.result(60)
    assert seen == [names[1:], names[1:-1]]


def test_closing_ends_what_runs_and_what_waits():
    lane, started, closed = Lane(fake), threading.Event(), threading.Event()

    def endless(engines, ticket):
        started.set()
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            closed.set()

    tickets = [lane.submit(endless), lane.submit(endless, ahead=True)]
    assert started.wait(60)
    assert lane.close(60)
    assert closed.is_set()
    for ticket in tickets:
        with pytest.raises(Cancelled):
            ticket.future.result(60)


def test_a_lane_that_is_busy_says_so():
    lane, started, go = Lane(fake), threading.Event(), threading.Event()
    lane.call(lambda: started.set() or go.wait())
    assert started.wait(60)
    assert not lane.close(0.05)
    go.set()
    assert lane.close(60)


def test_which_has_a_label():
    assert Which().label == "smollm2-135m-4bit"
    assert Which("m", "dpo-1").label == "m + dpo-1"
