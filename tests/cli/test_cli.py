"""`fhir-bulk`, as somebody at a terminal meets it: real processes, a real server, exit codes and words."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from exporting import polled
from waiting import PATIENCE

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.server_process import server_process
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.demo.loading import NdjsonFolder
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.settings import Settings

COMMAND = [sys.executable, "-m", "fhir_bulk_middleware.cli"]
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "", "COLUMNS": "120"}


def fhir_bulk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, check=False, env=ENVIRONMENT
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, subprocess.CompletedProcess[str]]:
    """One run of the demo, for all who want to look at it."""
    state = State(tmp_path_factory.mktemp("demo") / "state")
    return state, fhir_bulk("demo", "--patients", "5", "--dir", state.folder, "--workers", "1")


def test_the_demo_takes_everything_home_and_says_so(demo: tuple[State, subprocess.CompletedProcess[str]]) -> None:
    state, ran = demo

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Each file has the lines, the bytes and the SHA-256 of the manifest." in ran.stdout
    assert f"The files are in {state.downloads}/" in ran.stdout


def test_what_the_demo_fetched_is_the_population(demo: tuple[State, subprocess.CompletedProcess[str]]) -> None:
    state, _ = demo

    def key(line: bytes) -> tuple[str, str]:
        resource = json.loads(line)
        return resource["resourceType"], resource["id"]

    fetched = [key(line) for path in state.downloads.iterdir() for line in path.read_bytes().splitlines()]
    assert sorted(fetched) == sorted(map(key, population(patients=5)))


def test_the_demo_again_does_not_load_again(demo: tuple[State, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    state, _ = demo

    ran = fhir_bulk("demo", "--patients", "5", "--dir", state.folder, "--out", tmp_path / "out", "--workers", "0")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "already holds a population of 5 patients" in ran.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in state.downloads.iterdir()}


def test_a_folder_that_holds_something_else_is_left_alone(demo: tuple[State, subprocess.CompletedProcess[str]]) -> None:
    state, _ = demo

    ran = fhir_bulk("demo", "--patients", "6", "--dir", state.folder)

    assert ran.returncode == 2
    assert "already holds a population of 5 patients, not a population of 6 patients" in ran.stderr


@pytest.mark.timeout(600)
def test_several_loads_of_one_state_at_once_load_it_once_and_whole(tmp_path: Path) -> None:
    """Four rounds: one loads, the others wait and find it loaded."""
    data = tmp_path / "data"
    data.mkdir()
    lines = list(population(patients=20))
    (data / "all.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    program = (
        "import sys; from pathlib import Path; from fhir_bulk_middleware.cli.serve import load_folder;"
        "from fhir_bulk_middleware.cli.state import State; from fhir_bulk_middleware.demo.show import screen;"
        "sys.stdin.readline(); load_folder(State(Path(sys.argv[1])), Path(sys.argv[2]), screen())"
    )
    for number in range(4):
        state = State(tmp_path / f"state {number}")
        command = [sys.executable, "-c", program, str(state.folder), str(data)]
        pipe = subprocess.PIPE
        loads = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) for _ in range(3)]
        for load in loads:
            assert load.stdin is not None
            load.stdin.write("now\n")
            load.stdin.flush()
        said = [load.communicate(timeout=PATIENCE) for load in loads]
        assert [load.returncode for load in loads] == [0, 0, 0], said
        assert state.loaded(f"the files of {data}")
        with closing(sqlite3.connect(state.store)) as store:
            kept = store.execute("SELECT count(*), count(DISTINCT json) FROM resource").fetchone()
        assert kept == (len(lines), len(lines)), "each resource is there, and once"
        assert {path.name for path in state.folder.iterdir()} == {"store.db", "source.json", "loading.lock"}


def many_patients(folder: Path, count: int = 20_000) -> Path:
    """A file that takes some seconds to load."""
    file = folder / "patients.ndjson"
    file.write_text("".join(f'{{"resourceType":"Patient","id":"p{number}"}}\n' for number in range(count)))
    return file


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.long) for how in (signal.SIGTERM, signal.SIGINT))]
)
def test_a_load_that_was_stopped_continues_where_it_stopped(tmp_path: Path, how: signal.Signals) -> None:
    state, data = State(tmp_path / "state"), many_patients(tmp_path)
    command = [*COMMAND, "serve", "--dir", str(state.folder), "--port", "0", "--workers", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        while state.loaded_so_far() < 3_000:
            assert server.poll() is None
        server.send_signal(how)
        said, complained = server.communicate(timeout=60)
    assert server.returncode == {signal.SIGTERM: 0, signal.SIGKILL: -9, signal.SIGINT: 130}[how], complained
    assert not state.store.exists(), "no server uses half a store"
    kept = state.loaded_so_far()
    assert 3_000 <= kept < 20_000
    if how is signal.SIGTERM:
        assert f"Stopped. {kept:,} resources are loaded; the same command continues after them." in said
        assert complained == ""

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT) as server:
        assert server.stdout is not None
        assert any("bulk data at" in line for line in server.stdout)
        server.terminate()
        assert server.wait(60) == 0
    with closing(sqlite3.connect(state.store)) as store:
        rows = store.execute("SELECT count(*), count(DISTINCT id), max(version) FROM resource").fetchone()
    assert rows == (20_000, 20_000, 1), "each resource is there, and once"
    assert sorted(path.name for path in state.folder.glob("loading.*")) == ["loading.lock"]


def test_a_load_of_files_that_changed_meanwhile_begins_anew(tmp_path: Path) -> None:
    state, data = State(tmp_path / "state"), many_patients(tmp_path, 3_000)

    class Interrupted(NdjsonFolder):
        def __iter__(self) -> Generator[bytes]:
            for number, line in enumerate(super().__iter__()):
                if number == 2_500:
                    raise KeyboardInterrupt
                yield line

    with pytest.raises(KeyboardInterrupt):
        state.load("somewhere", Interrupted(data), lambda _: None)
    assert state.loaded_so_far() in {1_000, 2_000}, "helpers read ahead"
    data.write_text('{"resourceType":"Patient","id":"other"}\n')

    assert state.load("somewhere", NdjsonFolder(data), lambda _: None) == 1
    assert state.loaded_so_far() == 1


def test_since_covers_a_history_that_was_kept(tmp_path: Path) -> None:
    state, data = State(tmp_path / "state"), tmp_path / "patients.ndjson"
    versions = [("a", 2019), ("b", 2021), ("a", 2018), ("c", 2020)]
    resources = [
        {"resourceType": "Patient", "id": id_, "meta": {"lastUpdated": f"{year}-05-06T07:08:09.123Z"}} for id_, year in versions
    ]
    data.write_text("".join(f"{json.dumps(resource)}\n" for resource in resources))
    headers = {"authorization": f"Bearer {state.mint().token('me', 'system/*.rs')}", "prefer": "respond-async"}
    options = ["--workers", "1", "--data", str(data), "--keep-last-updated"]
    with server_process(state, 0, options) as server, httpx2.Client(headers=headers, timeout=60) as http:
        exported = {}
        for since in ("2018-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "2021-05-06T07:08:09.123Z"):
            location = http.get(f"{server.url}/$export", params={"_since": since}).headers["content-location"]
            answer = polled(http.get, location)
            lines = [line for item in answer.json()["output"] for line in http.get(item["url"]).text.splitlines()]
            found = map(json.loads, lines)
            exported[since[:4]] = {resource["id"]: resource["meta"]["lastUpdated"][:4] for resource in found}

    assert exported == {
        "2018": {"a": "2019", "b": "2021", "c": "2020"},
        "2020": {"b": "2021", "c": "2020"},
        "2021": {},
    }
    with pytest.raises(Complaint, match="with their own lastUpdated, not the files of"):
        state.loaded(f"the files of {data}")


def test_a_load_takes_no_running_servers_store_away(tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    def while_a_server_starts() -> Iterator[bytes]:
        yield from population(patients=1)
        state.store.write_bytes(b"")

    with pytest.raises(Complaint, match="a server was started"):
        state.load("somewhere", while_a_server_starts(), lambda _: None)
    assert state.store.read_bytes() == b""


def test_a_server_that_breaks_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.make()
    state.jobs.write_bytes(b"this is no database" * 100)

    ran = fhir_bulk("demo", "--patients", "1", "--dir", state.folder, "--workers", "0")

    assert ran.returncode == 1
    assert "The export failed" in ran.stdout
    assert "file is not a database" in ran.stdout


def test_a_demo_that_keeps_serving_ends_with_its_server(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    command = [*COMMAND, "demo", "--patients", "2", "--dir", str(state.folder), "--workers", "0", "--keep-serving"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as demo:
        assert demo.stdout is not None
        url = next(found[1] for line in demo.stdout if (found := re.search(r"runs on at (\S+)", line)))
        assert httpx2.get(f"{url}/metadata", timeout=PATIENCE).status_code == 200
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 0  # all had matched, and the server was only kept
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/metadata", timeout=PATIENCE)


def test_an_interrupted_load_leaves_no_half_a_store_and_can_be_done_again(tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    def interrupted() -> Iterator[bytes]:
        yield from population(patients=20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        state.load("somewhere", interrupted(), lambda _: None)

    assert not state.loaded("somewhere")
    assert state.load("somewhere", population(patients=1), lambda _: None) == len(list(population(patients=1)))
    assert state.loaded("somewhere")


def test_files_of_ones_own_can_be_exported_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "all.ndjson").write_bytes(b"".join(population(patients=2)))

    ran = fhir_bulk("demo", "--data", data, "--dir", tmp_path / "state", "--workers", "0")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    patients = tmp_path / "state" / "downloads" / "Patient-001.ndjson"
    assert len(patients.read_bytes().splitlines()) == 2


def test_a_folder_that_is_not_empty_gets_no_downloads(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")

    ran = fhir_bulk("demo", "--patients", "1", "--dir", tmp_path / "state", "--out", tmp_path)

    assert ran.returncode == 2
    assert "must be an empty folder" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_bad_line_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "data.ndjson").write_bytes(b'{"resourceType":"Patient","id":"a"}\nnonsense\n')

    ran = fhir_bulk("serve", "--port", "0", "--data", tmp_path / "data.ndjson", "--dir", tmp_path / "state")

    assert ran.returncode == 2
    assert f"{tmp_path / 'data.ndjson'}, line 2: " in ran.stderr
    assert not State(tmp_path / "state").store.exists()


def test_a_token_opens_the_server_and_only_what_its_scope_says(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    few = fhir_bulk("token", "--dir", state.folder, "--scope", "system/Patient.rs", "--subject", "me").stdout.strip()

    with server_process(state, 0, ["--workers", "0"]) as server, httpx2.Client(timeout=PATIENCE) as http:
        statuses = {
            (type_, token != ""): http.get(
                f"{server.url}/{type_}", headers={"authorization": f"Bearer {token}"} if token else {}
            ).status_code
            for type_ in ("Patient", "Observation")
            for token in (few, "")
        }

    assert statuses == {
        ("Patient", True): 200,
        ("Patient", False): 401,
        ("Observation", True): 403,
        ("Observation", False): 401,
    }


def test_the_development_key_is_made_once_and_is_for_nobody_else(tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    assert fhir_bulk("token", "--dir", state.folder).returncode == 0
    key = state.key.read_text()
    assert fhir_bulk("token", "--dir", state.folder).returncode == 0

    assert state.key.read_text() == key
    assert state.key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_asked_to_stop_stops_well(tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--dir", str(tmp_path / "state"), "--port", "0", "--workers", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if "Application startup complete" in line:
                break
        server.send_signal(how)
        _, rest = server.communicate(timeout=PATIENCE)

    assert server.returncode == 0
    assert "Traceback" not in rest


def test_an_export_goes_on_where_another_server_left_it(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.load("a population of 2 patients", population(patients=2), lambda _: None)
    headers = {"authorization": f"Bearer {state.mint().token('me', 'system/*.rs')}"}

    # Without workers of its own, and stopped at once: whatever is left of the export is left to the next server.
    with server_process(state, 0, ["--workers", "1"]) as server, httpx2.Client(headers=headers, timeout=PATIENCE) as http:
        kicked_off = http.get(f"{server.url}/$export", headers={"prefer": "respond-async"})
        path = kicked_off.headers["content-location"].removeprefix(server.url)
    with server_process(state, 0, ["--workers", "1"]) as server, httpx2.Client(headers=headers, timeout=PATIENCE) as http:
        answer = polled(http.get, server.url + path)

    assert answer.status_code == 200
    assert sum(file["count"] for file in answer.json()["output"]) == len(list(population(patients=2)))


def test_references_below_the_public_base_url_are_the_server_s_own(tmp_path: Path) -> None:
    """KO-85: in a store that was filled before the server had that URL."""
    base, state = "https://ehr.example/fhir", State(tmp_path / "state")
    resources: list[dict[str, Any]] = [
        {"resourceType": "Patient", "id": "p"},
        {"resourceType": "Observation", "id": "own", "subject": {"reference": f"{base}/Patient/p"}},
        {"resourceType": "Observation", "id": "other", "subject": {"reference": "https://other.example/fhir/Patient/p"}},
        {"resourceType": "Group", "id": "g", "member": [{"entity": {"reference": f"{base}/Patient/p"}}]},
    ]
    state.load("four resources", (json.dumps(resource).encode() for resource in resources), lambda _: None)
    headers = {"authorization": f"Bearer {state.mint().token('me', 'system/*.rs')}", "prefer": "respond-async"}
    options = ["--workers", "1", "--public-base-url", base]
    with server_process(state, 0, options) as server, httpx2.Client(headers=headers, timeout=PATIENCE) as http:
        for path in ("/Group/g/$export", "/Patient/$export", "/$export?_typeFilter=Observation%3Fsubject%3DPatient%2Fp"):
            location = http.get(f"{server.url}{path}").headers["content-location"].replace(base, server.url)
            answer = polled(http.get, location)
            files = {item["type"]: item["url"].replace(base, server.url) for item in answer.json()["output"]}
            assert [json.loads(line)["id"] for line in http.get(files["Observation"]).text.splitlines()] == ["own"], path


def test_a_worker_helps_until_it_is_told_to_stop(demo: tuple[State, subprocess.CompletedProcess[str]]) -> None:
    state, _ = demo
    with subprocess.Popen(
        [*COMMAND, "worker", "--dir", str(state.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as worker:
        assert worker.stdout is not None
        assert "Working on the exports of" in worker.stdout.readline()
        worker.send_signal(signal.SIGINT)
        _, errors = worker.communicate(timeout=PATIENCE)

    assert (worker.returncode, errors) == (0, "")


def test_a_sweep_leaves_what_has_not_expired(demo: tuple[State, subprocess.CompletedProcess[str]]) -> None:
    state, _ = demo
    before = sorted(state.exports.rglob("*"))

    ran = fhir_bulk("sweep", "--dir", state.folder)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(state.exports.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--base", "fhir"], "--base: the path must begin with /"),
        (["serve", "--port", "0", "--issuer", "x"], "--issuer and --audience need --jwks"),
        (["serve", "--port", "0", "--jwks", "https://auth.example/keys"], "--jwks needs --issuer and --audience"),
        (
            ["serve", "--port", "0", "--jwks", "no-such-file.json", "--issuer", "x", "--audience", "y"],
            "the file no-such-file.json does not exist",
        ),
        (["serve", "--public-base-url", "nowhere"], "--public-base-url: "),
        (["serve", "--workers", "1000"], "--workers: "),
        (["serve", "--port", "0", "--data", "no-such-folder"], "no-such-folder: there is no such folder"),
        (["serve", "--set", "group_scope"], "--set group_scope: NAME=VALUE is required"),
        (["serve", "--set", "group_scop=true"], "--set group_scop: unknown setting; the settings are "),
        (["serve", "--set", "smart=x"], "--set smart: unknown setting"),
        (["serve", "--set", "group_scope=perhaps"], "--set group_scope: Input should be a valid boolean"),
        (["serve", "--set", "retry_after=5", "--set", "retry_after=6"], "--set retry_after: give it once"),
        (
            ["serve", "--set", "lease_seconds=2"],
            "the settings do not fit together: lease_seconds must be at least",
        ),
        (["serve", "--set", "worker_processes=2"], "--set worker_processes: use --workers"),
        (["serve", "--nice", "20"], "--nice: "),
        (["serve", "--port", "65536"], "--port 65536: a port is a number from 0 to 65535"),
        (["serve", "--host", "no-such-host.invalid"], "--host no-such-host.invalid: "),
        (["serve", "--port", "0", "--token-seconds", "900"], "--token-seconds: only with --client"),
        (["serve", "--port", "0", "--client-scope", "system/*.rs"], "--client-scope: only with --client"),
        (["serve", "--port", "0", "--keep-last-updated"], "--keep-last-updated needs --data"),
        (["demo", "--token-seconds", "0"], "--token-seconds: "),
        (["demo", "--patients", "-1"], "--patients: "),
        (["sweep"], "holds no jobs"),
        (["worker"], "holds no jobs"),
    ],
)
def test_what_a_person_can_mend_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main([*arguments, "--dir", str(tmp_path / "state")]) == 2

    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "worker", "sweep"])
def test_the_help_describes_every_setting_that_text_can_say(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])

    told = capsys.readouterr().out
    own = {"public_base_url", "worker_processes", "worker_niceness"} if command == "serve" else set[str]()
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} has no description"
        assert (f"\n  {name}\n" in told) == (name not in {*own, "smart"})
    assert "KO-" not in told
    assert "(law" not in told


@pytest.mark.parametrize(("options", "status"), [([], 202), (["--set", "group_scope=true"], 403)])
def test_a_setting_on_the_command_line_holds(tmp_path: Path, options: list[str], status: int) -> None:
    state = State(tmp_path / "state")
    lines = [
        {"resourceType": "Patient", "id": "p"},
        {
            "resourceType": "Group",
            "id": "g",
            "type": "person",
            "actual": True,
            "member": [{"entity": {"reference": "Patient/p"}}],
        },
    ]
    state.load("a test", (json.dumps(line).encode() for line in lines), lambda _: None)
    headers = {"authorization": f"Bearer {state.mint().token('me', 'system/Patient.rs')}", "prefer": "respond-async"}
    with server_process(state, 0, ["--workers", "0", *options]) as server, httpx2.Client(timeout=PATIENCE) as http:
        assert http.get(f"{server.url}/Group/g/$export", headers=headers).status_code == status


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])

    assert left.value.code == 0
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert commands == [
        "demo",
        "serve",
        "token",
        "keys",
        "jobs",
        "sweep",
        "worker",
        "migrate",
        "audit",
        "openapi",
        "bench",
        "check",
    ]


@pytest.mark.parametrize("module", ["uvicorn", "httpx2"])
def test_a_missing_extra_is_named(tmp_path: Path, module: str) -> None:
    hide = f"import sys; sys.modules[{module!r}] = None; from fhir_bulk_middleware.cli import main; sys.exit(main(sys.argv[1:]))"

    ran = subprocess.run(
        [sys.executable, "-c", hide, "demo", "--dir", tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert ran.returncode == 2
    assert f"fhir-bulk demo needs {module}" in ran.stderr
    assert "pip install 'fhir-bulk-middleware[demo]'" in ran.stderr


def test_the_package_needs_no_extra_to_be_imported() -> None:
    look = (
        "import sys, fhir_bulk_middleware, fhir_bulk_middleware.app, fhir_bulk_middleware.cli;"
        "print(*sorted({'uvicorn', 'rich', 'httpx2', 'isal', 'msgspec'} & set(sys.modules)))"
    )

    ran = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=PATIENCE, check=True)

    assert ran.stdout.strip() == ""
