-- Ends a run for the worker that holds it.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 attempt  2 sequence number of the end event; a higher one is taken where more has arrived than the worker knows
--       3 its JSON  4 status  5.. field, value pairs of the record
-- Returns 'ok', or 'lost' when another holds the run or has ended it.
--#include _end.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'seq')
if record[2] ~= ARGV[1] then return 'lost' end
if record[1] == ARGV[4] then return 'ok' end -- sent again: the reply was lost on the way
if record[1] ~= 'running' then return 'lost' end
local seq = math.max(tonumber(ARGV[2]), tonumber(record[3]) + 1)
end_run(KEYS[1], KEYS[2], ARGV[1] .. '-' .. seq, ARGV[3], ARGV[4], now_ms(), {'seq', seq, unpack(ARGV, 5)})
return 'ok'
