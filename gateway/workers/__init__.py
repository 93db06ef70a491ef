"""Several processes that serve as one gateway: a parent that keeps them, and what they tell each other.

```
 port, worker-N.sock ──▶ worker 1 ─┐ orders ▲     one socket pair each:
                    ──▶ worker 2 ─┤        │     serving, figures, requests ▼
                                  └──── parent ──▶ admin listener
```

The parent serves no request. It starts a worker for each place, another when one dies, and another beside one that is
to be replaced; it sums up what they count. What they must share for their callers' sake is in Redis and SQL.
"""
