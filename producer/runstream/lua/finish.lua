-- Ends a run for the worker that holds it.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 attempt  2 worker id
--       3 sequence number of the end event; a higher one is taken where more has arrived than the worker knows
--       4 'gap' to leave out what lies between the last event and the end, else ''
--       5 its JSON  6 status  7.. field, value pairs of the record
-- Returns {'ok'} | {'lost'}: another holds the run or has ended it
--       | {'behind', last}: nothing written, Redis knows the attempt's events up to `last` only: it has lost some
--#include _run.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker', 'seq', 'stop_action', 'line')
if record[2] ~= ARGV[1] or record[3] ~= ARGV[2] then return unwritten(KEYS[1], {'lost'}) end
if record[1] == ARGV[6] then return unwritten(KEYS[1], {'ok'}) end -- sent again: the reply was lost on the way
if record[1] ~= 'running' then return unwritten(KEYS[1], {'lost'}) end
local last = tonumber(record[4])
if tonumber(ARGV[3]) > last + 1 and ARGV[4] ~= 'gap' then return unwritten(KEYS[1], {'behind', record[4]}) end
local seq = math.max(tonumber(ARGV[3]), last + 1)
-- Its worker may not have heard of that wish in time, or may not have been able to do it.
if record[5] == 'rollback' and record[6] then ask_for_undo(KEYS[1], record[6]) end
end_run(KEYS[1], KEYS[2], ARGV[1] .. '-' .. seq, ARGV[5], ARGV[6], now_ms(), {'seq', seq, unpack(ARGV, 7)})
return {'ok'}
