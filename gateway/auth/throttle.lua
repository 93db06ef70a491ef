-- Back-off on login (gateway/auth/throttle.py has the rules), counted together by all workers: one atomic step.
--
-- KEYS[1] is what all keys begin with. It has a hash tag, so they all live on one node of a cluster:
--   KEYS[1]:pair:<network account>, :address:<network>, :account:<account>   hash: n failures, r ready at, c changed at
--   KEYS[1]:known:<network account>                                         when the pair last signed in
-- ARGV: `attempt` or `succeeded`; network; account; now; forget after; known for; then of pair, address and account the
-- free failures and the longest delay. Times are milliseconds; `now` is '' for the server's own clock.
-- `attempt` returns how long to wait; 0: it is charged as a failure.

local prefix, operation, network, account = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local now = tonumber(ARGV[4])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end
local forget_after, known_for = tonumber(ARGV[5]), tonumber(ARGV[6])
local pair = network .. ' ' .. account
local known = prefix .. ':known:' .. pair

local function track(kind, name, argument)
  local key = prefix .. ':' .. kind .. ':' .. name
  local f = redis.call('HMGET', key, 'n', 'r', 'c')
  local changed = tonumber(f[3])
  if not changed or now - changed > forget_after then f, changed = {}, now end
  return {
    key = key,
    n = tonumber(f[1]) or 0,
    r = tonumber(f[2]) or 0,
    c = changed,
    free = tonumber(ARGV[argument]),
    longest = tonumber(ARGV[argument + 1]),
  }
end

local function save(t)
  redis.call('HSET', t.key, 'n', t.n, 'r', t.r, 'c', t.c)
  redis.call('PEXPIRE', t.key, forget_after)
end

local tracks = { track('pair', pair, 7), track('address', network, 9), track('account', account, 11) }

if operation == 'attempt' then
  local wait = tracks[1].r - now
  local since = tonumber(redis.call('GET', known))
  if not (since and now - since <= known_for) then
    wait = math.max(wait, tracks[2].r - now, tracks[3].r - now)
  end
  if wait > 0 then return math.ceil(wait) end
  for _, t in ipairs(tracks) do
    t.n, t.c = t.n + 1, now
    local over = t.n - t.free
    t.r = now + (over > 0 and math.min(t.longest, 1000 * 2 ^ math.min(over - 1, 32)) or 0)
    save(t)
  end
  return 0
end

redis.call('DEL', tracks[1].key)
for i = 2, 3 do
  local t = tracks[i]
  if t.n > 0 then
    t.n, t.r = t.n - 1, math.min(t.r, now)
    save(t)
  end
end
redis.call('SET', known, now, 'PX', known_for)
return 0
