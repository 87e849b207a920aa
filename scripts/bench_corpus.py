"""Time `musegen corpus build` against the bare libraries and against what people use, on the same files.

    python scripts/bench_corpus.py [FILE_OR_FOLDER...] [--sizes 250 500 1000] [--skip-peers]

All do the equal work, parse each MIDI file and write it as tokens on the grid:

- build: `musegen corpus build --tokenizer remi`, the whole command from start to finished folder, with isolation,
  journal, canonical bars, duplicates, splits and Parquet;
- limit: `symusic.Score(path)` and miditok's `REMI.encode`, with musegen's own parameters, in one process without any
  safety, times the cores;
- pretty_midi and MusPy: parse, and put the notes on the same grid in a plain loop, in one process, times the cores.

Without files the music is that of the scores which the music21 package carries, written to MIDI first. Memory is that
of all processes together, sampled; pages that they share count once for each (RSS).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

EMBEDDED = ("music21:bach", "music21:mozart")
TRANSPOSED = (-2, 0, 3)  # semitones: so that there are a thousand files
SUFFIXES = (".mid", ".midi")
GRID = 24  # positions a beat
PEER_FILES = 100


def midi_files(named: Sequence[str], folder: Path) -> list[Path]:
    """The MIDI files of files and folders; of the embedded scores if none are named."""
    if named:
        found = [p for name in map(Path, named) for p in (sorted(name.rglob("*")) if name.is_dir() else [name])]
        return [p for p in found if p.suffix.lower() in SUFFIXES]
    return embedded_files(folder)


def embedded_files(folder: Path) -> list[Path]:
    """MIDI files of the scores that music21 carries, each in three keys."""
    from musegen.corpus import build_corpus, corpus_scores, load_corpus

    print("writing the scores that music21 carries to MIDI ...", flush=True)
    build_corpus(EMBEDDED, folder / "embedded", progress=False)
    paths = []
    for rows in load_corpus(folder / "embedded").values():
        for source, score in corpus_scores(rows):
            for key in TRANSPOSED:
                paths.append(folder / "midi" / f"{source.replace(':', '/')}{key:+d}.mid")
                paths[-1].parent.mkdir(parents=True, exist_ok=True)
                paths[-1].write_bytes(bytes(score.shift_pitch(key).dumps_midi()))
    return sorted(paths)


def spread(paths: list[Path], count: int) -> list[Path]:
    """So many of the files, evenly spread, so that each size has the same kind of music."""
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


class Memory:
    """The most memory that this process's children hold together, sampled twenty times a second."""

    def __enter__(self) -> Memory:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._done.wait(0.05):
            total = 0
            for child in own.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()


def build(paths: list[Path], workers: int, engine: str, folder: Path) -> dict[str, float]:
    """Run the command; returns seconds, files, peak memory and the sizes of what it wrote."""
    shutil.rmtree(folder, ignore_errors=True)
    for i, path in enumerate(paths):
        copy = folder / "in" / f"{i // 100:03d}" / f"{i:06d}-{path.stem}.mid"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    command = [sys.executable, "-m", "musegen", "corpus", "build", str(folder / "in"), "--out", str(folder / "out")]
    command += ["--plain-card"]  # the audit and the picture are no part of reading
    command += ["--tokenizer", "remi", "--workers", str(workers), "--engine", engine]
    with Memory() as memory:
        start, processor = time.perf_counter(), children_seconds()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds, processor = time.perf_counter() - start, children_seconds() - processor
    if done.returncode:
        raise SystemExit(f"the build failed:\n{done.stderr[-2000:]}")
    report = json.loads((folder / "out" / "report.json").read_text())
    # What a cluster's daemons and actors used is nobody's child's: not known.
    times = {"seconds": seconds, "processor": processor if engine == "local" else 0.0}
    return {"files": len(paths), **times, "peak": memory.peak, **sizes(folder / "out", report)}


def children_seconds() -> float:
    """Processor's seconds of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sizes(out: Path, report: dict) -> dict[str, float]:
    """Bytes of the finished folder, and of its columns."""
    import pyarrow.parquet as pq

    found = {"notes": sum(report["notes"].values()), "kept": sum(report["kept"].values()), "midi": 0, "tokens": 0}
    found["folder"] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    found["parquet"] = sum(p.stat().st_size for p in (out / "data").glob("*.parquet"))
    for path in (out / "data").glob("*.parquet"):
        for row in pq.ParquetFile(path).iter_batches(columns=["midi", "input_ids"], batch_size=64):
            found["midi"] += sum(len(value.as_py()) for value in row.column("midi"))
            found["tokens"] += len(row.column("input_ids").flatten())
    return found


def timed(paths: list[Path], work: Callable[[Path], object]) -> tuple[float, float, int]:
    """Seconds for all files in this process, the processor's seconds, and how many files raised."""
    failed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work(paths[0])  # imports and caches
        start, processor = time.perf_counter(), time.process_time()
        for path in paths:
            try:
                work(path)
            except Exception:
                failed += 1
        return time.perf_counter() - start, time.process_time() - processor, failed


