"""Outcome by header by policy by scope: each cell a status, headers and a body (laws 24 and 25; RD-01 to RD-14, RD-18)."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import pytest
from house import House, populate

from fhir_bulk_middleware import AIDBOX, FHIR_R4, FHIR_R6_DRAFT
from fhir_bulk_middleware.delete.policy import NOT_FOUND, DeletePolicy
from fhir_bulk_middleware.outcomes import DeleteOutcome

pytestmark = pytest.mark.anyio

ALL = {"x-conditional-delete": "remove-all"}
NEVER_404 = AIDBOX.but({DeleteOutcome.NEVER_EXISTED: NOT_FOUND})
NEEDS_IF_MATCH = replace(AIDBOX, if_match_required=True)
POLICIES: dict[str, DeletePolicy] = {
    "aidbox": AIDBOX,
    "r4": FHIR_R4,
    "r6": FHIR_R6_DRAFT,
    "404": NEVER_404,
    "if-match": NEEDS_IF_MATCH,
}

FULL = "system/*.cruds"
D, RD, DS, RDS = "system/Observation.d", "system/Observation.rd", "system/Observation.ds", "system/Observation.rds"
WRITE, V1 = "system/Observation.write", "system/Observation.*"
FINAL = "?status=final"  # four of them
ONE = "?code:text=y"  # b2


@dataclass(frozen=True)
class Cell:
    """One request, and all of its answer that matters."""

    url: str
    status: int
    body: str = ""  # "", resource, outcome, or a Bundle's type
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    policy: str = "aidbox"
    scope: str = FULL
    applied: str | None = None
    left: int = 4  # how many Observations live afterwards, of four
    says: str = ""


def if_match(value: str) -> dict[str, str]:
    return {"If-Match": value}


def prefer(value: str) -> dict[str, str]:
    return {"Prefer": f"return={value}"}


# b1 lives at version 1, b3 was deleted at version 2, `never` never was; b4 and b2 live at version 1.
CELLS = [
    # --- A resource that lives
    Cell("/b1", 200, "resource", 'W/"1"', left=2),
    Cell("/b1", 200, "resource", 'W/"1"', scope=RD, left=2),
    Cell("/b1", 200, "resource", 'W/"1"', scope=V1, left=2),
    Cell("/b1", 204, scope=D, left=2),
    Cell("/b1", 204, scope=DS, left=2),
    Cell("/b1", 204, scope=WRITE, left=2),
    Cell("/b1", 204, "", 'W/"1"', policy="r4", left=2),
    Cell("/b1", 204, "", 'W/"1"', policy="r6", left=2),
    Cell("/b1?_no-content=true", 204, "", 'W/"1"', left=2),
    Cell("/b1?_no-content=false", 200, "resource", 'W/"1"', left=2),
    Cell("/b1?_no-content=maybe", 400, "outcome", left=3),
    Cell("/b1?_no-content=true&_no-content=false", 400, "outcome", left=3),
    Cell("/b1?_no-content=true", 400, "outcome", policy="r4", left=3),  # not of that policy, and nothing unknown is passed over
    Cell("/b1?hardDelete=true", 400, "outcome", left=3),
    Cell("/b1?_format=json&_pretty=true", 200, "resource", 'W/"1"', left=2),
    Cell("/b1?_format=xml", 400, "outcome", left=3),
    Cell("/b1", 204, "", 'W/"1"', prefer("minimal"), applied="return=minimal", left=2),
    Cell("/b1", 200, "resource", 'W/"1"', prefer("representation"), applied="return=representation", left=2),
    Cell("/b1", 200, "resource", 'W/"1"', prefer("representation"), policy="r4", applied="return=representation", left=2),
    Cell("/b1", 200, "outcome", 'W/"1"', prefer("OperationOutcome"), applied="return=OperationOutcome", left=2),
    Cell("/b1", 204, headers=prefer("OperationOutcome"), scope=D, left=2),  # or it would tell that there was one
    Cell("/b1", 204, headers=prefer("representation"), scope=D, left=2),
    Cell("/b1", 200, "resource", 'W/"1"', prefer("everything"), left=2),
    Cell("/b1?_no-content=true", 204, "", 'W/"1"', prefer("representation"), left=2),
    # --- If-Match on one that lives
    *(Cell("/b1", 200, "resource", 'W/"1"', if_match(tag), left=2) for tag in ('W/"1"', '"1"', "1", "*", 'W/"7", W/"1"', "7,1")),
    *(Cell("/b1", 412, "outcome", headers=if_match(tag), left=3) for tag in ('W/"2"', '"2"', "2", 'W/"0", "2"', "v1", '"01"')),
    *(
        Cell("/b1", 400, "outcome", headers=if_match(tag), left=3)
        for tag in ("", ",", "W/", 'W/"1', '"1"x', '*, "1"', "**", '"a b"', 'w/"1"', "'1'", '""', "1 2")
    ),
    Cell("/b1", 412, "outcome", headers=if_match("2"), policy="r4", left=3),
    Cell("/b1", 400, "outcome", policy="if-match", left=3),
    Cell("/b1", 200, "resource", 'W/"1"', if_match("1"), policy="if-match", left=2),
    # --- One that was deleted, at version 1
    Cell("/b3", 204, left=3),
    Cell("/b3", 204, policy="r4", left=3),
    Cell("/b3", 204, policy="404", left=3),
    Cell("/b3", 204, scope=D, left=3),
    Cell("/b3", 204, headers=prefer("OperationOutcome"), left=3),  # the document has no content here
    *(Cell("/b3", 204, headers=if_match(tag), left=3) for tag in ('W/"1"', "1", '"9", "1"')),
    *(Cell("/b3", 412, "outcome", headers=if_match(tag), left=3) for tag in ('W/"2"', "3", "*")),
    # --- One that never was
    Cell("/never", 204, left=3),
    Cell("/never", 204, policy="r4", left=3),
    Cell("/never", 404, "outcome", policy="404", left=3),
    Cell("/never", 204, scope=D, left=3),
    *(Cell("/never", 412, "outcome", headers=if_match(tag), left=3) for tag in ('W/"1"', "*")),
    # --- Who may not
    *(
        Cell("/b1", 403, "outcome", scope=scope, left=3)
        for scope in (
            "system/*.rs",
            "system/*.read",
            "system/Patient.d",
            "user/*.cruds",
            "patient/*.d",
            "system/Observation.cru",
            "",
        )
    ),
    # --- One match
    Cell(ONE, 200, "resource", 'W/"1"', left=2),
    Cell(ONE, 204, scope=DS, left=2),
    Cell(ONE, 204, "", 'W/"1"', policy="r4", left=2),
    Cell(f"{ONE}&_no-content=true", 204, "", 'W/"1"', left=2),
    Cell(ONE, 200, "resource", 'W/"1"', if_match('W/"1"'), left=2),
    Cell(ONE, 412, "outcome", headers=if_match('W/"2"'), left=3),
    Cell(ONE, 200, "transaction-response", headers=ALL, left=2),
    Cell(ONE, 200, "resource", 'W/"1"', scope=V1, left=2),
    *(Cell(ONE, 403, "outcome", scope=scope, left=3) for scope in (D, RD, WRITE, "system/*.rs")),  # criteria need s
    # --- No match
    Cell("?status=amended", 404, "outcome", left=3),
    Cell("?status=amended", 404, "outcome", headers=ALL, left=3),
    Cell("?status=amended", 204, policy="r4", left=3),
    Cell("?status=amended", 404, "outcome", policy="r6", left=3),
    Cell("?status=amended", 404, "outcome", headers=if_match("*"), left=3),
    # --- Several matches
    Cell(FINAL, 412, "outcome", left=3, says="3 resources"),
    Cell(FINAL, 412, "outcome", scope=DS, left=3, says="3 resources"),
    Cell(FINAL, 412, "outcome", policy="r4", headers=ALL, left=3, says="3 resources"),  # it knows no such header
    Cell(FINAL, 412, "outcome", headers=if_match("1"), left=3),
    Cell(FINAL, 200, "transaction-response", headers=ALL, left=0),
    Cell(FINAL, 200, "transaction-response", headers={"X-Conditional-Delete": " Remove-All "}, left=0),
    Cell(FINAL, 200, "outcome", headers=ALL, scope=DS, left=0, says="3 resources"),
    Cell(f"{FINAL}&_no-content=true", 204, headers=ALL, left=0),
    Cell(FINAL, 204, headers={**ALL, **prefer("minimal")}, applied="return=minimal", left=0),
    Cell(FINAL, 200, "outcome", headers={**ALL, **prefer("OperationOutcome")}, applied="return=OperationOutcome", left=0),
    Cell(FINAL, 400, "outcome", headers={**ALL, **if_match("1")}, left=3),
    Cell(FINAL, 400, "outcome", headers={"x-conditional-delete": "remove-some"}, left=3),
    Cell(FINAL, 400, "outcome", headers={"x-conditional-delete": ""}, left=3),
    # --- A dry run
    Cell(f"{FINAL}&_dry-run=true", 412, "outcome", left=3, says="3 resources"),  # as it would be without
    Cell(f"{FINAL}&_dry-run=true", 200, "batch-response", headers=ALL, left=3),
    Cell(f"{FINAL}&_dry-run=true", 200, "outcome", headers=ALL, scope=DS, left=3, says="3 resources would"),
    Cell(f"{ONE}&_dry-run=true", 200, "batch-response", left=3),
    Cell("?status=amended&_dry-run=true", 404, "outcome", left=3),
    Cell("/b1?_dry-run=true", 200, "batch-response", left=3),
    Cell("/b1?_dry-run=true", 403, "outcome", scope=RD, left=3),  # a dry run needs s
    # --- Percent-encoding, in criteria and in granular scopes (law 39)
    Cell("?status=amended%2Cfinal", 412, "outcome", left=3, says="3 resources"),
    *(Cell(f"?code:text={broken}", 400, "outcome", left=3, says="percent") for broken in ("%zz", "%", "%ff")),
    Cell(FINAL, 412, "outcome", scope="system/Observation.ds?status=amended%2Cfinal", left=3, says="3 resources"),
    *(
        Cell(url, 403, "outcome", scope=f"system/Observation.ds?status:not={broken}", left=3)
        for url in ("/b1", ONE)
        for broken in ("%ff", "%zz", "amended%")
    ),
    Cell("/b1?_dry-run=true", 412, "outcome", headers=if_match("2"), left=3),
    Cell("/never?_dry-run=true", 200, "batch-response", left=3),
    Cell("/b1?_dry-run=yes", 400, "outcome", left=3),
    Cell("/b1?_dry_run=true", 400, "outcome", left=3),  # misspelled, and all that kept it from deleting
]


def body_of(response: httpx2.Response) -> str:
    if not response.content:
        return ""
    assert response.headers["Content-Type"] == "application/fhir+json"
    content: dict[str, str] = response.json()
    return {"OperationOutcome": "outcome", "Bundle": content.get("type", "")}.get(content["resourceType"], "resource")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.policy} {cell.scope} {cell.url} {cell.headers}")
async def test_each_outcome_is_told_as_its_policy_has_it(make_house: Any, cell: Cell) -> None:
    async with make_house(parts={"deletes": POLICIES[cell.policy]}) as house:
        await populate(house)
        await house.resources.delete("Observation", "b3")

        response = await house.ask("DELETE", f"/Observation{cell.url}", scope=cell.scope, headers=cell.headers)

        assert response.status_code == cell.status, response.text
        assert body_of(response) == cell.body
        assert response.headers.get("ETag") == cell.etag
        assert response.headers.get("Preference-Applied") == cell.applied
        assert cell.says in response.text
        assert response.headers["Cache-Control"] == "no-store"
        page = await house.resources.search("Observation", ids=None, count=10, after=None)
        assert len(page.resources) == (min(cell.left, 3))


async def test_what_comes_back_is_what_was_removed_character_by_character(house: House) -> None:
    text = b'{"resourceType":"Observation","id":"n","status":"final","code":{"text":"\xc3\xa4"},"valueQuantity":{"value":1.50}}'
    stored = await house.resources.create("Observation", text, "n")

    response = await house.ask("DELETE", "/Observation/n", scope=FULL)

    assert response.content == stored.json
    assert b"1.50" in response.content


async def test_the_version_that_is_told_is_the_one_that_was_removed(house: House) -> None:
    for _ in range(3):
        await house.resources.update("Patient", "p1", {"resourceType": "Patient", "id": "p1"})

    response = await house.ask("DELETE", "/Patient/p1", scope=FULL, headers=if_match('W/"4"'))

    assert response.headers["ETag"] == 'W/"4"'
    assert response.json()["meta"]["versionId"] == "4"
    again = await house.ask("DELETE", "/Patient/p1", scope=FULL, headers=if_match('W/"4"'))
    assert again.status_code == 204


async def test_a_remove_all_tells_each_resource_it_removed(house: House) -> None:
    response = await house.ask("DELETE", f"/Observation{FINAL}", scope=FULL, headers=ALL)

    entries = response.json()["entry"]
    assert sorted(entry["resource"]["id"] for entry in entries) == ["b1", "b2", "b3", "b4"]
    assert {entry["response"]["etag"] for entry in entries} == {'W/"1"'}
    assert {entry["fullUrl"] for entry in entries} == {f"https://ehr.example/fhir/Observation/b{n}" for n in (1, 2, 3, 4)}


async def test_a_deleted_resource_keeps_its_history(house: House) -> None:
    await house.ask("DELETE", "/Patient/p1", scope=FULL)

    gone = await house.resources.read("Patient", "p1")
    assert gone is not None
    assert gone.deleted
    first = await house.resources.vread("Patient", "p1", 1)
    assert first is not None
    assert json.loads(first.json)["name"] == [{"family": "Álvarez"}]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/Patient", "required"),
        ("/Patient?_no-content=true", "required"),
        ("/Patient?_format=json", "required"),
        ("/Patient?colour=blue", "not-supported"),
        ("/Patient?family:sounds=x", "not-supported"),
        ("/Patient?family=", "value"),
        ("/Patient?family=a,", "value"),
        ("/Patient?_id=", "value"),
        ("/Patient?=x", "not-supported"),
        ("/Patient?family", "value"),
        ("/Patient?birthdate=soon", "value"),
        ("/Patient?_count=1&family=x", "not-supported"),
        ("/Patient?_has:Observation:patient:code=x", "not-supported"),
        ("/Patient?general-practitioner.name=x", "not-supported"),
        ("/Patient?_type=Patient&family=x", "not-supported"),
        ("/Patient?family=%ff", "value"),
        ("/Patient?_filter=family eq x", "not-supported"),
    ],
)
@pytest.mark.parametrize("headers", [{}, ALL, {**ALL, "Prefer": "respond-async, handling=lenient"}], ids=["", "all", "job"])
async def test_criteria_that_could_mean_more_are_refused(house: House, url: str, code: str, headers: dict[str, str]) -> None:
    response = await house.ask("DELETE", url, scope=FULL, headers=headers)

    assert response.status_code == 400
    assert response.json()["issue"][0]["code"] == code
    assert len((await house.resources.search("Patient", ids=None, count=10, after=None)).resources) == 3


async def test_a_body_is_refused_for_criteria_in_it_would_not_be_read(house: House) -> None:
    response = await house.ask("DELETE", "/Patient?active:missing=true", scope=FULL, headers=ALL, content=b"_id=p1")

    assert response.status_code == 400
    assert len((await house.resources.search("Patient", ids=None, count=10, after=None)).resources) == 3


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "/?_id=p1",
        "/Patients/p1",
        "/patient/p1",
        "/Patient/p1/_history",
        "/Patient/p1/_history/1",
        "/Patient/a b",
        "/Binary/bulk.0123456789abcdef0123456789abcdef.0-0",
        "/Patient/",
        "/Patient/%24export",
        "/$foo",
        "/Patient/$purge",
        f"/Patient/{'x' * 65}",
    ],
)
async def test_what_is_no_resource_is_never_deleted_by_us(house: House, url: str) -> None:
    """Law 14; and system-level deletes are the host's."""
    response = await house.ask("DELETE", url, scope=FULL)

    assert response.status_code in {404, 405}
    for type_ in await house.resources.types():
        assert not [s for s in (await house.resources.search(type_, ids=None, count=50, after=None)).resources if s.deleted]


