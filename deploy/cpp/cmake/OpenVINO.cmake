# OpenVINO's package: of OpenVINO_DIR, of the system, or of the wheel that Python3_EXECUTABLE has.
find_package(OpenVINO QUIET COMPONENTS Runtime)
if(NOT OpenVINO_FOUND)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -c
      "from importlib.util import find_spec as f; print(f('openvino').submodule_search_locations[0])"
    OUTPUT_VARIABLE OPENVINO_WHEEL_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  find_package(OpenVINO QUIET COMPONENTS Runtime PATHS "${OPENVINO_WHEEL_DIR}/cmake"
    NO_DEFAULT_PATH)
endif()
if(NOT OpenVINO_FOUND)
  message(FATAL_ERROR "OpenVINO was not found. Run `pip install openvino` for the Python of "
    "-DPython3_EXECUTABLE=..., name its folder (-DOpenVINO_DIR=.../openvino/cmake), or leave it "
    "out (-DSEGMENT_OPENVINO=OFF).")
endif()
message(STATUS "OpenVINO: ${OpenVINO_VERSION} in ${OpenVINO_DIR}")
