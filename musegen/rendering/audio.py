"""A score as sound.

A sampler in plain numpy plays the score with a SoundFont: every note is its sample at the right pitch, looped,
filtered and shaped by its envelope, with its release after the note has ended. Why no other synthesizer: that of
symusic 0.6.0 cannot return its result to Python and that of 0.5.9 stops at the last note's end, and the
others need a system library.

Units: seconds, amplitudes as fractions of full scale.
"""

from __future__ import annotations

import dataclasses
import functools
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import symusic

from musegen.rendering.files import RenderingError, replacing
from musegen.rendering.soundfont import DRUM_BANK, Envelope, SoundFont, Zone, default_soundfont, load_soundfont

PEAK = 10 ** (-1 / 20)  # -1 dBFS: room for what lossy encoders add
_SILENT_VELOCITY = 80  # MIDI has no note of velocity 0; a score that has one does not know its velocities
_LONGEST = 3600.0  # seconds of audio held in memory at once
_LONGEST_RELEASE = 2.0
_SHORTEST_RAMP = 0.004  # no attack or release is faster, or it clicks
_FALL = 100.0  # dB from the peak of a volume envelope all the way down
_FILTER_STEP = 600  # cents between the cutoffs that a moving filter is made of
_BLOCK = 1 << 16  # frames handed to an encoder at once
_ENCODERS = {".ogg": ("OGG", "VORBIS"), ".mp3": ("MP3", "MPEG_LAYER_III")}


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What was written.

    Args:
        seconds: Length of the file.
        peak: Largest amplitude.
        rms: Root mean square over both channels.
        path: The file.
    """

    seconds: float
    peak: float
    rms: float
    path: Path


def render_audio(
    score: symusic.Score,
    path: str | Path,
    *,
    sample_rate: int = 44_100,
    soundfont: str | Path | None = None,
    max_seconds: float | None = None,
) -> AudioInfo:
    """Play a score into a file.

    Args:
        score: Any score; without tempos it is played at 120 quarters a minute.
        path: Where to write; `.wav` (16 bit), `.ogg` (Vorbis) or `.mp3`, of which the last two need the package
            soundfile.
        sample_rate: Hz, 8,000 to 48,000.
        soundfont: An `.sf2` file; by default the one that comes with pretty_midi.
        max_seconds: Where to fade out, if the piece is longer.

    Returns:
        Length and levels. The loudest sample is at -1 dBFS, whatever the velocities.

    Raises:
        RenderingError: The score has no notes or plays for more than an hour, the SoundFont is missing or
            damaged, the ending of the path or the sample rate is not supported.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind != ".wav" and kind not in _ENCODERS:
        raise RenderingError(f"{path}: audio is written as .wav, .ogg or .mp3")
    if not 8_000 <= sample_rate <= 48_000:
        raise RenderingError(f"sample rate {sample_rate}: 8,000 to 48,000 Hz are supported")
    sound = synthesize(score, sample_rate=sample_rate, soundfont=soundfont, max_seconds=max_seconds)
    with replacing(path) as aside:
        (_write_wav if kind == ".wav" else _encode)(aside, sound, sample_rate)
    return AudioInfo(
        seconds=sound.shape[1] / sample_rate,
        peak=float(np.abs(sound).max()),
        rms=float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))),
        path=path,
    )


