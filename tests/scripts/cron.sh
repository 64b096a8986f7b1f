# As cron runs it: no terminal, no HOME, no locale to speak of, hardly a PATH, and a stdin that is closed.
set -eu
id=$1
peercli=$(command -v peercli)
ready() { until grep -qs Listening "$1"; do sleep 0.1; done; }
cron() {
  echo "+ $*" >> errors
  setsid -w env -i PATH=/usr/bin:/bin LANG=C PEERCLI_SERVER="$PEERCLI_SERVER" PEERCLI_ICE=none \
    XDG_DATA_HOME="$(pwd)/data" "$peercli" "$@" <&- 2>> errors
}
ends_with() { # CODE COMMAND...
  wanted=$1 status=0
  shift
  "$@" || status=$?
  [ "$status" = "$wanted" ] || { cat errors >&2; echo "$* ended with $status, not $wanted" >&2; exit 1; }
}

name='Größe – 🥦.txt'
echo 'what is in it' > "$name"
# This one knows no letters but those of ASCII, unless it helps itself.
setsid env -i PATH=/usr/bin:/bin LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 PEERCLI_SERVER="$PEERCLI_SERVER" \
  PEERCLI_ICE=none "$peercli" listen --id "$id" --save-dir box <&- > said 2> box.log &
listener=$!
ready box.log

for line in --version --help 'listen --help' 'id show' 'config path' 'config check' 'config show pipe' peers doctor \
  'call --list-devices' 'demo --quiet'; do
  ends_with 0 cron $line > /dev/null
done
cron send-file "$id" "$name"
cmp "$name" "box/$name"
cron receive-file --id "$id-taker" --save-dir taken &
taker=$!
until grep -q "Listening as $id-taker" errors; do sleep 0.1; done
cron send-file "$id-taker" "$name"
wait "$taker"
cmp "$name" "taken/$name"
cron connect "$id" --label Größe --metadata '"🥦"'
echo 'Grüße 🥦' | env -i LANG=C PEERCLI_SERVER="$PEERCLI_SERVER" PEERCLI_ICE=none "$peercli" connect "$id"
until grep -q 'Grüße 🥦' said; do sleep 0.1; done
cron pipe "$id" > piped
[ ! -s piped ]

# What cannot be says why, names and all.
ends_with 2 cron send-file "$id" 'nicht da – 🥦'
ends_with 4 cron connect "niemand-🥦"
ends_with 2 cron call "$id" --video screen  # there is none
ends_with 2 cron listen --secret -  # there is nobody to ask
ends_with 2 cron pair  # as what?
port=${PEERCLI_SERVER##*:}
ends_with 2 cron server --port "${port%/}"  # taken
grep -q 'nicht da – 🥦' errors
grep -q 'niemand-🥦' errors
if grep -n Traceback errors box.log; then exit 1; fi
kill "$listener"
ends_with 143 wait "$listener"
echo 'cron has nothing to complain of'
