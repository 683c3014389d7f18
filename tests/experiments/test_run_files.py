"""The files of runs stay few, and none of them is lost, whoever is killed at whatever moment."""

import contextlib
import itertools
import multiprocessing
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from experiments.common import compaction, grouping, run_files, step_columns, sweep_directory
from experiments.common import files as shared_files
from experiments.common.config import UsageError


def key(number):
    return f"{number:064x}"


def row(number, steps=5, **changes):
    values = {"key": key(number), "seed": number, "init": "zeros", "hidden": [8], **changes}
    values |= {"step_loss": np.full(steps, number / 7), "step_acc": np.full(steps, 0.5)}
    return {name: values.get(name) for name in run_files.SCHEMA.names}


def keys(directory):
    return sweep_directory.read(directory, steps=False)["key"].to_pylist()


def files(directory):
    return list(directory.rglob("*.parquet"))


def test_a_process_keeps_its_files_few_and_ends_with_one(tmp_path):
    most = 0
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        for number in range(30):
            stored.add([row(number, steps=2000)])
            most = max(most, len(files(tmp_path)))
        assert stored.finished() == set(map(key, range(30)))
    assert 3 <= most <= 2 * 3  # at most three of each size
    assert len(files(tmp_path)) == 1
    assert keys(tmp_path) == list(map(key, range(30)))


def test_files_above_the_limit_are_not_merged_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files, "LARGE", 100)  # bytes, less than one file has
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        for number in range(9):
            stored.add([row(number)])
    assert len(files(tmp_path)) == 9


def test_a_shard_reads_no_files_of_the_other_shards_of_its_grid(tmp_path):
    labels = ("0a-0of2", "0a-1of2", "0a-1of3", "0b-1of2", "")
    for number, label in enumerate(labels):
        with sweep_directory.SweepDirectory(tmp_path, label) as stored:
            stored.add([row(number)])
    seen = {label: sweep_directory.SweepDirectory(tmp_path, label).finished() for label in labels}
    assert seen["0a-0of2"] == {key(0), key(2), key(3), key(4)}
    assert seen["0a-1of2"] == {key(1), key(2), key(3), key(4)}
    assert seen[""] == set(map(key, range(5)))
    assert keys(tmp_path) == list(map(key, range(5)))


def test_a_shard_that_starts_again_merges_what_it_left(tmp_path):
    for number in range(3):
        run_files.write(run_files.folder(tmp_path, "a-0of2"), table(row(number)))
    with sweep_directory.SweepDirectory(tmp_path, "a-0of2") as stored:
        stored.add([row(3)])
    assert len(files(tmp_path)) == 1 and keys(tmp_path) == list(map(key, range(4)))


def table(*rows):
    return pa.Table.from_pylist(list(rows), run_files.SCHEMA)


def test_a_file_is_replaced_only_by_one_that_has_its_runs(tmp_path):
    first, second = (run_files.write(tmp_path, table(row(n), row(9)))[0] for n in (1, 2))
    gone = tmp_path / "runs-gone.parquet"
    found = run_files.merge(tmp_path, [first, second, gone])
    assert found
    merged, size = found
    assert files(tmp_path) == [merged] and merged.stat().st_size == size
    assert keys(tmp_path) == [key(1), key(2), key(9)]
    # No name comes again: a process that deletes a file which it has read deletes nothing newer.
    part, _ = run_files.write(tmp_path, table(row(1)))
    again = run_files.merge(tmp_path, [merged, part])
    assert again and again[0] not in (merged, part)
    assert files(tmp_path) == [again[0]] and len(keys(tmp_path)) == 3
    assert run_files.merge(tmp_path, [gone]) is None


def test_a_damaged_file_is_left_where_it_is_and_costs_nothing_else(tmp_path):
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        for number in range(3):
            stored.add([row(number)])
        damaged = files(tmp_path)[0]
        damaged.write_bytes(b"damaged")
        stored.add([row(3)])
    assert damaged.read_bytes() == b"damaged" and len(files(tmp_path)) == 4
    with pytest.raises(UsageError, match="cannot read"):
        keys(tmp_path)


def test_a_reader_follows_a_file_that_is_replaced_while_it_reads(tmp_path, monkeypatch):
    old = [run_files.write(tmp_path, table(row(number)))[0] for number in range(2)]
    read = run_files.read
    replaced = []

    def replaces(path, columns=None):
        if not replaced:
            replaced.append(run_files.merge(tmp_path, old))
        return read(path, columns)

    monkeypatch.setattr(run_files, "read", replaces)
    monkeypatch.setattr(run_files, "merge", lambda *_: merge(*_))
    merge = _merge(read)
    assert keys(tmp_path) == [key(0), key(1)] and not any(path.exists() for path in old)


