"""Claims: no two living processes train a run, and none waits forever; without locks or clocks.

Machines are simulated by processes of different places, whose hearts beat when a test says so.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from experiments.common import claims, local_process
from experiments.common.claims import LEASE, Claims
from experiments.common.local_process import Process

# A process that no machine has.
FOREIGN = Process("another machine", 1, "1")


@pytest.fixture
def host(tmp_path):
    """Makes a process of its own machine, with one heartbeat."""

    def make(name="elsewhere"):
        made = Claims(tmp_path, Process(name, 1, "1"))
        made.beat()
        return made

    return make


def nothing():
    return set()


def beats(*hosts, times=LEASE):
    for _ in range(times):
        for one in hosts:
            one.beat()


def names(directory):
    """The claims in a directory."""
    return sorted(path.name for path in directory.iterdir() if "." in path.name)


def test_a_run_is_claimed_once_by_any_number_of_machines(host):
    hosts = [host(f"host {number}") for number in range(5)]
    keys = [f"k{number}" for number in range(12)]
    won = [one.claim(keys, 3, nothing) for one in hosts]
    assert [len(runs) for runs in won] == [3, 3, 3, 3, 0]
    assert sorted(key for runs in won for key in runs) == sorted(keys)
    assert hosts[0].claim(keys, 3, nothing) == []  # not even those that it has


def test_no_clock_is_read(host, monkeypatch):
    def fails(*_):
        raise AssertionError

    for name in ("time", "monotonic", "time_ns", "perf_counter"):
        monkeypatch.setattr(time, name, fails)
    one, other = host("one"), host("other")
    assert one.claim(["a"], 1, nothing) == ["a"] and other.claim(["a"], 1, nothing) == []
    beats(other)
    assert other.doubt() == 0 and other.claim(["a"], 1, nothing) == ["a"]
    other.release(["a"])
    other.end()


@pytest.mark.parametrize("years", [-10, 10])
def test_machines_whose_clocks_are_years_apart_believe_heartbeats_alone(years, host, tmp_path):
    one, other = host("one"), host("other")
    one.claim(["a"], 1, nothing)
    for _ in range(3 * LEASE):
        for path in tmp_path.iterdir():
            os.utime(path, (years * 3e7 + 1.7e9,) * 2, follow_symlinks=False)
        beats(one, other, times=1)
        assert other.claim(["a"], 1, nothing) == []
    beats(other, times=LEASE - 1)
    assert other.claim(["a"], 1, nothing) == []
    beats(other, times=1)
    assert other.claim(["a"], 1, nothing) == ["a"]


def test_a_process_that_never_beats_again_is_doubtful_for_a_lease_and_then_dead(host, tmp_path):
    one, other = host("one"), host("other")
    assert other.doubt() is None
    one.claim(["a", "b"], 2, nothing)
    for left in range(LEASE, 0, -1):
        assert other.claim(["a", "b"], 2, nothing) == []
        assert other.doubt() == left * claims.BEAT
        other.beat()
    assert other.doubt() == 0 and other.doubt() is None
    assert other.claim(["a", "b"], 2, nothing) == ["a", "b"]
    assert names(tmp_path) == ["a.0", "a.1", "b.0", "b.1"]
    other.release(["a", "b"])
    assert names(tmp_path) == []  # also those of the dead


def test_a_process_that_beats_is_in_no_doubt(host):
    one, other = host("one"), host("other")
    one.claim(["a"], 1, nothing)
    assert other.claim(["a"], 1, nothing) == [] and other.doubt() == LEASE * claims.BEAT
    one.beat()
    assert other.doubt() == 0
    assert other.claim(["a"], 1, nothing) == [] and other.doubt() is None


def test_runs_of_a_process_that_has_ended_are_free_at_once(host):
    one, other = host("one"), host("other")
    one.claim(["a"], 1, nothing)
    one.end()
    assert other.claim(["a"], 1, nothing) == ["a"]


def test_the_death_of_a_process_is_told_to_others_by_who_finds_it(host):
    one, other, third = host("one"), host("other"), host("third")
    one.claim(["a", "b"], 2, nothing)
    other.claim(["a", "b"], 1, nothing)
    beats(other)
    assert other.claim(["a", "b"], 1, nothing) == ["a"]
    assert third.claim(["a", "b"], 2, nothing) == ["b"]


def test_a_suspended_process_that_goes_on_takes_nothing_from_who_has_its_runs(host, tmp_path):
    one, other, third = host("one"), host("other"), host("third")
    one.claim(["a", "b"], 2, nothing)
    other.claim(["a"], 1, nothing)
    beats(other)
    assert other.claim(["a"], 1, nothing) == ["a"]
    one.beat()  # it goes on
    assert third.claim(["a", "b"], 2, nothing) == []
    one.release(["a"])
    assert names(tmp_path) == ["a.1", "b.0"]
    other.release(["a"])
    assert names(tmp_path) == ["b.0"]


def test_an_observer_that_was_suspended_or_had_no_file_server_is_not_fooled(host):
    """Its own heart stood still, too, so it can't know how long others had."""
    one, other = host("one"), host("other")
    one.claim(["a"], 1, nothing)
    other.claim(["a"], 1, nothing)
    beats(other, times=LEASE - 1)  # hours may pass here
    assert other.claim(["a"], 1, nothing) == []
    beats(one, other, times=1)
    assert other.claim(["a"], 1, nothing) == []


