"""What the classes of settings are made of."""

from types import SimpleNamespace
from typing import Annotated, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of the configuration: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Section)


def plain(settings: S) -> S:
    """The same values, for who reads them with each request: pydantic's classes have a `__getattr__`, which makes
    reading any attribute several times slower.
    """
    return cast("S", SimpleNamespace(**dict(settings)))
