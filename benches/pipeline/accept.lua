-- What wrk sends: orders of many customers, each request ready before the clock runs. Arguments: the path, and how many
-- orders a request has. The last line that it prints is for accept.rs.

local CUSTOMERS = 1000
local BODIES = 200

local threads = 0

function setup(thread)
  thread:set("first", threads * 7919)
  threads = threads + 1
end

local function order(customer)
  return string.format(
    '{"customer_id":"CUST%03d","product_id":"PROD%03d","quantity":1,"amount":199.99}',
    customer % CUSTOMERS, customer % 10 == 0 and customer / 10 % 10 + 1 or 7)
end

function init(args)
  local path, orders = args[1], tonumber(args[2])
  requests, turn = {}, 0
  for body = 1, orders == 1 and CUSTOMERS or BODIES do
    local list = {}
    for index = 1, orders do list[index] = order(first + body * orders + index) end
    local text = orders == 1 and list[1] or "[" .. table.concat(list, ",") .. "]"
    requests[body] = wrk.format("POST", path, { ["Content-Type"] = "application/json" }, text)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"refused":%d,"broken":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"max_ms":%f}\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
