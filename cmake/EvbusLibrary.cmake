# SPDX-License-Identifier: Apache-2.0
# The sources are compiled once; three libraries are made of the objects:
#   evbus_shared    libevbus.so.0, exports what src/evbus.map lists
#   evbus_static    libevbus.a, one object in which everything not public is local (ev_* would meet libev's names)
#   evbus_internal  for tests and micro benchmarks: all names visible
file(GLOB EVBUS_SOURCES CONFIGURE_DEPENDS
    src/base/*.c src/conc/*.c src/core/*.c src/backend/*.c)
foreach(scheme nats kafka)
    string(TOUPPER ${scheme} upper)
    if(NOT EVBUS_HAVE_${upper})
        list(FILTER EVBUS_SOURCES EXCLUDE REGEX "/src/backend/${scheme}[^/]*$")
    endif()
endforeach()

if(EVBUS_MUTANTS) # `make check-mutants`: mistakes that a test can switch on
    list(APPEND EVBUS_SOURCES tests/mutants/mutant.c)
    add_compile_definitions(EV_MUTANTS=1)
endif()

add_library(evbus_usage INTERFACE) # what both compiling and linking against the internals needs
target_include_directories(evbus_usage INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(evbus_usage INTERFACE Threads::Threads)
if(EVBUS_HAVE_NATS)
    target_compile_definitions(evbus_usage INTERFACE EVBUS_HAVE_NATS=1)
    target_link_libraries(evbus_usage INTERFACE PkgConfig::EVBUS_LIBNATS PkgConfig::EVBUS_JANSSON PkgConfig::EVBUS_LIBCRYPTO)
endif()

add_library(evbus_objects OBJECT ${EVBUS_SOURCES})
target_link_libraries(evbus_objects PRIVATE evbus_flags evbus_usage)

add_library(evbus_internal STATIC $<TARGET_OBJECTS:evbus_objects>)
target_link_libraries(evbus_internal INTERFACE evbus_usage)
if(EVBUS_FUZZ_BUILD)
    return()
endif()

set(map ${PROJECT_SOURCE_DIR}/src/evbus.map)
add_library(evbus_shared SHARED $<TARGET_OBJECTS:evbus_objects>)
set_target_properties(evbus_shared PROPERTIES
    OUTPUT_NAME evbus EXPORT_NAME evbus VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS ${map})
target_link_options(evbus_shared PRIVATE -Wl,--version-script=${map})
target_link_libraries(evbus_shared PRIVATE evbus_flags evbus_usage)
target_include_directories(evbus_shared INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

set(whole ${PROJECT_BINARY_DIR}/libevbus-whole.o)
add_custom_command(OUTPUT ${whole}
    COMMAND ${CMAKE_LINKER} -r -o ${whole} $<TARGET_OBJECTS:evbus_objects>
    COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${whole}
    DEPENDS evbus_objects $<TARGET_OBJECTS:evbus_objects>
    COMMAND_EXPAND_LISTS VERBATIM)
add_library(evbus_static STATIC ${whole})
set_source_files_properties(${whole} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
set_target_properties(evbus_static PROPERTIES OUTPUT_NAME evbus EXPORT_NAME evbus-static LINKER_LANGUAGE C)
target_include_directories(evbus_static INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(evbus_static INTERFACE Threads::Threads)
if(EVBUS_HAVE_NATS)
    target_link_libraries(evbus_static INTERFACE PkgConfig::EVBUS_LIBNATS PkgConfig::EVBUS_JANSSON PkgConfig::EVBUS_LIBCRYPTO)
endif()

add_library(evbus::evbus ALIAS evbus_shared)
add_library(evbus::evbus-static ALIAS evbus_static)
