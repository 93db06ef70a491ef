"""A planned restart of the simulated engine, under load, through the whole product."""

from tests.support.planned_restart import CALLERS, restart_under_load
from tests.support.stack import SIMULATED, running_stack


async def test_no_request_is_lost() -> None:
    """Eight callers on four APIs, streaming and not: each of their requests before, during and after is answered whole."""
    simulator = {**SIMULATED["simulator"], "tps": 100, "startup": 2}
    engine = {**SIMULATED, "simulator": simulator, "warmup_batches": [1]}
    with running_stack({"engine": engine}) as stack:
        outcome = await restart_under_load(stack, tokens=50, seconds=60)
        assert outcome.answers > 2 * CALLERS
        assert outcome.longest > 2, "somebody waited for the new engine"
