"""The endpoint judge against a real HTTP server on loopback, with every fault it may have."""

import math
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest
from support.chat_server import (
    completion,
    cut,
    hang_up,
    raw,
    send,
    serving,
    silence,
    status,
    trickle,
)
from support.verdicts import kept_in

from minialign.errors import UserError
from minialign.judge import JudgeOptions
from minialign.judge.ask import judge_comparisons
from minialign.judge.endpoint import parse_word, read_reply
from minialign.judge.http_chat import Reply
from minialign.judge.open import open_judge
from minialign.judge.templates import read_template
from minialign.records import Comparison

# The stub prefers the answer that says "good", wherever it stands.
PAIRS = [
    Comparison([{"role": "user", "content": f"question {n}?"}], *texts, source=f"f:{n}")
    for n, texts in enumerate([("good", "bad"), ("bad", "good"), ("good one", "x"), ("y", "good")])
]
WINNERS = ["a", "b", "a", "b"]


def better(body: dict[str, Any]) -> str:
    asked = body["messages"][-1]["content"]
    return "A" if "good" in asked.partition("# Answer A")[2].partition("# Answer B")[0] else "B"


def plain(body: dict[str, Any]) -> dict[str, Any]:
    return completion(f"Verdict: {better(body)}")


def open_at(url: str, **options: Any) -> Any:
    judge = open_judge("m", JudgeOptions(url=url, **{"timeout": 60.0, **options}))
    judge.reader.server.pause = 0.01
    return judge


def choices(judge: Any, **options: Any) -> list[str]:
    return [one.choice for one in judge_comparisons(judge, PAIRS, **options)]


def test_replies_are_read_as_verdicts(home, monkeypatch):
    monkeypatch.setenv("MINIALIGN_JUDGE_KEY", "secret-7")
    with serving(plain) as stub:
        verdicts = list(judge_comparisons(open_at(stub.url), PAIRS))
        assert [one.choice for one in verdicts] == WINNERS
        assert verdicts[0].orders == [
            {"a": 1.0, "b": 0.0, "tie": 0.0, "mass": 1.0}
        ] * 2  # fmt: skip
        assert len(stub.requests) == 8
        body = stub.requests[0]
        assert (body["model"], body["temperature"], body["logprobs"]) == ("m", 0, True)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert stub.headers[0]["Authorization"] == "Bearer secret-7"
        assert choices(open_at(stub.url)) == WINNERS
        assert len(stub.requests) == 8  # remembered
        assert "secret-7" not in repr(open_at(stub.url))


def test_no_key_no_header(home, monkeypatch):
    monkeypatch.delenv("MINIALIGN_JUDGE_KEY", raising=False)
    with serving(plain) as stub:
        assert choices(open_at(f"{stub.url}/chat/completions/")) == WINNERS
        assert "Authorization" not in stub.headers[0]


def test_log_probs_are_preferred_to_the_reply(home):
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        best = better(body)
        other = {"A": "B", "B": "A"}[best]
        top = {f" {best}": math.log(0.6), best: math.log(0.1), f" {other}": math.log(0.2),
               " the": math.log(0.05)}  # fmt: skip
        return completion(f"Verdict: {best}", [
            ("Ver", {"Ver": 0.0}), ("dict", {"dict": 0.0}), (":", {":": 0.0}), (f" {best}", top),
        ])  # fmt: skip

    with serving(answer) as stub:
        (verdict, *_) = judge_comparisons(open_at(stub.url), PAIRS)
        assert verdict.orders[0] == {
            "a": pytest.approx(7 / 9, abs=1e-6), "b": pytest.approx(2 / 9, abs=1e-6), "tie": 0.0,
            "mass": pytest.approx(0.9),
        }  # fmt: skip


TEMPLATE = read_template("pairwise")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("A", 0), (" b.\n", 1), ("**C**", 2), ("Verdict: A", 0), ("verdict: **b**", 1),
        ("Verdict A: no, wait.\nVerdict: C", 2), ("Both are fine.\n\n**Verdict:** [[B]]", 1),
        ("Answer A is better.", None), ("", None), ("Verdict:", None), ("Verdict: both", None),
        ("Verdict: Apple", None), ("I prefer A", None), ("AB", None), ("Verdict: A-", None),
    ],
)  # fmt: skip
def test_only_an_explicit_verdict_counts(text, index):
    assert parse_word(text, TEMPLATE) == index
    found = read_reply(Reply(text), TEMPLATE, explain=False)
    assert (found.shares is None) == (index is None)
    if index is None:
        assert found.text == text


