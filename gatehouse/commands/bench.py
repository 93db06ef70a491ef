"""`gatehouse bench`: how fast a server answers, or two of them side by side."""

import json
import os
import sys
import urllib.request
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from gatehouse.bench import report
from gatehouse.bench.client import Target
from gatehouse.bench.load import Load, Round, generator, interleave
from gatehouse.bench.workload import Workload
from gatehouse.commands.directory import known_plan
from gatehouse.context import Context
from gateway.auth.keys import load_keys
from gateway.auth.tokens import issue_token
from gateway.listening import whereabouts
from launcher.gpus import Nvml

_TOKEN_SECONDS = 86_400.0
_CALL_SECONDS = 10.0


class Numbers(click.ParamType[list[int]]):
    """Whole numbers above zero, with commas between them."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """The numbers; fails on anything else."""
        try:
            numbers = [int(each) for each in str(value).split(",")]
        except ValueError:
            numbers = [0]
        if min(numbers) < 1:
            self.fail(f"{value!r} is not a list of whole numbers above zero, such as 1,16,64", param, ctx)
        return numbers


def _http(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    for url in [value] if isinstance(value, str) else value or ():
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise click.BadParameter(f"{url!r} is not an address such as http://127.0.0.1:8080 (without /v1)")
    return value


@click.command()
@click.argument("url", required=False, callback=_http)
@click.option("--compare", nargs=2, metavar="URL_A URL_B", callback=_http, help="Measure two servers, in turns.")
@click.option("--direct", is_flag=True, help="Measure the running gateway beside its own engine, in turns.")
@click.option("--together", is_flag=True, help="Measure two servers at the same time in place of in turns.")
@click.option("--api-key", multiple=True, help="Key of the server; give it twice for two.  [env: OPENAI_API_KEY]")
@click.option("--plan", help="Plan of the own token; its limits hold.  [default: auth.default_plan]")
@click.option("--model", help="Name of the model; the configured one unless given.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True)
@click.option(
    "--input-tokens", type=click.IntRange(1), default=128, show_default=True, help="Length of a prompt, about."
)
@click.option("--output-tokens", type=click.IntRange(1), default=128, show_default=True, help="Length of an answer.")
@click.option(
    "--shared-prefix", type=click.FloatRange(0, 1), default=0.0, help="Share of each prompt that is the same in all."
)
@click.option(
    "--spread", type=click.FloatRange(0, 1), default=0.0, help="Let answers differ in length by up to this share."
)
@click.option("--eos/--ignore-eos", default=False, help="Let the model end its answers early.  [default: --ignore-eos]")
@click.option(
    "--concurrency", type=Numbers(), default="1,8,32", show_default=True, help="Requests at once, one run each."
)
@click.option(
    "--requests", type=click.IntRange(1), help="Requests of a run.  [default: two for each at once, at least 8]"
)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Send so many a second instead, however many run."
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Repeat every run so often.")
@click.option("--warmup", type=click.IntRange(0), default=4, show_default=True, help="Requests before, not counted.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes that make the load.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="Of a request."
)
@click.option("--seed", type=int, default=0, help="Another seed, other prompts.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything measured into this file.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw it: .svg or .png; needs matplotlib.")
@click.pass_obj
def bench(
    context: Context,
    /,
    *,
    url: str | None,
    compare: tuple[str, str] | None,
    api_key: tuple[str, ...],
    plan: str | None,
    model: str | None,
    concurrency: list[int],
    requests: int | None,
    rate: float | None,
    rounds: int,
    warmup: int,
    processes: int,
    timeout: float,
    json_file: Path | None,
    plot_file: Path | None,
    direct: bool,
    together: bool,
    eos: bool,
    **shape: Any,
) -> None:
    """Measure time to first token, time between tokens, tokens/s and requests/min of a server with the OpenAI API.

    Without URL it is the gateway that runs here, with a token of its own. Prompts are random words; answers have
    exactly the length asked for where the server knows `ignore_eos`, as vLLM does. Exit code 1 when a request failed.
    """
    if sum(map(bool, (url, compare, direct))) > 1:
        raise click.UsageError("choose one of URL, --compare and --direct")
    if together and not (compare or direct):
        raise click.UsageError("--together needs two servers: --compare or --direct")
    chosen = compare or ((url,) if url else None)
    targets = _given(chosen, api_key) if chosen else _own(context, plan, direct=direct)
    workload = Workload(model or context.settings.engine.served_model_name, ignore_eos=not eos, **shape)
    loads = [Load(each, requests or max(2 * each, 8), rate, timeout) for each in (concurrency if rate is None else [1])]
    results: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    with generator(processes) as generate:

        def run(target: Target, load: Load) -> Round:
            _progress(f"{target.name}: {load.requests} requests, {load.concurrency} at once")
            return generate.run(target, workload, load)

        if warmup:
            for target in targets:
                run(target, Load(min(warmup, 8), warmup, timeout=timeout))
        for load in loads:
            if together:
                done = []
                for _ in range(rounds):
                    _progress(f"both at once: {load.requests} requests each, {load.concurrency} at once")
                    done += [each.flowing for each in generate.together([(one, workload, load) for one in targets])]
            else:
                done = interleave(targets, rounds, lambda target, load=load: run(target, load))  # type: ignore[misc]
            found = [report.figures([each for each in done if each.target == target.name]) for target in targets]
            results += found
            if len(found) == 2:
                differences.append(report.difference(*found))
    memory = _gpu_memory(targets)
    _progress("")
    _tell(results, differences, together=together)
    if memory:
        click.echo("GPU memory in use here: " + ", ".join(f"{each['used_mib'] / 1024:.1f} GiB" for each in memory))
    content = report.document(workload, results, differences=differences, gpu_memory=memory)
    try:
        if json_file is not None:
            report.write(json_file, content)
        if plot_file is not None:
            report.plot(results, plot_file)
    except (OSError, report.PlotError) as error:
        raise click.ClickException(str(error)) from None
    if any(row["errors"] for row in results):
        sys.exit(1)


def _given(urls: tuple[str, ...], keys: tuple[str, ...]) -> list[Target]:
    keys = keys or ((environment,) if (environment := os.environ.get("OPENAI_API_KEY")) else ())
    if len(keys) > len(urls):
        raise click.UsageError(f"--api-key is given {len(keys)} times for {len(urls)} URL")
    names = urls if len(set(urls)) == len(urls) else tuple(f"{url} ({at})" for at, url in enumerate(urls, 1))
    key_of = [keys[min(at, len(keys) - 1)] if keys else None for at in range(len(urls))]
    return [Target(name, url, key) for name, url, key in zip(names, urls, key_of, strict=True)]


def _own(context: Context, plan: str | None, *, direct: bool) -> list[Target]:
    """The gateway that runs on this state directory, and before it its engine."""
    config = context.gateway_config()
    found = whereabouts(config.state_dir)
    if found is None:
        raise click.ClickException(
            f"no gateway runs on {config.state_dir}: start it with `gatehouse up`, or give a URL"
        )
    _, listening = found
    if plan is not None:
        known_plan(config, plan)
    key = load_keys(config).signing
    token, _ = issue_token(key, config.auth, subject="bench", plan=plan, ttl_seconds=_TOKEN_SECONDS)
    targets = [Target("gateway", listening.url, token)]
    if direct:
        try:
            status = listening.admin_url + "/engine/status"
            with urllib.request.urlopen(status, timeout=_CALL_SECONDS) as answer:  # noqa: S310 - our own listener
                engine = json.load(answer)["url"]
        except (OSError, ValueError) as error:
            raise click.ClickException(f"the gateway does not say where its engine is: {error}") from None
        targets.insert(0, Target("engine", engine, context.engine_api_key()))
    return targets


def _gpu_memory(targets: list[Target]) -> list[dict[str, int]]:
    """What is taken on each GPU of this machine; of a server that is elsewhere nobody tells it."""
    if not all(_is_here(urlsplit(target.url).hostname or "") for target in targets):
        return []
    return [{"used_mib": gpu.used_mib, "total_mib": gpu.total_mib} for gpu in Nvml().look().gpus]


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{line}", err=True, nl=False)


def _surely(typical: dict[str, float | None] | None) -> str:
    if typical is None or typical["low"] is None or typical["high"] is None:
        return ""
    return f" (a typical round {typical['value']}, 95 % sure: {typical['low']} to {typical['high']})"


def _tell(results: list[dict[str, Any]], differences: list[dict[str, Any]], *, together: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - only here

    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(report.table(results))
    for row in results:
        for error, count in row["errors"].items():
            console.print(f"{row['target']}, {row['concurrency']} at once: {count} × {error}", highlight=False)
    measure = "user_throughput_lost_percent" if together else "throughput_lost_percent"
    for each in differences:
        lost = each[f"{measure}_typical"]
        share = (lost and lost["value"]) if together else each[measure]
        console.print(
            f"{each['concurrency']} at once: {each['of']} loses {share} % of the tokens/s"
            f"{_surely(lost)}, "
            f"adds {each['ttft_added_ms_p50']} ms (p50) and {each['ttft_added_ms_p99']} ms (p99) to TTFT, "
            f"{each['itl_added_ms_p50']} ms to the next token (p50)",
            highlight=False,
            soft_wrap=True,
        )
