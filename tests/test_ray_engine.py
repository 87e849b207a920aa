"""The Ray engine: the same bytes as the local one, whatever is killed meanwhile; clear errors where it cannot work."""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from midi_files import midi, tune

from musegen.corpus import BuildLimits, ReadOptions, build_corpus, engines, ray_engine
from musegen.corpus.reading import Reading
from musegen.errors import ConfigError, CorpusError
from musegen.sources import SourceFile

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'musegen[ray]'"
)
FILES = 240


def contents(folder):
    """The digest of every file of a corpus, by name."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Tunes that take some milliseconds each, a few of them twice, and two files that are none."""
    top = tmp_path_factory.mktemp("many") / "in"
    for i in range(FILES - 2):
        path = top / f"w{i // 3}" / f"{i % 3}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tune(i % 230, notes=1500))
    (top / "torn.mid").write_bytes(tune(0)[:40])
    (top / "huge.mid").write_bytes(midi(tune(1)[22:], division=2, chunks=600))
    return top


@pytest.fixture(scope="module")
def expected(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "corpus"
    report = build_corpus([str(many)], out, workers=2, tokenizer="remi", progress=False)
    assert report.found == FILES and report.bad == 2 and report.duplicate_files == 8
    return contents(out)


@pytest.fixture(scope="module")
def cluster():
    """One cluster of two processes for all tests, at an address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray = pytest.importorskip("ray")
    path = os.pathsep.join(filter(None, sys.path))  # for actors of every job
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), path
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 1024**2,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="error",
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def actors():
    """Two actors, the second with a worker of its own; waits for them."""
    for _ in range(1000):
        found = [p for p in psutil.Process().children(recursive=True) if "_Reader" in "".join(p.cmdline()[:1])]
        if len(found) == 2 and found[1].children():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{len(found)} actors")


@needs_ray
def test_a_killed_actor_and_a_killed_worker_lose_nothing(cluster, many, expected, tmp_path, monkeypatch):
    killed = []

    def read(*arguments):
        for i, reading in enumerate(ray_engine.read_on_ray(*arguments)):
            if i == 20:
                one, other = actors()
                killed.extend([one, *other.children()])
                for process in killed:
                    process.kill()
            yield reading

    monkeypatch.setattr(ray_engine, "BATCH_FILES", 8)
    monkeypatch.setitem(engines.ENGINES, "ray", read)
    build_corpus([str(many)], tmp_path / "out", workers=2, tokenizer="remi", engine="ray", progress=False)
    assert len(killed) == 2 and not any(process.is_running() for process in killed)
    assert contents(tmp_path / "out") == expected


@needs_ray
def test_a_killed_driver_goes_on_where_it_was(cluster, many, expected, tmp_path, monkeypatch):
    out, journal = tmp_path / "out", tmp_path / "out.build" / "journal"
    command = [
        sys.executable,
        "-m",
        "musegen",
        "corpus",
        "build",
        "--plain-card",
        str(many),
        "--out",
        str(out),
        "--engine",
        "ray",
    ]
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    driver = subprocess.Popen([*command, "--tokenizer", "remi"], env=environment, stderr=subprocess.PIPE)
    while driver.poll() is None and not (journal.is_file() and journal.stat().st_size > 100_000):
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, driver.stderr.read()
    driver.stderr.close()
    read = []

    def counted(files, *arguments):
        return ray_engine.read_on_ray((read.append(file.source) or file for file in files), *arguments)

    monkeypatch.setitem(engines.ENGINES, "ray", counted)
    build_corpus([str(many)], out, tokenizer="remi", engine="ray", progress=False)
    assert 0 < len(read) < FILES and len(set(read)) == len(read)
    assert contents(out) == expected


def test_files_and_outcomes_cross_over_unchanged():
    files = [
        SourceFile(os.fsdecode(b"/a/\xff.mid"), "a/\\xff.mid", "w", "Bäch", "t", "l", "p", stamp="1:2"),
        SourceFile("b.zip", "b.zip/1.mid", "w", data=b"\x00MThd", stamp="x"),
    ]
    assert ray_engine._files(ray_engine._file_table(files)) == files
    readings = [
        Reading("a", "1", {"notes": 3, "beats": 0.1, "programs": [0]}, b"\0m", b"f", b"", repairs={"padded_bars": 1}),
        Reading("b", "", reason="limits", detail="5 notes"),
    ]
    assert list(ray_engine._readings(ray_engine._reading_table(readings))) == readings


def test_files_come_in_batches_and_rounds_within_bounds(monkeypatch):
    files = [SourceFile("a.zip", f"{i}", "w", data=b"x" * 1000) for i in range(100)]
    monkeypatch.setattr(ray_engine, "BATCH_BYTES", 5000)
    batches = list(ray_engine._batches(iter(files)))
    assert [len(batch) for batch in batches] == [5] * 20 and [file for batch in batches for file in batch] == files
    monkeypatch.setattr(ray_engine, "ROUND_BYTES", 20_000)
    left = iter(batches)
    assert len(ray_engine._round(left, 1000)) == 4 and len(ray_engine._round(left, 10)) == 2
    assert len(list(left)) == 14


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path, many):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"musegen\[ray\]"):
        build_corpus([str(many)], tmp_path / "out", engine="ray", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_machine_with_other_versions_is_refused():
    versions = {**ray_engine.versions(), "symusic": "0.0"}
    with pytest.raises(ConfigError, match=r"symusic .* instead of 0\.0"):
        ray_engine._Reader(ReadOptions(), BuildLimits(), versions)


def test_a_file_that_only_the_driver_sees_stops_the_build(tmp_path):
    path = tmp_path / "a.mid"
    path.write_bytes(tune(1))
    with pytest.raises(CorpusError, match="storage that all machines see"):
        ray_engine._check_seen(SourceFile(str(path), "a.mid", "a"), Reading("a.mid", "", reason="missing"))
