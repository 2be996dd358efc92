"""The mount's part of a CapabilityStatement (CS-01 to CS-10)."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.discovery.documentation import of_mount, of_operation
from fhir_bulk_middleware.discovery.limits import mark
from fhir_bulk_middleware.discovery.merging import merged
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.operation_definitions import CANONICAL
from fhir_bulk_middleware.fhir.definitions import definitions

__all__ = ["Capability"]

_INSTANTIATES = "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_SECURITY_SERVICE = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_RESOURCE_OF = {Level.PATIENT: "Patient", Level.GROUP: "Group"}
_ONE = re.compile(r"/\{\w+\}/\{\w+\}", re.ASCII)
_MATCHING = re.compile(r"/\{\w+\}", re.ASCII)


class Capability:
    """The part of a CapabilityStatement that describes this mount.

    Args:
        offer: what the mount offers.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    def fragment(self) -> dict[str, Any]:
        """A CapabilityStatement with the mount's part only; it is not valid by itself."""
        return deepcopy(self._fragment)

    def amend(self, capability_statement: Mapping[str, Any]) -> dict[str, Any]:
        """The host's CapabilityStatement with the mount's part merged into it; idempotent. Nothing of the host's is lost.

        Raises:
            ValueError: the argument is not a CapabilityStatement.
        """
        try:
            statement = merged(capability_statement, self._fragment, self._deletes)
            self._mark(statement)
        except (AttributeError, TypeError) as error:
            raise ValueError("not a sound CapabilityStatement") from error
        return statement

    @cached_property
    def _fragment(self) -> dict[str, Any]:
        rest: dict[str, Any] = {"mode": "server", "documentation": of_mount(self._offer)}
        if security := self._security():
            rest["security"] = security
        if resources := list(self._resources()):
            rest["resource"] = resources
        if Level.SYSTEM in self._offer.kick_off:
            rest["operation"] = [self._operation(Level.SYSTEM)]
        return {"resourceType": "CapabilityStatement", "instantiates": [_INSTANTIATES], "rest": [rest]}

    def _operation(self, level: Level) -> dict[str, Any]:
        """The entry of an operation; its documentation links to our OperationDefinition (CS-03 to CS-05)."""
        return {"name": "export", "definition": CANONICAL[level], "documentation": of_operation(self._offer, level)}

    def _security(self) -> dict[str, Any]:
        smart = self._offer.settings.smart
        if smart is None:
            return {}
        security: dict[str, Any] = {"service": [{"coding": [{"system": _SECURITY_SERVICE, "code": "SMART-on-FHIR"}]}]}
        if smart.authorization_endpoint is not None:  # the extension is invalid without it; clients read SMART_PATH instead
            uris = {"token": smart.token_endpoint, "authorize": smart.authorization_endpoint}
            extension = [{"url": name, "valueUri": uri} for name, uri in uris.items()]
            security["extension"] = [{"url": _OAUTH_URIS, "extension": extension}]
        return security

    def _resources(self) -> Iterator[dict[str, Any]]:
        operations = {type_: [self._operation(level)] for level, type_ in _RESOURCE_OF.items() if level in self._offer.kick_off}
        for type_ in sorted(self._offer.types | operations.keys()):
            resource: dict[str, Any] = {"type": type_}
            if type_ in self._offer.types:
                resource |= deepcopy(self._deletes)
                if parameters := self._search_parameters(type_):
                    resource["searchParam"] = parameters
            if type_ in operations:
                resource["operation"] = operations[type_]
            yield resource

    def _mark(self, statement: Mapping[str, Any]) -> None:
        """Mark types and parameters that exports do not support, if the storage names its types (CS-07)."""
        if not self._offer.types:
            return
        usable = {
            resource["type"]: frozenset(parameter["name"] for parameter in resource.get("searchParam", ()))
            for resource in self._fragment["rest"][0]["resource"]
            if resource["type"] in self._offer.types
        }
        server = next(rest for rest in statement["rest"] if rest.get("mode") == "server")
        for resource in server["resource"]:
            mark(resource, usable.get(resource.get("type")), _INSTANTIATES)

    def _search_parameters(self, type_: str) -> list[dict[str, str]]:
        """The search parameters that `_typeFilter` supports on the type (CS-06).

        The host's own search may not support them, so the documentation of each says that it is for `_typeFilter`.
        """
        version = definitions(self._offer.version)
        filters = any("_typeFilter" in (given.name for given in self._offer.parameters(level)) for level in self._offer.kick_off)
        if not filters or type_ not in version.resource_types:
            return []
        return [
            {"name": name, "type": parameter.type, "documentation": "In `_typeFilter` of an export."}
            for name, parameter in sorted(version.parameters(type_).items())
            if parameter.unsupported is None
        ]

    @cached_property
    def _deletes(self) -> dict[str, Any]:
        """The members that describe the mount's DELETE routes, for each entry of `rest.resource`."""
        paths = [row.path for row in self._offer.rows if row.method == "DELETE"]
        said: dict[str, Any] = {}
        if any(map(_ONE.fullmatch, paths)):
            said["interaction"] = [{"code": "delete"}]
        if any(map(_MATCHING.fullmatch, paths)):
            said["conditionalDelete"] = "multiple" if self._offer.remove_alls else "single"
        return said
