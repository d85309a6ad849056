-- Asks that a run end. A run that nobody executes ends here and now; otherwise its worker's bell rings.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 reason
-- Returns {'missing'} | {'ended', status} | {'stopping', worker} | {'stopped'}
--#include _end.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker', 'bell', 'stop')
local status = record[1]
if not status then return {'missing'} end
if status ~= 'queued' and status ~= 'running' then return {'ended', status} end
local now = now_ms()
if status == 'running' then
  local expires = redis.call('ZSCORE', KEYS[2], KEYS[1])
  if expires and tonumber(expires) >= now then
    if not record[5] then redis.call('HSET', KEYS[1], 'stop', ARGV[1]) end
    redis.call('RPUSH', record[4], KEYS[1])
    redis.call('PEXPIRE', record[4], 60000)
    return {'stopping', record[3]}
  end
end
-- Who ends a run that it does not hold takes the next attempt number: a worker that wakes up later is fenced off.
local attempt = tonumber(record[2]) + 1
local event = cjson.encode({m = 'end', d = {status = 'stopped', reason = ARGV[1], at = now}})
end_run(KEYS[1], KEYS[2], attempt .. '-0', event, 'stopped', now, {'attempt', attempt, 'seq', 0, 'stop', ARGV[1]})
return {'stopped'}
