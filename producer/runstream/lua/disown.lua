-- Takes it down that an attempt is over which does not hold its run, should Redis not know: where it has come back with less
-- than it had acknowledged, the claim may be among what it has lost. Readers may have events of that attempt, so no other
-- one gets its number. One that has got it already is over, too, and nothing of the run stands: two have used its ids.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 attempt  2 worker id
-- Returns {'known'}: nothing was to be done | {'forgotten', 'queued' | 'stopped'}: what becomes of the run
--#include _run.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker', 'seq', 'after', 'line', 'skipped')
local status, attempt, mine = record[1], tonumber(record[2]), tonumber(ARGV[1])
if status ~= 'queued' and status ~= 'running' then return unwritten(KEYS[1], {'known'}) end
local reused = status == 'running' and attempt == mine and record[3] ~= ARGV[2]
if attempt >= mine and not reused then return unwritten(KEYS[1], {'known'}) end
if attempt < mine then
  local after = last_id(record[2], record[4], record[5])
  if after then redis.call('HSET', KEYS[1], 'after', after, 'after_worker', last_publisher(KEYS[1]) or '') end
  redis.call('HSET', KEYS[1], 'attempt', mine, 'seq', -1, 'worker', ARGV[2], 'left', 'lost',
    'skipped', tonumber(record[7] or 0) + mine - attempt - 1)
end
if status == 'queued' then
  wait_again(KEYS[1], KEYS[2], now_ms(), 0)
  return {'forgotten', 'queued'}
end
local became = leave(KEYS[1], KEYS[2], 'lost', false, '', now_ms(), 0)
if reused and became == 'queued' then
  redis.call('HSET', KEYS[1], 'seq', -1)
  redis.call('HDEL', KEYS[1], 'after', 'after_worker')
  redis.call('DEL', KEYS[1] .. ':events', KEYS[1] .. ':settled')
  if record[6] then ask_for_undo(KEYS[1], record[6]) end
end
return {'forgotten', became}
