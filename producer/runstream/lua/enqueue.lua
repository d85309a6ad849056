-- Writes a run, once: the record, the arq job, the place in the queue, the bell.
-- KEYS  1 run (hash)  2 arq job (string)  3 queue (sorted set)  4 bell (list)  5 runs (sorted set)
--       6 idempotency key (string; the same as 1 when there is none)
-- ARGV  1 run id  2 digest of the request  3 due: ms from now, or an absolute time in ms when 4 is 'at'  4 'in' | 'at'
--       5 arq job without its enqueue time: what stands before and 6 after it  7 time to live while queued, ms
--       8 retention after the end, ms  9.. field, value pairs of the record
-- Returns {'new' | 'known' | 'taken', run id}: 'known' is the same request again, 'taken' another one under this id.
--#include _end.lua
if KEYS[6] ~= KEYS[1] then
  local known = redis.call('GET', KEYS[6])
  if known then
    local key = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. known
    local digest = redis.call('HGET', key, 'digest')
    if digest then return {digest == ARGV[2] and 'known' or 'taken', known} end
  end
end
local digest = redis.call('HGET', KEYS[1], 'digest')
if digest then return {digest == ARGV[2] and 'known' or 'taken', ARGV[1]} end

local now = now_ms()
local due = tonumber(ARGV[3])
if ARGV[4] == 'in' then due = now + due end
if due < now then due = now end
local ttl = due - now + tonumber(ARGV[7])

redis.call('DEL', KEYS[1] .. ':events') -- of an earlier run of this id whose record went first
redis.call('HSET', KEYS[1], 'retention', ARGV[8], 'status', 'queued', 'attempt', 0, 'seq', -1, 'bytes', 0, 'digest', ARGV[2],
  'created_at', now, 'due_at', due, 'queue', KEYS[3], unpack(ARGV, 9))
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('SET', KEYS[2], ARGV[5] .. string.format('%.0f', now) .. ARGV[6], 'PX', ttl)
redis.call('ZADD', KEYS[3], due, KEYS[1])
redis.call('ZADD', KEYS[5], now, ARGV[1])
local kept = ttl + tonumber(ARGV[8])
for _, index in ipairs({KEYS[3], KEYS[5]}) do
  if redis.call('PTTL', index) < kept then redis.call('PEXPIRE', index, kept) end
end
if KEYS[6] ~= KEYS[1] then redis.call('SET', KEYS[6], ARGV[1], 'PX', kept) end
-- The index of runs drops those whose record has expired: two looks per run that comes keep it at about twice the runs
-- that exist, wherever in it the expired ones are.
for _, id in ipairs(redis.call('ZRANDMEMBER', KEYS[5], 2)) do
  if redis.call('EXISTS', string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. id) == 0 then redis.call('ZREM', KEYS[5], id) end
end
-- A bounded bell: a worker that takes a run and leaves others rings on, so more strokes than this tell nothing new.
if redis.call('LLEN', KEYS[4]) < 64 then redis.call('RPUSH', KEYS[4], '1') end
redis.call('PEXPIRE', KEYS[4], 60000)
return {'new', ARGV[1]}
