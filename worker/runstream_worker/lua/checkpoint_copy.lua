-- Copies a thread's checkpoints, writes, values and pieces to another thread, beside what that one has.
-- KEYS  1 to: thread (hash)  2 its index (sorted set)  3 threads (sorted set)  4 from: thread (hash)  5 its index
-- ARGV  1 id of the thread that is copied to  2 time to live, ms
--#include _thread.lua
local fields = redis.call('HGETALL', KEYS[4])
if #fields == 0 then return redis.status_reply('OK') end
for i = 1, #fields, 2 do redis.call('HSET', hash, fields[i], fields[i + 1]) end
for _, name in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do redis.call('ZADD', index, 0, name) end
keep_alive(ARGV[1], ARGV[2])
return redis.status_reply('OK')
