"""The server of the page, closed to everything that the page does not need.

- Uploads lie in a folder of this server's own, which goes with it; they are bounded one by one and together.
- A body that is too large is refused by its length, or cut off where it has none, before gradio reads it.
- The browser is told (Content-Security-Policy) to contact no other host, whatever the page holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from musegen.app.bounds import Bounds
from musegen.app.studio import Studio
from musegen.errors import ConfigError

_SLACK = 64 * 1024  # around a file in the body of an upload
_FORM_BYTES = 256 * 1024  # of any other body
_DRAINED_BYTES = 16 * 1024**2  # of a body that is refused
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
# All that the page uses of gradio's server. What is not here does not exist: files, streams, proxies, recordings.
_API = "/gradio_api/"
_OPEN = frozenset(
    ["/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"]
    + [_API + name for name in "app_id cancel info queue/join queue/data reset startup-events".split()]
    + [_API + name for name in "upload upload_progress".split()]
)
_OPEN_BELOW = ("/assets/", "/static/", "/svelte/", _API + "heartbeat/", _API + "run/")


@dataclasses.dataclass
class Served:
    """A running page.

    Args:
        url: Where it is.
        page: The `gradio.Blocks`.
        studio: What it works with.
        folder: Where uploads lie.
        before: Where gradio's files lay before, if that was set.
    """

    url: str
    page: Any
    studio: Studio
    folder: Path
    before: str | None = None

    def close(self) -> None:
        """End the server and its workers, and remove all uploads."""
        self.page.close(verbose=False)
        self.studio.close()
        _tidy(self.folder, self.before)


def serve(studio: Studio, *, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> Served:
    """Serve the page of a studio; arguments, returns and errors as for `musegen.app.launch_app`."""
    folder = Path(tempfile.mkdtemp(prefix="musegen-uploads-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    # gradio asks the environment each time; it must stay set while the page is served.
    os.environ.update(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False")
    served = None
    try:
        from musegen.app.page import build_page

        page = build_page(studio)
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, share=False, quiet=True,
                show_error=False, max_file_size=studio.bounds.upload_bytes, allowed_paths=[], ssr_mode=False,
                enable_monitoring=False, mcp_server=False, pwa=False, footer_links=[], state_session_capacity=200,
                max_threads=16, app_kwargs={"middleware": _guards(studio, folder)},
                run_history=False, **page.look,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"the page cannot be served on {host}: {error}") from None
        served = Served(url, page, studio, folder, before)
        if block:
            print(f"musegen: the page is on {url} (Ctrl+C ends it)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
        return served
    finally:
        if block or served is None:
            served.close() if served else studio.close()
            _tidy(folder, before)


def _tidy(folder: Path, before: str | None) -> None:
    """Remove the uploads, and let gradio have its folder back."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.environ.get("GRADIO_TEMP_DIR") == str(folder):
        del os.environ["GRADIO_TEMP_DIR"]
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


def _guards(studio: Studio, folder: Path) -> list:
    from starlette.middleware import Middleware

    return [Middleware(Guard, bounds=studio.bounds, folder=folder)]


class Guard:
    """ASGI middleware: bounds of bodies, closed doors, headers.

    Args:
        app: What is guarded.
        bounds: Of the page.
        folder: Where uploads lie.
    """

    def __init__(self, app, bounds: Bounds, folder: Path):
        self.app, self.bounds, self.folder = app, bounds, folder

    async def __call__(self, scope, receive, send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        upload = path.rstrip("/").endswith("/upload")
        most = self.bounds.upload_bytes + _SLACK if upload else _FORM_BYTES
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if path not in _OPEN and (not path.startswith(_OPEN_BELOW) or "://" in path):
            await _refuse(send, 404, "not here")
        elif not length.isdigit() or int(length) > most:
            await _drain(receive)
            await _refuse(send, 413, f"at most {self.bounds.upload_bytes >> 20} MB are read")
        elif upload and self._stored() > self.bounds.stored_bytes:
            await _refuse(send, 503, "too many files at the moment; try again in some minutes")
        else:
            await self.app(scope, _counted(receive, most), _dressed(send))

    def _stored(self) -> int:
        total = 0
        for path in self.folder.rglob("*"):
            try:
                total += path.stat().st_size
            except OSError:  # gone meanwhile
                continue
        return total


async def _drain(receive) -> None:
    """Let a body that is a little too large come to its end: only then do all clients read the answer."""
    seen, more = 0, True
    while more and seen < _DRAINED_BYTES:
        message = await receive()
        seen += len(message.get("body", b""))
        more = message.get("more_body", False)


def _counted(receive, most: int):
    seen = 0

    async def counted():
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            return {"type": "http.disconnect"}
        return message

    return counted


def _dressed(send):
    async def dressed(message):
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return dressed


async def _refuse(send, code: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    # The rest of a large body is not waited for.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
