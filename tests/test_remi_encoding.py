"""REMI ids in numpy against miditok's own, id for id."""

import subprocess
import sys

import numpy as np
import pytest
import symusic
from miditok import REMI, TokenizerConfig

from musegen.remi import one_track_a_program, remi_config
from musegen.remi_encoding import encode_ids


@pytest.fixture(scope="module")
def remi():
    return REMI(remi_config())


def random_score(seed):
    """Notes, tempos and metres anywhere on the canonical grid, or off it: long notes, drums, unisons, silence."""
    rng = np.random.default_rng(seed)
    score = symusic.Score(96)
    step = int(rng.choice([1, 4, 24]))
    time = 0
    for _ in range(rng.integers(0, 6)):
        numerator, denominator = [(4, 4), (3, 4), (6, 8), (7, 16), (5, 8), (2, 2), (13, 4)][rng.integers(7)]
        score.time_signatures.append(symusic.TimeSignature(time, numerator, denominator))
        time += int(rng.integers(0, 5)) * 384 * numerator // denominator + int(rng.integers(2)) * int(rng.integers(50))
    for at in sorted(rng.integers(0, 4000, rng.integers(0, 8)).tolist()):
        score.tempos.append(symusic.Tempo(at, float(rng.uniform(20, 300))))
    for _ in range(rng.integers(0, 5)):
        track = symusic.Track("", int(rng.choice([0, 0, 40, 127])), bool(rng.random() < 0.2))
        count = int(rng.integers(0, 60))
        onsets = np.sort(rng.integers(0, 4000 // step, count) * step)
        lengths = rng.choice([1, 4, 24, 36, 96, 1000, 20_000], count)
        pitches = rng.integers(0, 128, count)
        for onset, length, pitch in zip(onsets.tolist(), lengths.tolist(), pitches.tolist()):
            track.notes.append(symusic.Note(onset, length, pitch, 80))
        score.tracks.append(track)
    return score


def test_real_music_gives_the_ids_of_miditok(remi, scores):
    for score in scores.values():
        merged = one_track_a_program(score)
        assert encode_ids(remi, merged).tolist() == remi.encode(merged, encode_ids=False).ids


def test_any_score_gives_the_ids_of_miditok(remi):
    found = 0
    for seed in range(300):
        score = random_score(seed)
        ids = encode_ids(remi, score)
        if ids is not None:
            found += 1
            assert ids.tolist() == remi.encode(score, encode_ids=False).ids, seed
    assert found > 290


def test_other_kinds_of_tokens_are_left_to_miditok(scores):
    for change in ({"use_velocities": True}, {"use_rests": True}, {"program_changes": False}):
        parameters = {**remi_config().to_dict(), **change}
        assert encode_ids(REMI(TokenizerConfig.from_dict(parameters)), scores["k545"]) is None


def test_a_process_that_only_encodes_does_without_torch():
    code = (
        "import sys; from musegen.remi import untrained_remi; untrained_remi(); assert 'torch' not in sys.modules; "
        "import miditok.pytorch_data; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
