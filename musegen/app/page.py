"""The Gradio page: what is where, and what happens on a click. Everything else is the studio's.

Errors of a person become `gr.Error` in plain words; a fault of ours says nothing of its inside.
"""

from __future__ import annotations

import dataclasses
import html
import logging
from collections.abc import Iterator
from pathlib import Path

from musegen.app import forms, views
from musegen.app.bounds import Bounds
from musegen.app.forms import ANY, MODES, NOTHING, ONWARD, OWN, REWRITE, Form
from musegen.app.studio import Given, Studio
from musegen.errors import ConfigError, MusegenError
from musegen.scores import SUFFIXES

try:
    import gradio as gr
except ImportError:
    raise ConfigError("the page needs gradio: pip install 'musegen[app]'") from None

_LOG = logging.getLogger(__name__)
_CSS = Path(__file__).with_name("page.css")
_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
_OURS = "Something went wrong on our side, and nothing of it is kept. Please try again."


def build_page(studio: Studio) -> gr.Blocks:
    """The page over a studio."""
    bounds = studio.bounds
    with gr.Blocks(title="musegen", analytics_enabled=False, delete_cache=(60, bounds.kept_seconds)) as page:
        gr.HTML(views.HEADER)
        with gr.Row(elem_classes="mg-desk"):
            with gr.Column(scale=4, min_width=320, elem_classes="mg-form"):
                asked = _Asking(studio)
            with gr.Column(scale=8, min_width=320, elem_classes="mg-result"):
                status = gr.HTML("", elem_id="status")
                roll = gr.HTML(views.EMPTY, elem_id="roll")
                music = gr.HTML("", elem_id="music")
                judged = gr.HTML("", elem_id="judgement")
        gr.HTML(f'<footer class="mg-foot">{_footer(studio)}</footer>')
        shown = [status, roll, music, judged]
        _connect(studio, asked, shown)
        page.unload(_leaver(studio))
    page.look = {"theme": _theme(), "css": _CSS.read_text(encoding="utf-8")}  # arguments of `launch`
    page.queue(max_size=bounds.queue, default_concurrency_limit=bounds.at_once, api_open=False)
    return page


def _theme():
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo, neutral_hue=gr.themes.colors.stone, radius_size="md",
        font=_SANS, font_mono=_MONO,
    )  # fmt: skip


def _footer(studio: Studio) -> str:
    bounds = studio.bounds
    return (
        "Nothing leaves this server: no other host is contacted. Your file is read in a process of its own, lies here "
        f"for {bounds.kept_seconds // 60} minutes at the most, and what is composed is never stored."
    )


