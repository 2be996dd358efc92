"""`python -m tests.chaos --rounds 200 --seed 7`: real processes, real trouble, and the laws that must hold.

Prints the rounds, the violations (which must be none) and how to repeat them. `--first 31 --rounds 1` repeats round 31 of a seed:
the same exports and the same disturbances, though the machine decides at which instruction they strike.
"""

import argparse
import asyncio
import logging
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("chaos", "support", "."))

from chaos_rounds import chaos
from chaos_sites import SITES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--on", choices=SITES, default="sqlite", help="SQLite and a folder, or PostgreSQL, S3 and workers")
    parser.add_argument("--seed", default=None, help="what happens; by default something new")
    parser.add_argument("--quiet", action="store_true", help="tell violations only")
    given = parser.parse_args()
    seed = given.seed or secrets.token_hex(4)

    def say(text: str) -> None:
        if not given.quiet or "(" in text:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    logging.getLogger("fhir_bulk_middleware").addHandler(logging.NullHandler())  # the runner's own part in it is no news
    folder = Path(tempfile.mkdtemp(prefix="fhir-bulk-chaos-"))
    signal.signal(signal.SIGTERM, _asked_to_stop)
    begun = time.monotonic()
    rounds = range(given.first, given.first + given.rounds)
    report = asyncio.run(chaos(folder / "state", seed, rounds, on=given.on, say=say))
    sys.stdout.write(
        f"rounds: {report.rounds} in {time.monotonic() - begun:.0f} s\n"
        f"disturbances: {dict(sorted(report.disturbances.items()))}\n"
        f"blows while an export was at work: {report.struck}\n"
        f"files that were linked to those of an earlier export: {report.linked}\n"
        f"exports: {dict(sorted(report.outcomes.items()))}; answers 503 with Retry-After: {report.busy}\n"
        f"violations: {len(report.violations)}\n"
        f"seed: {seed} (state and log: {folder})\n"
    )
    return 1 if report.violations else 0


def _asked_to_stop(number: int, _: object) -> None:
    """End as on Ctrl-C: with everything that was started."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
