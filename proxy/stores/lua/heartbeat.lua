-- ARGV: the epoch to renew ('' at first), op, the lease in milliseconds.
-- Returns the epoch, the smallest open one, the generation, and what a person has to settle.
local epoch, op, lease = ARGV[1], ARGV[2], ARGV[3]
local meta, leases = at('meta'), at('leases')
if epoch == '' or not redis.call('ZSCORE', leases, epoch) then
  local last = redis.call('HMGET', meta, 'epoch', 'opener')
  if last[2] == op then
    epoch = last[1] -- opened by an earlier delivery whose reply was lost
  else
    -- Not a plain count: a server that lost the last ones would give them again.
    epoch = string.format('%.0f', math.max(now(), (tonumber(last[1]) or 0) + 1))
    redis.call('HSET', meta, 'epoch', epoch, 'opener', op)
  end
end
redis.call('ZADD', leases, now() + lease, epoch)
local smallest = epoch
for _, open in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if tonumber(open) < tonumber(smallest) then
    smallest = open
  end
end
local told = redis.call('HMGET', meta, 'generation', 'lost')
return { epoch, smallest, told[1] or '0', told[2] or '' }
