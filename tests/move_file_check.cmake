# Has PROGRAM, behind what emulates its system if anything does, move a copy of FILE inside of
# FOLDER, and looks at what is there then.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")
file(COPY_FILE "${FILE}" "${FOLDER}/from")

execute_process(COMMAND ${PROGRAM} "${FOLDER}/from" "${FOLDER}/to" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" -E compare_files "${FILE}" "${FOLDER}/to"
  COMMAND_ERROR_IS_FATAL ANY)
file(GLOB left RELATIVE "${FOLDER}" "${FOLDER}/*" "${FOLDER}/.*")
if(NOT left STREQUAL "to")
  message(FATAL_ERROR "there is not the moved file alone: ${left}")
endif()

# There is nothing to move any more.
execute_process(COMMAND ${PROGRAM} "${FOLDER}/from" "${FOLDER}/to" RESULT_VARIABLE result)
if(result EQUAL 0)
  message(FATAL_ERROR "a file that is not there was moved")
endif()
