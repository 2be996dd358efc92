"""The example with Django: the kit beside it, and exports under uvicorn with Django's users, permissions and tokens."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from example_server import EXAMPLES, example_server, url
from exporting import exported
from waiting import PATIENCE

USERS = """
import django; django.setup()
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django_host.models import Observation, Patient
call_command("migrate", run_syncdb=True, verbosity=0)
for name, views in {"ann": ["view_patient", "view_observation"], "ben": ["view_patient"], "eve": []}.items():
    User.objects.create_user(name, password=name).user_permissions.set(Permission.objects.filter(codename__in=views))
for number in range(3):
    Patient(id=f"p{number}", name="somebody").save()
    Observation(id=f"o{number}", patient_id=f"p{number}", text="something").save()
"""
CHANGES = "import django; django.setup()\nfrom django.contrib.auth.models import User\n"


def django(state: Path, program: str) -> None:
    environment = {**os.environ, "CLINIC_STATE": str(state), "DJANGO_SETTINGS_MODULE": "django_host.settings"}
    subprocess.run([sys.executable, "-c", program], cwd=EXAMPLES, env=environment, check=True)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state = tmp_path_factory.mktemp("clinic")
    django(state, USERS)
    with example_server("django_host.asgi:application", state / "log", CLINIC_STATE=str(state)) as log:
        yield log


async def token(http: httpx2.AsyncClient, name: str) -> str:
    answer = await http.post("/token", data={"username": name, "password": name})
    return str(answer.json()["access_token"])


@pytest.mark.long
def test_the_kit_beside_the_example_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    run = subprocess.run(
        [*command, "-p", "anyio", "django_host/test_kit.py"],
        cwd=EXAMPLES,
        env={**os.environ, "CLINIC_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) > 20, "the suites of what the adapter implements ran"


@pytest.mark.anyio
async def test_a_user_exports_what_their_permissions_allow_and_exports_chain(clinic: Path, tmp_path: Path) -> None:
    async with httpx2.AsyncClient(base_url=await url(clinic), timeout=PATIENCE) as http:
        assert b"OperationDefinition/bulk.export" in (await http.get("/fhir/metadata")).content
        _, found = await exported(http, await token(http, "ben"), tmp_path / "ben", "/fhir/$export")
        assert {each["resourceType"] for each in found["output"]} == {"Patient"}

        ann = await token(http, "ann")
        manifest, found = await exported(http, ann, tmp_path / "all", "/fhir/$export")
        assert len(found["output"]) == 6
        _, found = await exported(http, ann, tmp_path / "one", "/fhir/Patient/p1/$export")
        assert {each["id"] for each in found["output"]} == {"p1", "o1"}

        assert (await http.put("/fhir/Patient/p9", content=b'{"name": "new"}')).status_code == 200
        assert (await http.get("/fhir/Patient/p9")).json()["name"] == [{"text": "new"}]
        assert (await http.delete("/fhir/Patient/p2")).status_code == 204
        since = manifest.transaction_time
        _, found = await exported(http, ann, tmp_path / "since", "/fhir/$export", _since=since)
        assert "p9" in {each["id"] for each in found["output"]}
        gone = {entry["request"]["url"] for bundle in found["deleted"] for entry in bundle["entry"]}
        assert gone == {"Patient/p2", "Observation/o2"}, "what Django deletes in a cascade is told as well"


@pytest.mark.anyio
async def test_a_user_without_permissions_or_with_another_password_gets_nothing(clinic: Path) -> None:
    async with httpx2.AsyncClient(base_url=await url(clinic), timeout=PATIENCE) as http:
        assert (await http.post("/token", data={"username": "eve", "password": "wrong"})).status_code == 401
        eve = await token(http, "eve")

        async def kick_off(bearer: str) -> int:
            headers = {"Authorization": f"Bearer {bearer}", "Prefer": "respond-async"}
            return (await http.get("/fhir/$export", headers=headers)).status_code

        assert await kick_off(eve) == 403
        assert await kick_off(f"{eve}x") == 401
        ben = await token(http, "ben")
        assert await kick_off(ben) == 202
        django(clinic.parent, f"{CHANGES}user = User.objects.get(username='ben'); user.set_password('new'); user.save()")
        assert await kick_off(ben) == 401
