"""MusicXML as engraved pages, SVG or PNG.

verovio engraves; its SVG is made self-contained (no font is needed for the music, text asks for Times with
ordinary substitutes), and resvg draws it with the Times-like STIX fonts that come with matplotlib, so that the
same picture appears on a machine without any fonts.

Units of the page: tenths of a millimetre on A4 paper; of pictures: pixels.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import symusic

from musegen.rendering.files import RenderingError, replacing
from musegen.rendering.musicxml import score_to_musicxml

_SVG = "http://www.w3.org/2000/svg"
_SPACE = "{http://www.w3.org/XML/1998/namespace}space"
_XLINK = "http://www.w3.org/1999/xlink"
_PAGE_WIDTH, _PAGE_HEIGHT = 2100, 2970
_STAFF_HEIGHT = 190  # a staff with the space around it
_MUSIC_FONT = "Leland"
_GLYPH_UNITS = 1000  # of the design square of verovio's glyph outlines
_MARK_SCALE = 0.68  # verovio sets the note of a tempo mark as large as the notes of the staff
_TITLE_SCALE = 1.7  # verovio sets title and composer in one size
_FONTS = ("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf",
          "DejaVuSerif.ttf", "DejaVuSans.ttf")  # fmt: skip


def render_sheet(
    score: symusic.Score,
    path: str | Path,
    *,
    title: str | None = None,
    composer: str | None = None,
    max_pages: int | None = None,
    width: int = 1400,
) -> list[Path]:
    """Engrave a score.

    Args:
        score: Any score in ticks.
        path: Where to write, ending in `.svg` or `.png`; of several pages, page 2 goes to `NAME-page2.png` and so on.
        title: Printed above the first system.
        composer: Printed below the title.
        max_pages: Pages written at the most; all by default.
        width: Of a page, in pixels.

    Returns:
        The files written, in the order of the pages. Pages of an earlier, longer score are removed.

    Raises:
        RenderingError: The score has no notes, or the ending of the path is another one.
    """
    return engrave(score_to_musicxml(score, title=title, composer=composer), path, max_pages=max_pages, width=width)


def engrave(musicxml: str, path: str | Path, *, max_pages: int | None = None, width: int = 1400) -> list[Path]:
    """Engrave a MusicXML document; arguments, returns and errors as for `render_sheet`."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".svg", ".png"):
        raise RenderingError(f"{path}: sheet music is written as .svg or .png")

    def page(number: int) -> Path:
        return path if number == 1 else path.with_name(f"{path.stem}-page{number}{path.suffix}")

    written = []
    for svg in _pages(musicxml, max_pages, width):
        with replacing(page(len(written) + 1)) as aside:
            aside.write_bytes(svg.encode() if kind == ".svg" else _to_png(svg, width))
        written.append(page(len(written) + 1))
    stale = len(written) + 1
    while page(stale).exists():
        page(stale).unlink()
        stale += 1
    return written


def _pages(musicxml: str, max_pages: int | None, width: int):
    """The pages as SVG documents, one after the other."""
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    staves = sum(int(count) for count in re.findall(r"<staves>(\d+)", musicxml)) or 1
    staves += musicxml.count("<score-part ") - musicxml.count("<staves>")
    # A system must fit its page: scores of many staves are set smaller on the same paper.
    shrink = max(1.0, (staves + 1) * _STAFF_HEIGHT / (_PAGE_HEIGHT * 0.9))
    toolkit.setOptions(
        {
            "pageWidth": round(_PAGE_WIDTH * shrink), "pageHeight": round(_PAGE_HEIGHT * shrink),
            "pageMarginLeft": 100, "pageMarginRight": 100, "pageMarginTop": 100, "pageMarginBottom": 100,
            "adjustPageHeight": True, "breaks": "auto", "header": "auto", "footer": "none", "scale": 100,
            "font": _MUSIC_FONT, "smuflTextFont": "none", "xmlIdChecksum": True, "outputIndent": 0,
            "spacingStaff": 10, "spacingSystem": 7, "minLastJustification": 0.6,
        }
    )  # fmt: skip
    if not toolkit.loadData(musicxml):
        raise RenderingError("verovio refuses the MusicXML of this score")
    for number in range(1, min(toolkit.getPageCount(), max_pages or 10_000) + 1):
        yield _portable(toolkit.renderToSVG(number), width)


