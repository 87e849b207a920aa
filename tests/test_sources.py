"""Sources: what is found in folders, archives and tables, in a stable order, and what is refused by name."""

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from midi_files import midi, tune

from musegen.errors import CorpusError
from musegen.sources import ArchiveLimits, count_scores, discover, work_of

TUNES = [tune(seed) for seed in range(8)]


def found(*sources, limits=None):
    """Source -> its data, or the reason for which it is refused."""
    out = {}
    for file in discover([str(s) for s in sources], limits):
        assert file.source not in out
        out[file.source] = file.refused[0] if file.refused else file.data or Path(file.path).read_bytes()
    return out


def zip_file(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data, **options)
    return path


def tar_file(path, members, mode="w"):
    """Members are (name, bytes) or TarInfo without data."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            if not isinstance(member, tarfile.TarInfo):
                info.size = len(member[1])
            archive.addfile(info, None if isinstance(member, tarfile.TarInfo) else io.BytesIO(member[1]))
    return path


def link(name, to, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


# ---- folders -----------------------------------------------------------------------------------------------


def test_folder_with_links_in_rings_odd_names_and_other_things(tmp_path):
    top = tmp_path / "mine"
    (top / "b" / "deep").mkdir(parents=True)
    names = ["b/deep/x.mid", "b.mid", "B.MID", "a.KAR", "c.smf", "noending", "d.dat", "b/z.midi"]
    for name, data in zip(names, TUNES):
        (top / name).write_bytes(data)
    (top / "readme.txt").write_text("no music")
    (top / ".hidden.mid").write_bytes(TUNES[0])
    (top / "b" / "up").symlink_to(top)
    (top / "again").symlink_to(top / "b")
    (top / "gone.mid").symlink_to(tmp_path / "nowhere")
    os_names = ["mine/" + name for name in sorted(names) if not name.startswith("b/")]
    files = found(top)
    assert set(os_names) < set(files) and len(files) == 8  # each file once, by one of the names of its folder
    assert list(files) == list(found(top)) and count_scores([str(top)]) == 8
    assert sorted(files.values()) == sorted(TUNES)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    import os

    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "a.mid").write_bytes(TUNES[0])
    listing = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found(tmp_path / "in") == {"in/a.mid": TUNES[0], "in/closed": "unreadable"}


def test_folders_of_one_name_do_not_hide_each_other(tmp_path):
    for name, data in (("one", TUNES[0]), ("two", TUNES[1])):
        (tmp_path / name / "midi").mkdir(parents=True)
        (tmp_path / name / "midi" / "a.mid").write_bytes(data)
    one, two = tmp_path / "one" / "midi", tmp_path / "two" / "midi"
    assert found(one, two, one, f"{one}/") == {"midi/a.mid": TUNES[0], "midi~2/a.mid": TUNES[1]}


def test_names_that_are_no_utf8_and_control_characters_are_escaped(tmp_path):
    import os

    (tmp_path / "in").mkdir()
    for name in (b"caf\xe9.mid", b"two\nlines.mid"):
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(TUNES[0])
    names = list(found(tmp_path / "in"))
    assert names == ["in/caf\\udce9.mid", "in/two\\x0alines.mid"]
    for name in names:
        name.encode("utf-8")


@pytest.mark.parametrize(
    ("path", "work"),
    [
        ("mozart/k155/movement1.mxl", "mozart/k155"),
        ("k80/02-andante.mid", "k80"),
        ("sonata-1.mid", "sonata"),
        ("sonata_mvt2.mid", "sonata"),
        ("bach/bwv846.mid", "bach/bwv846"),
        ("1.mid", "1"),
        ("menuet.mid", "menuet"),
    ],
)
def test_work_of_a_path(path, work):
    assert work_of(path) == work


METADATA = "file,composer,work,license\na.mid,Mozart,K. 545,Public Domain\n"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_metadata_file_names_works_and_licences(tmp_path, kind):
    if kind == "zip":
        source = zip_file(tmp_path / "x.zip", [("a.mid", TUNES[0]), ("metadata.csv", METADATA)])
    else:
        (tmp_path / "a.mid").write_bytes(TUNES[0])
        (tmp_path / "metadata.csv").write_text(METADATA)
        source = tmp_path
    (file,) = discover([str(source)])
    assert (file.composer, file.work, file.license) == ("Mozart", "K. 545", "Public Domain")


@pytest.mark.parametrize(("data", "says"), [(b"\xff\xfe", "cannot be read as CSV"), (b"a,b\n1,2\n", "needs a column")])
def test_bad_metadata_is_an_error_before_work_starts(tmp_path, data, says):
    (tmp_path / "a.mid").write_bytes(TUNES[0])
    (tmp_path / "metadata.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=says):
        discover([str(tmp_path)])


def test_music21_sources():
    files = list(discover(["music21:mozart"]))
    assert len(files) == 16 == count_scores(["music21:mozart"]) and len({f.work for f in files}) == 5
    assert all(f.composer == "Wolfgang Amadeus Mozart" and f.license for f in files)
    assert [f.work for f in discover(["music21:mozart/k155"])] == ["mozart/k155"] * 3


# ---- archives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("nested", [False, True])
def test_archives_give_the_files_that_are_in_them(tmp_path, ending, nested):
    members = [("s/k1/1.mid", TUNES[0]), ("s/k1/2.mid", TUNES[1]), ("s/noending", TUNES[2]), ("s/text.txt", b"no")]
    members += [("s/fake", b"no music"), ("s/deep.zip", b"PK"), ("s/.x.mid", b"")]
    path = tmp_path / "in" / f"all{ending}"
    path.parent.mkdir()
    if ending == ".zip":
        zip_file(path, members)
    else:
        tar_file(path, members, "w:gz" if "gz" in ending else "w")
    label = f"in/all{ending}" if nested else f"all{ending}"
    expected = {f"{label}/{n}": d for n, d in members[:3]} | {f"{label}/s/deep.zip": "nested"}
    assert found(path.parent if nested else path) == expected
    works = [file.work for file in discover([str(path)])]
    assert works[:3] == ["s/k1", "s/k1", "s/noending"]


def test_path_tricks_links_and_devices_in_a_tar(tmp_path):
    members = [("../../up.mid", TUNES[0]), ("/abs.mid", TUNES[1]), ("C:\\windows.mid", TUNES[2]), ("ok.mid", TUNES[3])]
    members += [link("link.mid", "/etc/passwd"), link("hard.mid", "ok.mid", tarfile.LNKTYPE)]
    members += [link("dev.mid", "", tarfile.CHRTYPE), link("fifo.mid", "", tarfile.FIFOTYPE), ("a/../../b.mid", b"x")]
    reasons = [v if isinstance(v, str) else "ok" for v in found(tar_file(tmp_path / "x.tar", members)).values()]
    assert reasons == ["path", "path", "path", "ok", "link", "link", "link", "link", "path"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


def test_path_tricks_links_and_locks_in_a_zip(tmp_path):
    path = tmp_path / "x.zip"
    zip_file(path, [("../up.mid", TUNES[0]), ("/abs.mid", TUNES[1]), ("ok.mid", TUNES[3]), ("ok.mid ", TUNES[4])])
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("link.mid")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr(zipfile.ZipInfo("lzma.mid"), TUNES[5], compress_type=zipfile.ZIP_LZMA)
        archive.writestr(zipfile.ZipInfo("bz2.mid"), TUNES[5], compress_type=zipfile.ZIP_BZIP2)
        archive.writestr("locked.mid", TUNES[6])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"locked.mid"))
    data[at + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(data)
    reasons = {n.split("zip/")[1]: v for n, v in found(path).items()}
    assert reasons == {
        "../up.mid": "path",
        "/abs.mid": "path",
        "ok.mid": TUNES[3],
        "ok.mid ": TUNES[4],
        "link.mid": "link",
        "lzma.mid": "archive",
        "bz2.mid": "archive",
        "locked.mid": "encrypted",
    }


def test_members_of_one_name_are_both_there(tmp_path):
    path = tar_file(tmp_path / "x.tar", [("a.mid", TUNES[0]), ("a.mid", TUNES[1])])
    assert found(path) == {"x.tar/a.mid": TUNES[0], "x.tar/a.mid#2": TUNES[1]}


def test_bombs_are_bounded_and_lose_nothing_before_them(tmp_path):
    zeros = bytes(64 * 2**20)
    members = [("first.mid", TUNES[0]), ("bomb.mid", zeros), ("last.mid", TUNES[1])]
    bomb = zip_file(tmp_path / "x.zip", members)
    assert bomb.stat().st_size < 200_000
    files = found(bomb)
    assert files == {"x.zip/first.mid": TUNES[0], "x.zip/bomb.mid": "bomb", "x.zip/last.mid": TUNES[1]}
    files = found(tar_file(tmp_path / "x.tar.gz", members, "w:gz"))
    assert files == {"x.tar.gz/first.mid": TUNES[0], "x.tar.gz/bomb.mid": "limits", "x.tar.gz": "bomb"}
    small = ArchiveLimits(member_bytes=10_000, total_bytes=2 * len(TUNES[0]), members=2)
    many = [(f"{i}.mid", data) for i, data in enumerate(TUNES)]
    for path in (zip_file(tmp_path / "y.zip", many), tar_file(tmp_path / "y.tgz", many, "w:gz")):
        files = found(path, limits=small)
        assert list(files.values())[-1] == "bomb" and 1 <= len(files) <= 3


def test_a_tar_header_of_gigabytes_is_refused_unread(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 * 2**30
    head = tar_file(tmp_path / "a.tar", [("a.mid", TUNES[0])]).read_bytes()[: 512 + (len(TUNES[0]) + 511) // 512 * 512]
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(head + info.tobuf(tarfile.GNU_FORMAT)))
    assert found(path) == {"x.tar.gz/a.mid": TUNES[0], "x.tar.gz": "bomb"}


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_a_torn_archive_gives_what_can_be_read(tmp_path, ending):
    import random

    members = [(f"{i}.mid", data) for i, data in enumerate(TUNES)]
    if ending == ".zip":
        whole = zip_file(tmp_path / "x.zip", members).read_bytes()
    else:
        # Noise between the tunes: gzip gives nothing of a block until much of it is there.
        noise = random.Random(1)
        members = [m for member in members for m in (member, ("n.txt", noise.randbytes(60_000)))]
        whole = tar_file(tmp_path / f"x{ending}", members, "w:gz" if "gz" in ending else "w").read_bytes()
    path = tmp_path / f"x{ending}"
    counts = []
    for share in (0.0, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        files = found(path)
        assert files.pop(path.name) == "archive"
        assert all(data in TUNES for data in files.values())
        counts.append(len(files))
    assert counts[0] == 0 and counts == sorted(counts) and counts[2] >= 3 and counts[3] >= 6


def test_a_streamed_zip_that_is_torn_gives_what_can_be_read(tmp_path):
    class Pipe(io.RawIOBase):  # cannot seek back, so that sizes follow the data
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, data in enumerate(TUNES):
            archive.writestr(f"{i}.mid", data)
    path = tmp_path / "x.zip"
    path.write_bytes(pipe.data[: pipe.data.index(b"PK\x01\x02") + 10])
    assert found(path) == {f"x.zip/{i}.mid": data for i, data in enumerate(TUNES)} | {"x.zip": "archive"}


@pytest.mark.parametrize("seed", range(40))
def test_damaged_archives_never_stop_the_stream(tmp_path, seed):
    import random

    rng = random.Random(seed)
    members = [(f"{i}.mid", data) for i, data in enumerate(TUNES)]
    ending = (".zip", ".tar", ".tar.gz")[seed % 3]
    path = tmp_path / f"x{ending}"
    (zip_file if ending == ".zip" else tar_file)(path, members, **({"mode": "w:gz"} if "gz" in ending else {}))
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    (tmp_path / "y.mid").write_bytes(TUNES[0])
    assert found(tmp_path)[f"{tmp_path.name}/y.mid"] == TUNES[0]


def test_a_damaged_header_inside_a_tar_is_told(tmp_path):
    path = tar_file(tmp_path / "x.tar", [(f"{i}.mid", data) for i, data in enumerate(TUNES)])
    data = bytearray(path.read_bytes())
    at = data.index(b"4.mid")
    data[at + 148 : at + 156] = b"garbage!"
    path.write_bytes(data)
    assert found(path) == {f"x.tar/{i}.mid": TUNES[i] for i in range(4)} | {"x.tar": "archive"}


def test_other_archives_are_named_and_not_opened(tmp_path):
    path = zip_file(tmp_path / "x.zip", [("a.mid.bz2", bz2.compress(TUNES[0])), ("b.mid", TUNES[1])])
    assert found(path) == {"x.zip/a.mid.bz2": "nested", "x.zip/b.mid": TUNES[1]}


# ---- tables ------------------------------------------------------------------------------------------------


def table(column="midi", **more):
    return pa.table({column: pa.array(TUNES, pa.binary()), **more})


def test_parquet_with_a_column_of_midi(tmp_path):
    texts = {"composer": [f"c{i}" for i in range(8)], "file_name": [f"k{i // 2}/{i % 2 + 1}.mid" for i in range(8)]}
    pq.write_table(table(**texts, noise=list(range(8))), tmp_path / "x.parquet", row_group_size=3)
    files = list(discover([str(tmp_path / "x.parquet")]))
    assert [f.data for f in files] == TUNES and len({f.stamp for f in files}) == 8
    assert [f.source for f in files] == [f"x.parquet#{i}" for i in range(8)]
    assert [f.work for f in files] == [f"k{i // 2}" for i in range(8)] and files[3].composer == "c3"


def test_datasets_folder_with_structs_of_bytes_and_paths(tmp_path):
    from datasets import Dataset, Features, Value

    kind = Features({"tune": {"bytes": Value("binary"), "path": Value("string")}, "license": Value("string")})
    rows = [{"tune": {"bytes": d, "path": f"{i}.mid"}, "license": "CC0"} for i, d in enumerate(TUNES)]
    Dataset.from_list(rows, features=kind).save_to_disk(str(tmp_path / "saved"))
    files = list(discover([str(tmp_path / "saved")]))
    assert [f.data for f in files] == TUNES and files[0].license == "CC0"


def test_a_damaged_row_group_loses_its_own_rows(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(table(), path, row_group_size=2, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[at : at + 30] = b"\xff" * 30
    path.write_bytes(data)
    files = found(path)
    assert files.pop("x.parquet#damaged0") == "archive" and list(files.values()) == TUNES[:2] + TUNES[4:]


def test_tables_that_are_none(tmp_path):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"midi": pa.array([None, TUNES[0], b""], pa.binary())}), tmp_path / "gaps.parquet")
    name = tmp_path.name
    assert list(found(tmp_path / "gaps.parquet")) == [f"gaps.parquet#{i}" for i in range(3)]
    files = found(tmp_path)
    assert files[f"{name}/torn.parquet"] == "archive" and not any("numbers" in f for f in files)


# ---- wrong names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere", "no such file or folder"),
        ("music21:nobody", "no such folder"),
        ("music21:../..", "no such folder"),
        ("music21:", "no such folder"),
        ("hub:nobody", "hub:ORG/NAME"),
        ("hub:nobody/nothing", "cannot be had from the Hub"),
    ],
)
def test_sources_that_are_none(source, message, tmp_path):
    with pytest.raises(CorpusError, match=message):
        discover(["music21:mozart", source])


def test_a_hub_dataset_is_its_snapshot(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "data").mkdir()
    pq.write_table(table(), tmp_path / "data" / "train-00000-of-00001.parquet")
    zip_file(tmp_path / "test.zip", [("a.mid", TUNES[0])])
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    files = list(discover(["hub:org/name"]))
    assert len(files) == 9 and files[0].provenance == "https://huggingface.co/datasets/org/name"
    assert files[0].source == "hub:org/name/data/train-00000-of-00001.parquet#0"
    assert [f.data for f in discover(["hub:org/name:train"])] == TUNES
    assert asked[0][0] == ("org/name",) and asked[0][1]["repo_type"] == "dataset"


def test_midi_without_a_division_is_still_a_file(tmp_path):
    (tmp_path / "x").write_bytes(midi(division=0))
    assert list(found(tmp_path)) == [f"{tmp_path.name}/x"] and struct.calcsize(">H") == 2
