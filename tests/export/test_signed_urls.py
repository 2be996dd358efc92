"""Manifests whose files clients fetch from the output store itself, by signed URLs (MF-03, FR-05)."""

from collections.abc import Collection, Sequence
from typing import Any, Final

import pytest
from house import KICK_OFF, House, job_of, populate

from fhir_bulk_middleware.contract.events import Event, UrlsSigned
from fhir_bulk_middleware.dialects import SUBJECT_BOUND
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore

pytestmark = pytest.mark.anyio

PLACE = "https://bucket.example/"


class Signing(MemoryOutputStore):
    """Signs URLs of a place that serves nothing."""

    able = True
    busy = False

    def __init__(self) -> None:
        super().__init__()
        self.minted = 0

    def signs(self) -> bool:
        return self.able

    async def signed_urls(self, keys: Sequence[str], seconds: float) -> Sequence[str]:
        if self.busy:
            raise Refused(Reason.BUSY, "The signer sleeps.", retry_after=3)
        self.minted += 1
        return [f"{PLACE}{key}?for={seconds:g}&mint={self.minted}" for key in keys]

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        if self.busy:
            raise Refused(Reason.BUSY, "The store sleeps.")
        await super().discard(job_id, keep=keep)

    @property
    def kept(self) -> list[str]:
        return sorted(self._parts)


class Audit:
    """Keeps the events, or fails to."""

    essential: Final = True

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.full = False

    async def observe(self, event: Event) -> None:
        if self.full and isinstance(event, UrlsSigned):
            raise OSError("the disk is full")
        self.heard.append(event)

    @property
    def signed(self) -> list[UrlsSigned]:
        return [event for event in self.heard if isinstance(event, UrlsSigned)]


def signing(outputs: Signing, audit: Audit | None = None) -> dict[str, Any]:
    return {"outputs": outputs, "observers": [audit or Audit()]}


async def test_a_manifest_has_signed_urls_and_says_that_they_need_no_token(make_house: Any) -> None:
    outputs, audit = Signing(), Audit()
    async with make_house(parts=signing(outputs, audit), signed_url_seconds=300) as house:
        await populate(house)
        location = await house.kick_off("/$export")
        await house.runner.finish()
        manifest = (await house.ask("GET", location)).json()
        again = (await house.ask("GET", location)).json()

    urls = [item["url"] for item in manifest["output"]]
    assert manifest["requiresAccessToken"] is False
    assert len(urls) > 2
    assert [url.removeprefix(PLACE).partition("?")[0] for url in urls] == outputs.kept
    assert all(url.endswith("?for=300&mint=1") for url in urls)
    assert all(item["url"].endswith("&mint=2") for item in again["output"]), "each poll signs new URLs"


async def test_the_owner_can_still_fetch_the_same_files_from_this_server_with_a_token(make_house: Any) -> None:
    outputs, audit = Signing(), Audit()
    async with make_house(parts=signing(outputs, audit), signed_url_seconds=300) as house:
        await populate(house)
        await house.export("/$export?_type=Patient")
        (file_id,) = audit.signed[0].file_ids
        assert (await house.ask("GET", f"/$export-file/{file_id}")).status_code == 200
        assert (await house.ask("GET", f"/$export-file/{file_id}", subject=None)).status_code == 401


async def test_the_audit_has_the_urls_before_the_client_does(make_house: Any) -> None:
    """Law 37: who, which job, which files, until when."""
    outputs, audit = Signing(), Audit()
    async with make_house(parts=signing(outputs, audit), signed_url_seconds=300, on_audit_failure="refuse") as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient,Observation")
        await house.runner.finish()
        audit.full = True
        refused = await house.ask("GET", location)
        assert (refused.status_code, PLACE in refused.text) == (503, False)
        assert audit.signed == []

        audit.full = False
        manifest = (await house.ask("GET", location)).json()
        (signed,) = audit.signed
        assert (signed.owner is not None, signed.owner and signed.owner.subject) == (True, "alice")
        assert signed.caller is not None
        assert signed.job_id == job_of(location)
        assert len(signed.file_ids) == len(manifest["output"]) == 2
        assert signed.types == ("Observation", "Patient")
        assert (signed.until - house.clock()) / 1_000_000 == 300


async def test_nobody_but_the_owner_gets_a_url(make_house: Any) -> None:
    """Law 7."""
    outputs, audit = Signing(), Audit()
    async with make_house(parts=signing(outputs, audit), signed_url_seconds=300) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        assert (await house.ask("GET", location, subject="bob")).status_code == 404
        assert (await house.ask("GET", location, scope="system/Observation.rs")).status_code == 403
        assert (outputs.minted, audit.signed) == (0, [])


