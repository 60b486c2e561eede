"""The dashboard: one page, whose scripts speak to the same doors as everybody else."""

from __future__ import annotations

from tornado.web import StaticFileHandler, authenticated

from .base import Handler, Secure

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class PageHandler(Handler):
    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)

    @authenticated
    def get(self) -> None:
        self.set_header("Cache-Control", "no-cache")
        self.render("index.html", node=self.node.name, demo=self.door.demo)


class AssetHandler(Secure, StaticFileHandler):
    """Scripts and styles, asked for again each time (mostly 304): a page never runs modules of two versions."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")
