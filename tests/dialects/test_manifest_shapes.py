"""The manifests of the three versions of the IG, key by key (section 2.4 of the requirements)."""

from typing import Any

import pytest
from house import KICK_OFF, House, populate

from fhir_bulk_middleware import STANDARD, STU2, STU4

pytestmark = pytest.mark.anyio

SINCE = "2026-03-01T11:59:59Z"


async def chained(house: House) -> dict[str, Any]:
    """A manifest with output and deletions, under handling=lenient with something to report."""
    await populate(house)
    await house.resources.delete("Observation", "b1", None)
    house.clock.advance(1)
    headers = {**KICK_OFF, "Prefer": "respond-async, handling=lenient", "Content-Type": "application/fhir+json"}
    body = (
        '{"resourceType":"Parameters","parameter":[{"name":"_since","valueInstant":"' + SINCE + '"},'
        '{"name":"foo","valueString":"bar"}]}'
    )
    accepted = await house.ask("POST", "/$export", headers=headers, content=body)
    assert accepted.status_code == 202, accepted.text
    await house.runner.finish()
    manifest: dict[str, Any] = (await house.ask("GET", accepted.headers["Content-Location"])).json()
    return manifest


@pytest.mark.parametrize("dialect", [STU2, STANDARD], ids=["stu2", "stu3"])
async def test_stu2_and_stu3_have_request_error_and_typed_items(make_house: Any, dialect: Any) -> None:
    """MF-01 to MF-07, MF-10, MF-11, MF-15, MF-23, KO-102, DR-01, DR-02."""
    async with make_house(dialect) as house:
        manifest = await chained(house)

    assert list(manifest) == ["transactionTime", "request", "requiresAccessToken", "output", "deleted", "error"]
    for key, type_ in (("deleted", "Bundle"), ("error", "OperationOutcome")):
        for item in manifest[key]:
            assert item["type"] == type_
            assert isinstance(item["extension"], dict)
    assert manifest["error"]


async def test_stu4_has_outcome_arrays_of_extensions_and_file_sizes(make_house: Any) -> None:
    """MF-02, MF-09, MF-10, MF-12, MF-15 to MF-17, MF-23: no request, no error, no type but in output."""
    async with make_house(STU4) as house:
        manifest = await chained(house)

    assert list(manifest) == [
        "manifestType",
        "transactionTime",
        "outputFormat",
        "requiresAccessToken",
        "output",
        "deleted",
        "outcome",
    ]
    assert manifest["manifestType"] == "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkDataManifest"
    assert manifest["outputFormat"] == "application/fhir+ndjson"
    for item in [*manifest["output"], *manifest["deleted"], *manifest["outcome"]]:
        assert item["fileSize"] > 0
        assert item["extension"][0]["url"] == "urn:fhir-bulk-middleware:sha256"
        assert item["extension"][0]["valueString"]
    for item in [*manifest["deleted"], *manifest["outcome"]]:
        assert "type" not in item
    (outcome,) = manifest["outcome"]
    assert outcome["countSeverity"] == [{"code": "warning", "count": 1}]


@pytest.mark.parametrize("dialect", [STU2, STANDARD, STU4], ids=["stu2", "stu3", "stu4"])
async def test_without_since_there_is_no_list_of_deletions(make_house: Any, dialect: Any) -> None:
    """DR-02."""
    async with make_house(dialect) as house:
        await populate(house)
        location = await house.kick_off()
        await house.runner.finish()

        assert "deleted" not in (await house.ask("GET", location)).json()
