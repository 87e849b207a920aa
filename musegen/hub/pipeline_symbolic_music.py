"""`pipeline(model="ORG/NAME", trust_remote_code=True)`: music from a published model, with or without musegen.

This file travels beside the weights. Where musegen is installed, its own pipeline does the work, with all that it can.
Where it is not, what is below composes from nothing, with torch and transformers alone: no grammar holds the model to
what can be written (what makes no sense is passed over), and openings and gaps cannot be given.

Tokens are those of REMI (Huang and Yang 2020) behind BPE; `miditok.json` names them. MIDI files are written as the
Standard MIDI File 1.0 specification asks, format 1. Units: ticks, 96 a quarter note.
"""

import bisect
import json
import re
import struct
from pathlib import Path

import torch
from transformers import LogitsProcessor, Pipeline, StoppingCriteria
from transformers.utils import cached_file

try:
    from musegen.pipeline import MusicGenerationPipeline as FullPipeline
except ImportError:
    FullPipeline = None

TASK = "symbolic-music"
TICKS = 96  # a quarter note
POSITIONS = 24  # a beat
VELOCITY = 64
DRUM_CHANNEL = 9
MAX_BARS = 256  # as many as a `Left` token can announce
NEEDS = "needs musegen beside this model: pip install musegen"
# Bars back -> bars in a row that may be like those, and the share of notes that makes them alike (musegen.repetition).
RUNS = {1: 3, 2: 4, 3: 3, 4: 5, 8: 8}
LIKE = 0.5
FOREIGN_NATS = 0.5  # that a note outside the key which was asked for loses
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 9, 10, 11)
NAMED = ("Composer", "Key", "Tempo", "Program", "Left", "TimeSig")  # what a header, or a first bar, says


