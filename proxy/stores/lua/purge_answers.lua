-- ARGV: drop what was kept before, how many at most. Returns how many went.
local old = redis.call('ZRANGEBYSCORE', at('answers'), '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(old) do
  redis.call('HDEL', at('session:' .. id), 'answer')
  redis.call('ZREM', at('answers'), id)
end
return #old
