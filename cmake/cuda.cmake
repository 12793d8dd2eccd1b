# The CUDA backend, found by itself and never needed. Sets SG_HAVE_CUDA; SG_CUDA=ON makes its absence an error.
set(SG_HAVE_CUDA OFF)
set(SG_CUDA_NEEDS 12.5) # sm_90a code and cudaGetDriverEntryPointByVersion

function(sg_cuda_absent why)
  if(SG_CUDA STREQUAL "AUTO")
    message(STATUS "CUDA: ${why}; building for the CPU only")
  else()
    message(FATAL_ERROR "SG_CUDA=${SG_CUDA}: ${why}; install the CUDA toolkit ${SG_CUDA_NEEDS} or later, put nvcc on "
                        "PATH or into CUDACXX, or configure with -DSG_CUDA=OFF")
  endif()
endfunction()

if(SG_CUDA STREQUAL "OFF" OR SG_CUDA STREQUAL "0")
  return()
endif()

if(NOT DEFINED ENV{CUDACXX})
  find_program(SG_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin /opt/cuda/bin)
  mark_as_advanced(SG_NVCC)
  if(SG_NVCC)
    set(ENV{CUDACXX} ${SG_NVCC})
  endif()
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF) # each file names its own below
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  sg_cuda_absent("no nvcc that compiles was found")
  return()
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS SG_CUDA_NEEDS)
  sg_cuda_absent("nvcc is ${CMAKE_CUDA_COMPILER_VERSION}, ${SG_CUDA_NEEDS} is needed")
  return()
endif()

find_path(SG_CUBLAS_INCLUDE cublas_v2.h HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
mark_as_advanced(SG_CUBLAS_INCLUDE)
if(NOT SG_CUBLAS_INCLUDE)
  sg_cuda_absent("nvcc has no cublas_v2.h beside it (libcublas-dev); the library itself is loaded at run time")
  return()
endif()

set(SG_HAVE_CUDA ON)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static) # the binary runs on any machine that has a driver
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}")

# sg_cuda_sources(TARGET FILE...): *_sm90.cu uses instructions that only 9.0a has, and its compile time is long;
# everything else runs from 8.0 up, and as PTX on what comes after 9.0. Eight bits have instructions since 8.9.
function(sg_cuda_sources target)
  target_sources(${target} PRIVATE ${ARGN})
  foreach(file ${ARGN})
    if(file MATCHES "_sm90\\.cu$")
      set(code "-gencode=arch=compute_90a,code=sm_90a")
    else()
      set(code "-gencode=arch=compute_90a,code=sm_90a;-gencode=arch=compute_80,code=[sm_80,compute_80]")
    endif()
    if(file MATCHES "_eight_cuda\\.cu$")
      string(APPEND code ";-gencode=arch=compute_89,code=sm_89")
    endif()
    set_source_files_properties(${file} TARGET_DIRECTORY ${target} PROPERTIES COMPILE_OPTIONS "${code}")
  endforeach()
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
endfunction()
