#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Includes go downwards only: backend -> core -> conc -> base. The core knows no broker, no socket and no clock of the
# system; only core/backend_table.c names a backend. The outbox, a library of its own, sees evbus through its public
# header. The command, the examples and the benchmarks see the public headers only (bench_micro* may see everything,
# bench/bare_codec.c the codec).
set -uo pipefail
cd "$(dirname "$0")/.."
bad=0

offend() { # reads file:line:text
    local line
    while IFS= read -r line; do
        echo "$line    <- $1"
        bad=1
    done
}

# find_in <extended regex> <files...>, comment lines left out
find_in() {
    local regex=$1
    shift
    [ $# -eq 0 ] || grep -nHE "$regex" "$@" | grep -vE '^[^:]+:[0-9]+:[[:space:]]*(/?\*|//)' || true
}

files_of() { find "$@" -name '*.[ch]' 2>/dev/null | LC_ALL=C sort; }

quoted='^[[:space:]]*#[[:space:]]*include[[:space:]]+"'
below() { # layer, layers it may include
    local layer=$1 allowed=$2 files
    mapfile -t files < <(files_of "src/$layer")
    offend "$layer includes only $allowed and <evbus/evbus.h>" < <(
        find_in "$quoted[^\"]*/" "${files[@]}" | grep -vE "\"(evbus|${allowed//, /|})/" | except_table)
}
except_table() { grep -vE '^src/core/backend_table\.c:' || true; }

below base "base"
below conc "conc, base"
below core "core, conc, base"
below backend "backend, core, conc, base"
below outbox "outbox"
mapfile -t all < <(files_of src)
offend "write the layer: \"base/x.h\"; only a backend's own header goes without" < <(
    find_in "$quoted[^/\"]+\"" "${all[@]}" | grep -v '^src/backend/' || true)

mapfile -t lower < <(files_of src/base src/conc src/core)
headers='nats[^>"]*|nats/[^>"]*|librdkafka/[^>"]*|rdkafka[^>"]*|sys/(socket|epoll|un)|netinet/[^>"]*|arpa/[^>"]*|netdb|poll|openssl/[^>"]*'
offend "no broker and no socket below the backends" < <(
    find_in "^[[:space:]]*#[[:space:]]*include[[:space:]]+[<\"]($headers)(\.h)?[>\"]" "${lower[@]}")

mapfile -t core < <(files_of src/core | grep -v '^src/core/backend_table\.c$')
offend "only core/backend_table.c names a backend" < <(
    find_in '\b(nats[A-Z][A-Za-z]*|nats_[A-Z][A-Za-z]*|js_[A-Z][A-Za-z]*|rd_kafka_[a-z_]+|ev_(nats|kafka|fault)_[a-z_]+|ev_(mem_)?(mem|backend_(mem|nats|kafka|fault))_?ops)\b' "${core[@]}")

mapfile -t timed < <(files_of src/conc src/core)
offend "time comes from base/clock.h only" < <(
    find_in '\b(clock_gettime|clock_nanosleep|gettimeofday|timespec_get|nanosleep|usleep|sleep)[[:space:]]*\(|\btime[[:space:]]*\((NULL|0|&)' \
        "${timed[@]}")

mapfile -t outside < <(find cli examples bench \( -name '*.[ch]' -o -name '*.cpp' \) 2>/dev/null |
    grep -vE '^bench/(bench_micro|bare_codec\.c)' | LC_ALL=C sort)
offend "outside the libraries only <evbus/evbus.h> and <evbus/outbox.h>" < <(
    find_in '^[[:space:]]*#[[:space:]]*include[[:space:]]+["<]((\.\./)*(src/)?(base|conc|core|backend|outbox)/|evbus/[^eo]|\.\./)' "${outside[@]}")

mapfile -t users < <(find cli examples \( -name '*.[ch]' -o -name '*.cpp' \) 2>/dev/null | LC_ALL=C sort)
offend "the command and the examples know no broker's library" < <(
    find_in '^[[:space:]]*#[[:space:]]*include[[:space:]]+[<"](nats|librdkafka|jansson)' "${users[@]}")

[ "$bad" = 0 ] || { echo "check-layers: the lines above break the layers"; exit 1; }
