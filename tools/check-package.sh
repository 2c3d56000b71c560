#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/check-package.sh BUILD_FOLDER
# Installs into a folder of its own and uses evbus from there as strangers do: C and C++, pkg-config and find_package,
# shared and static, the outbox, and the installed command.
set -euo pipefail
build=$(realpath "$1")
work=$build/package
rm -rf "$work"
mkdir -p "$work/user"
DESTDIR=$work/root cmake --install "$build" --prefix /usr/local >"$work/install.log"
prefix=$work/root/usr/local
pc=$(find "$prefix" -name evbus.pc)
lib=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH=${pc%/*}${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
cd "$work/user"

cat >hello.c <<'C'
#include <evbus/evbus.h>

#include <stdio.h>

int main(void)
{
    evbus *bus = NULL;
    evbus_status st = evbus_open("mem://", NULL, &bus);
    if (st == EVBUS_OK)
        st = evbus_publish(bus, "orders.created", "{}", 2, NULL);
    if (st != EVBUS_OK)
        fprintf(stderr, "hello: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    evbus_close(bus);
    return st == EVBUS_OK ? 0 : 1;
}
C
cp hello.c hello_cpp.cpp

run() { echo "$1: ${*:2}" && "${@:2}"; }
read -ra shared <<<"$(pkg-config --cflags --libs evbus)"
read -ra static <<<"$(pkg-config --static --cflags --libs evbus | sed 's/-levbus/-l:libevbus.a/')"
run "C, shared" cc -std=c17 hello.c "${shared[@]}" -o hello_shared
run "C, static" cc -std=c17 hello.c "${static[@]}" -o hello_static
if command -v c++ >/dev/null; then
    run "C++, shared" c++ -std=c++11 hello_cpp.cpp "${shared[@]}" -o hello_cpp
    LD_LIBRARY_PATH=$lib ./hello_cpp
fi
LD_LIBRARY_PATH=$lib ./hello_shared
./hello_static
objdump -p hello_shared | grep 'NEEDED *libevbus.so.0$' >/dev/null
if objdump -p hello_static | grep 'NEEDED *libevbus'; then
    echo "hello_static needs libevbus.so"
    exit 1
fi

cat >CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(user C)
find_package(evbus 0.1 REQUIRED)
add_executable(user_shared hello.c)
target_link_libraries(user_shared PRIVATE evbus::evbus)
add_executable(user_static hello.c)
target_link_libraries(user_static PRIVATE evbus::evbus-static)
CMAKE
run "find_package" cmake -S . -B out -DCMAKE_PREFIX_PATH="$prefix" >cmake.log
cmake --build out >>cmake.log || { cat cmake.log; exit 1; }
out/user_shared
out/user_static

if [ -f "$prefix/include/evbus/outbox.h" ]; then
    cat >outbox.c <<'C'
#include <evbus/outbox.h>

#include <string.h>

int main(void)
{
    evbus_outbox_db db = {0};
    const evbus_status st = evbus_outbox_connect("sqlite:/no/such/file", &db);
    return st == EVBUS_INVALID && strstr(evbus_outbox_error_detail(), "unable to open") ? 0 : 1;
}
C
    read -ra shared <<<"$(pkg-config --cflags --libs evbus_outbox)"
    run "outbox, shared" cc -std=c17 outbox.c "${shared[@]}" -o outbox_shared
    LD_LIBRARY_PATH=$lib ./outbox_shared
    objdump -p outbox_shared | grep 'NEEDED *libevbus_outbox.so.0$' >/dev/null
    mkdir cmake_outbox
    cp outbox.c cmake_outbox/
    cat >cmake_outbox/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(user C)
find_package(evbus 0.1 REQUIRED COMPONENTS outbox)
add_executable(outbox_shared outbox.c)
target_link_libraries(outbox_shared PRIVATE evbus::outbox)
add_executable(outbox_static outbox.c)
target_link_libraries(outbox_static PRIVATE evbus::outbox-static)
CMAKE
    run "find_package, outbox" cmake -S cmake_outbox -B out_outbox -DCMAKE_PREFIX_PATH="$prefix" >>cmake.log
    cmake --build out_outbox >>cmake.log || { cat cmake.log; exit 1; }
    out_outbox/outbox_shared
    out_outbox/outbox_static
    if objdump -p out_outbox/outbox_static | grep 'NEEDED *libevbus'; then
        echo "outbox_static needs libevbus*.so"
        exit 1
    fi
fi

if [ -x "$prefix/bin/evbus" ]; then
    ldd "$prefix/bin/evbus" | grep -F "=> $prefix/" >/dev/null || {
        echo "the installed command does not find the installed library"
        exit 1
    }
fi
if grep -rnI "$build" "$prefix"; then
    echo "installed files name the build folder"
    exit 1
fi
