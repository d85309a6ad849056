-- Keeps what a task has written towards the next checkpoint.
-- KEYS  1 thread (hash)  2 its index (sorted set)  3 threads (sorted set)  4 run (hash), only from within a run
-- ARGV  1 thread id  2 time to live, ms  3 attempt:worker, empty without a run  4 number of the attempt's event that has to
--       be there
--       5.. 'set' (in the place of what is there) or 'add' (unless something is there), name, value
-- Returns {'ok'}; {'lost'}: nothing written, the attempt does not hold the run;
--       | {'behind', last}: nothing written, Redis knows the attempt's events up to `last` only: it has lost some.
--#include _thread.lua
local refused = refusal(KEYS[4], ARGV[3], ARGV[4])
if refused then return refused end
for i = 5, #ARGV, 3 do
  (ARGV[i] == 'set' and put or put_new)(ARGV[i + 1], ARGV[i + 2])
  redis.call('ZADD', index, 0, ARGV[i + 1])
end
count_growth()
keep_alive(ARGV[1], ARGV[2])
return {'ok'}