def _merge(read):
    def merge(folder, paths):
        merged, _ = run_files.write(folder, pa.concat_tables([read(path) for path in paths]))
        run_files.remove(paths, [folder])
        return merged

    return merge


def _write_forever(directory, label, acknowledged):
    """Adds one run after the other, and says which ones are stored."""
    with sweep_directory.SweepDirectory(directory, label) as stored:
        number = len(stored.finished())
        while True:
            stored.add([row(number)])
            acknowledged.send_bytes(b"%d" % number)
            number += 1


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])  # a minute
def test_what_was_stored_is_there_after_any_kill(tmp_path, kills):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.common.sweep_directory"])
    rng, stored = np.random.default_rng(0), set()
    for _ in range(kills):
        reading, writing = context.Pipe(duplex=False)
        process = context.Process(target=_write_forever, args=(tmp_path, "a-0of2", writing))
        process.start()
        writing.close()
        for _ in range(rng.integers(3, 12)):
            stored.add(key(int(reading.recv_bytes())))
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        with contextlib.suppress(EOFError):
            while True:
                stored.add(key(int(reading.recv_bytes())))
        process.join()
        assert stored <= set(keys(tmp_path))
    assert len(files(tmp_path)) < 20 and len(stored) > 2 * kills


def fill(directory, settings=3, inits=("zeros", "ones"), seeds=4, steps=5):
    """Many files, in each of which nothing lies together."""
    every = [
        row(0, steps, init=init, activation=f"a{setting}", seed=seed)
        for seed in range(seeds)
        for init in inits
        for setting in range(settings)
    ]
    every = [one | {"key": key(n), "loss": [n / 3]} for n, one in enumerate(every)]
    for start in range(0, len(every), 5):
        label = f"a-{start}of9" if start % 2 else ""
        run_files.write(run_files.folder(directory, label), table(*every[start : start + 5]))
    return every


def test_compaction_keeps_every_run_and_lays_settings_together(tmp_path, monkeypatch):
    fill(tmp_path)
    before = sweep_directory.read(tmp_path)
    run_files.write(tmp_path, before.slice(0, 3))  # which come twice, then
    monkeypatch.setattr(compaction, "_PART", 2000)  # several files
    monkeypatch.setattr(run_files, "_ROW_GROUP", 500)
    assert compaction.compact(tmp_path).runs == 24
    assert sweep_directory.read(tmp_path).equals(before)
    after = files(tmp_path)
    assert 1 < len(after) < 9 and {path.parent.name for path in after} == {"compacted"}
    assert not (tmp_path / "shards").exists()
    for path in after:
        rows = run_files.read(path, ["activation", "init", "seed"]).to_pylist()
        for names in (["activation"], ["activation", "init"]):
            together = [[row[n] for n in names] for row in rows]
            kinds = [kind for kind, _ in itertools.groupby(together)]
            assert len(kinds) == len({str(kind) for kind in kinds})
        for _, group in itertools.groupby(rows, lambda row: (row["activation"], row["init"])):
            seeds = [row["seed"] for row in group]
            assert seeds == sorted(seeds)
    again = compaction.compact(tmp_path)
    assert again.before == again.after and sorted(files(tmp_path)) == sorted(after)


def test_what_a_killed_compaction_left_is_removed_a_day_later(tmp_path):
    fill(tmp_path)
    old, new = tmp_path / ".compaction-old", tmp_path / ".compaction-new"
    for path in (old, new):
        path.mkdir()
        (path / "0").touch()
    os.utime(old, (0, time.time() - 2 * shared_files.ABANDONED))
    compaction.compact(tmp_path)
    assert not old.exists() and (new / "0").exists()


def test_compaction_leaves_what_is_added_meanwhile(tmp_path):
    every = fill(tmp_path)
    ended = threading.Event()

    def add(done):
        if done == 1:
            with sweep_directory.SweepDirectory(tmp_path, "a-1of9") as stored:
                stored.add([row(100)])
            vanished = files(tmp_path / "shards")[0]
            run_files.merge(
                vanished.parent, [vanished, run_files.write(vanished.parent, table(row(101)))[0]]
            )
            ended.set()

    compaction.compact(tmp_path, add)
    assert ended.is_set()
    assert set(keys(tmp_path)) == {one["key"] for one in every} | {key(100), key(101)}


def at_the_read(monkeypatch, number, act):
    """Acts once after so many files have been read."""
    read, count = run_files.read, itertools.count(1)

    def reads(path, columns=None):
        found = read(path, columns)
        if next(count) == number:
            act()
        return found

    monkeypatch.setattr(run_files, "read", reads)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_compaction_keeps_the_runs_of_files_that_are_merged_while_it_lists(
    tmp_path, monkeypatch, number
):
    shard = run_files.folder(tmp_path, "a-0of2")
    paths = [run_files.write(shard, table(row(n), row(9)))[0] for n in range(3)]
    at_the_read(monkeypatch, number, lambda: run_files.merge(shard, paths[:2]))
    compaction.compact(tmp_path)
    assert set(keys(tmp_path)) == {key(n) for n in (0, 1, 2, 9)}


