"""The routes of `vllm serve`, and what happens to a request before its handler sees it.

Order, as in vLLM: the API key guards `/v1` only (an OPTIONS passes), then the router (404, 405 with `allow`), then
the media type and the JSON, then the handler.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from launcher.simulator import chat, completions, control, messages, responses
from launcher.simulator.errors import ApiError, MediaTypeError, ValidationError, dumps, missing
from launcher.simulator.http import Request
from launcher.simulator.prompts import messages_of, render
from launcher.simulator.service import JSON_HEADERS, VERSION, Call, Service, record_of
from launcher.simulator.tokenizer import decode, encode, token_bytes

Handler = Callable[[Call], None]
_UNRECORDED = ("/health", "/metrics")


class Server:
    """Dispatches requests to handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": _health},
            "/load": {"GET": lambda call: call.json(200, {"server_load": call.service.load})},
            "/version": {"GET": lambda call: call.json(200, {"version": VERSION})},
            "/ping": {"GET": _health, "POST": _health},
            "/metrics": {"GET": _metrics},
            "/kv_event_sources": {"GET": lambda call: call.json(200, {})},
            "/tokenize": {"POST": _tokenize},
            "/detokenize": {"POST": _detokenize},
            "/v1/models": {"GET": _models},
            "/v1/chat/completions": {"POST": chat.handle},
            "/v1/completions": {"POST": completions.handle},
            "/v1/responses": {"POST": responses.handle},
            "/v1/messages": {"POST": messages.handle},
            "/v1/messages/count_tokens": {"POST": messages.count_tokens},
            "/invocations": {"POST": _invocations},
        }
        if service.options.dev_mode:
            self._routes |= control.dev_routes()
        if service.options.control:
            self._routes |= control.sim_routes()

    def handle(self, request: Request) -> None:
        """Answer a request, now or when the engine has the tokens."""
        record = record_of(request)
        path = request.path.removeprefix(self.service.options.root_path)
        if path not in _UNRECORDED and not path.startswith("/sim/"):
            self.service.records.append(record)
        call = Call(self.service, request, record, {})
        if self.service.options.request_id_headers:
            given = request.header(b"x-request-id") or uuid.uuid4().hex
            request.extra_headers = [(b"x-request-id", given.encode("latin-1"))]
        if not self._authorised(request, path):
            record.status = 401
            request.respond(401, JSON_HEADERS[:1], dumps({"error": "Unauthorized"}))
            return
        methods = self._find(path)
        if methods is None:
            call.json(404, {"detail": "Not Found"})
        elif request.method not in methods:
            record.status = 405
            allow = (b"allow", ", ".join(methods).encode())
            request.respond(405, JSON_HEADERS, dumps({"detail": "Method Not Allowed"}), first=[allow])
        else:
            self._dispatch(call, methods[request.method], path)

    def _dispatch(self, call: Call, handler: Handler, path: str) -> None:
        try:
            if call.request.method == "POST" and path not in _BODYLESS and not path.endswith("/cancel"):
                call.body = _json_body(call.request)
            handler(call)
        except ApiError as error:
            self._refuse(call, error, path)
        except Exception as error:  # noqa: BLE001  # a body nobody thought of must not leave its client waiting
            traceback.print_exc()
            problem = ApiError(str(error), status=500, kind="InternalServerError")
            self._refuse(call, problem, path)

    def _refuse(self, call: Call, error: ApiError, path: str) -> None:
        if not call.request.answered:
            body = error.anthropic_body() if path.startswith("/v1/messages") else error.body()
            call.json(error.status, body, close=call.service.engine.dead is not None)

    def _find(self, path: str) -> dict[str, Handler] | None:
        if path in self._routes:
            return self._routes[path]
        found = _ONE_RESPONSE.fullmatch(path)
        if found is None:
            return None
        if found["cancel"]:
            return {"POST": lambda call: responses.cancel(call, found["id"])}
        return {"GET": lambda call: responses.retrieve(call, found["id"])}

    def _authorised(self, request: Request, path: str) -> bool:
        keys = self.service.options.api_keys
        guarded = path.startswith(("/v1", "/v2", "/inference"))
        if not keys or not guarded or request.method == "OPTIONS":
            return True
        scheme, _, token = (request.header(b"authorization") or "").partition(" ")
        matches = [hmac.compare_digest(token.encode("latin-1"), key.encode()) for key in keys]
        return scheme.lower() == "bearer" and any(matches)


_ONE_RESPONSE = re.compile(r"/v1/responses/(?P<id>[^/]+)(?P<cancel>/cancel)?")
_BODYLESS = ("/ping", "/reset_prefix_cache", "/sleep", "/wake_up", "/pause", "/resume", "/sim/reset")


def _json_body(request: Request) -> dict[str, Any]:
    kind = (request.header(b"content-type") or "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeError
    if not request.body:
        problem = ValidationError("missing", "body", "Field required", None)
        raise problem
    try:
        body = json.loads(request.body)
    except json.JSONDecodeError as error:
        raise ValidationError("json_invalid", f"body.{error.pos}", "JSON decode error", {}, context=error.msg) from None
    except (UnicodeDecodeError, RecursionError):
        raise ApiError("There was an error parsing the body", kind="Bad Request") from None
    if not isinstance(body, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise ValidationError("model_attributes_type", "body", message, body)
    return body


def _health(call: Call) -> None:
    sick = call.service.knobs.health_503 or call.service.engine.dead is not None
    call.record.status = 503 if sick else 200
    call.request.respond(call.record.status, JSON_HEADERS[1:])


def _metrics(call: Call) -> None:
    headers = [(b"content-type", b"text/plain; version=1.0.0; charset=utf-8"), JSON_HEADERS[1]]
    call.request.respond(200, headers, call.service.metrics.exposition())


def _models(call: Call) -> None:
    options = call.service.options
    call.json(200, {"object": "list", "data": [_card(name, call) for name in options.served]})


def _card(name: str, call: Call) -> dict[str, Any]:
    created = call.service.started
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": call.service.options.model,
        "parent": None,
        "max_model_len": call.service.options.max_model_len,
        "permission": [permission],
    }


def _tokenize(call: Call) -> None:
    call.check_model()
    if "messages" in call.body:
        tokens = render(messages_of(call.body), call.body.get("tools"))
    elif isinstance(call.body.get("prompt"), str):
        tokens = encode(call.body["prompt"])
    else:
        raise missing("prompt", call.body)
    strings = None
    if call.body.get("return_token_strs"):
        strings = [token_bytes(token).decode("utf-8", "replace").replace(" ", "Ġ") for token in tokens]
    limit = call.service.options.max_model_len
    call.json(200, {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": strings})


def _detokenize(call: Call) -> None:
    call.check_model()
    tokens = call.body.get("tokens")
    if tokens is None:
        raise missing("tokens", call.body)
    if not isinstance(tokens, list) or not all(isinstance(each, int) and each >= 0 for each in tokens):
        raise ValidationError("list_type", "body.tokens", "Input should be a valid list", tokens)
    call.json(200, {"prompt": decode(tokens)})


def _invocations(call: Call) -> None:
    """The SageMaker route: whichever API the body fits. The API key does not guard it."""
    handler = chat.handle if "messages" in call.body else completions.handle
    handler(call)
