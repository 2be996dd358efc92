"""`fhir-bulk check`: reads the user's data through an adapter, and says which promises hold."""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping

import anyio

from fhir_bulk_middleware.checks.bounds import Bounds
from fhir_bulk_middleware.checks.factory import released
from fhir_bulk_middleware.checks.finding import Finding, Outcome, Remark
from fhir_bulk_middleware.checks.offering import Offering
from fhir_bulk_middleware.checks.report import Report, client, report
from fhir_bulk_middleware.cli.adapter_option import add_adapter, chosen_adapter
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.demo.show import Screen, screen
from fhir_bulk_middleware.fhir.version import FhirVersion

__all__ = ["add_options"]

_WIDE = max(map(len, Outcome))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    bounds = Bounds()
    add_adapter(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--types", metavar="A,B", help="read these types only (default: all that authorise allows)")
    parser.add_argument(
        "--resources", type=_positive, default=bounds.resources, metavar="N", help="a single read takes N resources (%(default)s)"
    )
    parser.add_argument(
        "--patients", type=_positive, default=bounds.patients, metavar="N", help="read N patients' compartments (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=_positive, default=bounds.seconds, metavar="S", help="stop after S seconds (default: %(default)g)"
    )
    parser.add_argument(
        "--turn",
        type=_positive,
        default=bounds.turn * 1000,
        metavar="MS",
        help="a method may hold the server's event loop for MS milliseconds (default: %(default)g)",
    )
    parser.add_argument("--group", action="append", default=[], metavar="ID", help="a group whose members are read; repeatable")
    parser.add_argument("--base-url", action="append", default=[], metavar="URL", help="references below it are the server's own")
    parser.add_argument("--claims", metavar="JSON", help="claims of the client's token, as a JSON object, for authorise")
    parser.add_argument(
        "--fhir-version", choices=[version.name for version in FhirVersion], default="R4", help="release (default: %(default)s)"
    )
    parser.set_defaults(run=_run)


def _positive(text: str) -> float:
    number = float(text) if "." in text else int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("a positive number is required")
    return number


def _run(given: argparse.Namespace) -> int:
    bounds = Bounds(
        resources=int(given.resources),
        patients=int(given.patients),
        seconds=given.seconds,
        turn=given.turn / 1000,
        types=None if given.types is None else frozenset(given.types.split(",")),
        groups=tuple(given.group),
    )
    principal = client(_claims(given.claims))

    async def run() -> Report:
        async with released(chosen_adapter(given)) as adapter:
            version = FhirVersion[given.fhir_version]
            return await report(adapter, bounds, principal, version=version, base_urls=given.base_url)

    made = anyio.run(run)
    if given.json:
        print(json.dumps(made.as_json(), indent=2))
    else:
        _show(made, screen())
    return int(made.number(Outcome.FAIL) > 0)


def _claims(text: str | None) -> Mapping[str, object]:
    try:
        claims = json.loads(text or "{}")
    except ValueError as error:
        raise Complaint(f"--claims: not JSON: {error}") from error
    if not isinstance(claims, dict):
        raise Complaint("--claims: a JSON object is required")
    return claims


def _show(made: Report, out: Screen) -> None:
    if made.offering is not None:
        _show_offering(made.adapter, made.offering, out)
    out.say("Checks")
    alike: defaultdict[tuple[Remark, ...], list[str]] = defaultdict(list)
    for finding in made.findings:
        if finding.outcome is Outcome.NOT_CHECKED:
            alike[() if finding.lacks else finding.gaps].append(finding.check)
        else:
            _show_finding(finding, out)
    for gaps, checks in alike.items():
        why = "" if gaps else ": these need protocols that the adapter does not implement"
        out.say(f"{Outcome.NOT_CHECKED:<{_WIDE}}  {', '.join(checks)}{why}")
        for remark in gaps:
            _show_remark("", remark, out)
    out.say()
    if made.costs:
        rows = [
            (cost.method, f"{cost.calls:,}", f"{cost.median:.2f}", f"{cost.longest:.2f}", f"{cost.turn:.2f}")
            for cost in made.costs
        ]
        total = ("all", f"{sum(cost.calls for cost in made.costs):,}", "", "", "")
        out.say("Costs; pages and deletions are counted page by page, a turn is the time for which a call holds its thread")
        out.table(("method", "calls", "median ms", "longest ms", "turn ms"), [*rows, total])
    out.say("\n" + ", ".join(f"{made.number(outcome)} {outcome.value.lower()}" for outcome in Outcome) + ".")


def _show_offering(adapter: str, offered: Offering, out: Screen) -> None:
    out.say(f"{adapter} implements")
    for name, what in offered.implemented.items():
        out.say(f"  {name}: {what}.")
    if offered.missing:
        out.say("It does not implement")
    for name, what in offered.missing.items():
        out.say(f"  {name}: {what}.")
    out.say("Routes")
    for path, methods in offered.routes.items():
        out.say(f"  {' '.join(methods):<10} {path}")
    out.say("Promises")
    out.say(f"  {offered.promises}")
    for note in offered.notes:
        out.say(f"  {note}")
    out.say(f"  {offered.place}\n")


def _show_finding(finding: Finding, out: Screen) -> None:
    seen = f" ({finding.seen})" if finding.seen else ""
    out.say(f"{finding.outcome.value:<{_WIDE}}  {finding.check}: {finding.promise}{seen}")
    for remark in finding.faults:
        _show_remark("", remark, out)
    for remark in finding.gaps:
        _show_remark("not checked: ", remark, out)


def _show_remark(before: str, remark: Remark, out: Screen) -> None:
    out.say(f"{'':{_WIDE}}  {before}{remark.what}")
    if remark.do:
        out.say(f"{'':{_WIDE}}    {remark.do}")
