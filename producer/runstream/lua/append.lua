-- Appends a batch of an attempt's events, once, if the attempt still holds the run.
-- KEYS  1 run (hash)  2 events (stream)
-- ARGV  1 attempt  2 byte limit of a run's events  3 sequence number of the first event  4.. the events' JSON
-- Returns {'ok'} | {'stop', reason}: appended; somebody wants the run stopped
--       | {'full', last}: appended as far as the byte limit allows, up to the sequence number `last`
--       | {'lost'}: nothing appended, another holds the run or has ended it
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'seq', 'stop', 'bytes')
if record[1] ~= 'running' or record[2] ~= ARGV[1] then return {'lost'} end

-- After a reply that was lost on the way the same batch comes again: what is there already is left out.
local first = tonumber(ARGV[3])
local skip = math.max(0, tonumber(record[3]) - first + 1)
local bytes, limit = tonumber(record[5]), tonumber(ARGV[2])
local full = false
local appended = 0
for i = 4 + skip, #ARGV do
  full = bytes + #ARGV[i] > limit
  if full then break end
  redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. (first + i - 4), '1', ARGV[i])
  bytes = bytes + #ARGV[i]
  appended = appended + 1
end
local last = first + skip + appended - 1
if appended > 0 then redis.call('HSET', KEYS[1], 'seq', last, 'bytes', bytes) end
if full then return {'full', tostring(last)} end
if record[4] then return {'stop', record[4]} end
return {'ok'}
