"""What all tests share."""

from hypothesis import HealthCheck, settings

from tests.support.deaths import pytest_terminal_summary

# no verdict on a fact may depend on how busy the machine is
settings.register_profile("gatehouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gatehouse")

__all__ = ["pytest_terminal_summary"]
