"""Groups of works that share music, and splits that keep them together."""

import numpy as np
import pytest
import symusic
from alterations import changed

from musegen import fingerprints as f
from musegen.errors import CorpusError
from musegen.work_groups import GroupOptions, Link, SplitOptions, find_links, group_works, split_by_group


def row(score, work, composer="Mozart", notes=100):
    return {"source": work, "work": work, "composer": composer, "notes": notes, "fingerprint": f.fingerprint(score)}


def synthetic(size, seed, shared=()):
    members = np.random.default_rng(seed).integers(0, 2**40, size - len(shared), dtype=np.uint64)
    return f.sketch(np.unique(np.concatenate([members, np.array(shared, np.uint64)])))


def named(count, prints):
    return [{"source": str(i), "work": f"w{i:05d}", "fingerprint": p} for i, p in zip(range(count), prints)]


def test_editions_parts_and_keys_join_their_work_and_nothing_else(scores):
    quartet = scores["k155/movement3"]
    part = symusic.Score(quartet.ticks_per_quarter)
    part.tracks.append(quartet.tracks[-1])
    rng = np.random.default_rng(0)

    def misread(on, du, pi):
        keep = rng.random(len(on)) >= 0.04
        return on[keep], du[keep], (pi + np.where(rng.random(len(on)) < 0.03, 1, 0))[keep] + 2

    rows = [row(score, name) for name, score in scores.items()]
    rows += [row(part, "cello"), row(changed(quartet, misread), "another edition")]
    groups = group_works(rows)
    assert groups[-2:] == ["another edition"] * 2 and groups[1] == "another edition"
    assert len(set(groups)) == len(scores)


def test_rows_of_one_work_are_one_group_and_joints_are_passed_on():
    rows = named(5, [synthetic(100, i) for i in range(5)])
    rows[4]["work"] = rows[0]["work"]
    assert group_works(rows) == ["w00000", "w00001", "w00002", "w00003", "w00000"]
    assert group_works(rows, links=[Link(1, 2, 0.9), Link(3, 4, 0.9), Link(2, 3, 0.9)]) == ["w00000"] * 5


def test_chance_does_not_string_all_works_together():
    rows = named(9, [synthetic(100, i) for i in range(9)])
    weak = [Link(i, i + 1, 0.3 - 0.01 * i) for i in range(8)]
    groups = group_works(rows, GroupOptions(crowd=4), links=weak)
    assert [groups.count(g) for g in sorted(set(groups))] == [4, 4, 1]
    assert groups == group_works(rows, GroupOptions(crowd=4), links=weak[::-1])
    strong = [Link(i, i + 1, 0.9) for i in range(8)]
    assert len(set(group_works(rows, GroupOptions(crowd=4), links=strong))) == 1


def test_groups_do_not_depend_on_the_order_of_the_rows(scores):
    rows = [row(s, n) for n, s in scores.items()]
    rows += [row(changed(s, lambda on, du, pi: (on, du, pi + 1)), f"{n} higher") for n, s in scores.items()]
    groups = dict(zip([r["work"] for r in rows], group_works(rows)))
    backwards = dict(zip([r["work"] for r in rows[::-1]], group_works(rows[::-1])))
    assert groups == backwards and len(set(groups.values())) == len(scores)


def test_doubtful_pairs_are_counted_where_the_music_is_at_hand():
    sets = [np.arange(1000, dtype=np.uint64), np.arange(740, 1740, dtype=np.uint64)]
    rows = named(2, map(f.sketch, sets))
    asked = []

    def shingles_of(i):
        asked.append(i)
        return sets[i]

    (link,) = find_links(rows, GroupOptions(overlap=0.2), shingles_of=shingles_of)
    assert link.overlap == 0.26 and sorted(asked) == [0, 1]
    assert find_links(rows, GroupOptions(overlap=0.27), shingles_of=shingles_of) == []


def test_a_tune_that_a_hundred_files_hold_is_one_group_without_all_pairs():
    tune = np.arange(1, 301, dtype=np.uint64)
    rows = named(100, [synthetic(330, i, tune) for i in range(100)])
    rows += [{**r, "work": f"other {r['work']}"} for r in named(50, [synthetic(330, 1000 + i) for i in range(50)])]
    links = find_links(rows)
    assert len(set(group_works(rows, links=links)[:100])) == 1 and len(set(group_works(rows, links=links))) == 51
    assert len(links) < 100 * 99 / 2


