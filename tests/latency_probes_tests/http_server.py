"""The two HTTP routes that an agent needs, on loopback."""

import json
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HttpServer:
    """Enrols one device per token and serves models to it; `status` makes every answer fail with
    it."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self.reply = reply
        self.tokens = {"token-1"}
        self.models: dict[str, bytes] = {}
        self.enrolments: list[dict[str, Any]] = []
        self.fetched: list[tuple[str, str]] = []
        self.status = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, model: bytes) -> None:
        self.models[sha256(model).hexdigest()] = model

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def enrol(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if body["token"] not in self.tokens:
            return 403, json.dumps({"detail": "the token is used or unknown"}).encode()
        self.tokens.remove(body["token"])
        self.enrolments.append(body)
        return 200, json.dumps(self.reply).encode()

    def model(self, path: str, authorization: str) -> tuple[int, bytes]:
        digest = path.rpartition("/")[2]
        self.fetched.append((digest, authorization))
        if digest not in self.models:
            return 404, b"{}"
        return 200, self.models[digest]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(*server.enrol(json.loads(body)))

            def do_GET(self) -> None:
                self._answer(*server.model(self.path, self.headers["Authorization"]))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(server.status or status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
