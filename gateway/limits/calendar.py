"""When days and months end, in the time zone that the operator chose."""

import datetime as dt
from zoneinfo import ZoneInfo


class Calendar:
    """Knows the midnights of one time zone, days of 23 and 25 hours included. Times are microseconds since the epoch.

    Answers are cached: each request asks.
    """

    def __init__(self, time_zone: str) -> None:
        """`time_zone` is an IANA name. Raises ZoneInfoNotFoundError where there is no such zone."""
        self._zone: dt.tzinfo = dt.UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        self._days = (0, 0, 0)
        self._months = (0, 0, 0)

    def day_end(self, now: int) -> int:
        """When the day ends that `now` lies in."""
        return self.days(now)[1]

    def month_end(self, now: int) -> int:
        """When the month ends that `now` lies in."""
        return self.months(now)[1]

    def days(self, now: int) -> tuple[int, int, int]:
        """When the day before, that of `now`, and the day after it end: enough for a clock that differs by hours."""
        if not self._days[0] <= now < self._days[1]:
            today = self._date(now)
            self._days = (
                self._midnight(today),
                self._midnight(today + dt.timedelta(days=1)),
                self._midnight(today + dt.timedelta(days=2)),
            )
        return self._days

    def months(self, now: int) -> tuple[int, int, int]:
        """When the month before, that of `now`, and the month after it end."""
        if not self._months[0] <= now < self._months[1]:
            first = self._date(now).replace(day=1)
            following = _next_month(first)
            self._months = (
                self._midnight(first),
                self._midnight(following),
                self._midnight(_next_month(following)),
            )
        return self._months

    def _date(self, now: int) -> dt.date:
        return dt.datetime.fromtimestamp(now / 1_000_000, self._zone).date()

    def _midnight(self, date: dt.date) -> int:
        return round(dt.datetime.combine(date, dt.time(), self._zone).timestamp()) * 1_000_000


def _next_month(first: dt.date) -> dt.date:
    return (first + dt.timedelta(days=31)).replace(day=1)
