-- Takes due runs off the queues: each gets a lease and its next attempt number; the first attempt's event is written.
-- KEYS  1 leases (sorted set)  2 held by this worker (set)  3 this worker's bell (list)
--       then for each graph  queue (sorted set), bell (list)
-- ARGV  1 worker id  2 how many at most  3 lease, ms  4 time to live while running, ms
--       5.. only after a reply was lost: '?' and the run keys that the worker knows it holds
-- Returns {claimed, dropped, next due}
--   claimed: {run key, attempt, request, after, left, after worker, created at, undo ...} each: the id of the stream's
--   last event, why the last attempt was left and the worker that has published that event (empty where there is none);
--   when the run was created, ms; the runs whose checkpoints the attempt removes from the thread first;
--   dropped: queue members that are no queued run;
--   next due: ms from now until the next run is due, 0 when some are due already, -1 when none waits.
--#include _run.lua
local now = now_ms()
local limit = tonumber(ARGV[2])
local ttl = tonumber(ARGV[4])
local claimed, dropped = {}, {}

local function hand_out(run)
  local record = redis.call('HMGET', run, 'attempt', 'request', 'after', 'left', 'line', 'after_worker', 'created_at')
  local undo = record[5] and redis.call('SMEMBERS', undo_of(run, record[5])) or {}
  claimed[#claimed + 1] = {run, record[1], record[2], record[3] or '', record[4] or '', record[6] or '',
    record[7], unpack(undo)}
end

-- The reply to an earlier claim was lost on the way: hand out again what this worker holds without knowing it.
if ARGV[5] == '?' then
  local known = {}
  for i = 6, #ARGV do known[ARGV[i]] = true end
  for _, run in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if not known[run] then
      local record = redis.call('HMGET', run, 'worker', 'status')
      if record[1] == ARGV[1] and record[2] == 'running' then
        redis.call('ZADD', KEYS[1], now + ARGV[3], run)
        hand_out(run)
      else
        redis.call('SREM', KEYS[2], run)
      end
    end
  end
end

local function start(queue, run)
  -- Whatever is in the queue, a claim goes on: a key of another type answers with an error, which is not a record.
  local record = redis.pcall('HMGET', run, 'status', 'attempt', 'seq', 'line')
  if record.err or record[1] ~= 'queued' or not record[2] or not record[3] then
    redis.call('ZREM', queue, run)
    dropped[#dropped + 1] = run
    return
  end
  local line = record[4]
  local head = line and head_of(line, run)
  if head and head ~= run then
    -- Not its turn: it is called up when the one before it ends.
    redis.call('ZREM', queue, run)
    return
  end
  local attempt, more = next_number(run, now)
  hand_to(ARGV[1], run, attempt, KEYS[1], KEYS[2], KEYS[3], ARGV[3], ttl, now, more)
  redis.call('ZREM', queue, run)
  hand_out(run)
end

-- The head of every queue, the longest due first whichever queue it waits in.
local due = {}
for i = 4, #KEYS, 2 do
  local head = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now + 1, 'WITHSCORES', 'LIMIT', 0, limit)
  for j = 1, #head, 2 do due[#due + 1] = {tonumber(head[j + 1]), KEYS[i], head[j]} end
end
if #KEYS > 5 then table.sort(due, function(a, b) return a[1] < b[1] end) end
for _, entry in ipairs(due) do
  if #claimed >= limit then break end
  start(entry[2], entry[3])
end

-- What is left wakes the next idle worker; where nothing is due, strokes that are still there mean nothing.
local next_due = -1
for i = 4, #KEYS, 2 do
  local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  local wait = first[2] and math.max(0, math.ceil(tonumber(first[2]) - now - 1)) or -1
  if wait ~= 0 then
    redis.call('DEL', KEYS[i + 1])
  elseif redis.call('LLEN', KEYS[i + 1]) == 0 then
    redis.call('RPUSH', KEYS[i + 1], '1')
    redis.call('PEXPIRE', KEYS[i + 1], 60000)
  end
  if wait >= 0 and (next_due < 0 or wait < next_due) then next_due = wait end
end
return {claimed, dropped, next_due}
