-- Ends a run: the end event, the status, the retention and the clean-up, in one step.
-- Every script that ends a run includes this file; who calls it has checked that it may.
-- run: the run's key; id: the end event's id; event: its JSON; fields: more fields for the run's hash.
local function end_run(run, leases, id, event, status, now, fields)
  local record = redis.call('HMGET', run, 'retention', 'held', 'queue')
  local retention = tonumber(record[1])
  redis.call('XADD', run .. ':events', id, '1', event)
  redis.call('HSET', run, 'status', status, 'ended_at', now, 'end_id', id, unpack(fields))
  redis.call('ZREM', leases, run)
  if record[2] then redis.call('SREM', record[2], run) end
  if record[3] then redis.call('ZREM', record[3], run) end
  redis.call('DEL', 'arq:job:' .. run)
  redis.call('PEXPIRE', run, retention)
  redis.call('PEXPIRE', run .. ':events', retention)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
