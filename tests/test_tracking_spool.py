"""The spool: appended whole or not at all, read by any process, forgotten only when it is delivered."""

import contextlib
import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bioquant import places, tracking
from bioquant.config import TrackingConfig
from bioquant.errors import DiskFullError, TrackingError
from bioquant.tracking import spool as module
from bioquant.tracking.events import (
    Batch,
    Create,
    End,
    Event,
    File,
    Input,
    Point,
    Reopen,
    Text,
    from_line,
    summary,
    to_line,
)
from bioquant.tracking.spool import Progress, Spool
from tracking_parts import RESULT, write_files

CREATE = Create(name="n", tags={"a": "b"}, start_ms=1, parent="p")
EVENTS: list[Event] = [
    CREATE,
    Batch(params={"p": "1"}, metrics=(Point("m", 0.1 + 0.2, 5, 0), Point("big", 1e300, 5, 1)), tags={"t": "ü\n\u2028"}),
    Input(name="d", digest="x", source_type="files", source="{}", profile="{}"),
    File(path="/a/b.json"),
    Text(name="t.json", text='{"a": [1]}\n'),
    Reopen(),
    End(status="KILLED", end_ms=7),
]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    line = to_line(event)
    assert line.count(b"\n") == 1
    assert from_line(line) == event


def test_a_summary_is_the_state_after_the_last_event() -> None:
    events = [CREATE, Batch(tags={"a": "c"}, metrics=(Point("m", 1.0, 1, 0),)), End(status="KILLED", end_ms=1)]
    found = summary(events)
    assert (found.name, found.status, found.tags, found.metrics) == ("n", "KILLED", {"a": "c"}, {"m": 1.0})
    assert summary([*events, Reopen()]).status is None


def test_events_are_read_in_order_from_where_delivery_stands(spool: Spool) -> None:
    key = spool.create(EVENTS[:2])
    [_, (_, middle)] = spool.read(key)
    spool.add(key, EVENTS[2:])
    assert [event for event, _ in spool.read(key)] == EVENTS
    assert [event for event, _ in spool.read(key, middle)] == EVENTS[2:]
    assert spool.waiting(key)
    spool.save(key, Progress(run_id="r", done=spool.folder.joinpath("runs", f"{key}.jsonl").stat().st_size))
    assert not spool.waiting(key)


def test_a_line_torn_by_a_kill_is_no_event_and_the_next_one_is_whole(spool: Spool) -> None:
    key = spool.create([CREATE])
    with (spool.folder / "runs" / f"{key}.jsonl").open("ab") as file:
        file.write(to_line(EVENTS[1])[:-9])
    assert [event for event, _ in spool.read(key)] == [CREATE]
    spool.add(key, [EVENTS[2]])
    assert [event for event, _ in spool.read(key)] == [CREATE, EVENTS[2]]


def test_many_processes_append_to_one_run(spool: Spool) -> None:
    key = spool.create([CREATE])
    script = (
        "import sys; from pathlib import Path; from bioquant.tracking.spool import Spool;"
        "from bioquant.tracking.events import File; folder, key, name = sys.argv[1:];"
        "[Spool(Path(folder)).add(key, [File(path=f'{name}{n}' * 50)] * 2) for n in range(20)]"
    )
    command = [sys.executable, "-c", script, str(spool.folder), key]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda name: subprocess.run([*command, name], check=True), "abcd"))
    assert len(done) == 4
    events = [event for event, _ in spool.read(key)]
    assert len(events) == 1 + 4 * 20 * 2
    assert all(one == other for one, other in zip(events[1::2], events[2::2], strict=True))


def test_a_run_is_found_by_its_key_and_by_its_mlflow_id_before_and_after_delivery(spool: Spool) -> None:
    key = spool.create([CREATE])
    assert spool.run_id_of(key) is None
    spool.link(key, "abc")
    spool.save(key, Progress(run_id="abc"))
    assert spool.key_of("abc") == key
    assert spool.run_id_of(key) == "abc"
    spool.forget(key, {"run_id": "abc"})
    assert spool.runs() == [key], "what waits is not forgotten"
    spool.forget(key, {"run_id": "abc"}, unread=True)
    assert spool.runs() == []
    assert {path.name for path in (spool.folder / "runs").iterdir()} == set()
    assert spool.run_id_of(key) == "abc"
    spool.add(key, [EVENTS[3]])
    assert spool.runs() == ["abc"]
    assert spool.progress("abc") == Progress(run_id="abc")
    spool.add("def", [EVENTS[3]])
    assert spool.progress("def") == Progress(run_id="def")


