"""What comes along with our dependencies, and what of it is never loaded."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
NEVER_LOADED = ("ecdsa", "rsa", "pyasn1")

# Every module, and the whole use of keys: made, signed with, verified, as a host and as an authorization server do it.
LOAD_EVERYTHING = """
import importlib, json, pkgutil, sys
import anyio
import fhir_bulk_middleware

for module in pkgutil.walk_packages(fhir_bulk_middleware.__path__, "fhir_bulk_middleware."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from fhir_bulk_middleware.jose import ALGORITHMS, JoseTokenVerifier
from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.testing.token_mint import TokenMint

verified = []
for algorithm in ALGORITHMS:
    mint, other = TokenMint("i", "a", algorithm), TokenMint("i", "a", algorithm)
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer="i", audience="a")
    verified.append(anyio.run(verifier.verify, mint.token("s", "system/*.rs")).owner.subject)
    try:
        anyio.run(verifier.verify, other.token("s", "system/*.rs"))
    except TokenRejected:
        pass
print(json.dumps({"verified": len(verified), "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_what_python_jose_brings_beside_cryptography_is_never_loaded() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOAD_EVERYTHING], capture_output=True, text=True, timeout=PATIENCE, check=True, cwd=ROOT / "tests"
    )
    found = json.loads(ran.stdout)

    assert found["verified"] == 6, "RS256, RS384, RS512, ES256, ES384, ES512"
    assert {"jose", "cryptography"} <= {*found["modules"]}
    assert set(NEVER_LOADED).isdisjoint(found["modules"])
    assert all(importlib.util.find_spec(name) for name in NEVER_LOADED), "they are installed, so they could have been loaded"


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]


@pytest.mark.parametrize(
    ("name", "first_good"),
    [
        ("starlette", (1, 3, 1)),  # CVE-2026-54283, and others before it
        ("cryptography", (46, 0, 7)),  # CVE-2026-39892, and others before it
        ("python-jose", (3, 4, 0)),  # CVE-2024-33663
        ("pydantic", (2, 4, 0)),  # CVE-2024-3772
        ("h11", (0, 16)),  # CVE-2025-43859
        ("gunicorn", (22, 0)),  # CVE-2024-1135; development only
    ],
)
def test_floors_exclude_releases_with_known_faults(name: str, first_good: tuple[int, ...]) -> None:
    (requirement,) = [each for each in requirements() if re.match(rf"{re.escape(name)}\b(?!-)", each)]
    floor = re.search(r">=([0-9.]+)", requirement)

    assert floor, requirement
    assert tuple(map(int, floor[1].split("."))) >= first_good


def test_each_requirement_of_the_package_has_a_floor() -> None:
    printed = subprocess.run([ROOT / ".ci" / "floors"], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    pins = printed.splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) for pin in pins)
    assert {"starlette==1.3.1", "h11==0.16"} <= {*pins}


def test_the_floors_of_the_hosts_are_those_that_the_readme_names() -> None:
    printed = subprocess.run([ROOT / ".ci" / "floors", "--hosts"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    named = dict(re.findall(r"(Starlette|FastAPI|FHIRStarter|Litestar|Django) (\d[\d.]*\d)", (ROOT / "README.md").read_text()))

    assert len(named) == 5
    assert {f"{host.lower()}=={least}" for host, least in named.items()} <= {*printed.stdout.split()}


@pytest.mark.skipif(
    importlib.util.find_spec("cyclonedx_py") is None, reason="the development tool cyclonedx-bom is not installed"
)
@pytest.mark.long
@pytest.mark.timeout(1_000)
def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    """The tool takes some 20 seconds of CPU time."""
    bill = tmp_path / "sbom.json"
    subprocess.run([ROOT / ".ci" / "sbom", sys.executable, bill], timeout=900, check=True, env={"PATH": "/usr/bin:/bin"})
    found = json.loads(bill.read_text())

    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    named = {component["name"].lower() for component in found["components"]}
    assert {"starlette", "python-jose", "cryptography", *NEVER_LOADED} <= named


def test_each_test_that_the_security_document_names_exists() -> None:
    document = (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|fhir_bulk_middleware|\.ci)/?[\w/.-]*)`", document)

    assert len(named) >= 15
    assert [path for path in named if not (ROOT / path).exists()] == []
