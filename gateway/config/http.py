"""Settings of the HTTP side."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator

from gateway.section import Bytes, Count, Seconds, Section


class GatewaySettings(Section):
    """Listeners, deadlines and sizes of the HTTP side."""

    host: str = Field("127.0.0.1", description="address of the public listener")
    port: int = Field(8080, ge=0, le=65535, description="port of the public listener; 0 picks a free one")
    admin_host: str = Field("127.0.0.1", description="address of the admin listener; keep it on loopback")
    admin_port: int = Field(9090, ge=0, le=65535, description="port of the admin listener; 0 picks a free one")
    workers: Count = Field(1, description="gateway processes; more than one need redis.url")
    worker_hang_seconds: Seconds = Field(
        30, description="a worker whose event loop answers its parent nothing for so long is killed and replaced"
    )
    socket_dir: Path | None = Field(
        None, description="folder where each worker N listens on worker-N.sock, for a proxy on this machine"
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For is believed"
    )
    proxy_protocol: bool = Field(
        default=False, description="connections from trusted_proxies begin with a PROXY protocol header, version 1 or 2"
    )
    backlog: Count = Field(2048, description="connections the kernel may hold before they are accepted")
    max_connections: Count = Field(8192, description="connections of clients to one worker")
    max_connections_per_address: Count | None = Field(
        1024,
        description="connections from one address or IPv6 /64; trusted proxies and Unix sockets are not counted",
    )
    head_seconds: Seconds = Field(10, description="deadline for receiving a request's line and header fields")
    max_body_bytes: Bytes = Field(8 * 1024 * 1024, description="largest request body; more is 413")
    max_json_depth: Count = Field(64, description="deepest nesting of a JSON body; more is 400")
    max_choices: Count = Field(8, description="largest `n` and `best_of`")
    max_logprobs: Annotated[int, Field(ge=0)] = Field(20, description="largest `logprobs`/`top_logprobs`")
    max_stop: Count = Field(16, description="most `stop` sequences")
    max_token_ids: Count = Field(1024, description="most tokens in `logit_bias` and in lists of token ids")
    max_logprob_values: Count = Field(
        200_000, description="most log probabilities in one answer: tokens x choices x (`top_logprobs` + 1)"
    )
    max_tools: Count = Field(128, description="most `tools`")
    max_tools_bytes: Bytes = Field(256 * 1024, description="largest `tools`, as JSON")
    max_schema_bytes: Bytes = Field(64 * 1024, description="largest `response_format` and the like, as JSON")
    max_prompts: Count = Field(64, description="most prompts in one completions request")
    max_inputs: Count = Field(2048, description="most texts in one request for embeddings, scores or a ranking")
    media_domains: tuple[str, ...] = Field(
        (), description="hosts that the engine may fetch media from, over https; others must be data: URLs"
    )
    model_aliases: tuple[str, ...] = Field((), description="further names by which callers may ask for the model")
    cache_salt: Literal["team", "subject", "none"] = Field(
        "team", description="who shares the prefix cache: a team, nobody, everybody"
    )
    default_max_tokens: Count = Field(2048, description="output limit set when the client names none")
    hold_seconds: Annotated[float, Field(ge=0)] = Field(
        30, description="how long a request waits for an engine that is loading or restarting"
    )
    max_resends: Annotated[int, Field(ge=0)] = Field(
        1, description="how often a request that died with its engine is sent again; a poisonous one must not kill more"
    )
    connect_seconds: Seconds = Field(2, description="deadline for a connection to the engine")
    first_token_seconds: Seconds = Field(120, description="deadline for the first token, queueing included")
    next_token_seconds: Seconds = Field(
        120, description="deadline between two reads of a stream; a model may work unseen while a tool call is parsed"
    )
    total_seconds: Seconds = Field(3600, description="deadline of a request that is answered in one piece")
    write_seconds: Seconds = Field(30, description="a client that reads nothing for so long is cut off")
    body_seconds: Seconds = Field(30, description="deadline for receiving a request's body")
    max_waiting: Count | None = Field(
        256, description="requests in the engine's waiting line; more are 503, those of the plans that come last first"
    )
    drain_seconds: Seconds = Field(30, description="how long running streams may finish on shutdown")

    @field_validator("socket_dir")
    @classmethod
    def _fits_a_socket(cls, folder: Path | None) -> Path | None:
        # unix(7): a socket's path has at most 107 bytes; the worker's number may have three digits
        if folder is not None and len(os.fsencode(folder.absolute() / "worker-999.sock")) > 107:
            raise ValueError("the path is too long for a Unix socket: at most 91 bytes")
        return folder

    @model_validator(mode="after")
    def _announced_by_somebody(self) -> Self:
        if self.proxy_protocol and not self.trusted_proxies:
            raise ValueError("proxy_protocol: name in trusted_proxies who may use it; anybody else could be anybody")
        return self
