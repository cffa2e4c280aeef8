-- ARGV: id, expected version, the columns, answer, when it was kept, request, and the epoch whose
-- lease an intent needs ('' for all that is no intent: what became of a send is written down,
-- whoever brings it).
local id, expected, op, lock, listed = ARGV[1], ARGV[2], ARGV[4], ARGV[7], ARGV[15]
local answer, kept_at, request, epoch = ARGV[17], ARGV[18], ARGV[19], ARGV[20]
local here = at('session:' .. id)
local have = redis.call('HMGET', here, 'version', 'op')
if have[2] == op then
  touch()
  return { 'done' } -- by an earlier delivery whose reply was lost
end
if (have[1] or '0') ~= expected then
  touch()
  return { 'conflict', doc_of(id) }
end
if epoch ~= '' then
  local ends = redis.call('ZSCORE', at('leases'), epoch)
  if not ends or tonumber(ends) <= now() then
    return { 'fenced' }
  end
  if holder_of(lock, id) then
    return { 'locked' } -- charged after all, as late evidence has shown
  end
end
put(id, ARGV, 3)
if answer ~= '' then
  redis.call('HSET', here, 'answer', answer)
  redis.call('ZADD', at('answers'), kept_at, id)
end
if request ~= '' and listed == '1' then
  redis.call('HSET', here, 'request', request)
end
return { 'done' }
