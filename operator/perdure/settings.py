"""All settings in one model, so that `perdure config` can print what is in force and where limits are.

Each field is the environment variable `PERDURE_<NAME>`; a file of `NAME=value` lines may be named by
`PERDURE_ENV_FILE`. The environment wins over the file.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """The settings of operator, gateway, migrations and CLI. Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix="PERDURE_", extra="ignore", frozen=True)

    #: Postgres, as a `postgresql://` URL.
    database_url: SecretStr = SecretStr("")
    #: NATS servers, as `nats://` URLs separated by commas; credentials may be part of the URL.
    nats_url: SecretStr = SecretStr("")
    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 8
    #: What happens if Postgres is set up so that a guarantee is lost: refused, or a warning only.
    database_checks: Literal["enforce", "warn"] = "enforce"
    #: Limits of the event stream; beyond them the oldest events are only in the ledger.
    stream_max_age: Annotated[float, Field(ge=600)] = 7 * 24 * 3600.0
    #: Bytes, reserved in NATS when the stream is created; -1 for no limit.
    stream_max_bytes: Annotated[int, Field(ge=-1)] = 512 * 1024 * 1024
    #: NATS servers that keep a copy of the stream; applied when the stream is created.
    stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1

    #: Kubeconfig to use outside a cluster; inside, the pod's ServiceAccount is used.
    kubeconfig: str | None = None
    #: The operator's own namespace, which has its Lease.
    namespace: str = "perdure-system"
    #: The holder's identity in the Lease: the pod's name.
    identity: str = Field(default_factory=socket.gethostname)
    #: Folder that outlives the process, and need not outlive the pod: it has the mark of the pass that
    #: computes, by which the next process knows what killed this one.
    state_dir: str = Field(default_factory=tempfile.gettempdir)
    #: Namespaces whose workflows the operator runs; all if empty.
    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()

    #: The gateway's URL as agents reach it, without a path.
    gateway_url: str = "http://perdure-gateway.perdure-system.svc:8080"
    gateway_host: str = "0.0.0.0"
    gateway_port: int = 8080
    #: PEM files of the gateway's certificate and its key, which are read again when they change. Both, or
    #: none for HTTP without TLS.
    gateway_tls_cert_file: Path | None = None
    gateway_tls_key_file: Annotated[Path | None, Field(validate_default=True)] = None
    #: PEM certificates of the authority that signs the gateway's certificate. The operator gives them to
    #: agents as PERDURE_CA_FILE; none for an authority that agents' images trust.
    gateway_ca_file: Path | None = None
    #: Connections of one gateway, and those of one address. Raise the second where agents of many nodes reach
    #: the gateway through one address.
    gateway_connections: Annotated[int, Field(ge=16)] = 4096
    gateway_connections_per_address: Annotated[int, Field(ge=1)] = 1024
    #: Audience that agents' ServiceAccount tokens must have.
    token_audience: str = "perdure"  # noqa: S105 - an audience, no secret

    #: Operator's liveness and readiness.
    health_host: str = "0.0.0.0"
    health_port: int = 8081

    lease_name: str = "perdure-operator"
    lease_duration: Annotated[float, Field(ge=1)] = 15.0
    lease_renew_deadline: Annotated[float, Field(gt=0)] = 10.0
    lease_retry: Annotated[float, Field(gt=0)] = 2.0

    #: Runs that are reconciled at the same time.
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    #: Attempts of agents that may run at once, in all and in any one namespace; 0 for no limit.
    max_running_tasks: Annotated[int, Field(ge=0)] = 0
    max_running_tasks_per_namespace: Annotated[int, Field(ge=0)] = 0
    #: Time between relists of the cluster.
    sweep_interval: Annotated[float, Field(gt=0)] = 300.0
    #: How long a run waits for a template that does not exist.
    template_timeout: Annotated[float, Field(ge=0)] = 60.0
    #: Time for which changes to one object's status are debounced into one patch.
    status_interval: Annotated[float, Field(ge=0)] = 1.0
    #: Whether to post Kubernetes Events.
    kubernetes_events: bool = True
    #: CPU time of one turn of the event loop beyond which the code that took it is logged; 0 for no watch.
    loop_watch: Annotated[float, Field(ge=0)] = 0.0

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("gateway_tls_key_file")
    @classmethod
    def _check_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("gateway_tls_cert_file") is None):
            raise ValueError(
                "PERDURE_GATEWAY_TLS_CERT_FILE and PERDURE_GATEWAY_TLS_KEY_FILE belong together: "
                "set both, or none"
            )
        return value

    @field_validator("gateway_tls_cert_file", "gateway_tls_key_file", "gateway_ca_file", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return value or None

    @field_validator("lease_renew_deadline", "lease_retry")
    @classmethod
    def _check_lease(cls, value: float, info: ValidationInfo) -> float:
        above = "lease_duration" if info.field_name == "lease_renew_deadline" else "lease_renew_deadline"
        if above in info.data and value >= info.data[above]:
            raise ValueError(
                f"{value:g} s is not less than the {info.data[above]:g} s of PERDURE_{above.upper()}:"
                " a leader renews its Lease before the renew deadline, and stops before the Lease ends"
            )
        return value


def load() -> Settings:
    """Settings from the environment, and from the file it names. Raises pydantic's ValidationError."""
    return Settings(_env_file=os.environ.get("PERDURE_ENV_FILE"))  # type: ignore[call-arg] # of the base class
