-- SHA-256 (FIPS 180-4) of a short text. LuaJIT compiles the rounds; one block costs microseconds.
local ffi = require("ffi")
local bit = require("bit")
local band, bnot, bxor, ror, rshift, tobit = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift, bit.tobit

local ROUND = ffi.new("int32_t[64]")
for index, constant in ipairs({
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}) do ROUND[index - 1] = tobit(constant) end
local START = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 }

local schedule = ffi.new("int32_t[64]")
local state = ffi.new("int32_t[8]")

local function add_block(p, at)
  for t = 0, 15 do
    local i = at + t * 4
    schedule[t] = tobit(p[i] * 16777216 + p[i + 1] * 65536 + p[i + 2] * 256 + p[i + 3])
  end
  for t = 16, 63 do
    local x, y = schedule[t - 15], schedule[t - 2]
    local low = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local high = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    schedule[t] = tobit(schedule[t - 16] + low + schedule[t - 7] + high)
  end
  local a, b, c, d = state[0], state[1], state[2], state[3]
  local e, f, g, h = state[4], state[5], state[6], state[7]
  for t = 0, 63 do
    local sum = h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g))
      + ROUND[t] + schedule[t]
    local mix = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c))
    h, g, f, e = g, f, e, tobit(d + sum)
    d, c, b, a = c, b, a, tobit(sum + mix)
  end
  state[0], state[1] = tobit(state[0] + a), tobit(state[1] + b)
  state[2], state[3] = tobit(state[2] + c), tobit(state[3] + d)
  state[4], state[5] = tobit(state[4] + e), tobit(state[5] + f)
  state[6], state[7] = tobit(state[6] + g), tobit(state[7] + h)
end

-- Returns the digest as lower-case hexadecimal. For texts below 2^29 bytes.
local function sha256(text)
  local bytes = #text
  local padded = text .. "\128" .. string.rep("\0", (55 - bytes) % 64)
    .. string.char(0, 0, 0, 0, band(rshift(bytes, 21), 255), band(rshift(bytes, 13), 255),
      band(rshift(bytes, 5), 255), band(bytes * 8, 255))
  local p = ffi.cast("const uint8_t*", padded)
  for index = 0, 7 do state[index] = tobit(START[index + 1]) end
  for at = 0, #padded - 64, 64 do add_block(p, at) end
  local tohex = bit.tohex
  return tohex(state[0]) .. tohex(state[1]) .. tohex(state[2]) .. tohex(state[3])
    .. tohex(state[4]) .. tohex(state[5]) .. tohex(state[6]) .. tohex(state[7])
end
