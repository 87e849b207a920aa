"""A small reader of SoundFont 2 files: which sample sounds for a key, and how.

Read are samples, loops, tuning, attenuation, pan, the volume envelope, and the low-pass filter with its
envelope; modulators, oscillators and effect sends are not.

Source: E-mu Systems, "SoundFont Technical Specification 2.04" (2006); numbers of generators as in section 8.1.2.
Departure: (1) initial attenuation counts 0.4 times, as on the hardware that most fonts were made on and as in
FluidSynth.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import struct
from pathlib import Path

import numpy as np

from musegen.rendering.files import RenderingError

_DEFAULT_FONT = "TimGM6mb.sf2"
_ATTENUATION_FACTOR = 0.4
DRUM_BANK = 128

# Generators by their numbers in the specification.
_START, _END, _LOOP_START, _LOOP_END, _START_COARSE = 0, 1, 2, 3, 4
_CUTOFF, _RESONANCE, _FILTER_ENVELOPE, _END_COARSE, _PAN = 8, 9, 11, 12, 17
# First generator of each envelope; attack, hold, decay, sustain, release and two key factors follow it.
_MODULATION_DELAY, _VOLUME_DELAY = 25, 33
_INSTRUMENT, _KEYS, _VELOCITIES, _LOOP_START_COARSE, _ATTENUATION = 41, 43, 44, 45, 48
_LOOP_END_COARSE, _COARSE_TUNE, _FINE_TUNE, _SAMPLE, _MODES, _SCALE, _ROOT = 50, 51, 52, 53, 54, 56, 58
_DEFAULTS = {_CUTOFF: 13500, _SCALE: 100, _ROOT: -1}
_DEFAULTS |= {first + i: -12000 for first in (_MODULATION_DELAY, _VOLUME_DELAY) for i in (0, 1, 2, 3, 5)}
_NOT_ADDED = {_KEYS, _VELOCITIES, _INSTRUMENT, _SAMPLE, _MODES, _ROOT}


@dataclasses.dataclass(frozen=True)
class Envelope:
    """What happens after a key is struck, and let go.

    Args:
        attack: Seconds up to the peak, the delay before it included.
        hold: Seconds at the peak.
        decay: Seconds in which it would fall all the way.
        sustain: How far it falls while the key is held, as a fraction of all the way.
        release: Seconds in which it would fall all the way after the key is let go.
    """

    attack: float
    hold: float
    decay: float
    sustain: float
    release: float


@dataclasses.dataclass(frozen=True)
class Zone:
    """One sample as one key plays it.

    Args:
        start: First sample point in the font's sample memory.
        end: After the last sample point.
        loop: First and last point of the loop; None if the sample plays once.
        rate: Of the sample, Hz.
        root: Key (MIDI pitch, fractions included) at which the sample sounds as recorded.
        scale: Semitones of pitch a key.
        gain: Amplitude, 1 for a sample at full level.
        pan: From -0.5, left, to 0.5, right.
        volume: All the way is 100 dB.
        cutoff: Of the low-pass filter without its envelope, cents above 8.176 Hz.
        resonance: Of the low-pass filter, dB.
        filter: The envelope of the cutoff; all the way is `filter_depth`.
        filter_depth: Cents.
    """

    start: int
    end: int
    loop: tuple[int, int] | None
    rate: int
    root: float
    scale: float
    gain: float
    pan: float
    volume: Envelope
    cutoff: float
    resonance: float
    filter: Envelope
    filter_depth: float


class SoundFont:
    """A SoundFont in memory.

    Args:
        path: An `.sf2` file.

    Raises:
        RenderingError: It is missing or no uncompressed SoundFont 2 file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
            chunks = _chunks(data)
            self.samples = np.frombuffer(chunks[b"smpl"], dtype="<i2").astype(np.float32) / 32768
            self._headers = list(struct.iter_unpack("<20s5IBbHH", chunks[b"shdr"]))
            self._presets = {
                (row[2], row[1]): i for i, row in reversed(list(enumerate(_table(chunks, b"phdr", "<20sHHHIII"))))
            }
            presets = [row[3] for row in _table(chunks, b"phdr", "<20sHHHIII")]
            instruments = [row[1] for row in _table(chunks, b"inst", "<20sH")]
            self._preset_zones = _zones(presets, _table(chunks, b"pbag", "<HH"), chunks[b"pgen"], _INSTRUMENT)
            self._instrument_zones = _zones(instruments, _table(chunks, b"ibag", "<HH"), chunks[b"igen"], _SAMPLE)
        except FileNotFoundError:
            raise RenderingError(f"{self.path}: no such SoundFont") from None
        except (OSError, KeyError, IndexError, ValueError, struct.error) as error:
            raise RenderingError(f"{self.path}: not a SoundFont 2 file ({error})") from None
        if any(header[-1] & 0x10 for header in self._headers):
            raise RenderingError(f"{self.path}: compressed SoundFonts (.sf3) are not read; use an .sf2 file")

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - fonts are few and live as long as the process
    def zones(self, bank: int, program: int, pitch: int, velocity: int) -> tuple[Zone, ...]:
        """What sounds for a key.

        Args:
            bank: 0, or `DRUM_BANK` for drums.
            program: 0 to 127; where the font has none such, the first of its family or bank plays.
            pitch: MIDI pitch.
            velocity: 1 to 127.

        Returns:
            Usually one zone, two for stereo samples, none for keys without a sound.
        """
        candidates = [(bank, program), (bank, program // 8 * 8), (bank, 0), *sorted(self._presets)[:1]]
        preset = next((self._presets[key] for key in candidates if key in self._presets), None)
        found = []
        for outer in self._preset_zones[preset] if preset is not None else ():
            if _covers(outer, pitch, velocity):
                for inner in self._instrument_zones[outer[_INSTRUMENT]]:
                    if _covers(inner, pitch, velocity):
                        found.append(self._zone(outer, inner, pitch))
        return tuple(zone for zone in found if zone is not None)

    def _zone(self, outer: dict[int, int], inner: dict[int, int], pitch: int) -> Zone | None:
        value = {**_DEFAULTS, **inner}
        for generator, amount in outer.items():
            if generator not in _NOT_ADDED:
                value[generator] = value.get(generator, 0) + amount

        def get(generator: int) -> int:
            return value.get(generator, 0)

        _, start, end, loop_start, loop_end, rate, key, correction, _, _ = self._headers[get(_SAMPLE)]
        start += get(_START) + 32768 * get(_START_COARSE)
        end = min(end + get(_END) + 32768 * get(_END_COARSE), len(self.samples))
        loop_start += get(_LOOP_START) + 32768 * get(_LOOP_START_COARSE)
        loop_end = min(loop_end + get(_LOOP_END) + 32768 * get(_LOOP_END_COARSE), end)
        if not 0 <= start < end or rate <= 0:
            return None
        loops = get(_MODES) & 1 and start <= loop_start < loop_end
        return Zone(
            start, end, (loop_start, loop_end) if loops else None, rate,
            root=(get(_ROOT) if get(_ROOT) >= 0 else key) - get(_COARSE_TUNE) - (get(_FINE_TUNE) + correction) / 100,
            scale=get(_SCALE) / 100,
            gain=10 ** (-_ATTENUATION_FACTOR * max(get(_ATTENUATION), 0) / 200),
            pan=min(max(get(_PAN) / 1000, -0.5), 0.5),
            volume=_envelope(value, _VOLUME_DELAY, pitch),
            cutoff=get(_CUTOFF), resonance=max(get(_RESONANCE) / 10, 0.0),
            filter=_envelope(value, _MODULATION_DELAY, pitch), filter_depth=get(_FILTER_ENVELOPE),
        )  # fmt: skip


@functools.lru_cache(maxsize=2)
def load_soundfont(path: str) -> SoundFont:
    """A font that stays in memory for the next call."""
    return SoundFont(path)


def default_soundfont() -> Path:
    """The General MIDI font that comes with pretty_midi, found without importing that.

    Raises:
        RenderingError: pretty_midi is not installed, or without its font.
    """
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.origin).parent / _DEFAULT_FONT if spec is not None and spec.origin else None
    if path is None or not path.exists():
        raise RenderingError(
            f"no SoundFont: pip install pretty_midi, which carries {_DEFAULT_FONT}, or name an .sf2 file of yours"
        )
    return path


def _envelope(value: dict[int, int], first: int, pitch: int) -> Envelope:
    delay, attack, hold, decay, sustain, release, hold_by_key, decay_by_key = (
        value.get(first + i, 0) for i in range(8)
    )
    return Envelope(
        attack=_seconds(attack) + (_seconds(delay) if delay > -12000 else 0.0),
        hold=_seconds(hold + hold_by_key * (60 - pitch)),
        decay=_seconds(decay + decay_by_key * (60 - pitch)),
        sustain=min(max(sustain / 1000, 0.0), 1.0),
        release=_seconds(release),
    )


def _seconds(timecents: float) -> float:
    return 2 ** (min(max(timecents, -12000), 8000) / 1200)


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The data of all chunks inside the lists of a RIFF file."""
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
        raise ValueError("no RIFF sfbk header")
    found: dict[bytes, bytes] = {}

    def walk(start: int, end: int) -> None:
        while start + 8 <= end:
            name, size = struct.unpack_from("<4sI", data, start)
            if name == b"LIST":
                walk(start + 12, min(start + 8 + size, end))
            else:
                found[name] = data[start + 8 : start + 8 + size]
            start += 8 + size + size % 2

    walk(12, len(data))
    return found


def _table(chunks: dict[bytes, bytes], name: bytes, form: str) -> list[tuple]:
    return list(struct.iter_unpack(form, chunks[name]))


def _zones(
    first_bags: list[int], bags: list[tuple[int, int]], generators: bytes, last: int
) -> list[list[dict[int, int]]]:
    """For each preset or instrument its zones as {generator: amount}, global zone merged in.

    A zone that does not end in the generator `last` is the global one if it comes first, else ignored.
    """
    rows = [
        (number, amount if number not in (_KEYS, _VELOCITIES, _INSTRUMENT, _SAMPLE) else amount & 0xFFFF)
        for number, amount in struct.iter_unpack("<Hh", generators)
    ]
    found = []
    for first, after in itertools.pairwise(first_bags):
        shared: dict[int, int] = {}
        zones = []
        for bag in range(first, after):
            zone = dict(rows[bags[bag][0] : bags[bag + 1][0]])
            if last in zone:
                zones.append({**shared, **zone})
            elif bag == first:
                shared = zone
        found.append(zones)
    return found


def _covers(zone: dict[int, int], pitch: int, velocity: int) -> bool:
    return all(
        generator not in zone or (zone[generator] & 0xFF) <= value <= (zone[generator] >> 8)
        for generator, value in ((_KEYS, pitch), (_VELOCITIES, velocity))
    )