class StandalonePipeline(Pipeline):
    """Composes from nothing, with torch and transformers alone.

    Options: `bars` (1 to 256), `key` ("D major"), `tempo` (quarter notes a minute), `time_signature` ("3/4"),
    `composer`, `instruments` (General MIDI programs from 0, -1 for drums), `temperature`, `top_p`, `repetition` (nats
    against standing still), `seed`, `max_tokens`, `num_return_sequences`. Returns a dictionary, or a list of them, of
    `midi` (bytes), `notes` (onset, duration, pitch, program), `input_ids` and `ended`. `temperature`, `top_p`,
    `repetition` and `composer` are the model's own by default (`generation_config.json`, `task_specific_params`);
    `composer="any"` names none.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _OPTIONS = {
        "bars": 16, "key": None, "tempo": None, "time_signature": None, "composer": None, "instruments": (),
        "temperature": None, "top_p": None, "repetition": None, "seed": 0, "max_tokens": 8192,
        "num_return_sequences": 1,
    }  # fmt: skip

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokens = Tokens(self.tokenizer, _miditok_file(self.model))

    def __call__(self, inputs=None, **kwargs):
        """Compose; see the class."""
        if inputs is not None:
            raise ImportError(f"going on from an opening {NEEDS}")
        return super().__call__({}, **kwargs)

    def _sanitize_parameters(self, **kwargs):
        unknown = sorted(set(kwargs) - set(self._OPTIONS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} {NEEDS}; without it the options are {', '.join(self._OPTIONS)}")
        return {}, kwargs, {}

    def preprocess(self, inputs):
        """Nothing is read."""
        return inputs

    def _forward(self, model_inputs, **kwargs):
        options = {**self._OPTIONS, **kwargs}
        own = self.model.generation_config
        for name, usual in (("temperature", 1.0), ("top_p", 0.97)):
            if options[name] is None:
                options[name] = usual if getattr(own, name, None) is None else getattr(own, name)
        told = (getattr(self.model.config, "task_specific_params", None) or {}).get("music-generation", {})
        for name, usual in (("composer", None), ("repetition", 0.0)):
            if options[name] is None:
                options[name] = told.get(name, usual)
        if options["composer"] == "any":
            options["composer"] = None
        count, seed = options.pop("num_return_sequences"), options.pop("seed")
        if not 1 <= options["bars"] <= MAX_BARS:
            raise ValueError(f"bars: from 1 to {MAX_BARS}, not {options['bars']}")
        written = []
        for i in range(count):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + i)
                written.append(write(self.model, self.tokens, **options))
        return written

    def postprocess(self, model_outputs):
        """Ids as music."""
        records = []
        for ids, ended in model_outputs:
            music = self.tokens.read(ids)
            records.append({"midi": midi_file(music), "notes": music["notes"], "input_ids": ids, "ended": ended})
        return records if len(records) > 1 else records[0]


# The name in `config.json`. With musegen it is the whole pipeline.
SymbolicMusicPipeline = FullPipeline or StandalonePipeline


def _miditok_file(model):
    config = model.config
    return cached_file(config._name_or_path, "miditok.json", revision=getattr(config, "_commit_hash", None))


class Tokens:
    """What the ids of a tokenizer mean.

    Args:
        tokenizer: Any fast tokenizer over the `tokenizer.json` of the model.
        path: Of its `miditok.json`.
    """

    def __init__(self, tokenizer, path):
        parameters = json.loads(Path(path).read_text(encoding="utf-8"))
        names = parameters["_vocab_base_byte_to_token"]
        texts = [(tokenizer.convert_ids_to_tokens(i) or "").lstrip("\u2581") for i in range(len(tokenizer))]
        self.names = [[names[c] for c in text if c in names] for text in texts]
        self.id_of = {group[0]: i for i, group in reversed(list(enumerate(self.names))) if len(group) == 1}
        self.end = self.id_of["EOS_None"]
        self.begins_bar = [group[0] == "Bar_None" if group else False for group in self.names]
        self.controlled = "CNT_None" in self.id_of
        special = ("PAD_None", "BOS_None", "SEP_None", "CNT_None", "GAP_None")
        self.never = [self.id_of[name] for name in special if name in self.id_of]

    def find(self, kind, value):
        """The id of a token such as `Tempo_120.0`, or an error that tells which there are."""
        if f"{kind}_{value}" in self.id_of:
            return self.id_of[f"{kind}_{value}"]
        known = [name.partition("_")[2] for name in self.id_of if name.startswith(f"{kind}_")]
        raise ValueError(f"no {kind} {value}; the model knows {', '.join(known) or 'none'}")

    def header(self, key=None, tempo=None, composer=None, instruments=()):
        """The ids that say what a piece shall be."""
        ids = []
        if composer is not None:
            ids.append(self.find("Composer", composer))
        if key is not None:
            ids.append(self.find("Key", key_name(key)))
        if tempo is not None:
            tempos = [name.partition("_")[2] for name in self.id_of if name.startswith("Tempo_")]
            ids.append(self.find("Tempo", min(tempos, key=lambda name: abs(float(name) - tempo))))
        if any(not isinstance(program, int) for program in instruments):
            raise ValueError(f"instruments: General MIDI programs from 0; their names {NEEDS}")
        return ids + [self.find("Program", program) for program in sorted(set(instruments))]

    def left(self, bars):
        """The id that says how many bars are left, as a list; none where the tokenizer has no such tokens."""
        steps = sorted(int(name.partition("_")[2]) for name in self.id_of if name.startswith("Left_"))
        return [self.find("Left", steps[bisect.bisect_right(steps, bars) - 1])] if steps else []

    def read(self, ids):
        """Ids to `notes` (onset, duration, pitch, program), `metres` (tick, numerator, denominator) and `tempos`."""
        notes, metres, tempos = [], [], []
        start = length = onset = program = 0
        unit, pitch, in_bars = TICKS // POSITIONS, None, False
        for name in (name for i in ids for name in self.names[i]):
            kind, _, value = name.partition("_")
            if kind == "Bar":
                start, in_bars, pitch = start + length, True, None
                onset = start
                length = length or 4 * TICKS
            elif kind == "Tempo" and (in_bars or not tempos):
                tempos = [*tempos[: bool(tempos and tempos[0][0] < onset)], *tempos[1:], (onset, float(value))]
            elif not in_bars:
                continue
            elif kind == "TimeSig":
                over, _, under = value.partition("/")
                length, unit = int(over) * 4 * TICKS // int(under), 4 * TICKS // int(under) // POSITIONS
                metres.append((start, int(over), int(under)))
            elif kind == "Position":
                onset = start + int(value) * unit
            elif kind == "Program":
                program = int(value)
            elif kind == "Pitch":
                pitch = int(value)
            elif kind == "Duration" and pitch is not None:
                beats, parts, of = map(int, value.split("."))
                notes.append((onset, (beats * POSITIONS + parts * POSITIONS // of) * unit, pitch, program))
                pitch = None
        end = start + length
        notes = sorted((a, min(d, end - a), p, program) for a, d, p, program in notes if a < end and d > 0)
        changes = [m for i, m in enumerate(metres) if i == 0 or m[1:] != metres[i - 1][1:]]
        return {"notes": notes, "metres": changes, "tempos": tempos}


class _Bars(StoppingCriteria):
    """Stops when bars beyond `limit` begin."""

    def __init__(self, tokens, limit):
        self.tokens, self.limit = tokens, limit

    def __call__(self, input_ids, scores, **kwargs):
        bars = sum(self.tokens.begins_bar[i] for i in input_ids[0].tolist())
        return torch.tensor([bars > self.limit], device=input_ids.device)


class Guard(LogitsProcessor):
    """Weighs ids as musegen does: against standing still, and for the key that was asked for.

    Args:
        tokens: Of the tokenizer.
        nats: Taken for each note that goes on with bars which have been alike for longer than music's are.
        key: Such as "D major".
    """

    def __init__(self, tokens, nats=0.0, key=None):
        self.tokens, self.nats = tokens, nats
        self.table = [
            (i, *strike)
            for i, names in enumerate(tokens.names)
            if names and names[0] != "Bar_None"  # which bar it would be is not known before
            for strike in self._strikes(names, None, None)[0]
        ]
        self.foreign = torch.zeros(len(tokens.names))
        if key is not None:
            tonic, minor = key_number(key)
            scale = {(tonic + step) % 12 for step in (MINOR if minor else MAJOR)}
            for i, names in enumerate(tokens.names):
                struck = self._strikes(names, None, None)[0]
                lost = sum(program != -1 and pitch % 12 not in scale for _, program, pitch in struck)
                self.foreign[i] = FOREIGN_NATS * lost
        self.bars, self.now, self.runs = [], None, dict.fromkeys(RUNS, 0)
        self.position, self.program = 0, -2
        self.ids, self.window, self.count = [], 0, 0

    def begin(self, ids, window):
        """Before the model goes on: all ids so far, and how many of them it is shown."""
        self.ids, self.window = list(ids), window

    def __call__(self, input_ids, scores):
        """The scores (1, vocabulary) of the next id."""
        ids = self.ids + input_ids[0, self.window :].tolist()
        for i in ids[self.count :]:
            self._advance(i)
        self.count = len(ids)
        lost = torch.zeros(len(self.tokens.names))
        if self.program != -1:
            lost += self.foreign
        stale = [self.bars[-back] for back, most in RUNS.items() if self.runs[back] >= most and self.now is not None]
        stale = set().union(*(bar for bar in stale if 2 * len(self.now - bar) < len(bar)))
        if stale and self.nats:
            for i, position, program, pitch in self.table:
                position = self.position if position is None else position
                if (position, self.program if program is None else program, pitch) in stale:
                    lost[i] += self.nats
        return scores - lost.to(scores)[None, : scores.shape[-1]]

    def _advance(self, i):
        if self.tokens.begins_bar[i]:
            if self.now is not None:
                for back in RUNS:
                    before = self.bars[-back] if len(self.bars) >= back else set()
                    fuller = max(len(before), len(self.now)) if before else 0
                    same = fuller and len(before & self.now) >= LIKE * fuller
                    self.runs[back] = self.runs[back] + 1 if same else 0
                self.bars = [*self.bars, self.now][-max(RUNS) :]
            self.now = set()
        if self.now is not None:
            found, self.position, self.program = self._strikes(self.tokens.names[i], self.position, self.program)
            self.now.update(found)

    @staticmethod
    def _strikes(names, position, program):
        found = []
        for name in names:
            kind, _, value = name.partition("_")
            if kind == "Bar":
                position, program = 0, -2
            elif kind == "Position":
                position = int(value)
            elif kind == "Program":
                program = int(value)
            elif kind == "Pitch":
                found.append((position, program, int(value)))
        return found, position, program


@torch.no_grad()
def write(model, tokens, bars, max_tokens, temperature=1.0, top_p=0.97, repetition=0.0, time_signature=None, **header):
    """Ids of a new piece, and whether the model ended it.

    What has become longer than the model's context is continued from its last bars.
    """
    head = tokens.header(**header) if tokens.controlled else []
    ids = [tokens.id_of["BOS_None"], *head, *tokens.left(bars)]
    if time_signature is not None:
        ids += [tokens.id_of["Bar_None"], tokens.find("TimeSig", time_signature)]
    # An LSTM has none.
    context = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    window, guard = ids, Guard(tokens, repetition, header.get("key"))
    while True:
        guard.begin(ids, len(window))
        done = sum(tokens.begins_bar[i] for i in ids)
        within = sum(tokens.begins_bar[i] for i in window)
        room = min(max_tokens - len(ids), (context or max_tokens) - len(window))
        if room < 1:
            return ids, False
        out = model.generate(
            torch.tensor([window], device=model.device),
            attention_mask=torch.ones(1, len(window), dtype=torch.long, device=model.device),
            do_sample=temperature > 0,
            max_new_tokens=room,
            stopping_criteria=[_Bars(tokens, within + bars - done)],
            suppress_tokens=tokens.never,
            logits_processor=[guard],
            pad_token_id=tokens.never[0],
            eos_token_id=tokens.end,
            **({"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}),
        )
        new = out[0, len(window) :].tolist()
        ids = ids + new
        if new[-1] == tokens.end:
            return ids, True
        starts = [i for i, token in enumerate(ids) if tokens.begins_bar[token]]
        if len(starts) > bars:
            return ids[: starts[bars]], True
        # The later half of the window, from a bar line on, behind a header of its own.
        recent = next((i for i in starts if i >= len(ids) - (context or 0) // 2), len(ids))
        first = tokens.id_of.get("CNT_None", ids[0])
        said = [i for i in ids[1 : starts[0] if starts else 1] if tokens.names[i][0].partition("_")[0] in NAMED[:4]]
        left = tokens.left(max(bars - sum(tokens.begins_bar[i] for i in ids[:recent]), 1))
        window = [first, *said, *left, *ids[recent:]]


def key_number(text):
    """Pitch class of the tonic of a key such as "D major", "f# minor" or "Bb", and whether it is minor."""
    found = re.fullmatch(r"\s*([A-Ga-g])([#b]?)\s*(major|minor|maj|min|m)?\s*", text)
    if not found:
        raise ValueError(f"key {text!r}: write it as D major, F# minor or Bb")
    step, sign, mode = found.groups()
    minor = mode.startswith("min") or mode == "m" if mode else step.islower()
    number = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[step.upper()]
    return (number + (sign == "#") - (sign == "b")) % 12, minor


def key_name(text):
    """A key as its token names it."""
    number, minor = key_number(text)
    spelling = "C C# D Eb E F F# G G# A Bb B" if minor else "C Db D Eb E F F# G Ab A Bb B"
    return spelling.split()[number] + ("min" if minor else "maj")


def midi_file(music):
    """A Standard MIDI File of what `Tokens.read` returns."""
    head = []
    for tick, over, under in music["metres"]:
        head.append((tick, bytes([0xFF, 0x58, 4, over, under.bit_length() - 1, 24, 8])))
    for tick, tempo in music["tempos"]:
        head.append((tick, b"\xff\x51\x03" + round(60e6 / tempo).to_bytes(3, "big")))
    tracks = [_track(head)]
    programs = sorted({program for *_, program in music["notes"]})
    channels = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    for i, program in enumerate(programs):
        channel = DRUM_CHANNEL if program < 0 else channels[i % len(channels)]
        for layer in _layers([note for note in music["notes"] if note[3] == program]):
            events = [(0, bytes([0xC0 | channel, max(program, 0)]))]
            for onset, duration, pitch, _ in layer:
                events.append((onset, bytes([0x90 | channel, pitch, VELOCITY])))
                events.append((onset + duration, bytes([0x80 | channel, pitch, 0])))
            tracks.append(_track(events))
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), TICKS) + b"".join(tracks)


def _layers(notes):
    """Notes in as few lists as hold no pitch twice at a time, which a MIDI track cannot tell apart."""
    layers = []
    for note in notes:
        onset, duration, pitch, _ = note
        free = next((item for item in layers if item[1].get(pitch, 0) <= onset), None)
        if free is None:
            layers.append(free := ([], {}))
        free[0].append(note)
        free[1][pitch] = onset + duration
    return [layer for layer, _ in layers]


def _track(events):
    """A track of (tick, bytes); at one tick, notes end before others begin."""
    data, now = bytearray(), 0
    for tick, event in sorted(events, key=lambda item: (item[0], item[1][0] & 0xF0 != 0x80)):
        data += _number(tick - now) + event
        now = tick
    data += b"\x00\xff\x2f\x00"
    return b"MTrk" + struct.pack(">I", len(data)) + bytes(data)


def _number(value):
    """A number of variable length, seven bits a byte."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))
