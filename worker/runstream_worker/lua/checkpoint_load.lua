-- Reads checkpoints with their channel values and pending writes.
-- KEYS  1 thread (hash)  2 its index (sorted set)
-- ARGV  1 'master' if a replica is to refuse it, else ''
--       2.. names of checkpoints; a name without an id stands for the newest one of its namespace
-- Returns {name, row, {channel, value ...}, {name, write ...}, 1 if its parent is there, else 0} each; what is not there
-- is left out.
--#include _thread.lua
local function newest(prefix)
  return redis.call('ZREVRANGEBYLEX', index, '(' .. string.sub(prefix, 1, -2) .. '\1', '[' .. prefix, 'LIMIT', 0, 1)[1]
end

local function gather(refs, from, into)
  for at = from, #refs, 16 do
    local piece = redis.call('HGET', hash, 'p' .. string.sub(refs, at, at + 15))
    if not piece then error('a piece of a channel value is missing') end
    if string.sub(piece, 1, 1) == 'n' then
      gather(piece, 2, into)
    else
      into[#into + 1] = string.sub(piece, 2)
    end
  end
end

-- A value as its serialiser wrote it: its type, a line break, its bytes.
local function whole(value)
  if string.sub(value, 1, 1) == '=' then return string.sub(value, 2) end
  local _, at = line(value, 1)
  local lead = string.byte(value, at)
  local parts = {string.sub(value, 2, at - 1), string.sub(value, at + 1, at + lead)}
  gather(value, at + lead + 1, parts)
  return table.concat(parts)
end

local function load(name, row)
  local head = row_head(row)
  local values, writes = {}, {}
  for channel, version in pairs(head.v) do
    local value = redis.call('HGET', hash, value_name(name, channel, version))
    if value then
      values[#values + 1] = channel
      values[#values + 1] = whole(value)
    end
  end
  for _, write in ipairs(names_below('w' .. string.sub(name, 2) .. '\0')) do
    writes[#writes + 1] = write
    writes[#writes + 1] = redis.call('HGET', hash, write)
  end
  return {name, row, values, writes, redis.call('HEXISTS', hash, 'c' .. namespace_of(name) .. head.p)}
end

local found = {}
for i = 2, #ARGV do
  local name = ARGV[i]
  if string.sub(name, -1) == '\0' then name = newest(name) end
  local row = name and redis.call('HGET', hash, name)
  if row then found[#found + 1] = load(name, row) end
end
return ARGV[1] == 'master' and unwritten(found) or found