def synthesize(
    score: symusic.Score,
    *,
    sample_rate: int = 44_100,
    soundfont: str | Path | None = None,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Play a score into memory; arguments and errors as for `render_audio`.

    Returns:
        float32 (2, frames), left and right, peak at -1 dBFS.
    """
    notes = sorted(_notes(score, max_seconds))
    if not notes:
        raise RenderingError("a score without notes makes no sound")
    end = max(onset + duration for _, _, _, _, duration, onset in notes)
    if end > _LONGEST:
        raise RenderingError(f"the score plays for {end:,.0f} seconds: set max_seconds (at most {_LONGEST:,.0f})")
    font = load_soundfont(str(soundfont or default_soundfont()))
    mix = np.zeros((2, int((end + _LONGEST_RELEASE) * sample_rate) + 2), dtype=np.float32)
    last, key, sounds = 1, None, []
    for *now, onset in notes:
        if now != key:  # notes are sorted, so equal ones are rendered once
            key = now
            sounds = list(_render(font, *now, sample_rate))
        first = round(onset * sample_rate)
        for left, right, sound in sounds:
            stop = min(first + len(sound), mix.shape[1])
            mix[0, first:stop] += left * sound[: stop - first]
            mix[1, first:stop] += right * sound[: stop - first]
            last = max(last, stop)
    mix = mix[:, :last]
    if max_seconds is not None and last > max_seconds * sample_rate:
        mix = mix[:, : round(max_seconds * sample_rate)]
        fade = min(mix.shape[1], sample_rate // 2)
        mix[:, mix.shape[1] - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    peak = float(np.abs(mix).max())
    return mix * np.float32(PEAK / peak) if peak > 0 else mix


def _notes(score: symusic.Score, max_seconds: float | None) -> Iterator[tuple[int, int, int, int, float, float]]:
    """Notes as (bank, program, pitch, velocity, duration, onset), times in seconds."""
    for track in score.to("second").tracks:
        bank = DRUM_BANK if track.is_drum else 0
        soa = track.notes.numpy()
        columns = (soa[name].tolist() for name in ("time", "duration", "pitch", "velocity"))
        for onset, duration, pitch, velocity in zip(*columns):
            if onset >= 0 and (max_seconds is None or onset < max_seconds):
                velocity = min(int(velocity), 127) if velocity > 0 else _SILENT_VELOCITY
                # Milliseconds, so that equal notes at different times count as equal.
                length = round(max(min(duration, max_seconds or duration), 0.02), 3)
                yield bank, int(track.program) % 128, int(pitch) % 128, velocity, length, onset


def _render(
    font: SoundFont, bank: int, program: int, pitch: int, velocity: int, duration: float, sample_rate: int
) -> Iterator[tuple[np.float32, np.float32, np.ndarray]]:
    """One note as (gain left, gain right, float32 (frames,)) for each of its zones."""
    for zone in font.zones(bank, program, pitch, velocity):
        ratio = 2 ** ((pitch - zone.root) * zone.scale / 12) * zone.rate / sample_rate
        release = min(max(zone.volume.release, _SHORTEST_RAMP), _LONGEST_RELEASE)
        frames = int((duration + release) * sample_rate)
        if zone.loop is None:
            frames = min(frames, int((zone.end - zone.start - 2) / ratio))
        if frames < 2:
            continue
        time = np.arange(frames, dtype=np.float32) / sample_rate
        sound = _filter(_resample(font.samples, zone, ratio, frames), zone, time, duration, sample_rate)
        fallen = _fallen(dataclasses.replace(zone.volume, release=release), time, duration)
        rise = np.minimum(np.minimum(time, duration) / max(zone.volume.attack, _SHORTEST_RAMP), 1.0)
        end = np.minimum((time[-1] - time) / _SHORTEST_RAMP, 1.0)
        sound *= (rise * end * 10 ** (-_FALL / 20 * fallen)).astype(np.float32)
        level = zone.gain * (velocity / 127) ** 2
        angle = (zone.pan + 0.5) * np.pi / 2
        yield np.float32(level * np.cos(angle)), np.float32(level * np.sin(angle)), sound


def _resample(samples: np.ndarray, zone: Zone, ratio: float, frames: int) -> np.ndarray:
    """The sample at another speed, by cubic Hermite interpolation: float32 (frames,)."""
    place = zone.start + ratio * np.arange(frames)
    base = place.astype(np.int64)
    t = (place - base).astype(np.float32)

    def at(offset: int) -> np.ndarray:
        index = base + offset
        if zone.loop is not None:
            start, end = zone.loop
            index = np.where(index >= end, start + (index - start) % (end - start), index)
        return samples[np.clip(index, 0, len(samples) - 1)]

    before, here, after, beyond = (at(offset) for offset in (-1, 0, 1, 2))
    slope, next_slope = (after - before) / 2, (beyond - here) / 2
    step = here - after
    return ((2 * step + slope + next_slope) * t - 3 * step - 2 * slope - next_slope) * t * t + slope * t + here


def _fallen(envelope: Envelope, time: np.ndarray, duration: float) -> np.ndarray:
    """How far an envelope has fallen from its peak, in fractions of all the way: float (frames,), 0 to 1."""

    def held(t: np.ndarray) -> np.ndarray:
        after = (t - envelope.attack - envelope.hold) / max(envelope.decay, _SHORTEST_RAMP)
        return np.clip(after, 0, envelope.sustain)

    # The release falls from where the envelope stood when the key was let go.
    return np.minimum(held(np.minimum(time, duration)) + np.maximum(time - duration, 0) / envelope.release, 1.0)


def _filter(sound: np.ndarray, zone: Zone, time: np.ndarray, duration: float, sample_rate: int) -> np.ndarray:
    """The low-pass filter of a zone, whose cutoff follows its envelope.

    The sound is filtered with a few fixed cutoffs, half an octave apart, and the results are faded into each
    other as the cutoff moves.

    Args:
        sound: float32 (frames,).
        zone: What sounds.
        time: float32 (frames,), seconds since the key was struck.
        duration: Seconds that the key is held.
        sample_rate: Hz.

    Returns:
        float32 (frames,).
    """
    rise = np.minimum(np.minimum(time, duration) / max(zone.filter.attack, _SHORTEST_RAMP), 1.0)
    cents = zone.cutoff + zone.filter_depth * rise * (1 - _fallen(zone.filter, time, duration))
    open_above = 1200 * np.log2(min(0.45 * sample_rate, 18_000) / 8.176)
    place = np.clip(cents, 1500, open_above) / _FILTER_STEP
    size = 1 << (len(sound) + 1024 - 1).bit_length()  # room for the filter to ring out
    spectrum = None
    out = np.zeros(len(sound), dtype=np.float32)
    for step in range(int(place.min()), int(np.ceil(place.max())) + 1):
        weight = np.maximum(1 - np.abs(place - step), 0).astype(np.float32)
        if not weight.any():
            continue
        if step * _FILTER_STEP >= open_above:
            out += weight * sound
            continue
        spectrum = np.fft.rfft(sound, size) if spectrum is None else spectrum
        cutoff = 8.176 * 2 ** (step * _FILTER_STEP / 1200) / sample_rate
        filtered = np.fft.irfft(spectrum * _low_pass(size, cutoff, zone.resonance), size)[: len(sound)]
        out += weight * filtered.astype(np.float32)
    return out


@functools.lru_cache(maxsize=64)
def _low_pass(size: int, cutoff: float, resonance: float) -> np.ndarray:
    """The frequency response of a second-order low-pass filter.

    Source of the coefficients: R. Bristow-Johnson, "Audio EQ Cookbook".

    Args:
        size: Length of the real transform that it multiplies.
        cutoff: As a fraction of the sample rate.
        resonance: Height of the peak at the cutoff, dB; 0 is the flattest.

    Returns:
        complex64 (size / 2 + 1,).
    """
    quality = 10 ** ((resonance - 3.01) / 20)
    angle = 2 * np.pi * cutoff
    alpha, cosine = np.sin(angle) / (2 * quality), np.cos(angle)
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = (1 - cosine) / 2 * (1 + z) ** 2 / (1 + alpha - 2 * cosine * z + (1 - alpha) * z * z)
    return response.astype(np.complex64)


def _write_wav(path: Path, sound: np.ndarray, sample_rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(sound.T * 32767).astype("<i2").tobytes())


def _encode(path: Path, sound: np.ndarray, sample_rate: int) -> None:
    try:
        import soundfile
    except ImportError:
        raise RenderingError(f"{path.suffix} needs the package soundfile: pip install soundfile") from None
    container, codec = _ENCODERS[path.suffix.lower()]
    try:
        with soundfile.SoundFile(path, "w", sample_rate, 2, format=container, subtype=codec) as file:
            for start in range(0, sound.shape[1], _BLOCK):
                file.write(sound[:, start : start + _BLOCK].T)
    except soundfile.LibsndfileError as error:
        raise RenderingError(f"{path.suffix} at {sample_rate} Hz: {error}") from None
