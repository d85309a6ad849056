-- Takes due runs off the queues: each gets a lease, its next attempt number and its attempt event.
-- KEYS  1 leases (sorted set)  2 held by this worker (set)  3 this worker's bell (list)
--       then for each graph  queue (sorted set), bell (list)
-- ARGV  1 worker id  2 how many at most  3 lease, ms  4 time to live while running, ms
--       5.. only after a reply was lost: '?' and the run keys that the worker knows it holds
-- Returns {claimed, dropped, next due}
--   claimed: {run key, attempt, request} each; dropped: queue members that are no queued run;
--   next due: ms from now until the next run is due, 0 when some are due already, -1 when none waits.
--#include _end.lua
local now = now_ms()
local limit = tonumber(ARGV[2])
local claimed, dropped = {}, {}

-- The reply to an earlier claim was lost on the way: hand out again what this worker holds without knowing it.
if ARGV[5] == '?' then
  local known = {}
  for i = 6, #ARGV do known[ARGV[i]] = true end
  for _, run in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if not known[run] then
      local record = redis.call('HMGET', run, 'worker', 'status', 'attempt', 'request')
      if record[1] == ARGV[1] and record[2] == 'running' then
        redis.call('ZADD', KEYS[1], now + ARGV[3], run)
        claimed[#claimed + 1] = {run, record[3], record[4]}
      else
        redis.call('SREM', KEYS[2], run)
      end
    end
  end
end

local function start(queue, run)
  redis.call('ZREM', queue, run)
  -- Whatever is in the queue, a claim goes on: a key of another type answers with an error, which is not a record.
  local record = redis.pcall('HMGET', run, 'status', 'attempt', 'seq', 'request', 'first_started_at')
  if record.err or record[1] ~= 'queued' then
    dropped[#dropped + 1] = run
    return
  end
  local attempt = tonumber(record[2]) + 1
  local data = {attempt = attempt, worker = ARGV[1], at = now}
  if attempt > 1 then data.after = record[2] .. '-' .. record[3] end
  -- The lease first: whatever fails behind it, somebody will look after the run.
  redis.call('ZADD', KEYS[1], now + ARGV[3], run)
  redis.call('SADD', KEYS[2], run)
  redis.call('HSET', run, 'status', 'running', 'attempt', attempt, 'seq', 0, 'worker', ARGV[1], 'started_at', now,
    'first_started_at', record[5] or now, 'held', KEYS[2], 'bell', KEYS[3])
  redis.call('XADD', run .. ':events', attempt .. '-0', '1', cjson.encode({m = 'attempt', d = data}))
  redis.call('PEXPIRE', run, ARGV[4])
  redis.call('PEXPIRE', run .. ':events', ARGV[4])
  claimed[#claimed + 1] = {run, tostring(attempt), record[4]}
end

-- The head of every queue, the longest due first whichever queue it waits in.
local due = {}
for i = 4, #KEYS, 2 do
  local head = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for j = 1, #head, 2 do due[#due + 1] = {tonumber(head[j + 1]), KEYS[i], head[j]} end
end
if #KEYS > 5 then table.sort(due, function(a, b) return a[1] < b[1] end) end
for _, entry in ipairs(due) do
  if #claimed >= limit then break end
  start(entry[2], entry[3])
end
if #claimed > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end

-- What is left wakes the next idle worker; where nothing is due, strokes that are still there mean nothing.
local next_due = -1
for i = 4, #KEYS, 2 do
  local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  local wait = first[2] and math.max(0, tonumber(first[2]) - now) or -1
  if wait ~= 0 then
    redis.call('DEL', KEYS[i + 1])
  elseif redis.call('LLEN', KEYS[i + 1]) == 0 then
    redis.call('RPUSH', KEYS[i + 1], '1')
    redis.call('PEXPIRE', KEYS[i + 1], 60000)
  end
  if wait >= 0 and (next_due < 0 or wait < next_due) then next_due = wait end
end
return {claimed, dropped, next_due}
