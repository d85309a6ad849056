-- Gives places to what somebody may have so many of at a time. A place is held until its time, and that of a run from its
-- enqueue to its end.
-- KEYS  1 places (sorted set)
-- ARGV  1 how many there are, -1 for any number  2 for how long, ms  3 for how long the places are remembered, ms
--       4.. who takes one: keys of runs, or any other names; who has one keeps it, and for longer
-- Returns {'ok'} | {'full', how many are taken}: none was given.
--#include _run.lua
local most, now = tonumber(ARGV[1]), now_ms()
local runs = string.match(KEYS[1], '^(.-):places:') .. ':run:'
local wanted = {}
for at = 4, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[at]) then wanted[#wanted + 1] = ARGV[at] end
end
local function is_full()
  return most >= 0 and redis.call('ZCARD', KEYS[1]) + #wanted > most
end
local function is_over(name, until_when)
  local status = string.sub(name, 1, #runs) == runs and redis.call('HGET', name, 'status')
  if status then return status ~= 'queued' and status ~= 'running' end
  return until_when < now
end
if #wanted > 0 and is_full() then
  local places = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
  for at = 1, #places, 2 do
    if is_over(places[at], tonumber(places[at + 1])) then redis.call('ZREM', KEYS[1], places[at]) end
  end
  if is_full() then
    -- As `unwritten`: a replica refuses it.
    redis.call('ZREM', KEYS[1], '')
    return {'full', redis.call('ZCARD', KEYS[1])}
  end
end
for at = 4, #ARGV do redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[at]) end
outlive(KEYS[1], tonumber(ARGV[3]))
return {'ok'}
