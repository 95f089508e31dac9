"""What a request changes of what there is. Absent and null are different words there: absent keeps, null clears.

`KEPT` is the absent field of a change whose fields are known by name; `Fields` names only those that change, for settings.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)
else:
    Row = TypeVar("Row")


class _Kept(Enum):
    KEPT = "KEPT"


KEPT: Final = _Kept.KEPT
Kept = Literal[_Kept.KEPT]

Fields = Mapping[str, Any]
"""New values by field; what is not named stays as it is."""


def changed(row: Row, **given: object) -> Row:
    """The row with what was given, but for what is KEPT."""
    return replace(row, **{name: value for name, value in given.items() if value is not KEPT})
