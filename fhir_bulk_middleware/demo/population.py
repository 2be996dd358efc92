"""A synthetic FHIR R4 population as canonical NDJSON lines; equal seeds give equal bytes.

The proportions are those of real sample data: half of the resources are observations, a third of the bytes are explanations of
benefit. It includes hard cases for exporters: each JSON escape, text beyond ASCII, decimals with a trailing zero, patients
without other resources, and observations in the compartments of two patients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from random import Random
from typing import TypeVar

from fhir_bulk_middleware.demo import forms
from fhir_bulk_middleware.demo import vocabulary as words

__all__ = ["EVERYONE", "EVERY_TENTH", "large", "population", "small"]

EVERYONE = "everyone"
"""The id of the group of all patients."""

EVERY_TENTH = "every-tenth"
"""The id of the group of patients number 0, 10, 20 and so on."""

T = TypeVar("T")

_EMPTY = 25
"""One of this number of patients has no other resources."""

_LINKED = 20
"""One of this number of patients has a link to another patient."""

# Probabilities.
_MALE = 0.5
_DIAGNOSED = 0.4
_PRESCRIBED = 0.4
_NOTED = 0.12
_BY_RELATIVE = 0.02
_BLOOD_PRESSURE = 0.2

_PATIENTS_PER_ORGANIZATION = 500
_PRACTITIONERS_PER_ORGANIZATION = 4


def population(patients: int = 200, seed: int = 0) -> Iterator[bytes]:
    """All resources of a population, one line each: about 70 per patient, of 1.4 kB on average.

    All references resolve, and targets come first, except relatives and the members of groups. Memory use is constant, except for
    the last two lines, which are groups with all their members.

    Args:
        patients: number of patients.
        seed: selects the population. A larger population has the same patients and more.

    Yields:
        UTF-8 lines, each one compact JSON object that begins with `{"resourceType":"` and ends with a newline.
    """
    organizations = 1 + patients // _PATIENTS_PER_ORGANIZATION
    for number in range(organizations):
        yield _organization(seed, number)
    for number in range(organizations * _PRACTITIONERS_PER_ORGANIZATION):
        yield _practitioner(seed, number)
    for number in range(patients):
        yield from _records(_Person.of(seed, number, patients, organizations))
    yield _group(seed, EVERYONE, b"Everyone", range(patients))
    yield _group(seed, EVERY_TENTH, b"Every tenth patient", range(0, patients, 10))


def small(count: int) -> Iterator[bytes]:
    """Observations of about 150 bytes, all of one patient, for a maximum of lines per byte."""
    for number in range(count):
        yield (
            b'{"resourceType":"Observation","id":"s%d","status":"final","code":{"text":"small"},'
            b'"subject":{"reference":"Patient/1"},"valueInteger":%d}\n' % (number, number)
        )


def large(count: int, size: int = 1024 * 1024) -> Iterator[bytes]:
    """Binaries of about this size, which are larger than a page, so that each has a page of its own."""
    for number in range(count):
        data = blake2b(b"%d" % number, digest_size=48).hexdigest().encode() * (size // 96)  # a multiple of four, as base64 is
        yield b'{"resourceType":"Binary","id":"l%d","contentType":"text/plain","data":"%b"}\n' % (number, data)


@dataclass(frozen=True, slots=True)
class _Person:
    """A patient with practitioner and organization."""

    id: bytes
    number: int
    random: Random
    relative: bytes
    practitioner: bytes
    organization: bytes

    @classmethod
    def of(cls, seed: int, number: int, patients: int, organizations: int) -> "_Person":
        id_ = _identity(seed, b"Patient", number)
        # Seeded by the id, so that a person is the same in populations of any size.
        random = Random(int(id_[:8], 16) << 32 | number)
        practitioner = int(random.random() * organizations * _PRACTITIONERS_PER_ORGANIZATION)
        return cls(
            id=id_,
            number=number,
            random=random,
            relative=_identity(seed, b"Patient", (number + 1) % patients),
            practitioner=_identity(seed, b"Practitioner", practitioner),
            organization=_identity(seed, b"Organization", practitioner // _PRACTITIONERS_PER_ORGANIZATION),
        )


def _records(person: _Person) -> Iterator[bytes]:
    """The patient and all resources about the patient."""
    random = person.random.random
    male = random() < _MALE
    given = _pick(random(), words.MALE if male else words.FEMALE)
    family = _pick(random(), words.FAMILIES)
    born = int(1930 + random() * 85)
    yield forms.PATIENT % {
        b"id": person.id,
        b"number": person.number,
        b"given": given,
        b"family": family,
        b"born": _day(random(), born),
        b"sex": b"M" if male else b"F",
        b"gender": b"male" if male else b"female",
        b"city": _pick(random(), words.CITIES),
        b"years": int(random() * 80),
        b"part": int(random() * 100),
        b"house": 1 + int(random() * 9998),
        b"link": forms.LINK % person.relative if person.number % _LINKED == 0 else b"",
        b"practitioner": person.practitioner,
        b"organization": person.organization,
    }
    if person.number % _EMPTY == _EMPTY - 1:
        return
    for _ in range(6 + int(random() * 10)):
        yield from _visit(person, given + b" " + family, int(born + random() * (2026 - born)))


def _visit(person: _Person, name: bytes, year: int) -> Iterator[bytes]:
    """One encounter and the resources that belong to it."""
    random = person.random.random
    new_id = partial(_random_identity, person.random)
    encounter = new_id()
    code, display = _pick(random(), words.VISITS)
    facts = {
        b"patient": person.id,
        b"name": name,
        b"practitioner": person.practitioner,
        b"organization": person.organization,
        b"encounter": encounter,
        b"day": _day(random(), year),
        b"hour": 8 + int(random() * 10),
        b"city": _pick(random(), words.CITIES),
    }
    yield forms.ENCOUNTER % (facts | {b"id": encounter, b"code": code, b"display": display})
    if random() < _DIAGNOSED:
        yield _coded(forms.CONDITION, _pick(random(), words.DIAGNOSES), facts, person, new_id())
    for _ in range(int(random() * 9)):
        yield _observation(facts, person, new_id())
    if random() < _PRESCRIBED:
        yield _coded(forms.MEDICATION_REQUEST, _pick(random(), words.DRUGS), facts, person, new_id())
    yield _explanation(facts, person, new_id())


def _coded(form: bytes, coding: tuple[bytes, bytes], facts: dict[bytes, object], person: _Person, id_: bytes) -> bytes:
    code, display = coding
    return form % (facts | {b"id": id_, b"code": code, b"display": display, b"note": _note(facts, person)})


def _observation(facts: dict[bytes, object], person: _Person, id_: bytes) -> bytes:
    random = person.random.random
    by_relative = random() < _BY_RELATIVE
    facts = facts | {
        b"id": id_,
        b"performer": forms.PERFORMER % (person.practitioner, person.relative) if by_relative else b"",
        b"note": _note(facts, person),
    }
    if random() < _BLOOD_PRESSURE:
        low = 60 + int(random() * 35)
        return forms.BLOOD_PRESSURE % (facts | {b"low": low, b"high": low + 30 + int(random() * 40)})
    what = _pick(random(), words.MEASUREMENTS)
    whole, part = divmod(what.low + int(random() * (what.high - what.low)), 100)
    return forms.OBSERVATION % (
        facts
        | {
            b"code": what.code,
            b"display": what.display,
            b"category": what.category,
            b"unit": what.unit,
            b"whole": whole,
            b"part": part,
        }
    )


def _explanation(facts: dict[bytes, object], person: _Person, id_: bytes) -> bytes:
    random = person.random.random
    facts = facts | {b"id": id_, b"whole": 40 + int(random() * 900), b"part": int(random() * 100)}
    items = []
    for sequence in range(1, 2 + int(random() * 4)):
        code, display = _pick(random(), words.SERVICES)
        items.append(forms.EXPLANATION_ITEM % (facts | {b"sequence": sequence, b"code": code, b"display": display}))
    return forms.EXPLANATION % (facts | {b"items": b",".join(items)})


def _note(facts: dict[bytes, object], person: _Person) -> bytes:
    random = person.random.random
    return forms.NOTE % (facts[b"day"], _pick(random(), words.NOTES)) if random() < _NOTED else b""


def _organization(seed: int, number: int) -> bytes:
    return forms.ORGANIZATION % {
        b"id": _identity(seed, b"Organization", number),
        b"number": 1000 + number,
        b"city": words.CITIES[number % len(words.CITIES)],
        b"phone": number % 100,
        b"house": 1 + number,
    }


def _practitioner(seed: int, number: int) -> bytes:
    male = number % 2 == 0
    given = words.MALE if male else words.FEMALE
    return forms.PRACTITIONER % {
        b"id": _identity(seed, b"Practitioner", number),
        b"number": 100_000 + number,
        b"family": words.FAMILIES[number * 7 % len(words.FAMILIES)],
        b"given": given[number * 5 % len(given)],
        b"gender": b"male" if male else b"female",
    }


def _group(seed: int, id_: str, name: bytes, numbers: range) -> bytes:
    members = b",".join(forms.MEMBER % _identity(seed, b"Patient", number) for number in numbers)
    return forms.GROUP % {
        b"id": id_.encode(),
        b"name": name,
        b"quantity": len(numbers),
        b"members": b',"member":[%b]' % members if members else b"",
    }


def _pick(chance: float, choices: Sequence[T]) -> T:
    """As `random.choice`, but based on `random()` only, whose numbers Python keeps across versions."""
    return choices[int(chance * len(choices))]


def _day(chance: float, year: int) -> bytes:
    """A random day of a year, without the last days of months."""
    month, day = divmod(int(chance * 336), 28)
    return b"%04d-%02d-%02d" % (year, month + 1, day + 1)


def _identity(seed: int, kind: bytes, number: int) -> bytes:
    """The id of a resource by its kind and number; the resource need not exist yet."""
    return _dashed(blake2b(b"%d/%b/%d" % (seed, kind, number), digest_size=16).hexdigest().encode())


def _random_identity(random: Random) -> bytes:
    return _dashed(b"%032x" % random.getrandbits(128))


def _dashed(digits: bytes) -> bytes:
    """Format 32 hexadecimal digits as a UUID."""
    return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