def test_a_run_that_is_delivered_while_more_is_added_goes_on_in_one_place(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two it was delivered in any order: RUNNING again after its end."""
    key = spool.create([CREATE])
    spool.link(key, "a1")
    spool.save(key, Progress(run_id="a1", done=(spool.folder / "runs" / f"{key}.jsonl").stat().st_size))
    where = Spool.key_of

    def delivered_just_then(self: Spool, run_id: str) -> str:
        found = where(self, run_id)
        monkeypatch.setattr(Spool, "key_of", where)
        self.forget(key, {"run_id": "a1"})
        return found

    monkeypatch.setattr(Spool, "key_of", delivered_just_then)
    spool.add("a1", [Reopen()])
    spool.add(key, [EVENTS[-1]])
    assert spool.runs() == ["a1"]
    assert [event for event, _ in spool.read("a1")] == [Reopen(), EVENTS[-1]]


def test_a_local_key_nobody_knows_is_one_line(spool: Spool) -> None:
    with pytest.raises(TrackingError, match=r"^run 'local-x' is not known in the spool .*: was its folder removed\?$"):
        spool.add("local-x", [EVENTS[3]])


def test_only_one_may_deliver_a_run(spool: Spool) -> None:
    key = spool.create([CREATE])
    with spool.delivering(key) as first, spool.delivering(key) as second:
        assert first
        assert not second
        spool.add(key, [EVENTS[3]])
    with spool.delivering(key) as again:
        assert again


def test_a_worker_needs_a_parent_that_opened_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    with pytest.raises(TrackingError) as caught:
        tracking.open_spool(TrackingConfig(name="t", uri="postgresql://me:secret@h/db"))
    assert str(caught.value) == (
        "tracking store 'postgresql://me:***@h/db' was not opened in this project: open_store comes first."
    )


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:se/cret@h/db", "postgresql://me:***@h/db"),
        ("postgresql+psycopg://me:s3cret@h:5432/db", "postgresql+psycopg://me:***@h:5432/db"),
        ("http://me:pw@h:5000", "http://me:***@h:5000"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://mlflow@/mlflow?host=/run", "postgresql://mlflow@/mlflow?host=/run"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert places.without_password(uri) == shown


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def log_without_end(store: tracking.Store, key: str, folder: Path) -> None:
    while True:
        tracking.log_result(store, key, RESULT, folder)


def test_a_full_disk_fails_the_cell_with_that_reason_and_leaves_the_others(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "spool_root", lambda: small_disk / "spool")
    spool = Spool(small_disk / "spool")
    spool.remember(uri="x", experiment="e", experiment_id="1")
    store = tracking.Store("x", "1", spool, None)
    write_files(tmp_path / "cell")
    other = spool.create([CREATE])
    tracking.log_result(store, other, RESULT, tmp_path / "cell")
    before = [event for event, _ in spool.read(other)]
    key = spool.create([CREATE])
    filler = fill(small_disk)
    with pytest.raises(DiskFullError) as caught, tracking.closing(store, key, tmp_path / "nothing"):
        log_without_end(store, key, tmp_path / "cell")
    assert str(caught.value).startswith(f"disk full: {spool.folder}/runs/{key}.jsonl cannot be written.")
    found = spool.summary(key)
    assert (found.status, found.tags["error.kind"]) == ("FAILED", "disk_full")
    assert [event for event, _ in spool.read(other)] == before
    with pytest.raises(DiskFullError):
        spool.create([CREATE])
    assert len(spool.runs()) == 2
    filler.unlink()
    assert spool.create([CREATE])


def test_a_write_that_fails_half_way_leaves_what_was_there(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    key = spool.create([CREATE])
    written: list[int] = []

    def write(descriptor: int, content: bytes) -> int:
        if written:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        written.append(real(descriptor, content[:10]))
        return written[0]

    real = os.write
    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(DiskFullError):
        spool.add(key, [EVENTS[1]])
    monkeypatch.undo()
    assert [event for event, _ in spool.read(key)] == [CREATE]
