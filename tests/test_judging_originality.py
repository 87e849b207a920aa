"""Originality: the suffix array against brute force, and copies that must be found wherever they hide."""

import numpy as np
import pytest
import symusic

from musegen import grid, notewise
from musegen.judging.originality import NgramSet, TrainingIndex
from musegen.judging.pieces import Piece, barred_notes, cut_bars, windows
from musegen.judging.suffixes import SuffixArray


@pytest.mark.parametrize("seed", range(60))
def test_suffix_array_and_matches_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 3, rng.integers(0, 14)) for _ in range(rng.integers(1, 5))]
    index = SuffixArray(sequences)
    text = index.text.tolist()
    assert index.order.tolist() == sorted(range(len(text)), key=lambda i: text[i:])
    query = rng.integers(0, 4, 12)
    found = index.matches(query)
    for i in range(len(query)):
        best = 0
        for sequence in sequences:
            for j in range(len(sequence)):
                k = 0
                while i + k < len(query) and j + k < len(sequence) and sequence[j + k] == query[i + k]:
                    k += 1
                best = max(best, k)
        assert found.length[i] == best
        if best:
            number, place = index.sequence_of(int(found.place[i]))
            assert sequences[number][place : place + best].tolist() == query[i : i + best].tolist()
        else:
            assert found.place[i] == -1


def test_suffix_array_of_long_repeats():
    """Repeats longer than what the first sort sees, which is one integer of symbols."""
    once = np.random.default_rng(0).integers(0, 50, 400)
    index = SuffixArray([once, once, once[:300]])
    text = index.text.tolist()
    assert index.order.tolist() == sorted(range(len(text)), key=lambda i: text[i:])
    assert index.matches(once[5:]).length[0] == 395


def test_suffix_array_of_nothing():
    index = SuffixArray([])
    assert index.matches(np.array([1, 2])).length.tolist() == [0, 0]
    assert SuffixArray([np.array([1])]).matches(np.array([], dtype=np.int64)).length.tolist() == []


def melody(pitches, steps=None, program=0):
    """A canonical score of one note after the other; `steps` between onsets in twelfths of a beat."""
    steps = steps or [6] * len(pitches)
    score = symusic.Score(96)
    score.time_signatures.append(symusic.TimeSignature(0, 4, 4))
    track = symusic.Track("", program, False)
    onset = 0
    for pitch, step in zip(pitches, steps):
        track.notes.append(symusic.Note(onset * 8, step * 8, pitch, 80))
        onset += step
    score.tracks.append(track)
    return score


TUNE = [60, 62, 64, 65, 67, 65, 64, 62, 71, 72, 60, 59]


def test_spans_by_hand():
    index = TrainingIndex.build([("scale", melody([40, 41, 42, 43])), ("tune", melody(TUNE))])
    # Two notes of its own, then the tune's notes 5 to 9 three semitones higher, then its own again.
    sample = melody([80, 50, *[p + 3 for p in TUNE[4:9]], 50, 51])
    span = index.copied_span(sample)
    assert (span.notes, span.transposition, span.piece) == (5, 3, "tune")
    assert span.bars == (1, 2) and span.sample_bars == (1, 1)  # 8 eighths a bar: notes 5 to 9, and 3 to 7
    assert index.copied_span(sample, transposed=False).notes == 2  # 67 65, the third and fourth of the five


def test_rhythm_is_part_of_a_span_and_length_is_not():
    index = TrainingIndex.build([("tune", melody(TUNE))])
    assert index.copied_span(melody(TUNE, [6, 6, 6, 12, *[6] * 8])).notes == 8
    staccato = melody(TUNE)
    for note in staccato.tracks[0].notes:
        note.duration = 8
    assert index.copied_span(staccato, transposed=False).notes == len(TUNE)


def test_spans_do_not_run_from_one_piece_into_the_next():
    index = TrainingIndex.build([("a", melody(TUNE[:6])), ("b", melody(TUNE[6:]))])
    assert index.copied_span(melody(TUNE)).notes == 6


def test_figures_by_hand():
    index = TrainingIndex.build([("tune", melody(TUNE))])
    found = index.measure(melody(TUNE[:10] + [40, 45, 41, 46, 42, 47, 43, 48]))
    assert found.exact.notes == found.transposed.notes == 10
    assert found.note_ngrams == pytest.approx(2 / 10)  # of 10 runs of 9 notes, two are the tune's
    assert found.copied_share == 0.0  # no span of 16
    twice = TrainingIndex.build([("tune", melody(TUNE * 2))]).measure(melody([*TUNE * 2, 30, 31, 30, 31, 30, 31]))
    assert twice.copied_share == pytest.approx(24 / 30)


def naive_runs(sample, training, moved):
    """For each note of a sample, the longest run of notes from it on that stands in a training piece, note by note."""
    longest = []
    for i in range(len(sample)):
        best = 1
        for piece in training:
            for j in range(len(piece)):
                n = 1
                while i + n < len(sample) and j + n < len(piece):
                    mine, theirs = sample[i + n], piece[j + n]
                    if mine[0] - sample[i + n - 1][0] != theirs[0] - piece[j + n - 1][0]:
                        break
                    shift = sample[i][1] - piece[j][1]
                    if mine[1] - theirs[1] != shift or (shift and not moved):
                        break
                    n += 1
                best = max(best, n)
        longest.append(best)
    return longest


