"""stub until the helper's lands"""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
from dontblink.errors import NamedError
@dataclass(frozen=True, eq=False)
class Placement:
    picture: Any
    x: Any
    y: Any
def derive_placement(*a: Any, **k: Any) -> Placement:
    raise NamedError("not yet")
