"""Builds that survive: killed anywhere, two at once, files that hang, crash or eat memory, hundreds of corrupt ones.

Most run the real command on tunes made by hand, which read in a millisecond.
"""

import collections
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from midi_files import END, NOTE, midi, mutated, tune

from musegen import workers
from musegen.corpus import BuildLimits, build_corpus, engines
from musegen.corpus.journal import Journal, reading_key
from musegen.corpus.reading import Reading
from musegen.errors import ConfigError, CorpusError, TokenizerError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits and kills of Linux")


def musegen(*words, cwd, **options):
    command = [sys.executable, "-m", "musegen", "corpus", "build", "--plain-card", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes, **options)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def contents(folder):
    """The digest of every file of a corpus, by name: bytes that differ would be compared for minutes to be shown."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of tunes, copies, corrupt files and an archive."""
    top = tmp_path_factory.mktemp("many") / "in"
    for i in range(150):
        path = top / f"w{i // 3}" / f"{i % 3}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tune(i % 140))
    (top / "torn.mid").write_bytes(tune(0)[:40])
    (top / "big.mid").write_bytes(midi(NOTE * 20 + END, division=2, chunks=600))
    with zipfile.ZipFile(top / "more.zip", "w") as archive:
        for i in range(40):
            archive.writestr(f"z{i}.mid", tune(1000 + i))
        archive.writestr("../out.mid", tune(0))
    return top


@pytest.fixture(scope="module")
def expected(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "corpus"
    report = build_corpus([str(many)], out, workers=2, progress=False)
    assert (report.found, sum(report.kept.values()), report.duplicate_files) == (193, 180, 10)
    assert report.quarantined_files == {"unreadable": 1, "limits": 1, "path": 1}
    return contents(out)


# ---- killed ------------------------------------------------------------------------------------------------


def outcomes(journal):
    """The sources in a journal, read by a reader of its own; a torn record ends it."""
    data, at, found = journal.read_bytes(), 0, []
    while at + 20 <= len(data):
        sizes = [int.from_bytes(data[at + i : at + i + 4], "little") for i in (4, 8, 12)]
        if at + 20 + sum(sizes) > len(data):
            break
        found.append(json.loads(data[at + 20 : at + 20 + sizes[0]]).get("source"))
        at += 20 + sum(sizes)
    return found[1:]


@linux_only
def test_killed_at_twenty_moments_and_still_the_same_bytes(many, expected, tmp_path):
    rng = random.Random(0)
    journal = tmp_path / "corpus.build" / "journal"
    before, kills, finished, counts = [], 0, 0, set()
    while kills < 20:
        process = musegen(many, "--out", "corpus", "--workers", 1, cwd=tmp_path, start_new_session=True)
        # From when it begins to write, so that few kills are lost on imports; some come before and some at the end.
        until = time.monotonic() + 30
        size = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and time.monotonic() < until and rng.random() > 0.001:
            if journal.exists() and journal.stat().st_size > size:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.12))
        process.kill()
        if finish(process)[0] == 0:
            finished += 1
            assert contents(tmp_path / "corpus") == expected and not journal.parent.exists()
            before = []
            continue
        kills += 1
        if not journal.exists() and (tmp_path / "corpus" / "report.json").exists():  # all was done but leaving
            assert contents(tmp_path / "corpus") == expected
            before = []
            continue
        now = outcomes(journal) if journal.exists() else []
        assert len(now) == len(set(now)), "an outcome was recorded twice"
        assert now[: len(before)] == before, "an outcome was lost"
        before = now
        counts.add(len(now))
    assert len(counts) > 5, "the kills came at different moments"
    code, out, err = finish(musegen(many, "--out", "corpus", cwd=tmp_path))
    assert code == 0 and "193 files found: 180 kept" in out
    assert not before or f"{len(before):,} files were read" in err
    assert contents(tmp_path / "corpus") == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus"]


@linux_only
def test_workers_killed_by_hand_lose_nothing(many, expected, tmp_path, monkeypatch):
    pools, killed = [], []

    class Pool(workers.WorkerPool):
        def map_unordered(self, tasks):
            pools.append(self)
            return super().map_unordered(tasks)

    def read(*arguments):
        for number, reading in enumerate(engines.read_locally(*arguments)):
            # Two kills of one file are its fault for all that a build can know, so one on its second try is spared.
            fair = [w for w in pools[0]._workers if w.flight is None or w.flight.tries < 2]
            if fair and number >= 15 * (len(killed) + 1):
                killed.append(fair[len(killed) % len(fair)].process.pid)
                os.kill(killed[-1], signal.SIGKILL)
            yield reading

    monkeypatch.setattr(workers, "WorkerPool", Pool)
    monkeypatch.setitem(engines.ENGINES, "local", read)
    build_corpus([str(many)], tmp_path / "corpus", workers=2, progress=False)
    assert len(pools) == 1 and len(set(killed)) >= 6
    assert contents(tmp_path / "corpus") == expected


