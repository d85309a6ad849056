-- What the scripts share of a run's life; each includes this file behind its own head.
-- A run is named by its key; what else belongs to it is found in its record. All keys are of one cell, so of one slot.
local DEAD_TTL = 604800000
local UNDO_TTL = 2592000000
local DAY = 86400000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A time in ms with its microseconds, as a score: a number in text, which Lua would shorten.
local function score(ms)
  return string.format('%.3f', ms)
end

-- A reply for which nothing was written. A master that has become a replica would give it, too, from what it knew then; so
-- something is written that changes nothing, which a replica refuses.
local function unwritten(run, reply)
  redis.call('HDEL', run, '')
  return reply
end

-- The tag of the cell, which every key begins with.
local function tag_of(run)
  return string.match(run, '^(.-):run:')
end

local function run_ids_of(run)
  return tag_of(run) .. ':runs'
end

-- What else there is of a thread, spelled from its line.
local function beside_line(run, line, name)
  local tag = tag_of(run)
  return tag .. ':' .. name .. ':' .. string.sub(line, #tag + #':thread:' + 1)
end

local function thread_runs_of(run, line)
  return beside_line(run, line, 'thread-runs')
end

-- What many runs share lives as long as the longest-lived of them.
local function outlive(key, ttl)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end

-- The indexes by which a run is found, while it runs and after its end.
local function outlive_in_indexes(run, line, ttl)
  outlive(run_ids_of(run), ttl)
  if line then outlive(thread_runs_of(run, line), ttl) end
end

-- An index of runs drops those whose record has expired: two looks per run that comes keep it at about twice the runs
-- that exist, wherever in it the expired ones are.
local function forget_expired(index, tag)
  for _, id in ipairs(redis.call('ZRANDMEMBER', index, 2)) do
    if redis.call('EXISTS', tag .. ':run:' .. id) == 0 then redis.call('ZREM', index, id) end
  end
end

local function ring(bell)
  -- A bounded bell: a worker that takes a run and leaves others rings on, so more strokes than this tell nothing new.
  if redis.call('LLEN', bell) < 64 then redis.call('RPUSH', bell, '1') end
  redis.call('PEXPIRE', bell, 60000)
end

local function queue_up(run, queue, bell, place)
  redis.call('ZADD', queue, place, run)
  outlive(queue, redis.call('PTTL', run))
  ring(bell)
end

-- Puts the head of a line into its queue. Who is there already stays where it is: it may have been told to wait.
local function call_up(head, record)
  if record[1] == 'queued' and not redis.call('ZSCORE', record[2], head) then
    queue_up(head, record[2], record[3], record[4])
  end
end

-- A thread's line: its runs that have not ended, the one that executes or will be next at the head. Only the head is in
-- a queue. Who stands in it without a record, or after its end, is sent away; nobody else calls up the one behind it.
-- claimant: whoever asks because it has just been taken off its queue.
local function head_of(line, claimant)
  local vanished = false
  while true do
    local head = redis.call('ZRANGE', line, 0, 0)[1]
    if not head then return nil end
    local record = redis.pcall('HMGET', head, 'status', 'queue', 'queue_bell', 'place')
    if not record.err and (record[1] == 'queued' or record[1] == 'running') then
      if vanished and head ~= claimant then call_up(head, record) end
      return head, record
    end
    redis.call('ZREM', line, head)
    vanished = true
  end
end

-- The place where the ids of runs are kept whose checkpoints the next attempt on the thread removes first.
local function undo_of(run, line)
  return beside_line(run, line, 'undo')
end

local function ask_for_undo(run, line)
  local undo = undo_of(run, line)
  redis.call('SADD', undo, string.sub(run, #tag_of(run) + #':run:' + 1))
  redis.call('PEXPIRE', undo, UNDO_TTL)
end

-- The id of a stream's last event, from the record; an attempt that has written nothing has that of the one before.
local function last_id(attempt, seq, after)
  if tonumber(seq) >= 0 then return attempt .. '-' .. seq end
  return after or nil
end

-- The worker that has published a run's last event; nil where there is none.
local function last_publisher(run)
  local record = redis.call('HMGET', run, 'seq', 'worker', 'after_worker')
  return (tonumber(record[1]) >= 0 and record[2] or record[3]) or nil
end

-- The server that executes this. Its id is another one after each start, and a replica that is promoted has its own.
local function server_id()
  local info = redis.pcall('INFO', 'server')
  if type(info) == 'table' and info.err then
    -- A stand-in for Redis that has no INFO forgets nothing. Where INFO is not permitted, nothing may be begun.
    if string.find(tostring(info.err), 'unknown command', 1, true) then return '' end
    redis.call('INFO', 'server')
  end
  return string.match(info, 'run_id:(%w+)') or ''
end

-- The number of a run's next attempt, and the fields of the record that go with it. Another server than the one that gave
-- out the last number, or that took the run, may have given out more that this one does not know. So the number goes beyond
-- all of them: by the time since the run was created, in ms, during which there were not as many attempts; and by 1000, in
-- case the clocks of the two servers differ.
local function next_number(run, now)
  local record = redis.call('HMGET', run, 'attempt', 'server', 'created_at', 'skipped')
  local here, number = server_id(), tonumber(record[1]) + 1
  if not record[2] or record[2] == here then return number, {'server', here} end
  local skipped = 1000 + math.max(0, now - tonumber(record[3]))
  return number + skipped, {'server', here, 'skipped', tonumber(record[4] or 0) + skipped}
end

-- Hands a queued run at the head of its line to a worker, under this number. fields: more fields for the record.
local function hand_to(worker, run, number, leases, held, bell, lease, ttl, now, fields)
  local record = redis.call('HMGET', run, 'attempt', 'seq', 'after', 'first_started_at', 'line', 'left', 'queue')
  local after, behind, line = last_id(record[1], record[2], record[3]), last_publisher(run), record[5]
  -- The lease first: whatever fails behind it, somebody will look after the run. And it takes room: a full Redis, which
  -- looks at a script's first write only, refuses it, so that nothing is begun which could not be published.
  redis.call('ZADD', leases, now + lease, run)
  redis.call('ZREM', record[7], run)
  redis.call('SADD', held, run)
  if line then
    -- Who has begun stays at the head, whatever happens, until the run has ended.
    redis.call('ZADD', line, 0, run)
    outlive(line, ttl)
  end
  redis.call('HSET', run, 'status', 'running', 'attempt', number, 'seq', -1, 'worker', worker, 'started_at', now,
    'first_started_at', record[4] or now, 'held', held, 'bell', bell, unpack(fields))
  if after then
    -- What this attempt does with the events of those before it, it has to find out first; then it writes its event.
    redis.call('HSET', run, 'after', after, 'after_worker', behind or '')
  else
    local data = {attempt = number, worker = worker, at = now}
    -- Redis has lost all that there was of the attempts before, if there were any; readers may have some of it.
    if number > 1 then data.left, data.voids = record[6] or nil, {all = true, count = 0} end
    redis.call('XADD', run .. ':events', number .. '-0', '1', cjson.encode({m = 'attempt', d = data}))
    redis.call('HSET', run, 'seq', 0)
  end
  for _, key in ipairs({run, run .. ':events', run .. ':settled', held}) do redis.call('PEXPIRE', key, ttl) end
  outlive(leases, ttl)
  outlive_in_indexes(run, line, ttl)
end

-- Ends a run: the end event, the status, the retention, the clean-up, and the thread's next run, in one step.
-- Who calls it has checked that it may. id: the end event's id; event: its JSON; fields: more fields for the record.
local function end_run(run, leases, id, event, status, now, fields)
  local record = redis.call('HMGET', run, 'retention', 'held', 'queue', 'line')
  local kept = tonumber(record[1])
  redis.call('XADD', run .. ':events', id, '1', event)
  redis.call('HSET', run, 'status', status, 'ended_at', now, 'end_id', id, unpack(fields))
  -- Behind the end everything is settled.
  redis.call('DEL', run .. ':settled')
  redis.call('ZREM', leases, run)
  if record[2] then redis.call('SREM', record[2], run) end
  if record[3] then redis.call('ZREM', record[3], run) end
  redis.call('DEL', 'arq:job:' .. run)
  if status == 'lost' then
    local dead = tag_of(run) .. ':dead'
    kept = math.max(kept, DEAD_TTL)
    forget_expired(dead, tag_of(run))
    redis.call('ZADD', dead, now, string.sub(run, #tag_of(run) + #':run:' + 1))
    outlive(dead, kept)
  end
  redis.call('PEXPIRE', run, kept)
  redis.call('PEXPIRE', run .. ':events', kept)
  outlive_in_indexes(run, record[4], kept)
  if record[4] then
    redis.call('ZREM', record[4], run)
    local head, next_record = head_of(record[4])
    if head then call_up(head, next_record) end
  end
end

-- Ends a run that nobody executes. Who ends a run that it does not hold takes the next attempt number: a worker that
-- wakes up later is fenced off. The record says that this is no attempt.
local function end_unheld(run, leases, status, data, now, fields)
  local record = redis.call('HMGET', run, 'attempt', 'seq', 'after')
  local attempt, more = next_number(run, now)
  data.status, data.at, data.after = status, now, last_id(record[1], record[2], record[3])
  data.after_worker = data.after and last_publisher(run)
  for _, field in ipairs({'attempt', attempt, 'seq', 0, 'unheld', 1, unpack(more)}) do fields[#fields + 1] = field end
  end_run(run, leases, attempt .. '-0', cjson.encode({m = 'end', d = data}), status, now, fields)
end

local function end_stopped(run, leases, reason, action, now)
  local record = redis.call('HMGET', run, 'attempt', 'line')
  if action == 'rollback' and record[1] ~= '0' and record[2] then ask_for_undo(run, record[2]) end
  end_unheld(run, leases, 'stopped', {reason = reason}, now, {'stop', reason, 'stop_action', action})
end

local function end_lost(run, leases, kind, message, now)
  local failure = {type = kind, message = message}
  end_unheld(run, leases, 'lost', {error = failure}, now, {'error', cjson.encode(failure)})
end

-- How long a run waits for a worker, ms. The time that its producer gave it is for its beginning: what has begun is not lost
-- because its only worker takes longer than that to start again.
local function wait_of(attempt, queued_ttl)
  if tonumber(attempt) == 0 then return tonumber(queued_ttl) end
  return math.max(tonumber(queued_ttl), DAY)
end

-- Lets a run that has begun wait for its next attempt; delay: ms before it may be taken.
local function wait_again(run, leases, now, delay)
  local record = redis.call('HMGET', run, 'attempt', 'queued_ttl', 'line', 'queue')
  local wait = delay + wait_of(record[1], record[2])
  local ttl = wait + DAY
  redis.call('ZADD', leases, now + wait, run)
  for _, key in ipairs({run, run .. ':events', run .. ':settled', 'arq:job:' .. run}) do redis.call('PEXPIRE', key, ttl) end
  for _, key in ipairs({leases, record[3] or leases, record[4] or leases}) do outlive(key, ttl) end
  outlive_in_indexes(run, record[3], ttl)
end

-- What becomes of a run when its attempt is over and the run is not: the next attempt, or its end.
-- cause: 'lost' | 'drained' | 'fault'; failed: whether it counts against the attempts that the run has; delay: ms before
-- the next one; is_last: there is none, however many attempts are left. Returns 'stopped' | 'lost' | 'queued'.
local function leave(run, leases, cause, failed, message, now, delay, is_last)
  local record = redis.call('HMGET', run, 'attempt', 'worker', 'started_at', 'holders', 'failures', 'max_attempts',
    'stop', 'stop_action', 'queue', 'queue_bell', 'place', 'held')
  local holders = record[4] and cjson.decode(record[4]) or {}
  -- A run that is handed on and on keeps what it is told of the last ones.
  if #holders >= 50 then table.remove(holders, 1) end
  holders[#holders + 1] = {attempt = tonumber(record[1]), worker = record[2], started_at = tonumber(record[3]),
    ended_at = now, cause = cause}
  local failures = tonumber(record[5] or 0) + (failed and 1 or 0)
  redis.call('HSET', run, 'holders', cjson.encode(holders), 'failures', failures, 'left', cause)
  if record[7] then
    end_stopped(run, leases, record[7], record[8] or 'interrupt', now)
    return 'stopped'
  end
  if is_last or failures >= tonumber(record[6] or 1) then
    local held_by = {}
    for _, holder in ipairs(holders) do held_by[#held_by + 1] = holder.worker .. ' (' .. holder.cause .. ')' end
    end_lost(run, leases, 'WorkerLost', message .. '; held by ' .. table.concat(held_by, ', '), now)
    return 'lost'
  end
  if record[12] then redis.call('SREM', record[12], run) end
  redis.call('HSET', run, 'status', 'queued')
  redis.call('HDEL', run, 'held', 'bell')
  wait_again(run, leases, now, delay)
  queue_up(run, record[9], record[10], delay > 0 and score(now + delay) or record[11])
  return 'queued'
end

-- Asks that a run end. One that nobody executes ends here and now; otherwise its worker's bell rings.
local function stop_run(run, leases, reason, action, now)
  local record = redis.call('HMGET', run, 'status', 'worker', 'bell', 'stop', 'stop_action')
  local status = record[1]
  if not status then return unwritten(run, {'missing'}) end
  if status ~= 'queued' and status ~= 'running' then return unwritten(run, {'ended', status}) end
  -- The first reason is told; whoever wants it undone gets that.
  if record[5] == 'rollback' then action = 'rollback' end
  if status == 'running' then
    local expires = redis.call('ZSCORE', leases, run)
    if expires and tonumber(expires) >= now then
      if not record[4] then redis.call('HSET', run, 'stop', reason, 'stop_action', action) end
      if action == 'rollback' then redis.call('HSET', run, 'stop_action', action) end
      redis.call('RPUSH', record[3], run)
      redis.call('PEXPIRE', record[3], 60000)
      return {'stopping', record[2]}
    end
    -- Its worker has died, and nobody has noticed: as if somebody had, with the wish before him.
    redis.call('HSET', run, 'stop', record[4] or reason, 'stop_action', action)
    leave(run, leases, 'lost', true, '', now, 0)
  else
    end_stopped(run, leases, record[4] or reason, action, now)
  end
  return {'stopped'}
end
