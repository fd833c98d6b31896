#!/bin/sh
# The root is refused to the anonymous by a server that works (403); one that does not answers otherwise.
wget -q -O /dev/null -S http://127.0.0.1:8333/ 2>&1 | grep -q ' 403'
