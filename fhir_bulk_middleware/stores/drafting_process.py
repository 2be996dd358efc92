"""A helper process of a load: `python -m fhir_bulk_middleware.stores.drafting_process`.

It gets pickled tasks on stdin: the arguments of `indexes_of`, then batches of lines. It answers each batch on stdout with the
drafts or a `MalformedLine`. It ends when stdin closes, so it never outlives the process that loads.
"""

import pickle
import signal
import sys
from contextlib import suppress

from fhir_bulk_middleware.stores.drafting import Line, MalformedLine, Packed, drafts_of, indexes_of, packed

__all__ = ["main"]


def main() -> None:
    """Answer tasks until stdin closes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of stdin ends it, and a service manager sends SIGTERM to all
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        version, base_urls = pickle.load(tasks)  # noqa: S301 - from the process that started this one
        indexes = indexes_of(version, base_urls)
        while True:
            batch: list[Line] = pickle.load(tasks)  # noqa: S301 - as above
            try:
                answer: Packed | MalformedLine = packed(drafts_of(batch, *indexes))
            except MalformedLine as error:
                answer = error
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    main()
