"""The plainest HTTP client: one connection kept alive, headers in the order they came, no retries."""

from __future__ import annotations

import gzip
import http.client
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True)
class Response:
    """Status, headers and the body as it came, gunzipped."""

    status: int
    headers: tuple[tuple[str, str], ...]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class RawClient:
    """One connection to a server."""

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self.connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)

    def get(self, path: str, headers: dict[str, str] | None = None, **params: object) -> Response:
        """GET `/v1/{path}`."""
        query = f"?{urlencode(params)}" if params else ""
        self.connection.request("GET", f"/v1/{path}{query}", headers=headers or {})
        response = self.connection.getresponse()
        body = response.read()
        if response.getheader("content-encoding") == "gzip":
            body = gzip.decompress(body)
        return Response(response.status, tuple(response.getheaders()), body.decode())

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
