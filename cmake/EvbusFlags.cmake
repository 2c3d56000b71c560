# SPDX-License-Identifier: Apache-2.0
# How our own C is compiled. Linking evbus_flags brings it; nothing of it reaches a user of the library.
find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_C_COMPILER_LAUNCHER)
    set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
endif()
mark_as_advanced(CCACHE)

add_library(evbus_flags INTERFACE)
target_compile_options(evbus_flags INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wundef -Wvla -Wwrite-strings -Wpointer-arith -Wformat=2
    $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition>
    $<$<BOOL:${EVBUS_WERROR}>:-Werror>
    -fno-omit-frame-pointer -fno-semantic-interposition)
target_compile_definitions(evbus_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:_GNU_SOURCE>)
target_link_options(evbus_flags INTERFACE -Wl,--as-needed)

if(EVBUS_SANITIZE)
    # Directory-wide: a program must be linked with the sanitizer's run time whatever it is linked with.
    add_compile_options(-fsanitize=${EVBUS_SANITIZE} -fno-sanitize-recover=all)
    add_link_options(-fsanitize=${EVBUS_SANITIZE})
else()
    target_link_options(evbus_flags INTERFACE -Wl,-z,defs)
endif()
