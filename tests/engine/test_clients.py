"""The official clients against the real vLLM: the same suite as against the simulated engine."""

from tests.support.client_suite.answers import *  # noqa: F403
from tests.support.client_suite.refusals import *  # noqa: F403
from tests.support.client_suite.wire import *  # noqa: F403
