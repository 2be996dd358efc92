"""The page "Delete" of Aidbox, statement by statement, each contradiction with the switch that settles it (SD-10, CD-28)."""

from typing import Any

import pytest
from house import House, populate

from fhir_bulk_middleware import AIDBOX
from fhir_bulk_middleware.delete.policy import NOT_FOUND
from fhir_bulk_middleware.outcomes import DeleteOutcome

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"


@pytest.fixture
async def aidbox(make_house: Any) -> Any:
    async with make_house() as house:
        await populate(house)
        await house.resources.create("Patient", {"resourceType": "Patient", "name": [{"given": ["Tom"]}]}, "tom-id")
        yield house


async def delete(house: House, url: str, **headers: str) -> Any:
    return await house.ask("DELETE", url, scope=FULL, headers={name.replace("_", "-"): value for name, value in headers.items()})


class TestDelete:
    """DELETE [base]/[type]/[id]."""

    async def test_responds_with_200_ok_on_the_successful_deletion(self, aidbox: House) -> None:
        assert (await delete(aidbox, "/Patient/tom-id")).status_code == 200

    async def test_it_works_the_same_way_as_sql_delete_returning(self, aidbox: House) -> None:
        before = await aidbox.resources.read("Patient", "tom-id")
        assert before is not None
        response = await delete(aidbox, "/Patient/tom-id")
        assert response.content == before.json

    async def test_when_removing_a_resource_deleted_earlier_it_responds_with_204(self, aidbox: House) -> None:
        await delete(aidbox, "/Patient/tom-id")
        response = await delete(aidbox, "/Patient/tom-id")
        assert (response.status_code, response.content) == (204, b"")

    @pytest.mark.parametrize("tag", ['W/"1"', '"1"', "1"])
    async def test_supports_if_match_with_the_version_id_as_etag(self, aidbox: House, tag: str) -> None:
        """CD-26: the document leaves the quoting open."""
        response = await delete(aidbox, "/Patient/tom-id", If_Match=tag)
        assert response.status_code == 200
        assert response.headers["ETag"] == 'W/"1"'

    @pytest.mark.parametrize("tag", ['W/"2"', '"2"', "2"])
    async def test_412_when_the_requested_etag_does_not_match_the_actual_one(self, aidbox: House, tag: str) -> None:
        assert (await delete(aidbox, "/Patient/tom-id", If_Match=tag)).status_code == 412
        assert (await delete(aidbox, "/Patient/tom-id")).status_code == 200, "nothing was removed"

    async def test_to_get_204_instead_of_200_use_no_content_true(self, aidbox: House) -> None:
        response = await delete(aidbox, "/Patient/tom-id?_no-content=true")
        assert (response.status_code, response.content) == (204, b"")
        gone = await aidbox.resources.read("Patient", "tom-id")
        assert gone is not None
        assert gone.deleted

    async def test_no_content_true_always_gets_204(self, aidbox: House) -> None:
        for _ in range(2):
            assert (await delete(aidbox, "/Patient/tom-id?_no-content=true")).status_code == 204

    async def test_delete_of_a_non_existing_resource_returns_204_and_no_body(self, aidbox: House) -> None:
        """CD-23: the note below the list, and the default."""
        response = await delete(aidbox, "/Patient/nobody")
        assert (response.status_code, response.content) == (204, b"")

    async def test_404_resource_not_found(self, make_house: Any) -> None:
        """CD-23: the list above the note, by a switch."""
        async with make_house(parts={"deletes": AIDBOX.but({DeleteOutcome.NEVER_EXISTED: NOT_FOUND})}) as house:
            response = await delete(house, "/Patient/nobody")
            assert response.status_code == 404
            assert response.json()["issue"][0]["code"] == "not-found"


class TestConditionalDelete:
    """DELETE [base]/[type]?[search parameters]."""

    async def test_no_matches_respond_with_404(self, aidbox: House) -> None:
        """CD-27."""
        assert (await delete(aidbox, "/Patient?family=Nobody")).status_code == 404

    async def test_one_match_is_an_ordinary_delete(self, aidbox: House) -> None:
        response = await delete(aidbox, "/Patient?given=Tom")
        assert response.status_code == 200
        assert response.json()["id"] == "tom-id"
        assert (await delete(aidbox, "/Patient/tom-id")).status_code == 204

    async def test_multiple_matches_respond_with_412(self, aidbox: House) -> None:
        """CD-24: as long as the header is not there."""
        response = await delete(aidbox, "/Observation?status=final")
        assert response.status_code == 412
        assert "not" in response.json()["issue"][0]["diagnostics"]
        assert len((await aidbox.resources.search("Observation", ids=None, count=9, after=None)).resources) == 4

    async def test_the_header_deletes_all_matches(self, aidbox: House) -> None:
        """CD-24: the switch is the header itself."""
        response = await delete(aidbox, "/Observation?status=final", x_conditional_delete="remove-all")
        assert response.status_code == 200
        assert (await aidbox.resources.search("Observation", ids=None, count=9, after=None)).resources == ()

    async def test_the_example_of_the_page(self, mint: Any) -> None:
        """CD-25: with and without `/fhir` are two bases; which it is, is where the host mounts us."""
        import httpx2
        from house import BASE
        from starlette.applications import Starlette

        from fhir_bulk_middleware import STANDARD, Settings

        house = House(mint, STANDARD, Settings(public_base_url=BASE))
        host = Starlette()
        house.bulk.install(host, "/fhir")
        for number in range(3):
            patient = {"resourceType": "Patient", "identifier": [{"value": "abc"}]}
            await house.resources.create("Patient", patient, f"p{number}")
        async with house.bulk.running(), httpx2.AsyncClient(transport=httpx2.ASGITransport(host), base_url="https://x") as client:
            headers = {"x-conditional-delete": "remove-all", "Authorization": f"Bearer {house.token(scope=FULL)}"}
            response = await client.delete("/fhir/Patient?identifier=abc", headers=headers)

            assert response.status_code == 200
            assert len(response.json()["entry"]) == 3
            assert (await client.delete("/Patient?identifier=abc", headers=headers)).status_code == 404, "the host's own 404"
