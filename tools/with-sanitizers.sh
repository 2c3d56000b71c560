#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/with-sanitizers.sh COMMAND...
# Runs it; without address randomization where ThreadSanitizer cannot start otherwise (kernels with
# vm.mmap_rnd_bits > 28).
set -euo pipefail
bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)
if [ "$bits" -gt 28 ] && setarch -R true 2>/dev/null; then
    exec setarch -R "$@"
fi
exec "$@"