def bare_work() -> Callable[[Path], object]:
    """Symusic and miditok, nothing else."""
    import symusic
    from miditok import REMI

    from musegen.remi import remi_config

    remi = REMI(remi_config())
    return lambda path: remi.encode(symusic.Score(path))


def grid_tokens(notes: list[tuple[float, float, int, int]], beats_a_bar: int) -> list[str]:
    """Notes as (onset and end in beats, pitch, program) to tokens, in the plain way."""
    tokens: list[str] = []
    bar = place = program = None
    for onset, pitch, end, instrument in sorted((round(o * GRID), p, round(e * GRID), i) for o, e, p, i in notes):
        while bar is None or bar < onset // (GRID * beats_a_bar):
            bar, place = 0 if bar is None else bar + 1, None
            tokens += ["Bar_None", f"TimeSig_{beats_a_bar}/4"]
        if place != onset:
            place = onset
            tokens.append(f"Position_{onset % (GRID * beats_a_bar)}")
        if program != instrument:
            program = instrument
            tokens.append(f"Program_{instrument}")
        tokens += [f"Pitch_{pitch}", f"Duration_{max(1, end - onset)}"]
    return tokens


def pretty_midi_work(path: Path) -> list[str]:
    """What people do with pretty_midi: seconds back to ticks, ticks to the grid."""
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(str(path))
    notes = [
        (midi.time_to_tick(n.start) / midi.resolution, midi.time_to_tick(n.end) / midi.resolution, n.pitch, i.program)
        for i in midi.instruments
        for n in i.notes
    ]
    first = midi.time_signature_changes[0].numerator if midi.time_signature_changes else 4
    return grid_tokens(notes, first)


def muspy_work(path: Path) -> list[str]:
    """Likewise with MusPy, whose times are in ticks of the file."""
    import muspy

    music = muspy.read_midi(str(path))
    unit = music.resolution
    notes = [(n.time / unit, (n.time + n.duration) / unit, n.pitch, t.program) for t in music.tracks for n in t.notes]
    return grid_tokens(notes, music.time_signatures[0].numerator if music.time_signatures else 4)


def stage_shares(paths: list[Path]) -> tuple[list[tuple[str, float]], float]:
    """Milliseconds of processor's time a file that each stage of reading takes, and all of `read_file`."""
    from musegen import canonical, scores
    from musegen.corpus import reading
    from musegen.midi_scan import scan_midi
    from musegen.sources import discover

    options = reading.ReadOptions(tokenizer=reading.REMI)
    reading.prepare(options)
    base_ids = reading._tokenizer(reading.REMI)[0]
    spent: dict[str, float] = {}

    def clock(name: str, call, *arguments):
        start = time.process_time()
        value = call(*arguments)
        spent[name] = spent.get(name, 0.0) + time.process_time() - start
        return value

    import symusic

    files = list(discover([str(path) for path in paths]))
    for file in files[:3]:
        reading.read_file(file, options)
    whole = 0.0
    for file in files:
        try:
            data = clock("read the file", Path(file.path).read_bytes)
            clock("scan the raw bytes", scan_midi, data)
            score = clock("parse (symusic)", symusic.Score.from_midi, data)
            loaded = clock("canonical bars and grid", canonical.canonical_score, score)
            clock("row and content hash", reading.piece_row, loaded, file)
            clock("REMI ids", base_ids, loaded.score)
            clock("fingerprint", reading.fingerprint, loaded.score)
            clock("canonical MIDI", scores.midi_bytes, loaded.score)
        except Exception:
            continue
        start = time.process_time()
        reading.read_file(file, options)
        whole += time.process_time() - start
    return [(name, 1e3 * seconds / len(files)) for name, seconds in spent.items()], 1e3 * whole / len(files)