def test_a_run_that_is_stored_before_its_claim_is_won_is_not_trained(host, tmp_path):
    one = host()
    stored = set()

    def now_stored():  # looked up only after claims were made
        stored.update(["a", "b", "d"])
        return stored

    assert one.claim("abcdef", 3, now_stored) == ["c", "e", "f"]
    assert names(tmp_path) == ["c.0", "e.0", "f.0"]


def test_among_many_processes_few_taken_runs_are_met(host, monkeypatch):
    keys = [f"k{number:05}" for number in range(500)]
    one, other = host("one"), host("other")
    assert one.claim(keys, 400, nothing) == keys[:400]
    made = []
    create = claims._create
    monkeypatch.setattr(claims, "_create", lambda *args: made.append(args) or create(*args))
    won = other.claim(keys, 16, nothing)
    assert len(won) == 16 and len(made) <= 16 + 9
    # What was passed over isn't forgotten.
    assert sorted(won + other.claim(keys, 400, nothing)) == keys[400:]


@pytest.mark.parametrize("error", [OSError(95, "not supported"), NotImplementedError()], ids=repr)
def test_claims_hold_without_symbolic_links(error, host, tmp_path, monkeypatch):
    def fails(*_):
        raise error

    one = host("one")
    one.claim(["a"], 1, nothing)
    monkeypatch.setattr(os, "symlink", fails)
    other, third = host("other"), host("third")
    assert other.claim(["a", "b"], 2, nothing) == ["b"]  # also against a symbolic link
    assert (tmp_path / "b.0").is_file()
    assert third.claim(["b"], 1, nothing) == []
    beats(third)
    assert third.claim(["b"], 1, nothing) == ["b"]


def test_a_claim_that_is_being_written_is_waited_for(host, tmp_path):
    """Without symbolic links, there is a moment between making a file and writing to it."""
    (tmp_path / "a.0").touch()
    one = host()
    assert one.claim(["a"], 1, nothing) == [] and one.doubt()
    beats(one)
    assert one.claim(["a"], 1, nothing) == ["a"]
    assert names(tmp_path) == ["a.0", "a.1"]  # nothing of a run is removed before it is stored


def test_a_claim_whose_confirmation_was_lost_is_held(host, monkeypatch):
    """A client of NFS repeats a request, and is told that the file exists."""
    create = claims._create

    def repeated(path, owner):
        create(path, owner)
        return create(path, owner)

    monkeypatch.setattr(claims, "_create", repeated)
    one = host()
    assert one.claim(["a", "b"], 2, nothing) == ["a", "b"]


def test_owner_files_that_killed_processes_left_are_removed_after_a_day(host, tmp_path):
    one, other = host("one"), host("other")
    one.claim(["a", "b"], 2, nothing)
    now = (tmp_path / one._name).stat().st_mtime
    other.tidy({"a"}, now + 23 * 3600)
    assert names(tmp_path) == ["b.0"] and (tmp_path / one._name).exists()
    other.tidy({"a"}, now + 25 * 3600)
    assert not (tmp_path / one._name).exists()
    one.beat()  # it was not killed after all
    assert other.claim(["b"], 1, nothing) == []


def test_a_directory_that_someone_removes_is_made_again(host, tmp_path):
    one = host()
    os.unlink(tmp_path / one._name)
    tmp_path.rmdir()
    assert one.claim(["a"], 1, nothing) == ["a"]
    assert {path.name for path in tmp_path.iterdir()} == {one._name, "a.0"}


def test_heartbeats_that_cannot_be_written_end_the_wait(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims, "BEAT", 0.01)
    other = Claims(tmp_path, FOREIGN)
    other.beat()
    other.claim(["a"], 1, nothing)
    with Claims(tmp_path) as one:
        assert one.claim(["a"], 1, nothing) == []
        monkeypatch.setattr(claims, "_write", full)
        with pytest.raises(OSError, match="No space"):
            _until(lambda: one.doubt() == 0)


