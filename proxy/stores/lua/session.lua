-- What the scripts share; it stands before each of them. Every name has the root in it, so that all
-- lie in one slot of a cluster. Nothing has a time to live: what is dropped, purge drops.
--
--   ROOT:session:ID   hash: the session (doc), what is searched by, its sealed answer and request
--   ROOT:keys         hash: idempotency key -> session
--   ROOT:lock:ORDER   set: who holds the order; one, or two that were both charged after all
--   ROOT:started      sorted set: every session by its start; so are listed, order:REF, user:REF
--   ROOT:finished     sorted set: what is not listed, by its end
--   ROOT:answers      sorted set: sessions with an answer, by when it was kept
--   ROOT:sending      sorted set: sessions in flight, by the epoch of their sender
--   ROOT:taken        hash: session in flight whose sender is gone -> epoch of who looks after it
--   ROOT:leases       sorted set: open epochs, by when their lease runs out
--   ROOT:meta         hash: schema, epoch (the last given), opener, generation, lost, touched
local root = KEYS[1]

local function at(name)
  return root .. ':' .. name
end

-- Milliseconds, by the one clock that all who share the store have in common.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A write that says nothing. WAITAOF waits for what its own connection wrote; after this that is
-- everything before, whoever wrote it. So also what was only read is acted on when it is durable.
local function touch()
  redis.call('HINCRBY', at('meta'), 'touched', 1)
end

local function doc_of(id)
  return redis.call('HGET', at('session:' .. id), 'doc')
end

-- Who holds the lock, if that is somebody else.
local function holder_of(lock, id)
  if lock ~= '' then
    for _, holder in ipairs(redis.call('SMEMBERS', at(lock))) do
      if holder ~= id then
        return holder
      end
    end
  end
  return nil
end

local COLUMNS = {
  'version', 'op', 'doc', 'key', 'lock', 'order', 'user', 'state', 'outcome', 'gateway',
  'started', 'finished', 'listed', 'sender',
}

-- Take in a version of a session, with every way it is found by. `args` holds the columns in their
-- order, from the place `from` on; '' is nothing.
local function put(id, args, from)
  local s, fields = {}, {}
  for i, name in ipairs(COLUMNS) do
    s[name] = args[from + i - 1]
    fields[2 * i - 1], fields[2 * i] = name, s[name]
  end
  local here = at('session:' .. id)
  local known = redis.call('HMGET', here, 'key', 'lock', 'order', 'user', 'listed', 'sender')
  local was = {
    key = known[1] or '', lock = known[2] or '', order = known[3] or '', user = known[4] or '',
    listed = known[5], sender = known[6] or '',
  }
  redis.call('HSET', here, unpack(fields))
  if not was.listed then
    redis.call('ZADD', at('started'), s.started, id)
  end
  if s.key ~= '' and s.key ~= was.key then
    redis.call('HSET', at('keys'), s.key, id)
  end
  if s.lock ~= was.lock then
    if was.lock ~= '' then redis.call('SREM', at(was.lock), id) end
    if s.lock ~= '' then redis.call('SADD', at(s.lock), id) end
  end
  for _, name in ipairs({ 'order', 'user' }) do
    if s[name] ~= was[name] then
      if was[name] ~= '' then redis.call('ZREM', at(was[name]), id) end
      if s[name] ~= '' then redis.call('ZADD', at(s[name]), s.started, id) end
    end
  end
  if s.listed == '1' then
    if was.listed ~= '1' then
      redis.call('ZADD', at('listed'), s.started, id)
      redis.call('ZREM', at('finished'), id)
    end
  else
    redis.call('ZREM', at('listed'), id)
    redis.call('ZADD', at('finished'), s.finished, id)
    redis.call('HDEL', here, 'request')
  end
  if s.sender ~= was.sender then
    if s.sender == '' then
      redis.call('ZREM', at('sending'), id)
      redis.call('HDEL', at('taken'), id)
    else
      redis.call('ZADD', at('sending'), s.sender, id)
    end
  end
end