def test_scores_are_parsed_whole():
    score = read_template("score")
    assert parse_word("Score: 10", score) == 9
    assert parse_word("Score: 1", score) == 0
    assert parse_word("10", score) == 9
    assert parse_word("Score: 11", score) is None
    assert parse_word("Score: 7.5", score) is None
    # tokens of single digits do not turn a 10 into a 1
    tokens = [("1", {"1": -0.1, "7": -3.0}), ("0", {"0": -0.1})]
    assert read_reply(Reply("10", tokens), score, explain=False).shares[9] == 1.0


def test_a_letter_in_the_reason_is_no_verdict():
    tokens = [("A", {"A": -0.1}), (" good", {" good": 0.0}), (" one", {" one": 0.0})]
    assert read_reply(Reply("A good one", tokens), TEMPLATE, explain=True).shares is None
    # without a reason the first token decides, whatever follows
    shares = read_reply(Reply("A good one", tokens), TEMPLATE, explain=False).shares
    assert shares == [1.0, 0.0, 0.0]


def test_unparsed_never_wins(home):
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if "question 0" in body["messages"][-1]["content"]:
            return completion("I cannot decide that.")
        return plain(body)

    with serving(answer) as stub:
        verdicts = list(judge_comparisons(open_at(stub.url), PAIRS))
        assert [one.choice for one in verdicts] == ["unparsed", *WINNERS[1:]]
        assert verdicts[0].orders == [{"unparsed": "I cannot decide that."}] * 2


def test_a_reason_is_kept(home):
    with serving(lambda body: completion(f"One is good.\n\nVerdict: {better(body)}")) as stub:
        (verdict,) = judge_comparisons(open_at(stub.url, explain=True), PAIRS[:1])
        assert verdict.choice == "a"
        assert "One is good." in verdict.explanation
        assert stub.requests[0]["max_tokens"] > 100


FAULTS = {
    "429": status(429, "slow down", Retry_After="0.2"),
    "429 by date": status(429, Retry_After="x"),
    "500": status(500),
    "503": status(503, Retry_After="0"),
    "no json": raw(b"<html>gateway</html>"),
    "half json": raw(b'{"choices": [{"mess'),
    "other json": raw(b'{"hello": [1]}'),
    "no choices": raw(b'{"choices": []}'),
    "a number": raw(b"7"),
    "null content list": raw(b'{"choices": [{"message": {"content": [1]}}]}'),
    "not utf-8": raw(b'{"choices": "\xff\xfe"}'),
    "cut": cut,
    "hang up": hang_up,
    "silence": silence(5.0),
    "trickle": trickle,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_tried_again(home, name):
    slow = name in ("silence", "trickle")
    with serving(plain, {0: FAULTS[name], 4: FAULTS[name]}) as stub:
        judge = open_at(stub.url, timeout=1.0 if slow else 60.0)
        assert choices(judge) == WINNERS
        assert len(stub.requests) == 10


def test_retry_after_is_followed(home):
    def by_date(handler: Any) -> None:  # two seconds from when it is sent, in whole ones
        status(503, Retry_After=formatdate(time.time() + 2, usegmt=True))(handler)

    with serving(plain, {0: status(429, Retry_After="0.5"), 1: by_date}) as stub:
        assert choices(open_at(stub.url)) == WINNERS
        assert stub.times[1] - stub.times[0] >= 0.5
        assert stub.times[2] - stub.times[1] >= 0.9


def test_pauses_grow(home, monkeypatch):
    waited: list[float] = []
    wait = "minialign.judge.endpoint._Either.wait"
    monkeypatch.setattr(wait, lambda self, seconds: waited.append(seconds))
    with serving(plain, {n: status(500) for n in range(4)}) as stub:
        judge = open_at(stub.url)
        judge.reader.server.pause = 0.05
        assert choices(judge) == WINNERS
        for seconds, wanted in zip(waited, (0.05, 0.1, 0.2, 0.4), strict=True):
            assert 0.75 * wanted <= seconds <= 1.25 * wanted


def test_what_was_judged_is_kept_when_the_server_fails_for_good(home, tmp_path):
    file = tmp_path / "v.jsonl"
    with serving(plain, {n: status(500, "out of memory") for n in range(4, 200)}) as stub:
        judge = open_at(stub.url, retries=1)
        with pytest.raises(UserError, match="HTTP 500: out of memory; tried 2 times") as error:
            choices(judge, file=file, batch_size=1)
        assert "goes on" in error.value.hint
        assert [one.choice for one in kept_in(file)] == WINNERS[:2]
        before = len(stub.requests)
        stub.faults.clear()
        assert choices(open_at(stub.url), file=file, batch_size=1) == WINNERS
        assert len(stub.requests) == before + 4  # the two that were missing
        assert len(kept_in(file)) == 4


def test_one_of_many_at_once_fails_and_the_others_are_kept(home):
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        return plain(body)

    with serving(answer, {3: status(401, "bad key")}) as stub:
        with pytest.raises(UserError, match="HTTP 401: bad key") as error:
            choices(open_at(stub.url))
        assert "MINIALIGN_JUDGE_KEY" in error.value.hint
        done = len(stub.requests) - 1
        assert done >= 3
        stub.faults.clear()
        assert choices(open_at(stub.url)) == WINNERS
        assert len(stub.requests) == done + 1 + 8 - done


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (status(404, "no such model"), "HTTP 404: no such model"),
        (status(403), "HTTP 403"),
        (status(302, "over there", Location="http://127.0.0.1:9/v1"), "HTTP 302: over there"),
        (status(400, "bad request"), "HTTP 400: bad request"),
    ],
)
def test_what_trying_again_does_not_mend_is_said_at_once(home, fault, said):
    with serving(plain, {-1: fault}) as stub:
        with pytest.raises(UserError, match=said):
            choices(open_at(stub.url))
        assert len(stub.requests) == 1


