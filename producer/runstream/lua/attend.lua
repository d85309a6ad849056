-- Renews the time for which a gateway attends to deliveries, and hands out those that are due, the shares in turn.
-- No owner gets more than a quarter, and no share more than an eighth, of what the gateway has room for.
-- KEYS  1 deliveries (sorted set)
-- ARGV  1 who  2 for how long, ms  3 time to live of a delivery, ms  4 how many more at most
--       5 how many the gateway has room for in all  6.. ids of those it has
-- Returns {lost, taken}: the ids that are another's now, or have gone; and {id, {field, value ...}} of each that is new,
-- without the payload.
--#include _run.lua
--#include _deliveries.lua
local SHARES_LOOKED_AT = 4000
local DELIVERIES_LOOKED_AT = 1000
-- As `unwritten`: a replica refuses it.
redis.call('ZREM', KEYS[1], '')
local prefix = string.match(KEYS[1], '^(.-):deliveries$') .. ':delivery:'
local now, lease, ttl = now_ms(), tonumber(ARGV[2]), tonumber(ARGV[3])
local more, room = tonumber(ARGV[4]), tonumber(ARGV[5])
local lost, taken, has = {}, {}, {}

local function owner_of(share) return string.match(share, '^(.*)/') or '' end

local function count(share)
  room = room - 1
  has[share] = (has[share] or 0) + 1
  -- A share begins with its owner, and is no owner's name: it has a slash. Without an owner there is none to count for.
  local owner = owner_of(share)
  if owner ~= '' then has[owner] = (has[owner] or 0) + 1 end
end

local function admits(share)
  local owner = owner_of(share)
  return room > 0 and (has[share] or 0) < math.max(1, math.floor(room / 8))
    and (owner == '' or (has[owner] or 0) < math.max(1, math.floor(room / 4)))
end

local function keep(share, id)
  set_due(KEYS[1], share, id, now + lease, ttl)
  redis.call('PEXPIRE', prefix .. id, ttl)
end

-- The fields of a delivery but for its payload, which may be large, and which is read when its turn has come.
local function described(id)
  local names, found = {}, {}
  for _, name in ipairs(redis.call('HKEYS', prefix .. id)) do
    if name ~= 'payload' then names[#names + 1] = name end
  end
  for at, value in ipairs(redis.call('HMGET', prefix .. id, unpack(names))) do
    found[#found + 1] = names[at]
    found[#found + 1] = value
  end
  return found
end

for at = 6, #ARGV do
  local id = ARGV[at]
  local known = redis.call('HMGET', prefix .. id, 'holder', 'share')
  local share = known[2] or '/'
  if known[1] ~= ARGV[1] then
    lost[#lost + 1] = id
  else
    count(share)
    -- What was given up meanwhile stays so, and does not live on for this.
    if redis.call('ZSCORE', KEYS[1] .. ':' .. share, id) then keep(share, id) end
  end
end

-- One of each share in turn. A share that has enough, or no more, is left out from then on: what was handed out since
-- has only made the room smaller.
local turn = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, SHARES_LOOKED_AT)
local looked_at = 0
while #turn > 0 and #taken < more and looked_at < DELIVERIES_LOOKED_AT do
  local again = {}
  for _, share in ipairs(turn) do
    if #taken >= more or looked_at >= DELIVERIES_LOOKED_AT then break end
    local due = admits(share)
      and redis.call('ZRANGEBYSCORE', KEYS[1] .. ':' .. share, '-inf', now, 'LIMIT', 0, 1)[1]
    if due then
      looked_at = looked_at + 1
      again[#again + 1] = share
      if redis.call('EXISTS', prefix .. due) == 0 then
        set_due(KEYS[1], share, due, nil, ttl)
      else
        redis.call('HSET', prefix .. due, 'holder', ARGV[1])
        keep(share, due)
        count(share)
        taken[#taken + 1] = {due, described(due)}
      end
    elseif redis.call('EXISTS', KEYS[1] .. ':' .. share) == 0 then
      redis.call('ZREM', KEYS[1], share)
    end
  end
  turn = again
end
return {lost, taken}