def driver_shares(paths: list[Path], folder: Path) -> list[tuple[str, float]]:
    """Milliseconds of processor's time a file of what one process does for all workers, whatever the engine."""
    from musegen import work_groups
    from musegen.corpus import reading, reducing, writing
    from musegen.corpus.journal import Journal
    from musegen.sources import discover

    def clock(call, *arguments):
        start = time.process_time()
        value = call(*arguments)
        return value, 1e3 * (time.process_time() - start) / len(paths)

    files, finding = clock(lambda: list(discover([str(path) for path in paths])))
    options = reading.ReadOptions(tokenizer=reading.REMI)
    readings = [reading.read_file(file, options) for file in files]
    work_groups.group_works([])  # imports
    journal = Journal(folder / "journal", {})
    _, appending = clock(lambda: [journal.append(found) for found in readings])
    journal.close()
    plan, reducing_time = clock(reducing.reduce_rows, readings, work_groups.SplitOptions())
    settings = {"tokenizer": reading.REMI}
    read = readings.__getitem__
    _, writing_time = clock(writing.write_corpus, folder / "driver", plan, read, read, settings)
    return [
        ("find the files", finding),
        ("record outcomes", appending),
        ("duplicates, groups, splits", reducing_time),
        ("Parquet, card and checksums", writing_time),
    ]


