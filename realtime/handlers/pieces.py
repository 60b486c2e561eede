"""A body that is taken piece by piece, so that one that is too large gets an answer instead of a closed connection.

Who is refused before all of it has come is told that the connection ends: else it would be used again, and be found
broken.
"""

from __future__ import annotations

from typing import Any

from .base import Handler


class Pieces(Handler):
    """For handlers with Tornado's `stream_request_body`."""

    body = b""
    length = 0  # of all that came
    most = 0  # bytes that are kept

    def data_received(self, chunk: bytes) -> None:
        self.length += len(chunk)
        if self.length <= self.most:
            self.body += chunk

    def write_error(self, status_code: int, **given: Any) -> None:
        if self._is_unread():
            self.set_header("Connection", "close")
        super().write_error(status_code, **given)

    def _is_unread(self) -> bool:
        """Of a body in chunks nobody knows."""
        headers = self.request.headers
        return "Transfer-Encoding" in headers or self.length < int(headers.get("Content-Length") or 0)
