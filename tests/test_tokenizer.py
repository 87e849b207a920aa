"""The tokenizer: ids equal miditok's own, notes come back, AutoTokenizer loads it anywhere."""

import collections
import json
import subprocess
import sys

import numpy as np
import pytest
from miditok import REMI, TokSequence
from transformers import AutoTokenizer, GPT2Config

from musegen import grid as g
from musegen.errors import TokenizerError
from musegen.ranges import PLAYABLE
from musegen.remi import one_track_a_program
from musegen.scores import content_hash, midi_bytes, parse_midi
from musegen.tokenizer import MusicTokenizer, iterate_bars, load_tokenizer
from musegen.tokenizer_training import round_trip, train_tokenizer


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


def test_every_note_comes_back(tokenizer, scores):
    for name, score in scores.items():
        back = tokenizer.decode_score(tokenizer.encode_score(score))
        columns = ["onset", "duration", "pitch", "program"]
        ours, theirs = (collections.Counter(map(tuple, g.note_array(s)[columns].tolist())) for s in (score, back))
        assert sum((ours & theirs).values()) >= 0.995 * sum(ours.values()), name
        assert g.bar_grid(back).starts.tolist() == g.bar_grid(score).starts.tolist()


def test_round_trip_counts_what_is_lost(tokenizer, scores):
    score = scores["k545"].copy()
    assert round_trip(tokenizer, [("whole", score)]).share == 1.0
    long = score.tracks[0].notes[0]
    long.duration = 96 * 4 + 4  # a quarter-beat grid holds long notes
    found = round_trip(tokenizer, [("long", score)])
    assert found.exact == found.notes - 1 and "long" in str(found)


def test_ids_equal_those_of_miditok_alone(tokenizer, scores, saved, tmp_path):
    """miditok itself, from the saved parameters, gives the same ids but for the programs that bars name anew."""
    parameters = json.loads((saved / "miditok.json").read_text())
    model = (saved / "tokenizer.json").read_text()
    last = parameters.pop("_vocab_base_byte_to_token")
    path = tmp_path / "alone.json"
    path.write_text(json.dumps({**parameters, "_model": model, "_vocab_base_byte_to_token": last}))
    alone = REMI(params=path)
    for score in scores.values():
        base = tokenizer.base_ids(score)
        expected = alone.encode(one_track_a_program(score), encode_ids=False).ids
        assert without_repeated_programs(tokenizer, base) == without_repeated_programs(tokenizer, expected)
        bars = [TokSequence(ids=bar.tolist()) for bar in np.split(base, np.flatnonzero(base == tokenizer.bar_id))[1:]]
        for bar in bars:
            alone.complete_sequence(bar)
            alone.encode_token_ids(bar)
        assert [i for bar in bars for i in bar.ids] == tokenizer.encode_score(score, bos=False, eos=False)


def without_repeated_programs(tokenizer, base):
    names, program, kept = [tokenizer._base_names[i] for i in base], None, []
    for name in names:
        if not name.startswith("Program_") or name != program:
            kept.append(name)
        program = name if name.startswith("Program_") else program
    return kept


def test_each_bar_names_the_program_of_its_first_note(tokenizer, scores):
    for score in scores.values():
        base = tokenizer.base_ids(score)
        names = np.array([tokenizer._base_names[i] for i in base])
        for bar in np.split(names, np.flatnonzero(names == "Bar_None"))[1:]:
            kinds = [name.partition("_")[0] for name in bar]
            assert "Pitch" not in kinds or "Program" in kinds[: kinds.index("Pitch")]


def test_the_order_of_tracks_makes_no_difference(tokenizer, scores):
    score = scores["k155/movement3"]
    turned = score.copy()
    turned.tracks = type(score.tracks)(reversed([*score.tracks]))
    assert tokenizer.encode_score(turned) == tokenizer.encode_score(score)


def test_auto_tokenizer_beside_a_gpt2_config_in_a_fresh_process(tokenizer, scores, saved, tmp_path):
    GPT2Config().save_pretrained(saved)
    midi = tmp_path / "piece.mid"
    midi.write_bytes(midi_bytes(scores["k545"]))
    code = (
        "import sys, json, musegen.tokenizer\nfrom transformers import AutoTokenizer\n"
        "from musegen.scores import load_score\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([type(t).__name__, t.encode_score(load_score(sys.argv[2]).score)]))"
    )
    out = subprocess.run([sys.executable, "-c", code, saved, midi], capture_output=True, text=True, check=True)
    name, ids = json.loads(out.stdout.splitlines()[-1])
    assert name == "MusicTokenizer" and ids == tokenizer.encode_score(scores["k545"])


def test_saved_and_loaded_again_twice(tokenizer, saved, scores, tmp_path):
    once = AutoTokenizer.from_pretrained(saved)
    once.save_pretrained(tmp_path)
    twice = AutoTokenizer.from_pretrained(tmp_path)
    assert twice.encode_score(scores["k545"]) == tokenizer.encode_score(scores["k545"])
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json"] * 3  # no pickle, no other format


