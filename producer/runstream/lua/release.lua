-- Gives a run back for the worker that holds it: the next attempt goes on with it.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 attempt  2 worker id  3 'drained' | 'fault'  4 what is told of it, should it have been the last attempt
--       ('drained' does not count against the run's attempts)  5 ms before the next attempt
-- Returns {'queued' | 'stopped' | 'lost'}: what became of the run; somebody wanted it stopped, or it had no attempts left
--       | {'not held'}: nothing written, another holds the run or has ended it; or this was sent before
--#include _run.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker')
if record[1] ~= 'running' or record[2] ~= ARGV[1] or record[3] ~= ARGV[2] then
  return unwritten(KEYS[1], {'not held'})
end
return {leave(KEYS[1], KEYS[2], ARGV[3], ARGV[3] ~= 'drained', ARGV[4], now_ms(), tonumber(ARGV[5]))}
