"""The page, as people use it: in headless Chromium against a running server, and by hand-made requests."""

import base64
import json
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from musegen import grid as g
from musegen.app.bounds import Bounds
from musegen.app.forms import ANY, NOTHING, ONWARD, OWN, PLANS, REWRITE, Form
from musegen.app.reading import Hands
from musegen.app.roll import Roll
from musegen.app.sessions import Sessions
from musegen.errors import ConfigError, RequestError, WorkerError
from musegen.forms import parse_form
from musegen.sampling import SamplingOptions
from musegen.scores import midi_bytes, parse_midi

pytest.importorskip("gradio", reason="the page needs gradio (pip install 'musegen[app]')")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
browsing = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="no chromium on this machine: the page is not tested in a browser"
)
WAIT = 120_000  # milliseconds; other work may have the processor


@pytest.fixture(scope="module")
def served(tmp_path_factory, scores):
    """A page over the models that ship and a corpus of four works."""
    from musegen.app import launch_app
    from musegen.corpus import build_corpus

    root = tmp_path_factory.mktemp("page")
    (root / "scores").mkdir()
    for name, score in scores.items():
        (root / "scores" / f"{name.replace('/', '-')}.mid").write_bytes(midi_bytes(score))
    build_corpus([str(root / "scores")], root / "corpus", workers=1, progress=False)
    # Seconds are generous, because other work may have the processor.
    patient = Bounds(compose_seconds=WAIT / 1000, draw_seconds=WAIT / 1000, read_seconds=WAIT / 1000)
    page = launch_app(corpus=root / "corpus", bounds=patient, block=False)
    yield page
    page.close()
    assert not page.folder.exists() and "GRADIO_TEMP_DIR" not in os.environ


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: the page is not tested in a browser"
    )
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=WAIT)
        yield found
        found.close()


@pytest.fixture
def visit(browser, served):
    """A function that opens the page as another person; no request may leave the machine."""
    asked, contexts = set(), []

    def open_page(**settings):
        context = browser.new_context(**settings)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.add(request.url))
        page.goto(served.url)
        page.wait_for_selector("#compose")
        return page

    yield open_page
    for context in contexts:
        context.close()
    served_by = served.url.rstrip("/") + "/"
    assert served_by.startswith("http://127.0.0.1:")
    assert [url for url in asked if not url.startswith((served_by, "data:", "blob:"))] == []


def compose(page, *, bars=None):
    if bars is not None:
        field = page.locator("#bars input[type=number]")
        field.fill(str(bars))
        field.press("Tab")
    page.click("#compose")


def give(page, mode, path):
    page.locator("#mode label", has_text=mode).click()
    page.set_input_files("#file input[type=file]", path)


def downloaded(page):
    """The score behind the link to the MIDI file."""
    link = page.get_by_role("link", name="MIDI").first.get_attribute("href")
    return parse_midi(base64.b64decode(link.split(",", 1)[1])).score


def done(page):
    page.locator("#status", has_text="Done:").wait_for()
    return page.inner_text("#status")


@browsing
def test_composing(visit):
    page = visit()
    refused = []
    page.on("console", lambda message: refused.append(message.text) if "Content Security" in message.text else None)
    compose(page, bars=8)
    assert "8 bars by mozart-gpt" in done(page)
    assert len(g.bar_grid(downloaded(page))) <= 8
    assert "Piano roll of 8 bars" in page.locator("#roll svg").get_attribute("aria-label")
    page.wait_for_function("document.querySelector('.mg-sheet img').naturalWidth > 300")
    page.wait_for_function("document.querySelector('.mg-player').duration > 1")
    page.locator("#judgement", has_text=re.compile("Longest copied span|Not judged")).wait_for()
    assert "8 new bars against the works in corpus" in page.inner_text("#judgement")
    assert page.locator("#compose", has_text="Compose").is_enabled() and not page.locator("#stop").is_visible()
    assert refused == []


@browsing
def test_a_song_returns_to_where_it_began(visit):
    page = visit()
    field = page.locator("#plan input").first
    field.click()
    page.get_by_role("option", name="There and back").click()
    compose(page, bars=12)
    assert "12 bars by mozart-gpt" in done(page)
    score = downloaded(page)
    notes, starts = g.note_array(score), np.append(g.bar_grid(score).starts, [2**30] * 12)  # the end may be silent
    first, last = (notes[(notes["onset"] >= starts[i]) & (notes["onset"] < starts[i + 4])] for i in (0, 8))
    assert np.array_equal(first["pitch"], last["pitch"])
    assert np.array_equal(first["onset"], last["onset"] - starts[8])
    sheets = [image.get_attribute("src") for image in page.locator(".mg-sheet img").all()]
    pages = "".join(base64.b64decode(sheet.split(",", 1)[1]).decode() for sheet in sheets)
    assert re.findall(r">([AB])<", pages) == ["A", "B", "A"]


