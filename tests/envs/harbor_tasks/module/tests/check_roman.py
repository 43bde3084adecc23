import sys

sys.path.insert(0, "/app")
from roman import roman

assert [roman(n) for n in (1, 4, 9, 40, 90, 400, 1994, 3999)] == [
    *("I", "IV", "IX", "XL", "XC", "CD", "MCMXCIV", "MMMCMXCIX"),
]
