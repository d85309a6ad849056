-- Writes what is known of a delivery, and when somebody has to look after it next.
-- KEYS  1 delivery (hash)  2 deliveries (sorted set)
-- ARGV  1 id  2 'new' | 'mine': if the writer has it still | 'known': if it is there, and only fields that it has not
--       3 who writes  4 ms until somebody has to look after it: -1 as before, -2 nobody has to any more
--       5 time to live, ms, which 'known' leaves as it is; 0 removes it  6.. field, value pairs
-- Returns {'ok'} | {'missing'} | {'lost'}: nothing written; it is not there, or another looks after it.
--#include _run.lua
local holder = redis.call('HGET', KEYS[1], 'holder')
if ARGV[2] ~= 'new' then
  if not holder then return unwritten(KEYS[1], {'missing'}) end
  if ARGV[2] == 'mine' and holder ~= ARGV[3] then return unwritten(KEYS[1], {'lost'}) end
end
local ttl, wait = tonumber(ARGV[5]), tonumber(ARGV[4])
if ttl == 0 then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {'ok'}
end
if ARGV[2] == 'new' then redis.call('HSET', KEYS[1], 'holder', ARGV[3]) end
for at = 6, #ARGV, 2 do
  redis.call(ARGV[2] == 'known' and 'HSETNX' or 'HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
-- What is supplied may come late: a delivery that was given up meanwhile must not live on for it.
if ARGV[2] ~= 'known' then redis.call('PEXPIRE', KEYS[1], ttl) end
if wait >= 0 then redis.call('ZADD', KEYS[2], now_ms() + wait, ARGV[1]) end
if wait == -2 then redis.call('ZREM', KEYS[2], ARGV[1]) end
outlive(KEYS[2], ttl)
return {'ok'}
