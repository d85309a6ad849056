-- Counts what an owner keeps: how many things of each kind, and their bytes. Two of the things that are known are measured
-- each time, so what has grown, expired or was removed by others is corrected.
-- KEYS  1 stored (sorted set)  2 reserved (sorted set)
-- ARGV  1 'add': measure or reserve things, unless that is too much | 'look': measure these things | 'forget' them
--       2 time to live, ms (0: as before)  3 how long what is not there yet stays reserved, ms  4 bytes that the owner may keep, -1 for any
--       5.. kind, id, bytes that are to come, how many of the kind there may be, how many bytes this one may have (-1: any)
-- Returns {'ok'} | {'full', what, use, most}: nothing was added; what is a kind, 'bytes' of all, or 'size' of one thing
--#include _run.lua
local stored, reserved = KEYS[1], KEYS[2]
local tag = string.match(stored, '^(.-):stored:')
local now = now_ms()

local function bytes_of_document(kind, id)
  return redis.call('HSTRLEN', tag .. ':document:' .. kind .. ':' .. id, 'json')
end

local function bytes_of_checkpoints(id)
  return tonumber(redis.call('ZSCORE', tag .. ':checkpoint-index:' .. id, 'z') or 0)
end

local measure = {}
function measure.thread(id) return bytes_of_document('thread', id) + bytes_of_checkpoints(id) end
function measure.assistant(id) return bytes_of_document('assistant', id) end
function measure.run(id)
  local run = tag .. ':run:' .. id
  local record = redis.call('HMGET', run, 'status', 'bytes', 'thread')
  if not record[1] then return 0 end
  local total = tonumber(record[2] or 0) + bytes_of_document('feedback', id)
  for _, field in ipairs({'request', 'metadata', 'result'}) do total = total + redis.call('HSTRLEN', run, field) end
  -- A run that was given no thread keeps its state under its own id.
  if record[3] == id then total = total + bytes_of_checkpoints(id) end
  return total
end
function measure.webhook(id)
  local delivery = tag .. ':delivery:' .. id
  if redis.call('EXISTS', delivery) == 0 then return 0 end
  return redis.call('HSTRLEN', delivery, 'payload') + redis.call('HSTRLEN', delivery, 'url')
end

local function sum(name)
  return tonumber(redis.call('ZSCORE', stored, '#' .. name) or 0)
end

local function set(kind, id, bytes)
  local name = kind .. ':' .. id
  local known = redis.call('ZSCORE', stored, name)
  if not known then redis.call('ZINCRBY', stored, 1, '#' .. kind) end
  redis.call('ZINCRBY', stored, bytes - tonumber(known or 0), '#bytes')
  redis.call('ZADD', stored, bytes, name)
end

local function drop(kind, id)
  local name = kind .. ':' .. id
  local known = redis.call('ZSCORE', stored, name)
  redis.call('ZREM', reserved, name)
  if not known then return end
  redis.call('ZREM', stored, name)
  redis.call('ZINCRBY', stored, -1, '#' .. kind)
  redis.call('ZINCRBY', stored, -tonumber(known), '#bytes')
end

local function look(kind, id)
  local name = kind .. ':' .. id
  local size = measure[kind](id)
  if size > 0 then
    -- Of what is being copied or written the reservation stands until it is over.
    local until_when = redis.call('ZSCORE', reserved, name)
    if until_when and tonumber(until_when) > now and tonumber(redis.call('ZSCORE', stored, name) or 0) > size then return end
    redis.call('ZREM', reserved, name)
    set(kind, id, size)
  elseif tonumber(redis.call('ZSCORE', reserved, name) or 0) <= now then
    drop(kind, id)
  end
end

local function look_at(name)
  local kind, id = string.match(name, '^([a-z]+):(.+)$')
  if kind and measure[kind] then look(kind, id) end
end

local function keep_alive()
  local ttl = tonumber(ARGV[2])
  if ttl > 0 then
    outlive(stored, ttl)
    outlive(reserved, ttl)
  end
end

if ARGV[1] ~= 'add' then
  for at = 5, #ARGV, 5 do (ARGV[1] == 'look' and look or drop)(ARGV[at], ARGV[at + 1]) end
  keep_alive()
  return {'ok'}
end

local function full(what, use, most)
  redis.call('ZREM', stored, '') -- as `unwritten`: a replica refuses it
  return {'full', what, string.format('%.0f', use), most}
end

for _, name in ipairs(redis.call('ZRANDMEMBER', stored, 2)) do look_at(name) end
local sizes, more = {}, {}
for at = 5, #ARGV, 5 do
  local kind, id = ARGV[at], ARGV[at + 1]
  look(kind, id)
  local known = redis.call('ZSCORE', stored, kind .. ':' .. id)
  sizes[at] = tonumber(known or 0) + tonumber(ARGV[at + 2])
  if not known then more[kind] = (more[kind] or 0) + 1 end
end
local total = sum('bytes')
for at = 5, #ARGV, 5 do
  local kind, most = ARGV[at], tonumber(ARGV[at + 3])
  total = total + tonumber(ARGV[at + 2])
  local largest = tonumber(ARGV[at + 4])
  if largest >= 0 and sizes[at] > largest then return full('size', sizes[at], ARGV[at + 4]) end
  if most >= 0 and more[kind] and sum(kind) + more[kind] > most then
    return full(kind, sum(kind), ARGV[at + 3])
  end
end
local most_bytes = tonumber(ARGV[4])
if most_bytes >= 0 and total > most_bytes then
  return full('bytes', sum('bytes'), ARGV[4])
end
for at = 5, #ARGV, 5 do
  set(ARGV[at], ARGV[at + 1], sizes[at])
  redis.call('ZADD', reserved, now + tonumber(ARGV[3]), ARGV[at] .. ':' .. ARGV[at + 1])
end
keep_alive()
return {'ok'}
