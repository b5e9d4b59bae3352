"""From a measured number to the share of a strength: a threshold, or a line between two."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Ramp(BaseModel):
    """A share between 0 and 1 that depends on one number and on nothing else.

    `{ from = a, to = b }` is 0 up to a, 1 from b on, and a straight line between; with a above b
    it falls instead. `{ above = c }` is 0 below c and 1 from c on. There is no hysteresis: what an
    earlier request measured plays no part.

    Attributes:
        start: `from` in the file: the number at which the share is 0.
        end: `to` in the file: the number at which the share is 1.
        above: the threshold, in place of `from` and `to`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float | None = Field(default=None, alias="from", allow_inf_nan=False, strict=True)
    end: float | None = Field(default=None, alias="to", allow_inf_nan=False, strict=True)
    above: float | None = Field(default=None, allow_inf_nan=False, strict=True)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = (self.start is not None, self.end is not None, self.above is not None)
        if given not in self._forms():
            raise ValueError("give either from and to, or above")
        if self.start is not None and self.start == self.end:
            raise ValueError("from and to are equal: write above for a single threshold")
        return self

    @classmethod
    def _forms(cls) -> set[tuple[bool, bool, bool]]:
        """Which of `from`, `to` and `above` may be given together."""
        return {(True, True, False), (False, False, True)}

    def share(self, value: float) -> float:
        """Return the share of the strength that a measured value leaves."""
        if self.above is not None:
            return 1.0 if value >= self.above else 0.0
        assert self.start is not None, "a ramp without a threshold has both ends"
        assert self.end is not None, "a ramp without a threshold has both ends"
        # The ends first: so they are exact, and no rounding or overflow passes them.
        low, high = min(self.start, self.end), max(self.start, self.end)
        if value <= low:
            return 0.0 if low == self.start else 1.0
        if value >= high:
            return 1.0 if high == self.end else 0.0
        # Halves, so that the width of a ramp between huge numbers does not overflow.
        along = (value / 2 - self.start / 2) / (self.end / 2 - self.start / 2)
        return min(1.0, max(0.0, along))

    def __str__(self) -> str:
        """Return the ramp as it is written in the file."""
        if self.above is not None:
            return f"above {self.above:g}"
        return "at its threshold" if self.start is None else f"from {self.start:g} to {self.end:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the file would hold, for a digest."""
        return self.model_dump(by_alias=True, exclude_none=True)
