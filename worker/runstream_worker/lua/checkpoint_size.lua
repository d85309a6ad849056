-- Returns what a thread's checkpoints take, in bytes; counts it anew where that is not known.
-- KEYS  1 thread (hash)  2 its index (sorted set)
-- Returns the number of bytes: names, values, and 64 for each field; 0 where there is no such thread.
--#include _thread.lua
return tonumber(redis.call('ZSCORE', index, 'z') or recount())
