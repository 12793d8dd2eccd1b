# Read by cpack for each kind of package: a .deb names the libraries it needs, a tar.gz brings them.
if(CPACK_GENERATOR STREQUAL "TGZ")
  list(GET CPACK_INSTALL_CMAKE_PROJECTS 0 build)
  list(GET CPACK_INSTALL_CMAKE_PROJECTS 1 project)
  set(CPACK_INSTALL_CMAKE_PROJECTS "${build};${project};ALL;/;${build};${project};bundled;/")
  set(CPACK_PACKAGING_INSTALL_PREFIX "")
endif()
