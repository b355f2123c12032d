"""Settings come from `FRONTIER_*` variables; command-line options override them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things are kept and how long things may take. All have defaults that work on one machine."""

    model_config = SettingsConfigDict(env_prefix="FRONTIER_", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".frontier"), description="Folder of the embedded database and the artifacts.")
    database_url: str = Field(default="", description="SQLAlchemy URL; SQLite below `home` if empty.")
    artifacts: Path | None = Field(default=None, description="Folder of artifacts; below `home` if unset.")
    host: str = Field(default="127.0.0.1", description="Address the API binds.")
    port: int = Field(default=8470, ge=0, le=65535, description="Port the API binds; 0 picks a free one.")
    url: str = Field(default="", description="Where clients and workers find the API; from host and port if empty.")
    lease_s: float = Field(default=30.0, gt=0, description="Seconds a job's lease lasts without a heartbeat.")
    poll_s: float = Field(default=0.1, gt=0, description="Seconds between looks at the database where nothing tells.")
    event_retention_days: float = Field(default=30.0, gt=0, description="Older events are deleted.")
    event_retention_count: int = Field(
        default=10_000, ge=0, description="So many of the newest events are kept, however old they are."
    )
    step_s: float = Field(
        default=600.0, gt=0, description="Seconds that a designer may compute for one ask; its search fails beyond."
    )
    steps: int = Field(
        default=8, ge=1, description="Asks that a controller computes at the same time at most, each in a process."
    )
    latency_age_s: float = Field(default=7 * 86400.0, gt=0, description="Older latencies are measured again.")
    datasets: str = Field(
        default="digits",
        description="Data sets of a worker, comma-separated: digits, name=npz:FILE, name=cifar10:DIR ...",
    )
    cache: Path | None = Field(default=None, description="Workers keep artifacts here; below `home` if unset.")
    threads: int = Field(default=1, ge=1, description="Processor threads of a CPU worker.")
    key: SecretStr = Field(
        default=SecretStr(""),
        description="The key that commands and workers send. There is no option for it: shells keep their history.",
    )
    hosts: str = Field(
        default="",
        description="Names that the API answers to, comma-separated, besides this machine's own. If empty: any when it "
        "is bound beyond this machine, where every caller needs a key, else none.",
    )
    rate: float = Field(
        default=1000.0,
        ge=0,
        description="Requests a second that one caller may make, in bursts of twice as many; 0 limits neither these "
        "nor wrong keys.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{(self.home / 'frontier.db').absolute()}"

    @property
    def artifact_folder(self) -> Path:
        """The artifact store's folder."""
        return (self.artifacts or self.home / "artifacts").absolute()

    @property
    def cache_folder(self) -> Path:
        """A worker's cache of artifacts."""
        return (self.cache or self.home / "cache").absolute()

    @property
    def bearer(self) -> str | None:
        """The key to send, if there is one."""
        return self.key.get_secret_value().strip() or None

    @property
    def server_url(self) -> str:
        """The API's address as clients reach it."""
        return self.url or f"http://{self.host}:{self.port}"
