"""`python -m tests.mutants`: puts deliberate bugs into a copy of the package, one at a time; the tests must catch each.

Prints a line for each mutant and exits with 1 if one survives. Before that, the tests must pass on the copy without a bug.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .mutation import Mutant, Verdict, copied, mutated, run
from .table import MUTANTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", action="append", metavar="TEXT", help="mutants whose name contains TEXT (repeatable)")
    parser.add_argument("--list", action="store_true", help="print the table and run nothing")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a bug first")
    parser.add_argument("--verbose", action="store_true", help="print what the tests of survivors said")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not given.only or any(text in mutant.name for text in given.only)]
    if given.list:
        for mutant in chosen:
            sys.stdout.write(f"{mutant.name}: {mutant.breaks} ({mutant.file})\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="fhir-bulk-mutants-") as folder, copied(Path(folder)) as place:
        if not given.no_baseline and not _sound(place, chosen):
            return 1
        verdicts = [_judge(place, mutant, verbose=given.verbose) for mutant in chosen]
    caught = sum(verdict is Verdict.CAUGHT for verdict in verdicts)
    sys.stdout.write(f"{caught} of {len(verdicts)} mutants caught\n")
    return 0 if caught == len(verdicts) else 1


def _sound(place: Path, chosen: list[Mutant]) -> bool:
    """Whether the tests pass where there is no bug: else a failure would prove nothing."""
    outcome = run(place, sorted({test for mutant in chosen for test in mutant.tests}))
    if outcome.verdict is not Verdict.SURVIVED:
        sys.stdout.write(f"the tests fail without a mutant:\n{outcome.tail}\n")
    return outcome.verdict is Verdict.SURVIVED


def _judge(place: Path, mutant: Mutant, *, verbose: bool) -> Verdict:
    begun = time.monotonic()
    with mutated(place, mutant):
        outcome = run(place, mutant.tests)
    sys.stdout.write(f"{outcome.verdict}: {mutant.name} ({mutant.breaks}), {time.monotonic() - begun:.0f} s\n")
    if outcome.verdict is Verdict.UNFIT or (verbose and outcome.verdict is Verdict.SURVIVED):
        sys.stdout.write(outcome.tail + "\n")
    sys.stdout.flush()
    return outcome.verdict


if __name__ == "__main__":
    sys.exit(main())
