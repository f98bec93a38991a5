"""An outside issuer for tests: keys that sign anything, also what no issuer would, and a server that shows them."""

import base64
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

_algorithms: Any = get_default_algorithms()

CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def base64url(data: bytes) -> str:
    """As a JWT writes it: without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded(part: Mapping[str, Any] | bytes) -> str:
    """A header or a payload; bytes are taken as they are, which is how one that isn't JSON is made."""
    return base64url(part if isinstance(part, bytes) else json.dumps(part).encode())


def sign(algorithm: str, key: Any, claims: Mapping[str, Any] | bytes, header: Mapping[str, Any] | bytes) -> str:
    """A token signed by ``algorithm`` whatever its header says; ``key`` is what PyJWT takes for it."""
    message = f"{encoded(header)}.{encoded(claims)}"
    return f"{message}.{base64url(_algorithms[algorithm].sign(message.encode(), key))}"


def claims(issuer: str, subject: object, **changes: object) -> dict[str, Any]:
    """What a sound token of the issuer says, with changes; a claim that is changed to ``...`` is left out."""
    now = int(time.time())
    sound = {"iss": issuer, "aud": issuer, "sub": subject, "iat": now, "exp": now + 900, **changes}
    return {name: value for name, value in sound.items() if value is not ...}


class Key:
    """A private key, and the public half as the key set shows it (which a test may change)."""

    def __init__(self, algorithm: str, *, kid: str | None = None, bits: int = 2048) -> None:
        self.algorithm = algorithm
        self.kid = kid or secrets.token_hex(16)
        self.private: Any
        if algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        elif algorithm in CURVES:
            self.private = ec.generate_private_key(CURVES[algorithm]())
        else:
            self.private = rsa.generate_private_key(65537, bits)
        public = _algorithms[algorithm].to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        self.jwk: dict[str, Any] = {**public, "kid": self.kid, "alg": algorithm}

    def sign(self, claims: Mapping[str, Any] | bytes, **header: object) -> str:
        """A token with this key's header but for what is given; a member given as ``...`` is left out."""
        members = {"alg": self.algorithm, "kid": self.kid, **header}
        return sign(self.algorithm, self.private, claims, {k: v for k, v in members.items() if v is not ...})


class JwksServer:
    """Answers every GET with its keys, or as it was told to, and counts."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.fetches = 0
        """Requests that came, answered or not."""
        self._status = 200
        self._body: bytes | None = None
        self._pause = 0.0
        self._headers: dict[str, str] = {}
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Who asked went away, which is what a test of time limits wants."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.issuer}/.well-known/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def answer(self, *, status: int = 200, body: bytes | None = None, pause: float = 0.0, **headers: str) -> None:
        """How to answer from now on; without a body it is the keys. An underscore in a header's name is a hyphen.

        ``pause`` is in seconds, after each byte of the body.
        """
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._status, self._body, self._pause = status, body, pause

    def document(self) -> dict[str, Any]:
        return {"keys": [key.jwk for key in self.keys]}

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Meanwhile, connections are accepted and requests read, and nothing is answered."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.fetches += 1
        self._may_answer.wait()
        body = json.dumps(self.document()).encode() if self._body is None else self._body
        handler.send_response(self._status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        for name, value in self._headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        for piece in (body[i : i + 1] for i in range(len(body))) if self._pause else (body,):
            handler.wfile.write(piece)
            time.sleep(self._pause)

    def close(self) -> None:
        self._may_answer.set()
        self._pause = 0.0
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def jwks_server(*keys: Key) -> Iterator[JwksServer]:
    """A server of these keys, on a loopback port of its own."""
    server = JwksServer()
    server.keys.extend(keys)
    try:
        yield server
    finally:
        server.close()
