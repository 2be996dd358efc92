"""Reads the logical id of a resource from its canonical line, without a parse where `id` follows `resourceType`."""

import json

__all__ = ["id_of"]


def id_of(line: bytes, resource_type: str) -> str | None:
    """The logical id of the resource in a line of this type; None if it has none or the line is no JSON."""
    begin = f'{{"resourceType":"{resource_type}","id":"'.encode()
    if line.startswith(begin):
        return line[len(begin) : line.find(b'"', len(begin))].decode("utf-8", "replace")
    try:  # some element stands between type and id; only a parse tells the resource's id from an element's
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    id_ = content.get("id") if isinstance(content, dict) else None
    return id_ if isinstance(id_, str) and id_ else None