def test_interrupt_says_how_to_go_on(many, expected, tmp_path):
    process = musegen(many, "--out", "corpus", "--workers", 1, cwd=tmp_path, start_new_session=True)
    journal = tmp_path / "corpus.build" / "journal"
    while not (journal.exists() and journal.stat().st_size > 2000):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and "the same command goes on from there" in err and "Traceback" not in err
    assert finish(musegen(many, "--out", "corpus", cwd=tmp_path))[0] == 0
    assert contents(tmp_path / "corpus") == expected


def test_killed_between_the_two_renames(many, expected, tmp_path):
    """The old corpus waits in the work folder: it comes back, and the new one replaces it."""
    (tmp_path / "corpus.build" / "old").mkdir(parents=True)
    (tmp_path / "corpus.build" / "old" / "report.json").write_text("{}")
    with pytest.raises(CorpusError, match="no such file"):
        build_corpus([str(tmp_path / "nowhere")], tmp_path / "corpus", progress=False)
    build_corpus([str(many)], tmp_path / "corpus", progress=False)
    assert contents(tmp_path / "corpus") == expected


# ---- two builds, other settings ----------------------------------------------------------------------------


def test_the_second_of_two_builds_says_so_and_stops(many, tmp_path):
    first = musegen(many, "--out", "corpus", "--workers", 1, cwd=tmp_path)
    journal = tmp_path / "corpus.build" / "journal"
    while not (journal.exists() and journal.stat().st_size > 500):
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    code, _, err = finish(musegen(many, "--out", "corpus", cwd=tmp_path))
    assert code == 2 and "another build is at work there" in err and f"process {first.pid}" in err
    first.send_signal(signal.SIGCONT)
    assert finish(first)[0] == 0


def stop_after(monkeypatch, count):
    """Builds that are interrupted after so many outcomes."""
    append = Journal.append

    def limited(self, reading):
        if len(self) >= count:
            raise KeyboardInterrupt
        append(self, reading)

    monkeypatch.setattr(Journal, "append", limited)


@pytest.fixture
def interrupted(many, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 50)
        with pytest.raises(KeyboardInterrupt):
            build_corpus([str(many)], tmp_path / "corpus", workers=1, progress=False)
    return tmp_path / "corpus"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"limits": BuildLimits.from_settings({"notes": 50})}, "limits was"),
        ({"sources": ["music21:mozart"]}, "sources was"),
        ({"tokenizer": "remi"}, "tokenizer was null, now"),
    ],
)
def test_going_on_with_other_settings_is_refused(many, interrupted, changed, says):
    changed = {"sources": [str(many)], **changed}
    with pytest.raises(CorpusError, match=f"other settings.*{says}.*--restart"):
        build_corpus(changed.pop("sources"), interrupted, progress=False, **changed)


def test_restart_begins_anew_and_a_broken_lock_does_not_stay(many, interrupted, expected):
    report = build_corpus([str(many)], interrupted, limits=BuildLimits.from_settings({"beats": 23}), restart=True)
    assert report.quarantined_files["limits"] > 20 and sum(report.kept.values()) > 20
    build_corpus([str(many)], interrupted, progress=False)
    assert contents(interrupted) == expected


def test_a_file_that_changed_meanwhile_is_read_again(many, interrupted, tmp_path, capfd):
    import shutil

    first = outcomes(tmp_path / "corpus.build" / "journal")[0]
    copy = many.parent / "in"
    path = many.parent / first
    old = path.read_bytes()
    try:
        path.write_bytes(tune(5000))
        report = build_corpus([str(copy)], interrupted, progress=True)
    finally:
        path.write_bytes(old)
        shutil.rmtree(tmp_path / "corpus.build", ignore_errors=True)
    assert "1 files have changed" in capfd.readouterr().err and report.found == 193
    rows = pq.read_table(interrupted / "files.parquet").to_pylist()
    fresh = build_corpus([str(copy)], tmp_path / "fresh", progress=False)
    assert fresh.found == 193
    before = {
        row["source"]: row["content_hash"] for row in pq.read_table(tmp_path / "fresh/files.parquet").to_pylist()
    }
    assert [row["source"] for row in rows if row["content_hash"] != before[row["source"]]] == [first]