def test_cost_grows_with_the_number_of_pieces_not_of_pairs():
    """Counted in pairs that are compared, for pieces that all share phrases with one another."""
    prints = [synthetic(40, i, np.arange(20, dtype=np.uint64)) for i in range(320)]
    compared = {}
    for count in (80, 320):
        rows = named(count, prints)
        links = find_links(rows, GroupOptions(overlap=0, minima=1))
        compared[count] = len(links)
        assert len(set(group_works(rows, links=links, options=GroupOptions(crowd=count)))) == 1
    assert compared[320] < 5 * compared[80]  # 16 times if it were all pairs


def test_fewer_tables_at_once_find_the_same(monkeypatch):
    prints = [synthetic(100, i, np.arange(i % 3 * 100, i % 3 * 100 + 50, dtype=np.uint64)) for i in range(30)]
    links = find_links(named(30, prints))
    monkeypatch.setattr("musegen.work_groups._ENTRIES", 100)
    assert find_links(named(30, prints)) == links and len(links) >= 27


def test_fingerprints_of_another_version_are_refused():
    rows = named(1, [synthetic(50, 0)])
    rows[0]["fingerprint"][0] = f.VERSION + 1
    with pytest.raises(CorpusError, match="another version"):
        group_works(rows)
    assert group_works([]) == []


def corpus(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"work": f"w{i}", "composer": "Bach" if i % 4 else "Haydn", "notes": int(rng.integers(100, 500)), "n": k}
        for i in range(count)
        for k in range(2)
    ]


@pytest.mark.parametrize("count", [3, 5, 12, 200])
def test_no_group_is_in_two_splits(count):
    rows = corpus(count)
    groups = [f"g{int(r['work'][1:]) // 2}" if count > 5 else r["work"] for r in rows]
    parts = split_by_group(rows, groups, SplitOptions(seed=count))
    found = {name: {groups[i] for i in part} for name, part in parts.items()}
    assert list(parts) == ["train", "validation", "test"]
    assert sum(map(len, found.values())) == len(set(groups)) and sum(map(len, parts.values())) == len(rows)
    if count == 200:
        total = sum(r["notes"] for r in rows)
        for name in ("validation", "test"):
            assert 0.06 * total < sum(rows[i]["notes"] for i in parts[name]) < 0.13 * total


def test_a_new_work_moves_few_others():
    rows = corpus(200)
    before = split_by_group(rows, [r["work"] for r in rows], SplitOptions())
    rows.append({"work": "new", "composer": "Bach", "notes": 300})
    after = split_by_group(rows, [r["work"] for r in rows], SplitOptions())
    moved = sum(len(set(before[name]) - set(after[name])) for name in before)
    assert moved <= 12


def test_named_works_and_composers_are_held_out_with_all_that_shares_their_music():
    rows = corpus(40)
    groups = ["w0" if r["work"] == "w7" else r["work"] for r in rows]
    parts = split_by_group(rows, groups, SplitOptions(test_works=("W7", "w3?"), validation_composers=()))
    assert {rows[i]["work"] for i in parts["test"]} == {"w0", "w7", *(f"w{i}" for i in range(30, 40))}
    assert parts["validation"]
    parts = split_by_group(rows, groups, SplitOptions(test_composers=("haydn",)))
    assert {i for i, r in enumerate(rows) if r["composer"] == "Haydn"} < set(parts["test"])
    assert all(rows[i]["work"] == "w7" for i in parts["test"] if rows[i]["composer"] != "Haydn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SplitOptions(test_works=("k545",)), "no work is called 'k545'"),
        (SplitOptions(test_composers=("Satie",)), "no composer is called 'Satie'"),
        (SplitOptions(test_works=("w0",), validation_works=("w7",)), "named for test and for validation"),
        (SplitOptions(test_works=("w*",)), "nothing is left to train on"),
    ],
)
def test_what_cannot_be_held_out(options, message):
    rows = corpus(10)
    with pytest.raises(CorpusError, match=message):
        split_by_group(rows, ["w0" if r["work"] == "w7" else r["work"] for r in rows], options)


def test_few_works_leave_nothing_out_unless_named():
    rows = corpus(2)
    assert split_by_group(rows, [r["work"] for r in rows], SplitOptions()) == {"train": [0, 1, 2, 3]}
    parts = split_by_group(rows, [r["work"] for r in rows], SplitOptions(test_works=("w1",)))
    assert parts == {"train": [0, 1], "test": [2, 3]}
