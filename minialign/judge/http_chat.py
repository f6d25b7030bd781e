"""One chat completion from an OpenAI-compatible server: asked again when something goes wrong.

Standard library only. Time-outs, cut connections, overload (429, 5xx, with its Retry-After) and
answers that are no JSON are tried again with growing pauses, then reported.
"""

import email.utils
import http.client
import json
import random
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from minialign.errors import UserError

KEY_VARIABLE = "MINIALIGN_JUDGE_KEY"
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
LONGEST_PAUSE = 30.0  # seconds between two tries, unless the server asks for more
LONGEST_WAIT = 300.0  # the most that a server's Retry-After is followed
TIMEOUT, RETRIES = 120.0, 5  # seconds for one try; tries after the first
MOST_BYTES = 16_000_000  # of one answer


class Refused(UserError):
    """The server understood and said no (HTTP 400, 413, 422): asking again is of no use."""


class Stopped(Exception):
    """The user stopped while a request was waiting to be tried again."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key is for the address that the user gave, and for no other."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


@dataclass(frozen=True)
class Reply:
    """The answer's text, and for each of its tokens the most likely ones with their log-probs."""

    text: str
    tokens: list[tuple[str, dict[str, float]]] | None = None
    finish_reason: str = "stop"
    count: int = 0  # of its tokens, where the server says so


@dataclass
class ChatServer:
    """Where to ask, and how patiently."""

    url: str  # http://host:port/v1
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = TIMEOUT
    retries: int = RETRIES
    pause: float = 1.0  # seconds before the first retry; doubled each time
    logprobs: bool = True  # ask for them; given up when the server does not know them

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{self.url!r} is no address of a server", "http://127.0.0.1:8080/v1")
        if not self.timeout > 0 or self.retries < 0:
            limits = f"time-out {self.timeout:g} s, {self.retries} retries"
            raise UserError(limits, "above 0; 0 or more")
        self.url = self.url.rstrip("/").removesuffix("/chat/completions")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        # A proxy of the environment is not asked for this machine itself.
        if parts.hostname in ("localhost", "127.0.0.1", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def chat(
        self,
        messages: list[dict[str, str]],
        max_tokens: int,
        stop: threading.Event,
        options: dict[str, Any] | None = None,
    ) -> Reply:
        """Ask for the most likely answer; ``options`` (temperature, seed …) go into the request.

        Raises:
            Refused: the server will not answer this.
            UserError: it cannot be reached, or gave nothing usable in all tries.
            Stopped: ``stop`` was set between two tries.
        """
        problem = ""
        for attempt in range(self.retries + 1):
            if stop.is_set():
                raise Stopped
            wait = min(LONGEST_PAUSE, self.pause * 2**attempt) * random.uniform(0.75, 1.25)
            try:
                return _reply(self._post(messages, max_tokens, options))
            except urllib.error.HTTPError as error:
                with error:
                    said = _said(error)
                problem = f"HTTP {error.code}{said and f': {said}'}"
                if error.code in (400, 422) and self.logprobs and "logprobs" in said:
                    self.logprobs = False  # then the reply is read
                    wait = 0.0
                elif error.code not in AGAIN:
                    raise self._final(error.code, problem) from None
                elif (asked := _retry_after(error.headers.get("Retry-After"))) is not None:
                    wait = min(asked, LONGEST_WAIT)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                problem = str(reason) or type(reason).__name__
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise UserError(f"{self.url}: {problem}", "check the address") from None
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"an answer that is no chat completion ({str(error)[:120]})"
            if attempt < self.retries and stop.wait(wait):
                raise Stopped
        hint = "what was judged so far is kept, and the same command goes on"
        problem = f"{self.url}: {problem}; tried {self.retries + 1} times"
        raise UserError(problem, f"see whether the server runs; {hint}")

    def _final(self, code: int, problem: str) -> UserError:
        if code in (400, 413, 422):
            return Refused(f"{self.url}: {problem}", f"is {self.model!r} a chat model?")
        hint = "see what the server logs"
        if code in (401, 403):
            hint = f"put the key into the variable {KEY_VARIABLE}"
        elif code == 404:
            hint = f"the address ends with /v1; is {self.model!r} the server's name of the model?"
        return UserError(f"{self.url}: {problem}", hint)

    def _post(
        self, messages: list[dict[str, str]], max_tokens: int, options: dict[str, Any] | None
    ) -> Any:
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        body |= {"max_tokens": max_tokens, "temperature": 0} | (options or {})
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = f"{self.url}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        end = time.monotonic() + self.timeout
        data = b""
        with self._opener.open(request, timeout=self.timeout) as response:
            # The socket's own time-out is for each read: a trickle would never end.
            while part := response.read1(65536):
                data += part
                if time.monotonic() > end:
                    raise TimeoutError(f"no whole answer in {self.timeout:g} s")
                if len(data) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES:,} bytes")
            announced = response.headers.get("Content-Length")
            if announced and announced.isdecimal() and len(data) < int(announced):
                raise http.client.IncompleteRead(data, int(announced) - len(data))
        return json.loads(data)


def _reply(body: Any) -> Reply:
    choice = body["choices"][0]
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError("content that is no text")
    content = (choice.get("logprobs") or {}).get("content")
    reason = str(choice.get("finish_reason") or "stop")
    count = int((body.get("usage") or {}).get("completion_tokens") or 0)
    tokens = []
    for one in content or ():
        tops = one.get("top_logprobs") or [one]
        logps = {str(top["token"]): float(top["logprob"]) for top in tops}
        tokens.append((str(one["token"]), logps))
    return Reply(text, tokens or None, reason, count)


def _said(error: urllib.error.HTTPError) -> str:
    """Read what the server wrote about its error."""
    text = ""
    with suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        text = error.read(4096).decode("utf-8", "replace")
        reported = json.loads(text)["error"]
        text = reported["message"] if isinstance(reported, dict) else str(reported)
    return " ".join(str(text).split())[:300]


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