def _portable(svg: str, width: int) -> str:
    """verovio's SVG with flat text, outlines for the notes in tempo marks, a white page, and its size."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == f"{{{_SVG}}}text"]:
            index = list(parent).index(child)
            parent.remove(child)
            for offset, element in enumerate(_flat_text(child, "pgHead" in parent.get("class", ""))):
                parent.insert(index + offset, element)
    wide, high = (float(root.get(side).removesuffix("px")) for side in ("width", "height"))
    root.set("width", f"{width}px")
    root.set("height", f"{round(high * width / wide)}px")
    root.set("viewBox", f"0 0 {wide:g} {high:g}")
    paper = {"width": "100%", "height": "100%", "style": "fill:white;stroke:none"}
    root.insert(0, ElementTree.Element(f"{{{_SVG}}}rect", paper))
    return ElementTree.tostring(root, encoding="unicode")


def _flat_text(text: ElementTree.Element, is_header: bool) -> list[ElementTree.Element]:
    """A text of nested spans as one text element for each position.

    Renderers differ on anchors inside nested spans and on the white space between them.
    """
    lines: list[tuple[dict[str, str], list[tuple[dict[str, str], str]]]] = []

    def walk(element: ElementTree.Element, inherited: dict[str, str]) -> None:
        style = {**inherited, **{k: v for k, v in element.attrib.items() if k.startswith("font-")}}
        if "x" in element.attrib or not lines:
            lines.append(({k: element.get(k) for k in ("x", "y", "text-anchor") if element.get(k)}, []))
        if element.text and element.text.strip("\n") and style.get("font-size") != "0px":
            lines[-1][1].append((style, element.text))
        for child in element:
            if child.tag == f"{{{_SVG}}}tspan":
                walk(child, style)

    walk(text, {})
    for position, runs in lines if is_header else ():
        if position.get("text-anchor") == "middle":
            for style, _ in runs:
                style["font-size"] = f"{float(style['font-size'].removesuffix('px')) * _TITLE_SCALE:g}px"
    return [element for position, runs in lines if runs for element in _line(position, runs)]


def _line(position: dict[str, str], runs: list[tuple[dict[str, str], str]]) -> list[ElementTree.Element]:
    """The elements of one line of text; music glyphs at its beginning become outlines."""
    elements = []
    x, y = float(position.get("x", 0)), float(position.get("y", 0))
    while runs and runs[0][0].get("font-family") == _MUSIC_FONT:
        style, characters = runs.pop(0)
        scale = float(style["font-size"].removesuffix("px")) / _GLYPH_UNITS * _MARK_SCALE
        for character in characters:
            outline, advance = _glyph(character)
            if outline is not None:
                transform = f"translate({x:g} {y:g}) scale({scale:g} {-scale:g})"
                shape = {"d": outline, "transform": transform, "style": "stroke:none"}
                elements.append(ElementTree.Element(f"{{{_SVG}}}path", shape))
            x += advance * scale
    if runs:
        place = {**position, "x": f"{x:g}", "y": f"{y:g}"}
        line = ElementTree.Element(f"{{{_SVG}}}text", {**place, _SPACE: "preserve"})
        for style, characters in runs:
            ElementTree.SubElement(line, f"{{{_SVG}}}tspan", style).text = characters
        elements.append(line)
    return elements


def _glyph(character: str) -> tuple[str | None, float]:
    """Outline and advance of a character of the music font, from verovio's own data."""
    data = importlib.resources.files("verovio") / "data" / _MUSIC_FONT
    file = data / f"{ord(character):04X}.xml"
    if not file.is_file():
        return None, _GLYPH_UNITS / 4
    path = ElementTree.fromstring(file.read_text()).find("path")
    outline = path.get("d") if path is not None else None
    numbers = [float(x) for x in re.findall(r"M\s*(-?\d+)", outline or "")]
    return outline, max(numbers, default=0.0) + _GLYPH_UNITS / 10


def _to_png(svg: str, width: int) -> bytes:
    import resvg_py

    fonts = _font_folder()
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            width=width,
            background="#ffffff",
            skip_system_fonts=True,
            font_files=[str(fonts / name) for name in _FONTS if (fonts / name).exists()],
            font_family="STIXGeneral",
            serif_family="STIXGeneral",
            sans_serif_family="DejaVu Sans",
        )
    )


def _font_folder() -> Path:
    """Where matplotlib keeps its fonts, without importing it."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise RenderingError("sheet music as PNG takes its fonts from matplotlib: pip install matplotlib")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
