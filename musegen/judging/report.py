"""The judgement as one HTML page that needs nothing else: no script, no other host, pictures inside.

The page is made from the contents of `results.json`, the plots, and the pictures and audio handed in. The
template is `report.html` beside this module.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from musegen.errors import ConfigError, MusegenError
from musegen.judging import baselines, plots
from musegen.judging.bands import ABOVE, BELOW, INSIDE
from musegen.judging.measures import BLEU, METRICS
from musegen.judging.pieces import Piece
from musegen.judging.results import write_bytes, write_text
from musegen.judging.verdict import BEATS_WORDS, COPYING, number

_TEMPLATE = Path(__file__).with_name("report.html")
_SIGNS = {INSIDE: "✓", ABOVE: "▲", BELOW: "▼"}
GIVE_AWAYS = 8  # rows a model
COPIES = 12  # rows a group: the samples with the longest copied spans
MAX_MEDIA_BYTES = 24 * 1024**2  # a file; the page must stay one that a browser opens


def write_report(results: dict, out_dir: Path, *, samples: dict[str, list[Piece]], extras: dict | None = None) -> Path:
    """Write `report.html` and `plots/*.png`.

    Args:
        results: The contents of `results.json`.
        out_dir: Created.
        samples: The pieces by group, for the pictures of median samples.
        extras: See `musegen.judging.judge`.

    Returns:
        The page.

    Raises:
        ConfigError: A picture or audio file of unknown kind or too large, or a path without a file.
    """
    pictures = plots.draw_all(results)
    folder = out_dir / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        write_bytes(data, folder / f"{name}.png")
    for path in folder.glob("*.png"):  # of an earlier judgement, which had what this one has not
        if path.stem not in pictures:
            path.unlink()
    media = {
        name: _media(name, group, samples[name], extras or {})
        for name, group in results["groups"].items()
        if group["role"] == "model"
    }
    page = render_page(results, {name: data_uri(data) for name, data in pictures.items()}, media)
    write_text(page, out_dir / "report.html")
    return out_dir / "report.html"


def render_page(results: dict, pictures: dict[str, str], media: dict[str, dict]) -> str:
    """The page.

    Args:
        results: The contents of `results.json`.
        pictures: Plots by name, as data URIs.
        media: For each model: `pictures`, data URIs of the median sample, `roll`, whether they are only a piano
            roll, and `audio`, a data URI or None.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = number
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    models = {name: group for name, group in results["groups"].items() if group["role"] == "model"}
    return template.render(
        r=results,
        models=models,
        pictures=pictures,
        media=media,
        summary=_summary(results),
        details=_details(results),
        give_aways={name: _give_aways(group) for name, group in models.items()},
        copies={name: _copies(group) for name, group in models.items()},
        real_copies=_copies(results["real"]),
        told={name: _told(group) for name, group in models.items()},
        beats=BEATS_WORDS,
        baseline_notes=_baseline_notes(results),
    )


def _summary(results: dict) -> list[dict]:
    """One row a group for the table under the verdicts."""
    rows = []
    for name, group in results["groups"].items():
        test, metrics = group["two_sample"], group["metrics"]
        rows.append(
            {
                "label": group["label"],
                "role": group["role"],
                "inside": f"{group['inside']} of {group['judged']}",
                "distance": _cell(group["distance"]["value"], group["distance"]["place"]),
                "auc": _auc(test),
                "auc_place": test["place"],
                "span": _cell(metrics["copied_notes_transposed"]["mean"], metrics["copied_notes_transposed"]["place"]),
                "ngrams": _cell(metrics["note_9grams"]["mean"], metrics["note_9grams"]["place"]),
                "bleu": _cell(metrics[BLEU]["mean"], metrics[BLEU]["place"]),
                "error": _cell(group["similarity"]["error"], group["similarity"]["place"]),
                "bits": number(results["likelihood"].get(name, {}).get("bits_per_note")),
            }
        )  # fmt: skip
    return rows


def _told(group: dict) -> list[dict]:
    """The figures that decide, as the card of a model shows them."""
    return [
        {
            "label": row["label"],
            "value": number(row["value"]),
            "real": number(row["real"]),
            "band": number(None) if row["high"] is None else _span(number(row["low"]), number(row["high"])),
            "words": row["words"],
            "class": ("original " if row["name"] in COPYING else "") + row["words"].split(":")[0],
        }
        for row in group["verdict"]["told"]
    ]


def _span(low: str, high: str) -> str:
    return f"{low}\N{EN DASH}{high}"


def _auc(test: dict) -> str:
    if test["auc"] is None:
        return number(None)
    return f"{test['auc']:.2f} ({_span(format(test['low'], '.2f'), format(test['high'], '.2f'))})"


