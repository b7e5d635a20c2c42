"""A real Redis with TLS, users of an ACL, and a certificate of its own authority."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import trustme

from harness.ports import free_port
from harness.processes import running
from platform_contracts.redis_login import RedisLogin, read_authorities

PASSWORD = "open_sesame"

# What docs/security.md lists for each user.
ROUTER = f"user router on >{PASSWORD} resetkeys ~llm:* resetchannels &llm:*"
ROUTER_COMMANDS = "-@all +get +mget +set +del +pexpire +eval +publish +subscribe +unsubscribe +ping +select"
BUDGET = f"user budgets on >{PASSWORD} resetkeys ~edge:* resetchannels"
BUDGET_COMMANDS = "-@all +@read +@write +@scripting +time +ping +select -@dangerous"


@dataclass(frozen=True)
class GuardedRedis:
    """Where Redis listens, and the files of its clients."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}/0"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    @property
    def password(self) -> str:
        return self.password_file.read_text().strip()

    def login(self, user: str = "router", **other: object) -> RedisLogin:
        """Return a login that succeeds, apart from what ``other`` changes."""
        options = {"password": self.password, "authorities": read_authorities(self.ca), **other}
        return RedisLogin(self.url, user, **options)  # type: ignore[arg-type]

    def other_authority(self) -> Path:
        """Write the certificate of an authority that signed nothing here."""
        file = self.folder / "other.crt"
        trustme.CA().cert_pem.write_to_path(str(file))
        return file


@contextmanager
def guarded_redis(folder: Path) -> Iterator[GuardedRedis]:
    """Run the server until the end of the block."""
    folder.mkdir(exist_ok=True)
    made = GuardedRedis(free_port(), folder)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(made.ca))
    issued.private_key_pem.write_to_path(str(folder / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    made.password_file.write_text(PASSWORD + "\n")
    (folder / "users.acl").write_text(
        f"user default off\n{ROUTER} {ROUTER_COMMANDS}\n{BUDGET} {BUDGET_COMMANDS}\n"
    )
    command = [
        *("redis-server", "--port", "0", "--tls-port", str(made.port), "--bind", "127.0.0.1", "--save", ""),
        *("--tls-cert-file", str(folder / "tls.crt"), "--tls-key-file", str(folder / "tls.key")),
        *("--tls-auth-clients", "no", "--aclfile", str(folder / "users.acl"), "--dir", str(folder)),
    ]

    def ready() -> bool:
        client = redis.Redis(
            "localhost",
            made.port,
            ssl=True,
            ssl_ca_certs=str(made.ca),
            username="router",
            password=made.password,
        )
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    with running(command, log=folder / "redis.log", ready=ready):
        yield made
