-- Takes requests off what somebody may make: so many at once, which fill up again so many a second.
-- KEYS  1 what is left (hash)
-- ARGV  1 a second  2 at once  3 how many are wanted now
-- Returns {'ok'} | {'wait', ms until there are as many}: nothing taken.
--#include _run.lua
local rate, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'left', 'at')
local now = now_ms()
local since = math.max(0, now - tonumber(known[2] or now))
local left = math.min(most, tonumber(known[1] or most) + since * rate / 1000)
local short = wanted - left
if short <= 0 then left = left - wanted end
redis.call('HSET', KEYS[1], 'left', string.format('%.6f', left), 'at', now)
-- When it has filled up, it is as if it had never been.
redis.call('PEXPIRE', KEYS[1], math.ceil((most - left) * 1000 / rate) + 1000)
if short > 0 then return {'wait', math.ceil(short * 1000 / rate)} end
return {'ok'}