async def test_a_url_works_no_longer_than_the_job_is_kept(make_house: Any) -> None:
    outputs = Signing()
    async with make_house(parts=signing(outputs), signed_url_seconds=300, retention=1000) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        house.clock.advance(960)
        (item,) = (await house.ask("GET", location)).json()["output"]
        assert "?for=40&" in item["url"]


async def test_a_cancel_removes_the_files_before_it_is_answered(make_house: Any) -> None:
    """DL-08: nothing else ends a signed URL."""
    outputs = Signing()
    async with make_house(parts=signing(outputs), signed_url_seconds=300) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        assert outputs.kept
        assert (await house.ask("DELETE", location)).status_code == 202
        assert outputs.kept == []


async def test_a_cancel_is_answered_although_the_files_cannot_be_removed_now(
    make_house: Any, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = Signing()
    async with make_house(parts=signing(outputs), signed_url_seconds=300) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        outputs.busy = True
        assert (await house.ask("DELETE", location)).status_code == 202
        assert "signed URLs work until" in caplog.text
        outputs.busy = False
        await house.bulk.retention.sweep()
        assert outputs.kept == []


async def test_a_store_that_cannot_sign_now_is_busy(make_house: Any) -> None:
    outputs = Signing()
    async with make_house(parts=signing(outputs), signed_url_seconds=300) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        outputs.busy = True
        answer = await house.ask("GET", location)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")


async def test_what_an_item_refers_to_is_signed_like_the_item(make_house: Any) -> None:
    """MF-08: a client compares `continuesInFile` with the URLs of the other items."""
    outputs = Signing()
    async with make_house(parts=signing(outputs), signed_url_seconds=300, part_bytes=4096, page_bytes=1024) as house:
        for number in range(40):
            code = {"text": "x" * 200}
            one = {"resourceType": "Observation", "status": "final", "code": code, "subject": {"reference": "Patient/p1"}}
            await house.resources.create("Observation", one, f"o{number}")
        await populate(house)
        manifest = await house.export("/Patient/$export?organizeOutputBy=Patient")

    urls = [item["url"] for item in manifest["output"]]
    followers = [item["continuesInFile"] for item in manifest["output"] if "continuesInFile" in item]
    assert len(followers) > 2
    assert set(followers) <= set(urls)


async def test_a_dialect_whose_document_asks_for_a_token_keeps_asking(make_house: Any) -> None:
    outputs = Signing()
    async with make_house(SUBJECT_BOUND, parts=signing(outputs), signed_url_seconds=300) as house:
        await populate(house)
        manifest = await house.export("/Group/both/$export")
        assert manifest["requiresAccessToken"] is True
        assert outputs.minted == 0


async def test_without_the_setting_nothing_is_signed(make_house: Any) -> None:
    outputs = Signing()
    async with make_house(parts=signing(outputs)) as house:
        await populate(house)
        manifest = await house.export("/$export?_type=Patient")
        assert manifest["requiresAccessToken"] is True
        assert outputs.minted == 0


async def test_pages_of_a_partial_manifest_are_signed_each_by_itself(make_house: Any) -> None:
    outputs, audit = Signing(), Audit()
    async with make_house(parts=signing(outputs, audit), signed_url_seconds=300, manifest_files=1) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient,Observation&allowPartialManifests=true")
        await house.runner.finish()
        first = (await house.ask("GET", location)).json()
        second = (await house.ask("GET", first["link"][0]["url"])).json()
        assert [first["requiresAccessToken"], second["requiresAccessToken"]] == [False, False]
        assert [len(event.file_ids) for event in audit.signed] == [1, 1]
        assert len({*audit.signed[0].file_ids, *audit.signed[1].file_ids}) == 2


@pytest.mark.parametrize("able", [True, False])
async def test_an_output_store_that_cannot_sign_is_told_at_start(make_house: Any, able: bool) -> None:
    """Law 43."""
    cannot = Signing()
    cannot.able = False
    outputs = MemoryOutputStore() if able else cannot
    with pytest.raises(TypeError, match="cannot sign URLs"):
        async with make_house(parts={"outputs": outputs}, signed_url_seconds=300):
            pass


async def test_a_kick_off_and_its_progress_are_as_ever(make_house: Any) -> None:
    async with make_house(parts=signing(Signing()), signed_url_seconds=300) as house:
        await populate(house)
        answer = await house.ask("GET", "/$export", headers=KICK_OFF)
        assert answer.status_code == 202
        assert (await house.ask("GET", answer.headers["Content-Location"])).status_code == 202
        assert isinstance(house, House)
