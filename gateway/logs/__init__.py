"""Logs: one line a request (the record), and the process's own messages."""

from gateway.logs.line import LogLine
from gateway.logs.process import process_log
from gateway.logs.writer import RequestLog

__all__ = ["LogLine", "RequestLog", "process_log"]
