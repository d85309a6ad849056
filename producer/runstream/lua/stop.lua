-- Asks that a run end. A run that nobody executes ends here and now; otherwise its worker's bell rings.
-- KEYS  1 run (hash)  2 leases (sorted set)
-- ARGV  1 reason  2 'interrupt': what it has saved stays | 'rollback': it goes
-- Returns {'missing'} | {'ended', status} | {'stopping', worker} | {'stopped'}
--#include _run.lua
return stop_run(KEYS[1], KEYS[2], ARGV[1], ARGV[2], now_ms())
