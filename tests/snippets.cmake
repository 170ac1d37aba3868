# Makes of every C++ block of the page DOC a function in the file OUTPUT, and a list of them.
cmake_minimum_required(VERSION 3.25)

# CMake's lists treat ; and [ ] specially, so the text is cut with string operations alone.
file(READ "${DOC}" rest)
set(line 1)
set(functions "")
set(names "")
while(TRUE)
  string(FIND "${rest}" "```cpp\n" begin)
  if(begin EQUAL -1)
    break()
  endif()
  math(EXPR begin "${begin} + 7")
  string(SUBSTRING "${rest}" 0 ${begin} before)
  string(SUBSTRING "${rest}" ${begin} -1 rest)
  string(FIND "${rest}" "```" end)
  string(SUBSTRING "${rest}" 0 ${end} block)
  string(SUBSTRING "${rest}" ${end} -1 rest)

  string(REGEX REPLACE "[^\n]+" "" lines "${before}")
  string(LENGTH "${lines}" count)
  math(EXPR line "${line} + ${count}")
  # In a block of its own, it may call its variables what the parameters are called.
  string(APPEND functions
    "asio::awaitable<void> at_line_${line}(MAPIO_SNIPPET_PARAMETERS) {\n  {\n"
    "#line ${line} \"${DOC}\"\n${block}  }\n  co_return;\n}\n")
  string(APPEND names "  snippet{${line}, at_line_${line}},\n")
  string(REGEX REPLACE "[^\n]+" "" lines "${block}")
  string(LENGTH "${lines}" count)
  math(EXPR line "${line} + ${count}")
endwhile()

if(names STREQUAL "")
  message(FATAL_ERROR "${DOC} has no ```cpp block")
endif()
file(WRITE "${OUTPUT}" "${functions}constexpr std::array snippets{\n${names}};\n")
