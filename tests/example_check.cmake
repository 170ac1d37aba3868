# Runs PROGRAM, behind what emulates its system if anything does, with ARGS and the input INPUT in
# FOLDER, which is new unless KEEP, and expects the exit status STATUS and an output that matches
# OUTPUT.
cmake_minimum_required(VERSION 3.25)

if(NOT KEEP)
  file(REMOVE_RECURSE "${FOLDER}")
  file(MAKE_DIRECTORY "${FOLDER}")
endif()
set(input "")
if(INPUT)
  set(input INPUT_FILE "${INPUT}")
endif()
execute_process(COMMAND ${PROGRAM} ${ARGS} ${input}
  WORKING_DIRECTORY "${FOLDER}" RESULT_VARIABLE status OUTPUT_VARIABLE output)
string(REPLACE "\r\n" "\n" output "${output}")
if(NOT status STREQUAL STATUS OR NOT output MATCHES "${OUTPUT}")
  message(FATAL_ERROR "status ${status}, not ${STATUS}, or not what was expected:\n${output}")
endif()
