#!/bin/bash
set -e
cp /solution/totals /work/bin/totals
/work/bin/totals
test "$WHO" = "the oracle"
