# What `cmake --install` and `cpack` put where. The program finds the bundled model from where it stands itself
# (bundled_model() in harness/measure/setup.c), and the files for pkg-config and CMake name no prefix: the tree may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(SG_DATA_DIR ${CMAKE_INSTALL_DATADIR}/sparsegauge)

file(RELATIVE_PATH SG_PC_UP /x/${CMAKE_INSTALL_LIBDIR}/pkgconfig /x)
string(REGEX REPLACE "/$" "" SG_PC_UP "${SG_PC_UP}")
file(RELATIVE_PATH SG_CMAKE_UP /x/${CMAKE_INSTALL_LIBDIR}/cmake/sparsegauge /x)
configure_file(library/sparsegauge.pc.in generated/sparsegauge.pc @ONLY)
configure_file(library/sparsegaugeConfig.cmake.in generated/sparsegaugeConfig.cmake @ONLY)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/generated/sparsegaugeConfigVersion.cmake VERSION ${PROJECT_VERSION}
  COMPATIBILITY SameMinorVersion)

# By the program itself, from its option tables.
foreach(shell bash zsh fish man)
  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/generated/completion.${shell} DEPENDS sparsegauge VERBATIM
    COMMAND sh -c "\"$1\" completion ${shell} > completion.${shell}" sh $<TARGET_FILE:sparsegauge>
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/generated)
  list(APPEND completions ${CMAKE_BINARY_DIR}/generated/completion.${shell})
endforeach()
add_custom_target(completions ALL DEPENDS ${completions})
install(FILES ${CMAKE_BINARY_DIR}/generated/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME sparsegauge)
install(FILES ${CMAKE_BINARY_DIR}/generated/completion.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions RENAME _sparsegauge)
install(FILES ${CMAKE_BINARY_DIR}/generated/completion.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d RENAME sparsegauge.fish)
install(FILES ${CMAKE_BINARY_DIR}/generated/completion.man DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 RENAME sparsegauge.1)

install(TARGETS sparsegauge RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS sparsegauge_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/generated/sparsegauge.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/generated/sparsegaugeConfig.cmake ${CMAKE_BINARY_DIR}/generated/sparsegaugeConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/sparsegauge)
install(DIRECTORY suites/demo/model DESTINATION ${SG_DATA_DIR})
install(DIRECTORY library/examples DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.c")
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)

# A tar.gz and a wheel go to machines that have none of these libraries: component "bundled" copies what the program and the
# library are linked with, except the C library's own, where their run path looks.
set(SG_BUNDLE_DIR ${CMAKE_INSTALL_LIBDIR}/sparsegauge)
file(RELATIVE_PATH SG_LIB_FROM_BIN /x/${CMAKE_INSTALL_BINDIR} /x/${SG_BUNDLE_DIR})
# DT_RPATH, which unlike DT_RUNPATH holds for what those libraries need in their turn.
target_link_options(sparsegauge PRIVATE -Wl,--disable-new-dtags)
target_link_options(sparsegauge_shared PRIVATE -Wl,--disable-new-dtags)
set_target_properties(sparsegauge sparsegauge_shared PROPERTIES BUILD_WITH_INSTALL_RPATH ON) # files may be copied as they are
set_target_properties(sparsegauge PROPERTIES INSTALL_RPATH "$ORIGIN/${SG_LIB_FROM_BIN}")
set_target_properties(sparsegauge_shared PROPERTIES INSTALL_RPATH "$ORIGIN/sparsegauge")
install(CODE "
  file(GET_RUNTIME_DEPENDENCIES LIBRARIES $<TARGET_FILE:sparsegauge_shared> EXECUTABLES $<TARGET_FILE:sparsegauge>
    RESOLVED_DEPENDENCIES_VAR found UNRESOLVED_DEPENDENCIES_VAR missing
    POST_EXCLUDE_REGEXES [[/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|gcc_s|stdc\\+\\+|sparsegauge))\\.so]])
  if(missing)
    message(FATAL_ERROR \"these libraries are not to be found: \${missing}\")
  endif()
  set(to \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${SG_BUNDLE_DIR}\")
  file(MAKE_DIRECTORY \${to})
  foreach(library \${found}) # by the name they are asked for, without links
    get_filename_component(real \${library} REALPATH)
    get_filename_component(name \${library} NAME)
    file(COPY_FILE \${real} \${to}/\${name})
  endforeach()
  " COMPONENT bundled EXCLUDE_FROM_ALL)

# What a wheel holds beside "bundled": no links, which it cannot have.
install(PROGRAMS $<TARGET_FILE:sparsegauge> DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT wheel EXCLUDE_FROM_ALL)
install(FILES $<TARGET_FILE:sparsegauge_shared> DESTINATION ${CMAKE_INSTALL_LIBDIR} RENAME libsparsegauge.so.1 COMPONENT wheel EXCLUDE_FROM_ALL)
install(DIRECTORY suites/demo/model DESTINATION ${SG_DATA_DIR} COMPONENT wheel EXCLUDE_FROM_ALL)
install(FILES library/sparsegauge.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT wheel EXCLUDE_FROM_ALL)

set(CPACK_PACKAGE_NAME sparsegauge)
set(CPACK_PACKAGE_VENDOR "sparsegauge")
set(CPACK_PACKAGE_CONTACT "the authors of sparsegauge")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "what block-sparse attention costs a LLaMA model, and what it buys")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_GENERATOR TGZ)
find_program(SG_DPKG dpkg-shlibdeps)
mark_as_advanced(SG_DPKG)
if(SG_DPKG) # it knows which packages hold what the program is linked with
  list(APPEND CPACK_GENERATOR DEB)
endif()
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS gnuplot-nox)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_LICENSE MIT)
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_SOURCE_DIR}/cmake/package.cmake)
include(CPack)
