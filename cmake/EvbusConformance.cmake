# SPDX-License-Identifier: Apache-2.0
# evbus-conformance: the conformance suite as an installed program, where cmocka is found. It is linked with the objects
# of the library, not with the library: some cases look inside.
if(PKG_CONFIG_FOUND)
    pkg_check_modules(CMOCKA QUIET IMPORTED_TARGET cmocka)
endif()
if(NOT TARGET PkgConfig::CMOCKA)
    message(STATUS "evbus-conformance: left out (no cmocka)")
    return()
endif()
file(GLOB conformance_sources CONFIGURE_DEPENDS tests/support/backend_suite*.c)
add_executable(evbus_conformance tests/conformance/evbus_conformance.c ${conformance_sources}
    tests/support/census.c tests/support/tally.c tests/support/wait.c)
set_target_properties(evbus_conformance PROPERTIES OUTPUT_NAME evbus-conformance)
target_include_directories(evbus_conformance PRIVATE tests)
target_link_libraries(evbus_conformance PRIVATE evbus_flags evbus_internal PkgConfig::CMOCKA m)
install(TARGETS evbus_conformance)