class _Asking:
    """The left column: all that can be asked."""

    def __init__(self, studio: Studio):
        bounds = studio.bounds
        self.mode = gr.Radio(MODES, value=NOTHING, label="What shall be composed?", elem_id="mode")
        with gr.Group(visible=False) as self.giving:
            self.file = gr.File(
                label=f"MIDI or MusicXML, up to {bounds.upload_bytes >> 20} MB", file_types=list(SUFFIXES),
                height=120, elem_id="file",
            )  # fmt: skip
            self.about = gr.HTML("", elem_id="given")
            self.opening = gr.Number(
                8, label="Bars of it to keep", precision=0, minimum=1, maximum=bounds.opening_bars
            )
            with gr.Row(visible=False) as self.gap:
                self.first = gr.Number(5, label="Rewrite from bar", precision=0, minimum=1, min_width=120)
                self.last = gr.Number(8, label="to bar", precision=0, minimum=1, min_width=120)
        _closed(self.file)
        self.given = gr.State(None, time_to_live=3600)
        self.model = gr.Dropdown(studio.models, value=studio.models[0], label="Model", elem_id="model")
        self.bars = gr.Slider(4, bounds.bars, 16, step=1, label="New bars", elem_id="bars")
        plans = list(forms.PLANS)
        self.plan = gr.Dropdown(
            plans, value=plans[0], label="Form", elem_id="plan", info="What returns is the same, A' has another end"
        )
        with gr.Row():
            self.key = gr.Dropdown([ANY, *forms.KEYS], value=ANY, label="Key", min_width=130)
            self.metre = gr.Dropdown([ANY, *forms.METRES], value=ANY, label="Metre", min_width=130)
        self.instruments = gr.Dropdown(
            [ANY, *forms.INSTRUMENTS], value=ANY, label="Instruments", allow_custom_value=True,
            elem_id="instruments",
            info="Choose, or write your own: flute, harp",
        )  # fmt: skip
        self.surprise = gr.Slider(
            0, forms.MOST_SURPRISE, 5, step=1, label="Surprise", elem_id="surprise",
            info="0 keeps to the likeliest notes, 5 is as the music it learnt from, 10 takes risks",
        )  # fmt: skip
        with gr.Accordion("More", open=False):
            self.composer = gr.Dropdown(
                [OWN, ANY, *studio.composers], value=OWN, label="Composer", visible=bool(studio.composers)
            )
            with gr.Row():
                self.tempo = gr.Number(
                    None, label="Tempo", info="Quarters a minute", minimum=20, maximum=300, min_width=130
                )
                self.seed = gr.Number(
                    None, label="Seed", info="Same seed, same piece", precision=0, minimum=0, min_width=130
                )
        with gr.Row(elem_classes="mg-go"):
            self.go = gr.Button("Compose", variant="primary", elem_id="compose", size="lg")
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", size="lg", visible=False, min_width=100)

    @property
    def fields(self) -> dict[str, gr.components.Component]:
        """The components that are fields of a `Form`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Form)}


def _closed(file: gr.File) -> None:
    """Refuse an address in place of a file: the server would fetch what a stranger names.

    On the object, not in a class: gradio writes a stub file beside the source of every subclass. It holds as long as
    events change nothing but the value of the component.
    """
    own = file.async_move_resource_to_block_cache

    async def move(place):
        if place is not None and "://" in str(place):
            raise gr.Error("A file is needed, not an address.", print_exception=False)
        return await own(place)

    file.async_move_resource_to_block_cache = move


def _connect(studio: Studio, asked: _Asking, shown: list) -> None:
    private = {"api_visibility": "private"}
    asked.mode.change(
        lambda mode: (
            gr.update(visible=mode != NOTHING),
            gr.update(visible=mode == ONWARD),
            gr.update(visible=mode == REWRITE),
            gr.update(visible=mode != REWRITE),
            gr.update(visible=mode != REWRITE),
        ),
        asked.mode,
        [asked.giving, asked.opening, asked.gap, asked.bars, asked.plan],
        show_progress="hidden", queue=False, **private,
    )  # fmt: skip
    asked.file.upload(
        _reader(studio), asked.file, [asked.given, asked.about], concurrency_id="read", concurrency_limit=2,
        show_progress="minimal", show_progress_on=asked.about, **private,
    ).failure(lambda: (None, None, ""), None, [asked.file, asked.given, asked.about], show_progress="hidden",
              queue=False, **private)  # fmt: skip
    asked.file.clear(
        lambda: (None, ""), None, [asked.given, asked.about], show_progress="hidden", queue=False, **private
    )
    buttons = [asked.go, asked.stop]
    names = list(asked.fields)
    running = asked.go.click(
        lambda: (gr.update(interactive=False, value="Composing"), gr.update(visible=True)),
        None, buttons, show_progress="hidden", queue=False, **private,
    ).then(
        _writer(studio, names), [*asked.fields.values(), asked.given], shown, concurrency_id="compose",
        concurrency_limit=studio.bounds.at_once, show_progress="hidden", **private,
    )  # fmt: skip
    running.failure(
        lambda: views.status("Not composed: see the message above, change your wishes, and try again."),
        None, shown[:1], show_progress="hidden", queue=False, **private,
    )  # fmt: skip
    running.then(
        lambda: (gr.update(interactive=True, value="Compose"), gr.update(visible=False)),
        None, buttons, show_progress="hidden", queue=False, **private,
    )  # fmt: skip

    def stop(request: gr.Request) -> None:
        studio.sessions.stop(request.session_hash)

    asked.stop.click(stop, None, None, queue=False, show_progress="hidden", **private)


def _leaver(studio: Studio):
    def leave(request: gr.Request) -> None:
        studio.sessions.stop(request.session_hash)

    return leave


def _reader(studio: Studio):
    def read(path: str | None) -> tuple[Given | None, str]:
        if path is None:
            return None, ""
        try:
            # The path is gradio's own, of a file that this server received; a bound beyond the server's own.
            with Path(path).open("rb") as file:
                given = studio.read(Path(path).name, file.read(studio.bounds.upload_bytes + 1))
        except MusegenError as error:
            raise _plain(error) from None
        except Exception:
            raise _ours() from None
        return given, given.about

    return read


def _writer(studio: Studio, names: list[str]):
    def write(request: gr.Request, *values) -> Iterator[tuple]:
        *answers, given = values
        try:
            for view in studio.write(Form(**dict(zip(names, answers))), given, request.session_hash):
                parts = (view.status, view.roll, view.music, view.judgement)
                yield tuple(gr.skip() if part is None else part for part in parts)
        except MusegenError as error:
            raise _plain(error) from None
        except Exception:
            raise _ours() from None

    return write


def _plain(error: MusegenError) -> gr.Error:
    text = " ".join(str(error).split())[:400]
    # The message is shown as HTML, and may hold the name of a file.
    return gr.Error(
        html.escape(text[:1].upper() + text[1:], quote=False),
        title="This cannot be done",
        duration=12,
        print_exception=False,
    )


def _ours() -> gr.Error:
    _LOG.exception("a request to the page failed")
    return gr.Error(_OURS, title="Our fault", duration=12, print_exception=False)


__all__ = ["Bounds", "build_page"]
