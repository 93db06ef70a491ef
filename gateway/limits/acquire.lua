-- The books of the limiter (gateway/limits/limiter.py), layout 1: acquire, renew and settle, each one atomic step.
-- What follows from them (refusals, rates, waits) is worked out by the gateway from the numbers that are returned.
--
-- KEYS[1] is what all keys begin with. It has a hash tag, so they all live on one node of a cluster:
--   KEYS[1]:a:<rule>  hash        r, t        when the backlogs of requests and tokens are worked off
--                                 day, d      the day's end, and the tokens of that day
--                                 month, m    the same for the month
--   KEYS[1]:l:<rule>  sorted set  leases: reservation -> expiry
--   KEYS[1]:r:<id>    MessagePack reservation: {tokens, day, month, till, rules = {{key, tpm, day?, month?, lease?}}}
-- ARGV[1] is the operation, ARGV[2] its arguments as one array in MessagePack; false in it is unlimited.
-- Times are whole microseconds of the server's clock; doubles hold them exactly.
--
-- Gateways of two versions may share a Redis while they are being replaced. Fields may be added: each script writes its
-- own and leaves the others alone. Where a field changes its meaning, the layout's number in KEYS[1] changes.

local SLACK = 60000 -- milliseconds that a key outlives its use
local MINUTE = 60000000
local prefix = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- An integer as Redis takes it. Left to Redis, every number is printed as a double, which takes several times as long.
local function text(integer) return string.format(integer < 2 ^ 53 and '%d' or '%.0f', integer) end

-- The caller knows the calendar, the server the time: of three ends the first that lies ahead.
local function ahead(ends) return (ends[1] > now and ends[1]) or (ends[2] > now and ends[2]) or ends[3] end

local function cost(tokens, per_minute) return math.ceil(tokens * MINUTE / per_minute) end

-- How long a key is kept for something that lasts so long, in milliseconds.
local function kept(microseconds) return text(math.ceil(microseconds / 1000) + SLACK) end

local function account(rule)
  local key = prefix .. ':a:' .. rule
  local f = redis.call('HMGET', key, 'r', 't', 'day', 'd', 'month', 'm')
  return {
    key = key,
    r = tonumber(f[1]) or 0,
    t = tonumber(f[2]) or 0,
    day = tonumber(f[3]) or 0,
    d = tonumber(f[4]) or 0,
    month = tonumber(f[5]) or 0,
    m = tonumber(f[6]) or 0,
  }
end

local function save(a)
  local till = math.max(a.r, a.t)
  if a.d > 0 then till = math.max(till, a.day) end
  if a.m > 0 then till = math.max(till, a.month) end
  redis.call('HSET', a.key, 'r', text(a.r), 't', text(a.t), 'day', text(a.day), 'd', text(a.d),
    'month', text(a.month), 'm', text(a.m))
  redis.call('PEXPIRE', a.key, kept(math.max(0, till - now)))
end

local function lease(rule, id, microseconds)
  local key = prefix .. ':l:' .. rule
  redis.call('ZADD', key, text(now + microseconds), id)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
  redis.call('PEXPIRE', key, kept(microseconds))
end

local function nth_expiry(rule, n)
  local found = redis.call('ZRANGEBYSCORE', prefix .. ':l:' .. rule, '(' .. text(now), '+inf',
    'WITHSCORES', 'LIMIT', n, 1)
  return tonumber(found[2]) or 0
end

local function keep(id, reservation, microseconds)
  reservation.till = now + microseconds
  redis.call('SET', prefix .. ':r:' .. id, cmsgpack.pack(reservation), 'PX', kept(microseconds))
end

local function reserved(id)
  local packed = redis.call('GET', prefix .. ':r:' .. id)
  if not packed then return nil end
  local reservation = cmsgpack.unpack(packed)
  return reservation.till > now and reservation or nil
end

