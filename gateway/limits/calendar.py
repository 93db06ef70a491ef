"""When a day ends, in the time zone that the operator chose."""

import datetime as dt
from zoneinfo import ZoneInfo


class Calendar:
    """Knows the next midnight of one time zone, days of 23 and 25 hours included."""

    def __init__(self, time_zone: str) -> None:
        """`time_zone` is an IANA name. Raises ZoneInfoNotFoundError where there is no such zone."""
        self._zone: dt.tzinfo = dt.UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        self._start = self._end = 0

    def day_end(self, now: int) -> int:
        """When the day ends that `now` lies in; microseconds since the epoch. Cached: each request asks."""
        if not self._start <= now < self._end:
            today = dt.datetime.fromtimestamp(now / 1_000_000, self._zone).date()
            self._start = self._midnight(today)
            self._end = self._midnight(today + dt.timedelta(days=1))
        return self._end

    def _midnight(self, date: dt.date) -> int:
        return round(dt.datetime.combine(date, dt.time(), self._zone).timestamp()) * 1_000_000