def test_a_question_that_is_refused_is_unparsed(home):
    def refuse(handler: Any) -> None:
        send(handler, 400, {"error": {"message": "context is too long"}})

    with serving(plain, {4: refuse, 5: refuse}) as stub:
        found = list(judge_comparisons(open_at(stub.url), PAIRS, batch_size=1))
        assert [one.choice for one in found] == ["a", "b", "unparsed", "b"]
        assert "context is too long" in found[2].orders[0]["unparsed"]


def test_a_server_without_logprobs_is_asked_without(home):
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert "logprobs" not in body
        return plain(body)

    with serving(answer, {0: status(400, "unknown field: logprobs")}) as stub:
        assert choices(open_at(stub.url)) == WINNERS
        assert len(stub.requests) == 9
        assert all("top_logprobs" not in body for body in stub.requests[1:])


def test_nobody_there(home):
    judge = open_at("http://127.0.0.1:9/v1", retries=2, timeout=600.0)
    start = time.monotonic()
    with pytest.raises(UserError, match="tried 3 times"):
        choices(judge)
    assert time.monotonic() - start < 60  # the time-out was not waited for
    for url in ("127.0.0.1:8080", "ftp://x/v1", "http://", ""):
        with pytest.raises(UserError, match="no address"):
            open_judge("m", JudgeOptions(url=url))
    with pytest.raises(UserError, match="which model"):
        open_judge(None, JudgeOptions(url="http://127.0.0.1:9/v1"))
    for options in ({"timeout": 0.0}, {"retries": -1}):
        with pytest.raises(UserError, match="above 0"):
            open_judge("m", JudgeOptions(url="http://127.0.0.1:9/v1", **options))


def test_stopping_ends_the_tries(home):
    with serving(plain, {n: silence(0.5) for n in range(2, 100)}) as stub:
        judge = open_at(stub.url)
        assert [one.choice for one in judge_comparisons(judge, PAIRS[:1])] == ["a"]
        judge.reader.server.timeout = 0.2
        judge.reader.server.pause = 30.0  # 22.5 s at least
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()
        start = time.monotonic()
        assert list(judge_comparisons(judge, PAIRS[1:], stop=stop)) == []
        assert time.monotonic() - start < 15
