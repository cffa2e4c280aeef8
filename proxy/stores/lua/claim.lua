-- ARGV: id, expected version, the columns.
local id, expected, op, key, lock = ARGV[1], ARGV[2], ARGV[4], ARGV[6], ARGV[7]
local have = redis.call('HMGET', at('session:' .. id), 'version', 'op')
if have[2] == op then
  return { 'done' } -- by an earlier delivery whose reply was lost
end
if (have[1] or '0') ~= expected then
  return { 'conflict', doc_of(id) }
end
local holder = key ~= '' and redis.call('HGET', at('keys'), key)
if holder and holder ~= id then
  return { 'key', doc_of(holder) }
end
holder = holder_of(lock, id)
if holder then
  return { 'order', doc_of(holder) }
end
put(id, ARGV, 3)
return { 'done' }
