# Compares the first C++ block of README with PROGRAM: what people copy must be what is tested.
cmake_minimum_required(VERSION 3.25)

# CMake's lists treat ; and [ ] specially, so the text is cut with string operations alone.
file(READ "${README}" text)
file(READ "${PROGRAM}" program)

string(FIND "${text}" "```cpp\n" begin)
if(begin EQUAL -1)
  message(FATAL_ERROR "${README} has no ```cpp block")
endif()
math(EXPR begin "${begin} + 7")
string(SUBSTRING "${text}" ${begin} -1 text)
string(FIND "${text}" "```" end)
string(SUBSTRING "${text}" 0 ${end} shown)

if(NOT shown STREQUAL program)
  message(FATAL_ERROR "the first C++ block of ${README} differs from ${PROGRAM}:\n${shown}")
endif()
