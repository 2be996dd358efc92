"""The command line of the generator."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import fhir_bulk_middleware.fhir
from fhir_bulk_middleware.fhir.version import FhirVersion

from .tables import table, write

_DATA = Path(fhir_bulk_middleware.fhir.__file__).parent / "data"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table of each release for which a package is given."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fhir.generate", description="Write the definition tables from HL7's packages."
    )
    for version in FhirVersion:
        parser.add_argument(f"--{version.name.lower()}", type=Path, metavar="DIR", help=f"unpacked package of {version}")
    parser.add_argument("--output", type=Path, default=_DATA, metavar="DIR")
    options = parser.parse_args(arguments)
    for version in FhirVersion:
        folder: Path | None = getattr(options, version.name.lower())
        if folder is not None:
            write(table(folder, version), options.output / f"{version.name.lower()}.json.gz")


if __name__ == "__main__":
    main()
