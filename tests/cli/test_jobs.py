"""`fhir-bulk jobs`, as the operator meets it: all owners' jobs of a STATE or of an own host, and a cancel that is final."""

import io
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.jobs_bars import bars
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.cli.wiring import Stores, audit_file
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.events import Expired
from fhir_bulk_middleware.contract.job import Codec, Failure, Job, JobState
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.job_values import CUT, OTHER, OWNER, ROWS, a_job, a_slice

ODD = Owner("https://issuer.example", "[/red]\x1b[2J\n")


class Folder:
    """A STATE folder without a server."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        self.stores = Stores.of(self.state)

    def job(self, owner: Owner = OWNER, *, mount: str = "standard") -> Job:
        job = replace(a_job(owner, at=system_clock(), mount=mount), adapter="state")

        async def add() -> None:
            assert await self.stores.jobs.add(job, ROWS, working_at_most=1_000)

        anyio.run(add)
        return job

    def plan(self, done: int = 0) -> None:
        """Plan the next job, and report progress."""

        async def plan() -> None:
            now, jobs = system_clock(), self.stores.jobs
            lease = await jobs.claim("planner", now, lease_seconds=60, adapter="state")
            assert lease is not None
            assert await jobs.plan(lease, CUT, Codec.PLAIN, [a_slice(0)], now)
            lease = await jobs.claim("worker", now, lease_seconds=60, adapter="state")
            assert lease is not None
            assert await jobs.renew(lease, now, lease_seconds=60, done=done)

        anyio.run(plan)

    def turn(self, job: Job) -> None:
        async def turn() -> None:
            assert await self.stores.jobs.replace(job)

        anyio.run(turn)

    def found(self, job: Job) -> Job:
        found = anyio.run(self.stores.jobs.find, job.id, job.mount, job.owner)
        assert found is not None
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path / "state")
    yield folder
    folder.stores.close()


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["jobs", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list_has_the_jobs_of_all_owners_and_mounts_newest_first(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [folder.job(), folder.job(OTHER), folder.job(mount="stu4")]
    folder.turn(jobs[0].cancelled(system_clock()))
    code, out, _ = ran(capsys, "--dir", folder.state.folder)

    assert code == 0
    head, *rows = out.splitlines()
    assert head.split() == ["JOB", "STATE", "RESOURCES", "KIND", "LEVEL", "SUBJECT", "CREATED"]
    assert [row.split()[0] for row in rows] == [job.id for job in jobs[::-1]]
    assert [row.split()[1] for row in rows] == ["queued", "queued", "cancelled"]
    code, out, _ = ran(capsys, "list", "--dir", folder.state.folder, "--json", "--limit", 2)
    assert [each["id"] for each in json.loads(out)] == [job.id for job in jobs[:0:-1]]


def test_a_job_is_shown_without_the_url_that_its_client_sent(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    job = folder.job()
    folder.turn(job.failed(Failure(Reason.FAULT, "The disk broke."), system_clock()))
    code, out, _ = ran(capsys, "show", job.id, "--dir", folder.state.folder)
    assert code == 0
    for expected in (job.id, "failed", OWNER.issuer, OWNER.subject, "The disk broke.", "Observation, Patient"):
        assert expected in out
    other = folder.job()
    _, text, _ = ran(capsys, "show", other.id, "--dir", folder.state.folder)
    code, out, _ = ran(capsys, "show", other.id, "--dir", folder.state.folder, "--json")

    assert json.loads(out)["state"] == "queued"
    assert "$export" not in text + out


def test_a_clients_name_cannot_steer_the_terminal(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    job = folder.job(ODD)
    for action in (["list"], ["show", job.id], ["watch", "--until-idle"]):
        if action[0] == "watch":
            folder.turn(folder.found(job).cancelled(system_clock()))
        _, out, _ = ran(capsys, *action, "--dir", folder.state.folder)
        assert "\x1b" not in out
    drawn = io.StringIO()
    with bars(Console(file=drawn, force_terminal=True, width=150)) as show:
        show([job])
    assert "[/red]?[2J?" in drawn.getvalue()


def test_a_cancel_is_final_and_takes_the_files_at_once(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """DL-01, DL-08, law 37: the audit names the operator."""
    job, spared = folder.job(), folder.job(OTHER)
    folder.plan()
    audit = audit_file(folder.state, Settings())

    async def prepare() -> None:
        await audit.observe(Expired(at=system_clock(), mount="standard", owner=OWNER, job_id=spared.id))
        for each in (job, spared):
            async with folder.stores.outputs.create(f"{each.id}/part") as sink:
                await sink.write(b"line\n")
                await sink.seal()

    anyio.run(prepare)
    code, out, _ = ran(capsys, "cancel", job.id, "--dir", folder.state.folder, "--json")

    assert (code, json.loads(out)["state"]) == (0, "cancelled")
    assert folder.found(job).state is JobState.CANCELLED
    assert folder.found(job).request.url == "", "the tombstone of an owner's cancel"
    assert folder.found(spared).state is JobState.QUEUED
    left = [path for path in folder.state.exports.rglob("*") if path.is_file()]
    assert not [path for path in left if job.id in str(path)]
    assert [path for path in left if spared.id in str(path)]
    record = json.loads(folder.state.audit.read_text().splitlines()[-1])
    assert record["event"] == "cancelled"
    assert (record["operator"], record["job_id"]) == (pwd.getpwuid(os.getuid()).pw_name, job.id)
    assert (record["owner"]["subject"], record["caller"]) == (OWNER.subject, None)


def test_all_jobs_are_cancelled_for_a_job_store_that_was_restored(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Law 36: of all owners, in any state in which they could be found or go on."""
    jobs = [folder.job(OWNER if number % 2 else OTHER) for number in range(103)]
    folder.turn(jobs[0].cancelled(system_clock()))
    folder.plan()
    code, out, _ = ran(capsys, "cancel-all", "--dir", folder.state.folder)
    assert (code, out) == (0, "102 jobs cancelled\n")
    assert {folder.found(job).state for job in jobs} == {JobState.CANCELLED}
    code, out, _ = ran(capsys, "cancel-all", "--dir", folder.state.folder, "--json")
    assert json.loads(out) == {"cancelled": 0}


