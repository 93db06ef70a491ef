"""What the documents say exists, and what exists is in them."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from gatehouse.cli import gatehouse
from gatehouse.settings import Sections
from gateway import errors
from gateway.app import Gateway
from gateway.chat.metrics import ChatMetrics
from gateway.config import Config, EngineTarget
from gateway.headers import TO_ENGINE
from gateway.limits.limiter import Kind, Rate, Refusal, Verdict
from gateway.limits.plans import headers
from gateway.logs import LogLine
from gateway.logs.message import Message
from gateway.metrics import Metrics
from gateway.shape import REFUSED_FIELDS
from gateway.workers.metrics import ParentMetrics
from launcher.metrics import LauncherMetrics

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]

_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"```.*?```", re.DOTALL)
_FILES = {
    "engine.key",
    "engine.log",
    "engine.sock",
    "engine.lock",
    "engine.json",
    "gateway.json",
    "redis.sock",
}  # in STATE_DIR, not settings


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def section(name: str, heading: str) -> str:
    """The text under one heading, up to the next of its rank or above."""
    rank, _, _ = heading.partition(" ")
    after = text_of(name).split(f"\n{heading}\n", 1)[1]
    return re.split(rf"\n#{{1,{len(rank)}}} ", after, maxsplit=1)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each table row, without heads and rules."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            yield re.split(r" *\| *", line.strip("| "))


def first_cells(text: str) -> list[str]:
    return [cells[0].strip("` ") for cells in rows(text) if cells[0].startswith("`")]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Each relative link is a file or folder here, and its anchor a heading there."""
    here = (ROOT / name).parent
    for link in _LINK.finditer(_CODE.sub("", text_of(name))):
        target, _, anchor = link["target"].partition("#")
        if target.startswith(("http:", "https:")):
            continue
        path = here / target if target else ROOT / name
        assert path.exists(), link["target"]
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_a_claims_test_is_where_it_is_said_to_be(name: str) -> None:
    """A link whose text is a test's name leads to the file that defines it."""
    for link in _LINK.finditer(text_of(name)):
        if (test := link["text"].strip("`")).startswith("test_") and not test.endswith(".py"):
            source = ((ROOT / name).parent / link["target"]).read_text("utf-8")
            assert re.search(rf"def {test}\(", source), link[0]


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    """Every `gatehouse …` and `make …` that is quoted can be typed."""
    text = text_of(name)
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for quoted in re.findall(r"(?:^|`)gatehouse( [a-z][^`\n#]*)", text, re.MULTILINE):
        command: click.Command = gatehouse
        for word in quoted.split():
            context = click.Context(command)
            if isinstance(command, click.Group) and word in command.list_commands(context):
                command = command.get_command(context, word) or command
            elif word.startswith("--"):
                assert word in {option for parameter in command.params for option in parameter.opts}, quoted
            else:
                assert command is not gatehouse, quoted


@pytest.mark.parametrize("name", NAMES)
def test_settings_exist(name: str) -> None:
    """Every `section.key` that is quoted is a key of gatehouse.yaml."""
    sections = {field: getattr(Sections(), field) for field in Sections.model_fields if field != "plans"}
    for where, key in re.findall(rf"`({'|'.join(sections)})\.(\w+)(?:: [^`]+)?`", text_of(name)):
        assert key in type(sections[where]).model_fields or f"{where}.{key}" in _FILES, f"{where}.{key}"


def test_the_records_fields_are_documented_in_their_order() -> None:
    """docs/log.md has a row for each field of a line, and no other."""
    table = text_of("docs/log.md").split("\n## ", 1)[0]
    assert tuple(first_cells(table)) == LogLine.__struct_fields__


def test_the_fields_of_messages_are_documented_in_their_order() -> None:
    """Likewise for the lines that are no request's."""
    assert tuple(first_cells(section("docs/log.md", "## Messages between the requests"))) == Message.__struct_fields__


