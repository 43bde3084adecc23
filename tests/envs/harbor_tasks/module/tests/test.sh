#!/bin/bash
cd /app
python3 /tests/check_roman.py && echo 1 > /logs/verifier/reward.txt || echo 0 > /logs/verifier/reward.txt
