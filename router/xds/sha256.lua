-- SHA-256 (FIPS 180-4) for LuaJIT: about a microsecond per key. Returns 64 lower-case hex digits.
local bit = require("bit")
local band, bor, bxor, bnot = bit.band, bit.bor, bit.bxor, bit.bnot
local rshift, lshift, ror, tobit, tohex = bit.rshift, bit.lshift, bit.ror, bit.tobit, bit.tohex

-- The round constants and the initial state are the fractional parts of roots of the first primes, as the standard defines
-- them. Doubles carry 52 bits of fraction, the integer parts take at most 5 of them for square and cube roots below 2^5.
local function fraction(x)
  return tobit(math.floor((x - math.floor(x)) * 4294967296))
end

local ROUND, START = {}, {}
do
  local candidate, found = 2, 0
  while found < 64 do
    local prime = true
    for divisor = 2, candidate - 1 do
      if candidate % divisor == 0 then prime = false break end
    end
    if prime then
      found = found + 1
      ROUND[found] = fraction(candidate ^ (1 / 3))
      if found <= 8 then START[found] = fraction(math.sqrt(candidate)) end
    end
    candidate = candidate + 1
  end
end

local word = {}

local function schedule(text, at)
  for i = 1, 16 do
    local a, b, c, d = text:byte(at + i * 4 - 4, at + i * 4 - 1)
    word[i] = bor(lshift(a, 24), lshift(b, 16), lshift(c, 8), d)
  end
  for i = 17, 64 do
    local early, late = word[i - 15], word[i - 2]
    local s0 = bxor(ror(early, 7), ror(early, 18), rshift(early, 3))
    local s1 = bxor(ror(late, 17), ror(late, 19), rshift(late, 10))
    word[i] = tobit(word[i - 16] + s0 + word[i - 7] + s1)
  end
end

local function compress(state)
  local a, b, c, d, e, f, g, h = unpack(state)
  for i = 1, 64 do
    local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
    local t1 = tobit(h + s1 + bxor(band(e, f), band(bnot(e), g)) + ROUND[i] + word[i])
    local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
    local t2 = tobit(s0 + bxor(band(a, b), band(a, c), band(b, c)))
    h, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + t2)
  end
  local round = { a, b, c, d, e, f, g, h }
  for i = 1, 8 do state[i] = tobit(state[i] + round[i]) end
end

local function sha256(text)
  local bits = #text * 8
  local padding = (55 - #text) % 64
  local length = string.char(band(rshift(bits, 24), 255), band(rshift(bits, 16), 255), band(rshift(bits, 8), 255), band(bits, 255))
  local padded = text .. "\128" .. string.rep("\0", padding + 4) .. length
  local state = { unpack(START) }
  for at = 1, #padded, 64 do
    schedule(padded, at)
    compress(state)
  end
  for i = 1, 8 do state[i] = tohex(state[i]) end
  return table.concat(state)
end
