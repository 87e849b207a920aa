"""Control tokens: headers, bars left, gaps, and windows that are opened again."""

import numpy as np
import pytest

from musegen import controls as c
from musegen import grid as g
from musegen.blocks import infill_ids
from musegen.errors import RequestError
from musegen.layout import StreamLayout
from musegen.scores import content_hash
from musegen.tokenizer_training import composers_of, train_tokenizer


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("D major", (2, False)),
        ("f# minor", (6, True)),
        ("Bbm", (10, True)),
        ("e", (4, True)),
        ("b", (11, True)),
        ("Es-Dur", (3, False)),
        ("fis moll", (6, True)),
        ("A-flat major", (8, False)),
        ("CM", (0, False)),
    ],
)
def test_keys_as_people_write_them(text, key):
    assert c.parse_key(text) == key
    assert c.parse_key(c.key_name(key)) == key


@pytest.mark.parametrize("text", ["", "H major", "D#b", "major", "C major minor"])
def test_no_key(text):
    with pytest.raises(RequestError, match="D major"):
        c.parse_key(text)


@pytest.mark.parametrize(
    ("sharps", "minor", "name"),
    [
        (0, False, "C major"),
        (2, False, "D major"),
        (-3, True, "C minor"),
        (0, True, "A minor"),
        (-1, False, "F major"),
    ],
)
def test_signatures(sharps, minor, name):
    assert c.key_name((c.signature_tonic(sharps, minor), minor)) == name


def test_composers_are_found_by_any_name_that_is_theirs_alone():
    known = ["johann-sebastian-bach", "carl-philipp-emanuel-bach", "wolfgang-amadeus-mozart"]
    assert c.find_composer("Mozart", known) == known[2]
    assert c.find_composer("J. S. Bach", ["j-s-bach"]) == "j-s-bach"
    assert c.find_composer("Johann Bach", known) == known[0]
    for name, words in (("Bach", "johann-sebastian-bach or carl"), ("Brahms", "known are johann"), ("", "not known")):
        with pytest.raises(RequestError, match=words):
            c.find_composer(name, known)


def test_steps_of_bars_left_cover_every_number():
    for left in range(1, 400):
        step = c.left_step(left)
        width = c.left_width(step)
        assert step <= left and (width is None or left < step + width)
        assert step == left or left >= 16


def test_a_score_tells_its_header(scores):
    score = scores["k545"]
    found = c.controls_of(score, "Wolfgang Amadeus Mozart")
    assert (found.composer, found.key, found.programs) == ("wolfgang-amadeus-mozart", (0, False), (0,))
    without = score.copy()
    without.key_signatures = type(score.key_signatures)()
    assert c.controls_of(without).key == (0, False)  # by its notes
    assert found.transposed(3).key == (3, False) and found.transposed(-1).key == (11, False)


@pytest.fixture(scope="module")
def with_composer(scores):
    return train_tokenizer([scores["k545"]], 1200, composers=["Wolfgang Amadeus Mozart"], progress=False)


def test_a_header_stands_before_the_bars_and_changes_no_note(with_composer, scores):
    tokenizer, score = with_composer, scores["k155/movement3"]
    controls = c.Controls("wolfgang-amadeus-mozart", (2, False), 121.0, (40, 41, 42))
    ids = tokenizer.encode_score(score, controls=controls)
    names = tokenizer.token_names(ids)
    bars = len(g.bar_grid(score))
    step = c.left_step(bars)
    assert names[:8] == [
        "BOS_None", "Composer_wolfgang-amadeus-mozart", "Key_Dmaj", "Tempo_120.0",
        "Program_40", "Program_41", "Program_42", f"Left_{step}",
    ]  # fmt: skip
    left = [int(name[5:]) for name in names if name.startswith("Left_")]
    assert left == [s for s in reversed(c.LEFT_STEPS) if s <= step]
    assert names[-1] == "EOS_None"
    back = tokenizer.decode_score(ids)
    assert content_hash(back) == content_hash(tokenizer.decode_score(tokenizer.encode_score(score, bos=False)))
    # Tempo and programs of a header are not played.
    assert len(g.note_array(back)) == len(g.note_array(score))
    assert [t.qpm for t in back.tempos] == [t.qpm for t in tokenizer.decode_score(ids[7:]).tempos]


def test_a_tokenizer_without_controls_writes_none(scores):
    plain = train_tokenizer([scores["k545"]], 1100, controls=False, progress=False)
    ids = plain.encode_score(scores["k545"], controls=c.Controls("mozart", (0, False), 120.0, (0,)))
    assert ids[0] == plain.bos_token_id and not plain.has_controls and plain.composers == []
    assert ids[1:-1] == plain.encode_score(scores["k545"], bos=False, eos=False)
    layout = StreamLayout(plain)
    assert layout.reopen(ids, int(layout.bar_starts(ids)[3])) == []


def test_bars_and_header_are_found_in_a_stream(with_composer, scores):
    tokenizer, score = with_composer, scores["k545"]
    layout = StreamLayout(tokenizer)
    ids = tokenizer.encode_score(score)
    starts = layout.bar_starts(ids)
    bars = tokenizer.merge_bars(tokenizer.base_ids(score))
    assert len(starts) == len(bars)
    header = layout.header(ids)
    assert header == tokenizer.header_ids(c.controls_of(score))
    for first in (1, 5, len(bars) - 3):
        reopened = [*layout.reopen(ids, starts[first]), *ids[starts[first] :]]
        assert reopened == tokenizer.stream(bars, header, first=first)


def test_a_gap_moves_bars_to_the_end(with_composer, scores):
    tokenizer, score = with_composer, scores["k545"]
    bars = tokenizer.merge_bars(tokenizer.base_ids(score))
    header = tokenizer.header_ids(c.controls_of(score))
    ids = infill_ids(tokenizer, bars, header, 4, 7)
    gap, sep = ids.index(tokenizer.gap_id), ids.index(tokenizer.sep_token_id)
    assert ids[:gap] == tokenizer.stream(bars, header, stop=4)
    assert ids[-1] == tokenizer.eos_token_id
    unbarred = [i for i in ids[sep + 1 : -1] if not tokenizer.token_names([i])[0].startswith("Left_")]
    assert unbarred == [i for bar in bars[4:7] for i in bar]
    assert tokenizer.token_names([ids[gap + 1]]) == [f"Left_{c.left_step(len(bars) - 7)}"]
    assert tokenizer.token_names([ids[sep + 1]]) == [f"Left_{c.left_step(len(bars) - 4)}"]
    assert infill_ids(tokenizer, bars, header, 4, 7, filled=False) == ids[: sep + 1]


def test_dropped_controls_are_gone():
    controls = c.Controls("x", (1, True), 90.0, (0, 40))
    assert controls.kept([True] * 4) == controls
    assert controls.kept([False] * 4) == c.Controls()
    assert controls.kept(np.array([False, True, False, True])) == c.Controls(None, (1, True), None, (0, 40))


def test_who_gets_a_token():
    rows = {"composer": ["B", "A", "A", "A", "", "", "", "B", "B", "C"]}
    assert composers_of(rows) == ["A", "B"]
    assert composers_of(rows, 1) == ["A", "B", "C"]
