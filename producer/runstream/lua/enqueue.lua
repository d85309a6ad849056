-- Writes a run, once: the record, the arq job, the places in the indexes of runs and in its thread's line and, at the head
-- of that, in the queue.
-- KEYS  1 run (hash)  2 arq job (string)  3 queue (sorted set)  4 bell (list)  5 runs (sorted set)
--       6 idempotency key (string; the same as 1 when there is none)  7 thread (sorted set)  8 leases (sorted set)
-- ARGV  1 run id  2 digest of the request  3 due: ms from now, or an absolute time in ms when 4 is 'at'  4 'in' | 'at'
--       5 arq job without its enqueue time: what stands before and 6 after it  7 how long it waits for a worker, ms
--       8 retention after the end, ms  9 'enqueue' | 'reject' | 'interrupt' | 'rollback'  10.. field, value pairs of the
--       record
-- Returns {'new' | 'known' | 'taken' | 'busy', run id, when it was created, ms}: 'known' is the same request again, 'taken'
-- another one under this id; 'busy': nothing was written, this run is on the thread and was not to be waited for.
--#include _run.lua
local function known_as(digest, run, id)
  return {digest == ARGV[2] and 'known' or 'taken', id, redis.call('HGET', run, 'created_at')}
end

if KEYS[6] ~= KEYS[1] then
  local known = redis.call('GET', KEYS[6])
  if known then
    local key = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. known
    local digest = redis.call('HGET', key, 'digest')
    if digest then return unwritten(KEYS[1], known_as(digest, key, known)) end
  end
end
local digest = redis.call('HGET', KEYS[1], 'digest')
if digest then return unwritten(KEYS[1], known_as(digest, KEYS[1], ARGV[1])) end

local line, leases, strategy = KEYS[7], KEYS[8], ARGV[9]
local head = head_of(line)
if head and strategy == 'reject' then
  return unwritten(KEYS[1], {'busy', string.sub(head, #KEYS[1] - #ARGV[1] + 1), redis.call('HGET', head, 'created_at')})
end

local time = redis.call('TIME')
local exact = time[1] * 1000 + time[2] / 1000
local now = math.floor(exact)
local due = tonumber(ARGV[3])
if ARGV[4] == 'in' then due = exact + due end
if due < exact then due = exact end
local place, wait = score(due), tonumber(ARGV[7])
local deadline = due + wait
local ttl = math.ceil(deadline - now) + 86400000

-- First what a full Redis refuses: it looks at a script's first write only, and lets all others through.
redis.call('HSET', KEYS[1], 'retention', ARGV[8], 'status', 'queued', 'attempt', 0, 'seq', -1, 'bytes', 0, 'digest', ARGV[2],
  'created_at', now, 'due_at', math.floor(due), 'queue', KEYS[3], 'queue_bell', KEYS[4], 'line', line, 'place', place,
  'queued_ttl', ARGV[7], 'server', server_id(), unpack(ARGV, 10))
redis.call('DEL', KEYS[1] .. ':events', KEYS[1] .. ':settled') -- of an earlier run of this id whose record went first
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('SET', KEYS[2], ARGV[5] .. string.format('%.0f', now) .. ARGV[6], 'PX', ttl)
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('ZADD', leases, math.floor(deadline), KEYS[1])
redis.call('ZADD', line, place, KEYS[1])
local kept = ttl + tonumber(ARGV[8])
if KEYS[6] ~= KEYS[1] then redis.call('SET', KEYS[6], ARGV[1], 'PX', kept) end
local thread_runs = thread_runs_of(KEYS[1], line)
redis.call('ZADD', thread_runs, now, ARGV[1])
for _, index in ipairs({KEYS[5], thread_runs}) do forget_expired(index, tag_of(KEYS[1])) end

if head and (strategy == 'interrupt' or strategy == 'rollback') then
  for _, other in ipairs(redis.call('ZRANGE', line, 0, -1)) do
    if other ~= KEYS[1] then stop_run(other, leases, 'run ' .. ARGV[1] .. ' took its place on the thread', strategy, now) end
  end
end
-- Only the head of a line is in a queue: this one, or the one that it came to stand before.
local first = head_of(line)
if first == KEYS[1] then
  queue_up(KEYS[1], KEYS[3], KEYS[4], place)
  local second = redis.call('ZRANGE', line, 1, 1)[1]
  local queue = second and redis.call('HGET', second, 'queue')
  if queue then redis.call('ZREM', queue, second) end
end
for _, key in ipairs({KEYS[3], KEYS[5], thread_runs, line, leases}) do outlive(key, kept) end
return {'new', ARGV[1], now}
