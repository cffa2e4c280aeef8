-- ARGV: the epoch of who asks, how many sessions at most. Closes the epochs whose lease ran out and
-- returns sessions that were in flight under a closed one. What another has taken is his until his
-- own epoch closes; what the asker has taken he is told again, since his reply may have been lost.
local me, most = ARGV[1], tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', at('leases'), '-inf', now())
local open = {}
for _, epoch in ipairs(redis.call('ZRANGE', at('leases'), 0, -1)) do
  open[epoch] = true
end
local found, from = {}, '-inf'
while true do
  local first = redis.call('ZRANGEBYSCORE', at('sending'), from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local epoch = first[2]
  if not epoch then
    return found
  end
  if not open[epoch] then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', at('sending'), epoch, epoch)) do
      local taker = redis.call('HGET', at('taken'), id)
      if not taker or taker == me or not open[taker] then
        redis.call('HSET', at('taken'), id, me)
        found[#found + 1] = doc_of(id)
        if #found == most then
          return found
        end
      end
    end
  end
  from = '(' .. epoch
end