def measure_reduce(count: int) -> str:
    """The global stage alone, on so many synthetic light rows; run in a fresh process for its memory.

    Three rows a work, which share about half of their fingerprints.
    """
    code = (
        "import resource, sys, time, numpy as np\n"
        "from musegen.corpus.reading import Reading\n"
        "from musegen.corpus.reducing import reduce_rows\n"
        "from musegen.work_groups import SplitOptions\n"
        "from musegen.fingerprints import SIZE, VERSION\n"
        "n = int(sys.argv[1]); rng = np.random.default_rng(0)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "def rows():\n"
        "    for i in range(n):\n"
        "        if i % 3 == 0: work = rng.integers(2**32, size=SIZE, dtype=np.uint32)\n"
        "        own = np.where(rng.random(SIZE) < 0.7, work, rng.integers(2**32, size=SIZE, dtype=np.uint32))\n"
        "        own[0], own[1] = VERSION, 500\n"
        "        prints = own.astype('<u4').tobytes()\n"
        "        row = {'content_hash': rng.bytes(32).hex(), 'work': f'work {i // 3}', 'composer': f'{i % 500}',\n"
        "               'license': 'x', 'notes': int(rng.integers(100, 5000))}\n"
        "        yield Reading(f'folder/{i % 1000}/{i}.mid', '1:2', row=row, fingerprint=prints)\n"
        "start = time.perf_counter(); made = sum(1 for _ in rows()); making = time.perf_counter() - start\n"
        "rng = np.random.default_rng(0)\n"
        "start = time.perf_counter(); plan = reduce_rows(rows(), SplitOptions())\n"
        "seconds = time.perf_counter() - start - making\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(f'{n:,} light rows reduced in {seconds:.1f} s, '\n"
        "      f'{(after - before) * 1024 / n:,.0f} bytes a row at the peak, {len({*plan.groups.values()}):,} groups')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(count)], capture_output=True, text=True)
    return done.stdout.strip() or f"failed: {done.stderr[-500:]}"


def show_builds(rows: list[dict[str, float]], limits: list[tuple[int, float, float]], cores: int) -> None:
    """The table of sizes, the growth, and memory against the number of files."""
    print("\nwall time; ratio: files/s of the build over those of the limit")
    print(f"{'files':>7}{'build s':>10}{'files/s':>10}{'limit s':>10}{'files/s':>10}{'ratio':>8}{'peak MB':>10}")
    for row, (count, seconds, _) in zip(rows, limits, strict=True):
        rate, limit = row["files"] / row["seconds"], cores * count / seconds
        print(
            f"{row['files']:>7,}{row['seconds']:>10.2f}{rate:>10.1f}{seconds / cores:>10.2f}{limit:>10.1f}"
            f"{rate / limit:>8.2f}{row['peak'] / 1e6:>10.0f}"
        )
    if not rows[0]["processor"]:
        return
    print("processor's time of all processes, which other work on the machine disturbs less")
    print(f"{'files':>7}{'build s':>10}{'limit s':>10}{'ratio':>8}")
    for row, (_, _, used) in zip(rows, limits, strict=True):
        print(f"{row['files']:>7,}{row['processor']:>10.2f}{used:>10.2f}{used / row['processor']:>8.2f}")
    if len(rows) < 2:
        return
    files = np.array([r["files"] for r in rows], dtype=float)
    for name, kind, limit, share in (("wall", "seconds", 1, cores), ("processor", "processor", 2, 1)):
        spent = np.array([r[kind] for r in rows])
        slope, start = np.polyfit(files, spent, 1)
        each = sum(found[limit] for found in limits) / files.sum() / share
        exponent = np.polyfit(np.log(files), np.log(spent), 1)[0]
        rest = np.polyfit(np.log(files), np.log(np.maximum(spent - start, 1e-9)), 1)[0]
        print(
            f"{name}: {start:.2f} s to start, then {1e3 * slope:.2f} ms a file; ratio without the start "
            f"{each / slope:.2f}; growth exponent {exponent:.2f}, without the start {rest:.2f} (1 is linear)"
        )
    print(f"peak memory, largest size over smallest: {rows[-1]['peak'] / rows[0]['peak']:.2f}")


def show_scale(row: dict[str, float], reading: float, driving: float) -> None:
    """Bytes a note, and what a million such files cost."""
    notes, kept = row["notes"], row["kept"]
    print(f"\n{notes:,} notes in {kept:,} pieces: {notes / kept:,.0f} notes a piece")
    print(f"bytes a note: canonical MIDI {row['midi'] / notes:.2f}, token ids {2 * row['tokens'] / notes:.2f} "
          f"({row['tokens'] / notes:.2f} tokens), Parquet with both {row['parquet'] / notes:.2f}, "
          f"whole folder {row['folder'] / notes:.2f}")  # fmt: skip
    print(f"a million such files: {reading / 3.6:.1f} core hours of reading, {driving / 3.6:.1f} hours of the one "
          f"process, {row['folder'] / kept / 1e3:.1f} GB on disk")  # fmt: skip
    for cores in (2, 64, 1000):
        print(f"reading on {cores:>5,} cores: {reading * 1e3 / 60 / cores:>8.1f} min")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="MIDI files or folders; the embedded scores by default")
    parser.add_argument("--sizes", type=int, nargs="*", default=[250, 500, 1000])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--engine", default="local")
    parser.add_argument("--skip-peers", action="store_true", help="leave pretty_midi and MusPy out")
    parser.add_argument("--reduce-rows", type=int, default=0, help="also time the global stage on so many rows")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        paths = midi_files(options.files, Path(folder))
        if not paths:
            raise SystemExit("no MIDI file there")
        chosen = [spread(paths, size) for size in sorted({min(size, len(paths)) for size in options.sizes})]
        print(f"{len(paths):,} MIDI files, {options.workers} workers, {os.cpu_count()} cores", flush=True)
        work, cores = bare_work(), options.workers
        builds, limits = [], []
        for some in chosen:
            builds.append(build(some, cores, options.engine, Path(folder) / "bench"))
            seconds, processor, failed = timed(some, work)
            limits.append((len(some), seconds, processor))
            if failed:
                print(f"the bare loop failed on {failed} of {len(some)} files")
        show_builds(builds, limits, cores)
        if not options.skip_peers:
            show_peers(spread(chosen[-1], PEER_FILES), builds[-1], cores)
        shares, whole = stage_shares(spread(chosen[-1], 200))
        print(f"\n{'one process':<28}{'ms a file':>10}{'share':>8}")
        for name, each in shares:
            print(f"{name:<28}{each:>10.2f}{each / sum(e for _, e in shares):>8.0%}")
        print(f"{'read_file as a whole':<28}{whole:>10.2f}")
        shares = driver_shares(spread(chosen[-1], 500), Path(folder))
        print(f"\n{'one process for all workers':<28}{'ms a file':>10}")
        for name, each in shares:
            print(f"{name:<28}{each:>10.2f}")
        show_scale(builds[-1], whole, sum(each for _, each in shares))
    if options.reduce_rows:
        print(measure_reduce(options.reduce_rows))
    return 0


def show_peers(paths: list[Path], row: dict[str, float], cores: int) -> None:
    """The same work through pretty_midi and MusPy."""
    for name, work in (("pretty_midi", pretty_midi_work), ("MusPy", muspy_work)):
        try:
            __import__(name.lower())
        except ImportError:
            print(f"{name}: not installed")
            continue
        seconds, _, failed = timed(paths, work)
        rate = cores * len(paths) / seconds
        print(f"{name} in {cores} processes: {rate:.1f} files/s ({len(paths)} files, {failed} failed); "
              f"the build is {row['files'] / row['seconds'] / rate:.1f} times as fast")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
