"""Time that passes without being waited for: what Redis has stored of it moves back."""

from __future__ import annotations

from typing import Any

from runstream.keys import Keys

_SHIFT = """
local ms = tonumber(ARGV[2])
local function moved(time) return string.format('%.3f', tonumber(time) - ms) end
for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'zset' then
    local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #members, 2 do
      -- In a line, 0 is no time: that run has begun.
      if tonumber(members[i + 1]) ~= 0 then redis.call('ZADD', key, moved(members[i + 1]), members[i]) end
    end
  elseif kind == 'hash' then
    local place = redis.call('HGET', key, 'place')
    if place then redis.call('HSET', key, 'place', moved(place)) end
  elseif key == KEYS[1] then
    redis.call('SET', key, moved(redis.call('GET', key)), 'KEEPTTL')
  end
  local left = redis.call('PTTL', key)
  if left >= ms then redis.call('PEXPIRE', key, left - ms) elseif left >= 0 then redis.call('DEL', key) end
end
"""


async def let_pass(redis: Any, keys: Keys, ms: int) -> None:
    """Let so many milliseconds pass for the runs of a cell; with a negative number Redis' clock is put back.

    Everything that the scripts compare with the clock is moved: due times, leases, the reaper's last look, and the
    time that each key has to live. What they only write down (`started_at` and the like) stays.
    """
    await redis.eval(_SHIFT, 1, keys.reaper, keys.tag, ms)
