-- Finds a request's credential, refuses what the headers alone forbid, and names the entry of the route table to look up.
-- Raw keys go no further than this filter and the cell. Generated in front of this file: sha256, and the values ZONE (string),
-- FOREIGN (zone -> {status, grpc, body, message, details, endpoint}), ELSEWHERE, NO_CREDENTIAL, NO_ROUTE ({status, grpc, body, message, details}),
-- SERVICES (the paths in front of the public gRPC services' methods), INGEST (that of those which write), HTTP_MILLIS (how long an HTTP
-- request may take), WRITE_MILLIS (how long an attempt at a write may).
local KEY_CHARS_MAX = 512
local ZONE_CHARS_MAX = 15

local SIXBIT = {}
do
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for i = 1, 64 do SIXBIT[alphabet:byte(i)] = i - 1 end
end

local function base64_decode(text)
  local out, acc, bits = {}, 0, 0
  for i = 1, #text do
    local byte = text:byte(i)
    local value = SIXBIT[byte]
    if value then
      acc = bit.bor(bit.lshift(bit.band(acc, 0xffff), 6), value)
      bits = bits + 6
      if bits >= 8 then
        bits = bits - 8
        out[#out + 1] = string.char(bit.band(bit.rshift(acc, bits), 255))
      end
    elseif byte ~= 61 then
      return nil
    end
  end
  return table.concat(out)
end

-- The user name of Basic, its colon optional; the token of Bearer.
local function from_authorization(value)
  local scheme, rest = value:match("^(%a+) +(%S+)%s*$")
  if not scheme or #rest > KEY_CHARS_MAX * 2 then return nil end
  scheme = scheme:lower()
  if scheme == "bearer" then return rest end
  if scheme ~= "basic" then return nil end
  local decoded = base64_decode(rest)
  if not decoded then return nil end
  local colon = decoded:find(":", 1, true)
  return colon and decoded:sub(1, colon - 1) or decoded
end

local function is_key(text)
  return text ~= nil and text:find("^[wr]k_") ~= nil
end

-- The text whose hash is looked up and the zone that it claims (nil: none); nil when there is no credential.
local function credential(headers)
  local key = headers:get("x-api-key")
  if not key or key == "" then
    local value = headers:get("authorization")
    key = value and from_authorization(value)
  end
  -- What slugs are looked up by is no key.
  if key and (key == "" or key:sub(1, 2) == "s:") then key = nil end
  local slug = not is_key(key) and (headers:get(":path") or ""):match("^/s/([a-z0-9%-]+)/v1/")
  if slug and #slug <= KEY_CHARS_MAX then
    local zone = slug:match("^([a-z][a-z0-9%-]*)%-[a-z2-7]+$")
    return "s:" .. slug, FOREIGN[zone] and zone or nil
  end
  if not key or #key > KEY_CHARS_MAX then return nil end
  local zone = key:match("^[wr]k_([a-z][a-z0-9%-]*)_")
  if zone and #zone > ZONE_CHARS_MAX then zone = nil end
  return key, zone
end

local function refuse(handle, grpc, answer)
  local headers = { ["x-residency-endpoint"] = answer.endpoint }
  if grpc then
    headers[":status"] = "200"
    headers["grpc-status"] = answer.grpc
    headers["grpc-status-details-bin"] = answer.details
    handle:respond(headers, answer.message)
    return
  end
  headers[":status"] = answer.status
  headers["content-type"] = "application/json"
  handle:respond(headers, answer.body)
end

-- Of a cell's ports the API alone is public: not metrics and probes, which speak of all tenants, and no service of the cell's own.
local function is_public(path, grpc)
  if not grpc then return path:find("^/v1/") or path:find("^/s/[^/]+/v1/") or path:find("^/openapi%.yaml$") end
  for _, prefix in ipairs(SERVICES) do
    if path:sub(1, #prefix) == prefix then return true end
  end
  return false
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path") or ""
  if path == "/healthz" then return end
  local grpc = (headers:get("content-type") or ""):sub(1, 16) == "application/grpc"
  if not is_public(path, grpc) then return refuse(handle, grpc, NO_ROUTE) end
  local text, zone = credential(headers)
  if not text then return refuse(handle, grpc, NO_CREDENTIAL) end
  if zone and zone ~= ZONE then
    -- No redirect: clients follow one without their credential, and then read that they gave none.
    return refuse(handle, grpc, FOREIGN[zone] or ELSEWHERE)
  end
  local hash = sha256(text)
  headers:replace("x-dataflow-lookup", hash)
  headers:replace("x-dataflow-shard", hash:sub(1, 2))
  -- A stream may last; any other answer has to come in time. What a client says of it was removed before.
  if not grpc then headers:replace("x-envoy-upstream-rq-timeout-ms", HTTP_MILLIS) end
  -- An attempt at a write ends sooner, so that a cell which stands still keeps none: the second one is the peer's.
  local writes = not grpc and headers:get(":method") == "POST" or grpc and path:sub(1, #INGEST) == INGEST
  if writes then headers:replace("x-envoy-upstream-rq-per-try-timeout-ms", WRITE_MILLIS) end
  handle:clearRouteCache()
end
