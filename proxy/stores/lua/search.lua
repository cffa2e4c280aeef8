-- One step of a search, so that no call holds up the server for long.
-- ARGV: index, since, until, how many to look at, start and id to go on after ('' for the newest),
-- then fields and the values they must have.
-- Returns whether that was all, start and id of the last looked at, and the ids of those that match.
local index, since, before, most = at(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local started, after = tonumber(ARGV[5]), ARGV[6]
local first = before == '' and 0 or redis.call('ZCOUNT', index, before, '+inf')
if after ~= '' then
  local rank = redis.call('ZREVRANK', index, after)
  rank = rank and rank + 1 or redis.call('ZCOUNT', index, '(' .. ARGV[5], '+inf')
  first = math.max(first, rank)
end
local function matches(id)
  for i = 7, #ARGV, 2 do
    if redis.call('HGET', at('session:' .. id), ARGV[i]) ~= ARGV[i + 1] then
      return false
    end
  end
  return true
end
local rows = redis.call('ZREVRANGE', index, first, first + most - 1, 'WITHSCORES')
local all, found, last = #rows < 2 * most and 1 or 0, {}, { '', '' }
for i = 1, #rows, 2 do
  local id, start = rows[i], tonumber(rows[i + 1])
  if since and start < since then
    all = 1
    break
  end
  -- If who it goes on after is gone, those that began in the same millisecond come again.
  if (after == '' or start < started or id < after) and matches(id) then
    found[#found + 1] = id
  end
  last = { rows[i + 1], id }
end
return { all, last, found }
