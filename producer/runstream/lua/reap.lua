-- Looks after runs whose time has passed: a lease that expired (the worker has died or lost its way to Redis) gives the run
-- to the next attempt, or ends it after its last; a run that no worker has taken in its time ends.
-- KEYS  1 leases (sorted set)  2 reaper (string)
-- ARGV  1 how many at most  2 lease, ms
-- Returns {queued, ended, broken}: the run keys that wait for their next attempt, those that ended, and those with which
-- nothing could be done, with the reason after each: their record or stream is not as it must be. They are left alone.
--#include _run.lua
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
  return {{}, {}, {}}
end

local function look_after(run)
  local record = redis.call('HMGET', run, 'status', 'worker', 'graph', 'queued_ttl', 'line', 'attempt')
  if record[1] == 'queued' then
    local head = record[5] and head_of(record[5])
    local told = head and head ~= run and 'its turn on the thread did not come' or
      'no worker that has graph ' .. record[3] .. (record[6] == '0' and ' took it' or ' went on with it')
    local seconds = math.floor(wait_of(record[6], record[4]) / 1000)
    end_lost(run, KEYS[1], 'NotStarted', told .. ' within ' .. seconds .. ' s', now)
    return 'lost'
  elseif record[1] == 'running' then
    local told = 'the lease of worker ' .. (record[2] or '?') .. ' expired: it was killed, or it could not reach Redis'
    return leave(run, KEYS[1], 'lost', true, told, now, 0)
  end
  return 'over'
end

local queued, ended, broken = {}, {}, {}
for _, run in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  -- One run that is not as it must be does not keep the others from being looked after.
  redis.call('ZREM', KEYS[1], run)
  local ok, result = pcall(look_after, run)
  if not ok then
    broken[#broken + 1] = run
    broken[#broken + 1] = type(result) == 'table' and result.err or tostring(result)
  elseif result == 'queued' then
    queued[#queued + 1] = run
  elseif result ~= 'over' then
    ended[#ended + 1] = run
  end
end
return {queued, ended, broken}
