"""The page: compose, see, hear and judge in a browser (`musegen app`; needs `pip install musegen[app]`).

    bounds                  what one person may ask for, and how long it may take
    forms                   what a person filled in, checked
    reading                 what runs in worker processes: reading uploads, drawing and playing pieces
    roll, views             the piano roll and the other pictures of the page, as HTML
    yardstick               real music, and a piece beside it
    sessions                who is composing, and how it is stopped
    studio                  from a form to music, step by step
    page, serving           the Gradio page; its server, closed to everything that it does not need

Nothing that is made is written to disk: pictures, sound and files travel inside the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from musegen.app.bounds import Bounds


def build_app(models: Sequence[str] = (), *, corpus: str | Path | None = None, bounds: Bounds | None = None):
    """The page as `gradio.Blocks`, for `launch_app` or for a Space.

    Args:
        models: Folders or Hub names of models, beside those that come with the package.
        corpus: The corpus that pieces are judged against; by default the Mozart that music21 carries.
        bounds: What one person may ask for.

    Raises:
        ConfigError: If gradio is missing, or there is no model.
        ModelError: If a model is none.
    """
    from musegen.app.page import build_page
    from musegen.app.studio import Studio

    return build_page(Studio(models, corpus=corpus, bounds=bounds))


def launch_app(
    models: Sequence[str] = (),
    *,
    corpus: str | Path | None = None,
    bounds: Bounds | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    block: bool = True,
):
    """Serve the page.

    Args:
        models: As for `build_app`.
        corpus: Likewise.
        bounds: Likewise.
        host: Address to listen on; `0.0.0.0` lets other machines in.
        port: By default the first free one from 7860.
        block: Serve until interrupted; False returns at once.

    Returns:
        The running `musegen.app.serving.Served`: its `url`, and `close`.

    Raises:
        ConfigError: If gradio is missing, there is no model, or the port is taken.
    """
    from musegen.app.serving import serve
    from musegen.app.studio import Studio

    return serve(Studio(models, corpus=corpus, bounds=bounds), host=host, port=port, block=block)


__all__ = ["build_app", "launch_app"]
