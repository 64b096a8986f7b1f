"""What the brokers of one realm do in Redis, each as a Lua script, so that nobody sees half of it.

Keys, all under `peercli:`

    nodes            sorted set: each living broker, and the time (ms, Redis's clock) at which its lease ends
    keys             set: the API keys in use
    clients:KEY      hash: id -> NODE, LINK, IDENTITY, with tabs between
    queue:KEY<tab>ID list: what waits for an absent peer: SRC, REF, the message
    held             hash: the bytes in each queue, and under "" in all
    expiries         sorted set: KEY, DST, SRC, and when SRC has to be told that DST did not come
    inbox:NODE       stream: what NODE is to deliver or to know; it reads in order, and cuts off what is done

A field of an inbox entry says what its value is. `m` KEY DST SRC REF, and a number that makes it unique: a
message for DST. `a`: numbers of messages of NODE's that have arrived, or whose sender has been told. `kick`
or `probe` KEY ID LINK: the client has come back elsewhere, or somebody else asks for its id. REF is
NODE:NUMBER of the broker that took the message from its sender, and empty for what needs no receipt.
"""

from __future__ import annotations

__all__ = ["CLAIM", "DONE", "JOIN", "PREFIX", "RELEASE", "ROUTE", "TICK"]

PREFIX = "peercli:"

_COMMON = """
local P, OVERHEAD = 'peercli:', 512
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function fields(text, count)
  local found, at = {}, 1
  for n = 1, count - 1 do
    local tab = string.find(text, '\\t', at, true)
    found[n] = string.sub(text, at, tab - 1)
    at = tab + 1
  end
  found[count] = string.sub(text, at)
  return found
end
local function post(node, field, value)
  redis.call('XADD', P .. 'inbox:' .. node, '*', field, value)
end
local function holder_of(key, id)
  local record = redis.call('HGET', P .. 'clients:' .. key, id)
  return record and fields(record, 3)
end
local function receipt(refs)
  local numbers = {}
  for _, ref in ipairs(refs) do
    local colon = string.find(ref, ':', 1, true)
    if colon then
      local node = string.sub(ref, 1, colon - 1)
      numbers[node] = numbers[node] or {}
      table.insert(numbers[node], string.sub(ref, colon + 1))
    end
  end
  for node, list in pairs(numbers) do
    if redis.call('ZSCORE', P .. 'nodes', node) then post(node, 'a', table.concat(list, ',')) end
  end
end
local function tell(key, src, dst)
  local holder = holder_of(key, src)
  if holder then
    post(holder[1], table.concat({'m', key, src, dst, '', '0'}, '\\t'),
      '{"type":"EXPIRE","src":"' .. dst .. '","dst":"' .. src .. '"}')
  end
end
local function weigh(queue, bytes)
  if redis.call('HINCRBY', P .. 'held', queue, bytes) <= 0 then redis.call('HDEL', P .. 'held', queue) end
  redis.call('HINCRBY', P .. 'held', '', bytes)
end
local function give_up(key, dst, src, refs)
  local queue = P .. 'queue:' .. key .. '\\t' .. dst
  local entries, freed = redis.call('LRANGE', queue, 0, -1), 0
  redis.call('DEL', queue)
  for _, entry in ipairs(entries) do
    local found = fields(entry, 3)
    if found[1] == src then
      table.insert(refs, found[2])
      freed = freed + #found[3] + OVERHEAD
    else
      redis.call('RPUSH', queue, entry)
    end
  end
  if freed > 0 then weigh(queue, -freed) end
  redis.call('ZREM', P .. 'expiries', table.concat({key, dst, src}, '\\t'))
  tell(key, src, dst)
  receipt(refs)
end
"""

# ARGV: expire timeout (ms), bytes held for one peer, bytes held in all; the messages, in MessagePack: of each
# KEY, DST, SRC, REF and itself.
ROUTE = (
    _COMMON
    + """
local batches = {}
for i, message in ipairs(cmsgpack.unpack(ARGV[4])) do
  local key, dst, src, ref, data = unpack(message)
  local holder = holder_of(key, dst)
  if holder then
    local batch = batches[holder[1]]
    if not batch then
      batch = {}
      batches[holder[1]] = batch
    end
    table.insert(batch, table.concat({'m', key, dst, src, ref, i}, '\\t'))
    table.insert(batch, data)
  elseif ref ~= '' then
    local queue = P .. 'queue:' .. key .. '\\t' .. dst
    local size = #data + OVERHEAD
    local used = tonumber(redis.call('HGET', P .. 'held', queue) or 0)
    local all = tonumber(redis.call('HGET', P .. 'held', '') or 0)
    if used + size > tonumber(ARGV[2]) or all + size > tonumber(ARGV[3]) then
      give_up(key, dst, src, {ref})
    else
      redis.call('RPUSH', queue, table.concat({src, ref, data}, '\\t'))
      weigh(queue, size)
      redis.call('ZADD', P .. 'expiries', 'NX', now() + ARGV[1], table.concat({key, dst, src}, '\\t'))
    end
  end
end
for node, batch in pairs(batches) do
  redis.call('XADD', P .. 'inbox:' .. node, '*', unpack(batch))
end
"""
)

