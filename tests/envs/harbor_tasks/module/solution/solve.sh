#!/bin/bash
cat > /app/roman.py <<'END'
PARTS = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")]
PARTS += [(10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]


def roman(n):
    said = ""
    for value, letters in PARTS:
        said += letters * (n // value)
        n %= value
    return said
END
