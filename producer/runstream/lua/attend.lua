-- Renews the time for which somebody looks after deliveries, and hands out those that nobody looks after.
-- KEYS  1 deliveries (sorted set)
-- ARGV  1 who  2 for how long, ms  3 time to live of a delivery, ms  4 how many more at most  5.. ids of those it has
-- Returns {lost, taken}: the ids that are another's now, or have gone; and {id, {field, value ...}} of each that is new.
--#include _run.lua
-- As `unwritten`: a replica refuses it.
redis.call('ZREM', KEYS[1], '')
local prefix = string.match(KEYS[1], '^(.-):deliveries$') .. ':delivery:'
local now, lease, ttl = now_ms(), tonumber(ARGV[2]), tonumber(ARGV[3])
local lost, taken = {}, {}
local function keep(id)
  -- What was given up meanwhile stays so, and does not live on for this.
  if not redis.call('ZSCORE', KEYS[1], id) then return end
  redis.call('ZADD', KEYS[1], now + lease, id)
  redis.call('PEXPIRE', prefix .. id, ttl)
end
for at = 5, #ARGV do
  if redis.call('HGET', prefix .. ARGV[at], 'holder') == ARGV[1] then keep(ARGV[at]) else lost[#lost + 1] = ARGV[at] end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[4])) do
  if redis.call('EXISTS', prefix .. id) == 0 then
    redis.call('ZREM', KEYS[1], id)
  else
    redis.call('HSET', prefix .. id, 'holder', ARGV[1])
    keep(id)
    taken[#taken + 1] = {id, redis.call('HGETALL', prefix .. id)}
  end
end
if #taken > 0 or #ARGV > #lost + 4 then outlive(KEYS[1], ttl) end
return {lost, taken}
