# Two bots, each a process for every peer that listen --exec starts, play with each other: one thinks of a
# number, the other guesses. All that is in between is two talks, each read into the other.
set -eu
id=$1
ready() { until grep -qs Listening "$1"; do sleep 0.1; done; }

cat > thinker.sh <<'THINKER'
while read -r guess; do
  if [ "$guess" -lt 42 ]; then echo higher
  elif [ "$guess" -gt 42 ]; then echo lower
  else echo right; exit
  fi
done
THINKER

cat > guesser.sh <<'GUESSER'
low=1 high=100 answer=
while [ "$answer" != right ]; do
  guess=$(((low + high) / 2))
  echo "$guess"
  read -r answer
  case $answer in higher) low=$((guess + 1)) ;; lower) high=$((guess - 1)) ;; esac
done
GUESSER

peercli listen --id "$id-thinker" --exec 'sh thinker.sh' --allow-anyone 2> thinker.log &
thinker=$!
peercli listen --id "$id-guesser" --exec 'sh guesser.sh' --allow "$id-table" 2> guesser.log &
guesser=$!
ready thinker.log
ready guesser.log

mkfifo answers
peercli connect "$id-guesser" --id "$id-table" --keep-open < answers |
  tee guesses |
  peercli connect "$id-thinker" --keep-open |
  tee heard > answers

kill "$thinker" "$guesser"
wait
tr '\n' ' ' < guesses; echo
tr '\n' ' ' < heard; echo
[ "$(tail -n 1 guesses)" = 42 ]
[ "$(tail -n 1 heard)" = right ]
