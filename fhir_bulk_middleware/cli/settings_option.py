"""`--set NAME=VALUE`: an option for each field of `Settings` with a textual value. The environment has all fields."""

import argparse
import re
import textwrap
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fhir_bulk_middleware import environment
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.settings import Settings

__all__ = ["add_to", "none_with_app", "settings_of"]

_WIDTH: Final = 100
_HEAD: Final = (
    "settings (durations in seconds, sizes in bytes); each is also read from the environment, as FHIR_BULK_ and its name in\n"
    "capitals, where the command line takes precedence:"
)
_SOURCE = re.compile(r"\s*\((?:laws? \d|[A-Z]{2}-\d)[^)]*\)")
"""Citations of laws and requirements in descriptions, which the help omits."""


def add_to(parser: argparse.ArgumentParser, own: Mapping[str, str] | None = None, *, with_dir: bool = False) -> None:
    """Add the option to a command, and all settings with meaning and default to its help.

    Args:
        parser: the command's parser.
        own: settings with an option of their own: name to option.
        with_dir: whether the command takes a STATE folder or `--app`, which has the settings of the host.
    """
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help=f"{'with --dir, ' if with_dir else ''}change a setting from the list below (repeatable)"
        + ("; with --app your host gives the settings" if with_dir else ""),
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{_HEAD}\n" + "\n".join(
        _described(name, field) for name, field in _settable().items() if name not in (own or {})
    )


def settings_of(
    given: argparse.Namespace,
    own: Mapping[str, tuple[str, object]] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a command line and of the environment, over which the command line takes precedence.

    Args:
        given: the parsed command line.
        own: settings with an option of their own: name to option and value; a None value is ignored.
        defaults: the command's own defaults, over which the environment takes precedence.

    Raises:
        Complaint: a setting is unknown, repeated, or has an invalid value.
    """
    options = own or {}
    texts = {name: str(value) for name, (_, value) in options.items() if value is not None}
    for text in given.settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise Complaint(f"--set {text}: NAME=VALUE is required")
        if name in options:
            raise Complaint(f"--set {name}: use {options[name][0]}")
        if name not in _settable():
            raise Complaint(f"--set {name}: unknown setting; the settings are {', '.join(_settable())}")
        if name in texts:
            raise Complaint(f"--set {name}: give it once")
        texts[name] = value
    try:
        read = environment.values({name: field for name, field in Settings.model_fields.items() if name not in texts})
        return Settings.model_validate_strings({**(defaults or {}), **read, **texts})
    except ValidationError as error:
        names = {name: options[name][0] if name in options else f"--set {name}" for name in texts}
        raise Complaint(environment.fault(error, names)) from error
    except ValueError as error:
        raise Complaint(str(error)) from error


def none_with_app(given: argparse.Namespace) -> None:
    """Refuse `--set` beside `--app`, since a host's own BulkData has its settings.

    Raises:
        Complaint: there is one.
    """
    if given.settings:
        raise Complaint(f"--set {given.settings[0].partition('=')[0]}: only with --dir; with --app your host gives the settings")


def _settable() -> dict[str, FieldInfo]:
    """The fields with textual values."""
    return {name: field for name, field in Settings.model_fields.items() if not environment.nested(field)}


def _described(name: str, field: FieldInfo) -> str:
    meaning = " ".join(_SOURCE.sub("", field.description or "").split())
    lines = textwrap.wrap(f"{meaning} (default: {_text(field.default)})", _WIDTH - 6)
    return "\n".join([f"  {name}", *(f"      {line}" for line in lines)])


def _text(default: object) -> str:
    match default:
        case None:
            return "none"
        case bool():
            return str(default).lower()
        case float() if default.is_integer():
            return str(int(default))
    return str(default)
