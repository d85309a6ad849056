-- Gives a run back for the worker that holds it: the next attempt goes on with it.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 attempt  2 worker id  3 'drained' | 'fault'; neither counts against the run's attempts
--       4 the message of the run's error, should this have been the last fault that it may have
--       5 ms before the next attempt; doubled with each further fault of the run  6 ms at most
--       7 how many faults the run may have
-- Returns {'queued' | 'stopped' | 'lost'}: what became of the run; somebody wanted it stopped, or it has had too many faults
--       | {'not held'}: nothing written, another holds the run or has ended it; or this was sent before
--#include _run.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker')
if record[1] ~= 'running' or record[2] ~= ARGV[1] or record[3] ~= ARGV[2] then
  return unwritten(KEYS[1], {'not held'})
end
local delay, faults = tonumber(ARGV[5]), 0
if ARGV[3] == 'fault' then
  faults = redis.call('HINCRBY', KEYS[1], 'faults', 1)
  delay = math.min(delay * 2 ^ math.min(faults - 1, 30), math.max(delay, tonumber(ARGV[6])))
end
return {leave(KEYS[1], KEYS[2], ARGV[3], false, ARGV[4], now_ms(), delay, faults >= tonumber(ARGV[7]))}
