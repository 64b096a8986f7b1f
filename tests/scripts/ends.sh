# What scripts do to end things: timeout, kill, a reader that has seen enough, pipefail; and what they see.
set -eu
id=$1
ready() { until grep -qs Listening "$1"; do sleep 0.1; done; }
ends_with() { # CODE COMMAND...
  wanted=$1 status=0
  shift
  "$@" || status=$?
  [ "$status" = "$wanted" ] || { echo "$* ended with $status, not $wanted" >&2; exit 1; }
}

ends_with 124 timeout 3 peercli listen --quiet
ends_with 143 timeout --preserve-status 3 peercli listen --quiet

# In the background, by number of the job or of the process. An interrupt is heeded there, too.
for signal in TERM:143 INT:130 HUP:129; do
  peercli listen --id "$id" 2> listen.log &
  ready listen.log
  kill -s "${signal%:*}" $!
  ends_with "${signal#*:}" wait $!
  rm listen.log
done
if [ -n "${BASH_VERSION:-}" ]; then
  peercli listen 2> listen.log &
  ready listen.log
  kill %1
  ends_with 143 wait %1
fi

# nohup means what it says.
nohup peercli listen > nohup.out 2>&1 &
ready nohup.out
kill -s HUP $!
kill $!
ends_with 143 wait $!

# A reader that has seen enough, and a shell that looks at both ends of a pipe.
yes | peercli pipe --id "$id-yes" 2> yes.log &
ready yes.log
peercli pipe "$id-yes" < /dev/null 2> errors | head -n 1
peercli --help 2>> errors | head -n 1 > /dev/null
if [ -n "${BASH_VERSION:-}" ]; then
  set -o pipefail
  yes | peercli pipe --id "$id-no" 2> no.log &
  ready no.log
  ends_with 141 eval 'peercli pipe "$id-no" < /dev/null 2>> errors | head -n 1'
  ends_with 4 eval 'peercli pipe nobody-is-here < /dev/null 2> /dev/null | cat'
  set +o pipefail
fi
[ ! -s errors ] || { cat errors; exit 1; }
wait
echo 'all ended as told'
