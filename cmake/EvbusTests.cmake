# SPDX-License-Identifier: Apache-2.0
# Every check is a ctest test, so that one summary speaks for all of them. Labels are the folders: unit backend sim truth
# stress outbox hotpath model guard fuzz cli example abi, and `static` for the scripts. A file name with "serial" in it runs
# alone; one with "long" in it only by `make check-long`, which also sets EVBUS_LONG=1. Randomized tests take EVBUS_SEED from the
# environment.
if(NOT PKG_CONFIG_FOUND)
    message(FATAL_ERROR "tests need pkg-config")
endif()
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
find_program(NATS_SERVER nats-server PATHS /usr/sbin /usr/local/sbin)
file(GLOB postgres_folders /usr/lib/postgresql/*/bin)
find_program(POSTGRES_CTL pg_ctl PATHS ${postgres_folders})

set(slower 1)
if(EVBUS_SANITIZE)
    set(slower 4)
endif()
if(EVBUS_LONG)
    math(EXPR slower "${slower} * 60")
endif()

set(test_environment
    "EVBUS_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
    "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1"
    "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:history_size=4")
if(NATS_SERVER)
    list(APPEND test_environment "NATS_SERVER=${NATS_SERVER}")
endif()
if(POSTGRES_CTL)
    get_filename_component(postgres_folder ${POSTGRES_CTL} REALPATH)
    get_filename_component(postgres_folder ${postgres_folder} DIRECTORY)
    list(APPEND test_environment "POSTGRES_BIN=${postgres_folder}")
endif()
if(EVBUS_LONG)
    list(APPEND test_environment "EVBUS_LONG=1")
endif()
if(EVBUS_SANITIZE)
    list(APPEND test_environment "EVBUS_SANITIZE=${EVBUS_SANITIZE}")
endif()
foreach(kind lsan tsan)
    string(TOUPPER ${kind} upper)
    if(EXISTS ${PROJECT_SOURCE_DIR}/tests/${kind}.supp)
        list(APPEND ${kind}_options "suppressions=${PROJECT_SOURCE_DIR}/tests/${kind}.supp")
        if(kind STREQUAL "tsan")
            list(TRANSFORM test_environment APPEND ":${tsan_options}" REGEX "^TSAN_OPTIONS=")
        else()
            list(APPEND test_environment "${upper}_OPTIONS=${${kind}_options}:print_suppressions=0")
        endif()
    endif()
endforeach()

# Not under sanitizers: what other tests run there as well, and takes minutes; and what counts calls, which they add to.
set(unsanitized "^(hotpath/.*|backend/test_fault_nats\\..*|cli/test_torture_(server|cluster)|truth/test_truth_(frontier_)?nats_cluster_serial)$")

# evbus_test(<label> <name> <seconds> COMMAND ...): registers one test.
function(evbus_test label name seconds)
    cmake_parse_arguments(PARSE_ARGV 3 arg "" "" "COMMAND;ENVIRONMENT")
    if(EVBUS_SANITIZE AND "${label}/${name}" MATCHES "${unsanitized}")
        return()
    endif()
    math(EXPR seconds "${seconds} * ${slower}")
    set(labels ${label})
    if(name MATCHES "long")
        list(APPEND labels long)
    endif()
    add_test(NAME ${label}/${name} COMMAND ${arg_COMMAND} WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
    set_tests_properties(${label}/${name} PROPERTIES
        LABELS "${labels}" TIMEOUT ${seconds} ENVIRONMENT "${test_environment};${arg_ENVIRONMENT}")
    if(NOT label STREQUAL "fuzz")
        set_tests_properties(${label}/${name} PROPERTIES SKIP_RETURN_CODE 77)
    endif()
    if(name MATCHES "serial")
        set_tests_properties(${label}/${name} PROPERTIES RUN_SERIAL TRUE)
    endif()
endfunction()

# ---- Programs in C: tests/<label>/test_*.c, each with the folder's other files and tests/support --------------------

file(GLOB support_sources CONFIGURE_DEPENDS tests/support/*.c)
add_library(evbus_testing INTERFACE)
target_include_directories(evbus_testing INTERFACE tests)
target_link_libraries(evbus_testing INTERFACE evbus_flags PkgConfig::CMOCKA
    $<TARGET_NAME_IF_EXISTS:PkgConfig::EVBUS_JANSSON> m)
set(testing_library evbus_internal)
if(support_sources)
    add_library(evbus_support STATIC ${support_sources})
    target_link_libraries(evbus_support PUBLIC evbus_testing evbus_internal)
    foreach(function _assert_true _assert_int_equal _assert_int_not_equal _assert_in_range _assert_string_equal _fail)
        target_link_options(evbus_support PUBLIC "LINKER:--wrap=${function}") # tests/support/loop_assert.h
    endforeach()
    set(testing_library evbus_support)
endif()

function(evbus_test_program label source)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${label}_${name} ${source} ${ARGN})
    set_target_properties(${label}_${name} PROPERTIES
        OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/${label})
endfunction()

# The conformance suite is one program a backend; its themes (tests/support/backend_suite.c) are tests of their own.
file(GLOB suite_themes CONFIGURE_DEPENDS tests/support/backend_suite_*.c)
list(TRANSFORM suite_themes REPLACE "^.*/backend_suite_(.*)\\.c$" "\\1")
list(REMOVE_ITEM suite_themes help)
# Two more passes over a server take minutes: `make check` runs the themes in which they differ, check-long all of them.
set(test_fault_nats_themes plain envelope verdict group receipt frontier health)
set(test_nats_frontier_themes envelope frontier verdict letter life limit member unsubscribe window)

function(evbus_test_programs label seconds)
    file(GLOB sources CONFIGURE_DEPENDS tests/${label}/test_*.c)
    file(GLOB helpers CONFIGURE_DEPENDS tests/${label}/*.c)
    list(FILTER helpers EXCLUDE REGEX "/test_[^/]*$")
    foreach(source IN LISTS sources)
        get_filename_component(name ${source} NAME_WE)
        if(name MATCHES "nats|kafka" AND NOT EVBUS_HAVE_NATS)
            message(STATUS "tests/${label}/${name}.c: left out (no libnats)")
            continue()
        endif()
        if(name MATCHES "postgres" AND NOT EVBUS_HAVE_POSTGRES)
            message(STATUS "tests/${label}/${name}.c: left out (no libpq)")
            continue()
        endif()
        evbus_test_program(${label} ${source} ${helpers})
        target_link_libraries(${label}_${name} PRIVATE ${ARGN} ${testing_library} evbus_testing)
        file(STRINGS ${source} whole_suite REGEX "backend_suite_run\\(")
        if(NOT whole_suite)
            evbus_test(${label} ${name} ${seconds} COMMAND ${label}_${name})
            continue()
        endif()
        set(themes ${suite_themes})
        if(name MATCHES "_frontier$") # those that are about consuming envelopes
            list(REMOVE_ITEM themes plain receipt names topic misuse tenant outcome redrive)
        endif()
        foreach(theme IN LISTS themes)
            evbus_test(${label} ${name}.${theme} ${seconds} COMMAND ${label}_${name} "test_${theme}_*")
            if(TEST ${label}/${name}.${theme} AND DEFINED ${name}_themes AND NOT theme IN_LIST ${name}_themes)
                set_property(TEST ${label}/${name}.${theme} PROPERTY LABELS ${label} long)
            endif()
        endforeach()
    endforeach()
endfunction()

evbus_test_programs(unit 60)
evbus_test_programs(backend 240)
evbus_test_programs(sim 120)
evbus_test_programs(stress 180)
evbus_test_programs(truth 240)
if(EVBUS_HAVE_OUTBOX)
    target_compile_definitions(evbus_outbox_internal INTERFACE EVBUS_TEST_POSTGRES=$<BOOL:${EVBUS_HAVE_POSTGRES}>)
    evbus_test_programs(outbox 120 evbus_outbox_internal)
endif()

# tests/hotpath: counts what our objects call while messages flow, by --wrap (bench/count.h).
evbus_test_programs(hotpath 120)
foreach(name test_hot_path_serial_mem test_hot_path_serial_nats)
    if(TARGET hotpath_${name})
        target_sources(hotpath_${name} PRIVATE bench/count.c)
        target_include_directories(hotpath_${name} PRIVATE bench)
        target_link_options(hotpath_${name} PRIVATE ${EVBUS_COUNTING})
    endif()
endforeach()

# tests/model: everything but nats:// compiled once more, each atomic operation a scheduling point; memory and mutexes
# are the search's own. Not under ThreadSanitizer: the search runs its threads as coroutines.
file(GLOB model_tests CONFIGURE_DEPENDS tests/model/test_*.c)
if(model_tests AND NOT EVBUS_SANITIZE MATCHES "thread")
    file(GLOB model_sources CONFIGURE_DEPENDS
        tests/model/*.c src/base/*.c src/conc/*.c src/core/*.c src/backend/mem*.c src/backend/fault*.c)
    list(FILTER model_sources EXCLUDE REGEX "/tests/model/test_[^/]*$")
    add_library(evbus_model STATIC ${model_sources})
    target_compile_definitions(evbus_model PUBLIC EV_MODEL=1)
    target_compile_options(evbus_model PUBLIC -O2) # millions of interleavings
    target_include_directories(evbus_model PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(evbus_model PUBLIC evbus_testing Threads::Threads)
    foreach(function malloc calloc realloc aligned_alloc free pthread_mutex_lock pthread_mutex_unlock)
        target_link_options(evbus_model PUBLIC "LINKER:--wrap=${function}")
    endforeach()
    foreach(source IN LISTS model_tests)
        get_filename_component(name ${source} NAME_WE)
        evbus_test_program(model ${source})
        target_link_libraries(model_${name} PRIVATE evbus_model)
        evbus_test(model ${name} 240 COMMAND model_${name})
    endforeach()
endif()

# tests/guard: instructions of the hot paths, counted by callgrind. Compiled once more, as it is released.
find_path(VALGRIND_HEADERS valgrind/callgrind.h)
if(VALGRIND_HEADERS AND NOT EVBUS_SANITIZE AND NOT EVBUS_MUTANTS)
    file(GLOB guard_sources CONFIGURE_DEPENDS src/base/*.c src/conc/*.c src/core/*.c src/backend/mem*.c src/backend/fault*.c)
    add_executable(guard_instructions tests/guard/instructions.c ${guard_sources})
    set_target_properties(guard_instructions PROPERTIES
        OUTPUT_NAME instructions RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/guard)
    target_compile_options(guard_instructions PRIVATE -O2)
    target_compile_definitions(guard_instructions PRIVATE NDEBUG=1)
    target_include_directories(guard_instructions PRIVATE
        ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src ${VALGRIND_HEADERS})
    target_link_libraries(guard_instructions PRIVATE evbus_flags Threads::Threads)
    string(REGEX MATCH "^[0-9]+" major ${CMAKE_C_COMPILER_VERSION})
    string(TOLOWER ${CMAKE_C_COMPILER_ID} compiler)
    file(WRITE ${PROJECT_BINARY_DIR}/tests/guard/compiler "${compiler}-${major}\n")
    evbus_test(guard instructions 120 COMMAND ${PROJECT_SOURCE_DIR}/tools/check-instructions.sh ${PROJECT_BINARY_DIR})
else()
    message(STATUS "tests/guard: left out (no valgrind headers, or not the released code)")
endif()

# ---- The public header and its ABI ----------------------------------------------------------------------------------

file(GLOB abi_tests CONFIGURE_DEPENDS tests/abi/test_*.c tests/abi/test_*.cpp)
foreach(source IN LISTS abi_tests)
    get_filename_component(name ${source} NAME_WE)
    if(source MATCHES "cpp$" AND NOT CMAKE_CXX_COMPILER)
        continue()
    endif()
    evbus_test_program(abi ${source})
    target_compile_options(abi_${name} PRIVATE -Wall -Wextra -Wpedantic -Wpadded -Werror)
    target_include_directories(abi_${name} PRIVATE ${PROJECT_SOURCE_DIR}/include)
    target_link_libraries(abi_${name} PRIVATE evbus_shared $<TARGET_NAME_IF_EXISTS:evbus_outbox_shared>)
    evbus_test(abi ${name} 30 COMMAND abi_${name})
endforeach()

# ---- Fuzzers --------------------------------------------------------------------------------------------------------

file(GLOB fuzzers CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
if(EVBUS_FUZZ AND fuzzers)
    find_program(EVBUS_CLANG clang)
    if(EVBUS_CLANG AND NOT DEFINED EVBUS_HAVE_LIBFUZZER)
        set(probe ${PROJECT_BINARY_DIR}/CMakeFiles/libfuzzer.c)
        file(WRITE ${probe} "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return n > 9 && d[0] == 'x'; }")
        execute_process(COMMAND ${EVBUS_CLANG} -fsanitize=fuzzer,address,undefined ${probe} -o ${probe}.out
            RESULT_VARIABLE probed OUTPUT_QUIET ERROR_QUIET)
        if(probed EQUAL 0)
            set(EVBUS_HAVE_LIBFUZZER TRUE CACHE INTERNAL "clang has libFuzzer")
        endif()
    endif()
    set(fuzz_compiler ${CMAKE_C_COMPILER})
    if(EVBUS_HAVE_LIBFUZZER)
        set(fuzz_compiler ${EVBUS_CLANG})
    else()
        message(STATUS "Fuzzing: no clang with libFuzzer, the corpus is only replayed")
    endif()

    list(LENGTH fuzzers fuzzer_count)
    math(EXPR fuzz_seconds "(${EVBUS_FUZZ_SECONDS} + ${fuzzer_count} - 1) / ${fuzzer_count}")
    math(EXPR fuzz_timeout "${fuzz_seconds} * 2 + 60")
    if(NOT EVBUS_HAVE_LIBFUZZER AND NOT EXISTS ${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.c)
        message(STATUS "Fuzzing: left out (no tests/fuzz/replay_main.c)")
    else()
        include(ExternalProject)
        ExternalProject_Add(fuzz
            SOURCE_DIR ${PROJECT_SOURCE_DIR}
            BINARY_DIR ${PROJECT_BINARY_DIR}/fuzz
            PREFIX ${PROJECT_BINARY_DIR}/fuzz-prefix
            CMAKE_ARGS -DCMAKE_C_COMPILER=${fuzz_compiler} -DCMAKE_BUILD_TYPE=Debug
                -DEVBUS_FUZZ_BUILD=ON -DEVBUS_FUZZ_ENGINE=${EVBUS_HAVE_LIBFUZZER} -DEVBUS_SANITIZE=address,undefined
                -DEVBUS_WERROR=${EVBUS_WERROR} -DEVBUS_NATS=${EVBUS_NATS}
            BUILD_ALWAYS TRUE LOG_CONFIGURE TRUE LOG_OUTPUT_ON_FAILURE TRUE INSTALL_COMMAND "" TEST_COMMAND "")
        foreach(source IN LISTS fuzzers)
            get_filename_component(name ${source} NAME_WE)
            evbus_test(fuzz ${name} ${fuzz_timeout}
                COMMAND ${PROJECT_SOURCE_DIR}/tools/run-fuzz.sh ${PROJECT_BINARY_DIR}/fuzz/${name} ${fuzz_seconds})
        endforeach()
    endif()
endif()

# ---- Programs as users run them -------------------------------------------------------------------------------------

set(program_environment "EVBUS_EXAMPLES=${PROJECT_BINARY_DIR}/examples" "EVBUS_BENCHES=${PROJECT_BINARY_DIR}/bench")
if(TARGET evbus_conformance)
    list(APPEND program_environment "EVBUS_CONFORMANCE=$<TARGET_FILE:evbus_conformance>")
endif()
if(TARGET evbus_cli)
    list(APPEND program_environment "EVBUS_BIN=$<TARGET_FILE:evbus_cli>")
    file(GLOB cli_tests CONFIGURE_DEPENDS tests/cli/*.sh)
    list(FILTER cli_tests EXCLUDE REGEX "/(lib|common|support)[^/]*$")
    foreach(script IN LISTS cli_tests)
        get_filename_component(name ${script} NAME_WE)
        evbus_test(cli ${name} 120 COMMAND bash ${script} ENVIRONMENT ${program_environment})
    endforeach()
endif()

# An example that names a server in its source, or needs a database's, is run by tests/cli, which starts one.
foreach(target IN LISTS EVBUS_EXAMPLE_TARGETS)
    get_target_property(source ${target} SOURCES)
    file(STRINGS ${source} server REGEX "\"(nats|tls)://")
    if(NOT server AND NOT target MATCHES "postgres")
        string(REGEX REPLACE "^example_" "" name ${target})
        evbus_test(example ${name} 60 COMMAND ${target})
    endif()
endforeach()

# ---- Scripts --------------------------------------------------------------------------------------------------------

if(NOT EVBUS_SANITIZE)
    foreach(name format layers sizes names spdx clean)
        evbus_test(static ${name} 120 COMMAND ${PROJECT_SOURCE_DIR}/tools/check-${name}.sh)
    endforeach()
    evbus_test(static abi 60 COMMAND ${PROJECT_SOURCE_DIR}/tools/check-abi.sh $<TARGET_FILE:evbus_shared>
        $<TARGET_FILE:evbus_static>)
    if(EVBUS_HAVE_OUTBOX)
        evbus_test(static abi_outbox 60 COMMAND ${PROJECT_SOURCE_DIR}/tools/check-abi.sh --outbox
            $<TARGET_FILE:evbus_outbox_shared> $<TARGET_FILE:evbus_outbox_static>)
    endif()
    evbus_test(static package 120 COMMAND ${PROJECT_SOURCE_DIR}/tools/check-package.sh ${PROJECT_BINARY_DIR})
endif()
