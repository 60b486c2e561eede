-- The fence, and kind and raw value of each item that is named.
-- KEYS: 4… their names

local answer = {fence()}
for i = 4, #KEYS do
  answer[#answer + 1], answer[#answer + 2] = read(KEYS[i])
end
return answer
