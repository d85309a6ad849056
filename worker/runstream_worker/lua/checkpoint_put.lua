-- Writes a checkpoint, the channel values that are new with it, and the pieces that these consist of.
-- KEYS  1 thread (hash)  2 its index (sorted set)  3 threads (sorted set)  4 run (hash), only from within a run
-- ARGV  1 thread id  2 time to live, ms  3 attempt:worker, empty without a run  4 number of the attempt's event that has to
--       be there  5 name of the checkpoint  6 its row
--       7 how many of the following are values  then name, value pairs of these
--       then name, value pairs of pieces; a value or piece `?` stands for one that should be there already
-- Returns {'ok'}; {'lost'}: nothing written, the attempt does not hold the run;
--       | {'behind', last}: nothing written, Redis knows the attempt's events up to `last` only: it has lost some;
--       | {'missing', names}: nothing written, these values and pieces are not there.
--#include _thread.lua
local refused = refusal(KEYS[4], ARGV[3], ARGV[4])
if refused then return refused end

local pieces = 8 + 2 * tonumber(ARGV[7])
local missing = {}
for i = 8, #ARGV, 2 do
  if ARGV[i + 1] == '?' and redis.call('HEXISTS', hash, ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
end
if #missing > 0 then return unwritten({'missing', missing}) end

for i = 8, #ARGV, 2 do
  if ARGV[i + 1] ~= '?' then (i < pieces and put or put_new)(ARGV[i], ARGV[i + 1]) end
end
put(ARGV[5], ARGV[6])
redis.call('ZADD', index, 0, ARGV[5])
count_growth()
keep_alive(ARGV[1], ARGV[2])
return {'ok'}