def _until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Processes of this machine.


def _here(pid=None, **changes):
    process = local_process.this()._replace(**changes)
    return process if pid is None else process._replace(pid=pid)


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"started": "1"}, True),  # its number belongs to a later process
        ({"pid": 2**22 + 1}, True),  # more than there can be
        ({"place": "this host, another boot"}, False),
        ({"pid": 2**22 + 1, "place": "another container"}, False),  # whose numbers say nothing
        ({"pid": 2**22 + 1, "place": ""}, False),  # not Linux
    ],
    ids=str,
)
def test_what_is_gone_on_this_machine_is_dead_at_once(changes, free, tmp_path):
    other = Claims(tmp_path, _here(**changes))
    other.beat()
    other.claim(["a"], 1, nothing)
    one = Claims(tmp_path)
    one.beat()
    assert one.claim(["a"], 1, nothing) == (["a"] if free else [])
    if not free:  # the lease holds for all, also for one that is suspended here
        beats(one)
        assert one.claim(["a"], 1, nothing) == ["a"]


def test_a_process_that_lives_on_this_machine_is_in_no_doubt(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    for process in (one, other):
        process.beat()
    assert one.claim(["a"], 1, nothing) == ["a"] and other.claim(["a"], 1, nothing) == []
    assert other.doubt() is None


def test_a_killed_child_that_nobody_waits_for_is_gone(tmp_path):
    """In a container, nobody may do that: it stays a zombie, whose number exists."""
    child = subprocess.Popen(["sleep", "600"])
    process = _here(child.pid, started=local_process.state_and_start(child.pid)[1])
    assert not local_process.is_gone(process)
    child.kill()
    _until(lambda: local_process.is_gone(process))
    child.wait()
    assert local_process.is_gone(process)


def test_where_processes_are_hidden_from_other_users_none_is_taken_for_dead(monkeypatch):
    def hidden(pid):
        raise FileNotFoundError

    monkeypatch.setattr(local_process, "state_and_start", hidden)
    assert not local_process.is_gone(_here())


def test_containers_are_different_places():
    """Of one boot, where both may even be process 1, in namespaces of their own."""
    code = "from experiments.common import local_process; print(*local_process.this(), sep='|')"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip("needs the right to make namespaces")
    place, pid, _ = made.stdout.split("|")
    here = local_process.this()
    assert pid == "1" and place != here.place
    assert place.split()[:2] == here.place.split()[:2]  # the same host and boot
    command.remove("--mount-proc")  # whose /proc is about other processes
    assert subprocess.check_output(command, text=True).strip() == "|0|"


_WORKER = """
import os, pathlib, sys, time
from experiments.common import claims
directory, number = pathlib.Path(sys.argv[1]), sys.argv[2]
keys = [f"k{number}" for number in range(int(sys.argv[3]))]
def finished():
    return set(os.listdir(directory / "stored"))
with claims.Claims(directory / "claims") as mine:
    while left := sorted(set(keys) - finished()):
        won = mine.claim(left, 3, finished)
        for key in won:
            with open(directory / "trained", "a") as log:
                print(key, number, file=log)
            time.sleep(0.02)
            (directory / "stored" / key).touch()
        mine.release(won)
"""


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])  # a minute
def test_whoever_is_killed_at_any_moment_no_run_is_trained_by_two_living_processes(kills, tmp_path):
    stored = tmp_path / "stored"
    stored.mkdir()
    runs = 40 * kills
    rng = random.Random(0)
    workers: dict[str, subprocess.Popen[bytes]] = {}
    killed: set[str] = set()

    def start(number):
        return subprocess.Popen([sys.executable, "-c", _WORKER, tmp_path, number, str(runs)])

    while len(killed) < kills and len(os.listdir(stored)) < runs:
        while len(workers) < 3:
            number = str(len(killed) + len(workers))
            workers[number] = start(number)
        time.sleep(rng.uniform(0.0, 0.3))
        number = rng.choice(list(workers))
        workers[number].send_signal(signal.SIGKILL)
        if workers.pop(number).wait() == -signal.SIGKILL:
            killed.add(number)
    workers["last"] = start("last")
    assert {worker.wait(timeout=300) for worker in workers.values()} == {0}
    trained = collections.defaultdict(list)
    for line in (tmp_path / "trained").read_text().splitlines():
        key, number = line.split()
        trained[key].append(number)
    assert killed and len(trained) == len(os.listdir(stored)) == runs
    for numbers in trained.values():
        assert set(numbers[:-1]) <= killed
    with Claims(tmp_path / "claims") as mine:
        mine.tidy(trained, now=0.0)
    assert names(tmp_path / "claims") == []