def families(registry: CollectorRegistry) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Metrics by exposed name: type and labels."""
    found = {}
    for collector in registry._collector_to_names:
        # that of the process has no description: there its samples are one
        for family in getattr(collector, "describe", collector.collect)():
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = (family.type, getattr(collector, "_labelnames", ()))
    return found


@pytest.mark.parametrize(
    ("heading", "registry"),
    [
        ("## The gateway", Metrics(models=["m"], plans=["p"], version="0").registry),
        ("## The chat", ChatMetrics(CollectorRegistry()).registry),
        ("## The parent of several workers", ParentMetrics(2, lambda: 2).registry),
        ("## The launcher", LauncherMetrics().registry),
    ],
)
def test_the_metrics_are_documented(heading: str, registry: CollectorRegistry) -> None:
    """docs/metrics.md has a row for each metric with its type and labels, and no other."""
    documented = {
        name.strip("`"): (kind, tuple(filter(None, labels.split(", "))))
        for name, kind, labels, *_ in rows(section("docs/metrics.md", heading))
        if name.startswith("`")
    }
    assert documented == families(registry)


def test_opentelemetrys_names_are_for_metrics_that_exist() -> None:
    """The table of names has no metric of its own."""
    table = section("docs/metrics.md", "## OpenTelemetry's names for the same")
    known = families(Metrics(models=[], plans=[], version="0").registry)
    assert set(first_cells(table)) <= known.keys()


async def test_the_routes_are_documented(tmp_path: Path) -> None:
    """docs/api.md, and docs/chat-api.md for the chat, have a row for each route of both listeners, and no other."""
    gateway = Gateway(Config(state_dir=tmp_path, engine=EngineTarget(url="http://127.0.0.1:1")))
    rows = [first_cells(section(page, "## Routes")) for page in ("docs/api.md", "docs/chat-api.md")]
    documented = {route for page in rows for route in page}
    assert len(documented) == sum(map(len, rows))
    actions = ("restart", "drain", "reset-prefix-cache")
    served = {
        f"{method} {path.replace('{action}', action)}"
        for app in (gateway.app, gateway.admin_app)
        for method, path in routes(app)
        for action in (actions if "{action}" in path else ("",))
    }
    assert documented == served


def routes(app: web.Application) -> Iterator[tuple[str, str]]:
    for route in app.router.routes():
        if route.method != "HEAD" and route.resource is not None:
            yield route.method, route.resource.canonical


def test_the_error_codes_are_documented() -> None:
    """docs/api.md has a row for each status and code that the public listener can answer, and no other."""
    public = section("docs/api.md", "## Error codes").split("The admin listener's", 1)[0]
    documented = {(int(status), code.strip("`")) for status, code, *_ in rows(public) if status.isdecimal()}
    assert documented == set(raised())


def test_the_admin_listeners_error_codes_are_documented() -> None:
    """The second table, likewise."""
    admin = section("docs/api.md", "## Error codes").split("The admin listener's", 1)[1]
    documented = {code.strip("`") for status, code, *_ in rows(admin) if status.isdecimal()}
    source = text_of("gateway/admin.py")
    codes = re.findall(r"_error\(\s*\d+,\s*\"(\w+)\"", source)
    chosen = re.search(r"code = (.*)", source)
    assert chosen is not None
    assert documented == {*codes, *re.findall(r"\"(\w+)\"", chosen[1])}


def test_the_limits_headers_are_documented() -> None:
    """docs/api.md names each field that an answer may have because of limits, and no other of that name."""
    rate = Rate(limit=1, remaining=0, reset=0.0)
    refusal = Refusal("total", Kind.QUOTA, 1, 1.0)
    rates = {field: rate for field in Verdict.__struct_fields__ if field not in {"refusal", "running"}}
    written = headers(Verdict(refusal=refusal, running=0, **rates))
    documented = set(re.findall(r"`([a-z-]+)`", section("docs/api.md", "## Headers")))
    assert set(written) <= documented
    assert {name for name in documented if name.startswith("x-ratelimit-")} <= set(written)


def test_the_refused_fields_and_passing_headers_are_documented() -> None:
    """docs/api.md and docs/security.md name each field that callers may not set; the former each header that passes."""
    bodies = section("docs/api.md", "## What is changed and refused in bodies")
    reasons = text_of("docs/security.md").split("Fields of vLLM that callers may not set", 1)[1]
    for field in REFUSED_FIELDS:
        assert f"`{field}`" in bodies
        assert f"`{field}`" in reasons
    passing = section("docs/api.md", "## Headers").split("Answers:", 1)[0].lower()
    assert all(f"`{name}`" in passing for name in TO_ENGINE)


def raised() -> Iterator[tuple[int, str]]:
    """Status and code of every error that gateway/ makes, read from its source."""
    classes = {
        name: found
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, errors.GatewayError)
    }
    for file in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in classes:
                    given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                    codes = texts(given[0]) if given else {classes[name].code}
                    yield from ((classes[name].status, code) for code in codes)
                case ast.Call(func=ast.Name(id="Refusal"), args=[ast.Constant(value=str(code)), *_]):
                    yield 401, code  # of a token
                case ast.FunctionDef(name="refusal_message"):
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
                            yield from ((429, code) for code in texts(inner.value.elts[1]))


def texts(node: ast.expr) -> set[str]:
    """The texts that a constant, or a choice between constants, can be; none for what is put together at run time."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    return {str(node.value)} if isinstance(node, ast.Constant) else set()
