# SPDX-License-Identifier: Apache-2.0
# The nested build of tests/fuzz (see EvbusTests.cmake): the sources again, instrumented for libFuzzer by clang; without
# it, by the compiler at hand with a main that replays the corpus.
if(EVBUS_FUZZ_ENGINE)
    target_compile_options(evbus_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

file(GLOB fuzz_sources CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
foreach(source IN LISTS fuzz_sources)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
    target_include_directories(${name} PRIVATE tests)
    set_source_files_properties(${source} PROPERTIES
        COMPILE_OPTIONS -Wno-missing-prototypes) # LLVMFuzzerTestOneInput has none
    target_link_libraries(${name} PRIVATE evbus_flags evbus_internal
        $<TARGET_NAME_IF_EXISTS:PkgConfig::EVBUS_JANSSON> m)
    if(EVBUS_FUZZ_ENGINE)
        target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    else()
        target_sources(${name} PRIVATE tests/fuzz/replay_main.c)
    endif()
endforeach()
