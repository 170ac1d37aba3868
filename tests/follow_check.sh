#!/bin/sh
# Has a program, and what comes before it to emulate its system, follow a log through growth, both
# ways of rotation, and its absence; what is shown must be all of it.
set -eu
folder=$(mktemp -d)
: >"$folder/shown"
"$@" "$folder/log" >"$folder/shown" &
follower=$!
trap 'kill $follower; rm -rf "$folder"' EXIT

# Until the text is shown; ctest gives up on what never is.
shown() {
  until [ "$(tr -d '\r' <"$folder/shown")" = "$1" ]; do sleep 0.01; done
}

echo one >"$folder/log"
shown "one"
echo two >>"$folder/log"
shown "$(printf 'one\ntwo')"
mv "$folder/log" "$folder/log.1"
echo three >"$folder/log"
shown "$(printf 'one\ntwo\nthree')"
: >"$folder/log"
shown "$(printf 'one\ntwo\nthree')"
echo 4 >>"$folder/log"
shown "$(printf 'one\ntwo\nthree\n4')"
echo five >"$folder/new"
mv "$folder/new" "$folder/log"
shown "$(printf 'one\ntwo\nthree\n4\nfive')"
