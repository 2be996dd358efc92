"""The conformance kit on the smallest host: `pytest smallest/test_kit.py` in the folder above."""

import json

import pytest

from fhir_bulk_middleware import Instant, system_clock
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
from fhir_bulk_middleware.testing.samples import Samples
from smallest.server import Shelf


class Desk:
    """Writes as the server's own routes would."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    async def put(self, *resources: str) -> None:
        """Keep these resources, JSON texts, at one instant that is later than all before."""
        now = Instant(max([system_clock(), *(changed + 1 for changed, _ in self.shelf.values())]))
        contents = map(json.loads, resources)
        self.shelf.update({f"{content['resourceType']}/{content['id']}": (now, content) for content in contents})

    async def delete(self, type_: str, id_: str) -> None:
        """Remove a resource."""
        del self.shelf[f"{type_}/{id_}"]


class TwoTypes(Samples):
    """What the dict holds: patients and observations."""

    outside_type = None
    types = frozenset({"Observation"})

    def outside(self, _: str) -> None:
        """There is nothing outside of a patient's compartment."""

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str:
        """An observation that names a patient as `subject`, or in the list `performer`."""
        link = {"reference": reference}
        return json.dumps({"resourceType": type_, "id": id_, path: [link] if path == "performer" else link})


class TestSmallest(ResourceStoreSuite):
    """Every promise that two methods can keep; the tests of other protocols are skipped."""

    @pytest.fixture
    def store(self) -> Shelf:
        """An empty adapter."""
        return Shelf()

    @pytest.fixture
    def writer(self, store: Shelf) -> Desk:
        """What changes its storage."""
        return Desk(store)

    @pytest.fixture
    def samples(self) -> Samples:
        """What can be written to it."""
        return TwoTypes()