async def test_a_poll_path_without_a_job_id_is_never_a_conditional_delete(make_house: Any) -> None:
    """Law 14, AS-08."""
    from fhir_bulk_middleware import HEALTH_CONNECT_AU

    async with make_house(HEALTH_CONNECT_AU) as house:
        assert (await house.ask("DELETE", "/$export-poll-status?status=final", scope=FULL)).status_code == 400


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_without_a_cell_is_refused(policy: DeletePolicy) -> None:
    for outcome in DeleteOutcome:
        with pytest.raises(ValueError, match=outcome.name):
            replace(policy, cells={key: cell for key, cell in policy.cells.items() if key is not outcome})


LAB = "system/Observation.rds?code:text=y"


@pytest.mark.parametrize(
    ("url", "scope", "status"),
    [
        ("/b2", LAB, 200),
        ("/b1", LAB, 403),
        ("/never", LAB, 403),
        ("/gone", LAB, 403),
        ("?status=final", LAB, 200),  # of the four only b2 is hers
        ("?_id=b1", LAB, 404),
        ("/b2", "system/Observation.d?code:text=y", 204),
        ("/b2", "system/Observation.rs system/Observation.d?code:text=y", 200),
        ("/b2", "system/Observation.d?colour=blue", 403),
        ("/b2", "system/Observation.d?code:text=y system/Observation.d?code:text=x", 204),
        ("/b1", "system/Observation.d?code:text=y system/Observation.d?code:text=x", 204),
        ("/b4", "system/Observation.d?code:text=y system/Observation.d?code:text=x", 403),
        ("?status=final", "system/Observation.s system/Observation.rd?code:text=y", 200),
        ("?status=final", "system/Observation.rd system/Observation.s?code:text=y", 200),
    ],
)
async def test_a_granular_scope_is_applied_or_refused(house: House, url: str, scope: str, status: int) -> None:
    """Law 8: never widened; outside of it nothing is told apart."""
    await house.resources.create("Observation", {"resourceType": "Observation", "code": {"text": "y"}}, "gone")
    await house.resources.delete("Observation", "gone")

    response = await house.ask("DELETE", f"/Observation{url}", scope=scope)

    assert response.status_code == status, response.text
    left = {s.id for s in (await house.resources.search("Observation", ids=None, count=10, after=None)).resources}
    assert {"b1", "b2", "b3", "b4"} - left == (set() if status in {403, 404} else {url[1:] if url.startswith("/") else "b2"})


async def test_outside_of_a_granular_scope_all_refusals_are_the_same(house: House) -> None:
    answers = {(await house.ask("DELETE", f"/Observation/{id_}", scope=LAB)).content for id_ in ("b1", "never")}

    assert len(answers) == 1
