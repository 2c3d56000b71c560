# SPDX-License-Identifier: Apache-2.0
# Headers, libraries, the command, the pkg-config files and the CMake package; all of it may be moved after installing.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/evbus)

install(FILES include/evbus/evbus.h include/evbus/receipts.h include/evbus/stats.h include/evbus/watch.h
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/evbus)
install(TARGETS evbus_shared EXPORT evbusTargets)
install(TARGETS evbus_static EXPORT evbusStaticTargets)
if(EVBUS_HAVE_OUTBOX)
    install(FILES include/evbus/outbox.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/evbus)
    install(TARGETS evbus_outbox_shared EXPORT evbusOutboxTargets)
    install(TARGETS evbus_outbox_static EXPORT evbusOutboxStaticTargets)
endif()
if(TARGET evbus_cli)
    install(TARGETS evbus_cli)
endif()

file(RELATIVE_PATH EVBUS_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" EVBUS_PC_PREFIX "${EVBUS_PC_PREFIX}")
set(EVBUS_PC_REQUIRES "")
if(EVBUS_HAVE_NATS)
    set(EVBUS_PC_REQUIRES "libnats, jansson, libcrypto")
endif()
configure_file(evbus.pc.in evbus.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/evbus.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(EVBUS_HAVE_OUTBOX)
    set(EVBUS_OUTBOX_PC_REQUIRES "sqlite3")
    if(EVBUS_HAVE_POSTGRES)
        set(EVBUS_OUTBOX_PC_REQUIRES "sqlite3, libpq")
    endif()
    configure_file(evbus_outbox.pc.in evbus_outbox.pc @ONLY)
    install(FILES ${PROJECT_BINARY_DIR}/evbus_outbox.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
    install(EXPORT evbusOutboxTargets NAMESPACE evbus:: DESTINATION ${package_dir})
    install(EXPORT evbusOutboxStaticTargets NAMESPACE evbus:: DESTINATION ${package_dir})
endif()

install(EXPORT evbusTargets NAMESPACE evbus:: DESTINATION ${package_dir})
install(EXPORT evbusStaticTargets NAMESPACE evbus:: DESTINATION ${package_dir})
configure_package_config_file(cmake/evbusConfig.cmake.in evbusConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(evbusConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/evbusConfig.cmake ${PROJECT_BINARY_DIR}/evbusConfigVersion.cmake
    DESTINATION ${package_dir})