@pytest.mark.parametrize("seed", range(12))
def test_every_figure_equals_a_search_note_by_note(seed):
    """Random music of few pitches and steps, chords among it, and a sample that holds a transposed stretch of it."""
    rng = np.random.default_rng(seed)

    def tune(count):
        return melody(rng.choice([50, 52, 53, 57], count), rng.choice([3, 6], count).tolist())

    training = [tune(40), tune(25)]
    stolen = [n.pitch + 2 for n in training[0].tracks[0].notes][10:32]
    steps = np.diff([n.time // 8 for n in training[0].tracks[0].notes])[10:32]
    sample = melody([*rng.choice([50, 52], 8), *stolen, 70, 50], [*rng.choice([3, 6], 8), *steps, 6, 6])
    chord = symusic.Track("", 40, False)
    chord.notes.append(symusic.Note(0, 48, 64, 80))
    sample.tracks.append(chord)
    rows = [[(int(n["onset"]), int(n["pitch"])) for n in notewise.spans(score)] for score in (sample, *training)]
    found = TrainingIndex.build([("a", training[0]), ("b", training[1])]).measure(sample)
    exact, moved = (naive_runs(rows[0], rows[1:], how) for how in (False, True))
    assert found.exact.notes == max(exact) and found.transposed.notes == max(moved) >= 22
    covered = {i + k for i, n in enumerate(moved) if n >= 16 for k in range(n)}
    assert found.copied_share == pytest.approx(len(covered) / len(rows[0])) and covered
    assert found.note_ngrams == pytest.approx(np.mean([n >= 9 for n in moved[: len(moved) - 8]]))
    assert found.token_ngrams == pytest.approx(
        naive_share(notewise.encode_ids(sample), [notewise.encode_ids(score) for score in training])
    )


def test_measure_agrees_with_copied_span(scores):
    index = TrainingIndex.build([("k80", scores["k80/movement3"])])
    score = scores["k545"]
    found = index.measure(score)
    assert found.transposed == index.copied_span(score)
    assert found.exact == index.copied_span(score, transposed=False)
    assert found.exact.notes <= found.transposed.notes


def naive_share(sample, training, order=9):
    known = {tuple(ids[i : i + order].tolist()) for ids in training for i in range(len(ids) - order + 1)}
    grams = [tuple(sample[i : i + order].tolist()) for i in range(len(sample) - order + 1)]
    return sum(gram in known for gram in grams) / len(grams)


def test_ngram_share_equals_a_python_set(scores):
    ids = [notewise.encode_ids(score) for score in scores.values()]
    found = NgramSet(ids[:3]).share(ids[3])
    assert found == pytest.approx(naive_share(ids[3], ids[:3])) and 0 < found < 1
    assert NgramSet(ids[:3]).share(ids[0]) == 1.0
    assert np.isnan(NgramSet(ids[:3]).share(ids[3][:8]))


@pytest.fixture(scope="module")
def index(scores):
    return TrainingIndex.build([(name, score) for name, score in scores.items() if name != "k545"])


@pytest.mark.parametrize("semitones", [0, 4, -7])
def test_the_copy_machine_is_caught(index, scores, semitones):
    """Verbatim and transposed: the right piece, the right bars, nearly every note."""
    excerpt = cut_bars(scores["k156/movement4"], 20, 16)
    found = index.measure(excerpt.shift_pitch(semitones))
    notes = len(notewise.spans(excerpt))
    # Notes held over the excerpt's last bar line are cut, and a unison may then begin or end elsewhere.
    assert found.transposed.notes > 0.9 * notes
    assert found.transposed.piece == "k156/movement4" and found.transposed.transposition == semitones
    assert found.transposed.bars[0] - found.transposed.sample_bars[0] == 20
    assert found.copied_share > 0.9 and found.note_ngrams > 0.9
    if semitones:
        assert found.exact.notes < 20 < found.transposed.notes
    else:
        assert found.token_ngrams > 0.9


def test_a_copy_inside_other_music_is_found(index, scores):
    """Four bars of a training piece, a fourth higher, in the middle of a piece that is not in the training."""
    host, stolen = scores["k545"], cut_bars(scores["k80/movement3"], 20, 4).shift_pitch(5)
    starts = grid.bar_grid(host).starts
    score = cut_bars(host, 0, 6)
    for track in stolen.tracks:
        part = symusic.Track(track.name, track.program, False)
        for note in track.notes:
            part.notes.append(symusic.Note(note.time + int(starts[6]), note.duration, note.pitch, 80))
        score.tracks.append(part)
    alone = index.copied_span(cut_bars(host, 0, 6)).notes
    span = index.copied_span(score)
    assert span.notes >= len(notewise.spans(stolen)) - 2 > 2 * alone
    assert span.piece == "k80/movement3" and span.transposition == 5 and span.bars[0] == 21


def test_unrelated_real_music_shares_little(index, scores):
    """Held-out music of the same composer: idioms and scales, far from the copy machine."""
    for excerpt in windows(Piece("k545", "k545", scores["k545"]), 16, 9):
        found = index.measure(excerpt.score)
        assert 2 <= found.transposed.notes <= 16
        assert found.copied_share < 0.1 and found.note_ngrams < 0.2


def test_a_piece_without_notes(index):
    silent = melody([])
    assert index.copied_span(silent).notes == 0
    found = index.measure(silent)
    assert np.isnan(found.copied_share) and np.isnan(found.token_ngrams) and np.isnan(found.note_ngrams)
    assert index.measure(melody([60])).transposed.notes == 0


def test_bars_are_those_of_the_score(index, scores):
    """A span's bars, cut out of the training piece, hold its notes."""
    sample = cut_bars(scores["k155/movement3"], 30, 6)
    span = index.copied_span(sample, transposed=False)
    first, last = span.bars
    training = barred_notes(scores["k155/movement3"])
    inside = ((training.bar >= first - 1) & (training.bar <= last - 1)).sum()
    assert inside >= span.notes > 20
