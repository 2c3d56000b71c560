# SPDX-License-Identifier: Apache-2.0
# Sourced by the checks: what a public header declares, one name a line: include/evbus/$HEADER.h, by default evbus.h; of
# another one without what it includes of evbus.h. Needs a C compiler and universal-ctags.
HEADER=${HEADER:-evbus}

header_tags() { # kind, format
    local work
    work=$(mktemp -d)
    "${CC:-cc}" -E -P -Iinclude "include/evbus/$HEADER.h" >"$work/header.c"
    ctags --quiet=yes --options=NONE -x --sort=no --language-force=C --kinds-C="$1" -I '__attribute__+' \
        --_xformat="$2" "$work/header.c"
    rm -r "$work"
}

own() { # the function that lists: its lines that evbus.h does not have as well
    if [ "$HEADER" = evbus ]; then
        "$1"
    else
        "$1" | grep -vxFf <(HEADER=evbus "$1") || true
    fi
}

all_functions() { header_tags p '%N' | grep '^evbus_' | LC_ALL=C sort; }
all_fields() { header_tags m '%s %N' | grep '^evbus_'; }
all_constants() { header_tags e '%N' | grep '^EVBUS_'; }

header_functions() { own all_functions; }
header_fields() { own all_fields; } # type field, in the order of the header
header_constants() { own all_constants; }

header_macros() {
    grep -ohE '^# *define +EVBUS_[A-Z0-9_]+' include/evbus/*.h | awk '{ print $NF }'
}
