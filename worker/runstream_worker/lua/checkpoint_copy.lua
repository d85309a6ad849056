-- Copies a thread's checkpoints, writes, values and pieces to another thread, beside what that one has.
-- KEYS  1 to: thread (hash)  2 its index (sorted set)  3 threads (sorted set)  4 from: thread (hash)  5 its index
-- ARGV  1 id of the thread that is copied to  2 time to live, ms
--#include _thread.lua
if redis.call('EXISTS', KEYS[4]) == 0 then return redis.status_reply('OK') end
for _, name in ipairs(redis.call('HKEYS', KEYS[4])) do
  put(name, redis.call('HGET', KEYS[4], name))
end
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[5], '[c', '(x')) do redis.call('ZADD', index, 0, name) end
count_growth()
keep_alive(ARGV[1], ARGV[2])
return redis.status_reply('OK')
