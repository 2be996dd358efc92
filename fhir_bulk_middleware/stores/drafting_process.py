"""A helper process of a load: `python -m fhir_bulk_middleware.stores.drafting_process`.

It gets tasks on stdin: the release and the base URLs, then batches of lines. It answers each batch on stdout with the drafts, or
with number and problem of a malformed line. It ends when stdin closes, so it never outlives the process that loads.
"""

import gc
import signal
import sys
from contextlib import suppress

from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.drafting import MalformedLine, Packed, drafts_of, indexes_of, packed, receive, send

__all__ = ["main"]


def main() -> None:
    """Answer tasks until stdin closes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of stdin ends it, and a service manager sends SIGTERM to all
    gc.disable()  # parsed resources have no cycles, and looking for some costs a tenth of the time
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        version, base_urls = receive(tasks)
        indexes = indexes_of(FhirVersion(version), base_urls)
        while True:
            batch = receive(tasks)
            try:
                answer: Packed | tuple[int, str] = packed(drafts_of(batch, *indexes))
            except MalformedLine as error:
                answer = error.number, error.problem
            send(answers, answer)


if __name__ == "__main__":
    main()
