"""Who comes near the end of a budget is seen before being refused."""

from pathlib import Path

from gateway.config import PlanSettings
from tests.support.engines import simulator
from tests.support.gateways import gateway


async def test_a_request_near_the_end_of_the_day_is_counted(tmp_path: Path) -> None:
    """Requests that reserve tokens of a day's 400: the counter moves from 80 % on, before the first refusal."""
    plans = {"member": PlanSettings(), "service": PlanSettings(tokens_per_day=400)}
    body = {"model": "gpt-oss-20b", "prompt": [1, 2, 3, 4, 5], "max_tokens": 80, "ignore_eos": True}
    seen, statuses = [], []
    async with simulator() as engine, gateway(engine.url, tmp_path, plans=plans) as gate:
        for number in range(5):
            async with gate.post("/v1/completions", body) as answer:
                statuses.append(answer.status)
            await gate.logged(number + 1)
            seen.append((await gate.metrics())['gatehouse_near_budget_requests_total{plan="service"}'])
    assert statuses == [200, 200, 200, 200, 429]
    assert seen == [0, 0, 0, 1, 2]
