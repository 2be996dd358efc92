"""The suite for storages that keep the text of resources unchanged: the digits of numbers, and unknown elements."""

import json

from fhir_bulk_middleware.testing.resource_values import Reader, StorageSuite, Writer

__all__ = ["StoredTextSuite"]

_DIGITS = ("1.10", "1e3", "42.12345678901234567", "-0.0", "100000000000000000000000001")


class StoredTextSuite(StorageSuite):
    """The promises of a storage that keeps text. A storage with columns need not keep them."""

    async def test_a_number_keeps_its_digits(self, reader: Reader, writer: Writer) -> None:
        """The number of digits states a precision."""
        content = {
            "resourceType": "Patient",
            "id": "1",
            "extension": [{"url": "urn:digits", "valueDecimal": "DIGITS"}] * len(_DIGITS),
        }
        text = json.dumps(content)
        for digits in _DIGITS:
            text = text.replace('"DIGITS"', digits, 1)
        await writer.put(text)
        [line] = await reader.lines(await reader.query("Patient"))
        for digits in _DIGITS:
            assert f'"valueDecimal":{digits}}}'.encode() in line, "a number keeps its digits"

    async def test_an_element_that_nobody_knows_is_kept(self, reader: Reader, writer: Writer) -> None:
        """Extensions, elements of a later release, and the order of elements."""
        more = {"zzUnknown": {"deep": [{"b": None, "a": ["x", ""]}]}, "aaUnknown": True, "_birthDate": {"id": "b"}}
        await writer.put(json.dumps({"resourceType": "Patient", "id": "1", **more}))
        [line] = await reader.lines(await reader.query("Patient"))
        found = json.loads(line)
        assert {name: found.get(name) for name in more} == more, "what was written is kept, whatever it is"
        assert [name for name in found if name in more] == list(more), "elements keep their order"