@browsing
def test_rewriting_bars_of_a_given_piece(visit, movement_paths, scores):
    page = visit()
    give(page, REWRITE, movement_paths["k155/movement3"])
    page.locator("#given", has_text="bars").wait_for()
    compose(page)
    done(page)
    before, after = scores["k155/movement3"], downloaded(page)
    start, end = (int(g.bar_grid(before).starts[i]) for i in (4, 8))  # bars 5 to 8

    def around(score):
        notes = g.note_array(score)
        return notes[(notes["onset"] < start) | (notes["onset"] >= end)][["onset", "pitch", "program"]]

    assert np.array_equal(around(before), around(after))
    assert page.locator("#roll .fresh").count() == 1


@browsing
def test_a_corrupt_file_and_one_of_100_mb(visit, served, tmp_path):
    page = visit()
    broken, large = tmp_path / "broken.mid", tmp_path / "large.mid"
    broken.write_bytes(b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk\0\0\0\x40\0\x90")
    with large.open("wb") as file:
        file.truncate(100 * 1024**2)
    give(page, ONWARD, broken)
    page.locator(".toast-body", has_text="broken.mid").wait_for()
    assert "gradio" not in page.inner_text(".toast-body") and "/tmp" not in page.inner_text(".toast-body")
    page.locator("#file input[type=file]").wait_for(state="attached")
    page.set_input_files("#file input[type=file]", large)
    page.locator(".toast-body, #file", has_text="size").first.wait_for()
    compose(page)
    page.locator(".toast-body", has_text="drop a MIDI or MusicXML file first").wait_for()
    assert not [path for path in served.folder.rglob("*") if path.is_file() and path.stat().st_size > 10**6]


@browsing
def test_two_people_at_once_and_the_fault_of_one(visit, served):
    one, other = visit(), visit()
    one.locator("#instruments input").first.fill("kazoo of doom")
    one.keyboard.press("Tab")
    compose(one, bars=4)
    compose(other, bars=4)
    one.locator(".toast-body", has_text="kazoo").wait_for()
    assert "4 bars" in done(other)
    assert other.locator(".toast-body").count() == 0 and "Not composed" in one.inner_text("#status")
    assert served.studio.sessions.count <= 1  # the judgement of the other's may still be under way


@browsing
def test_stopping(visit):
    page = visit()
    compose(page, bars=64)
    page.locator("#status", has_text=re.compile(r"Bar \d+ of 64")).wait_for()
    page.click("#stop")
    text = done(page)
    assert "Stopped" in text and "64 bars" not in text
    page.locator("#compose", has_text="Compose").wait_for()


@browsing
def test_on_a_phone(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#compose").bounding_box()
    assert box["width"] > 120 and box["height"] >= 40 and box["x"] >= 0 and box["x"] + box["width"] <= 390


def call(served, fn_index, data):
    """What the server says to a hand-made request of the page's function."""
    body = {"data": data, "fn_index": fn_index, "session_hash": "stranger"}
    headers = {"content-type": "application/json"}
    api = f"{served.url}gradio_api/queue"
    request = urllib.request.Request(f"{api}/join", json.dumps(body).encode(), headers)
    try:
        urllib.request.urlopen(request, timeout=60).read()
        said = ""
        with urllib.request.urlopen(f"{api}/data?session_hash=stranger", timeout=60) as events:
            for line in events:
                said += line.decode()
                if "process_completed" in said or "close_stream" in said:
                    return said
    except urllib.error.HTTPError as error:
        return error.read().decode()
    return said


def status_of(url, data=None, headers=None):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", "http://127.0.0.1:9/score.mid"])
def test_no_path_of_a_stranger_reaches_the_file_system(served, path):
    with urllib.request.urlopen(f"{served.url}config", timeout=60) as answer:
        config = json.load(answer)
    upload = next(d["id"] for d in config["dependencies"] if any(t[1] == "upload" for t in d["targets"]))
    said = call(served, upload, [{"path": path, "orig_name": "x.mid", "meta": {"_type": "gradio.FileData"}}])
    assert '"success":false' in said.replace(" ", "") and "root:" not in said
    assert status_of(f"{served.url}gradio_api/file={path}") == 404


def test_closed_doors_and_bounds_of_bodies(served):
    assert status_of(f"{served.url}gradio_api/proxy=https://example.org/") == 404
    assert status_of(f"{served.url}gradio_api/queue/join", b"x" * 300_000) == 413
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.mid"\r\n\r\n' + b"0" * 6 * 2**20
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert status_of(f"{served.url}gradio_api/upload", body + b"\r\n--b--\r\n", kind) == 413
    assert not [path for path in served.folder.rglob("*") if path.is_file() and path.stat().st_size > 10**6]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"mode": "/etc/passwd"}, "what to do"),
        ({"model": "../secret"}, "model: one of small"),
        ({"bars": 10**9}, "bars: a number from 1 to 64"),
        ({"bars": float("nan")}, "bars: a number"),
        ({"bars": [4]}, "bars: a number"),
        ({"bars": True}, "bars: a number"),
        ({"bars": 4.5}, "bars: a whole number"),
        ({"seed": -1}, "seed"),
        ({"surprise": 11}, "surprise: a number from 0 to 10"),
        ({"key": "H major"}, "key"),
        ({"instruments": "x" * 5000}, "at most 120 letters"),
        ({"composer": ["a"]}, "composer: a few words"),
        ({"tempo": 1e9}, "tempo: a number from 20 to 300"),
        ({"plan": "Sonata"}, "form: one of As it comes"),
        ({"plan": ["A B A"]}, "form: one of As it comes"),
        ({"mode": REWRITE, "first": 9, "last": 8}, "the first one first"),
        ({"mode": REWRITE, "first": 1, "last": 64}, "from 1 to 16 bars"),
    ],
)
def test_forms_are_checked_on_the_server(answers, said):
    with pytest.raises(RequestError, match=said):
        Form(**{"model": "small", **answers}).checked(Bounds(), ["small"])


