-- Reads entries of a run's stream, as far as they fit a page.
-- KEYS  1 events (stream)
-- ARGV  1 from  2 to, as XRANGE takes them  3 how many entries at most  4 how many bytes of them at most
-- Returns {more, entries}: `more` is 1 where the page has no room for the next entry, else 0; the entries are as XRANGE
-- returns them. The first one is returned whatever its size.
local most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local page, bytes, from, step = {}, 0, ARGV[1], 8
while true do
  local some = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', step)
  for _, entry in ipairs(some) do
    local size = 0
    for _, part in ipairs(entry[2]) do size = size + #part end
    if #page > 0 and (#page == most or bytes + size > most_bytes) then return {1, page} end
    page[#page + 1], bytes = entry, bytes + size
    from = '(' .. entry[1]
  end
  if #some < step then return {0, page} end
  -- No more is looked at than will probably be returned.
  step = math.max(1, math.min(128, math.ceil((most_bytes - bytes) * #page / math.max(bytes, 1))))
end
