"""When days and months end, in the time zone that the operator chose."""

import datetime as dt
from zoneinfo import ZoneInfo

Ends = tuple[int, int, int]
"""When three days or months in a row end."""


class Calendar:
    """Knows the midnights of one time zone, days of 23 and 25 hours included. Times are microseconds since the epoch.

    Answers are cached: each request asks.
    """

    def __init__(self, time_zone: str) -> None:
        """`time_zone` is an IANA name. Raises ZoneInfoNotFoundError where there is no such zone."""
        self._zone: dt.tzinfo = dt.UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        self._near: tuple[Ends, Ends] = (0, 0, 0), (0, 0, 0)

    def day_end(self, now: int) -> int:
        """When the day ends that `now` lies in."""
        return self.near(now)[0][1]

    def month_end(self, now: int) -> int:
        """When the month ends that `now` lies in."""
        return self.near(now)[1][1]

    def near(self, now: int) -> tuple[Ends, Ends]:
        """When the day before, that of `now`, and the day after it end, and the same of months: enough for a clock that
        differs by hours.
        """
        days, _ = self._near
        if not days[0] <= now < days[1]:
            today = self._date(now)
            first = today.replace(day=1)
            following = _next_month(first)
            self._near = (
                (
                    self._midnight(today),
                    self._midnight(today + dt.timedelta(days=1)),
                    self._midnight(today + dt.timedelta(days=2)),
                ),
                (self._midnight(first), self._midnight(following), self._midnight(_next_month(following))),
            )
        return self._near

    def _date(self, now: int) -> dt.date:
        return dt.datetime.fromtimestamp(now / 1_000_000, self._zone).date()

    def _midnight(self, date: dt.date) -> int:
        return round(dt.datetime.combine(date, dt.time(), self._zone).timestamp()) * 1_000_000


def _next_month(first: dt.date) -> dt.date:
    return (first + dt.timedelta(days=31)).replace(day=1)
