"""How PostgreSQL is reached: by psycopg 3, the extra `vllm-gatehouse[postgresql]`.

psycopg rather than asyncpg, because it is libpq: the URL that a provider hands out works as it is (`sslmode`,
`sslrootcert`, several hosts, a password file), and so does PgBouncer, for nothing here rests on prepared statements.
Source: https://www.psycopg.org/psycopg3/docs/advanced/prepare.html#using-prepared-statements-with-pgbouncer
"""

from importlib.util import find_spec

from sqlalchemy import URL, Engine, create_engine

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
MIGRATION_LOCK = (
    0x6A7E_4005E  # of this database's advisory locks, the one that migrations take: any number, always this
)


class Postgresql:
    """A PostgreSQL database; it exists already, its tables need not."""

    missing = False

    def __init__(self, url: URL) -> None:
        engine: Engine = create_engine(
            url.set(drivername="postgresql+psycopg_async"),
            hide_parameters=True,
            pool_size=4,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=True,  # a connection that died while it was idle is replaced, not handed out
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "gatehouse",
                "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={STATEMENT_SECONDS}s",
                "prepare_threshold": None,
            },
        )
        # one moment's state for all statements of a reader, as SQLite has it
        self.readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writers = engine
        self.lock_migrations: str | None = f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"

    def prepare(self) -> None:
        """Nothing: who runs the database has made it."""


def installed() -> bool:
    """Whether the driver is there."""
    return find_spec("psycopg") is not None
