"""The program that assembles the documentation site, as a module."""

import importlib.util
import sys
from pathlib import Path

__all__ = ["ASSEMBLE"]

_PLACE = Path(__file__).resolve().parents[2] / ".site" / "assemble.py"
_SPEC = importlib.util.spec_from_file_location("assemble", _PLACE)
assert _SPEC is not None
assert _SPEC.loader is not None
ASSEMBLE = importlib.util.module_from_spec(_SPEC)
sys.modules["assemble"] = ASSEMBLE
_SPEC.loader.exec_module(ASSEMBLE)
