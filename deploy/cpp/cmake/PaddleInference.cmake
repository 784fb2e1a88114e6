# The target paddle_inference: the official package, or else the wheel of `paddlepaddle`.
#
# The wheel's library holds Paddle Inference, but its headers are not shipped. src/paddle_abi.h
# declares what is used of it, as it is in these versions:
set(PADDLE_TRIED_VERSIONS 2.6.2 3.2.2 3.3.1)

add_library(paddle_inference INTERFACE)

if(PADDLE_INFERENCE_DIR)
  find_path(PADDLE_INCLUDE_DIR paddle_inference_api.h REQUIRED
    PATHS "${PADDLE_INFERENCE_DIR}/paddle/include" NO_DEFAULT_PATH)
  find_library(PADDLE_LIBRARY paddle_inference REQUIRED
    PATHS "${PADDLE_INFERENCE_DIR}/paddle/lib" NO_DEFAULT_PATH)
  target_include_directories(paddle_inference SYSTEM INTERFACE "${PADDLE_INCLUDE_DIR}")
  target_compile_definitions(paddle_inference INTERFACE SEGMENT_PADDLE_INFERENCE)
  file(GLOB_RECURSE PADDLE_OTHER_LIBRARIES "${PADDLE_INFERENCE_DIR}/third_party/install/*.so*"
    "${PADDLE_INFERENCE_DIR}/paddle/lib/*.so*")
  set(PADDLE_LIBRARY_DIRS "${PADDLE_INFERENCE_DIR}/paddle/lib")
  foreach(library IN LISTS PADDLE_OTHER_LIBRARIES)
    get_filename_component(folder "${library}" DIRECTORY)
    list(APPEND PADDLE_LIBRARY_DIRS "${folder}")
  endforeach()
  list(REMOVE_DUPLICATES PADDLE_LIBRARY_DIRS)
  file(STRINGS "${PADDLE_INFERENCE_DIR}/version.txt" PADDLE_VERSION_LINES)
  if(PADDLE_VERSION_LINES MATCHES "WITH_GPU: ON")
    target_compile_definitions(paddle_inference INTERFACE SEGMENT_PADDLE_HAS_GPU)
  endif()
  target_link_libraries(paddle_inference INTERFACE "${PADDLE_LIBRARY}")
  message(STATUS "Paddle Inference: the package in ${PADDLE_INFERENCE_DIR}")
else()
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  if(NOT PADDLE_WHEEL_DIR)
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c
        "from importlib.util import find_spec as f; print(f('paddle').submodule_search_locations[0])"
      OUTPUT_VARIABLE PADDLE_WHEEL_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(PADDLE_VERSION_FILE "${PADDLE_WHEEL_DIR}/version/__init__.py")
  if(NOT PADDLE_WHEEL_DIR OR NOT EXISTS "${PADDLE_VERSION_FILE}")
    message(FATAL_ERROR "Paddle was not found. Name the official package "
      "(-DPADDLE_INFERENCE_DIR=...), a Python that has paddlepaddle (-DPython3_EXECUTABLE=...), "
      "or leave it out (-DSEGMENT_PADDLE=OFF).")
  endif()
  file(STRINGS "${PADDLE_VERSION_FILE}" PADDLE_VERSION_LINE REGEX "^full_version")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" PADDLE_VERSION "${PADDLE_VERSION_LINE}")
  if(NOT PADDLE_VERSION IN_LIST PADDLE_TRIED_VERSIONS)
    message(FATAL_ERROR "paddlepaddle ${PADDLE_VERSION} in ${PADDLE_WHEEL_DIR}: the wheel can be "
      "used in versions ${PADDLE_TRIED_VERSIONS}, which were tried. Install one of these, or use "
      "the official package (-DPADDLE_INFERENCE_DIR=...).")
  endif()
  if(PADDLE_VERSION VERSION_LESS 3)
    target_compile_definitions(paddle_inference INTERFACE SEGMENT_PADDLE_2)
  endif()
  file(STRINGS "${PADDLE_VERSION_FILE}" PADDLE_CUDA_LINE REGEX "^cuda_version")
  if(NOT PADDLE_CUDA_LINE MATCHES "False")
    target_compile_definitions(paddle_inference INTERFACE SEGMENT_PADDLE_HAS_GPU)
  endif()
  # libpaddle.so is a Python module too: it needs Python's library, though no interpreter is started
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -c
      "import sysconfig as s; print(s.get_config_var('LIBDIR') + '/' + s.get_config_var('LDLIBRARY'))"
    OUTPUT_VARIABLE PADDLE_PYTHON_LIBRARY OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT PADDLE_PYTHON_LIBRARY MATCHES "\\.so" OR NOT EXISTS "${PADDLE_PYTHON_LIBRARY}")
    find_package(Python3 ${Python3_VERSION} EXACT REQUIRED COMPONENTS Interpreter Development.Embed)
    set(PADDLE_PYTHON_LIBRARY ${Python3_LIBRARIES})
  endif()
  set(PADDLE_LIBRARY_DIRS "${PADDLE_WHEEL_DIR}/base" "${PADDLE_WHEEL_DIR}/libs")
  target_link_libraries(paddle_inference INTERFACE
    "${PADDLE_WHEEL_DIR}/base/libpaddle.so" "${PADDLE_PYTHON_LIBRARY}")
  message(STATUS "Paddle Inference: the wheel of paddlepaddle ${PADDLE_VERSION} in ${PADDLE_WHEEL_DIR}")
endif()

foreach(folder IN LISTS PADDLE_LIBRARY_DIRS)
  target_link_options(paddle_inference INTERFACE "LINKER:-rpath,${folder}")
endforeach()
# what Paddle's library needs itself is found by the rpath when the program starts
target_link_options(paddle_inference INTERFACE "LINKER:--allow-shlib-undefined")
