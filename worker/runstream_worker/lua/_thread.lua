-- What the scripts of a thread's checkpoints share; each includes this file behind its own head.
-- A thread is a hash, whose fields are told in docs/PROTOCOL.md, and a sorted set of the names that have an order.
local hash, index, threads = KEYS[1], KEYS[2], KEYS[3]

-- What a thread's fields take, in bytes: names, values, and what Redis adds to each field. Every script that writes keeps
-- the sum as the score of `z` in the index, behind all names; where it is missing, it is counted anew.
local PER_FIELD = 64
local grown = 0

local function put(name, value)
  local known = redis.call('HSTRLEN', hash, name)
  redis.call('HSET', hash, name, value)
  grown = grown + #value - known + (known == 0 and #name + PER_FIELD or 0)
end

local function put_new(name, value)
  if redis.call('HSETNX', hash, name, value) == 1 then grown = grown + #name + #value + PER_FIELD end
end

local function recount()
  local total = 0
  for _, name in ipairs(redis.call('HKEYS', hash)) do
    total = total + #name + redis.call('HSTRLEN', hash, name) + PER_FIELD
  end
  if total > 0 then redis.call('ZADD', index, total, 'z') else redis.call('ZREM', index, 'z') end
  return total
end

-- Adds what has been written: the last step of a script that writes.
local function count_growth()
  if redis.call('ZSCORE', index, 'z') then redis.call('ZINCRBY', index, grown, 'z') else recount() end
end

-- The names that begin with a prefix. The prefix ends with a zero byte, and names go on behind it.
local function names_below(prefix)
  return redis.call('ZRANGEBYLEX', index, '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '\1')
end

local function keep_alive(thread, ttl)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('PEXPIRE', hash, ttl)
  redis.call('PEXPIRE', index, ttl)
  redis.call('ZADD', threads, now + ttl, thread)
  redis.call('ZREMRANGEBYSCORE', threads, '-inf', '(' .. now)
  if redis.call('PTTL', threads) < tonumber(ttl) then redis.call('PEXPIRE', threads, ttl) end
end

-- A reply for which nothing was written. A master that has become a replica would give it, too, from what it knew then; so
-- something is written that changes nothing, which a replica refuses.
local function unwritten(reply)
  redis.call('HDEL', hash, '')
  return reply
end

-- Why the attempt may not write, nil if it may: it has lost its run, or Redis has lost events that come before what is to
-- be written. Who writes outside of a run is not asked.
local function refusal(run, holder, last)
  if not run then return nil end
  local record = redis.call('HMGET', run, 'status', 'attempt', 'worker', 'seq')
  local holds = record[1] == 'running' and (record[2] or '') .. ':' .. (record[3] or '') == holder
  if not holds then return unwritten({'lost'}) end
  if tonumber(record[4] or -1) < tonumber(last) then return unwritten({'behind', record[4]}) end
  return nil
end

-- The first line of a string, and where the rest begins.
local function line(text, from)
  local stop = string.find(text, '\n', from, true)
  return string.sub(text, from, stop - 1), stop + 1
end

-- The head of a checkpoint's row.
local function row_head(row)
  return cjson.decode((line(row, 1)))
end

-- What a checkpoint's name says of its namespace, with the zero byte behind it.
local function namespace_of(name)
  return string.sub(name, 2, string.find(name, '\0', 1, true))
end

-- The name of a channel's value, for a checkpoint with this name.
local function value_name(name, channel, version)
  return 'b' .. namespace_of(name) .. channel .. '\0' .. version
end
