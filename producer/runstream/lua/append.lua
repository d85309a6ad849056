-- Appends a batch of an attempt's events, once, if the attempt still holds the run.
-- KEYS  1 run (hash)  2 events (stream)
-- ARGV  1 attempt  2 byte limit of a run's events  3 sequence number of the first event  4.. the events' JSON
-- Returns {'ok'} | {'stop', reason} (appended; somebody wants the run stopped) | {'full'} | {'lost'} (nothing appended).
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'seq', 'stop', 'bytes')
if record[1] ~= 'running' or record[2] ~= ARGV[1] then return {'lost'} end

-- After a reply that was lost on the way the same batch comes again: what is there already is left out.
local first = tonumber(ARGV[3])
local skip = math.max(0, tonumber(record[3]) - first + 1)
local last = first + #ARGV - 4
if skip < #ARGV - 3 then
  local size = 0
  for i = 4 + skip, #ARGV do size = size + #ARGV[i] end
  if tonumber(record[5]) + size > tonumber(ARGV[2]) then return {'full'} end
  for i = 4 + skip, #ARGV do
    redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. (first + i - 4), '1', ARGV[i])
  end
  redis.call('HSET', KEYS[1], 'seq', last, 'bytes', tonumber(record[5]) + size)
end
if record[4] then return {'stop', record[4]} end
return {'ok'}
