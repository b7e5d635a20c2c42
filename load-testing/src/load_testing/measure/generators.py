"""The account that generators write next to their records at the end of a run. Knows no tool."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class BadAccount(Exception):
    """The account is missing or unreadable; the message names the file and the remedy."""


class Share(BaseModel):
    """The requests that one generator process sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    planned: int = Field(ge=0, description="requests that it began, each of which must leave a record")
    seconds: float = Field(ge=0, description="from its first send time to its last answer")
    cpu_cores: float = Field(ge=0, description="CPU that it used itself; near 1 it is full")


class Account(BaseModel):
    """The requests that a run scheduled, and the share of each generator that finished."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: str
    target: str = Field(description="the base URL")
    rate_per_second: float = Field(ge=0)
    duration_seconds: float = Field(ge=0)
    seed: int
    generators: int = Field(ge=1, description="how many shared the rate")
    shares: tuple[Share, ...] = ()

    @property
    def planned(self) -> int:
        return sum(share.planned for share in self.shares)


def account_file(records: Path) -> Path:
    """Return the path of a records file's account: next to it."""
    return records.with_suffix(".generator.json")


def read_account(records: Path) -> Account:
    """Read the account of a records file.

    Raises:
        BadAccount: the file is missing or is not an account.
    """
    path = account_file(records)
    try:
        return Account.model_validate_json(path.read_text())
    except OSError as error:
        raise BadAccount(
            f"{path} cannot be read ({error.strerror}): the generators write it next to their records, "
            "so take both files"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadAccount(f"{path} is not a generator's account: {where} {first['msg']}".strip()) from None


def write_account(account: Account, records: Path) -> None:
    """Write the account next to its records file."""
    account_file(records).write_text(account.model_dump_json(indent=2) + "\n")


def merged(accounts: Sequence[Account]) -> Account:
    """Return the combined account of generators that sent in parallel.

    Raises:
        BadAccount: they did not send the same workload to the same target.
    """
    first = accounts[0]
    for account in accounts:
        if (account.workload, account.target) != (first.workload, first.target):
            raise BadAccount(
                f"the records are of different runs: {first.workload} against {first.target}, and "
                f"{account.workload} against {account.target}; give those of one run"
            )
    return Account(
        workload=first.workload,
        target=first.target,
        rate_per_second=sum(account.rate_per_second for account in accounts),
        duration_seconds=max(account.duration_seconds for account in accounts),
        seed=first.seed,
        generators=sum(account.generators for account in accounts),
        shares=tuple(share for account in accounts for share in account.shares),
    )