# ARGV: KEY, ID, NODE, LINK, IDENTITY, how many clients the key may have.
# Answers 'open' and what waited, 'taken', 'full', or 'lapsed' if NODE is no longer known.
CLAIM = (
    _COMMON
    + """
local key, id, node, link, identity = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not redis.call('ZSCORE', P .. 'nodes', node) then return {'lapsed'} end
local holder = holder_of(key, id)
if holder then
  if holder[3] ~= identity then
    if holder[1] ~= node then post(holder[1], table.concat({'probe', key, id, holder[2]}, '\\t'), '') end
    return {'taken'}
  end
  if holder[1] ~= node then post(holder[1], table.concat({'kick', key, id, holder[2]}, '\\t'), '') end
elseif redis.call('HLEN', P .. 'clients:' .. key) >= tonumber(ARGV[6]) then
  return {'full'}
end
redis.call('SADD', P .. 'keys', key)
redis.call('HSET', P .. 'clients:' .. key, id, table.concat({node, link, identity}, '\\t'))
local queue = P .. 'queue:' .. key .. '\\t' .. id
local entries = redis.call('LRANGE', queue, 0, -1)
if #entries > 0 then
  redis.call('DEL', queue)
  weigh(queue, -tonumber(redis.call('HGET', P .. 'held', queue) or 0))
  for _, entry in ipairs(entries) do
    redis.call('ZREM', P .. 'expiries', table.concat({key, id, fields(entry, 3)[1]}, '\\t'))
  end
end
return {'open', unpack(entries)}
"""
)

# ARGV: KEY, ID, NODE, LINK.
RELEASE = (
    _COMMON
    + """
local holder = holder_of(ARGV[1], ARGV[2])
if holder and holder[1] == ARGV[3] and holder[2] == ARGV[4] then
  redis.call('HDEL', P .. 'clients:' .. ARGV[1], ARGV[2])
end
"""
)

# ARGV: NODE, lease (ms).
JOIN = (
    _COMMON
    + """
redis.call('ZADD', P .. 'nodes', now() + ARGV[2], ARGV[1])
"""
)

# ARGV: NODE, lease (ms). Prolongs the lease; buries brokers whose lease has ended, and tells the senders of
# what was under way to them and of what has waited long enough. Answers 0 if NODE itself is no longer known.
TICK = (
    _COMMON
    + """
local time = now()
local known = redis.call('ZSCORE', P .. 'nodes', ARGV[1])
if known then redis.call('ZADD', P .. 'nodes', time + ARGV[2], ARGV[1]) end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. 'nodes', '-inf', time)) do
  redis.call('ZREM', P .. 'nodes', node)
  for _, key in ipairs(redis.call('SMEMBERS', P .. 'keys')) do
    local clients = redis.call('HGETALL', P .. 'clients:' .. key)
    for i = 1, #clients, 2 do
      if fields(clients[i + 1], 3)[1] == node then redis.call('HDEL', P .. 'clients:' .. key, clients[i]) end
    end
  end
  local told, refs = {}, {}
  for _, entry in ipairs(redis.call('XRANGE', P .. 'inbox:' .. node, '-', '+')) do
    for i = 1, #entry[2], 2 do
      local head = entry[2][i]
      if string.sub(head, 1, 2) == 'm\\t' then
        local found = fields(head, 6)
        local pair = table.concat({found[2], found[3], found[4]}, '\\t')
        if found[5] ~= '' then
          table.insert(refs, found[5])
          if not told[pair] then tell(found[2], found[4], found[3]) end
          told[pair] = true
        end
      end
    end
  end
  receipt(refs)
  redis.call('DEL', P .. 'inbox:' .. node)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'expiries', '-inf', time, 'LIMIT', 0, 1000)) do
  local found = fields(member, 3)
  give_up(found[1], found[2], found[3], {})
end
return known and 1 or 0
"""
)

# ARGV: NODE, the last inbox entry that it is done with, REFs of what it has delivered.
DONE = (
    _COMMON
    + """
local refs = {}
for i = 3, #ARGV do refs[i - 2] = ARGV[i] end
receipt(refs)
redis.call('XTRIM', P .. 'inbox:' .. ARGV[1], 'MINID', ARGV[2])
redis.call('XDEL', P .. 'inbox:' .. ARGV[1], ARGV[2])
"""
)
