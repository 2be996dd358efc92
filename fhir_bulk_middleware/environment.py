"""Reads the settings from environment variables: `FHIR_BULK_` and the name of the setting in capitals.

Two underscores lead into a nested setting (`FHIR_BULK_SMART__TOKEN_ENDPOINT`), whose lists are JSON arrays; the nested setting as
a whole is a JSON object (`FHIR_BULK_SMART`). A variable that is empty counts as not set.

The audit key is a secret, so it has two variables: `FHIR_BULK_AUDIT_KEY` holds the key itself, and `FHIR_BULK_AUDIT_KEY_FILE` the
path of its file.
"""

import difflib
import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

__all__ = ["DATABASE", "OUTPUTS", "PREFIX", "audit_key", "fault", "nested", "values"]

_log = logging.getLogger("fhir_bulk_middleware")

PREFIX: Final = "FHIR_BULK_"
"""What the names of the variables begin with."""

DATABASE: Final = f"{PREFIX}DATABASE"
"""The DSN that commands use in place of the databases of a STATE folder; no setting."""

OUTPUTS: Final = f"{PREFIX}OUTPUTS"
"""The URL of the storage that commands use in place of the files of a STATE folder; no setting."""

_AUDIT_KEY: Final = f"{PREFIX}AUDIT_KEY"
_AUDIT_KEY_FILE: Final = f"{_AUDIT_KEY}_FILE"
_NO_SETTINGS: Final = frozenset({_AUDIT_KEY, _AUDIT_KEY_FILE, DATABASE, OUTPUTS})
_INTO: Final = "__"


def values(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The values that the environment gives to the fields of a model, as text or as parsed JSON; not yet validated.

    A variable with our prefix that belongs to no field is a warning and no error: an orchestrator adds variables of its own, such
    as `FHIR_BULK_SERVICE_HOST` for a service that is called `fhir-bulk`.

    Raises:
        ValueError: a variable cannot be read. The message names it and does not quote its value.
    """
    found: dict[str, Any] = {}
    names = {variable(name): name for name in fields if name != "audit_key"}
    unknown = []
    for name, text in sorted(os.environ.items()):
        if not name.startswith(PREFIX) or not text or name in _NO_SETTINGS:
            continue
        outer, into, inner = name.partition(_INTO)
        field = names.get(outer)
        if field is None or bool(into) > nested(fields[field]):
            unknown.append(name)
        elif into:
            found.setdefault(field, {})[inner.lower()] = _parsed(name, text) if text.startswith("[") else text
        else:
            found[field] = _parsed(name, text) if nested(fields[field]) else text
    _warn_of(unknown, names)
    key = audit_key()
    return found if key is None else found | {"audit_key": key}


def variable(*place: str | int) -> str:
    """The variable of a setting, or of a value within a nested one."""
    return PREFIX + _INTO.join(str(name).upper() for name in place[:2])


def nested(field: FieldInfo) -> bool:
    """Whether the values of a field are models, which have fields of their own."""
    return any(isinstance(each, type) and issubclass(each, BaseModel) for each in getattr(field.annotation, "__args__", ()))


def fault(error: ValidationError, given: Mapping[str, object]) -> str:
    """The first fault of settings as one sentence, which names the variable, and quotes no value because it may be a secret.

    Args:
        error: what pydantic raised.
        given: the settings that do not come from the environment, with the names that they have where they come from.
    """
    (first, *_) = error.errors(include_url=False, include_input=False)
    place = first["loc"]
    said = first["msg"].removeprefix("Value error, ")
    if not place:
        return f"the settings do not fit together: {said}"
    return f"{given.get(str(place[0])) or variable(*place)}: {said}"


def audit_key() -> str | None:
    """The place of the audit key as `Settings.audit_key` names it; None if the environment does not say.

    Raises:
        ValueError: both variables are set, or a path is where the key belongs.
    """
    key, file = os.environ.get(_AUDIT_KEY), os.environ.get(_AUDIT_KEY_FILE)
    if not key:
        return file or None
    if file:
        raise ValueError(f"{_AUDIT_KEY} and {_AUDIT_KEY_FILE} are both set: keep the one that names the key in use")
    if key.startswith(("/", "env:")):
        raise ValueError(f"{_AUDIT_KEY} must be the key itself; the path of its file belongs into {_AUDIT_KEY_FILE}")
    return f"env:{_AUDIT_KEY}"


def _parsed(name: str, text: str) -> Any:
    with suppress(ValueError):
        return json.loads(text)
    raise ValueError(f"{name}: this is not JSON, which a list and a setting with values of its own must be")


def _warn_of(unknown: Sequence[str], known: Collection[str]) -> None:
    for name in unknown:
        alike = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        _log.warning("%s is set, and there is no such setting%s", name, f"; did you mean {alike[0]}?" if alike else "")
