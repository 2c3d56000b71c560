# SPDX-License-Identifier: Apache-2.0
# The outbox: a library of its own that uses evbus through its public header, made like evbus itself (EvbusLibrary.cmake):
#   evbus_outbox_shared    libevbus_outbox.so.0, exports what src/outbox/outbox.map lists
#   evbus_outbox_static    libevbus_outbox.a
#   evbus_outbox_internal  for tests, with evbus_internal
if(NOT EVBUS_HAVE_OUTBOX)
    return()
endif()
file(GLOB outbox_sources CONFIGURE_DEPENDS src/outbox/*.c)
if(EVBUS_HAVE_POSTGRES)
    list(FILTER outbox_sources EXCLUDE REGEX "/db_no_postgres.c$")
else()
    list(FILTER outbox_sources EXCLUDE REGEX "/db_postgres.c$")
endif()
set(outbox_databases PkgConfig::EVBUS_SQLITE)
if(EVBUS_HAVE_POSTGRES)
    list(APPEND outbox_databases PkgConfig::EVBUS_LIBPQ)
endif()

add_library(evbus_outbox_objects OBJECT ${outbox_sources})
target_include_directories(evbus_outbox_objects PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(evbus_outbox_objects PRIVATE evbus_flags ${outbox_databases})

add_library(evbus_outbox_internal STATIC $<TARGET_OBJECTS:evbus_outbox_objects>)
target_link_libraries(evbus_outbox_internal INTERFACE evbus_internal ${outbox_databases})

set(outbox_map ${PROJECT_SOURCE_DIR}/src/outbox/outbox.map)
add_library(evbus_outbox_shared SHARED $<TARGET_OBJECTS:evbus_outbox_objects>)
set_target_properties(evbus_outbox_shared PROPERTIES
    OUTPUT_NAME evbus_outbox EXPORT_NAME outbox VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS ${outbox_map}
    INSTALL_RPATH "$ORIGIN")
target_link_options(evbus_outbox_shared PRIVATE -Wl,--version-script=${outbox_map})
target_link_libraries(evbus_outbox_shared PUBLIC evbus_shared PRIVATE evbus_flags Threads::Threads ${outbox_databases})

set(outbox_whole ${PROJECT_BINARY_DIR}/libevbus_outbox-whole.o)
add_custom_command(OUTPUT ${outbox_whole}
    COMMAND ${CMAKE_LINKER} -r -o ${outbox_whole} $<TARGET_OBJECTS:evbus_outbox_objects>
    COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${outbox_whole}
    DEPENDS evbus_outbox_objects $<TARGET_OBJECTS:evbus_outbox_objects>
    COMMAND_EXPAND_LISTS VERBATIM)
add_library(evbus_outbox_static STATIC ${outbox_whole})
set_source_files_properties(${outbox_whole} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
set_target_properties(evbus_outbox_static PROPERTIES
    OUTPUT_NAME evbus_outbox EXPORT_NAME outbox-static LINKER_LANGUAGE C)
target_link_libraries(evbus_outbox_static INTERFACE evbus_static ${outbox_databases})

add_library(evbus::outbox ALIAS evbus_outbox_shared)
add_library(evbus::outbox-static ALIAS evbus_outbox_static)