def test_every_id_decodes(tokenizer):
    for i in range(len(tokenizer)):
        tokenizer.decode_score([tokenizer.bos_token_id, i, i])
    never = [i for i, expansion in enumerate(tokenizer.expansions) if not len(expansion)]
    assert len(never) <= 1  # the mark that BPE puts before a bar


def test_random_ids_decode_to_scores_that_encode_again(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(30):
        score = tokenizer.decode_score(rng.integers(0, len(tokenizer), 300))
        again = tokenizer.decode_score(tokenizer.encode_score(score))
        notes = len(g.note_array(score))
        assert content_hash(parse_midi(midi_bytes(score)).score) == content_hash(score) if notes else True
        assert len(g.note_array(again)) == notes


def test_split_undoes_merge(tokenizer, scores):
    base = tokenizer.base_ids(scores["k155/movement3"])
    merged = tokenizer.merge(base)
    assert len(merged) < 0.7 * len(base) and np.array_equal(tokenizer.split(merged), base)


def test_transposition_moves_pitches_and_nothing_else(tokenizer, scores):
    score = scores["k80/movement3"]
    base = tokenizer.base_ids(score)
    low, high = tokenizer.transpositions(base)
    moved = tokenizer.decode_score(tokenizer.merge(tokenizer.transposed(base, high)))
    before, after = g.note_array(score), g.note_array(moved)
    assert low == 0 < high  # a violin plays its lowest string
    assert np.array_equal(np.sort(before["pitch"]) + high, np.sort(after["pitch"]))
    assert np.array_equal(before["onset"], after["onset"])


def test_instruments_stay_within_what_they_can_play(tokenizer, scores):
    """In every key that may be drawn, each program of each piece lies in its range, or in the piece's own compass."""
    for name, score in scores.items():
        base = tokenizer.base_ids(score)
        low, high = tokenizer.transpositions(base)
        notes = g.note_array(score)
        for program in np.unique(notes["program"]):
            own = notes["pitch"][notes["program"] == program]
            least, most = PLAYABLE[program]
            for shift in (low, high):
                assert own.min() + shift >= min(least, own.min()), name
                assert own.max() + shift <= max(most, own.max()), name
        # And no further key would do for all of them.
        edges = PLAYABLE[notes["program"]]
        assert low == 0 or (notes["pitch"] + low - 1 < edges[:, 0]).any()
        assert high == 0 or (notes["pitch"] + high + 1 > edges[:, 1]).any()
    vocab = tokenizer.remi.vocab
    names = ["Program_40", "Pitch_57", "Program_42", "Pitch_36", "Program_-1", "Pitch_20", "Program_73", "Pitch_98"]
    assert tokenizer.transpositions(np.array([vocab[n] for n in names])) == (0, 0)  # a low cello, a high flute
    assert tokenizer.transpositions(np.array([vocab[n] for n in names[:2]])) == (-2, 39)
    assert tokenizer.transpositions(np.array([vocab[names[5]]] * 2)) == (0, 88)  # no program: a piano
    assert PLAYABLE.shape == (128, 2) and (PLAYABLE[:, 0] < PLAYABLE[:, 1]).all()


def test_drums_are_not_transposed(tokenizer):
    vocab = tokenizer.remi.vocab
    names = ["Program_-1", "Pitch_36", "Duration_1.0.24", "Program_0", "Pitch_60", "Duration_1.0.24"]
    base = np.array([vocab[name] for name in names])
    moved = tokenizer.transposed(base, 2)
    assert [tokenizer._base_names[i] for i in moved] == [*names[:4], "Pitch_62", names[5]]


def test_bars_are_never_merged(tokenizer, scores):
    score = scores["k545"]
    bars = list(iterate_bars(tokenizer, tokenizer.encode_score(score, bos=False, eos=False)))
    assert len(bars) == len(g.bar_grid(score))


def test_training_is_repeatable(scores):
    one, two = (train_tokenizer([scores["k545"]], 1120, progress=False) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, s: t.split([len(t)]), "is not in 0"),
        (lambda t, s: t.split([-1]), "is not in 0"),
        (lambda t, s: t.decode_score([t.remi.vocab["Bar_None"]] * 10_001), "10,001 bars"),
        (lambda t, s: t.base_ids(s.resample(480, 1)), "not canonical"),
        (lambda t, s: train_tokenizer([s], 100, progress=False), "leaves no room"),
        (lambda t, s: train_tokenizer([], 2000, progress=False), "no score"),
        (lambda t, s: load_tokenizer("/nowhere/at/all"), "no such folder"),
    ],
)
def test_errors_say_what_is_wrong(tokenizer, scores, make, message):
    with pytest.raises(TokenizerError, match=message):
        make(tokenizer, scores["k545"])


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=r"miditok\.json"):
        load_tokenizer(tmp_path)


def test_loaded_class(saved):
    assert isinstance(load_tokenizer(saved), MusicTokenizer)
