-- Writes a checkpoint, the channel values that are new with it, and the pieces that these consist of.
-- KEYS  1 thread (hash)  2 its index (sorted set)  3 threads (sorted set)  4 run (hash), only from within a run
-- ARGV  1 thread id  2 time to live, ms  3 attempt:worker, empty without a run  4 name of the checkpoint  5 its row
--       6 how many of the following are values  then name, value pairs of these
--       then name, value pairs of pieces, a value `?` standing for one that should be there already
-- Returns {'ok'}; {'lost'}: nothing written, the attempt does not hold the run;
--       | {'missing', names}: nothing written, these pieces are not there.
--#include _thread.lua
if lost(KEYS[4], ARGV[3]) then return {'lost'} end

local pieces = 7 + 2 * tonumber(ARGV[6])
local missing = {}
for i = pieces, #ARGV, 2 do
  if ARGV[i + 1] == '?' and redis.call('HEXISTS', hash, ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
end
if #missing > 0 then return {'missing', missing} end

for i = 7, pieces - 2, 2 do redis.call('HSET', hash, ARGV[i], ARGV[i + 1]) end
for i = pieces, #ARGV, 2 do
  if ARGV[i + 1] ~= '?' then redis.call('HSETNX', hash, ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', hash, ARGV[4], ARGV[5])
redis.call('ZADD', index, 0, ARGV[4])
keep_alive(ARGV[1], ARGV[2])
return {'ok'}
