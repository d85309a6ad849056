-- Writes what is known of a delivery, and when a gateway has to attend to it next.
-- KEYS  1 delivery (hash)  2 deliveries (sorted set)
-- ARGV  1 id  2 'new' | 'mine': if the writer has it still | 'known': if it is there, and only fields that it has not
--       3 who writes  4 ms until a gateway has to attend to it: -1 as before, -2 nobody has to any more
--       5 time to live, ms, which 'known' leaves as it is; 0 removes it  6.. field, value pairs; the field `share` of
--       a new one says in which sorted set it stands
-- Returns {'ok'} | {'missing'} | {'lost'}: nothing written; it is not there, or another gateway has it.
--#include _run.lua
--#include _deliveries.lua
local holder = redis.call('HGET', KEYS[1], 'holder')
if ARGV[2] ~= 'new' then
  if not holder then return unwritten(KEYS[1], {'missing'}) end
  if ARGV[2] == 'mine' and holder ~= ARGV[3] then return unwritten(KEYS[1], {'lost'}) end
end
local ttl, wait = tonumber(ARGV[5]), tonumber(ARGV[4])
if ttl == 0 then
  set_due(KEYS[2], redis.call('HGET', KEYS[1], 'share') or '/', ARGV[1], nil, ttl)
  redis.call('DEL', KEYS[1])
  return {'ok'}
end
if ARGV[2] == 'new' then redis.call('HSET', KEYS[1], 'holder', ARGV[3]) end
for at = 6, #ARGV, 2 do
  redis.call(ARGV[2] == 'known' and 'HSETNX' or 'HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
-- What is supplied may come late: a delivery that was given up meanwhile must not live on for it.
if ARGV[2] ~= 'known' then redis.call('PEXPIRE', KEYS[1], ttl) end
if wait ~= -1 then
  set_due(KEYS[2], redis.call('HGET', KEYS[1], 'share') or '/', ARGV[1], wait >= 0 and now_ms() + wait or nil, ttl)
end
return {'ok'}
