"""Unauthenticated endpoints for the discovery documents, which have no patient data."""

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.operation_definitions import definition, definition_path
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.guard import Open
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.routes import Row
from fhir_bulk_middleware.outcomes import Operation
from fhir_bulk_middleware.smart.configuration import SMART_PATH, SmartConfiguration

__all__ = ["discovery_rows", "smart_endpoint"]


def discovery_rows(offer: Offer, addresses: Addresses, replies: Replies) -> tuple[Row, ...]:
    """The route rows of the OperationDefinitions, and of the SMART configuration if it is set."""
    rows = [
        Row("GET", definition_path(level), Operation.DISCOVERY, Open(_Definition(offer, level, addresses, replies)))
        for level in offer.kick_off
    ]
    if offer.settings.smart is not None:
        rows.append(Row("GET", SMART_PATH, Operation.DISCOVERY, smart_endpoint(offer.settings.smart, replies)))
    return tuple(rows)


def smart_endpoint(configuration: SmartConfiguration, replies: Replies) -> Open:
    """The endpoint of the SMART configuration; it answers with JSON for any `Accept` (SE-20)."""

    async def show(_: Request) -> Response:
        return replies.document(configuration.document(), "application/json")

    return Open(show)


class _Definition:
    """The endpoint of one OperationDefinition."""

    def __init__(self, offer: Offer, level: Level, addresses: Addresses, replies: Replies) -> None:
        self._offer = offer
        self._level = level
        self._addresses = addresses
        self._replies = replies

    async def __call__(self, request: Request) -> Response:
        resource = definition(self._offer, self._level, self._addresses.base(request))
        return self._replies.document(resource, "application/fhir+json")