@pytest.mark.parametrize("parts", [(1, 2), (2, 1)])
@pytest.mark.parametrize("when", ["reads", "writes", "deletes"])
def test_two_compactions_keep_every_run(tmp_path, monkeypatch, parts, when):
    fill(tmp_path)
    compaction.compact(tmp_path)
    run_files.write(tmp_path, table(row(100), row(0)))
    before = set(keys(tmp_path))
    size = sum(compaction._uncompressed(path) for path in files(tmp_path))
    monkeypatch.setattr(compaction, "_PART", size / parts[0])
    count = itertools.count()

    def other(*_):
        if not next(count):
            monkeypatch.setattr(compaction, "_PART", size / parts[1])
            compaction.compact(tmp_path)

    if when == "reads":
        at_the_read(monkeypatch, 1, other)
    elif when == "writes":
        write = run_files.write
        monkeypatch.setattr(run_files, "write", lambda *a: (write(*a), other())[0])
    else:
        remove = run_files.remove
        monkeypatch.setattr(run_files, "remove", lambda *a: (other(), remove(*a)))
    compaction.compact(tmp_path)
    assert next(count) and set(keys(tmp_path)) == before
    compaction.compact(tmp_path)  # which removes what both have written
    assert sum(len(run_files.read(path)) for path in files(tmp_path)) == len(before)


def test_the_columns_of_steps_are_read_for_the_rows_that_need_them(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files, "_ROW_GROUP", 500)
    fill(tmp_path)
    compaction.compact(tmp_path)
    run_files.write(tmp_path, table(row(50), row(51)))  # not compacted
    whole = sweep_directory.read(tmp_path).drop_columns(["key"])
    rows, complete = sweep_directory.scan(tmp_path)
    assert "step_loss" not in rows.column_names
    for places in ([3, 25, 1, 24, 17], list(range(26))):
        found = complete(rows.take(places))
        assert found.select(whole.column_names).equals(whole.take(places))
    monkeypatch.setattr(step_columns, "_MOST", 10)
    with pytest.raises(UsageError, match=r"in 1 files: run python -m experiments\.compact "):
        sweep_directory.scan(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_report_reads_a_directory_whose_files_are_replaced(tmp_path, monkeypatch, number):
    paths = [run_files.write(tmp_path, table(row(n, seed=n)))[0] for n in range(4)]
    read_from, count = run_files.read_from, itertools.count(1)

    def reads(*arguments):
        found = read_from(*arguments)
        if next(count) == number:
            run_files.merge(tmp_path, paths)
        return found

    monkeypatch.setattr(run_files, "read_from", reads)
    rows, complete = sweep_directory.scan(tmp_path)
    assert not any(path.exists() for path in paths)
    assert complete(rows)["step_loss"].to_pylist() == [pytest.approx([n / 7] * 5) for n in range(4)]


def test_a_listing_that_is_out_of_date_is_waited_for(tmp_path, monkeypatch):
    paths = [run_files.write(tmp_path, table(row(number)))[0] for number in range(2)]
    listed, waits = run_files.listed, []
    monkeypatch.setattr(time, "sleep", waits.append)
    keys(tmp_path)
    assert waits == []
    run_files.merge(tmp_path, paths)
    # As NFS answers for up to a minute.
    monkeypatch.setattr(run_files, "listed", lambda at: paths if sum(waits) < 40 else listed(at))
    assert keys(tmp_path) == [key(0), key(1)] and sum(waits) < 60
    monkeypatch.setattr(run_files, "listed", lambda at: paths)
    waits.clear()
    with pytest.raises(UsageError, match="keeps changing; try again"):
        keys(tmp_path)
    assert 50 < sum(waits) < 65


def test_rows_are_grouped_by_numbers_texts_and_lists():
    nan = float("nan")
    rows = {"a": [1.0, nan, None, nan, 1.0, 1.0], "b": [[1, 2], None, [], None, [1, 2], [12]],
            "c": ["x"] * 6}  # fmt: skip
    found = grouping.groups(pa.table(rows), ["a", "b", "c"])
    assert found.tolist() == [0, 1, 2, 1, 0, 3]
    assert [places.tolist() for places in grouping.places(found)] == [[0, 4], [1, 3], [2], [5]]
    assert grouping.places(grouping.groups(pa.table(rows).slice(0, 0), ["a"])) == []
