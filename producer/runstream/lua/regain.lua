-- Finds out whether an attempt still holds its run. Where Redis has lost the claim, and nobody has had the run since, the
-- attempt may take the run back under its own number, and publish again what Redis has lost of its events.
-- KEYS  1 run (hash)  2 leases (sorted set)  3 held by this worker (set)  4 this worker's bell (list)
-- ARGV  1 attempt  2 worker id  3 id of the event behind which the attempt began, empty for none
--       4 when the run was created, ms  5 lease, ms  6 time to live while running, ms  7 'take back' | 'look'
-- Returns {'held', last}: the sequence number of the attempt's last event that Redis knows, -1 for none
--       | {'lost'}: another has had the run since or has ended it, or has to be served before it on its thread, or events
--       from before the attempt are lost too
--#include _run.lua
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker', 'seq', 'after', 'created_at', 'line')
local status, attempt, mine = record[1], tonumber(record[2]), tonumber(ARGV[1])
if status == 'running' and attempt == mine and record[3] == ARGV[2] then
  return unwritten(KEYS[1], {'held', record[4]})
end
local may = ARGV[7] == 'take back' and status == 'queued' and attempt < mine and record[6] == ARGV[4]
may = may and (last_id(record[2], record[4], record[5]) or '') == ARGV[3]
may = may and (not record[7] or head_of(record[7], KEYS[1]) == KEYS[1])
if not may then return unwritten(KEYS[1], {'lost'}) end
-- `server` stays as it is: what else has been forgotten, nobody knows, so the next number is to go beyond it all the same.
local skipped = tonumber(redis.call('HGET', KEYS[1], 'skipped') or 0) + mine - attempt - 1
local lease, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
hand_to(ARGV[2], KEYS[1], mine, KEYS[2], KEYS[3], KEYS[4], lease, ttl, now_ms(), {'skipped', skipped})
return {'held', redis.call('HGET', KEYS[1], 'seq')}
