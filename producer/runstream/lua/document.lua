-- Writes a JSON document, if it still has the version that its writer knows.
-- KEYS  1 document (hash)  2 index of its kind (sorted set)
-- ARGV  1 id  2 the version that has to be there, 0 for none  3 JSON  4 time to live, ms
--       5 what tells this write from any other, so that it may be sent again after a lost reply
-- Returns {'ok', version} | {'conflict'}: nothing written, another version is there.
--#include _run.lua
local known = redis.call('HMGET', KEYS[1], 'version', 'write')
local version, expected = tonumber(known[1] or 0), tonumber(ARGV[2])
if version == expected + 1 and known[2] == ARGV[5] then return {'ok', version} end
if version ~= expected then return unwritten(KEYS[1], {'conflict'}) end
redis.call('HSET', KEYS[1], 'version', version + 1, 'json', ARGV[3], 'write', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if version == 0 then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[2], score(time[1] * 1000 + time[2] / 1000), ARGV[1])
end
-- As `forget_expired` does for runs.
local prefix = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1])
for _, id in ipairs(redis.call('ZRANDMEMBER', KEYS[2], 2)) do
  if redis.call('EXISTS', prefix .. id) == 0 then redis.call('ZREM', KEYS[2], id) end
end
outlive(KEYS[2], tonumber(ARGV[4]))
return {'ok', version + 1}
