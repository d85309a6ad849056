-- Removes checkpoints with their writes, and the channel values and pieces that no other checkpoint needs.
-- KEYS  1 thread (hash)  2 its index (sorted set)  3 threads (sorted set)
-- ARGV  1 thread id  2.. names of checkpoints
--#include _thread.lua
local function remove(name)
  redis.call('HDEL', hash, name)
  redis.call('ZREM', index, name)
end

local needed = {}
local function need(refs, from)
  for at = from, #refs, 16 do
    local name = 'p' .. string.sub(refs, at, at + 15)
    if not needed[name] then
      needed[name] = true
      local piece = redis.call('HGET', hash, name)
      if piece and string.sub(piece, 1, 1) == 'n' then need(piece, 2) end
    end
  end
end

local function need_value(name)
  if needed[name] then return end
  needed[name] = true
  local value = redis.call('HGET', hash, name)
  if value and string.sub(value, 1, 1) == '*' then
    local _, at = line(value, 1)
    need(value, at + string.byte(value, at) + 1)
  end
end

for i = 2, #ARGV do
  remove(ARGV[i])
  for _, write in ipairs(names_below('w' .. string.sub(ARGV[i], 2) .. '\0')) do remove(write) end
end

for _, name in ipairs(redis.call('ZRANGEBYLEX', index, '[c', '(d')) do
  local head = row_head(redis.call('HGET', hash, name))
  for channel, version in pairs(head.v) do need_value(value_name(name, channel, version)) end
end

for _, name in ipairs(redis.call('HKEYS', hash)) do
  local kind = string.sub(name, 1, 1)
  if (kind == 'b' or kind == 'p') and not needed[name] then redis.call('HDEL', hash, name) end
end
recount()
if redis.call('EXISTS', index) == 0 then
  redis.call('ZREM', threads, ARGV[1])
end
return redis.status_reply('OK')
