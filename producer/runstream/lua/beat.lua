-- Renews the leases of one worker's runs and what the worker says of itself.
-- KEYS  1 leases (sorted set)  2 workers (sorted set)  3 worker (hash)  4 held (set)  5 this worker's bell (list)
-- ARGV  1 worker id  2 lease, ms  3 time to live of the worker's keys, ms  4 time to live of a running run, ms
--       5 how many field, value pairs follow  then those pairs of the worker's hash
--       then run key, attempt pairs
-- Returns {lost, stop}: the run keys that the worker no longer holds; and run key, reason, action of those to be stopped.
--#include _run.lua
local now = now_ms()
local runs, ttl = 6 + 2 * ARGV[5], tonumber(ARGV[4])
-- First something that takes no room: a full Redis looks at a script's first write only, and who is alive has to be able
-- to say so.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
redis.call('HSET', KEYS[3], 'beat_at', now, unpack(ARGV, 6, runs - 1))
redis.call('ZADD', KEYS[2], now, ARGV[1])
for i = 2, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
local lost, stop = {}, {}
for i = runs, #ARGV, 2 do
  local run = ARGV[i]
  local record = redis.call('HMGET', run, 'status', 'attempt', 'worker', 'stop', 'stop_action', 'line')
  if record[1] == 'running' and record[2] == ARGV[i + 1] and record[3] == ARGV[1] then
    redis.call('ZADD', KEYS[1], now + ARGV[2], run)
    -- A run may last longer than its keys were given to live.
    redis.call('PEXPIRE', run, ttl)
    redis.call('PEXPIRE', run .. ':events', ttl)
    redis.call('PEXPIRE', run .. ':settled', ttl)
    if record[6] then outlive(record[6], ttl) end
    outlive_in_indexes(run, record[6], ttl)
    if record[4] then
      stop[#stop + 1] = run
      stop[#stop + 1] = record[4]
      stop[#stop + 1] = record[5] or 'interrupt'
    end
  else
    lost[#lost + 1] = run
  end
end
if #ARGV >= runs then outlive(KEYS[1], ttl) end
return {lost, stop}
