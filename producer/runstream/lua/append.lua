-- Appends a batch of an attempt's events, once, if the attempt still holds the run.
-- KEYS  1 run (hash)  2 events (stream)  3 settled (stream)
-- ARGV  1 attempt  2 worker id  3 byte limit of a run's events  4 sequence number of the first event
--       5 'gap' to leave out what lies between the last event and the first, else ''
--       6 sequence number up to which the attempt's events are settled, 0 for none  7.. the events' JSON
-- Returns {'ok'} | {'stop', reason}: appended; somebody wants the run stopped
--       | {'full', last}: appended as far as the byte limit allows, up to the sequence number `last`
--       | {'behind', last}: nothing appended, Redis knows the attempt's events up to `last` only: it has lost some
--       | {'lost'}: nothing appended, another holds the run or has ended it
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'worker', 'seq', 'stop', 'bytes')
-- A master that has become a replica refuses what is written, but would say this, too, from what it knew then; so something
-- is written that changes nothing.
local function unwritten(reply)
  redis.call('HDEL', KEYS[1], '')
  return reply
end
if record[1] ~= 'running' or record[2] ~= ARGV[1] or record[3] ~= ARGV[2] then return unwritten({'lost'}) end

local first, last = tonumber(ARGV[4]), tonumber(record[4])
if first > last + 1 and ARGV[5] ~= 'gap' then return unwritten({'behind', record[4]}) end
-- After a reply that was lost on the way the same batch comes again: what is there already is left out.
local skip = math.max(0, last - first + 1)
local bytes, limit = tonumber(record[6]), tonumber(ARGV[3])
local full = false
local appended = 0
for i = 7 + skip, #ARGV do
  full = bytes + #ARGV[i] > limit
  if full then break end
  redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. (first + i - 7), '1', ARGV[i])
  bytes = bytes + #ARGV[i]
  appended = appended + 1
end
if appended > 0 then
  last = first + skip + appended - 1
  redis.call('HSET', KEYS[1], 'seq', last, 'bytes', bytes)
end
local written = appended > 0
local settled = math.min(tonumber(ARGV[6]), last)
if settled > 0 then
  -- The id of the only entry says how far; readers wait for the next one.
  local known = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  local attempt, seq = string.match(known and known[1] or '0-0', '(%d+)-(%d+)')
  if tonumber(attempt) < tonumber(ARGV[1]) or (attempt == ARGV[1] and tonumber(seq) < settled) then
    redis.call('XADD', KEYS[3], 'MAXLEN', 1, ARGV[1] .. '-' .. settled, '1', '')
    redis.call('PEXPIRE', KEYS[3], redis.call('PTTL', KEYS[1]))
    written = true
  end
end
local reply = full and {'full', tostring(last)} or record[5] and {'stop', record[5]} or {'ok'}
return written and reply or unwritten(reply)
