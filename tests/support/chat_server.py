"""A real HTTP server on loopback that speaks the chat completions protocol, with its faults."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Faults = dict[int, Callable[[BaseHTTPRequestHandler], None]]  # by number of request, from 0


def completion(text: str, tops: list[tuple[str, dict[str, float]]] | None = None) -> dict[str, Any]:
    """The body of an answer; ``tops``: its tokens with the log-probs of the likeliest ones."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
    if tops is not None:
        choice["logprobs"] = {
            "content": [
                {"token": token, "logprob": 0.0,
                 "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
                for token, top in tops
            ]
        }  # fmt: skip
    return {"object": "chat.completion", "choices": [choice]}


@dataclass
class Stub:
    """What the server does and what it was asked."""

    answer: Callable[[dict[str, Any]], dict[str, Any]]  # body of a request -> body of the answer
    faults: Faults = field(default_factory=dict)
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def asked(self) -> list[str]:
        """The question of each request."""
        return [body["messages"][-1]["content"] for body in self.requests]


def send(handler: BaseHTTPRequestHandler, code: int, body: Any, **headers: str) -> None:
    """Answer with JSON, or with bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, message: str = "no", **headers: str) -> Callable[..., None]:
    """A fault: an error as OpenAI's servers write it."""
    return lambda handler: send(handler, code, {"error": {"message": message}}, **headers)


def raw(data: bytes) -> Callable[..., None]:
    """A fault: 200 with this body."""
    return lambda handler: send(handler, 200, data)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """A fault: the connection breaks in the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(2)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """A fault: no answer at all."""
    handler.connection.shutdown(2)


def silence(seconds: float) -> Callable[..., None]:
    """A fault: nothing for a while, then nothing."""
    return lambda handler: time.sleep(seconds)


def trickle(handler: BaseHTTPRequestHandler) -> None:
    """A fault: a byte now and then, for ever."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)


@contextlib.contextmanager
def serving(
    answer: Callable[[dict[str, Any]], dict[str, Any]], faults: Faults | None = None
) -> Iterator[Stub]:
    """The server while it runs; each request with a fault of its number gets that instead."""
    stub = Stub(answer, faults or {})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                number = len(stub.requests)
                stub.requests.append(body)
                stub.headers.append(dict(self.headers))
                stub.times.append(time.monotonic())
            fault = stub.faults.get(number, stub.faults.get(-1))
            if fault is not None:
                self.close_connection = True
                fault(self)
            elif self.path != "/v1/chat/completions":
                send(self, 404, {"error": {"message": f"no {self.path}"}})
            else:
                with contextlib.suppress(ConnectionError):  # a client that was stopped
                    send(self, 200, stub.answer(body))

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
