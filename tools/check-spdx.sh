#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The first line of every source (the second of a script) is its SPDX line.
set -euo pipefail
cd "$(dirname "$0")/.."
find . \( -name build -o -name .git \) -prune -o -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.sh' -o -name '*.map' \
    -o -name '*.cmake' -o -name '*.cmake.in' -o -name CMakeLists.txt -o -name Makefile -o -path './.ci/run' \) -print0 |
    LC_ALL=C sort -z |
    xargs -0 awk '
        FNR == 1 { wanted = /^#!/ ? 2 : 1 }
        FNR == wanted && !/SPDX-License-Identifier: Apache-2.0/ {
            print FILENAME ":" FNR ": no SPDX-License-Identifier: Apache-2.0"
            bad = 1
        }
        END { exit bad }'