def test_what_cannot_be_done_is_said_in_a_sentence(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, never = folder.job(), "01234567-89ab-cdef-0123-456789abcdef"
    folder.turn(job.cancelled(system_clock()))
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "broken").mkdir(mode=0o700)
    (tmp_path / "broken" / "jobs.db").write_bytes(b"no database" * 1000)
    where = ["--dir", folder.state.folder]
    for arguments, told in (
        (["show", never, *where], f"there is no job {never}"),
        (["cancel", "../../x\x1b", *where], "there is no job ../../x\\x1b"),
        (["cancel", job.id, *where], "is cancelled already"),
        (["show", *where], "the ID of a job is required"),
        (["watch", job.id, *where], "no ID belongs here"),
        (["--limit", "0", *where], "a positive number is required"),
        (["--dir", tmp_path / "nowhere"], "holds no jobs: is it the server's STATE folder?"),
        (["--dir", tmp_path / "other"], "holds no jobs: is it the server's STATE folder?"),
        (["--dir", tmp_path / "broken"], "cannot be read"),
        (["--app", "json:dumps"], "--app: "),
        (["--app", "builtins:dict"], "returns a dict, which is not a BulkData"),
        (["--app", "no.such:thing"], "in the current folder, "),
    ):
        code, out, err = ran(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert told in err
        assert "Traceback" not in err
    assert not (tmp_path / "nowhere").exists()


def test_one_of_dir_and_app_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["jobs"])
    assert ended.value.code == 2
    assert "--dir --app" in capsys.readouterr().err


HOST = """
from pathlib import Path
from fhir_bulk_middleware import BulkData, FileOutputStore, MemoryResourceStore, SQLiteJobStore

class Nobody:
    async def verify(self, token):
        raise NotImplementedError

def bulk():
    here = Path(__file__).parent
    return BulkData(resources=MemoryResourceStore(), verifier=Nobody(), jobs=SQLiteJobStore(here / "state" / "jobs.db"),
                    outputs=FileOutputStore(here / "state" / "exports"), adapter="state")
"""


def test_the_jobs_of_an_own_host_are_listed_and_cancelled(folder: Folder, tmp_path: Path) -> None:
    """Law 32: those of its adapter alone."""
    (tmp_path / "own_host.py").write_text(HOST)
    job = folder.job()

    def own(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fhir_bulk_middleware.cli", "jobs", *arguments, "--app", "own_host:bulk", "--json"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    listed = own()
    assert listed.returncode == 0, listed.stderr
    assert [each["id"] for each in json.loads(listed.stdout)] == [job.id]
    cancelled = own("cancel", job.id)
    assert cancelled.returncode == 0, cancelled.stderr
    assert folder.found(job).state is JobState.CANCELLED


def test_a_job_store_that_cannot_be_reached_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = HOST.replace('SQLiteJobStore(here / "state" / "jobs.db")', "PostgresJobStore('host=127.0.0.1 port=1', patience=3)")
    away = away.replace("SQLiteJobStore\n", "\nfrom fhir_bulk_middleware.stores.postgres import PostgresJobStore\n").replace(
        ", \n", "\n"
    )
    (tmp_path / "host_without_jobs.py").write_text(away)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, err = ran(capsys, "--app", "host_without_jobs:bulk")
    assert (code, out) == (2, "")
    assert "PostgreSQL cannot answer" in err
    assert "the job store cannot be reached now" in err
    assert "Traceback" not in err


def test_watch_tells_each_change_until_it_is_interrupted(folder: Folder) -> None:
    job = folder.job()
    command = [sys.executable, "-m", "fhir_bulk_middleware.cli", "jobs", "watch", "--dir", str(folder.state.folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None

        def next_line() -> tuple[str, int]:
            assert watching.stdout is not None
            told = json.loads(watching.stdout.readline())
            assert told["id"] == job.id
            return told["state"], told["done"]

        try:
            assert next_line() == ("queued", 0)
            folder.plan(done=7)
            state = next_line()
            while state != ("running", 7):  # it may have looked between plan and progress
                assert state == ("running", 0)
                state = next_line()
            folder.turn(folder.found(job).cancelled(system_clock()))
            assert next_line()[0] == "cancelled"
            watching.send_signal(signal.SIGINT)
            assert watching.wait(60) == 0
            assert watching.stderr.read() == ""
        finally:
            watching.kill()


def test_watch_ends_where_nothing_is_left_to_do_if_asked(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.turn(folder.job().cancelled(system_clock()))

    assert ran(capsys, "watch", "--until-idle", "--dir", folder.state.folder) == (0, "", "")


def test_a_terminal_with_rich_has_a_bar_for_each_job(folder: Folder) -> None:
    job = folder.job()
    folder.plan(done=40)
    drawn = io.StringIO()
    with bars(Console(file=drawn, force_terminal=True, width=150)) as show:
        show([folder.found(job)])

    assert f"{job.id} running: 40 of 100 resources" in drawn.getvalue()
    assert "40%" in drawn.getvalue()
