#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the maps of exported symbols and tests/abi/test_offsets*.c anew from the public headers. Before a release
# nothing is promised; after one, the difference this makes must only add lines, and a new release gets its own node in
# the map.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source tools/header.sh

write_map() { # library, map, version node
    {
        echo '/* SPDX-License-Identifier: Apache-2.0 */'
        echo "/* What $1.so exports, by release: the functions of $HEADER.h and nothing else (tools/check-abi.sh). */"
        printf '%s {\nglobal:\n' "$3"
        header_functions | sed 's/.*/    &;/'
        printf 'local:\n    *;\n};\n'
    } >"$work/map"
    cp "$work/map" "$2"
}

write_offsets() { # file
    {
        echo "#include <evbus/$HEADER.h>"
        echo '#include <stdio.h>'
        echo 'int main(void) {'
        header_fields | while read -r type field; do
            [ "${last:-}" = "$type" ] || echo "printf(\"\\nSIZE($type, %zu);\\n\", sizeof($type));"
            last=$type
            echo "printf(\"AT($type, $field, %zu);\\n\", offsetof($type, $field));"
        done
        echo 'puts("#endif\n");'
        header_constants | while read -r name; do
            echo "printf(\"VALUE($name, %lld);\\n\", (long long)$name);"
        done
        echo 'return 0; }'
    } >"$work/print.c"
    "${CC:-cc}" -std=c17 -Iinclude "$work/print.c" -o "$work/print"
    {
        cat <<'HEAD'
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout of every public struct and the value of every public constant, so that an ABI change cannot happen
 * unnoticed: it does not compile. Structs may grow at their end, within the rules of struct_size; nothing may move.
 * Written by tools/update-abi.sh; tools/check-abi.sh tells when a struct or field is not covered.
 */
HEAD
        echo "#include <evbus/$HEADER.h>"
        cat <<'HEAD'

#define SIZE(type, size)        _Static_assert(sizeof(type) == (size), #type " has another size")
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")
#define VALUE(name, value)      _Static_assert((name) == (value), #name " has another value")

#if defined(__LP64__)
HEAD
        "$work/print"
        cat <<'TAIL'

int main(void)
{
    return 0; /* it compiled */
}
TAIL
    } >"$work/offsets.c"
    cp "$work/offsets.c" "$1"
}

HEADER=evbus
write_map libevbus src/evbus.map EVBUS_0.1
write_offsets tests/abi/test_offsets.c
HEADER=outbox
write_map libevbus_outbox src/outbox/outbox.map EVBUS_OUTBOX_0.1
write_offsets tests/abi/test_offsets_outbox.c
git --no-pager diff --stat -- src/evbus.map src/outbox/outbox.map tests/abi 2>/dev/null || true
