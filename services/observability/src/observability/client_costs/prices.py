"""The price file: the price of each pool, and the engine seconds per token of its GPUs."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from platform_contracts.yaml_document import Place, read

Positive = Annotated[float, Field(gt=0)]


class PoolPrice(BaseModel):
    """One pool. Unit costs are engine seconds per token; ``client-costs --measure`` prints them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    gpus: Positive
    gpus_per_engine: Positive = 1.0
    gpu_hour_price: Annotated[float, Field(ge=0)]
    prefill_seconds_per_token: Positive
    decode_seconds_per_token: Positive


class Prices(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    pools: Annotated[dict[str, PoolPrice], Field(min_length=1)]


class BadPrices(Exception):
    """The file cannot be used; the text has one line per mistake, with its place."""


def load_prices(path: Path) -> Prices:
    """Read a file of prices.

    Raises:
        BadPrices: with every mistake, each with file, line, key and value.
    """
    document = read(path)
    if not document.problems:
        try:
            return Prices.model_validate(document.data if document.data is not None else {})
        except ValidationError as error:
            for found in error.errors():
                place: Place = tuple(found["loc"])
                value = "" if found["type"] == "missing" else f"{found['input']!r}: "
                document.problem(place, f"{value}{found['msg']}")
    raise BadPrices("\n".join(str(problem) for problem in document.problems))
