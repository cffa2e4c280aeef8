-- ARGV: drop what finished before, how many at most. Returns how many went. Only what is not listed
-- stands among the finished.
local old = redis.call('ZRANGEBYSCORE', at('finished'), '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(old) do
  local here = at('session:' .. id)
  local known = redis.call('HMGET', here, 'key', 'lock', 'order', 'user')
  if known[1] ~= '' then redis.call('HDEL', at('keys'), known[1]) end
  if known[2] ~= '' then redis.call('SREM', at(known[2]), id) end
  for i = 3, 4 do
    if known[i] ~= '' then redis.call('ZREM', at(known[i]), id) end
  end
  for _, index in ipairs({ 'started', 'finished', 'answers' }) do
    redis.call('ZREM', at(index), id)
  end
  redis.call('DEL', here)
end
return #old