-- `force` charges whatever the limits say. `days` and `months` are ends of them, a rule is an array: its key, what a
-- request costs, the depth of requests, tokens a minute, their depth, concurrent requests, tokens a day and a month.
-- What comes too late is refused: the gateway has given up, and may have settled what this would reserve.
-- Returns, in MessagePack, whether it holds, how many of the first rule's leases there were, the time, how long day and
-- month last, and how each account stands.
local function acquire(id, tokens, lease_time, forget_after, force, valid_until, days, months, wanted)
  if now > valid_until then return redis.error_reply('STALE the gateway no longer waits for this') end
  local day_end, month_end = ahead(days), ahead(months)
  local rules, again, pass = {}, reserved(id) ~= nil, true
  for i, rule in ipairs(wanted) do
    local a = account(rule[1])
    if a.day ~= day_end then a.day, a.d = day_end, 0 end
    if a.month ~= month_end then a.month, a.m = month_end, 0 end
    a.rule, a.request_cost, a.request_depth, a.tpm, a.token_depth, a.concurrent, a.per_day, a.per_month = unpack(rule)
    a.leases = redis.call('ZCOUNT', prefix .. ':l:' .. a.rule, '(' .. text(now), '+inf')
    rules[i] = a
    if (a.request_cost and math.max(a.r - now, 0) + a.request_cost > a.request_depth)
      or (a.tpm and math.max(a.t - now, 0) + cost(tokens, a.tpm) > a.token_depth)
      or (a.concurrent and a.leases >= a.concurrent)
      or (a.per_day and a.d + tokens > a.per_day)
      or (a.per_month and a.m + tokens > a.per_month) then
      pass = false
    end
  end
  local running = rules[1].leases
  if again then
    local till = redis.call('ZSCORE', prefix .. ':l:' .. rules[1].rule, id)
    if till and tonumber(till) > now then running = running - 1 end
  elseif pass or force then
    local noted = {}
    for i, a in ipairs(rules) do
      noted[i] = { key = a.rule, tpm = a.tpm or nil, day = a.per_day and true or nil,
        month = a.per_month and true or nil, lease = (i == 1 or a.concurrent) and true or nil }
    end
    -- the first write is one that a full memory refuses: then nothing has happened yet
    keep(id, { tokens = tokens, day = day_end, month = month_end, rules = noted }, forget_after)
    for i, a in ipairs(rules) do
      if a.request_cost then a.r = math.max(a.r, now) + a.request_cost end
      if a.tpm then a.t = math.max(a.t, now) + cost(tokens, a.tpm) end
      if a.per_day then a.d = a.d + tokens end
      if a.per_month then a.m = a.m + tokens end
      if a.request_cost or a.tpm or a.per_day or a.per_month then save(a) end
      if noted[i].lease and lease_time > 0 then
        lease(a.rule, id, lease_time)
        a.leases, a.last = a.leases + 1, now + lease_time -- all leases are of one length: the newest ends last
      end
    end
  end
  local standings = {}
  for i, a in ipairs(rules) do
    local free_at, last = 0, 0
    if a.concurrent and a.leases > 0 then
      last = a.last or nth_expiry(a.rule, a.leases - 1)
      if a.leases >= a.concurrent then free_at = nth_expiry(a.rule, a.leases - a.concurrent) end
    end
    standings[i] = { a.r, a.t, a.d, a.m, a.leases, free_at, last }
  end
  local moment = { now, day_end - now, month_end - now }
  return cmsgpack.pack({ again or pass or force, running, moment, standings })
end

-- Returns the ids that are unknown.
local function renew(lease_time, forget_after, ids)
  local unknown = {}
  for _, id in ipairs(ids) do
    local reservation = reserved(id)
    if reservation then
      keep(id, reservation, forget_after)
      for _, rule in ipairs(reservation.rules) do
        if rule.lease then lease(rule.key, id, lease_time) end
      end
    else
      unknown[#unknown + 1] = id
    end
  end
  return unknown
end

-- What an account has of a day or month, corrected by a request of the one that ends at `its_end`. That of a request
-- that began yesterday was yesterday's: it does not touch today's budget.
local function corrected(ends, tokens, its_end, difference)
  if ends <= now and its_end > now then ends, tokens = its_end, 0 end
  if ends == its_end then tokens = tokens + difference end
  return ends, tokens
end

-- Of pairs: id, tokens used. What is settled is unknown from then on.
local function settle(ended)
  for _, each in ipairs(ended) do
    local id, used = each[1], each[2]
    local reservation = reserved(id)
    if reservation then
      local difference = used - reservation.tokens
      for _, rule in ipairs(reservation.rules) do
        if rule.lease then redis.call('ZREM', prefix .. ':l:' .. rule.key, id) end
        if rule.tpm or rule.day or rule.month then
          local a = account(rule.key)
          if rule.tpm then
            a.t = math.max(a.t, now) + cost(used, rule.tpm) - cost(reservation.tokens, rule.tpm)
          end
          if rule.day then a.day, a.d = corrected(a.day, a.d, reservation.day, difference) end
          if rule.month then a.month, a.m = corrected(a.month, a.m, reservation.month, difference) end
          save(a)
        end
      end
      redis.call('DEL', prefix .. ':r:' .. id)
    end
  end
  return 0
end

local operations = { acquire = acquire, renew = renew, settle = settle }
return operations[ARGV[1]](unpack(cmsgpack.unpack(ARGV[2])))
