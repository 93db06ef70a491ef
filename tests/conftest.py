"""What all tests share."""

from tests.support.deaths import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]
