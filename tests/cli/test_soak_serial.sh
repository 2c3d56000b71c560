#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A short soak: nothing grows, and what cannot be reached is told.
source "$(dirname "$0")/lib.sh"
[ -z "${EVBUS_SANITIZE:-}" ] || skip "a sanitizer's own memory grows"

expect 2 "$evbus" soak --seconds 3
expect 2 "$evbus" soak --server --url mem://
expect 3 "$evbus" soak --url nats://127.0.0.1:1 --connect-timeout 0.5

expect 0 "$evbus" soak --rate 200 --seconds 24
out_lines 13
out_has '^ +[0-9]+ s warm-up +[0-9]+ handled  p50 .* threads +[0-9]+  memory +[0-9]+ KiB  descriptors +[0-9]+$'
out_has '^mem://: [0-9]+ published, [0-9]+ handled: nothing grew$'

# More than it can take is not called a success.
expect 1 "$evbus" soak --rate 1000000 --seconds 12 --json
json_lines "$work/out"
err_has 'published, 1[0-9]{7} were asked for'