def test_a_torn_or_damaged_journal_is_cut_and_says_how_much(tmp_path):
    path = tmp_path / "journal"
    readings = [Reading(f"{i}", "s", row={"work": "w"}, midi=b"m" * i, fingerprint=b"f" * 8) for i in range(5)]
    journal = Journal(path, {"a": 1})
    for reading in readings:
        journal.append(reading)
    assert journal.read(reading_key("3", "s")) == readings[3]
    with pytest.raises(ValueError, match="has an outcome"):
        journal.append(readings[2])
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path, {"a": 1})
        kept = [reading for reading in readings if reading_key(reading.source, "s") in journal]
        assert kept == readings[: len(kept)] and journal.resumed == len(kept)
        for reading in readings[len(kept) :]:
            journal.append(reading)
        journal.close()
        assert path.read_bytes() == whole
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    journal = Journal(path, {"a": 1})
    assert journal.resumed < 5 and journal.cut > 0
    journal.close()


# ---- whatever a file does ----------------------------------------------------------------------------------

READERS = """
import ctypes, time
from musegen.corpus.reading import read_file

KEPT = []


def read(file, options):
    if "hang" in file.source:
        ctypes.PyDLL(None).sleep(60)
    if "crash" in file.source:
        ctypes.string_at(0)
    if "memory" in file.source:
        KEPT.append(bytearray(2**33))
    if "fault" in file.source:
        raise ZeroDivisionError(f"no reason in {file.path}")
    return read_file(file, options)
"""


@linux_only
def test_files_that_hang_crash_or_eat_memory_lose_themselves_alone(tmp_path, monkeypatch):
    (tmp_path / "mean_readers.py").write_text(READERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mean_readers

    from musegen.corpus import engines

    monkeypatch.setattr(engines, "read_file", mean_readers.read)
    (tmp_path / "in").mkdir()
    for i in range(30):
        (tmp_path / "in" / f"{i}.mid").write_bytes(tune(i))
    for name in ("hang", "crash", "memory", "fault"):
        (tmp_path / "in" / f"{name}.mid").write_bytes(tune(99))
    limits = BuildLimits.from_settings({"seconds": 1, "memory_bytes": 2**28})
    built = [
        build_corpus([str(tmp_path / "in")], tmp_path / f"out{i}", limits=limits, workers=2, progress=False)
        for i in range(2)
    ]
    assert built[0].quarantined_files == {"crashed": 1, "error": 1, "timeout": 1, "memory": 1}
    assert built[0].quarantined["in/hang.mid"] == {"reason": "timeout", "detail": "no end within 1 s"}
    assert "in/fault.mid" in built[0].quarantined["in/fault.mid"]["detail"]
    assert sum(built[0].kept.values()) == 30 and built[0].found == 34
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1")


def test_hundreds_of_corrupt_files_are_all_accounted_for(tmp_path, scores):
    from musegen.scores import midi_bytes

    bases = [tune(1), tune(2), midi_bytes(scores["k545"])]
    (tmp_path / "in").mkdir()
    for seed in range(300):
        (tmp_path / "in" / f"{seed}.mid").write_bytes(mutated(seed, bases[seed % 3]))
    report = build_corpus([str(tmp_path / "in")], tmp_path / "out", progress=False)
    assert report.found == 300 == sum(report.kept.values()) + report.duplicate_files + report.bad
    assert report.bad > 50 and sum(report.kept.values()) > 50
    rows = pq.read_table(tmp_path / "out" / "files.parquet").to_pylist()
    assert [row["source"] for row in rows] == [f"in/{p}" for p in sorted(f"{i}.mid" for i in range(300))]
    counted = collections.Counter(row["status"] for row in rows)
    assert counted == {
        "kept": sum(report.kept.values()),
        "duplicate": report.duplicate_files,
        "quarantined": report.bad,
    }
    assert all(bool(row["reason"]) == (row["status"] == "quarantined") == bool(row["detail"]) for row in rows)
    for name, count in report.repairs.items():
        assert sum(row[name] for row in rows) == count
    assert report.repairs["unended_notes"] > 0
    # Nothing that the parser says stands in a report: its words change from run to run.
    build_corpus([str(tmp_path / "in")], tmp_path / "again", workers=1, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


# ---- the command -------------------------------------------------------------------------------------------


def test_strict_writes_the_corpus_and_fails(many, expected, tmp_path):
    code, out, err = finish(musegen(many, "--out", "corpus", "--strict", cwd=tmp_path))
    assert code == 1 and "3 quarantined" in out and "warning: 3 of 193 files could not be used" in err
    assert contents(tmp_path / "corpus") == expected
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.mid").write_bytes(tune(1))
    assert finish(musegen("good", "--out", "fine", "--strict", cwd=tmp_path))[0] == 0


def test_nothing_heavy_is_imported_to_build(many, tmp_path):
    code = (
        "import sys\nfrom musegen.corpus import build_corpus\n"
        f"build_corpus([{str(many)!r}], 'corpus', workers=1, progress=False)\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'miditok', 'verovio', 'typer') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--limit", "nots=3"], "limit nots: there is none of that name; there are file_bytes, notes"),
        (["--limit", "notes=many"], "a number above 0 is needed, not 'many'"),
        (["--limit", "notes=0"], "a number above 0"),
        (["--limit", "notes"], "--limit notes: write it as name=value"),
        (["--limits", "nowhere.yaml"], "nowhere.yaml: cannot be read as YAML"),
        (["--engine", "warp"], "engine 'warp': there is none of that name; there are local"),
        (["--tokenizer", "nowhere"], "nowhere: no music tokenizer there"),
    ],
)
def test_wrong_options_are_one_line(many, tmp_path, words, says):
    code, _, err = finish(musegen(many, *words, cwd=tmp_path))
    assert code == 2 and len(err.strip().splitlines()) == 1 and says in err
    assert not list(tmp_path.iterdir())


