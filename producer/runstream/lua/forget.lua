-- Forgets a run that has ended: its record and its events, and that it was in any index.
-- KEYS  1 run (hash)  2 events (stream)  3 arq job (string)  4 runs (sorted set)  5 dead letters (sorted set)
-- ARGV  1 run id
-- Returns {'ok'} | {'missing'} | {'active'}: nothing was removed, the run has not ended
--#include _run.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'line')
if not record[1] then return unwritten(KEYS[1], {'missing'}) end
if record[1] == 'queued' or record[1] == 'running' then return unwritten(KEYS[1], {'active'}) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
for _, index in ipairs({KEYS[4], KEYS[5]}) do redis.call('ZREM', index, ARGV[1]) end
if record[2] then redis.call('ZREM', thread_runs_of(KEYS[1], record[2]), ARGV[1]) end
return {'ok'}
