"""Where alerts arrive, on 127.0.0.1: an SMTP server with STARTTLS and login, a webhook like Slack's, a deaf port."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "alerts@host.test", 'Open-Sesame<&"%>/2024'


@dataclass
class Mailbox:
    """What an SMTP server took, and what it answers instead of taking it (`550 ...`), once each."""

    mails: list[EmailMessage] = field(default_factory=list)
    receivers: list[list[str]] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)
    logins: list[tuple[str, str, bool]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    port: int = 0

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, _: Any) -> str:
        if address in self.refused:
            return "550 5.1.1 unknown"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answers:
            answer = self.answers.pop(0)
            if answer != "drop":
                return answer
            server.transport.close()
            return "421 gone"
        mail = message_from_bytes(cast(bytes, envelope.content), policy=default)
        self.mails.append(cast(EmailMessage, mail))
        self.receivers.append(list(envelope.rcpt_tos))
        self.over_tls.append(session.ssl is not None)
        return "250 OK"

    def login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        user, password = data.login.decode(), data.password.decode()
        self.logins.append((user, password, session.ssl is not None))
        good = (user, password) == (USER, PASSWORD)
        # The worst a server can do: it repeats what it was sent.
        return AuthResult(success=good, handled=False, message=None if good else f"535 5.7.8 no such {password}")


class _Controller(Controller):
    def _trigger_server(self) -> None:
        # Any free port.
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def mail_server(folder: Path, *, starttls: bool = True, login: bool = True) -> Iterator[Mailbox]:
    """Serve SMTP; the CA of its certificate is written to `folder/ca.pem`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    box = Mailbox()
    controller = _Controller(
        box,
        hostname="127.0.0.1",
        port=0,
        ready_timeout=30,
        tls_context=context if starttls else None,
        require_starttls=starttls,
        authenticator=box.login if login else None,
        auth_required=login,
    )
    # It logs whatever it reads, and its own deprecations.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    controller.start()
    box.port = controller.port
    try:
        yield box
    finally:
        controller.stop()


Answer = tuple[int, str]


@dataclass
class Webhook:
    """What was posted, and what is answered instead of `200 ok`, once each: status and text, or `drop`."""

    url: str
    texts: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answer | str | Callable[[], Answer]] = field(default_factory=list)


@contextmanager
def webhook_server(path: str = "/services/T000/B000/XyZsecretToken") -> Iterator[Webhook]:
    """Serve an incoming webhook as Slack does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = hook.answers.pop(0) if hook.answers else (200, "ok")
            if answer == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, text = cast(Answer, answer() if callable(answer) else answer)
            if self.path != path:
                status, text = 404, "no_service"
            elif (status, text) == (200, "ok"):
                hook.requests.append(document)
                hook.texts.append(document["text"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = Webhook(f"http://127.0.0.1:{server.server_address[1]}{path}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


@contextmanager
def closed_port() -> Iterator[int]:
    """A port nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
