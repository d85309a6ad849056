-- Ends the runs whose lease has expired: their worker has died or lost its way to Redis.
-- KEYS  1 leases (sorted set)  2 reaper (string)
-- ARGV  1 how many at most  2 lease, ms
-- Returns {ended, broken}: the run keys that ended, and those that could not, with the reason after each: their record
-- or stream is not as it must be. They are left alone.
--#include _end.lua
local now = now_ms()
local lease = tonumber(ARGV[2])
-- After a time in which nobody could look (Redis was away, or every worker was) the leases say nothing: they could not
-- be renewed either. Each holder gets one lease time more to show that it is alive.
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
redis.call('SET', KEYS[2], now, 'PX', 86400000)
if now - last > lease then
  for _, run in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
    redis.call('ZADD', KEYS[1], now + lease, run)
  end
  return {{}, {}}
end

local function lose(run)
  local record = redis.call('HMGET', run, 'status', 'attempt', 'worker')
  if record[1] ~= 'running' then return false end
  local attempt = tonumber(record[2]) + 1
  local text = 'the lease of worker ' .. (record[3] or '?') .. ' expired: it was killed, or it could not reach Redis'
  local failure = {type = 'WorkerLost', message = text}
  local event = cjson.encode({m = 'end', d = {status = 'lost', error = failure, at = now}})
  end_run(run, KEYS[1], attempt .. '-0', event, 'lost', now,
    {'attempt', attempt, 'seq', 0, 'error', cjson.encode(failure)})
  return true
end

local ended, broken = {}, {}
for _, run in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  -- One run that is not as it must be does not keep the others from being looked after.
  redis.call('ZREM', KEYS[1], run)
  local ok, result = pcall(lose, run)
  if not ok then
    broken[#broken + 1] = run
    broken[#broken + 1] = type(result) == 'table' and result.err or tostring(result)
  elseif result then
    ended[#ended + 1] = run
  end
end
return {ended, broken}