def test_a_form_becomes_a_request():
    asked = Form(model="small", bars=12.0, key="D major", metre=ANY, tempo=96, seed="7").checked(Bounds(), ["small"])
    assert (asked.mode, asked.bars, asked.wishes.tonic, asked.wishes.metre) == (NOTHING, 12, (2, False), None)
    plain, tuned = SimpleNamespace(), SimpleNamespace(generation_config=SimpleNamespace(temperature=0.9, top_p=0.99))
    for model in (plain, tuned):  # in the middle of the slider, what `musegen generate` takes
        assert asked.options(model) == SamplingOptions(seed=7, max_tokens=Bounds().tokens).filled(model)
    for surprise, drawn in ((0, (0.63, 0.94)), (10, (1.17, 0.999))):
        found = Form(model="small", surprise=surprise, seed=1).checked(Bounds(), ["small"]).options(tuned)
        assert (found.temperature, found.top_p) == drawn


def test_a_form_shares_out_the_new_bars():
    def asked(plan, bars, mode=NOTHING):
        return Form(model="small", mode=mode, plan=plan, bars=bars).checked(Bounds(), ["small"])

    song, rondo = (plan for plan in PLANS if plan.startswith(("Rondo", "Song")))
    assert asked(None, 16).form(0) == asked("As it comes", 16).form(4) == (None, 16)
    assert asked(song, 32).form(0) == ("A8 A' B8 A'", 32) and asked(rondo, 32).form(0) == ("A6 B6 A6 C6 A6", 30)
    assert asked(song, 28, ONWARD).form(4) == ("A8 A' B8 A'", 28)
    assert [section.bars for section in parse_form(asked(song, 33).form(0)[0])] == [8] * 4
    assert asked(song, 16, REWRITE).form(0) == (None, 4)
    with pytest.raises(RequestError, match=r"A B A C A needs 10 new bars or more$"):
        asked(rondo, 9).form(0)
    with pytest.raises(RequestError, match="A A' B A' needs 24 new bars or more, or keep fewer than 8 bars"):
        asked(song, 23, ONWARD).form(8)


def test_the_composer_is_the_models_own_unless_a_person_chooses():
    said = {OWN: None, None: None, ANY: "any", "wolfgang-amadeus-mozart": "wolfgang-amadeus-mozart"}
    for answer, wished in said.items():
        assert Form(model="small", composer=answer).checked(Bounds(), ["small"]).wishes.composer == wished


def test_one_piece_a_person_and_the_clock():
    sessions = Sessions()
    with sessions.composing("a", 60) as mine, sessions.composing("b", 0.01) as theirs:
        with pytest.raises(RequestError, match="still being written"), sessions.composing("a", 60):
            pass
        assert theirs.stop.wait(10) and theirs.late
        assert not mine.stop.is_set() and not sessions.stop("c")
        assert sessions.stop("a") and mine.stop.is_set() and not mine.late
    assert sessions.count == 0


def test_the_piano_roll_has_every_note_in_its_bar(scores):
    roll = Roll(30, given=2)
    roll.add(scores["k545"])
    svg = roll.svg()
    assert svg.count("h-") == len(g.note_array(scores["k545"])) and 'class="given"' in svg
    assert f"Piano roll of {len(g.bar_grid(scores['k545']))} bars" in svg


def test_where_real_pieces_are_short_fewer_bars_are_compared(served, scores, monkeypatch):
    from musegen.app import yardstick

    monkeypatch.setattr(yardstick, "LENGTHS", (1000, 8, 4))
    real = yardstick.RealYardstick(served.studio.yardstick._corpus)
    try:
        found = real.judge(scores["k545"], 0, 1000, seconds=WAIT / 1000)
        assert found.bars == 8 and found.works >= 1
        assert found == real.judge(scores["k545"], 0, 8, seconds=WAIT / 1000)
    finally:
        real.close()


def test_without_a_model_there_is_no_page(monkeypatch):
    from musegen.app import studio

    monkeypatch.setattr(studio, "shipped_names", lambda: [])
    with pytest.raises(ConfigError, match="name one with --model"):
        studio.Studio()


def test_drawing_that_runs_into_its_bound_leaves_nothing(scores, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hands = Hands(Bounds(draw_seconds=0.4))
    try:
        with pytest.raises(WorkerError, match="timeout"):
            hands.draw(midi_bytes(scores["k545"]), "K. 545")
    finally:
        hands.close()
    assert list(tmp_path.iterdir()) == []
