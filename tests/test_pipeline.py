"""`pipeline("music-generation")`: every kind of input, from a saved folder, in a fresh process."""

import subprocess
import sys

import numpy as np
import pytest
from transformers import pipeline

import musegen.pipeline  # registers the task
from musegen import grid as g
from musegen.errors import MusegenError
from musegen.scores import midi_bytes, parse_midi
from musegen.training import save_model


@pytest.fixture(scope="module")
def folder(tiny_model, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    save_model(tiny_model, tokenizer, out)
    return out


@pytest.fixture(scope="module")
def composer(folder):
    return pipeline(musegen.pipeline.TASK, model=str(folder))


def test_every_kind_of_prompt_gives_the_same_music(composer, scores, tmp_path):
    score = scores["k545"]
    path = tmp_path / "prompt.mid"
    path.write_bytes(midi_bytes(score))
    options = {"prompt_bars": 2, "bars": 1, "max_tokens": 60, "seed": 3}
    results = [composer(p, **options) for p in (path, str(path), path.read_bytes(), score)]
    assert all(r["input_ids"] == results[0]["input_ids"] for r in results)
    assert results[0]["prompt_bars"] == 2
    again = parse_midi(results[0]["midi"]).score
    assert np.array_equal(g.note_array(again), g.note_array(results[0]["score"]))


def test_from_nothing_in_lists_and_in_numbers(composer):
    options = {"bars": 1, "max_tokens": 50}
    assert composer(**options)["prompt_bars"] == 0
    assert len(composer([None, None], **options)) == 2
    pieces = composer(num_return_sequences=3, **options)
    assert len({tuple(p["input_ids"]) for p in pieces}) == 3


def test_a_piece_does_not_depend_on_its_neighbours(composer, scores):
    options = {"bars": 2, "prompt_bars": 2, "max_tokens": 200, "seed": 5}
    score, other = scores["k545"], scores["k155/movement3"]
    alone = composer(score, **options)
    among = composer([None, other, score], num_return_sequences=2, **options)[2][0]
    assert alone["input_ids"] == among["input_ids"]


def test_wishes_reach_the_piece(composer):
    piece = composer(bars=2, time_signature="6/8", tempo=72, instruments="piano", key="Eb", max_tokens=400)
    assert piece["score"].tempos[0].qpm == pytest.approx(72, abs=0.01)
    assert {track.program for track in piece["score"].tracks} <= {0}
    assert (piece["score"].time_signatures[0].numerator, piece["score"].time_signatures[0].denominator) == (6, 8)
    assert piece["header"].key == (3, False) and len(piece["note_log_probs"]) == len(g.note_array(piece["score"]))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"bars": 0}, "bars: from 1"),
        ((), {"tempoo": 3}, "no option tempoo"),
        ((3.5,), {}, "a prompt is a path"),
        ((), {"num_return_sequences": 0}, "num_return_sequences"),
        ((), {"key": "H"}, "key 'H'"),
        ((), {"instruments": "kazoo"}, "not known"),
        ((), {"composer": "Mozart"}, "knows no composers"),
        (([b"no music"],), {}, "does not begin like a MIDI file"),
    ],
)
def test_bad_requests(composer, args, kwargs, message):
    with pytest.raises(MusegenError, match=message):
        composer(*args, **kwargs)


def test_in_a_fresh_process(folder, tmp_path):
    code = (
        "import sys, musegen.pipeline\nfrom transformers import pipeline\n"
        "p = pipeline('music-generation', model=sys.argv[1])\n"
        "open(sys.argv[2], 'wb').write(p(bars=1, max_tokens=80, seed=4)['midi'])"
    )
    out = tmp_path / "out.mid"
    subprocess.run([sys.executable, "-c", code, folder, out], check=True, capture_output=True)
    assert out.read_bytes()[:4] == b"MThd"
