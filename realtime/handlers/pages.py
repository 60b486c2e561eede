"""What people look at: what every page has, and the dashboard, whose scripts speak to the same doors as all others."""

from __future__ import annotations

from typing import Any

from tornado.web import StaticFileHandler, authenticated

from .base import Handler, Secure

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Page(Handler):
    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)
        # Not `no-referrer`: with it a form's `Origin` is `null` (Fetch, 3.2), which is nobody's.
        self.set_header("Referrer-Policy", "same-origin")

    def get_template_namespace(self) -> dict[str, Any]:
        signed_in = self.identity if self.identity.proof == "sign-in" else None
        return {**super().get_template_namespace(), "signed_in": signed_in}

    def answer(self, body: Any, status: int = 200) -> None:
        """An error, in words."""
        self.set_status(status)
        self.render("error.html", status=status, error=body["error"])


class PageHandler(Page):
    @authenticated
    def get(self) -> None:
        if not self.door.gate.asks:
            self.set_header("Cache-Control", "no-cache")
        self.render("index.html", node=self.node.name, demo=self.door.demo)


class AssetHandler(Secure, StaticFileHandler):
    """Scripts and styles, asked for again each time (mostly 304): a page never runs modules of two versions."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")
