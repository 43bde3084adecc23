#!/bin/bash
echo 'Hello, world!' > /app/hello.txt
printf %s 'Hello, world!' | wc -m > /app/length.txt
