"""The code on the pages: blocks with their language, the commands of a shell script, and what runs Python blocks."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from site_program import ASSEMBLE

__all__ = ["COMMON", "PRELUDES", "RUN_PAGES", "Block", "blocks", "commands"]

ROOT = Path(__file__).resolve().parents[2]
_BETWEEN = frozenset("();<>|&\n")
_WRITTEN = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Block:
    """A block of code: the page, the number of the block on it, its language and its text. Indented code is shell."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}, block {self.number}: {self.text.splitlines()[0][:70]}"


def blocks() -> Iterator[Block]:
    """The blocks of all pages."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob(".github/**/*.md")]):
        texts = [text for code, text in ASSEMBLE.blocks(path.read_text("utf-8")) if code]
        for number, text in enumerate(texts, 1):
            first, _, rest = text.partition("\n")
            language = first.strip().removeprefix("```")
            yield Block(str(path.relative_to(ROOT)), number, "sh" if language == "bash" else language, rest.rpartition("```")[0])


def commands(script: str) -> Iterator[list[str]]:
    """The commands of a script, each as its words: without assignments before it and redirections after it."""
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, "\n"]:
        if word and set(word) <= _BETWEEN:
            redirected = set(word) <= {"<", ">"}
            if not redirected and words:
                yield words
                words = []
        elif redirected:
            redirected = False
        elif words or not _WRITTEN.match(word):
            words.append(word)


# --- What the Python on the pages presupposes ---

COMMON = """
import json, os
from pathlib import Path
from starlette.applications import Starlette
from fhir_bulk_middleware import *
from fhir_bulk_middleware.testing import TokenMint
Path("state").mkdir()
Path("keys.json").write_text(json.dumps(MINT.jwks))
app = Starlette()
adapter, jobs, outputs = MemoryResourceStore(), MemoryJobStore(), MemoryOutputStore()
verifier = JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir")
bulk = BulkData(resources=adapter, verifier=verifier, jobs=jobs, outputs=outputs)
"""
"""What each page takes for granted: an application, an adapter, stores, and the names of the package."""

PRELUDES: dict[str, str] = {
    "examples/adapters.md": """
from functools import reduce
from sqlalchemy import Column, DateTime, Index, Integer, MetaData, String, Table, Text, cast, func, literal, select
from fhir_bulk_middleware.tables import *
tables = MetaData()
observation = Table("observation", tables, Column("id", String), Column("updated", DateTime), Column("version", Integer),
    Column("deleted", DateTime), Column("patient_id", String), Column("code", String), Column("taken", DateTime))
performer = Table("performer", tables, Column("observation_id", String), Column("patient_id", String))
dose = Table("dose", tables, Column("clinic_no", Integer), Column("person_no", Integer), Column("dose_no", Integer),
    Column("changed", DateTime))
visit = Table("visit", tables, Column("id", String), Column("updated", DateTime), Column("version", Integer),
    Column("person_id", String))
procedure = Table("procedure", tables, Column("id", String), Column("updated", DateTime), Column("version", Integer),
    Column("visit_id", String))
def observation_of(row): return {}
def procedure_of(row): return {}
def dose_of(row): return {}
""",
    "examples/client-keys.md": """
Path("nightly-keys.json").write_text(json.dumps(MINT.jwks))
""",
    "examples/documents/README.md": """
import pytest
from documents.storage import DocumentStorage
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite
class pool: connection = None
""",
    "examples/fhirstarter_host/README.md": """
import pytest
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
""",
    "examples/securing.md": """
os.environ["FHIR_BULK_AUDIT_KEY"] = "k" * 40
""",
    "examples/workers.md": """
from taskiq import InMemoryBroker
from workers.taskiq_runner import TaskiqRunner
broker = InMemoryBroker()
""",
}
"""What else a page presupposes, by page."""

RUN_PAGES = """
import json, os, sys, tempfile, traceback, warnings
import fhir_bulk_middleware, fhir_bulk_middleware.testing, starlette.applications
warnings.simplefilter("error")
[getattr(fhir_bulk_middleware, name) for name in fhir_bulk_middleware.__all__]  # once, not in each page's process
MINT = fhir_bulk_middleware.testing.TokenMint("https://auth.example", "https://ehr.example/fhir")
pages, failed = json.load(sys.stdin), {}
for page, scripts in pages.items():
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:  # each page in a process and a folder of its own
        os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
        names = {"__name__": "page", "MINT": MINT}
        try:
            for script in scripts:
                exec(compile(script, page, "exec"), names)
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        failed |= {page: text} if (text := said.read()) else {}
    os.waitpid(child, 0)
json.dump(failed, sys.stdout)
"""
"""A program that runs the scripts of each page, one after the other; prints what failed."""