def test_limits_by_name_from_file_and_option(tmp_path):
    limits = BuildLimits.from_settings({"notes": 7, "seconds": 2, "archive_ratio": 3, "file_bytes": 1000})
    assert (limits.score.notes, limits.worker.seconds, limits.archive.ratio) == (7, 2.0, 3.0)
    assert limits.archive.member_bytes == 1000
    assert BuildLimits.from_settings(limits.as_settings()) == limits
    with pytest.raises(ConfigError, match="above 0"):
        BuildLimits.from_settings({"bars": True})
    for i in range(3):
        (tmp_path / f"{i}.mid").write_bytes(tune(i, notes=20 * (i + 1)))
    (tmp_path / "limits.yaml").write_text("notes: 10\nbars: 9999\n")
    process = musegen(".", "--out", "../out", "--limits", "limits.yaml", "--limit", "notes=50", cwd=tmp_path)
    code, out, _ = finish(process)
    assert code == 0 and "2 kept" in out and "limits" in out
    settings = json.loads((tmp_path / "../out/report.json").read_text())["settings"]["limits"]
    assert (settings["notes"], settings["bars"]) == (50, 9999)


def test_the_docs_name_every_limit_reason_and_repair():
    from musegen.canonical import REPAIRS
    from musegen.corpus.report import REASONS

    text = (Path(__file__).parents[1] / "docs" / "corpus.md").read_text(encoding="utf-8")
    for name, value in BuildLimits().as_settings().items():
        assert f"| `{name}` | {value} |" in text
    for name, meaning in {**REASONS, **REPAIRS}.items():
        assert f"| `{name}` | {meaning} |" in text


# ---- tokens ------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_tokenizer(tmp_path, movement_paths, tokenizer, scores):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sources = [str(movement_paths[name]) for name in ("k545", "k80/movement3")]
    build_corpus(sources, tmp_path / "a", tokenizer=str(tmp_path / "tokenizer"), workers=1, progress=False)
    build_corpus(sources, tmp_path / "b", tokenizer="remi", workers=1, progress=False)
    tables = [pq.read_table(next((tmp_path / n / "data").glob("*.parquet"))) for n in "ab"]
    music = [table.drop_columns(["input_ids"]) for table in tables]
    assert music[0].equals(music[1])
    shift = len(tokenizer.remi.config.special_tokens) - 4  # the package's own vocabulary has the plain four
    for name, ids, plain in zip(("k545", "k80/movement3"), *(table["input_ids"].to_pylist() for table in tables)):
        assert ids == tokenizer.base_ids(scores[name]).tolist()
        assert ids == [i + shift for i in plain]
    about = [json.loads(table.schema.metadata[b"musegen"]) for table in tables]
    names = sorted(tokenizer.remi.vocab.items())
    assert about[0]["vocabulary"] == hashlib.sha256(json.dumps(names).encode()).hexdigest() != about[1]["vocabulary"]
    with pytest.raises(TokenizerError, match="no music tokenizer"):
        build_corpus(sources, tmp_path / "c", tokenizer=str(tmp_path), progress=False)


def test_engines_are_functions_of_a_stream(many, expected, tmp_path, monkeypatch):
    """Another engine, here without processes and in reverse, gives the same corpus."""
    from musegen.corpus import engines
    from musegen.corpus.reading import read_file

    def backwards(files, options, limits, workers):
        yield from map(functools.partial(read_file, options=options), reversed(list(files)))

    monkeypatch.setitem(engines.ENGINES, "backwards", backwards)
    build_corpus([str(many)], tmp_path / "corpus", engine="backwards", progress=False)
    assert contents(tmp_path / "corpus") == expected
