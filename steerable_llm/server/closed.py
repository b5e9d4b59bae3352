"""Objects of requests whose fields are ours: one that is none of them is told with the nearest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from steerable_llm.errors import unknown

#: What pydantic's errors call a field that is none.
UNKNOWN_FIELD = "unknown_field"


class Closed(BaseModel):
    """An object that has the fields of its class and no others.

    pydantic's own word for another one, "Extra inputs are not permitted", names none that is meant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields(cls, given: Any) -> Any:
        wrong = [name for name in given if name not in cls.model_fields] if _is_plain(given) else []
        if wrong:
            said = {"said": unknown("field", wrong[0], cls.model_fields), "field": wrong[0]}
            raise PydanticCustomError(UNKNOWN_FIELD, "{said}", said)
        return given


def _is_plain(given: Any) -> bool:
    return isinstance(given, dict) and all(isinstance(name, str) for name in given)
