"""Instruments as people name them."""

import pytest
from miditok.constants import MIDI_INSTRUMENTS

from musegen import instruments as gm
from musegen.errors import RequestError


@pytest.mark.parametrize(
    ("said", "programs"),
    [
        ("piano", (0,)),
        ("Violin, viola and Cellos", (40, 41, 42)),
        ("string quartet", (40, 41, 42)),
        (["flute", 0, "-1"], (-1, 0, 73)),
        ("French Horn", (60,)),
        ("violoncello", (42,)),
        (46, (46,)),
        ("horns", (60,)),
    ],
)
def test_what_people_say(said, programs):
    assert gm.parse_instruments(said) == programs


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "name one"),
        ([], "name one"),
        ("kazoo", "not known"),
        ("128", "0 to 127"),
        ("electric box", "perhaps E"),
    ],
)
def test_what_nobody_knows(said, message):
    with pytest.raises(RequestError, match=message):
        gm.parse_instruments(said)


def test_every_general_midi_name_is_known():
    for program, name in enumerate(gm.GENERAL_MIDI):
        assert gm.parse_instruments([name]) == (program,), name
    assert len(MIDI_INSTRUMENTS) == len(gm.GENERAL_MIDI)