def _cell(value: float | None, place: str) -> dict:
    return {"text": number(value), "place": place, "sign": _SIGNS.get(place, "")}


def _details(results: dict) -> list[dict]:
    """One row a metric: real music's band, then each group's mean and place."""
    rows = []
    for name, metric in METRICS.items():
        band = results["real"]["metrics"][name]
        rows.append(
            {
                "label": metric.label,
                "unit": metric.unit,
                "kind": metric.kind,
                "real": number(band["mean"]),
                "band": _span(number(band["low"]), number(band["high"])),
                "cells": [
                    _cell(group["metrics"][name]["mean"], group["metrics"][name]["place"])
                    for group in results["groups"].values()
                ],
            }
        )
    return rows


def _give_aways(group: dict) -> list[dict]:
    rows = []
    for found in group["two_sample"]["give_aways"][:GIVE_AWAYS]:
        figure = group["metrics"][found["feature"]]
        rows.append(
            {
                "label": METRICS[found["feature"]].label,
                "auc": number(found["auc"]),
                "coefficient": f"{found['coefficient']:+.2f}",
                "mean": number(figure["mean"]),
                "real": number(figure["band"]["mean"]),
                "sign": _SIGNS.get(figure["place"], ""),
                "place": figure["place"],
            }
        )
    return rows


def _copies(group: dict) -> list[dict]:
    """The pieces of a group with the longest spans that stand in the training music."""
    pieces = sorted(group["pieces"], key=lambda piece: -piece["copied"]["notes"])
    return [
        {"name": piece["name"], "exact": piece["copied_exact"]["notes"], **piece["copied"]}
        for piece in pieces[:COPIES]
    ]


def _baseline_notes(results: dict) -> dict[str, str]:
    order = results["likelihood"]["markov"]["order"]
    notes = {
        "markov": f"an n-gram model with back-off (order {order}) on notewise tokens, trained on the same pieces: it "
        "knows what comes next, and nothing of what was",
        "shuffled_bars": "bars of a training piece in random order: real bars, no form",
        "copy_machine": "passages of training pieces, every second one transposed: must be caught as a copy, and "
        "by nothing else",
        "random_in_key": "notes of one key at random, as many and as long as in the training pieces",
    }
    return {baselines.LABELS[name]: text for name, text in notes.items()}


def _media(name: str, group: dict, samples: Sequence[Piece], extras: dict) -> dict:
    """Pictures and audio of the median sample: handed in, rendered on demand, or a piano roll."""
    sample = group["median_sample"]
    piece = next(piece for piece in samples if piece.name == sample)
    given = {
        "pictures": extras.get("pictures", {}).get(name, {}).get(sample),
        "audio": extras.get("audio", {}).get(name, {}).get(sample),
    }
    if extras.get("render") and not any(given.values()):
        # A sample that cannot be engraved is still worth a page.
        with contextlib.suppress(MusegenError):
            given |= extras["render"](piece)
    shown = given.get("pictures") or []
    shown = [shown] if isinstance(shown, (bytes, str, Path)) else list(shown)
    audio = given.get("audio")
    return {
        "sample": sample,
        "pictures": [data_uri(item) for item in shown or [plots.piano_roll(piece.score)]],
        "roll": not shown,
        "audio": data_uri(audio) if audio else None,
    }


def data_uri(item: bytes | str | Path) -> str:
    """A picture or audio file as a data URI.

    Args:
        item: Its bytes, or its path.

    Raises:
        ConfigError: Unknown kind, too large, or no such file.
    """
    name = "a picture or audio file" if isinstance(item, bytes) else str(item)
    if not isinstance(item, bytes):
        if not Path(item).is_file():
            raise ConfigError(f"{name}: no such file to show in the report")
        item = Path(item).read_bytes()
    if len(item) > MAX_MEDIA_BYTES:
        raise ConfigError(f"{name}: {len(item):,} bytes; the report takes at most {MAX_MEDIA_BYTES:,}")
    return f"data:{_kind(item, name)};base64,{base64.b64encode(item).decode('ascii')}"


def _kind(data: bytes, name: str) -> str:
    """The media type, by content."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data.startswith(b"OggS"):
        return "audio/ogg"
    if data.startswith(b"fLaC"):
        return "audio/flac"
    if data.startswith(b"ID3") or (data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xE0 == 0xE0):
        return "audio/mpeg"
    if b"<svg" in data[:1024]:
        return "image/svg+xml"
    raise ConfigError(f"{name}: the report shows PNG, JPEG, SVG, WAV, MP3, Ogg and FLAC; this is none of them")
