"""`python -m fhir_bulk_middleware.cli` is `fhir-bulk`."""

import sys

from fhir_bulk_middleware.cli import main

sys.exit(main())
