-- What the scripts of deliveries share. A delivery stands in the sorted set of its share, by the time when a gateway has
-- to attend to it; the share stands in `deliveries`, by the time of its first delivery.

-- Sets when a delivery is due, or takes it out where `due` is nil.
local function set_due(deliveries, share, id, due, ttl)
  local own = deliveries .. ':' .. share
  if due then redis.call('ZADD', own, due, id) else redis.call('ZREM', own, id) end
  local first = redis.call('ZRANGE', own, 0, 0, 'WITHSCORES')
  if not first[2] then
    redis.call('ZREM', deliveries, share)
    return
  end
  redis.call('ZADD', deliveries, first[2], share)
  outlive(own, ttl)
  outlive(deliveries, ttl)
end
